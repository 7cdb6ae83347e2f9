"""Signals of the command line: by default one ends the verb with its exit code; a verb with something to finish
asks for `StopRequest` instead and finishes on the first one."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

_RETRY_SECONDS = 0.02
STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Stopped(BaseException):
    """A signal ended the verb at once; `left` says what of its work is undone. Not an Exception, so that no handler in
    between swallows it."""

    def __init__(self, number: int, left: str = ""):
        super().__init__(number)
        self.number = number
        self.left = left

    @property
    def exit_code(self) -> int:
        return 128 + self.number


class StopRequest:
    """What signals asked for so far.

    number            of the first stopping signal, 0 before
    rotate_requested  SIGUSR1 came; whoever rotates sets it back to False
    left              says what a second signal leaves undone, for the line that tells of it
    """

    def __init__(self) -> None:
        self.number = 0
        self.rotate_requested = False
        self.left: Callable[[], str] = str

    def __bool__(self) -> bool:
        return self.number != 0

    @property
    def exit_code(self) -> int:
        """128 + signal after a stop was asked for, else 0."""
        return 128 + self.number if self.number else 0

    def on_stop(self, number: int, frame: FrameType | None) -> None:
        if self.number:
            _stop(number, frame, self.left())
        self.number = number

    def on_rotate(self, number: int, frame: FrameType | None) -> None:
        self.rotate_requested = True


def _stop(number: int, frame: FrameType | None, left: str = "") -> None:
    """Raise Stopped, or where it would be swallowed a moment later: llvmlite is called back by LLVM as it loads and
    compiles kernels, and what is raised in a callback goes nowhere."""
    if not _is_called_back(frame):
        raise Stopped(number, left)
    signal.signal(signal.SIGALRM, lambda _, here: _stop(number, here, left))
    signal.setitimer(signal.ITIMER_REAL, _RETRY_SECONDS)


def _is_called_back(frame: FrameType | None) -> bool:
    while frame is not None:
        if str(frame.f_globals.get("__name__")).startswith("llvmlite.binding"):
            return True
        frame = frame.f_back
    return False


def _stop_at_once(number: int, frame: FrameType | None) -> None:
    _stop(number, frame)


def stop_at_once() -> None:
    """Default of every verb: SIGINT, SIGTERM and SIGHUP raise Stopped. One that was ignored on entry (nohup)
    stays ignored."""
    for number in STOPPING:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _stop_at_once)


@contextmanager
def finish_first() -> Iterator[StopRequest]:
    """Within, the first stopping signal only sets the request, a second one raises Stopped, and SIGUSR1 asks for
    a rotation. The handlers from before come back at the end."""
    request = StopRequest()
    before = {number: signal.getsignal(number) for number in (*STOPPING, signal.SIGUSR1)}
    for number in STOPPING:
        if before[number] is not signal.SIG_IGN:
            signal.signal(number, request.on_stop)
    signal.signal(signal.SIGUSR1, request.on_rotate)
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
