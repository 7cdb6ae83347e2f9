"""What a consumer takes from a ring: rows in place, to be given back."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from expkit.buffers.protocol import Batch
from expkit.row.layout import BlockLayout


class Claimed:
    """Rows [start, start + rows) of one block, in place, until `release`. A context manager that releases.

    player          whose rows
    sequence        ring-wide number of the batch, one more for each; blocks are to be written in this order
    memory, offset  the rows lie in the uint8 array `memory`, column c from byte offset + layout.offsets[c] on
    whole           no further batch of this block follows
    dropped_before  rows dropped in front of these, by cause
    """

    __slots__ = (
        "_give_back",
        "dropped_before",
        "layout",
        "memory",
        "offset",
        "player",
        "rows",
        "sequence",
        "start",
        "whole",
    )

    def __init__(
        self,
        player: int,
        sequence: int,
        layout: BlockLayout,
        memory: np.ndarray,
        offset: int,
        start: int,
        rows: int,
        whole: bool,
        dropped_before: Mapping[str, int],
        give_back: Callable[[], None] | None,
    ):
        self.player, self.sequence, self.layout = player, sequence, layout
        self.memory, self.offset = memory, offset
        self.start, self.rows, self.whole = start, rows, whole
        self.dropped_before = dict(dropped_before)
        self._give_back = give_back

    @property
    def columns(self) -> dict[str, np.ndarray]:
        """Stored arrays of the rows, without a copy; not to be used after `release`."""
        block = self.memory[self.offset : self.offset + self.layout.nbytes]
        return self.layout.views(block, self.start, self.start + self.rows)

    def release(self) -> None:
        """Give the rows back; a second call does nothing."""
        give_back, self._give_back = self._give_back, None
        if give_back is not None:
            give_back()

    def __enter__(self) -> Claimed:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def concatenate(claims: list[Claimed]) -> Batch:
    """One batch with copies of the rows of all claims, which must follow on one another without a gap."""
    parts = [claim.columns for claim in claims]
    columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return Batch(claims[0].player, sum(claim.rows for claim in claims), columns, claims[0].dropped_before)
