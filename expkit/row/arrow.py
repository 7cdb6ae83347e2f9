"""Rows as Apache Arrow sees them, and back: what queries, exports and imports stand on.

A column of an Arrow schema made here is

    keys      as the row has them: episode u64, player u16, step u32, policy u16, policy_version u32, time_ns i64,
              is_first, is_last; of several runs `run` before them, as text
    scalars   the number or bool of the same width
    arrays    fixed-size lists, one inside the other by the sides of the shape: a board of 20 x 20 is
              fixed_size_list<fixed_size_list<int32>[20]>[20], which DuckDB, pandas and Parquet take as it is and DuckDB
              indexes `board[1][1]`
    ragged    fields as the whole arrays that are stored, or under `lists=True` as lists of the entries that count
    null      where a writer gave nothing, and on last rows in what does not belong to the observation

and says in its metadata, under `expkit:NAME`, what the schema of a run says of a field: dtype, shape, unit, meaning and
the like. From these `schema_from_arrow` makes the same fields again.

Numbers of arrays are not copied, in either direction; bools are packed into bits and unpacked.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, BinaryIO, Literal

import msgspec
import numpy as np

from expkit.errors import SchemaError
from expkit.row.schema import KEYS, Field, Schema
from expkit.system.extras import require

if TYPE_CHECKING:
    import pyarrow as pa

Rows = Literal["transitions", "all"]

_PREFIX = "expkit:"
_KEY_DTYPES = {"player": np.dtype("<u2"), **{key.name: key.dtype for key in KEYS}}
# As people read them; a shard has no column `player`, since a block belongs to one.
KEY_ORDER = ("episode", "player", "step", "policy", "policy_version", "time_ns", "is_first", "is_last")
RUN = "run"


def pyarrow() -> Any:
    """The library. Raises MissingExtra."""
    return require("pyarrow", "arrow", "Arrow data")


def arrow_schema(
    schema: Schema,
    columns: Sequence[str] | None = None,
    *,
    rows: Rows = "all",
    run: bool = False,
    lists: bool = False,
) -> pa.Schema:
    """The Arrow schema of rows of `schema`: the keys, then its fields.

    columns   names of keys and fields, or of groups of fields, in the order given; all when left out
    rows      under `all` what does not belong to the observation may be null, as it is on last rows
    run       begin with a column `run`, text
    lists     ragged fields are lists of the entries that count; batches have to hold the fields that count them

    Raises SchemaError for a name that is nothing, MissingExtra.
    """
    pa = pyarrow()
    names = [*KEY_ORDER, *(field.name for field in schema.fields)] if columns is None else schema.expand_names(columns)
    listed = [pa.field(RUN, pa.string(), nullable=False)] if run else []
    listed += [_arrow_field(schema, name, rows, lists) for name in names]
    return pa.schema(listed)


def _arrow_field(schema: Schema, name: str, rows: Rows, lists: bool) -> pa.Field:
    pa = pyarrow()
    if name in _KEY_DTYPES:
        return pa.field(name, _leaf_type(_KEY_DTYPES[name]), nullable=False)
    field = schema[name]
    nullable = field.nullable or (rows == "all" and field.belongs != "observation")
    return pa.field(name, arrow_type(field, lists), nullable=nullable, metadata=_metadata(field))


def arrow_type(field: Field, lists: bool = False) -> pa.DataType:
    """The Arrow type of a field's values; under `lists`, of those that count in a ragged one. Raises MissingExtra."""
    kind = _leaf_type(field.numpy_dtype)
    fixed = field.logical_shape[1:] if lists and field.ragged else field.logical_shape
    for side in reversed(fixed):
        kind = _list_type(kind, side)
    return kind if fixed == field.logical_shape else pyarrow().list_(pyarrow().field("item", kind, nullable=False))


@cache
def _leaf_type(dtype: np.dtype[Any]) -> pa.DataType:
    return pyarrow().from_numpy_dtype(dtype)


def _list_type(kind: pa.DataType, side: int) -> pa.DataType:
    pa = pyarrow()
    return pa.list_(pa.field("item", kind, nullable=False), side)


def _metadata(field: Field) -> dict[str, str]:
    """What the schema says of a field: texts as they are, everything else as JSON."""
    told = msgspec.to_builtins(field) | {"dtype": field.dtype, "belongs": field.belongs}
    return {
        _PREFIX + key: value if isinstance(value, str) else msgspec.json.encode(value).decode()
        for key, value in told.items()
        if key != "name"
    }


def record_batch(batch: Mapping[str, np.ndarray], schema: pa.Schema) -> pa.RecordBatch:
    """A batch of a run, as `Run.scan` gives it, with the columns of `schema` (see `arrow_schema`).

    A nullable field is null where `valid:NAME` of the batch is false. Under `rows="all"` the batch has to hold
    `is_last`, also where `schema` does not. Raises SchemaError for a column that the batch does not have.
    """
    pa = pyarrow()
    is_last = batch.get("is_last")
    lasts = is_last is not None and bool(is_last.any())
    arrays = []
    for field in schema:
        values = batch.get(field.name)
        if values is None:
            raise SchemaError(f"the batch has no column {field.name!r}; it has {', '.join(batch)}")
        valid = batch.get(f"valid:{field.name}")
        if lasts and field.nullable and not _observed(field):
            assert is_last is not None
            valid = ~is_last if valid is None else valid & ~is_last
        if pa.types.is_list(field.type):
            arrays.append(_lists(values, _counts(field, batch), field.type, valid))
        else:
            arrays.append(_array(values, field.type, valid))
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def _observed(field: pa.Field) -> bool:
    """Whether the column has values on last rows."""
    told = (field.metadata or {}).get((_PREFIX + "belongs").encode())
    return told is None or told == b"observation"


def _array(values: np.ndarray, kind: pa.DataType, valid: np.ndarray | None) -> pa.Array:
    """(rows, …) as an array of `kind`; null where `valid` is false."""
    pa = pyarrow()
    if values.dtype.kind in "OUT":
        return pa.array(values, kind)
    types = [kind]
    while pa.types.is_fixed_size_list(types[-1]):
        types.append(types[-1].value_type)
    flat = np.ascontiguousarray(values).reshape(-1)
    data = np.packbits(flat, bitorder="little") if flat.dtype == bool else flat
    out, size = None, len(flat)
    for depth, nested in enumerate(reversed(types)):
        validity = None if valid is None or depth < len(types) - 1 or valid.all() else _bits(valid)
        if out is None:
            out = pa.Array.from_buffers(nested, size, [validity, pa.py_buffer(data)])
        else:
            size //= nested.list_size
            out = pa.Array.from_buffers(nested, size, [validity], children=[out])
    return out


def _counts(field: pa.Field, batch: Mapping[str, np.ndarray]) -> np.ndarray:
    """How many entries of a ragged field count."""
    name = (field.metadata or {}).get((_PREFIX + "ragged").encode(), b"").decode()
    if name not in batch:
        raise SchemaError(f"{field.name}: lists need {name or 'a field'} beside them, which counts their entries")
    return np.clip(batch[name].astype(np.int64), 0, batch[field.name].shape[1])


def _lists(values: np.ndarray, counts: np.ndarray, kind: pa.DataType, valid: np.ndarray | None) -> pa.Array:
    """(rows, capacity, …) as lists of the first `counts` (rows,) of each."""
    pa = pyarrow()
    if valid is not None:
        counts = np.where(valid, counts, 0)
    items = _array(values[np.arange(values.shape[1]) < counts[:, None]], kind.value_type, None)
    ends = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    validity = None if valid is None or valid.all() else _bits(valid)
    return pa.Array.from_buffers(kind, len(counts), [validity, pa.py_buffer(ends)], children=[items])


def _bits(flags: np.ndarray) -> pa.Buffer:
    return pyarrow().py_buffer(np.packbits(flags, bitorder="little"))


def reader(
    schema: pa.Schema, batches: Iterable[Mapping[str, np.ndarray]], runs: Sequence[str] | None = None
) -> pa.RecordBatchReader:
    """A stream of `batches` with the columns of `schema`, of which one is in memory at a time. `runs` are what the
    numbers in a column `run` stand for."""
    if runs is not None:
        labels = np.array(runs, object)
        batches = ({**batch, RUN: labels[batch[RUN]]} for batch in batches)
    made = (record_batch(batch, schema) for batch in batches)
    return pyarrow().RecordBatchReader.from_batches(schema, made)


def schema_from_arrow(schema: pa.Schema) -> Schema:
    """The fields that an Arrow schema declares, keys and `run` left out.

    Columns that come from a run are those of the run again. Of others the type tells dtype and shape, and the name
    what they belong to: `observation…`, `obs…` and `action_mask` to the observation, `action…` to the action, the rest
    to the step. Raises SchemaError for a type that rows cannot hold.
    """
    fields = [_field(column) for column in schema if column.name not in _KEY_DTYPES and column.name != RUN]
    counted = {field.ragged: field for field in fields if field.ragged}
    for name in counted.keys() - {field.name for field in fields}:  # lists tell it
        most, belongs = counted[name].shape[0], counted[name].belongs
        fields.append(Field(name, "i4", (), belongs, meaning="how many entries count", low=0, high=most))
    return Schema(fields)


def _field(column: pa.Field) -> Field:
    told = _told(column)
    if "dtype" not in told:
        dtype, shape = _stored_as(column)
        told = {"dtype": dtype, "shape": shape, "belongs": _belongs(column.name), "nullable": column.nullable}
    try:
        return msgspec.convert({"name": column.name, **told}, Field, strict=False)
    except msgspec.ValidationError as error:
        raise SchemaError(f"column {column.name}: its metadata is malformed: {error}") from None


def _told(column: pa.Field) -> dict[str, Any]:
    """What the metadata of a column says of its field."""
    told: dict[str, Any] = {}
    for key, value in (column.metadata or {}).items():
        name = key.decode("utf-8", "replace").removeprefix(_PREFIX)
        if not key.startswith(_PREFIX.encode()) or name not in _FIELD_NAMES:
            continue
        try:
            told[name] = value.decode() if name in _TEXTS else msgspec.json.decode(value)
        except (UnicodeDecodeError, msgspec.DecodeError) as error:
            raise SchemaError(f"column {column.name}: its metadata {name} is malformed: {error}") from None
    return told


_FIELD_NAMES = frozenset(Field.__struct_fields__) - {"name"}
_TEXTS = frozenset(("dtype", "belongs", "unit", "meaning", "ragged"))


def _stored_as(column: pa.Field) -> tuple[str, tuple[int, ...]]:
    """(dtype, shape) of a column that did not come from a run."""
    pa = pyarrow()
    kind, shape = column.type, []
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    while pa.types.is_fixed_size_list(kind):
        shape.append(kind.list_size)
        kind = kind.value_type
    if pa.types.is_boolean(kind):
        return "bool", tuple(shape)
    if pa.types.is_integer(kind) or pa.types.is_floating(kind):
        return np.dtype(kind.to_pandas_dtype()).str[1:], tuple(shape)
    raise SchemaError(f"column {column.name}: {column.type} is no number, bool or fixed-size list of them")


def _belongs(name: str) -> str:
    first = name.partition("/")[0].partition(".")[0]
    if first in ("observation", "obs", "action_mask", "state"):
        return "observation"
    return "action" if first == "action" else "step"


def batch_from_arrow(batch: pa.RecordBatch, schema: Schema | None = None) -> dict[str, np.ndarray]:
    """The arrays of a record batch: keys, fields of `schema` (all that it declares when left out), `run`.

    Arrays are (rows, *logical_shape) in the field's dtype, possibly read-only; null is zero, and a nullable field comes
    with `valid:NAME`. Lists of varying length are taken where each is as long as its field is; those of a ragged
    field may be shorter, and tell how many entries count where no column does. Raises SchemaError for values that do
    not fit.
    """
    pa = pyarrow()
    known = schema_from_arrow(batch.schema) if schema is None else schema
    out: dict[str, np.ndarray] = {}
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        if pa.types.is_dictionary(column.type):
            column = column.dictionary_decode()
        if name in _KEY_DTYPES:
            out[name] = _key(name, _values(name, column, ()))
        elif name == RUN:
            out[name] = np.array(column.to_pylist(), object)
        elif name in known:
            field = known[name]
            if field.ragged and (pa.types.is_list(column.type) or pa.types.is_large_list(column.type)):
                values, counts = _padded(name, column, field.logical_shape)
                if field.ragged not in batch.schema.names and field.ragged in known:
                    out[field.ragged] = counts.astype(known[field.ragged].numpy_dtype)
            else:
                values = _values(name, column, field.logical_shape)
            if values.dtype != field.numpy_dtype:
                values = known.unpack(name, known.pack(name, values, len(values)))
            out[name] = values
            if field.nullable:
                out[f"valid:{name}"] = column.is_valid().to_numpy(zero_copy_only=False)
    return out


def _key(name: str, values: np.ndarray) -> np.ndarray:
    cast = values.astype(_KEY_DTYPES[name], copy=False)
    if not np.array_equal(cast, values):
        raise SchemaError(f"column {name}: a value does not fit {cast.dtype.name} (given {values.dtype.name})")
    return cast


def _values(name: str, column: pa.Array, shape: tuple[int, ...]) -> np.ndarray:
    """(rows, *shape) of what numbers the column holds, zero where null."""
    pa = pyarrow()
    rows, null = len(column), None
    if column.null_count and shape:
        null = column.is_null().to_numpy(zero_copy_only=False)
    for side in shape:
        column = _items(name, column, side)
    if column.type == pa.null():
        return np.zeros((rows, *shape), bool)
    if column.null_count:
        column = column.fill_null(False if pa.types.is_boolean(column.type) else 0)
    if not (pa.types.is_boolean(column.type) or pa.types.is_integer(column.type) or pa.types.is_floating(column.type)):
        raise SchemaError(f"column {name}: {column.type} where numbers are wanted")
    values = column.to_numpy(zero_copy_only=False).reshape(rows, *shape)
    if null is not None and values[null].any():
        values = values.copy()
        values[null] = 0
    return values


def _padded(name: str, column: pa.Array, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Lists as (rows, *shape) with zeros behind them, and their lengths."""
    counts = column.value_lengths().fill_null(0).to_numpy(zero_copy_only=False)
    if len(counts) and counts.max() > shape[0]:
        raise SchemaError(f"column {name}: a list of {counts.max()} where at most {shape[0]} are wanted")
    items = _values(name, column.flatten(), shape[1:])
    out = np.zeros((len(counts), *shape), items.dtype)
    out[np.arange(shape[0]) < counts[:, None]] = items
    return out, counts


def _items(name: str, column: pa.Array, side: int) -> pa.Array:
    """The elements of lists, `side` of each, of null ones too."""
    pa = pyarrow()
    if pa.types.is_fixed_size_list(column.type):
        if column.type.list_size != side:
            raise SchemaError(f"column {name}: lists of {column.type.list_size} where {side} are wanted")
        return column.values.slice(column.offset * side, len(column) * side)
    if not (pa.types.is_list(column.type) or pa.types.is_large_list(column.type)):
        raise SchemaError(f"column {name}: {column.type} where lists of {side} are wanted")
    lengths = column.value_lengths()
    if column.null_count:
        filler = pa.scalar([None] * side, column.type)
        return _items(name, column.fill_null(filler), side)
    if len(column) and not (lengths.to_numpy(zero_copy_only=False) == side).all():
        raise SchemaError(f"column {name}: lists of varying length where {side} are wanted")
    return column.flatten()


def write_parquet(file: BinaryIO, schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> None:
    """A Parquet file with checksums of its pages, written batch by batch. Raises MissingExtra."""
    parquet = require("pyarrow.parquet", "arrow", "Parquet")
    with parquet.ParquetWriter(file, schema, compression="zstd", write_page_checksum=True) as writer:
        for batch in batches:
            writer.write_batch(batch)


def write_stream(file: BinaryIO, schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> None:
    """A stream of Arrow IPC. Raises MissingExtra."""
    with pyarrow().ipc.new_stream(file, schema) as writer:
        for batch in batches:
            writer.write_batch(batch)
