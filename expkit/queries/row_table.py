"""The rows of runs as a table that DuckDB reads: only the columns and the blocks that a statement needs.

DuckDB asks a dataset of pyarrow for `scanner(columns, filter)`; a `RowTable` is such a dataset, whose scans decode
nothing else. A filter that it is given holds for all rows it returns, so DuckDB does not look at it again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from expkit.batches import decode as batches
from expkit.batches.decode import BatchDecoder, Rows
from expkit.batches.selection import Selection
from expkit.batches.source import BatchSource
from expkit.errors import SchemaError
from expkit.queries.filters import PushedFilter, columns_in
from expkit.queries.run_rows import RunRows
from expkit.system.extras import require

if TYPE_CHECKING:
    from pyarrow.dataset import Dataset

pa = require("pyarrow", "sql", "SQL")
if not TYPE_CHECKING:
    Dataset = require("pyarrow.dataset", "sql", "SQL").Dataset


BATCH_BYTES = 8 << 20
MOST_ROWS, FEWEST_ROWS = 1 << 16, 256


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

    def __init__(self, runs: Sequence[BatchSource], rows: Rows, threads: int):
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
