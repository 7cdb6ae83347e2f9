"""Which rows of a column are those above them, byte for byte."""

from __future__ import annotations

from expkit.kernels import kernel
from expkit.kernels.bytes_at import load1, load8


@kernel
def keep_unchanged(address, width, same):
    """Clear same[i] where row i + 1 differs from row i; rows that are marked as different already are not looked at.

    address  of the first of len(same) + 1 rows of `width` bytes;  same: bool, in and out
    """
    words = width >> 3
    for row in range(same.shape[0]):
        if not same[row]:
            continue
        above, here = address + row * width, address + (row + 1) * width
        equal = True
        for word in range(words):
            if load8(above, word << 3) != load8(here, word << 3):
                equal = False
                break
        for byte in range(words << 3, width):
            equal = equal and load1(above, byte) == load1(here, byte)
        same[row] = equal
