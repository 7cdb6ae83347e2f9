"""Episodes that a recorder takes out again, when all of their rows are in the files."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from pathlib import Path

from expkit.errors import Busy
from expkit.recording.episodes import EpisodeBook
from expkit.rewrite.prune import discard

_PATIENCE_SECONDS = 30.0  # for other maintenance to be done
_RETRY_SECONDS = 0.05


class Discards:
    """Which episodes go; each is said to be discarded at once, and taken out when that can be counted."""

    def __init__(self, run: Path, book: EpisodeBook):
        self._run, self._book = run, book
        self._waiting: set[int] = set()
        self._lock = threading.Lock()

    def add(self, episodes: Iterable[int]) -> None:
        """The caller holds the recorder's lock."""
        self._waiting.update(episodes)

    def due(self) -> list[int]:
        """Those that are over; when their rows are written, they can go. The caller holds the recorder's lock."""
        return [number for number in list(self._waiting) if not self._book.is_open(number)]

    def all(self) -> list[int]:
        """Those that are left, for a recorder that is closed."""
        return list(self._waiting)

    def take_out(self, episodes: list[int]) -> None:
        """Take out episodes whose rows and ends are in the files. Raises Busy while other maintenance is at work for
        long, ShardError, NoSpace, WriteFailed; the next call tries again."""
        if not episodes:
            return
        patience = time.monotonic() + _PATIENCE_SECONDS
        with self._lock:
            while True:
                try:
                    discard(self._run, episodes)
                    break
                except Busy:
                    if time.monotonic() > patience:
                        raise
                time.sleep(_RETRY_SECONDS)
        self._waiting.difference_update(episodes)
