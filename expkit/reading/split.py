"""Parts of runs by episode: training and validation rows that never share one, and stay apart while a run grows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np

from expkit.errors import UsageError
from expkit.row.episodes import Episode
from expkit.runs.superseding import Superseding


def check_split(split: Mapping[str, float], option: str = "split") -> None:
    """Raises UsageError unless the parts are fractions that add up to 1."""
    for name, fraction in split.items():
        if not 0 < fraction <= 1:
            raise UsageError(f"{option}: {name} is to be {fraction:g} of the episodes; give fractions above 0, up to 1")
    if abs(sum(split.values()) - 1) > 1e-6:
        raise UsageError(f"the parts of {option} add up to {sum(split.values()):g}, not to 1")


def part_of(run_id: str, episode: Episode, split: Mapping[str, float]) -> str:
    """The part that an episode of that run goes to: decided by where it was recorded alone, so that all its players,
    and it and its copies in merged runs, go to the same."""
    origin = episode.start.origin if episode.start is not None else None
    name, number = (run_id, episode.number) if origin is None else (origin.run, origin.episode)
    drawn = int.from_bytes(blake2b(f"{name}/{number}".encode(), digest_size=8).digest(), "big") / 2**64
    upto = 0.0
    for part, fraction in split.items():
        upto += fraction
        if drawn < upto:
            return part
    return part


@dataclass(frozen=True, slots=True)
class Part:
    """One of the parts that `split` makes of a run, by name."""

    name: str
    split: Mapping[str, float]

    def numbers(self, run_id: str, episodes: Iterable[Episode]) -> np.ndarray:
        """u64, rising: those of the episodes that are in it, which come by number."""
        mine = (episode.number for episode in episodes if part_of(run_id, episode, self.split) == self.name)
        return np.fromiter(mine, np.uint64)


class OnlyEpisodes:
    """Hides rows as a run's `Superseding` does, and all those of other episodes than `numbers` (u64, rising)."""

    def __init__(self, superseding: Superseding, numbers: np.ndarray):
        self._superseding, self._numbers = superseding, numbers

    @property
    def retired(self) -> frozenset[str]:
        return self._superseding.retired

    def hidden(self, generation: int, episodes: np.ndarray) -> np.ndarray:
        episodes = np.asarray(episodes, np.uint64)
        return self._superseding.hidden(generation, episodes) | ~np.isin(episodes, self._numbers)

    def may_hide(self, generation: int, low: int, high: int) -> bool:
        if self._superseding.may_hide(generation, low, high):
            return True
        begin, end = np.searchsorted(self._numbers, np.array([low, high], np.uint64), "left")
        inside = int(end - begin) + (end < len(self._numbers) and int(self._numbers[end]) == high)
        return bool(inside != high - low + 1)
