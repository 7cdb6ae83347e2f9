"""PlayerBuffers: a ring for each player, all in one arena, so that kernels get one memory array for all of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from expkit.buffers.blocks import control_words
from expkit.buffers.ring import BlockRing
from expkit.buffers.spill import SpillBuffer
from expkit.buffers.waiting import Doorbell
from expkit.errors import UsageError
from expkit.row.layout import BlockLayout, aligned_empty


class PlayerBuffers:
    """Rings of players 0..players-1, in one arena.

    rings           by player
    arena           uint8, `blocks` blocks per player, then one spare block
    scratch_offset  byte offset of that spare block: where rows may go that `drop-newest` refuses
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
        filled: Doorbell | None = None,
    ):
        if players < 1:
            raise UsageError(f"{players} players; at least one is needed")
        if overflow == "spill" and spill_dir is None:
            raise UsageError("overflow 'spill' needs a directory to spill to")
        self.scratch_offset = layout.nbytes * blocks * players
        self.arena = aligned_empty(self.scratch_offset + layout.nbytes)
        words = control_words(blocks)
        control = aligned_empty(8 * words * players).view(np.int64)
        self.filled, freed = filled or Doorbell(), Doorbell()
        self.rings = []
        for player in range(players):
            spill = None
            if spill_dir is not None and overflow == "spill":
                spill = SpillBuffer(layout, spill_dir / f"player{player}.spill", player=player)
            self.rings.append(
                BlockRing(
                    layout,
                    blocks,
                    overflow=overflow,
                    memory=self.arena,
                    offset=layout.nbytes * blocks * player,
                    control=control[words * player : words * (player + 1)],
                    player=player,
                    spill=spill,
                    filled=self.filled,
                    freed=freed,
                )
            )

    def close(self) -> None:
        """Close all rings; what they hold can still be drained. Closing twice is fine."""
        for ring in self.rings:
            ring.close()
