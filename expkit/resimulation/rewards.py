"""Rewards of recorded episodes computed anew, from the truth that is stored or of the game played again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from expkit.reading.run import Run
from expkit.resimulation.transitions import STORED, TransitionReader
from expkit.rewards.columns import RewardColumns
from expkit.row.episodes import Episode


class PlayerRewards(NamedTuple):
    """Of all transitions of one player's episode, in the order of steps.

    step     u32 (n,), rising
    values   f4 (n,) by column
    stored   by column that is there already, what is stored in it
    unknown  how many have no row that follows though the game goes on: what changed in them is not paid
    """

    step: np.ndarray
    values: dict[str, np.ndarray]
    stored: dict[str, np.ndarray]
    unknown: int


class RewardReader:
    """Computes the rewards `columns` of episodes of `run`.

    again  take the truth, and the game's own reward, from the game played again even where they are stored

    Raises as `TransitionReader` does.
    """

    def __init__(self, run: Run, columns: RewardColumns, *, again: bool = False):
        self._columns = columns
        self._there = [name for name in columns.functions if name in run.schema]
        self._transitions = TransitionReader(run, columns.needs, extra=self._there, again=again)

    @property
    def plays_again(self) -> bool:
        """Whether games are played again for it."""
        return self._transitions.plays_again

    def episode(self, episode: Episode) -> dict[int, PlayerRewards]:
        """By player. Raises as `TransitionReader.episode` does, and UsageError for a reward that is no number."""
        parts: dict[int, list[PlayerRewards]] = {}
        for player, batch in self._transitions.episode(episode):
            stored = {name: batch.pop(STORED + name) for name in self._there}
            unknown = int(np.count_nonzero(~batch["has_next"] & ~batch["terminated"]))
            values = self._columns.compute(batch)
            parts.setdefault(player, []).append(PlayerRewards(batch["step"], values, stored, unknown))
        return {player: _joined(listed) for player, listed in parts.items()}


def _joined(parts: Sequence[PlayerRewards]) -> PlayerRewards:
    first = parts[0]
    return PlayerRewards(
        np.concatenate([part.step for part in parts]),
        {name: np.concatenate([part.values[name] for part in parts]) for name in first.values},
        {name: np.concatenate([part.stored[name] for part in parts]) for name in first.stored},
        sum(part.unknown for part in parts),
    )
