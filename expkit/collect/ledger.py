"""The same ledger as a run's, in plain memory: for collectors that write no files."""

from __future__ import annotations

import numpy as np

from expkit.runs.counters import DROP_CAUSES


class MemoryLedger:
    """Counts of rows by player; see expkit.runs.counters.Ledger, whose arrays live in a mapped file."""

    def __init__(self, players: int):
        self.produced, self.written, self.durable, self.rejected = np.zeros((4, players), np.int64)
        self.dropped = np.zeros((players, len(DROP_CAUSES)), np.int64)

    def drop(self, player: int, cause: str, rows: int) -> None:
        self.dropped[player, DROP_CAUSES.index(cause)] += rows

    def lost(self) -> np.ndarray:
        """int64 (players,): produced and neither written, dropped nor rejected (or not yet)."""
        return self.produced - self.written - self.dropped.sum(axis=1) - self.rejected
