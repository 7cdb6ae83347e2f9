"""An answer to a question, as a table for people, one JSON object, NDJSON, CSV, Parquet or Arrow."""

from __future__ import annotations

import csv
import io
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import msgspec

from expkit.commands import output, session
from expkit.commands.streams import one_line, printable_json
from expkit.errors import UsageError
from expkit.formats.csv import csv_cell, safe_cell
from expkit.system.files import DiskErrors, unlink_quietly
from expkit.system.odd_floats import json_text, named

if TYPE_CHECKING:
    from expkit.queries.answer import Answer, Column

_GAP = 2  # between columns of a table
_ARRAY_CELLS, _TEXT_CELLS, _LEAST_CELLS = 24, 40, 6
_EXACT = 1 << 53  # integers below are exact in a double


class _Counted:
    """Parts of an answer, no more than `most` rows together.

    rows  taken so far;  more: there are others
    """

    def __init__(self, answer: Answer, most: int | None):
        self._answer, self._most = answer, most
        self.rows = 0
        self.more = False

    def values(self) -> Iterator[list[list[Any]]]:
        for part in self._answer.values(None if self._most is None else self._most + 1):
            rows = len(part[0]) if part else 0
            room = rows if self._most is None else self._most - self.rows
            self.more = rows > room
            kept = min(rows, room)
            if kept:
                self.rows += kept
                yield part if kept == rows else [values[:kept] for values in part]
            if self.more:
                return

    def record_batches(self) -> tuple[Any, Iterator[Any]]:
        schema, batches = self._answer.record_batches()
        return schema, self._cut(batches)

    def _cut(self, batches: Iterator[Any]) -> Iterator[Any]:
        for batch in batches:
            room = batch.num_rows if self._most is None else self._most - self.rows
            part = batch.slice(0, room)
            self.rows += part.num_rows
            yield part
            if part.num_rows < batch.num_rows or self.rows == self._most:
                return


def print_table(answer: Answer, most: int | None) -> int:
    """Aligned columns; on a terminal as many as fit it. Returns the number of rows shown."""
    counted = _Counted(answer, most)
    columns: list[list[Any]] = [[] for _ in answer.columns]
    for part in counted.values():
        for values, more in zip(columns, part, strict=True):
            values += more
    if not counted.rows:
        output.line("no row")
        return 0
    narrow = output.has_ansi_terminal()
    cells = [[_cell(value, narrow) for value in values] for values in columns]
    numbers = [any(isinstance(v, int | float) and not isinstance(v, bool) for v in values) for values in columns]
    widths = [max(map(len, listed)) for listed in cells]
    titles = [column.name for column in answer.columns]
    shown = _fitting(titles, widths, output.width()) if narrow else list(enumerate(map(len, titles)))
    listed = [output.Column(_elided(titles[place], room), right=numbers[place]) for place, room in shown]
    output.table(listed, zip(*(_styled(cells[place]) for place, _ in shown), strict=True))
    if session.current().quiet:
        return counted.rows
    if len(shown) < len(titles):
        left_out = ", ".join(titles[len(shown) :])
        output.note(f"not shown: {left_out}", "dim")
    if counted.more:
        first = "the first row" if counted.rows == 1 else f"the first {counted.rows:,} rows"
        output.note(f"{first}; --limit 0 shows all{_total(answer)}", "dim")
    return counted.rows


def _total(answer: Answer) -> str:
    """How many rows match a condition; SQL is not computed to its end for that."""
    from expkit.queries.matches import Matches

    return f" {answer.count():,}" if isinstance(answer, Matches) else ""


def _fitting(titles: Sequence[str], widths: Sequence[int], room: int) -> list[tuple[int, int]]:
    """(place, width of its title) of the first columns that fit. Titles longer than what stands below them are elided
    before a column is left out."""
    needed = [max(width, min(len(title), _LEAST_CELLS)) for title, width in zip(titles, widths, strict=True)]
    count = len(titles)
    while count > 1 and sum(needed[:count]) + _GAP * (count - 1) > room:
        count -= 1
    spare = room - sum(needed[:count]) - _GAP * (count - 1)
    out = []
    for place in range(count):
        more = min(max(len(titles[place]) - needed[place], 0), max(spare, 0))
        spare -= more
        out.append((place, needed[place] + more))
    return out


def _styled(cells: Sequence[str]) -> list[output.Piece]:
    return [(cell, "dim") if cell == "null" else cell for cell in cells]


def _cell(value: Any, narrow: bool) -> str:
    """A value in one line; on a terminal arrays and texts are elided."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return f"{value:.6g}" if isfinite(value) else str(named(value))
    if isinstance(value, list | dict):
        return _elided(json_text(value), _ARRAY_CELLS) if narrow else json_text(value)
    shown = " ".join(str(value).split())
    return _elided(shown, _TEXT_CELLS) if narrow else shown


def _elided(text: str, room: int) -> str:
    return text if len(text) <= room else text[: max(room - 1, 1)] + "…"


def print_json(answer: Answer, most: int | None, told: Mapping[str, Any]) -> int:
    """One object: schema, runs, query, columns (name, type as Arrow writes it), count (of the rows given), more (there
    are others), rows (objects by column). Returns their number."""
    counted = _Counted(answer, most)
    rows = list(_objects(answer.columns, counted))
    columns = [column._asdict() for column in answer.columns]
    body = {"schema": "expkit.query/1", **told, "columns": columns, "count": counted.rows, "more": counted.more}
    output.write_json(body | {"rows": rows})
    return counted.rows


def _objects(columns: Sequence[Column], counted: _Counted) -> Iterator[dict[str, Any]]:
    names = [column.name for column in columns]
    for part in counted.values():
        safe = [_for_json(column, values) for column, values in zip(columns, part, strict=True)]
        for row in zip(*safe, strict=True):
            yield dict(zip(names, row, strict=True))


def _for_json(column: Column, values: list[Any]) -> list[Any]:
    """Values that JSON keeps: ids of 64 bits and nanoseconds are text, and so are every integer beyond 2^53, NaN and
    the infinities."""
    kind = column.type
    if kind in ("bool", "string") or (kind.endswith(("int8", "int16", "int32"))):
        return values
    if kind == "uint64" or (kind == "int64" and column.name.endswith("_ns")):
        return [None if value is None else str(value) for value in values]
    return [_safe(value) for value in values]


def _safe(value: Any) -> Any:
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, float):
        return named(value)
    if isinstance(value, int):
        return value if -_EXACT < value < _EXACT else str(value)
    if isinstance(value, list | tuple):
        return [_safe(item) for item in value]
    if isinstance(value, dict):
        return {str(name): _safe(item) for name, item in value.items()}
    if hasattr(value, "as_integer_ratio"):  # a decimal, which sums of integers are
        return _safe(int(value)) if value == value.to_integral_value() else named(float(value))
    return value.hex() if isinstance(value, bytes) else str(value)


def write_stdout(answer: Answer, format: str, most: int | None, *, safe: bool = False) -> int:
    """The answer in a format for other programs; what a terminal would obey is escaped on one. `safe`: see
    `expkit.formats.csv`. Returns the number of rows."""
    try:
        rows = _write(answer, format, most, sys.stdout.buffer, safe=safe, shown=sys.stdout.isatty())
        sys.stdout.buffer.flush()
    except BrokenPipeError:
        output.discard_stdout()
        return 1  # a reader that has seen enough has seen a row
    return rows


def write_file(answer: Answer, path: Path, format: str, most: int | None, *, safe: bool = False) -> int:
    """The answer as a file, which is there whole or not at all. `safe`: see `expkit.formats.csv`. Returns the number
    of rows."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with DiskErrors(path, "write the answer"), open(partial, "wb") as file:
            rows = _write(answer, format, most, file, safe=safe)
            file.flush()
            os.fsync(file.fileno())
            os.replace(partial, path)
    except BaseException:
        unlink_quietly(partial)
        raise
    return rows


def _write(answer: Answer, format: str, most: int | None, file: BinaryIO, *, safe: bool, shown: bool = False) -> int:
    counted = _Counted(answer, most)
    if format == "csv":
        _write_csv(answer, counted, file, safe, shown)
    elif format == "ndjson":
        _write_ndjson(answer, counted, file, shown)
    else:
        {"parquet": _write_parquet, "arrow": _write_arrow}[format](answer, counted, file)
    return counted.rows


def _write_ndjson(answer: Answer, counted: _Counted, file: BinaryIO, shown: bool) -> None:
    encoder = msgspec.json.Encoder()
    for row in _objects(answer.columns, counted):
        line = encoder.encode(row)
        file.write((printable_json(line.decode()).encode() if shown else line) + b"\n")


def _write_csv(answer: Answer, counted: _Counted, file: BinaryIO, safe: bool, shown: bool) -> None:
    def cell(value: Any) -> Any:
        made = csv_cell(value)
        made = safe_cell(made) if safe else made
        return one_line(made) if shown and isinstance(made, str) else made

    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(cell(column.name) for column in answer.columns)
    for part in counted.values():
        writer.writerows(zip(*([cell(value) for value in values] for values in part), strict=True))
        file.write(text.getvalue().encode())
        text.seek(0)
        text.truncate()
    file.write(text.getvalue().encode())


def _write_parquet(answer: Answer, counted: _Counted, file: BinaryIO) -> None:
    from expkit.row.arrow import write_parquet

    try:
        write_parquet(file, *counted.record_batches())
    except NotImplementedError as error:
        raise UsageError(f"--format parquet cannot hold the answer ({error}); cast the column to VARCHAR") from None


def _write_arrow(answer: Answer, counted: _Counted, file: BinaryIO) -> None:
    from expkit.row.arrow import write_stream

    write_stream(file, *counted.record_batches())
