"""Pools of reusable arrays that never hand out memory somebody still looks at.

Allocating a 14 KB tensor a board costs page faults and cache misses: a tensor that was just given back is still in
L1 (160 ns to fill with planes, 320 ns when sixteen take turns). What makes pools dangerous is a record that keeps
a view of an array after it went back: the next user overwrites it. So giving back is a request here, not a promise:
the pool looks at who refers to the array before it hands it out again, and takes a fresh one in doubt.
"""

from __future__ import annotations

import sys
import threading
from collections import deque
from dataclasses import dataclass

import numpy as np

from expkit.errors import UsageError
from expkit.row.layout import aligned_empty

DEFAULT_SIZE = 16


@dataclass(frozen=True, slots=True)
class PoolStats:
    """hits         leases served from the pool
    misses       leases that took a fresh array: at first, when all were out, or when one was still looked at
    outstanding  leases not released
    pooled       arrays the pool keeps, at most its size; those on lease count
    held         arrays that were given back but are still looked at from outside
    """

    hits: int
    misses: int
    outstanding: int
    pooled: int
    held: int


class Lease:
    """One array, yours until `release` or the end of the `with` block. Views of it may outlive the lease: the
    memory is then not handed out again before they are gone. A lease that is forgotten releases itself."""

    __slots__ = ("_returned", "_slot", "array")

    def __init__(self, returned: deque[_Slot], slot: _Slot, array: np.ndarray):
        self._returned: deque[_Slot] | None = returned
        self._slot = slot
        self.array = array

    def release(self) -> None:
        """Give the array back; `array` is empty from here on. Further calls do nothing."""
        returned, self._returned = self._returned, None
        if returned is not None:
            # The lease's own reference goes first, or the pool would take it for somebody who looks.
            self.array = _NOTHING
            returned.append(self._slot)

    def __enter__(self) -> np.ndarray:
        return self.array

    def __exit__(self, *_: object) -> None:
        self.release()

    def __del__(self) -> None:
        self.release()


_NOTHING = np.empty(0)


class _Slot:
    """One allocation. `memory` is the array that owns the bytes, `view` the aligned part of it.

    NumPy makes the owner of the bytes the base of every view, however often one views a view: counting the
    references to the owner therefore finds them all, memoryviews and foreign tensors included. An address taken
    as a number is the one thing it cannot see.
    """

    __slots__ = ("kept", "memory", "quiet", "view")

    def __init__(self, nbytes: int, kept: bool):
        self.view = aligned_empty(nbytes)
        owner = self.view.base
        assert owner is not None
        self.memory = owner
        del owner  # or it would be counted as one of the quiet references
        self.kept = kept
        self.quiet = self.references()

    def references(self) -> tuple[int, int]:
        return sys.getrefcount(self.memory), sys.getrefcount(self.view)

    def looked_at(self) -> bool:
        """Whether somebody outside the pool holds a view."""
        return self.references() != self.quiet


class ArrayPool:
    """At most `size` arrays of one shape and dtype, aligned to 64 bytes, given out last in, first out.

    Arrays are not cleared: whoever acquires one writes all of it. Safe to use from several threads. A pool never
    refuses and never shares: with nothing free it allocates, which `stats` counts as a miss.
    """

    def __init__(self, shape: tuple[int, ...], dtype: np.dtype | type | str, size: int = DEFAULT_SIZE):
        if size < 1:
            raise UsageError(f"a pool of {size} arrays holds none; give it at least 1")
        self.shape = shape
        self.dtype = np.dtype(dtype)
        self.size = size
        self._nbytes = int(np.prod(shape, dtype=np.int64)) * self.dtype.itemsize
        self._lock = threading.Lock()
        # Leases come back here, without the lock: the garbage collector may end one in the middle of `acquire`.
        self._returned: deque[_Slot] = deque()
        self._idle: list[_Slot] = []
        self._kept = self._hits = self._misses = self._outstanding = 0

    def acquire(self) -> Lease:
        """A lease on an array of uninitialised values."""
        with self._lock:
            self._collect()
            slot = self._take_idle()
            if slot is None:
                slot = _Slot(self._nbytes, kept=self._kept < self.size)
                self._kept += slot.kept
                self._misses += 1
            else:
                self._hits += 1
            self._outstanding += 1
        return Lease(self._returned, slot, slot.view.view(self.dtype).reshape(self.shape))

    def stats(self) -> PoolStats:
        with self._lock:
            self._collect()
            held = sum(slot.looked_at() for slot in self._idle)
            return PoolStats(self._hits, self._misses, self._outstanding, self._kept, held)

    def _collect(self) -> None:
        while self._returned:
            slot = self._returned.popleft()
            self._outstanding -= 1
            if slot.kept:
                self._idle.append(slot)

    def _take_idle(self) -> _Slot | None:
        for index in range(len(self._idle) - 1, -1, -1):
            if not self._idle[index].looked_at():
                return self._idle.pop(index)
        return None


class TensorPool(ArrayPool):
    """float32 tensors, (planes, H, W) or with leading rows."""

    def __init__(self, shape: tuple[int, ...], size: int = DEFAULT_SIZE):
        super().__init__(shape, np.float32, size)


class MaskPool(ArrayPool):
    """bool masks, one entry an action."""

    def __init__(self, actions: int, size: int = DEFAULT_SIZE):
        super().__init__((actions,), bool, size)
