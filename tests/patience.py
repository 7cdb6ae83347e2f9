"""How tests wait: for what has to happen, as long as a busy machine may take for it.

No test says how fast something is. What never comes fails after `PATIENCE` with the words of the one who waited; a
test hangs for no longer than pytest's own timeout, which is longer than that.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from expkit import Recorder

PATIENCE = 900.0  # seconds; the longest wait on a quiet machine takes some ten


def wait_until(ready: Callable[[], Any], what: str = "what was waited for", every: float = 0.01) -> Any:
    """What `ready` returns once that is true of it. It may raise what ends the waiting, of a process that has died."""
    deadline = time.monotonic() + PATIENCE
    while not (found := ready()):
        assert time.monotonic() < deadline, f"{what} did not come within {PATIENCE:g} s"
        time.sleep(every)
    return found


@contextmanager
def together(recorder: Recorder) -> Iterator[Recorder]:
    """Rows that are added within come in as few blocks as the recorder's memory allows.

    A recorder flushes its first rows at once and what comes after them every flush interval, in the middle of
    anything. Here it does not; `flush` and `close` come when the block is left.
    """
    with recorder.collector._flush_lock:
        yield recorder
