"""BlockRing: the buffer the collector fills, a lock-free ring of fixed blocks of one player's rows."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from expkit.buffers.blocks import ALL_ROWS, RingBlocks
from expkit.buffers.claim import Claimed, concatenate
from expkit.buffers.producer import Producer
from expkit.buffers.protocol import Batch, BufferStats, ExperienceBuffer
from expkit.buffers.snapshot import Choice, copy_rows, copy_spilled
from expkit.buffers.waiting import Doorbell
from expkit.errors import NotThere
from expkit.kernels import ring as words
from expkit.row.dropped import CAUSES
from expkit.row.layout import BlockLayout

if TYPE_CHECKING:
    from expkit.buffers.spill import SpillBuffer


class BlockRing(RingBlocks, ExperienceBuffer):
    """A ring of `blocks` blocks of one player's rows, struct of arrays, in one arena: RingBlocks as a buffer.

    `add` and `add_batch` share one producer behind a lock. Threads with rows of their own take a `producer()` each.
    """

    def __init__(
        self,
        layout: BlockLayout,
        blocks: int,
        *,
        overflow: str = "block",
        memory: np.ndarray | None = None,
        offset: int = 0,
        control: np.ndarray | None = None,
        player: int = 0,
        timeout: float = 60.0,
        spill: SpillBuffer | None = None,
        attach: bool = False,
        generation: int = 0,
        filled: Doorbell | None = None,
        freed: Doorbell | None = None,
    ):
        super().__init__(
            layout, blocks, overflow=overflow, memory=memory, offset=offset, control=control, player=player,
            timeout=timeout, spill=spill, attach=attach, generation=generation, filled=filled, freed=freed,
        )  # fmt: skip
        self._producers: weakref.WeakSet[Producer] = weakref.WeakSet()
        self._sequence = generation
        self._high_water = 0
        self._add_lock = threading.Lock()
        self._default = self.producer()

    # Producing

    def producer(self) -> Producer:
        """A producer for one more thread. Each keeps a block open, so a ring needs more blocks than producers."""
        producer = Producer(self)
        self._producers.add(producer)
        return producer

    def add(self, row: Mapping[str, Any]) -> None:
        with self._add_lock:
            self._default.add(row)

    def add_batch(self, columns: Mapping[str, Any]) -> None:
        with self._add_lock:
            self._default.add_batch(columns)

    # Consuming

    def claim(self, *, partial: bool = False, max_rows: int | None = None) -> Claimed | None:
        """The undrained rows of the oldest full block, in place; None when there is none.

        With `partial`, when no block is full, also the published rows of a block that is still filling, without
        disturbing its producer: so repeated partial claims flush everything. Several threads may claim at a time.
        """
        return self._claim(ALL_ROWS if max_rows is None else max_rows, partial, False)

    def _claim(self, max_rows: int, partial: bool, stop_at_gap: bool) -> Claimed | None:
        if self._spill is None:
            return self._claim_block(max_rows, partial, stop_at_gap)
        with self._take_lock:
            self._note_high_water()
            claim = self._spill.claim(max_rows, stop_at_gap)
            if claim is None:
                if self._spill.size or (stop_at_gap and self._spill.gap_ahead):
                    return None
                claim = self._claim_block(max_rows, partial, stop_at_gap)
                if claim is None:
                    return None
                for cause, rows in self._spill.take_gap().items():
                    claim.dropped_before[cause] = claim.dropped_before.get(cause, 0) + rows
            # Rows that went by the disk were numbered before; a consumer's numbers have no holes.
            claim.sequence, self._sequence = self._sequence, self._sequence + 1
            claim.player = self.player
            return claim

    def drain(self, max_rows: int | None = None) -> Batch | None:
        left = ALL_ROWS if max_rows is None else max_rows
        claims: list[Claimed] = []
        try:
            while left > 0:
                claim = self._claim(left, True, bool(claims))
                if claim is None:
                    break
                claims.append(claim)
                left -= claim.rows
            return concatenate(claims) if claims else None
        finally:
            for claim in claims:
                claim.release()

    # Closing and counting

    def clear(self) -> None:
        with self._take_lock:
            self._note_high_water()
            if self._spill is not None:
                self._spill.clear()
            self.until_unlocked(lambda: words.clear_ring(self.control))
        self.freed.ring()

    def close(self) -> None:
        self.control[words.CLOSED] = 1
        for producer in list(self._producers):
            producer.stop()
        self.filled.ring()
        self.freed.ring()

    def latest(self, rows: int, *, include_drained: bool = False) -> Batch:
        def newest(held: int) -> np.ndarray:
            return np.arange(max(0, held - rows), held)

        return self._copy(newest, include_drained)

    def sample(self, count: int, rng: np.random.Generator, *, include_drained: bool = False) -> Batch:
        def uniform(held: int) -> np.ndarray:
            if held == 0:
                raise NotThere(f"the buffer of player {self.player} is empty; nothing to sample")
            # Half the time of rng.integers, and no further from uniform than held / 2**53.
            return (rng.random(count) * held).astype(np.int64)

        return self._copy(uniform, include_drained)

    def _copy(self, choose: Choice, include_drained: bool) -> Batch:
        if self._spill is None:
            columns = copy_rows(self, choose, include_drained)
        else:
            with self._take_lock:
                columns = copy_spilled(self, self._spill, choose, include_drained)
        return Batch(self.player, len(columns["step"]), columns)

    def stats(self) -> BufferStats:
        counts = np.zeros(9, np.int64)
        with self._take_lock:
            self.until_unlocked(lambda: words.ring_counts(self.control, counts))
            held, added, drained, *dropped, high_water, _ = counts.tolist()
            if self._spill is not None:
                # What went to disk left the ring as if drained, and came back from there or has yet to.
                disk = self._spill.stats()
                held += disk.size
                drained += disk.drained - disk.added
                dropped = [count + disk.dropped[cause] for cause, count in zip(CAUSES, dropped, strict=True)]
                self._high_water = high_water = max(self._high_water, held)
        return BufferStats(
            size=held,
            capacity=self.blocks * self.layout.rows,
            high_water=high_water,
            added=added,
            drained=drained,
            dropped=dict(zip(CAUSES, dropped, strict=True)),
        )

    def _note_high_water(self) -> None:
        """Remember the most rows ever held, disk included; called before rows leave."""
        if self._spill is not None:
            counts = np.zeros(9, np.int64)
            self.until_unlocked(lambda: words.ring_counts(self.control, counts))
            self._high_water = max(self._high_water, int(counts[0]) + self._spill.size)
