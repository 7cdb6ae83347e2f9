"""What readers keep of blocks they have seen, all open files together within one bound."""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable
from threading import Lock
from typing import Any, TypeVar
from weakref import ref

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class Kept(dict[Key, Value]):
    """What one reader keeps. Values are looked up as in any dict, by several threads at a time, and may be gone the
    next time."""

    __slots__ = ("__weakref__",)


class KeptBytes:
    """Bounds what many `Kept` hold together: beyond `limit` bytes the oldest values go first, whosever they are."""

    def __init__(self, limit: int):
        self.limit = limit
        self.nbytes = 0
        self._order: deque[tuple[ref[Kept[Any, Any]], Any, int]] = deque()
        self._lock = Lock()

    def keep(self, kept: Kept[Key, Value], key: Key, value: Value, nbytes: int) -> None:
        """Put a value of about `nbytes` bytes into `kept`, unless another thread has done so meanwhile."""
        with self._lock:
            if key in kept:
                return
            kept[key] = value
            self.nbytes += nbytes
            self._order.append((ref(kept), key, nbytes))
            while self.nbytes > self.limit:
                owner, oldest, size = self._order.popleft()
                self.nbytes -= size
                held = owner()
                if held is not None:
                    held.pop(oldest, None)
