"""Whose words name the code that is about to be imported.

`module:callable` on the command line, in a variable EXPKIT_* or in a settings file is the user's word, and is imported.
The same in a run is the word of whoever recorded it, and a run may come from anywhere: it is imported with
`--trust-code` only. A settings file that is the `run.yaml` of a run counts as the run it came with. In a program that
uses expkit as a library nothing is asked: it decides what it calls.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from expkit.errors import NotTrusted

OPTION = "--trust-code"
_words: list[str] | None = None  # None where all is trusted


def ask(arguments: Sequence[str], environ: Mapping[str, str]) -> None:
    """From now on only code that these arguments and variables name is imported, all with `--trust-code`."""
    global _words
    if OPTION in arguments:
        _words = None
        return
    # The name of a run is not the user's: it came with the run.
    _words = [word for word in arguments if not os.path.lexists(word)]
    _words += [value for name, value in environ.items() if name.startswith("EXPKIT_")]


def ask_no_more() -> None:
    global _words
    _words = None


def tell(text: str) -> None:
    """More words of the user's: a settings file."""
    if _words is not None:
        _words.append(text)


@contextmanager
def nothing_imported() -> Iterator[None]:
    """No code is imported within the block, whoever names it."""
    global _words
    before, _words = _words, []
    try:
        yield
    finally:
        _words = before


def check(spec: str, what: str) -> None:
    """Raises NotTrusted for code that only a run names. `what` it is to be is for the message."""
    if _words is None:
        return
    named = re.compile(rf"(?<![\w.:/]){re.escape(spec)}(?![\w.:/])")
    if not any(named.search(word) for word in _words):
        raise NotTrusted(
            f"{what} {spec!r} is code that the run names, and was not imported; look at it, then add {OPTION}"
        )
