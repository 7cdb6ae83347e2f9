"""The collector's memory: one ring per player over one arena, feeds for producers, claims for drain threads.

It keeps the order that storage promises without locking the game: episode events are queued before the rows they
announce become visible, and whoever claims a block takes the queue afterwards, so a start never comes after its
rows. An end is held back until every row produced before it is accounted for.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from expkit.buffers.budget import Plan
from expkit.buffers.group import PlayerBuffers
from expkit.buffers.producer import Producer
from expkit.buffers.ring import BlockRing
from expkit.buffers.waiting import Doorbell
from expkit.collect.protocol import CollectorStats
from expkit.errors import BufferClosed, UsageError
from expkit.row.episodes import EpisodeEnd, EpisodeStart
from expkit.row.layout import BlockLayout, RowSink
from expkit.row.schema import Schema
from expkit.runs.counters import Ledger

WAIT_SECONDS = 0.2  # how often a waiting producer looks whether a drain thread has failed


REFUSED = "drop-newest"


class Mark(NamedTuple):
    """A place between the rows of a lane: so many were added before it, and `refused` of them found no room."""

    added: int
    refused: int


class Lane:
    """One player's ring of one producing thread, and how far it has come. Rows leave it in the order they came, so
    a count of rows tells which are written; `lock` is held by whoever drains it.

    produced, accounted   rows committed, and rows written, rejected or told as dropped, so far
    told                  of the accounted ones those that were dropped, by cause
    """

    __slots__ = ("accounted", "lock", "player", "produced", "ring", "told")

    def __init__(self, player: int, ring: BlockRing):
        self.player = player
        self.ring = ring
        self.lock = threading.Lock()
        self.produced = 0
        self.accounted = 0
        self.told: dict[str, int] = {}

    def mark(self) -> Mark:
        """Where the lane's rows end now: what `missing` is asked about later."""
        stats = self.ring.stats()
        return Mark(stats.added, stats.dropped[REFUSED])

    def missing(self, mark: Mark) -> int:
        """Rows in front of the mark that were neither written nor rejected nor dropped. The caller holds the lock."""
        left = mark.added - self.accounted
        if left <= 0:
            return 0
        # Rows that were dropped are told with the next row, which may be yet to come. What is refused stands behind
        # what is held; all other causes take the oldest rows.
        for cause, rows in self.ring.stats().dropped.items():
            left -= max((min(rows, mark.refused) if cause == REFUSED else rows) - self.told.get(cause, 0), 0)
        return max(left, 0)


class _Group:
    """The lanes of one producing thread, and the episode ends that wait for rows in them."""

    def __init__(self, buffers: PlayerBuffers):
        self.buffers = buffers
        self.lanes = [Lane(player, ring) for player, ring in enumerate(buffers.rings)]
        self.ends: deque[tuple[list[int], EpisodeEnd]] = deque()


class ShardedCollector:
    """Rows of all players in fixed memory, a ring for each player and producing thread. The caller drains `lanes`.

    plan       blocks of each such ring; `producers` feeds can be taken
    overflow   `block`, `drop-oldest`, `drop-newest` or `spill` (which needs `spill_dir`)
    """

    def __init__(
        self,
        schema: Schema,
        players: int,
        plan: Plan,
        ledger: Ledger,
        *,
        producers: int = 1,
        overflow: str = "block",
        spill_dir: Path | None = None,
    ):
        self.schema = schema
        self.players = players
        self.overflow = overflow
        self.ledger = ledger
        self.layout = BlockLayout(schema, plan.block_rows)
        self.failure: BaseException | None = None
        self._filled = Doorbell()
        self._groups = [
            _Group(
                PlayerBuffers(
                    self.layout,
                    players=players,
                    blocks=plan.blocks_per_player,
                    overflow=overflow,
                    spill_dir=None if spill_dir is None else spill_dir / str(producer),
                    filled=self._filled,
                )
            )
            for producer in range(producers)
        ]
        self.lanes = [lane for group in self._groups for lane in group.lanes]
        self.lock = threading.Lock()
        self._starts: list[EpisodeStart] = []
        self._feeds: list[ShardedFeed] = []
        self._closed = False

    def feed(self) -> ShardedFeed:
        """A producer's way in; one per thread. Raises UsageError when all `producers` are taken."""
        self.check()
        with self.lock:
            if len(self._feeds) == len(self._groups):
                raise UsageError(f"this collector was made for {len(self._groups)} producers; give producers= more")
            feed = ShardedFeed(self, self._groups[len(self._feeds)])
            self._feeds.append(feed)
        return feed

    def check(self) -> None:
        """Raise what stopped a drain thread, or BufferClosed after close."""
        if self.failure is not None:
            raise self.failure
        if self._closed:
            raise BufferClosed("the collector is closed; open a new one to go on")

    def fail(self, error: BaseException) -> None:
        """A drain thread cannot go on: producers learn of it at their next call, waiting ones at once."""
        if self.failure is None:
            self.failure = error

    def wait_full(self, timeout: float) -> None:
        """Wait until some lane has a full block, or `timeout` seconds."""
        self._filled.wait_for(lambda: self._closed or any(lane.ring.full_blocks for lane in self.lanes), timeout)

    def announce(
        self, group: _Group, fresh: list[int], starts: Sequence[EpisodeStart], ends: Sequence[EpisodeEnd]
    ) -> None:
        """Count `fresh` rows by player as produced and queue episode events, before the rows can be seen. The caller
        holds `lock` until they can be, for `close` takes it, too: rows are in before it, or refused. Raises
        BufferClosed."""
        if self._closed:
            self.check()
        for lane, rows in zip(group.lanes, fresh, strict=True):
            lane.produced += rows
            self.ledger.produced[lane.player] += rows
        self._starts.extend(starts)
        if ends:
            mark = [lane.produced for lane in group.lanes]
            group.ends.extend((mark, end) for end in ends)

    def take_starts(self) -> list[EpisodeStart]:
        """Episodes that began and are not written yet. Call it after claiming rows and before writing them."""
        with self.lock:
            starts, self._starts = self._starts, []
            return starts

    def put_back(self, starts: Sequence[EpisodeStart]) -> None:
        """Episodes that were taken and could not be written."""
        with self.lock:
            self._starts[:0] = starts

    def account(self, lane: Lane, rows: int, dropped: Mapping[str, int]) -> list[EpisodeEnd]:
        """`rows` of the lane are written or rejected, those in front of them were dropped; returns the episode ends
        that are complete by that."""
        with self.lock:
            lane.accounted += rows + sum(dropped.values())
            for cause, count in dropped.items():
                lane.told[cause] = lane.told.get(cause, 0) + count
            out = []
            for group in self._groups:
                done = [one.accounted for one in group.lanes]
                while group.ends and all(d >= m for d, m in zip(done, group.ends[0][0], strict=True)):
                    out.append(group.ends.popleft()[1])
            return out

    def remaining_ends(self) -> list[EpisodeEnd]:
        """Ends still held back; for the very last write, when no row is left to wait for."""
        with self.lock:
            return [end for group in self._groups for _, end in group.ends]

    def dropped(self) -> dict[int, dict[str, int]]:
        """Rows dropped so far by player and cause, those included that no claim has told of yet."""
        out: dict[int, dict[str, int]] = {player: {} for player in range(self.players)}
        for lane in self.lanes:
            for cause, rows in lane.ring.stats().dropped.items():
                if rows:
                    out[lane.player][cause] = out[lane.player].get(cause, 0) + rows
        return out

    def stats(self) -> CollectorStats:
        """Counts so far."""
        ledger, rings = self.ledger.since_opened(), [lane.ring.stats() for lane in self.lanes]
        return CollectorStats(
            produced=dict(enumerate(ledger.produced.tolist())),
            written=dict(enumerate(ledger.written.tolist())),
            durable=dict(enumerate(ledger.durable.tolist())),
            rejected=dict(enumerate(ledger.rejected.tolist())),
            dropped=self.dropped(),
            buffered=sum(ring.size for ring in rings),
            capacity=sum(ring.capacity for ring in rings),
            high_water=max(ring.high_water for ring in rings),
        )

    def close(self) -> None:
        """No more rows: hand over open blocks, close the rings. What they hold can be claimed until they are empty."""
        with self.lock:
            self._closed = True
        for feed in self._feeds:
            feed.close()
        for group in self._groups:
            group.buffers.close()
        self._filled.ring()


class ShardedFeed:
    """A `Feed` over the rings of a ShardedCollector."""

    def __init__(self, collector: ShardedCollector, group: _Group):
        self._collector = collector
        self._group = group
        layout, players = collector.layout, collector.players
        self._layout = layout
        self._producers = [lane.ring.producer() for lane in group.lanes]
        self.published = np.zeros(players, np.int64)
        self.views: list[dict[str, np.ndarray] | None] = [None] * players
        # Under drop-newest a game goes on without a block: its rows go to this one and are counted as dropped.
        self._discard = collector.overflow == "drop-newest"
        self.discarding = np.zeros(players, bool)
        self._discard_base = group.buffers.scratch_offset if self._discard else 0
        self.sink = RowSink(
            memory=group.buffers.arena,
            base=np.zeros((players, len(layout.columns)), np.int64),
            position=np.zeros(players, np.int64),
            capacity=np.zeros(players, np.int64),
            widths=layout.widths,
            policy=np.zeros((players, 2), np.int64),
            columns=layout.columns,
        )
        self._block_views: dict[int, dict[str, np.ndarray]] = {}

    def row_words(self, player: int) -> tuple[ShardedCollector, Producer, Lane]:
        """What single rows of the player touch; see `expkit.collect.row_lane`."""
        return self._collector, self._producers[player], self._group.lanes[player]

    def ready(self, rows: int) -> None:
        for player in range(self._collector.players):
            if self.sink.position[player] + rows > self.sink.capacity[player] or self.discarding[player]:
                self._open(player, rows)

    def reserve(self, player: int, rows: int) -> tuple[dict[str, np.ndarray], int]:
        self._collector.check()
        if self.sink.position[player] + rows > self.sink.capacity[player] or self.discarding[player]:
            self._open(player, rows)
        views = self.views[player]
        assert views is not None
        start = int(self.sink.position[player])
        return views, start

    def _open(self, player: int, rows: int) -> None:
        """Open the player's next block, as the overflow policy says."""
        collector, producer = self._collector, self._producers[player]
        self.discarding[player] = False
        while True:
            collector.check()
            block = producer.open(rows, timeout=WAIT_SECONDS)
            if block is not None:
                offset, position, capacity = block.offset, block.position, block.capacity
                break
            if self._discard:
                offset, position, capacity = self._discard_base, 0, self._layout.rows
                self.discarding[player] = True
                break
        self.sink.base[player] = offset + self._layout.offsets
        self.sink.position[player] = self.published[player] = position
        self.sink.capacity[player] = capacity
        views = self._block_views.get(offset)
        if views is None:
            views = self._layout.views(self.sink.memory[offset : offset + self._layout.nbytes])
            self._block_views[offset] = views
        self.views[player] = views

    def commit(self, starts: Sequence[EpisodeStart] = (), ends: Sequence[EpisodeEnd] = ()) -> None:
        fresh = self.sink.position - self.published
        # Before publishing: whoever sees a row finds it counted and its episode announced.
        with self._collector.lock:
            self._collector.announce(self._group, fresh.tolist(), starts, ends)
            for player in np.flatnonzero(fresh).tolist():
                rows = int(fresh[player])
                if self.discarding[player]:
                    self._producers[player].refuse(rows)
                    self.sink.position[player] = 0
                else:
                    self._producers[player].publish(int(self.sink.position[player]))
            self.published[:] = self.sink.position

    def close(self) -> None:
        for producer in self._producers:
            producer.hand_over()
