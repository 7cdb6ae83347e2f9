"""Packed action masks as one bool an action."""

from __future__ import annotations

import numpy as np

from expkit.errors import UsageError
from expkit.kernels.planes import expand_bits


def expand_mask(
    bits: np.ndarray, items: int, repeat: int = 1, ones: int = 0, out: np.ndarray | None = None
) -> np.ndarray:
    """Packed bits as one bool each: (rows, repeat * items + ones), the items `repeat` times, then `ones` true.

    bits  uint8 (rows, ceil(items / 8)), lowest bit first
    out   bool, C-contiguous, filled and returned when given. Raises UsageError when a shape does not fit.
    """
    rows, shape = len(bits), (len(bits), repeat * items + ones)
    if bits.shape != (rows, (items + 7) // 8) or bits.dtype != np.uint8:
        raise UsageError(f"{bits.dtype} {bits.shape} does not hold {items} bits a row as uint8")
    if out is None:
        out = np.empty(shape, bool)
    elif out.shape != shape or out.dtype != bool or not out.flags.carray:
        raise UsageError(f"out is {out.dtype} {out.shape}; it must be contiguous bool {shape}")
    packed = np.ascontiguousarray(bits)
    expand_bits(packed.ctypes.data, rows, items, repeat, ones, out.ctypes.data)
    return out
