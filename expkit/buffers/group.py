"""PlayerBuffers: a ring for each player, all in one arena, so that kernels get one memory array for all of them."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np

from expkit.buffers.blocks import control_words
from expkit.buffers.claim import Claimed
from expkit.buffers.protocol import BufferStats
from expkit.buffers.ring import BlockRing
from expkit.buffers.spill import SpillBuffer
from expkit.buffers.waiting import Doorbell
from expkit.errors import BufferClosed, NotThere, UsageError
from expkit.row.layout import BlockLayout, aligned_empty


class PlayerBuffers:
    """Rings of players 0..players-1, each made when first asked for, in one arena that is there from the start.

    arena           uint8, `blocks` blocks per player, then one spare block
    scratch_offset  byte offset of that spare block: where rows may go that `drop-newest` refuses
    control         int64 control words of all rings, one ring after the other
    filled          doorbell rung when a block is full; several groups may share one
    spill_dir       where `overflow="spill"` puts its files, one per player
    """

    def __init__(
        self,
        layout: BlockLayout,
        *,
        players: int,
        blocks: int,
        overflow: str = "block",
        spill_dir: Path | None = None,
        timeout: float = 60.0,
        filled: Doorbell | None = None,
    ):
        if players < 1:
            raise UsageError(f"{players} players; at least one is needed")
        if overflow == "spill" and spill_dir is None:
            raise UsageError("overflow 'spill' needs a directory to spill to")
        self.layout, self.players, self.blocks = layout, players, blocks
        self.overflow, self.spill_dir, self.timeout = overflow, spill_dir, timeout
        self.scratch_offset = layout.nbytes * blocks * players
        self.arena = aligned_empty(self.scratch_offset + layout.nbytes)
        self._words = control_words(blocks)
        self.control = aligned_empty(8 * self._words * players).view(np.int64)
        self.control[:] = 0
        self.filled, self.freed = filled or Doorbell(), Doorbell()
        self._lock = threading.Lock()
        self._rings: dict[int, BlockRing] = {}
        self._closed = False

    def ring(self, player: int) -> BlockRing:
        """The player's ring; made now if it is not there. Raises NotThere, or BufferClosed for a new one after
        close."""
        ring = self._rings.get(player)
        return ring if ring is not None else self._make(player)

    def _make(self, player: int) -> BlockRing:
        if not 0 <= player < self.players:
            raise NotThere(f"no player {player}; there are {self.players}, counted from 0")
        with self._lock:
            if player in self._rings:
                return self._rings[player]
            if self._closed:
                raise BufferClosed(f"player {player} has no ring and the buffers are closed")
            spill = None
            if self.spill_dir is not None and self.overflow == "spill":
                spill = SpillBuffer(self.layout, self.spill_dir / f"player{player}.spill", player=player)
            ring = BlockRing(
                self.layout,
                self.blocks,
                overflow=self.overflow,
                memory=self.arena,
                offset=self.layout.nbytes * self.blocks * player,
                control=self.control[self._words * player : self._words * (player + 1)],
                player=player,
                timeout=self.timeout,
                spill=spill,
                filled=self.filled,
                freed=self.freed,
            )
            self._rings[player] = ring
            return ring

    @property
    def active(self) -> list[int]:
        """Players that have a ring."""
        return sorted(self._rings)

    def remove_player(self, player: int) -> BufferStats:
        """Close the player's ring and drop what it holds; returns its last counts. A ring asked for later is new.

        Its producers and claims must be done. Raises NotThere when there is no such ring.
        """
        with self._lock:
            ring = self._rings.pop(player, None)
            if ring is None:
                raise NotThere(f"player {player} has no ring")
            ring.close()
            ring.clear()
            return ring.stats()

    def claim(self, *, partial: bool = False) -> Claimed | None:
        """A claim from the ring with the most full blocks; with `partial`, if none is full, from any that has rows."""
        rings = sorted(self._snapshot(), key=lambda ring: -ring.full_blocks)
        for ring in rings:
            claimed = ring.claim(partial=partial)
            if claimed is not None:
                return claimed
        return None

    def wait_full(self, timeout: float | None = None) -> bool:
        """Wait until some ring has a full block, all is closed, or `timeout` seconds are over. Returns whether one
        has."""
        self.filled.wait_for(lambda: self._closed or self._any_full(), timeout)
        return self._any_full()

    def _any_full(self) -> bool:
        return any(ring.full_blocks > 0 for ring in self._snapshot())

    def _snapshot(self) -> list[BlockRing]:
        return list(self._rings.values())

    def stats(self) -> dict[int, BufferStats]:
        """Counts by player."""
        return {ring.player: ring.stats() for ring in self._snapshot()}

    def close(self) -> None:
        """Close all rings; what they hold can still be drained. Closing twice is fine."""
        with self._lock:
            self._closed = True
        for ring in self._snapshot():
            ring.close()
        self.filled.ring()
        self.freed.ring()
