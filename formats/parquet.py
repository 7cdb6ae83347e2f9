"""Parquet: what DuckDB, pandas, Polars and Spark read. Columns as `expkit.row.arrow` makes them, a checksum on every
page, and the Head in the Arrow schema that the file carries."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from expkit.errors import ShardError
from expkit.formats.arrow_ipc import head_of, left_out, one_line, parts, with_head
from expkit.formats.protocol import Batch, Carries, ExportOptions, Head, Recorded
from expkit.formats.several import gathered
from expkit.row.arrow import arrow_schema, record_batch
from expkit.system.extras import require

_READ_ROWS = 16_384
_LOOK_ROWS = 256
# A row group: as many rows as DuckDB takes at once, if they fit.
_GROUP_ROWS = 122_880
_GROUP_BYTES = 32 << 20


class ParquetFormat:
    name = "parquet"
    suffixes: tuple[str, ...] = (".parquet", ".pq")
    about = "Parquet, for DuckDB, pandas, Polars, Spark"
    carries = Carries()
    compressions: tuple[str, ...] = ("zstd", "snappy", "gzip", "lz4", "brotli", "none")

    def export(self, batches: Iterator[Batch], head: Head, target: Path, options: ExportOptions) -> None:
        parquet = require("pyarrow.parquet", "arrow", "Parquet")
        schema = with_head(arrow_schema(head.schema, rows=head.rows), head)
        compression = options.compression or "zstd"
        level = options.level or (1 if compression == "zstd" else None)
        with parquet.ParquetWriter(
            str(target),
            schema,
            compression=compression,
            compression_level=level,
            write_page_checksum=True,
            use_dictionary=dictionaries(head),
            write_statistics=[name for name in schema.names if _is_scalar(schema, name)],
        ) as writer:
            for batch in gathered(batches, _GROUP_ROWS, _GROUP_BYTES):
                writer.write_batch(record_batch(batch, schema), row_group_size=_GROUP_ROWS)

    def import_(self, source: Path) -> Recorded:
        pa, parquet = require("pyarrow", "arrow", "Parquet"), require("pyarrow.parquet", "arrow", "Parquet")
        try:
            with parquet.ParquetFile(str(source), memory_map=True) as file:
                head = head_of(file.schema_arrow, source)
                first = next(file.iter_batches(_LOOK_ROWS), None) if head is None else None
        except (pa.ArrowInvalid, OSError) as error:
            raise ShardError(f"{source}: it is no Parquet file: {one_line(error)}") from None
        notes = [] if first is None else left_out(first)
        return Recorded(_read(source, head), head, notes)


def dictionaries(head: Head) -> list[str]:
    """Columns whose values repeat: keys that stay the same for many rows."""
    return ["episode", "player", "policy", "policy_version"]


def _is_scalar(schema: Any, name: str) -> bool:
    return not require("pyarrow", "arrow", "Parquet").types.is_nested(schema.field(name).type)


def _read(source: Path, head: Head | None) -> Iterator[Batch]:
    pa, parquet = require("pyarrow", "arrow", "Parquet"), require("pyarrow.parquet", "arrow", "Parquet")
    try:
        with parquet.ParquetFile(str(source), page_checksum_verification=True, pre_buffer=False) as file:
            yield from parts(file.iter_batches(_READ_ROWS), head, source)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError) as error:
        raise ShardError(f"{source}: it is damaged: {one_line(error)}") from None
