"""Copying scattered rows of blocks into one new block of columns."""

from __future__ import annotations

from expkit.kernels import kernel
from expkit.kernels.atomics import copy_1, copy_2, copy_4, copy_8, copy_bytes


@kernel(_nrt=False)
def gather_rows(memory, blocks, rows, offsets, widths, out, out_offsets):
    """Copy row rows[i] of the block at byte blocks[i] of `memory` to row i of the columns in `out`.

    `memory`, `out` uint8; `blocks`, `rows` int64 (n,); `offsets`, `widths`, `out_offsets` int64 (columns,): bytes from
    the start of a block, of one row, and from the start of `out`.
    """
    count = len(rows)
    for column in range(len(offsets)):
        offset, width, to = offsets[column], widths[column], out_offsets[column]
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
