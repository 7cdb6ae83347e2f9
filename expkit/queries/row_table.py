"""The rows of runs as a table that DuckDB reads: only the columns and the blocks that a statement needs.

DuckDB asks a dataset of pyarrow for `scanner(columns, filter)`; a `RowTable` is such a dataset, whose scans decode
nothing else. A filter that it is given holds for all rows it returns, so DuckDB does not look at it again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from expkit.batches import decode as batches
from expkit.batches.decode import Batch, BatchDecoder, Rows
from expkit.batches.selection import Selection
from expkit.errors import SchemaError
from expkit.formats.shard.blocks import Statistics
from expkit.queries.filters import PushedFilter, columns_in
from expkit.reading.run import Run
from expkit.row import arrow
from expkit.system.extras import require

if TYPE_CHECKING:
    from pyarrow.dataset import Dataset

pa = require("pyarrow", "sql", "SQL")
if not TYPE_CHECKING:
    Dataset = require("pyarrow.dataset", "sql", "SQL").Dataset

POLICY_NAME = "policy_name"
BATCH_BYTES = 8 << 20
MOST_ROWS, FEWEST_ROWS = 1 << 16, 256
NAMES = pa.dictionary(pa.int32(), pa.string())


class Scan(NamedTuple):
    """What DuckDB wants of a scanner."""

    schema: Any
    batches: Iterator[Any]

    def to_reader(self) -> Any:
        return pa.RecordBatchReader.from_batches(self.schema, self.batches)


class Table(Dataset):
    """A table of runs. Not made by pyarrow, which wants files.

    failure  what a scan raised: on the way through DuckDB it becomes a text
    """

    def __init__(self, schema: Any):
        self._schema = schema
        self.failure: BaseException | None = None

    @property
    def schema(self) -> Any:
        return self._schema

    def scanner(self, columns: Sequence[str] | None = None, filter: Any = None, **_: Any) -> Scan:
        """The rows for which the expression `filter` is true, of them `columns`."""
        names = self._schema.names if columns is None else list(columns)
        shape = pa.schema([self._schema.field(name) for name in names])
        return Scan(shape, self._noting(self.rows(shape, filter)))

    def rows(self, shape: Any, filter: Any) -> Iterator[Any]:
        """Record batches of the schema `shape`."""
        raise NotImplementedError

    def _noting(self, batches: Iterator[Any]) -> Iterator[Any]:
        try:
            yield from batches
        except Exception as error:
            self.failure = error
            raise


class RowTable(Table):
    """Rows of runs: `run`, the keys with `policy_name` behind `policy`, the fields of all of them by name.

    A field that a run lacks is null there; one that has another size in another run is a list of varying length.
    Raises SchemaError for a field of which runs hold different things.
    """

    def __init__(self, runs: Sequence[Run], rows: Rows, threads: int):
        self._parts = [RunRows(run, rows) for run in runs]
        self._rows: Rows = rows
        self._threads = threads
        super().__init__(_united([part.schema for part in self._parts], [part.label for part in self._parts]))

    def rows(self, shape: Any, filter: Any) -> Iterator[Any]:
        asked = [] if filter is None else columns_in(filter, self._schema.names)
        pushed = [None if filter is None else PushedFilter(filter, part, asked, self._schema) for part in self._parts]
        return self._read(shape, pushed)

    def selected(self, names: Sequence[str], selections: Sequence[Selection]) -> Scan:
        """Columns of the rows of a selection of each run."""
        shape = pa.schema([self._schema.field(name) for name in names])
        return Scan(shape, self._read(shape, selections))

    def _read(self, shape: Any, selections: Sequence[Selection | None]) -> Iterator[Any]:
        for part, selection in zip(self._parts, selections, strict=True):
            decoder = BatchDecoder(part.run.schema, part.stored(shape.names))
            size = min(max(BATCH_BYTES // max(decoder.row_bytes, 1), FEWEST_ROWS), MOST_ROWS)
            for batch in batches.scan(part.run, decoder, size, self._rows, False, self._threads, selection):
                yield part.to_arrow(batch, shape)


class RunRows:
    """The rows of one run, as record batches."""

    def __init__(self, run: Run, rows: Rows):
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


def _united(schemas: Sequence[Any], labels: Sequence[str]) -> Any:
    """The schema of the rows of all. Raises SchemaError."""
    out: dict[str, Any] = {}
    origin: dict[str, str] = {}
    for schema, label in zip(schemas, labels, strict=True):
        for field in schema:
            known = out.get(field.name)
            if known is None:
                out[field.name], origin[field.name] = field, label
                continue
            kind = _common(known.type, field.type)
            if kind is None:
                raise SchemaError(
                    f"{field.name} is {known.type} in {origin[field.name]} and {field.type} in {label}; query them one "
                    f"by one"
                )
            out[field.name] = known.with_type(kind).with_nullable(known.nullable or field.nullable)
    everywhere = [all(name in schema.names for schema in schemas) for name in out]
    return pa.schema(
        [field if there else field.with_nullable(True) for field, there in zip(out.values(), everywhere, strict=True)]
    )


def _common(one: Any, other: Any) -> Any:
    """The type that holds the values of both; None for an array and a number, or for arrays of other depth."""
    if one == other:
        return one
    lists = [pa.types.is_list(kind) or pa.types.is_fixed_size_list(kind) for kind in (one, other)]
    if all(lists):
        inner = _common(one.value_type, other.value_type)
        return None if inner is None else pa.list_(inner)
    if any(lists):
        return None
    kinds = [np.dtype(kind.to_pandas_dtype()) for kind in (one, other)]
    return pa.from_numpy_dtype(np.result_type(*kinds)) if all(kind.kind in "iuf" for kind in kinds) else None
