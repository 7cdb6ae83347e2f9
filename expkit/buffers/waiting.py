"""Waiting for what another thread, possibly deep in a kernel, is about to do."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

_FIRST_POLL = 0.0005
_LAST_POLL = 0.01


class Doorbell:
    """Wakes waiting threads. Python code rings it; kernels cannot, so waiters also look by themselves, first after
    0.5 ms, then less and less often, at last every 10 ms."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._waiting = 0

    def ring(self) -> None:
        """Wake all waiters; costs one comparison when there are none."""
        if self._waiting:
            with self._condition:
                self._condition.notify_all()

    def wait_for(self, ready: Callable[[], bool], timeout: float | None) -> bool:
        """Wait until `ready()`, at most `timeout` seconds (None: for ever). Returns what `ready` last said."""
        if ready():
            return True
        deadline = None if timeout is None else time.monotonic() + timeout
        pause = _FIRST_POLL
        with self._condition:
            self._waiting += 1
            try:
                while not ready():
                    if deadline is not None:
                        left = deadline - time.monotonic()
                        if left <= 0:
                            return False
                        pause = min(pause, left)
                    self._condition.wait(pause)
                    pause = min(pause * 2, _LAST_POLL)
                return True
            finally:
                self._waiting -= 1
