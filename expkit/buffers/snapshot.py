"""Copies of rows that stay in their ring, taken while producers and consumers go on.

Blocks are copied without a lock; afterwards their generations tell whether one was opened anew meanwhile, and then
everything is copied again, so that no row is ever half old, half new.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from expkit.buffers.blocks import RingBlocks
from expkit.kernels import ring as words
from expkit.kernels.gather import gather_rows
from expkit.row.layout import BlockLayout

if TYPE_CHECKING:
    from expkit.buffers.spill import SpillBuffer

# A ring that is overwritten faster than it can be copied, 20 times in a row, is copied with its taking end locked.
COPY_TRIES = 20

# Given the number of readable rows, oldest first, which to copy: int64 indices.
Choice = Callable[[int], np.ndarray]


def copy_rows(ring: RingBlocks, choose: Choice, include_drained: bool) -> dict[str, np.ndarray]:
    """Stored columns of the rows that `choose` picks among the readable ones."""
    ranges = np.empty((ring.blocks, 6), np.int64)
    for _ in range(COPY_TRIES):
        found = ring.until_unlocked(lambda: words.readable_rows(ring.control, include_drained, ranges))
        columns, whole = _gather(ring, ranges[:found], choose)
        if whole:
            return columns
    # While it is locked, what is held stays; what is drained may go, so it is left out here.
    ring.until_unlocked(lambda: words.lock_taking(ring.control, True))
    try:
        found = words.readable_rows(ring.control, False, ranges)
        return _gather(ring, ranges[: max(found, 0)], choose)[0]
    finally:
        words.lock_taking(ring.control, False)


def copy_spilled(ring: RingBlocks, spill: SpillBuffer, choose: Choice, include_drained: bool) -> dict[str, np.ndarray]:
    """As `copy_rows`, of a ring whose oldest rows are on disk. The caller keeps both from being drained."""
    while True:
        on_disk, chosen = spill.size, np.zeros(0, np.int64)

        def choose_in_memory(held: int, before: int = on_disk) -> np.ndarray:
            nonlocal chosen
            chosen = choose(before + held)
            return chosen[chosen >= before] - before

        # While rows are on disk, drained ones in memory are left out: some are older than those on disk, some are
        # copies of them, and only what is held has one order.
        columns = copy_rows(ring, choose_in_memory, include_drained and on_disk == 0)
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


def _gather(ring: RingBlocks, ranges: np.ndarray, choose: Choice) -> tuple[dict[str, np.ndarray], bool]:
    """The chosen rows, and whether no block was opened anew while they were copied."""
    chosen = choose(int(ranges[-1, 5]) if len(ranges) else 0)
    target, whole = _target(ring.layout, len(chosen)), True
    out = np.empty(target.nbytes, np.uint8)
    if len(chosen):
        place = np.empty((2, len(chosen)), np.int64)
        whole = gather_rows(ring.control, ring.memory, ranges, chosen, place, target.tables, out)
    return {name: np.ndarray(shape, dtype, out, offset) for name, shape, dtype, offset in target.columns}, whole


class _Target(NamedTuple):
    """How copied rows lie in memory: `tables` as gather_rows wants them, and name, shape, dtype, offset by column."""

    nbytes: int
    tables: np.ndarray
    columns: list[tuple[str, tuple[int, ...], np.dtype[Any], int]]


@lru_cache(maxsize=64)  # samples nearly always have the same size
def _target(layout: BlockLayout, rows: int) -> _Target:
    target = BlockLayout(layout.schema, max(rows, 1))
    columns = [
        (column.name, column.shape(rows), column.dtype, offset)
        for column, offset in zip(target.columns, target.offsets.tolist(), strict=True)
    ]
    return _Target(target.nbytes, np.stack([layout.offsets, layout.widths, target.offsets]), columns)
