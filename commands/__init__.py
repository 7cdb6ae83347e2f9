"""The command line: one module per verb, thin. `main` is the console script `expkit`.
Imports all that stands below: it is the roof."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code (`expkit.commands.verbs.EXIT_CODES`).

    The root help is answered before the machinery of the verbs is imported: 60 ms of 150.
    """
    _open_what_is_closed()
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given in ([], ["--help"], ["-h"]) and "_EXPKIT_COMPLETE" not in os.environ:
        from expkit.commands.verbs import root_help

        return _print_root(root_help(color=sys.stdout.isatty() and "NO_COLOR" not in os.environ))
    from expkit.commands.contract import run

    return run(given)


def _open_what_is_closed() -> None:
    """Streams that the caller has closed (`>&-`, `<&-`) lead to /dev/null, as after a reader that has gone. Left
    closed, the next file that is opened would take their number, and what is printed go into it."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is not None:
            continue
        null = os.open(os.devnull, os.O_RDWR)
        try:
            os.fstat(number)
        except OSError:
            os.dup2(null, number)
        if null == number:
            os.set_inheritable(null, True)
        setattr(sys, name, os.fdopen(null, "w" if number else "r"))


def _print_root(text: str) -> int:
    try:
        print(text, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0
