"""Rewards of each tick as it is played, from the game's own state before and after it."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from expkit.errors import UsageError
from expkit.games.generals.arrays import GeneralsArrays
from expkit.kernels import generals_state as k
from expkit.rewards.columns import REWARD, RewardColumns
from expkit.rewards.protocol import NEXT
from expkit.row.layout import RowSink
from expkit.row.schema import Column

_RESULTS = ("action", REWARD, "terminated", "truncated")


class TickRewards:
    """Writes the rewards `columns` of all games of `arrays` into the rows of a tick: `look` between its two halves,
    when rows stand and actions are chosen, and `write` after the second.

    Raises UsageError for a reward that looks at what the game does not tell.
    """

    def __init__(self, columns: RewardColumns, arrays: GeneralsArrays):
        self._columns = columns
        self._arrays = arrays
        # The game's own reward is among the results of the tick.
        self._before = [name for name in columns.needs if not name.startswith(NEXT) and name != REWARD]
        self._after = [name.removeprefix(NEXT) for name in columns.needs if name.startswith(NEXT)]
        known = arrays.sources()
        for name in (*self._before, *self._after):
            if name not in known:
                raise UsageError(f"a reward looks at {name}, which generals does not tell; it has {', '.join(known)}")
        self._slots = self._players = self._rows = np.empty(0, np.int64)
        self._batch: dict[str, np.ndarray] = {}
        self._places: tuple[tuple[Column, ...], dict[str, int]] = ((), {})

    def look(self) -> None:
        """Note which rows wait for their rewards, and what stands before their actions are played."""
        one, players = self._arrays.one, self._arrays.players
        waiting = (one[:, k.ACTIVE, None] == 1) & (players[:, :, k.ROW] >= 0)
        self._players, self._slots = np.nonzero(waiting.T)
        self._rows = players[self._slots, self._players, k.ROW]
        self._batch = self._told(self._before) | {
            "episode": one[self._slots, k.EPISODE].view(np.uint64),
            "step": one[self._slots, k.TURN].astype(np.uint32),
            "player": self._players.astype(np.uint16),
        }

    def write(self, sink: RowSink) -> None:
        """Compute the rewards and write them into the rows. Raises UsageError for a reward that is no number."""
        bounds = np.searchsorted(self._players, np.arange(self._arrays.config.players + 1)).tolist()
        parts = [(p, slice(a, b)) for p, (a, b) in enumerate(pairwise(bounds)) if a < b]
        if not parts:
            return
        places = self._places_in(sink)
        batch = self._batch | {NEXT + name: values for name, values in self._told(self._after).items()}
        for name in _RESULTS:
            batch[name] = np.concatenate([sink.column(p, places[name])[self._rows[part]] for p, part in parts])
        ends = batch["terminated"] | batch["truncated"]
        batch["outcome"] = np.where(ends, batch[REWARD], np.float32(np.nan))
        batch["has_next"] = np.ones(len(self._rows), bool)
        for name, values in self._columns.compute(batch).items():
            for player, part in parts:
                sink.column(player, places[name])[self._rows[part]] = values[part]

    def _places_in(self, sink: RowSink) -> dict[str, int]:
        """By name, the places of columns in the sink."""
        if sink.columns is not self._places[0]:
            self._places = sink.columns, {column.name: place for place, column in enumerate(sink.columns)}
        return self._places[1]

    def _told(self, names: list[str]) -> dict[str, np.ndarray]:
        """What the games tell now, for the rows that wait: copies by the schema's names."""
        arrays, board = self._arrays, (len(self._slots), self._arrays.config.height, self._arrays.config.width)
        truth = {"state/army": arrays.army, "state/owner": arrays.owner, "state/terrain": arrays.terrain.view(np.uint8)}
        out = {name: truth[name][self._slots].reshape(board) for name in names if name in truth}
        seen = [name for name in names if name not in truth]
        if seen:
            count = arrays.config.players
            views = [arrays.observation(self._slots[self._players == player], player) for player in range(count)]
            out |= {name: np.concatenate([view[name] for view in views]) for name in seen}
        return out
