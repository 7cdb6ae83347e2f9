"""Parts of runs by episode: training and validation rows that never share one, and stay apart while a run grows."""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import blake2b

import numpy as np

from expkit.errors import UsageError
from expkit.reading.run import Run
from expkit.row.episodes import Episode
from expkit.runs.superseding import Superseding


def check_split(split: Mapping[str, float], option: str = "split") -> None:
    """Raises UsageError unless the parts are fractions that add up to 1."""
    for name, fraction in split.items():
        if not 0 < fraction <= 1:
            raise UsageError(f"{option}: {name} is to be {fraction:g} of the episodes; give fractions above 0, up to 1")
    if abs(sum(split.values()) - 1) > 1e-6:
        raise UsageError(f"the parts of {option} add up to {sum(split.values()):g}, not to 1")


def part_of(run: Run, episode: Episode, split: Mapping[str, float]) -> str:
    """The part that an episode goes to: decided by where it was recorded alone, so that all its players, and it and
    its copies in merged runs, go to the same."""
    origin = episode.start.origin if episode.start is not None else None
    name, number = (run.id, episode.number) if origin is None else (origin.run, origin.episode)
    drawn = int.from_bytes(blake2b(f"{name}/{number}".encode(), digest_size=8).digest(), "big") / 2**64
    upto = 0.0
    for part, fraction in split.items():
        upto += fraction
        if drawn < upto:
            return part
    return part


class _OnlyEpisodes:
    """Hides rows as a run's `Superseding` does, and all those of other episodes than `numbers` (u64, rising)."""

    def __init__(self, superseding: Superseding, numbers: np.ndarray):
        self._superseding, self._numbers = superseding, numbers

    def hidden(self, generation: int, episodes: np.ndarray) -> np.ndarray:
        episodes = np.asarray(episodes, np.uint64)
        return self._superseding.hidden(generation, episodes) | ~np.isin(episodes, self._numbers)

    def may_hide(self, generation: int, low: int, high: int) -> bool:
        if self._superseding.may_hide(generation, low, high):
            return True
        begin, end = np.searchsorted(self._numbers, np.array([low, high], np.uint64), "left")
        inside = int(end - begin) + (end < len(self._numbers) and int(self._numbers[end]) == high)
        return bool(inside != high - low + 1)


class RunPart(Run):
    """The episodes of a run that a split gives to one of its parts, to be read like a run of its own."""

    def __init__(self, run: Run, name: str, split: Mapping[str, float]):
        self._name, self._split = name, dict(split)
        super().__init__(run.path)

    @property
    def label(self) -> str:
        return f"{self.path} ({self._name})"

    def refresh(self) -> None:
        super().refresh()
        mine = [episode.number for episode in self.episodes() if part_of(self, episode, self._split) == self._name]
        # What was read to tell episodes apart is of the whole run.
        for name in ("index", "_episodes"):
            self.__dict__.pop(name, None)
        self.superseding = _OnlyEpisodes(self.superseding, np.array(mine, np.uint64))  # type: ignore[assignment]
