"""Copying rows into and out of a ring's blocks: wide ones one by one, scattered ones into a new block of columns."""

from __future__ import annotations

import numpy as np

from expkit.kernels import kernel
from expkit.kernels.atomics import copy_1, copy_2, copy_4, copy_8, copy_bytes
from expkit.kernels.bytes_at import fence, stream64
from expkit.kernels.ring import ARENA, BLOCK_BYTES, unchanged


@kernel(_nrt=False)
def gather_rows(ctl, memory, ranges, chosen, place, tables, out):
    """Copy the rows with indices `chosen` among those listed in `ranges` to the columns in `out`, in that order.

    `ctl` and `memory` are the ring's; `ranges` int64 (n, 6) comes from `readable_rows`; `chosen` int64 (rows,);
    `place` int64 (2, rows) is overwritten with each row's block offset and row in it; `tables` int64 (3, columns):
    byte offset of a column in a block, bytes of its row, byte offset of the column in `out`, which is uint8.
    Returns what `unchanged` then says: whether what was copied is of one time.
    """
    count, last = len(chosen), len(ranges) - 1
    blocks, rows = place[0], place[1]
    # Nearly all blocks hold as many rows, so that the guess is right; a search among eight mispredicts its branches.
    share = len(ranges) / ranges[last, 5]
    for i in range(count):
        low = min(np.int64(chosen[i] * share), last)
        while low > 0 and chosen[i] < ranges[low - 1, 5]:
            low -= 1
        while chosen[i] >= ranges[low, 5]:
            low += 1
        blocks[i] = ctl[ARENA] + ranges[low, 0] * ctl[BLOCK_BYTES]
        rows[i] = ranges[low, 3] - ranges[low, 5] + chosen[i]
    for column in range(tables.shape[1]):
        offset, width, to = tables[0, column], tables[1, column], tables[2, column]
        if width == 1:
            for i in range(count):
                copy_1(out, to + i, memory, blocks[i] + offset + rows[i])
        elif width == 2:
            for i in range(count):
                copy_2(out, to + i * 2, memory, blocks[i] + offset + rows[i] * 2)
        elif width == 4:
            for i in range(count):
                copy_4(out, to + i * 4, memory, blocks[i] + offset + rows[i] * 4)
        elif width == 8:
            for i in range(count):
                copy_8(out, to + i * 8, memory, blocks[i] + offset + rows[i] * 8)
        elif width == 16:
            for i in range(count):
                source = blocks[i] + offset + rows[i] * 16
                copy_8(out, to + i * 16, memory, source)
                copy_8(out, to + i * 16 + 8, memory, source + 8)
        else:
            for i in range(count):
                copy_bytes(out, to + i * width, memory, blocks[i] + offset + rows[i] * width, width)
    return unchanged(ctl, ranges, len(ranges))


@kernel(_nrt=False)
def stream_array(values, target):
    """A contiguous array of a multiple of 64 bytes to address `target`, a multiple of 64, past the caches."""
    source = values.ctypes.data
    for at in range(0, values.nbytes, 64):
        stream64(target, source, at)
    fence()
