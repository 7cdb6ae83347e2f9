"""CSV: a line a row, for spreadsheets and whatever reads nothing else, of exports and of answers to queries alike.

UTF-8 with a first line of names; arrays stand as JSON text in one cell, what was not given as an empty cell, true and
false so, NaN and infinities by name (`expkit.system.odd_floats`), and text as it is. Nothing says what the columns are:
such a file is for reading, not to be imported.

Spreadsheets take text that begins with one of `= + - @` for a formula, and compute it. `safe` puts an apostrophe before
such a cell, which they take for text; then it is no longer what was recorded, for other readers.
"""

from __future__ import annotations

import csv
import gzip
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from expkit.errors import UsageError
from expkit.formats.ndjson import objects
from expkit.formats.protocol import TABLE_KEYS, Batch, Carries, ExportOptions, Head, Recorded, column_type
from expkit.system.odd_floats import json_text, named

_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def csv_cell(value: Any) -> Any:
    """A value as a cell, None as an empty one."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return named(value)
    if isinstance(value, list | dict):
        return json_text(value)
    return value.hex() if isinstance(value, bytes) else value


def safe_cell(cell: Any) -> Any:
    """A cell that a spreadsheet takes for no formula."""
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(_FORMULA) else cell


class CsvFormat:
    name = "csv"
    suffixes: tuple[str, ...] = (".csv", ".csv.gz")
    about = "a line a row, arrays as JSON text"
    carries = Carries(arrays=False, records=False)
    compressions: tuple[str, ...] = ("none", "gzip")

    def export(self, batches: Iterator[Batch], head: Head, target: Path, options: ExportOptions) -> None:
        packed = options.compression == "gzip" or (options.compression is None and target.name.endswith(".gz"))
        names = [*TABLE_KEYS, *(field.name for field in head.schema.fields)]
        types = {name: column_type(head.schema, name) for name in names}
        other = [name for name, (dtype, shape) in types.items() if shape or dtype.kind == "b"]  # than numbers
        with gzip.open(target, "wb", options.level or 1) if packed else open(target, "wb") as raw:
            file = io.TextIOWrapper(raw, encoding="utf-8", newline="")
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(names)
            for batch in batches:
                for rows in objects(batch, head.schema):
                    for name in other:
                        for row in rows:
                            row[name] = csv_cell(row[name])
                    if options.safe:
                        rows = [{name: safe_cell(cell) for name, cell in row.items()} for row in rows]
                    writer.writerows(row.values() for row in rows)
            file.flush()
            file.detach()

    def import_(self, source: Path) -> Recorded:
        raise UsageError(
            f"{source}: CSV says neither types nor shapes, so it is not imported; export to Parquet or NDJSON instead"
        )
