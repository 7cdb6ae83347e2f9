"""What this process could not read since it was last asked: a verb that got by without it has not told the whole."""

from __future__ import annotations

_MOST = 5
_failed: list[str] = []


def note(message: str) -> None:
    """One read failed; the message is that of its ReadFailed. Only the first few are kept."""
    if len(_failed) < _MOST:
        _failed.append(message)


def take() -> list[str]:
    """What was noted, and forgotten by that."""
    out = list(_failed)
    _failed.clear()
    return out
