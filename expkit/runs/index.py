"""Where the rows of a run are: one table over all blocks of all shards, searched with NumPy.

A *segment* is a stretch of consecutive rows of one (episode, player) inside one block. The table has about one
entry per 64-128 rows, so a run of 10^8 rows has a table of some 30 MB; it is built when first asked for.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields

import numpy as np

from expkit.errors import ShardError
from expkit.row.stretches import boundaries
from expkit.runs.superseding import VisibleBlock


@dataclass(frozen=True, slots=True)
class RunIndex:
    """Arrays over segments, sorted by (run, episode, player, first_step).

    shard, block   int64: position in the run's list of shards, and in that shard's list of blocks
    first_row      int64: of the segment in its block;  rows int64: its length
    episode u64, player int64, first_step and last_step int64
    run            int64: which of the runs that are read together, 0 where there is one
    """

    shard: np.ndarray
    block: np.ndarray
    player: np.ndarray
    episode: np.ndarray
    first_row: np.ndarray
    rows: np.ndarray
    first_step: np.ndarray
    last_step: np.ndarray
    run: np.ndarray

    @property
    def boundaries(self) -> np.ndarray:
        """bool (segments,): where another player's episode begins."""
        first = boundaries(self.episode, self.player)
        first[1:] |= self.run[1:] != self.run[:-1]
        return first

    @classmethod
    def joined(cls, indices: Sequence[RunIndex], shards: Sequence[int]) -> RunIndex:
        """One index over several runs; `shards`: how many of them each has."""
        names = [field.name for field in fields(cls)]
        columns = {name: [getattr(index, name) for index in indices] for name in names}
        before = np.cumsum([0, *shards])
        columns["shard"] = [part + before[run] for run, part in enumerate(columns["shard"])]
        columns["run"] = [np.full(len(part), run, np.int64) for run, part in enumerate(columns["run"])]
        return cls(*(np.concatenate(columns[name]) for name in names))

    @classmethod
    def build(cls, blocks: Iterable[VisibleBlock]) -> RunIndex:
        """From the blocks' heads; reads no rows. Blocks whose head is damaged are left out."""
        parts: list[tuple[np.ndarray, ...]] = []
        for block in blocks:
            try:
                runs = block.reader.runs(block.info.index)
            except ShardError:
                continue
            if block.keep is not None:
                runs = runs[block.keep[runs["first_row"]]]
            where = np.empty((3, len(runs)), np.int64)
            where[:] = [[block.shard], [block.info.index], [block.info.player]]
            told = (runs[name] for name in ("episode", "first_row", "rows", "first_step", "last_step"))
            parts.append((*where, *told))
        kinds = (np.int64, np.int64, np.int64, np.uint64, np.int64, np.int64, np.int64, np.int64)
        columns = [
            np.concatenate([part[i] for part in parts]).astype(kind) if parts else np.empty(0, kind)
            for i, kind in enumerate(kinds)
        ]
        order = np.lexsort((columns[6], columns[2], columns[3]))
        return cls(*(column[order] for column in [*columns, np.zeros(len(order), np.int64)]))

    def find(self, episode: int, player: int) -> np.ndarray:
        """Segment numbers of (episode, player), in the order of their steps; empty when there is none."""
        low = int(np.searchsorted(self.episode, np.uint64(episode), "left"))
        high = int(np.searchsorted(self.episode, np.uint64(episode), "right"))
        return low + np.flatnonzero(self.player[low:high] == player)

    def rows_by_episode(self) -> dict[int, dict[int, int]]:
        """{episode: {player: rows}}."""
        out: dict[int, dict[int, int]] = {}
        for episode, player, rows in zip(self.episode.tolist(), self.player.tolist(), self.rows.tolist(), strict=True):
            players = out.setdefault(episode, {})
            players[player] = players.get(player, 0) + rows
        return out
