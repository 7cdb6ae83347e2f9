"""The interactive replay: a board that plays, pauses, steps back, changes eyes and jumps to moments."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Mapping

from expkit.commands import output
from expkit.commands.inspect_row import describe_end
from expkit.commands.replay_frames import Line, frame_lines
from expkit.commands.terminal import Screen
from expkit.reading.run import Run
from expkit.resimulation.playback import Moment, Playback

STEPS_PER_SECOND = 4.0
_FASTEST, _SLOWEST = 256.0, 1 / 16
KEYS = (
    ("space", "pause"),
    ("←→", "step"),
    ("↑↓", "rate"),
    ("p", "player, fog"),
    ("n N", "episode"),
    ("j J", "moment"),
    ("q", "quit"),
)


class Watcher:
    """Plays one episode after another until a key or a signal ends it.

    `player` None shows what all players know together; `follow` goes on to the next episode at the end of one;
    `moments`, by episode, are jumped to instead of those that a playback finds.
    """

    def __init__(
        self,
        run: Run,
        numbers: list[int],
        playback: Playback,
        player: int | None,
        rate: float,
        paused: bool,
        follow: bool,
        moments: Mapping[int, list[Moment]] | None = None,
    ):
        self._run = run
        self._numbers = numbers
        self._playback = playback
        self._player = player
        self._rate = rate
        self._paused = paused
        self._follow = follow
        self._moments = moments
        self._index = 0
        self._console = output.make_console(sys.stdout)

    def run(self, start: int = 0) -> None:
        """Show frame `start` and go on from there; returns when the person quits, or at the end of everything when
        nobody can press a key."""
        self._index = start
        with Screen() as screen:
            due = time.monotonic()
            screen.redraw = True
            while True:
                now = time.monotonic()
                if not self._paused and now >= due:
                    if not screen.redraw and not self._advance(screen.has_keys):
                        return
                    screen.redraw = True
                    due = now + 1 / (STEPS_PER_SECOND * self._rate)
                if screen.redraw:
                    screen.show(self._draw())
                wait = 0.25 if self._paused else max(min(due - time.monotonic(), 0.25), 0.0)
                key = screen.key(wait)
                if key in ("q", "gone"):
                    return
                if key is not None and self._press(key):
                    screen.redraw = True
                    due = time.monotonic() + 1 / (STEPS_PER_SECOND * self._rate)

    def _advance(self, has_keys: bool) -> bool:
        """One step on, or into the next episode; at the very end pause for a key. False: nothing is left to show."""
        if self._index + 1 < len(self._playback):
            self._index += 1
            return True
        if self._follow and self._open_neighbour(1):
            return True
        self._paused = True
        return has_keys

    def _press(self, key: str) -> bool:
        """Act on a key; whether the screen changes."""
        last = len(self._playback) - 1
        if key == "space":
            self._paused = not self._paused
        elif key in ("right", "l", "left", "h"):
            self._paused = True
            self._index = min(self._index + 1, last) if key in ("right", "l") else max(self._index - 1, 0)
        elif key in ("up", "+", "k"):
            self._rate = min(self._rate * 2, _FASTEST)
        elif key in ("down", "-"):
            self._rate = max(self._rate / 2, _SLOWEST)
        elif key == "p":
            eyes: list[int | None] = [None, *self._playback.players]
            self._player = eyes[(eyes.index(self._player) + 1) % len(eyes)] if self._player in eyes else None
        elif key in ("n", "N"):
            return self._open_neighbour(1 if key == "n" else -1)
        elif key in ("j", "J"):
            return self._jump(forward=key == "j")
        elif key in ("home", "g"):
            self._index = 0
        elif key in ("end", "G"):
            self._index, self._paused = last, True
        else:
            return False
        return True

    def _open_neighbour(self, offset: int) -> bool:
        place = self._numbers.index(self._playback.episode.number) + offset
        if not 0 <= place < len(self._numbers):
            return False
        number = self._numbers[place]
        self._playback = Playback(self._run, number, None if self._moments is None else self._moments[number])
        self._index = 0
        return True

    def _jump(self, forward: bool) -> bool:
        """To the next moment of this episode or the first of a later one; backwards likewise."""
        here = self._playback.steps[self._index]
        steps = [moment.step for moment in self._playback.moments]
        ahead = [step for step in steps if (step > here if forward else step < here)]
        while not ahead:
            if not self._open_neighbour(1 if forward else -1):
                return True
            ahead = [moment.step for moment in self._playback.moments]
        index = self._playback.index_of(min(ahead) if forward else max(ahead))
        self._index = self._index if index is None else index
        self._paused = True
        return True

    def _draw(self) -> list[str]:
        size = shutil.get_terminal_size()
        title, keys = self._title(), self._keys(size.columns)
        room = size.lines - 1 - len(title) - len(keys)
        player = self._player if self._player in self._playback.players else None
        body = frame_lines(self._run, self._playback, self._index, player, size.columns, room)
        lines = [*title, *body[:room], *keys]
        return [self._ansi(line, size.columns) for line in lines]

    def _title(self) -> list[Line]:
        playback, step = self._playback, self._playback.steps[self._index]
        place = self._numbers.index(playback.episode.number) + 1
        eyes = "all players" if self._player is None else f"player {self._player}"
        of = f"({place} of {len(self._numbers)})"
        first: Line = [
            (str(self._run.path), "bold"),
            f" · episode {playback.episode.number} {of} · {describe_end(playback.episode)}",
        ]
        what = [moment.what for moment in self._moments_at(step)]
        mark = "paused" if self._paused else f"{self._rate:g}x"
        second: Line = [
            (f"step {step} of {playback.steps[-1]}", "bold"),
            f" · {mark} · seen by {eyes}",
            (f" · {', '.join(what)}" if what else "", "bold yellow"),
        ]
        return [first, second]

    def _moments_at(self, step: int) -> list[Moment]:
        return [moment for moment in self._playback.moments if moment.step == step]

    def _keys(self, columns: int) -> list[Line]:
        share = (self._index + 1) / max(len(self._playback), 1)
        line: Line = []
        for key, what in KEYS:
            line += [(key, "bold"), (f" {what}  ", "dim")]
        return [[(output.bar(share, max(columns - 2, 10)), "cyan")], line]

    def _ansi(self, line: Line, columns: int) -> str:
        """A line as the terminal takes it, cut at its width."""
        whole = output.text(*line)
        whole.truncate(columns, overflow="ellipsis", pad=True)
        with self._console.capture() as captured:
            self._console.print(whole, end="", no_wrap=True, crop=True)
        return captured.get()
