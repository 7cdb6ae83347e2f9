"""A condition on the rows that are read: which blocks may hold such rows, and which rows of a block they are."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from expkit.predicates import BoundPredicate, EpisodeTable
from expkit.runs.superseding import VisibleBlock


class Selection:
    """A predicate, bound to each of the runs that are read. Safe to share between threads.

    columns  stored columns that it looks at
    """

    def __init__(self, bound: list[tuple[BoundPredicate, EpisodeTable | None]]):
        self._bound = bound
        self.columns = bound[0][0].columns

    def may_match(self, block: VisibleBlock) -> bool:
        """False when no row of the block is wanted, as far as index and head tell; no column is read. Raises
        ShardError."""
        predicate, episodes = self._bound[block.run]
        return predicate.may_match({}, block.info, episodes) and predicate.may_match(
            block.reader.statistics(block.info.index), block.info, episodes
        )

    def of_block(self, block: VisibleBlock, rows: np.ndarray) -> np.ndarray:
        """Those of `rows` (int64, rising) of the block that are wanted. Raises ShardError."""
        predicate, episodes = self._bound[block.run]
        columns = (block.reader.schema.column(name) for name in self.columns)
        stored = {column.name: np.empty(column.shape(len(rows)), column.dtype) for column in columns}
        # Narrow columns that are decoded here are kept by the reader, for the rows that match.
        block.reader.read_into(block.info.index, rows, stored, np.arange(len(rows)))
        return rows[predicate.evaluate(stored, block.info.player, episodes)]

    def of_rows(self, stored: Mapping[str, np.ndarray]) -> np.ndarray:
        """bool (rows,): which rows of a batch are wanted, that holds `columns` and `player`, and `run` where there are
        several."""
        players = stored["player"]
        runs = stored.get("run", np.zeros(len(players), np.uint16))
        out = np.zeros(len(players), bool)
        for run in np.unique(runs).tolist():
            predicate, episodes = self._bound[run]
            for player in np.unique(players[runs == run]).tolist():
                mine = np.flatnonzero((runs == run) & (players == player))
                out[mine] = predicate.evaluate({name: stored[name][mine] for name in self.columns}, player, episodes)
        return out
