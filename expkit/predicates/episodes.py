"""What predicates may ask of a row's episode: a table over the episodes of a run."""

from __future__ import annotations

from collections.abc import Iterable
from typing import get_args

import numpy as np

from expkit.row.episodes import Ended, Episode

ENDED: tuple[str, ...] = get_args(Ended)
EPISODE_NAMES = ("length", "ended", "outcome", "won")


class EpisodeTable:
    """Length, ending and outcome by episode; made once for a run: `EpisodeTable(run.episodes())`.

    numbers  u64, rising: the episodes it knows
    """

    def __init__(self, episodes: Iterable[Episode]):
        known = sorted(episodes, key=lambda episode: episode.number)
        self.numbers = np.array([episode.number for episode in known], np.uint64)
        self._length = np.array([episode.length for episode in known], np.int64)
        self._ended = np.array([ENDED.index(episode.ended) for episode in known], np.int64)
        self._outcomes = [episode.outcome for episode in known]
        self._of_player: dict[int, dict[str, tuple[np.ndarray, np.ndarray]]] = {}

    def values(self, name: str, player: int) -> tuple[np.ndarray, np.ndarray]:
        """(values, known), both (episodes,), of one of EPISODE_NAMES as `player` sees it.

        length i64 · ended i64, place in ENDED · outcome f64, the player's own · won bool: the episode was terminated
        and the player's outcome is above all others' (alone: above 0). Outcome and won are not known, and their
        values 0, where the player has no outcome.
        """
        found = self._of_player.get(player)
        if found is None:
            found = self._of_player[player] = self._seen_by(player)
        return found[name]

    def _seen_by(self, player: int) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        every = np.ones(len(self.numbers), bool)
        known = np.zeros(len(self.numbers), bool)
        outcome = np.zeros(len(self.numbers))
        won = np.zeros(len(self.numbers), bool)
        for place, outcomes in enumerate(self._outcomes):
            mine = outcomes.get(player)
            if mine is None:
                continue
            others = [value for other, value in outcomes.items() if other != player and value is not None]
            known[place], outcome[place] = True, mine
            won[place] = self._ended[place] == 0 and mine > max(others, default=0)
        return {
            "length": (self._length, every),
            "ended": (self._ended, every),
            "outcome": (outcome, known),
            "won": (won, known),
        }
