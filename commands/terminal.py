"""A terminal taken over for a while: its own screen, keys one by one, and everything put back at the end, whatever
ends it: a key, an error, a signal, or ^Z and back."""

from __future__ import annotations

import os
import select
import signal
import sys
import termios
import tty
from types import FrameType

_ENTER = "\x1b[?1049h\x1b[?25l\x1b[H\x1b[2J"
_LEAVE = "\x1b[?25h\x1b[?1049l"
_KEYS = {
    b"\x1b[A": "up",
    b"\x1b[B": "down",
    b"\x1b[C": "right",
    b"\x1b[D": "left",
    b"\x1bOA": "up",
    b"\x1bOB": "down",
    b"\x1bOC": "right",
    b"\x1bOD": "left",
    b"\x1b[H": "home",
    b"\x1b[F": "end",
    b" ": "space",
}


class Screen:
    """A context manager. Keys come from stdin where that is a terminal; else there are none."""

    def __init__(self) -> None:
        self._keyboard = sys.stdin.fileno() if sys.stdin is not None and sys.stdin.isatty() else -1
        self._saved: list[object] | None = None
        self._pending = b""
        self.redraw = True

    @property
    def has_keys(self) -> bool:
        return self._keyboard >= 0

    def __enter__(self) -> Screen:
        self._before = {number: signal.getsignal(number) for number in (signal.SIGTSTP, signal.SIGWINCH)}
        signal.signal(signal.SIGTSTP, self._on_suspend)
        signal.signal(signal.SIGWINCH, self._on_resize)
        self._take()
        return self

    def __exit__(self, *_: object) -> None:
        self._give_back()
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _take(self) -> None:
        if self.has_keys:
            self._saved = termios.tcgetattr(self._keyboard)
            tty.setcbreak(self._keyboard)
        self._put(_ENTER)

    def _give_back(self) -> None:
        self._put(_LEAVE)
        if self._saved is not None:
            termios.tcsetattr(self._keyboard, termios.TCSADRAIN, self._saved)  # type: ignore[arg-type]
            self._saved = None

    def _on_suspend(self, number: int, frame: FrameType | None) -> None:
        self._give_back()
        os.kill(os.getpid(), signal.SIGSTOP)
        self._take()
        self.redraw = True

    def _on_resize(self, number: int, frame: FrameType | None) -> None:
        self.redraw = True

    def _put(self, text: str) -> None:
        try:
            sys.stdout.write(text)
            sys.stdout.flush()
        except OSError:
            self._keyboard = -1  # the terminal has gone; there is nothing left to restore

    def show(self, lines: list[str]) -> None:
        """Replace what is on the screen, without a flash: lines are overwritten, so each has to be as long as the
        terminal is wide; what is below is cleared."""
        self.redraw = False
        self._put("\x1b[H" + "\r\n".join(lines) + "\x1b[0m" + ("\r\n\x1b[J" if lines else "\x1b[J"))

    def key(self, timeout: float) -> str | None:
        """The next key (`space`, `left`, `q`, …), None after `timeout` seconds, or `gone` when the keyboard has gone.

        Without a keyboard it sleeps.
        """
        if not self._pending:
            if not self.has_keys:
                select.select([], [], [], max(timeout, 0))
                return None
            ready, _, _ = select.select([self._keyboard], [], [], max(timeout, 0))
            if not ready:
                return None
            try:
                self._pending = os.read(self._keyboard, 64)
            except OSError:
                self._pending = b""
            if not self._pending:
                return "gone"
        for sequence, name in _KEYS.items():
            if self._pending.startswith(sequence):
                self._pending = self._pending[len(sequence) :]
                return name
        first, self._pending = self._pending[:1], self._pending[1:]
        if first == b"\x1b":
            self._pending = b""  # an unknown sequence is one key that means nothing
            return "escape"
        return first.decode("latin-1")
