"""The rows of one run as Arrow record batches, in types that DuckDB knows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from expkit.batches.decode import Batch, Rows
from expkit.batches.source import BatchSource
from expkit.formats.shard.blocks import Statistics
from expkit.predicates.binding import POLICY_NAME
from expkit.row import arrow
from expkit.system.extras import require

pa = require("pyarrow", "sql", "SQL")

NAMES = pa.dictionary(pa.int32(), pa.string())


class RunRows:
    """The rows of one run, as record batches."""

    def __init__(self, run: BatchSource, rows: Rows):
        self.run, self._rows = run, rows
        self.label = run.label
        self._names = list(dict.fromkeys(policy.name for policy in run.policies))
        self._places = np.array([self._names.index(policy.name) for policy in run.policies], np.int32)
        listed = [_readable(field) for field in arrow.arrow_schema(run.schema, rows=rows, lists=True)]
        listed.insert(0, pa.field(arrow.RUN, NAMES, nullable=False))
        if POLICY_NAME not in run.schema:
            place = [field.name for field in listed].index("policy")
            listed.insert(place + 1, pa.field(POLICY_NAME, NAMES))
        self.schema = pa.schema(listed)

    def stored(self, names: Sequence[str]) -> list[str]:
        """The stored columns that are needed for columns of the table."""
        schema, wanted = self.run.schema, dict[str, None]()
        for name in names:
            if name == POLICY_NAME and name not in schema:
                wanted["policy"] = None
            elif name in schema:
                field = schema[name]
                wanted[name] = None
                if field.ragged:
                    wanted[field.ragged] = None
                if field.nullable:
                    wanted[f"valid:{name}"] = None
                if self._rows == "all" and field.belongs != "observation":
                    wanted["is_last"] = None
            elif name in self.schema.names and name not in (arrow.RUN, "player"):
                wanted[name] = None
        return list(wanted)

    def may_be_null(self, name: str, statistics: Mapping[str, Statistics]) -> bool:
        """Whether a value of a column may be null in a block of those statistics."""
        if name not in self.run.schema:
            return False
        field = self.run.schema[name]
        given = statistics.get(f"valid:{name}")
        last = self._rows == "all" and field.belongs != "observation" and statistics["is_last"].high != 0
        return last or (field.nullable and (given is None or given.low != 1))

    def to_arrow(self, batch: Batch, shape: Any) -> Any:
        """A batch with the columns of `shape`, in its types."""
        rows = len(batch["player"])
        return pa.RecordBatch.from_arrays([self._column(batch, field, rows) for field in shape], schema=shape)

    def _column(self, batch: Batch, field: Any, rows: int) -> Any:
        if field.name == arrow.RUN:
            return pa.DictionaryArray.from_arrays(np.zeros(rows, np.int32), [self.label])
        if field.name not in self.schema.names:
            return pa.nulls(rows, field.type)
        if field.name == POLICY_NAME and field.name not in self.run.schema:
            return self.policy_names(batch["policy"])
        if batch[field.name].dtype == np.float16:
            batch = {**batch, field.name: batch[field.name].astype(np.float32)}
        own = pa.schema([self.schema.field(field.name)])
        (made,) = arrow.record_batch(batch, own).columns
        return made if made.type == field.type else made.cast(field.type)

    def policy_names(self, policies: np.ndarray) -> Any:
        places = np.minimum(policies, max(len(self._places) - 1, 0))
        unknown = policies >= len(self._places)  # of a recorder that goes on
        codes = self._places[places] if len(self._places) else np.zeros(len(policies), np.int32)
        return pa.DictionaryArray.from_arrays(pa.array(codes, mask=unknown), pa.array(self._names, pa.string()))


def _readable(field: Any) -> Any:
    """A column in a type that DuckDB knows: it has no halves."""
    return field.with_type(_map_leaves(field.type, lambda kind: pa.float32() if kind == pa.float16() else kind))


def _map_leaves(kind: Any, change: Callable[[Any], Any]) -> Any:
    if pa.types.is_fixed_size_list(kind):
        return pa.list_(kind.value_field.with_type(_map_leaves(kind.value_type, change)), kind.list_size)
    if pa.types.is_list(kind):
        return pa.list_(kind.value_field.with_type(_map_leaves(kind.value_type, change)))
    return change(kind)
