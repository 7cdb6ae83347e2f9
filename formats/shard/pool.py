"""Memory for decoded columns, used again as soon as nobody holds the arrays that were made of it.

Fresh pages cost far more than decoding into them: 118 MB of a block's planes took 5.6 us a row into new memory and
3.0 us into memory used before, where a plain copy between warm arrays takes 2.5.
"""

from __future__ import annotations

import math
import sys
from threading import Lock
from typing import Any

import numpy as np

from expkit.row.layout import ALIGN

_SMALL = 1 << 20  # the C library's allocator recycles these itself
_KEPT = 256 << 20  # bytes of memory kept, in use or not
_UNUSED = 3  # references to a buffer nobody uses: the list, the loop variable, getrefcount's argument


class ArrayPool:
    """Gives uninitialised arrays, large ones aligned to cache lines; a buffer is free again when every view of it is
    gone. Safe between threads."""

    def __init__(self, kept: int = _KEPT):
        self._kept = kept
        self._buffers: list[np.ndarray] = []
        self._lock = Lock()

    def empty(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray:
        """Like numpy.empty."""
        need = math.prod(shape) * dtype.itemsize
        if need < _SMALL:
            return np.empty(shape, dtype)
        with self._lock:
            for buffer in self._buffers:
                if need + ALIGN <= len(buffer) <= 2 * need and sys.getrefcount(buffer) == _UNUSED:
                    break
            else:
                # A little more than is needed now, for the next one is seldom of the very same size.
                step = 1 << max(0, need.bit_length() - 4)
                buffer = np.empty(-(-need // step) * step + ALIGN, np.uint8)
                self._remember(buffer)
            shift = -buffer.ctypes.data % ALIGN
            return buffer[shift : shift + need].view(dtype).reshape(shape)

    def forget(self) -> None:
        """Keep nothing: between two kinds of work whose arrays are of other sizes."""
        with self._lock:
            self._buffers.clear()

    def _remember(self, buffer: np.ndarray) -> None:
        self._buffers.append(buffer)
        while sum(map(len, self._buffers)) > self._kept:
            del self._buffers[0]


POOL = ArrayPool()
