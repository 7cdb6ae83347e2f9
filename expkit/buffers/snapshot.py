"""Copies of rows that stay in their ring, taken while producers and consumers go on.

Blocks are copied without a lock; afterwards their generations tell whether one was opened anew meanwhile, and then
everything is copied again, so that no row is ever half old, half new.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from expkit.kernels import ring as words
from expkit.kernels.gather import gather_rows
from expkit.layout import BlockLayout, aligned_empty

if TYPE_CHECKING:
    from expkit.buffers.ring import BlockRing
    from expkit.buffers.spill import SpillBuffer

# A ring that is overwritten faster than it can be copied, 20 times in a row, is copied with its taking end locked.
COPY_TRIES = 20

# Given the number of readable rows, oldest first, which to copy: int64 indices.
Choice = Callable[[int], np.ndarray]


def copy_rows(ring: BlockRing, choose: Choice, include_drained: bool) -> dict[str, np.ndarray]:
    """Stored columns of the rows that `choose` picks among the readable ones."""
    ranges = np.zeros((ring.blocks, 5), np.int64)
    for _ in range(COPY_TRIES):
        found = ring.until_unlocked(lambda: words.readable_rows(ring.control, include_drained, ranges))
        columns = _gather(ring, ranges[:found], choose)
        if words.unchanged(ring.control, ranges, found):
            return columns
    # While it is locked, what is held stays; what is drained may go, so it is left out here.
    ring.until_unlocked(lambda: words.lock_taking(ring.control, True))
    try:
        found = words.readable_rows(ring.control, False, ranges)
        return _gather(ring, ranges[: max(found, 0)], choose)
    finally:
        words.lock_taking(ring.control, False)


def copy_spilled(ring: BlockRing, spill: SpillBuffer, choose: Choice, include_drained: bool) -> dict[str, np.ndarray]:
    """As `copy_rows`, of a ring whose oldest rows are on disk. The caller keeps both from being drained."""
    while True:
        on_disk, chosen = spill.size, np.zeros(0, np.int64)

        def choose_in_memory(held: int, before: int = on_disk) -> np.ndarray:
            nonlocal chosen
            chosen = choose(before + held)
            return chosen[chosen >= before] - before

        columns = copy_rows(ring, choose_in_memory, include_drained)
        old = np.flatnonzero(chosen < on_disk)
        if len(old) == 0:
            return columns
        spilled = spill.rows_at(chosen[old])
        if spilled is None:
            continue  # a run was unreadable and is dropped: fewer rows to choose from now
        new = np.flatnonzero(chosen >= on_disk)
        out = {}
        for name, array in columns.items():
            both = np.empty((len(chosen), *array.shape[1:]), array.dtype)
            both[old], both[new] = spilled[name], array
            out[name] = both
        return out


def _gather(ring: BlockRing, ranges: np.ndarray, choose: Choice) -> dict[str, np.ndarray]:
    ordered = ranges[np.argsort(ranges[:, 4], kind="stable")] if len(ranges) > 1 else ranges
    ends = np.cumsum(ordered[:, 3] - ordered[:, 2])
    chosen = choose(int(ends[-1]) if len(ends) else 0)
    which = np.searchsorted(ends, chosen, side="right")
    rows = chosen - (ends - ordered[:, 3])[which] if len(ends) else chosen
    layout = ring.layout
    blocks = int(ring.control[words.ARENA]) + (ordered[:, 0] * layout.nbytes)[which] if len(ends) else chosen
    target = BlockLayout(ring.schema, max(len(chosen), 1))
    out = aligned_empty(target.nbytes)
    gather_rows(ring.memory, blocks, rows, layout.offsets, layout.widths, out, target.offsets)
    return target.views(out, 0, len(chosen))
