"""Arrow IPC files (Feather v2): a record batch for each batch of rows, columns as `expkit.arrow` makes them.

The Head stands in the Arrow schema's metadata under `expkit`, as zstd-compressed JSON: all Arrow formats carry such
metadata along.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import zstandard

from expkit.arrow import arrow_schema, batch_from_arrow, record_batch
from expkit.errors import SchemaError, ShardError
from expkit.extras import require
from expkit.formats.protocol import HEAD_KEY, Batch, Carries, ExportOptions, Head, Recorded
from expkit.schema import Schema

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
                schema = ipc.open_file(file).schema
        except (pa.ArrowInvalid, OSError) as error:
            raise ShardError(f"{source}: it is no Arrow IPC file: {one_line(error)}") from None
        head = head_of(schema, source)
        return Recorded(_read(source, head), head)


def _read(source: Path, head: Head | None) -> Iterator[Batch]:
    pa, ipc = require("pyarrow", "arrow", "Arrow files"), require("pyarrow.ipc", "arrow", "Arrow files")
    with pa.memory_map(str(source)) as file:
        try:
            reader = ipc.open_file(file)
            for number in range(reader.num_record_batches):
                batch = reader.get_batch(number)
                batch.validate(full=True)
                yield from parts(batch, head, source)
        except (pa.ArrowInvalid, OSError) as error:
            raise ShardError(f"{source}: it is damaged: {one_line(error)}") from None


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


def parts(batch: pa.RecordBatch, head: Head | None, source: Path) -> Iterator[Batch]:
    """The rows of a record batch, some at a time. Columns of another program that rows cannot hold are left out.
    Raises ShardError."""
    schema: Schema | None = None if head is None else head.schema
    if head is None:
        batch = batch.select([field.name for field in batch.schema if is_usable(field)])
    for begin in range(0, batch.num_rows, _ROWS):
        try:
            yield batch_from_arrow(batch.slice(begin, _ROWS), schema)
        except SchemaError as error:
            raise ShardError(f"{source}: {error}") from None


def is_usable(field: pa.Field) -> bool:
    """Whether rows can hold a column of this type: numbers, bools, text, lists of numbers."""
    pa = require("pyarrow", "arrow", "Arrow files")
    kind = field.type
    while pa.types.is_fixed_size_list(kind):
        kind = kind.value_type
    return bool(pa.types.is_boolean(kind) or pa.types.is_integer(kind) or pa.types.is_floating(kind))


def unusable(schema: pa.Schema) -> list[str]:
    """Columns that are left out of a foreign file."""
    return [field.name for field in schema if not is_usable(field)]


def one_line(error: Exception) -> str:
    return " ".join(str(error).split())
