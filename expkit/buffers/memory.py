"""MemoryBuffer: rows in plain memory that grows with them, for tools and tests and small replay buffers."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from expkit.buffers.protocol import Batch, BufferStats, ExperienceBuffer
from expkit.buffers.rows import RowForm
from expkit.errors import BufferClosed, Busy, NotThere, UsageError
from expkit.row.dropped import CAUSES, causes_of
from expkit.row.schema import Schema

_CHUNK_ROWS = 1024
_OLDEST, _NEWEST, _CLEARED = (CAUSES.index(cause) for cause in ("drop-oldest", "drop-newest", "cleared"))


@dataclass(slots=True)
class _Chunk:
    """Rows [start, stop) of some arrays; `refused` rows were dropped in front of them."""

    columns: dict[str, np.ndarray]
    size: int
    refused: int = 0
    start: int = 0
    stop: int = 0


@dataclass(slots=True)
class _Counts:
    held: int = 0
    high_water: int = 0
    added: int = 0
    drained: int = 0
    dropped: list[int] = field(default_factory=lambda: [0] * len(CAUSES))


class MemoryBuffer(ExperienceBuffer):
    """Rows of one player in memory, up to `capacity` rows (None: as many as there are).

    overflow   what happens to a row too many: `drop-oldest` and `drop-newest` drop single rows, `block` waits up to
               `timeout` seconds for somebody to drain
    """

    def __init__(
        self,
        schema: Schema,
        capacity: int | None = None,
        *,
        overflow: str = "drop-oldest",
        player: int = 0,
        timeout: float = 60.0,
    ):
        if overflow not in ("block", "drop-oldest", "drop-newest"):
            raise UsageError(f"overflow policy {overflow!r} is not one of block, drop-oldest, drop-newest")
        if capacity is not None and capacity < 1:
            raise UsageError(f"a buffer of {capacity} rows holds nothing; give at least 1, or None for no limit")
        self.schema, self.capacity, self.player = schema, capacity, player
        self.overflow, self.timeout = overflow, timeout
        self._form = RowForm(schema)
        self._changed = threading.Condition()
        self._chunks: deque[_Chunk] = deque()
        self._gap = [0] * len(CAUSES)  # in front of the oldest row
        self._refused = 0  # behind the newest row
        self._counts = _Counts()
        self._closed = False

    # Adding

    def add(self, row: Mapping[str, Any]) -> None:
        self.add_batch({name: np.asarray(value)[None] for name, value in row.items() if value is not None})

    def add_batch(self, columns: Mapping[str, Any]) -> None:
        with self._changed:
            self._check_open()
            rows, stored = self._form.stored(columns)
            done = 0
            while done < rows:
                room = self._room(rows - done)
                if room == 0:
                    refused = rows - done
                    self._counts.added += refused
                    self._counts.dropped[_NEWEST] += refused
                    self._refused += refused
                    return
                self._append(stored, done, room)
                done += room

    def _check_open(self) -> None:
        if self._closed:
            raise BufferClosed("this buffer is closed; rows can only be drained from it")

    def _room(self, wanted: int) -> int:
        """Rows that may be added now, at least one; 0 if they are refused. Drops or waits as the policy says."""
        if self.capacity is None:
            return wanted
        if self.overflow == "drop-oldest":
            wanted = min(wanted, self.capacity)
            self._drop_oldest(self._counts.held + wanted - self.capacity)
            return wanted
        deadline = time.monotonic() + self.timeout
        while self._counts.held >= self.capacity and self.overflow == "block":
            if not self._changed.wait(deadline - time.monotonic()):
                raise Busy(f"buffer of player {self.player} stayed full for {self.timeout:g} s; drain it")
            self._check_open()
        return min(wanted, self.capacity - self._counts.held)

    def _append(self, stored: Mapping[str, np.ndarray], start: int, rows: int) -> None:
        counts = self._counts
        counts.added += rows
        counts.held += rows
        counts.high_water = max(counts.high_water, counts.held)
        if self._chunks and self._chunks[-1].start == self._chunks[-1].stop:
            self._chunks[-1].refused, self._refused = self._refused, 0  # an empty chunk needs no successor
        while rows:
            if not self._chunks or self._chunks[-1].stop == self._chunks[-1].size or self._refused:
                self._chunks.append(self._new_chunk(rows))
            chunk = self._chunks[-1]
            count = min(rows, chunk.size - chunk.stop)
            for name, array in chunk.columns.items():
                given = stored.get(name)
                array[chunk.stop : chunk.stop + count] = 0 if given is None else given[start : start + count]
            chunk.stop += count
            start += count
            rows -= count

    def _new_chunk(self, rows: int) -> _Chunk:
        size = max(rows, _CHUNK_ROWS if self.capacity is None else min(_CHUNK_ROWS, self.capacity))
        columns = {c.name: np.empty(c.shape(size), c.dtype) for c in self.schema.columns}
        refused, self._refused = self._refused, 0
        return _Chunk(columns, size, refused)

    # Taking

    def drain(self, max_rows: int | None = None) -> Batch | None:
        with self._changed:
            left = self._counts.held if max_rows is None else min(max_rows, self._counts.held)
            if left == 0:
                return None
            gap, self._gap = self._gap, [0] * len(CAUSES)
            gap[_NEWEST] += self._chunks[0].refused
            self._chunks[0].refused = 0
            parts = []
            while left and self._chunks[0].refused == 0:
                chunk = self._chunks[0]
                count = min(left, chunk.stop - chunk.start)
                parts.append(_slices(chunk, chunk.start, chunk.start + count))
                self._advance(count)
                self._counts.drained += count
                left -= count
            columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
            return Batch(self.player, len(columns["step"]), columns, causes_of(gap))

    def _advance(self, rows: int) -> None:
        """Forget the oldest `rows` rows, all in the first chunk."""
        chunk = self._chunks[0]
        chunk.start += rows
        self._counts.held -= rows
        # The last chunk stays while it has room, or a buffer drained row by row would allocate one for each.
        if chunk.start == chunk.stop and (len(self._chunks) > 1 or chunk.stop == chunk.size):
            self._chunks.popleft()
        self._changed.notify_all()

    def _drop_oldest(self, rows: int, cause: int = _OLDEST) -> None:
        while rows > 0:
            chunk = self._chunks[0]
            count = min(rows, chunk.stop - chunk.start)
            self._gap[cause] += count
            self._gap[_NEWEST] += chunk.refused
            chunk.refused = 0
            self._counts.dropped[cause] += count
            self._advance(count)
            rows -= count

    # Looking

    def latest(self, rows: int, *, include_drained: bool = False) -> Batch:
        with self._changed:
            held = self._counts.held
            return self._copy(np.arange(max(0, held - rows), held))

    def sample(self, count: int, rng: np.random.Generator, *, include_drained: bool = False) -> Batch:
        with self._changed:
            if self._counts.held == 0:
                raise NotThere(f"the buffer of player {self.player} is empty; nothing to sample")
            return self._copy(rng.integers(self._counts.held, size=count))

    def _copy(self, chosen: np.ndarray) -> Batch:
        """Rows by their index among those held, oldest first."""
        columns = {c.name: np.empty(c.shape(len(chosen)), c.dtype) for c in self.schema.columns}
        before = 0
        for chunk in self._chunks:
            count = chunk.stop - chunk.start
            wanted = np.flatnonzero((chosen >= before) & (chosen < before + count))
            rows = chosen[wanted] - before + chunk.start
            for name, array in columns.items():
                array[wanted] = chunk.columns[name][rows]
            before += count
        return Batch(self.player, len(chosen), columns)

    # Closing and counting

    def clear(self) -> None:
        with self._changed:
            self._drop_oldest(self._counts.held, _CLEARED)

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def stats(self) -> BufferStats:
        with self._changed:
            counts = self._counts
            dropped = dict(zip(CAUSES, counts.dropped, strict=True))
            return BufferStats(
                counts.held, self.capacity or 0, counts.high_water, counts.added, counts.drained, dropped
            )


def _slices(chunk: _Chunk, start: int, stop: int) -> dict[str, np.ndarray]:
    return {name: array[start:stop] for name, array in chunk.columns.items()}
