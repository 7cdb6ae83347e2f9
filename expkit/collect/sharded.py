"""The collector's memory: one ring per player over one arena, feeds for producers, claims for drain threads.

It keeps the order that storage promises without locking the game: episode events are queued before the rows they
announce become visible, and whoever claims a block takes the queue afterwards, so a start never comes after its
rows. An end is held back until every row produced before it is accounted for.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from expkit.buffers.budget import Plan
from expkit.buffers.claim import Claimed
from expkit.buffers.group import PlayerBuffers
from expkit.buffers.ring import BlockRing
from expkit.collect.protocol import CollectorStats, LedgerArrays
from expkit.episodes import EpisodeEnd, EpisodeStart
from expkit.errors import BufferClosed
from expkit.layout import BlockLayout, RowSink
from expkit.schema import Schema

WAIT_SECONDS = 0.2  # how often a waiting producer looks whether a drain thread has failed


class ShardedCollector:
    """Rows of all players in fixed memory. The caller drains it: `claim`, use, `done`.

    overflow   `block`, `drop-oldest`, `drop-newest` or `spill` (which needs `spill_dir`)
    """

    def __init__(
        self,
        schema: Schema,
        players: int,
        plan: Plan,
        ledger: LedgerArrays,
        *,
        overflow: str = "block",
        spill_dir: Path | None = None,
    ):
        self.schema = schema
        self.players = players
        self.overflow = overflow
        self.ledger = ledger
        self.layout = BlockLayout(schema, plan.block_rows)
        self.buffers = PlayerBuffers(
            self.layout, players=players, blocks=plan.blocks_per_player, overflow=overflow, spill_dir=spill_dir
        )
        self.failure: BaseException | None = None
        self._lock = threading.Lock()
        self._starts: list[EpisodeStart] = []
        self._ends: deque[tuple[np.ndarray, EpisodeEnd]] = deque()
        self._accounted = np.zeros(players, np.int64)
        self._feeds: list[ShardedFeed] = []
        self._closed = False

    def ring(self, player: int) -> BlockRing:
        return self.buffers.ring(player)

    def feed(self) -> ShardedFeed:
        """A new producer's way in; one per thread."""
        self.check()
        feed = ShardedFeed(self)
        with self._lock:
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

    def announce(self, starts: Sequence[EpisodeStart], ends: Sequence[EpisodeEnd]) -> None:
        """Queue episode events; called before the rows of these starts are published."""
        if not starts and not ends:
            return
        with self._lock:
            self._starts.extend(starts)
            if ends:
                mark = self.ledger.produced.copy()
                self._ends.extend((mark, end) for end in ends)

    def take_starts(self) -> list[EpisodeStart]:
        """Episodes that began and are not written yet. Call it after claiming rows and before writing them."""
        with self._lock:
            starts, self._starts = self._starts, []
            return starts

    def account(self, player: int, rows: int) -> list[EpisodeEnd]:
        """`rows` of the player are written or dropped; returns the episode ends that are complete by that."""
        with self._lock:
            self._accounted[player] += rows
            out = []
            while self._ends and (self._ends[0][0] <= self._accounted).all():
                out.append(self._ends.popleft()[1])
            return out

    def accounted(self, player: int) -> int:
        """Rows of the player that are written or dropped so far."""
        return int(self._accounted[player])

    def remaining_ends(self) -> list[EpisodeEnd]:
        """Ends still held back; for the very last write, when no row is left to wait for."""
        with self._lock:
            ends = [end for _, end in self._ends]
            self._ends.clear()
            return ends

    def claim(self, player: int, partial: bool = False) -> Claimed | None:
        """The player's oldest full block, or with `partial` what is published of a filling one."""
        return self.ring(player).claim(partial=partial)

    def stats(self) -> CollectorStats:
        """Counts so far. Drops that no claimed block has told of yet are included."""
        ledger, rings = self.ledger, [self.ring(player).stats() for player in range(self.players)]
        return CollectorStats(
            produced=dict(enumerate(ledger.produced.tolist())),
            written=dict(enumerate(ledger.written.tolist())),
            durable=dict(enumerate(ledger.durable.tolist())),
            rejected=dict(enumerate(ledger.rejected.tolist())),
            dropped={player: {c: n for c, n in ring.dropped.items() if n} for player, ring in enumerate(rings)},
            buffered=sum(ring.size for ring in rings),
            capacity=sum(ring.capacity for ring in rings),
            high_water=max(ring.high_water for ring in rings),
        )

    def close_feeds(self) -> None:
        """No more rows: hand over the blocks that are still open."""
        self._closed = True
        with self._lock:
            feeds, self._feeds = self._feeds, []
        for feed in feeds:
            feed.close()

    def close(self) -> None:
        """Close feeds and rings. What is still in the rings can be claimed until it is empty."""
        self.close_feeds()
        self.buffers.close()


class ShardedFeed:
    """A `Feed` over the rings of a ShardedCollector."""

    def __init__(self, collector: ShardedCollector):
        self._collector = collector
        layout, players = collector.layout, collector.players
        self._layout = layout
        self._producers = [collector.ring(player).producer() for player in range(players)]
        self._published = np.zeros(players, np.int64)
        self._views: list[dict[str, np.ndarray] | None] = [None] * players
        # Under drop-newest a game goes on without a block: its rows go to this one and are counted as dropped.
        self._discard = collector.overflow == "drop-newest"
        self._discarding = np.zeros(players, bool)
        self._discard_base = collector.buffers.scratch_offset if self._discard else 0
        self.sink = RowSink(
            memory=collector.buffers.arena,
            base=np.zeros((players, len(layout.columns)), np.int64),
            position=np.zeros(players, np.int64),
            capacity=np.zeros(players, np.int64),
            widths=layout.widths,
            policy=np.zeros((players, 2), np.int64),
            columns=layout.columns,
        )

    def ready(self, rows: int) -> None:
        for player in range(self._collector.players):
            if self.sink.position[player] + rows > self.sink.capacity[player] or self._discarding[player]:
                self._open(player, rows)

    def reserve(self, player: int, rows: int) -> tuple[dict[str, np.ndarray], int]:
        self._collector.check()
        if self.sink.position[player] + rows > self.sink.capacity[player] or self._discarding[player]:
            self._open(player, rows)
        views = self._views[player]
        assert views is not None
        start = int(self.sink.position[player])
        return views, start

    def _open(self, player: int, rows: int) -> None:
        """Open the player's next block, as the overflow policy says."""
        collector, producer = self._collector, self._producers[player]
        self._discarding[player] = False
        while True:
            collector.check()
            block = producer.open(rows, timeout=WAIT_SECONDS)
            if block is not None:
                offset, position, capacity = block.offset, block.position, block.capacity
                break
            if self._discard:
                offset, position, capacity = self._discard_base, 0, self._layout.rows
                self._discarding[player] = True
                break
        self.sink.base[player] = offset + self._layout.offsets
        self.sink.position[player] = self._published[player] = position
        self.sink.capacity[player] = capacity
        memory = self.sink.memory[offset : offset + self._layout.nbytes]
        self._views[player] = self._layout.views(memory)

    def commit(self, starts: Sequence[EpisodeStart] = (), ends: Sequence[EpisodeEnd] = ()) -> None:
        collector = self._collector
        fresh = self.sink.position - self._published
        # Before publishing: whoever sees a row finds it counted and its episode announced.
        with collector._lock:
            collector.ledger.produced += fresh
        collector.announce(starts, ends)
        for player in np.flatnonzero(fresh).tolist():
            rows = int(fresh[player])
            if self._discarding[player]:
                self._producers[player].refuse(rows)
                self.sink.position[player] = 0
            else:
                self._producers[player].publish(int(self.sink.position[player]))
        self._published[:] = self.sink.position

    def close(self) -> None:
        for producer in self._producers:
            producer.hand_over()
