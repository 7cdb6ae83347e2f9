"""What goes out on stdout and stderr: text from data made harmless, and a reader that has gone."""

from __future__ import annotations

import json
import os
import sys


def printable(text: str, keep: str = "\n\t") -> str:
    """`text` with control characters, the escape that starts ANSI sequences and those that turn the direction of
    writing among them, made visible; those in `keep` stay."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in keep else c.encode("unicode_escape").decode() for c in text)


def one_line(text: str) -> str:
    """`text` as a part of a line: what would end the line or move on in it is made visible, too."""
    return printable(text, "")


def printable_json(text: str) -> str:
    """The same JSON text, with such characters in its strings as JSON's own escapes."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c == "\n" else json.dumps(c)[1:-1] for c in text)


_discarded = False


def stdout_is_read() -> bool:
    """Whether the reader of stdout was still there at the last look."""
    return not _discarded


def discard_stdout() -> None:
    """Point stdout at /dev/null after its reader has gone (`| head`): the verb goes on, so that its exit code is
    that of its work."""
    global _discarded
    _discarded = True
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, sys.stdout.fileno())
    os.close(null)
