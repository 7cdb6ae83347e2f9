"""Writing an output that is there as a whole or not at all, for every verb that does: rows as progress, and a signal
after which nothing is left behind."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import typer

from expkit.commands import output
from expkit.commands.progress import Progress
from expkit.commands.signals import finish_first


class Asking(NamedTuple):
    """What the work tells and asks: `on_rows` with rows done since the last call, `stop` whether to end."""

    on_rows: Callable[[int], None]
    stop: Callable[[], bool]


@contextmanager
def whole_output(verb: str, doing: str, rows: int | None = None) -> Iterator[Asking]:
    """Within, `doing` is shown with the rows done, of `rows` if that is known. Exits with the code of a signal when the
    work raises `expkit.rewrite.engine.Stopped` because one came."""
    from expkit.rewrite.engine import Stopped

    done = 0
    with finish_first() as request, Progress(f"{doing} · ^C leaves nothing behind") as progress:

        def show(count: int) -> None:
            nonlocal done
            done += count
            progress.update(done, rows)

        try:
            yield Asking(show, lambda: bool(request))
        except Stopped:
            output.note(f"expkit {verb}: stopped; nothing was written")
            raise typer.Exit(request.exit_code) from None
