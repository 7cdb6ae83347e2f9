"""What verbs print: one JSON object with --json, else lines and tables for people.

Text from data is never read as markup and its control characters are shown, not obeyed. Colour and other ANSI only
on a terminal that wants it: never in a pipe, never under NO_COLOR. On a terminal tables fit its width; elsewhere
lines are as long as their text, so that `grep` and `awk` see whole values.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple, TextIO

from expkit.commands import session
from expkit.commands.streams import discard_stdout, one_line, printable_json, stdout_is_read
from expkit.errors import quoted as quoted
from expkit.system.odd_floats import named

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

# A piece of a line: plain text, or text with a rich style such as "bold red".
Piece = str | tuple[str, str]
_PIPE_WIDTH = 100_000


class Column(NamedTuple):
    """A column of a table. `right` for numbers; a `fold` column takes what room is left and wraps; `wide` ones
    appear only where the terminal has at least that many columns."""

    title: str
    right: bool = False
    fold: bool = False
    style: str = ""
    wide: int = 0


def wide_integer(number: int) -> str:
    """64-bit ids and nanoseconds are strings in JSON: a double keeps only 53 bits."""
    return str(int(number))


def plain(value: Any) -> Any:
    """`value` as JSON can hold it: NumPy scalars and arrays as numbers and lists, NaN and infinities
    by name (`expkit.system.odd_floats`)."""
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return named(value)
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    if isinstance(value, Iterable):
        return [plain(item) for item in value]
    raise TypeError(f"{type(value).__name__} has no form in JSON")


def write_json(body: Mapping[str, Any]) -> None:
    """One object on stdout: indented on a terminal, one line elsewhere."""
    indent = 2 if sys.stdout.isatty() else None
    _write(printable_json(json.dumps(plain(body), indent=indent, ensure_ascii=False, allow_nan=False)) + "\n")


def width() -> int:
    """Columns to lay text out for: those of the terminal, at least 40; 100 where there is none."""
    return max(_console(sys.stdout).width, 40) if has_ansi_terminal() else 100


def has_ansi_terminal(stream: TextIO | None = None) -> bool:
    """Whether the stream is a terminal that understands more than lines."""
    stream = sys.stdout if stream is None else stream
    return stream.isatty() and os.environ.get("TERM", "") not in ("", "dumb")


def make_console(stream: TextIO) -> Console:
    """A rich console on `stream` that keeps this module's promises. `force_terminal` is always given, because rich
    would follow FORCE_COLOR into a pipe."""
    from rich.console import Console

    terminal = has_ansi_terminal(stream)
    colored = terminal and not os.environ.get("NO_COLOR")
    return Console(
        file=stream,
        force_terminal=terminal,
        color_system="auto" if colored else None,
        no_color=not colored,
        width=None if terminal else _PIPE_WIDTH,
        markup=False,
        highlight=False,
        emoji=False,
        soft_wrap=False,
    )


@lru_cache(maxsize=4)
def _console(stream: TextIO) -> Console:
    return make_console(stream)


def text(*pieces: Piece) -> Text:
    """Pieces as one rich text of one line; data in them is shown as it is."""
    from rich.text import Text

    whole = Text(no_wrap=False)
    for piece in pieces:
        content, style = (piece, "") if isinstance(piece, str) else piece
        whole.append(one_line(content), style or None)
    return whole


def line(*pieces: Piece, indent: int = 0) -> None:
    """One line on stdout, wrapped at words on a terminal."""
    render(text(" " * indent, *pieces) if indent else text(*pieces))


def raw(content: str) -> None:
    """Text of a format that is not for people, as it is: never wrapped, never styled."""
    _write(content)


def blank() -> None:
    _write("\n")


def hint(advice: str) -> None:
    """What to do next, as the last line, on stderr; nothing with --quiet."""
    _aside(("next: ", "dim"), advice)


def note(message: str, style: str = "") -> None:
    """One line on stderr that is no result; nothing with --quiet."""
    _aside((message, style))


def _aside(*pieces: Piece) -> None:
    """A line on stderr, below what is on stdout by now."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        discard_stdout()
    if session.current().quiet or not stdout_is_read():  # nobody has seen what it belongs to
        return
    with suppress(BrokenPipeError):
        sys.stderr.write(laid_out(text(*pieces), stream=sys.stderr))
        sys.stderr.flush()


def table(columns: Sequence[Column], rows: Iterable[Sequence[Piece]], indent: int = 0) -> None:
    """Aligned columns without a frame; `columns` too wide for the terminal are left out."""
    from rich.padding import Padding
    from rich.table import Table

    room = width() if has_ansi_terminal() else _PIPE_WIDTH
    shown = [index for index, column in enumerate(columns) if column.wide <= room]
    out = Table(box=None, pad_edge=False, show_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    for index in shown:
        column = columns[index]
        out.add_column(
            text(column.title),
            justify="right" if column.right else "left",
            style=column.style or None,
            no_wrap=not column.fold,
            overflow="fold" if column.fold else "ellipsis",
        )
    for row in rows:
        out.add_row(*(text(row[index]) for index in shown))
    render(Padding(out, (0, 0, 0, indent)) if indent else out)


def render(renderable: Any) -> None:
    """A rich renderable on stdout, without the padding that rich leaves at the ends of lines."""
    _write(laid_out(renderable))


def laid_out(renderable: Any, crop: bool = True, stream: TextIO | None = None) -> str:
    """What `render` writes, to stdout; without `crop` lines that are longer than the terminal stay whole."""
    console = _console(stream or sys.stdout)
    with console.capture() as captured:
        console.print(renderable, crop=crop)
    return "".join(part.rstrip(" ") + "\n" for part in captured.get().splitlines())


def _write(content: str) -> None:
    try:
        sys.stdout.write(content)
    except BrokenPipeError:
        discard_stdout()


def histogram(counts: Sequence[int], cells: int) -> str:
    """Counts as a bar of `cells` eighth blocks at most: `▁▂▅█`. Empty bins are a space, full height is the largest
    count; bins are joined when there are more than `cells`."""
    if not counts:
        return ""
    group = -(-len(counts) // max(cells, 1))
    joined = [sum(counts[start : start + group]) for start in range(0, len(counts), group)]
    top = max(joined)
    blocks = " ▁▂▃▄▅▆▇█" if can_show("█") else " .:-=+*#@"
    return "".join(blocks[-(-count * 8 // top) if top else 0] for count in joined)


def bar(share: float, cells: int) -> str:
    """A horizontal bar, `share` 0..1 of `cells` characters."""
    full = min(max(share, 0.0), 1.0) * cells
    mark, half = ("━", "╸") if can_show("━") else ("#", "")
    return (mark * int(full) + (half if full - int(full) >= 0.5 else "")).ljust(cells)


def can_show(sample: str) -> bool:
    """Whether stdout's encoding has these characters."""
    try:
        sample.encode(sys.stdout.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True
