"""Rewards that any game has: its own, its end alone; and rewards made of others, by weights and by limits."""

from __future__ import annotations

import sys
from dataclasses import dataclass

import numpy as np

from expkit.errors import ConfigError
from expkit.rewards.protocol import Batch, RewardFunction, called, checked_values, needs_of


@dataclass(frozen=True, slots=True)
class GameReward:
    """The reward as the game gives it."""

    @property
    def needs(self) -> tuple[str, ...]:
        return ("reward",)

    def __call__(self, batch: Batch) -> np.ndarray:
        return batch["reward"].astype(np.float64)


@dataclass(frozen=True, slots=True)
class ConstantReward:
    """The same for every action, as a price of time: -0.001."""

    value: float = 0.0

    def __post_init__(self) -> None:
        require_finite("constant", value=self.value)

    @property
    def needs(self) -> tuple[str, ...]:
        return ()

    def __call__(self, batch: Batch) -> np.ndarray:
        return np.full(len(batch["step"]), float(self.value))


@dataclass(frozen=True, slots=True)
class SparseReward:
    """`win`, `loss` or `draw` for the action with which the player's game ends, by its outcome; 0 for every other, and
    where the outcome is not known."""

    win: float = 1.0
    loss: float = -1.0
    draw: float = 0.0

    def __post_init__(self) -> None:
        require_finite("sparse", win=self.win, loss=self.loss, draw=self.draw)

    @property
    def needs(self) -> tuple[str, ...]:
        return ()

    def __call__(self, batch: Batch) -> np.ndarray:
        outcome = batch["outcome"]
        return np.select([outcome > 0, outcome < 0, outcome == 0], [self.win, self.loss, self.draw], 0.0)


@dataclass(frozen=True, slots=True)
class SumReward:
    """Rewards added up, each times its weight; `terms` are (weight, reward)."""

    terms: tuple[tuple[float, RewardFunction], ...]

    def __post_init__(self) -> None:
        require_finite("sum", **{f"weight {place}": weight for place, (weight, _) in enumerate(self.terms)})

    @property
    def needs(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(name for _, reward in self.terms for name in needs_of(reward)))

    def __call__(self, batch: Batch) -> np.ndarray:
        count = len(batch["step"])
        total = np.zeros(count)
        for weight, reward in self.terms:
            total += weight * checked_values(reward(batch), count, called(reward))
        return total


@dataclass(frozen=True, slots=True)
class ClippedReward:
    """A reward kept within [low, high], both of them included."""

    reward: RewardFunction
    low: float = -1.0
    high: float = 1.0

    def __post_init__(self) -> None:
        if not self.low <= self.high:
            raise ConfigError(f"clip: low {self.low:g} is above high {self.high:g}; give the lower one first")

    @property
    def needs(self) -> tuple[str, ...]:
        return needs_of(self.reward)

    def __call__(self, batch: Batch) -> np.ndarray:
        values = checked_values(self.reward(batch), len(batch["step"]), called(self.reward))
        return np.clip(values, self.low, self.high)


def require_finite(name: str, **settings: object) -> None:
    """Raises ConfigError for a setting of a reward that is no finite number, or an integer beyond all of these."""
    most = sys.float_info.max
    for setting, value in settings.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not -most <= value <= most:
            raise ConfigError(f"reward {name}: {setting} is {value!r}; it has to be a number")
