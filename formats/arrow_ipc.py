"""Arrow IPC files (Feather v2): a record batch for each batch of rows, columns as `expkit.row.arrow` makes them.

The Head stands in the Arrow schema's metadata under `expkit`, as zstd-compressed JSON: all Arrow formats carry such
metadata along.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import zstandard

from expkit.errors import SchemaError, ShardError
from expkit.formats.protocol import HEAD_KEY, Batch, Carries, ExportOptions, Head, Recorded
from expkit.row.arrow import arrow_schema, batch_from_arrow, record_batch
from expkit.system.extras import require

if TYPE_CHECKING:
    import pyarrow as pa

_MOST_HEAD = 1 << 30
_ROWS = 16_384


class ArrowFormat:
    name = "arrow"
    suffixes: tuple[str, ...] = (".arrow", ".feather", ".ipc")
    about = "Arrow IPC, for everything that speaks Arrow"
    carries = Carries()
    compressions: tuple[str, ...] = ("zstd", "lz4", "none")

    def export(self, batches: Iterator[Batch], head: Head, target: Path, options: ExportOptions) -> None:
        ipc = require("pyarrow.ipc", "arrow", "Arrow files")
        schema = with_head(arrow_schema(head.schema, rows=head.rows), head)
        chosen = ipc.IpcWriteOptions(compression=codec(options))
        with ipc.new_file(str(target), schema, options=chosen) as writer:
            for batch in batches:
                writer.write_batch(record_batch(batch, schema))

    def import_(self, source: Path) -> Recorded:
        pa, ipc = require("pyarrow", "arrow", "Arrow files"), require("pyarrow.ipc", "arrow", "Arrow files")
        try:
            with pa.memory_map(str(source)) as file:
                opened = ipc.open_file(file)
                schema = opened.schema
                head = head_of(schema, source)
                notes = left_out(opened.get_batch(0)) if head is None and opened.num_record_batches else []
        except (pa.ArrowInvalid, OSError) as error:
            raise ShardError(f"{source}: it is no Arrow IPC file: {one_line(error)}") from None
        return Recorded(_read(source, head), head, notes)


def _read(source: Path, head: Head | None) -> Iterator[Batch]:
    pa, ipc = require("pyarrow", "arrow", "Arrow files"), require("pyarrow.ipc", "arrow", "Arrow files")
    with pa.memory_map(str(source)) as file:
        try:
            reader = ipc.open_file(file)
            yield from parts(_validated(reader), head, source)
        except (pa.ArrowInvalid, OSError) as error:
            raise ShardError(f"{source}: it is damaged: {one_line(error)}") from None


def _validated(reader: Any) -> Iterator[pa.RecordBatch]:
    for number in range(reader.num_record_batches):
        batch = reader.get_batch(number)
        batch.validate(full=True)
        yield batch


def codec(options: ExportOptions) -> Any:
    """What pyarrow takes as a compression: a Codec, or None."""
    pa = require("pyarrow", "arrow", "Arrow files")
    chosen = options.compression or "zstd"
    if chosen == "none":
        return None
    return pa.Codec(chosen, options.level or (1 if chosen == "zstd" else None))


def with_head(schema: pa.Schema, head: Head) -> pa.Schema:
    """The Arrow schema with the Head in its metadata."""
    packed = base64.b64encode(zstandard.compress(head.to_json(), 9))
    return schema.with_metadata({**(schema.metadata or {}), HEAD_KEY.encode(): packed})


def head_of(schema: pa.Schema, source: Path) -> Head | None:
    """The Head that an Arrow schema carries, None where it carries none. Raises ShardError."""
    packed = (schema.metadata or {}).get(HEAD_KEY.encode())
    if packed is None:
        return None
    try:
        raw = base64.b64decode(packed, validate=True)
        if zstandard.frame_content_size(raw) > _MOST_HEAD:
            raise ShardError(f"{source}: its description by expkit is larger than {_MOST_HEAD:,} bytes")
        text = zstandard.decompress(raw, max_output_size=_MOST_HEAD)
    except (ValueError, zstandard.ZstdError) as error:
        raise ShardError(f"{source}: its description by expkit is damaged: {error}") from None
    return Head.from_json(text, source)


def parts(batches: Iterator[pa.RecordBatch], head: Head | None, source: Path) -> Iterator[Batch]:
    """The rows of record batches, some at a time. Raises ShardError."""
    shapes: dict[str, tuple[int, ...]] | None = None
    for batch in batches:
        if head is None and shapes is None:
            shapes = shapes_of(batch)
        for begin in range(0, batch.num_rows, _ROWS):
            part = batch.slice(begin, _ROWS)
            try:
                if head is not None:
                    yield batch_from_arrow(part, head.schema)
                else:
                    yield {
                        name: values
                        for column, shape in (shapes or {}).items()
                        for name, values in foreign_column(part.column(column), column, shape)
                    }
            except SchemaError as error:
                raise ShardError(f"{source}: {error}") from None


def shapes_of(batch: pa.RecordBatch) -> dict[str, tuple[int, ...]]:
    """Of each column of another program that rows can hold, the shape of its values: numbers and bools, and lists of
    them that are all as long in this batch."""
    out = {}
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        shape = []
        while _is_list(column) and not column.null_count:
            sides = np.unique(_lengths(column))
            if len(sides) != 1 or sides[0] == 0:
                break
            shape.append(int(sides[0]))
            column = column.flatten()
        if _is_number(column):
            out[name] = tuple(shape)
    return out


def foreign_column(column: pa.Array, name: str, shape: tuple[int, ...]) -> Iterator[tuple[str, np.ndarray]]:
    """A column's values, (rows, *shape), zero where null; then `valid:NAME` where some are. Raises SchemaError for
    lists of another length."""
    pa = require("pyarrow", "arrow", "Arrow files")
    rows, valid = len(column), None
    if column.null_count:
        valid = column.is_valid().to_numpy(zero_copy_only=False)
    for side in shape:
        if column.null_count or not (_lengths(column) == side).all():
            raise SchemaError(f"column {name} has lists that are null or not of {side}, as the first ones are")
        column = column.flatten()
    if column.null_count:
        column = column.fill_null(False if pa.types.is_boolean(column.type) else 0)
    yield name, column.to_numpy(zero_copy_only=False).reshape(rows, *shape)
    if valid is not None:
        yield f"valid:{name}", valid


def left_out(batch: pa.RecordBatch) -> list[str]:
    """A note on the columns of a foreign file that rows cannot hold, if there are some."""
    known = shapes_of(batch)
    odd = [name for name in batch.schema.names if name not in known]
    return [f"left out, for rows hold numbers and arrays of one shape: {', '.join(odd)}"] if odd else []


def _is_list(column: pa.Array) -> bool:
    types = require("pyarrow", "arrow", "Arrow files").types
    return bool(types.is_list(column.type) or types.is_large_list(column.type) or types.is_fixed_size_list(column.type))


def _is_number(column: pa.Array) -> bool:
    types = require("pyarrow", "arrow", "Arrow files").types
    kind = column.type
    return bool(types.is_boolean(kind) or types.is_integer(kind) or types.is_floating(kind))


def _lengths(column: pa.Array) -> np.ndarray:
    types = require("pyarrow", "arrow", "Arrow files").types
    if types.is_fixed_size_list(column.type):
        return np.full(len(column), column.type.list_size)
    lengths: np.ndarray = column.value_lengths().to_numpy(zero_copy_only=False)
    return lengths


def one_line(error: Exception) -> str:
    return " ".join(str(error).split())
