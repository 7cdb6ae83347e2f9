"""Single rows from Python, on their short way: what `Recorder.add` does for all but the first row of an episode.

The long way, through `RowFactory.transition`, looks at every column with NumPy and takes 12 us a row; it says what is
wrong with a row and converts what can be. Here a compiled writer takes the row as it is, or leaves it to that.
"""

from __future__ import annotations

from collections.abc import Mapping
from time import time_ns
from typing import Any

from expkit.buffers.row_writer import UNFIT, RowWriter, compile_writer
from expkit.collect.sharded import ShardedFeed
from expkit.row.factory import Progress, RowFactory

_KEYS = ("episode", "step", "policy", "policy_version", "time_ns")


class RowLane:
    """One player's rows into the open block of a feed, which is the only one of its collector. Its caller holds a lock
    or is alone.

    Words of the feed are read and written through memoryviews: an element of an array costs 100 ns each time.
    """

    def __init__(self, feed: ShardedFeed, factory: RowFactory, player: int):
        self._feed, self._factory, self._player = feed, factory, player
        self._collector, self._producer, self._lane = feed.row_words(player)
        self._position, self._capacity, self._published, self._discarding, self._produced = (
            memoryview(words)[player : player + 1]  # type: ignore[arg-type]
            for words in (feed.sink.position, feed.sink.capacity, feed.published, feed.discarding,
                          self._collector.ledger.produced)
        )  # fmt: skip
        self._produced_before = self._produced[0] - self._lane.produced  # by earlier recorders
        self._views: Any = None
        self._fields = -1
        self._writers: dict[tuple[int, tuple[str, ...]], RowWriter] = {}
        self._write: RowWriter = compile_writer({}, {}, ())
        self.set_policy(0, 0)

    def set_policy(self, index: int, version: int) -> None:
        """What rows are stamped with from now on."""
        self._policy, self._version = index, version

    def add(self, progress: Progress, step: int, fields: Mapping[str, Any]) -> bool:
        """Write and commit the next row of an open episode. False, and nothing is done, for one that has to be looked
        at more closely. Raises what `ShardedFeed.reserve` does."""
        if step <= progress.last_step or self._discarding[0]:
            return False
        at = self._position[0]
        if at >= self._capacity[0] or self._collector.failure is not None:
            at = self._feed.reserve(self._player, 1)[1]
            if self._discarding[0]:
                return False
        views = self._feed.views[self._player]
        if (views is not self._views or len(fields) != self._fields) and not self._prepare(views, fields):
            return False
        try:
            self._write(fields, at, progress.episode, step, self._policy, self._version, time_ns())
        except UNFIT:
            self._fields = -1  # as many names perhaps, but others
            return False
        progress.last_step = step
        progress.rows += 1
        progress.terminated = self._terminated[at]  # type: ignore[assignment]  # of format `?`
        progress.truncated = self._truncated[at]  # type: ignore[assignment]
        # Counted before it can be seen, as `ShardedFeed.commit` does. Nobody else counts rows of this player.
        lane = self._lane
        lane.produced = produced = lane.produced + 1
        self._produced[0] = self._produced_before + produced
        at += 1
        self._producer.publish(at)
        self._position[0] = self._published[0] = at
        return True

    def _prepare(self, views: Any, fields: Mapping[str, Any]) -> bool:
        """Choose the writer for rows of these fields into that block. False when they are not simply all there."""
        names = tuple(fields)
        absent = self._factory.absent(names)
        if absent is None:
            return False
        key = (views["episode"].ctypes.data, names)
        write = self._writers.get(key)
        if write is None:
            nullable = [f"valid:{name}" for name in names if f"valid:{name}" in views]
            marks = [*((name, 1) for name in nullable), *((name, 0) for name in absent)]
            write = compile_writer(
                self._factory.columns, views, names, _KEYS, [*marks, ("is_first", 0), ("is_last", 0)]
            )
            self._writers[key] = write
        self._views, self._fields, self._write = views, len(names), write
        self._terminated, self._truncated = memoryview(views["terminated"]), memoryview(views["truncated"])
        return True
