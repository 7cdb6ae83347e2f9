"""What goes out on stdout and stderr: text from data made harmless, and a reader that has gone."""

from __future__ import annotations

import os
import sys


def printable(text: str) -> str:
    """`text` with control characters, the escape that starts ANSI sequences among them, made visible."""
    return "".join(c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode() for c in text)


def discard_stdout() -> None:
    """Point stdout at /dev/null after its reader has gone (`| head`): the verb goes on, so that its exit code is
    that of its work."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, sys.stdout.fileno())
    os.close(null)
