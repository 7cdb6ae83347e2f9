"""What a collector takes and tells: it stands between whoever makes rows and whoever keeps them.

A collector owns memory for rows, sharded by player, and a ledger in which every row is accounted for. Producers
take a `Feed` each; what happens to the rows after `commit` is the collector's business.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from expkit.row.episodes import EpisodeEnd, EpisodeStart
from expkit.row.layout import RowSink


class Feed(Protocol):
    """One producing thread's way into a collector. Not shared between threads.

    A game fills `sink` for all players at once: `ready`, write, `commit`. Single rows go by `reserve`, write into
    the views, `commit`.
    """

    sink: RowSink

    def ready(self, rows: int) -> None:
        """Make room for `rows` more rows of every player. Waits under the overflow policy `block`.

        Raises BufferClosed, and whatever stopped a drain thread."""
        ...

    def reserve(self, player: int, rows: int) -> tuple[dict[str, np.ndarray], int]:
        """Column views of the player's open block and the index of the first of `rows` free rows in it."""
        ...

    def commit(self, starts: Sequence[EpisodeStart] = (), ends: Sequence[EpisodeEnd] = ()) -> None:
        """Make everything written since the last commit visible, with the episodes that began and ended in it.
        A start is on disk before its rows, an end after all of them."""
        ...


@dataclass(frozen=True, slots=True)
class CollectorStats:
    """Rows by player id, summed over the collector's life; `buffered` is what waits in memory or was spilled."""

    produced: dict[int, int]
    written: dict[int, int]
    durable: dict[int, int]
    dropped: dict[int, dict[str, int]]
    rejected: dict[int, int]
    buffered: int = 0
    capacity: int = 0
    high_water: int = 0

    @property
    def utilization(self) -> float:
        """Part of the memory that waits to be written, 0 to 1."""
        return min(self.buffered / self.capacity, 1.0) if self.capacity else 0.0
