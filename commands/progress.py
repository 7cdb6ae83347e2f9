"""Progress of a long verb, on stderr: a live bar on a terminal, one plain line now and then elsewhere, nothing with
--quiet. It costs the work nothing: the caller updates it when it likes, and it draws at most 8 times a second."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TextIO

from expkit.commands import session
from expkit.commands.output import bar, has_ansi_terminal, make_console, text
from expkit.commands.streams import one_line
from expkit.system.units import format_count, format_duration

if TYPE_CHECKING:
    from rich.console import Group
    from rich.live import Live

_DRAW_EVERY = 1 / 8
_PLAIN_EVERY = 10.0
_BAR_CELLS = 24
_RECENT = 10.0  # seconds that the rate is taken of
PATIENCE = 1.0  # seconds without a sign of life, for work that mostly is done by then


class Progress:
    """A context manager around the work.

        with Progress("recording runs/a · generals 20x20 · ^C finishes cleanly", unit="rows") as progress:
            progress.update(done, total=rows, fields=["dropped 0", "ring 12%"])

    The title is printed once, with `after` only when the work has taken so many seconds. On a terminal the bar
    disappears at the end and the summary takes its place. Rate and time left are those of the last seconds: work that
    has become slower, or waits, shows it.
    """

    def __init__(
        self,
        title: str,
        unit: str = "rows",
        stream: TextIO | None = None,
        plain_every: float = _PLAIN_EVERY,
        after: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
    ):
        self.title = title
        self.unit = unit
        self._stream = sys.stderr if stream is None else stream
        self._quiet = session.current().quiet
        self._plain_every = plain_every
        self._clock = clock
        self._started = self._shown = clock()
        self._seen = deque([(self._started, 0)])
        self._live: Live | None = None
        self._after = after
        self._begun = False

    def __enter__(self) -> Progress:
        self._started = self._shown = self._clock()
        self._seen = deque([(self._started, 0)])
        if not self._quiet and not self._after:
            self._begin()
        return self

    def _begin(self) -> None:
        self._begun = True
        if has_ansi_terminal(self._stream):
            from rich.live import Live

            console = make_console(self._stream)
            console.print(text((self.title, "bold")))
            self._live = Live(console=console, auto_refresh=False, transient=True, redirect_stdout=False)
            self._live.start()
        else:
            self._print(self.title)

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def update(
        self,
        done: int,
        total: int | None = None,
        fields: Sequence[str] = (),
        share: float | None = None,
        left: float | None = None,
    ) -> None:
        """Show where the work stands.

        done, total  in units; total None when there is none
        fields       more things worth a word, such as `dropped 0`
        share        0..1 when it does not follow from done and total (a limit of time)
        left         seconds to go, when not total and the rate tell
        """
        now = self._clock()
        if self._quiet or now - self._started < self._after:
            return
        if not self._begun:
            self._begin()
        if now - self._shown < (_DRAW_EVERY if self._live is not None else self._plain_every):
            return
        self._shown = now
        rate = self._recent_rate(now, done)
        if share is None and total:
            share = min(done / total, 1.0)
        if left is None and total and rate:
            left = max(total - done, 0) / rate
        figures = self._figures(done, total, rate, share, left, now - self._started)
        if self._live is not None:
            self._live.update(self._lines(figures, share, fields), refresh=True)
        else:
            self._print(" · ".join([*figures, *fields]))

    def _recent_rate(self, now: float, done: int) -> float | None:
        """Units a second, from the latest look that is `_RECENT` seconds old, or the first."""
        self._seen.append((now, done))
        while len(self._seen) > 2 and self._seen[1][0] <= now - _RECENT:
            self._seen.popleft()
        since, before = self._seen[0]
        return max(done - before, 0) / (now - since) if now > since else None

    def note(self, message: str) -> None:
        """A line that stays, above the bar."""
        if self._quiet:
            return
        if self._live is not None:
            self._live.console.print(text(message))
        else:
            self._print(message)

    def _figures(
        self, done: int, total: int | None, rate: float | None, share: float | None, left: float | None, elapsed: float
    ) -> list[str]:
        out = [] if share is None else [f"{share * 100:3.0f}%"]
        out.append(format_count(done) + (f"/{format_count(total)}" if total else "") + f" {self.unit}")
        if rate is not None:
            out.append(f"{format_count(rate)}/s")
        out.append(format_duration(elapsed) if left is None else f"{_clock(left)} left")
        return out

    def _lines(self, figures: list[str], share: float | None, fields: Sequence[str]) -> Group:
        from rich.console import Group

        first = [(bar(share, _BAR_CELLS) + "  ", "cyan")] if share is not None else []
        lines = [text(*first, "  ".join(figures))]
        if fields:
            lines.append(text((" · ".join(fields), "dim")))
        return Group(*lines)

    def _print(self, message: str) -> None:
        try:
            print(one_line(message), file=self._stream, flush=True)
        except (BrokenPipeError, ValueError):
            self._quiet = True  # nobody reads; the work goes on


def _clock(seconds: float) -> str:
    """`0:03`, `12:30`, `1:02:30`."""
    whole = round(seconds)
    return f"{whole // 60}:{whole % 60:02d}" if whole < 3600 else format_duration(whole)
