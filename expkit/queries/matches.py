"""The rows of runs for which a condition holds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from expkit.batches import decode as batches
from expkit.batches.decode import Batch, BatchDecoder
from expkit.batches.source import BatchSource
from expkit.errors import SchemaError
from expkit.predicates import Predicate, parse
from expkit.queries.answer import Answer, Column
from expkit.row.schema import KEY_NAMES
from expkit.system.parallel import cores

OPTION = "QUERY"
EVERYTHING = "all"
_KEYS = ("episode", "player", "step")
_KEY_TYPES = {
    "run": "string", "episode": "uint64", "player": "uint16", "step": "uint32", "policy": "uint16",
    "policy_name": "string", "policy_version": "uint32", "time_ns": "int64", "is_first": "bool", "is_last": "bool",
}  # fmt: skip
_ARROW_NAMES = {"f2": "float", "f4": "float", "f8": "double", "bool": "bool"}
_BATCH_ROWS = 1 << 14


class Matches(Answer):
    """Rows of `runs`, last rows too, in the order of the files: `run` where there are several, episode, player, step,
    and `columns`, fields or groups of fields or `all`; when left out, policy_name and every field that is one value.

    Raises UsageError for what is no condition on the rows of every run, SchemaError for a column that none has.
    """

    def __init__(
        self,
        runs: Sequence[BatchSource],
        condition: str,
        *,
        columns: Sequence[str] | None = None,
        threads: int | None = None,
    ):
        self._runs = list(runs)
        self._threads = cores() if threads is None else threads
        self._where: Predicate = parse(condition, OPTION)
        self._selections = [run.selection(self._where) for run in self._runs]
        self._names = self._chosen(columns)
        self.columns = [Column(name, self._type(name)) for name in self._names]

    def _chosen(self, columns: Sequence[str] | None) -> list[str]:
        found: dict[str, None] = dict.fromkeys((*(("run",) if len(self._runs) > 1 else ()), *_KEYS))
        if columns is None:
            found["policy_name"] = None
            for run in self._runs:
                found |= dict.fromkeys(field.name for field in run.schema.fields if not field.logical_shape)
            return list(found)
        for name in columns:
            if name in ("run", "policy_name"):
                found[name] = None
                continue
            known = False
            for run in self._runs:
                schema = run.schema
                try:
                    wanted = [f.name for f in schema.fields] if name == EVERYTHING else schema.expand_names([name])
                except SchemaError as error:
                    problem = error
                    continue
                found |= dict.fromkeys(wanted)
                known = True
            if not known:
                raise problem
        return list(found)

    def _type(self, name: str) -> str:
        if name in _KEY_TYPES and not any(name in run.schema for run in self._runs):
            return _KEY_TYPES[name]
        field = next(run.schema[name] for run in self._runs if name in run.schema)
        kind = _ARROW_NAMES.get(field.dtype, field.numpy_dtype.name)
        fixed = field.logical_shape[1:] if field.ragged else field.logical_shape
        for side in reversed(fixed):
            kind = f"fixed_size_list<item: {kind} not null>[{side}]"
        return f"list<item: {kind} not null>" if field.ragged else kind

    def count(self) -> int:
        """How many rows there are. Reads only what the condition looks at. Raises ShardError."""
        total = 0
        for run, selection in zip(self._runs, self._selections, strict=True):
            nothing = BatchDecoder(run.schema, [])
            found = batches.scan(run, nothing, _BATCH_ROWS, "all", False, self._threads, selection)
            total += sum(len(batch["player"]) for batch in found)
        return total

    def values(self, most: int | None = None) -> Iterator[list[list[Any]]]:
        size = _BATCH_ROWS if most is None else max(1, min(most, _BATCH_ROWS))
        for run, selection in zip(self._runs, self._selections, strict=True):
            decoder = BatchDecoder(run.schema, self._stored(run))
            for batch in batches.scan(run, decoder, size, "all", False, self._threads, selection):
                yield [self._values(run, batch, name) for name in self._names]

    def _stored(self, run: BatchSource) -> list[str]:
        wanted = {"is_last"}
        for name in self._names:
            if name in run.schema or name in KEY_NAMES:
                wanted |= {name, f"valid:{name}"}
                if name in run.schema and run.schema[name].ragged:
                    wanted.add(run.schema[name].ragged)
            elif name == "policy_name":
                wanted.add("policy")
        return [column.name for column in run.schema.columns if column.name in wanted]

    def _values(self, run: BatchSource, batch: Batch, name: str) -> list[Any]:
        """Of one column, None for null."""
        rows = len(batch["player"])
        if name in run.schema:
            field, listed = run.schema[name], batch[name].tolist()
            if field.ragged:
                listed = [row[:count] for row, count in zip(listed, batch[field.ragged].tolist(), strict=True)]
            valid = batch.get(f"valid:{name}", np.ones(rows, bool))
            if field.belongs != "observation":
                valid = valid & ~batch["is_last"]
            if valid.all():
                return listed
            return [value if there else None for value, there in zip(listed, valid.tolist(), strict=True)]
        if name == "run":
            return [run.label] * rows
        if name == "policy_name":
            names = dict(enumerate(policy.name for policy in run.policies))
            return [names.get(policy) for policy in batch["policy"].tolist()]
        return batch[name].tolist() if name in batch else [None] * rows

    def close(self) -> None:
        """Nothing is computed but while values are taken."""

    def record_batches(self) -> tuple[Any, Iterator[Any]]:
        from expkit.queries.row_table import RowTable

        table = RowTable(self._runs, "all", self._threads)
        return table.selected(self._names, self._selections)
