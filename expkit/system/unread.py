"""What this process could not read: a verb that got by without it has not told the whole, and what is made of a run
must not take the place of what was not read."""

from __future__ import annotations

import os
from collections import deque

from expkit.errors import ReadFailed

_MOST = 5
_failed: list[str] = []
_newest: deque[tuple[int, str, str]] = deque(maxlen=64)  # number, path, message
_count = 0


def note(path: str | os.PathLike[str], message: str) -> None:
    """One read of `path` failed; the message is that of its ReadFailed. Only the first few are kept for `take`."""
    global _count
    _count += 1
    _newest.append((_count, os.path.abspath(path), message))
    if len(_failed) < _MOST:
        _failed.append(message)


def take() -> list[str]:
    """What was noted, and forgotten by that."""
    out = list(_failed)
    _failed.clear()
    return out


def mark() -> int:
    """This moment, for `refuse_since`."""
    return _count


def refuse_since(moment: int, folder: str | os.PathLike[str]) -> None:
    """Raises ReadFailed where a read in `folder` has failed since then, whoever got by without it."""
    within = os.path.join(os.path.abspath(folder), "")
    for number, path, message in _newest:
        if number > moment and path.startswith(within):
            raise ReadFailed(f"{message}; nothing was written that would lack it")
