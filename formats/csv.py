"""CSV: a line a row, for spreadsheets and whatever reads nothing else. Arrays stand as JSON text in their column, what
was not given as an empty cell; nothing says what the columns are: such an export is for reading, not to be imported."""

from __future__ import annotations

import csv
import gzip
import io
from collections.abc import Iterator
from pathlib import Path

import msgspec

from expkit.errors import UsageError
from expkit.formats.ndjson import objects
from expkit.formats.protocol import TABLE_KEYS, Batch, Carries, ExportOptions, Head, Recorded


class CsvFormat:
    name = "csv"
    suffixes: tuple[str, ...] = (".csv", ".csv.gz")
    about = "a line a row, arrays as JSON text"
    carries = Carries(arrays=False, records=False)
    compressions: tuple[str, ...] = ("none", "gzip")

    def export(self, batches: Iterator[Batch], head: Head, target: Path, options: ExportOptions) -> None:
        packed = options.compression == "gzip" or (options.compression is None and target.name.endswith(".gz"))
        names = [*TABLE_KEYS, *(field.name for field in head.schema.fields)]
        wide = [field.name for field in head.schema.fields if field.shape]
        encode = msgspec.json.Encoder().encode
        with gzip.open(target, "wb", options.level or 1) if packed else open(target, "wb") as raw:
            file = io.TextIOWrapper(raw, encoding="utf-8", newline="")
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(names)
            for batch in batches:
                for rows in objects(batch, head.schema):
                    for name in wide:
                        for row in rows:
                            if row[name] is not None:
                                row[name] = encode(row[name]).decode()
                    writer.writerows(row.values() for row in rows)
            file.flush()
            file.detach()

    def import_(self, source: Path) -> Recorded:
        raise UsageError(
            f"{source}: CSV says neither types nor shapes, so it is not imported; export to Parquet or NDJSON instead"
        )
