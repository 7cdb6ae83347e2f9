"""Rows by their addresses (episode, player, step), many at once."""

from __future__ import annotations

import numpy as np

from expkit.batches.timeline import Timeline

_STEP_BITS = 32


class Addresses:
    """Finds the numbers that rows of a single run have in its timeline."""

    def __init__(self, timeline: Timeline):
        self._timeline = timeline
        index = timeline.index
        self._episodes, place = np.unique(index.episode, return_inverse=True)
        self._players = int(index.player.max(initial=0)) + 1
        self._keys = self._key(place, index.player, index.first_step)
        self._before = np.cumsum(index.rows) - index.rows

    def _key(self, place: np.ndarray, player: np.ndarray, step: np.ndarray) -> np.ndarray:
        """int64, in the order of (episode, player, step); `place` of the episode among all."""
        return (place * self._players + player) << _STEP_BITS | step

    def numbers(self, episode: np.ndarray, player: np.ndarray, step: np.ndarray) -> np.ndarray:
        """int64 (n,): the number of each row in the timeline, -1 for one that is not there. Raises ShardError."""
        index, timeline = self._timeline.index, self._timeline
        out = np.full(len(episode), -1, np.int64)
        if not len(self._keys):
            return out
        place = np.searchsorted(self._episodes, episode)
        known = place < len(self._episodes)
        known[known] = self._episodes[place[known]] == episode[known]
        known &= (player >= 0) & (player < self._players) & (step >= 0) & (step < 1 << _STEP_BITS)
        asked = np.flatnonzero(known)
        wanted = step[asked]
        segment = np.searchsorted(self._keys, self._key(place[asked], player[asked], wanted), "right") - 1
        there = (segment >= 0) & (index.episode[segment] == episode[asked]) & (index.player[segment] == player[asked])
        there &= index.last_step[segment] >= wanted
        asked, segment, wanted = asked[there], segment[there], wanted[there]
        dense = index.last_step[segment] - index.first_step[segment] + 1 == index.rows[segment]
        out[asked] = self._before[segment] + (wanted - index.first_step[segment])
        for one in np.unique(segment[~dense]).tolist():  # steps that some other player had to himself are missing in it
            mine = np.flatnonzero(segment == one)
            numbers = self._before[one] + np.arange(index.rows[one])
            steps = timeline.column("step", numbers).astype(np.int64)
            at = np.searchsorted(steps, wanted[mine])  # never beyond the end: last_step is not less
            out[asked[mine]] = np.where(steps[at] == wanted[mine], numbers[at], -1)
        return out
