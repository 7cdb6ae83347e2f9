"""`subscribe()`: a stream of batches for a trainer that runs beside the game, in the same process.

Each subscription has its own bounded queue. A slow subscriber never slows the game or the disk: what does not fit
is dropped for that subscriber alone, and counted there.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator

import numpy as np

from expkit.row.schema import Schema


class Subscription:
    """An iterator of batches: `dict` of logical arrays of one player each, with the keys and `player`.

    `dropped_rows` and `dropped_batches` count what did not fit. Ends when the collector closes or `close` is called.
    """

    def __init__(self, schema: Schema, max_batches: int):
        self.schema = schema
        self.dropped_rows = 0
        self.dropped_batches = 0
        self._max = max_batches
        self._queue: deque[tuple[int, dict[str, np.ndarray], int]] = deque()
        self._ready = threading.Condition()
        self._closed = False

    def offer(self, player: int, columns: dict[str, np.ndarray], rows: int) -> None:
        """Queue a copy of a drained block, or count it as dropped. Called by drain threads; never waits."""
        with self._ready:
            if self._closed:
                return
            if len(self._queue) >= self._max:
                self.dropped_rows += rows
                self.dropped_batches += 1
                return
        copied = {name: values[:rows].copy() for name, values in columns.items()}
        with self._ready:
            self._queue.append((player, copied, rows))
            self._ready.notify()

    def get(self, timeout: float | None = None) -> dict[str, np.ndarray] | None:
        """The next batch, or None when none came within `timeout` seconds or the stream has ended."""
        deadline = None if timeout is None else time.monotonic() + timeout
        with self._ready:
            while not self._queue:
                left = None if deadline is None else deadline - time.monotonic()
                if self._closed or (left is not None and left <= 0):
                    return None
                self._ready.wait(left)
            player, columns, rows = self._queue.popleft()
        batch = {
            name: self.schema.unpack(name, values) for name, values in columns.items() if not name.startswith("valid:")
        }
        batch["player"] = np.full(rows, player, np.uint16)
        return batch

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
        while (batch := self.get()) is not None:
            yield batch

    def close(self) -> None:
        """End the stream; batches already queued can still be read."""
        with self._ready:
            self._closed = True
            self._ready.notify_all()

    def __enter__(self) -> Subscription:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
