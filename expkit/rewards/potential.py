"""Shaping by a potential, which leaves the best policy as it is (Ng, Harada, Russell 1999, theorem 1)."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from expkit.errors import ConfigError
from expkit.rewards.boards import ARMY, CITY, GENERAL, OWNER, TERRAIN, advantage, count, flat, sum_where
from expkit.rewards.protocol import NEXT, Batch, Potential, called, checked_values, needs_of
from expkit.rewards.strategies import require_finite


@dataclass(frozen=True, slots=True)
class ArmyPotential:
    """(own - others) / (own + others) armies, of the truth."""

    needs: tuple[str, ...] = field(default=(ARMY, OWNER), init=False)

    def __call__(self, states: Batch) -> np.ndarray:
        army, owner = flat(states[ARMY]), flat(states[OWNER])
        own = sum_where(army, _mine(states))
        return advantage(own, sum_where(army, owner >= 0) - own)


@dataclass(frozen=True, slots=True)
class LandPotential:
    """(own - others) / (own + others) tiles, of the truth."""

    needs: tuple[str, ...] = field(default=(OWNER,), init=False)

    def __call__(self, states: Batch) -> np.ndarray:
        own = count(_mine(states))
        return advantage(own, count(flat(states[OWNER]) >= 0) - own)


@dataclass(frozen=True, slots=True)
class CityPotential:
    """The player's share of all cities and generals on the board, 0 to 1, of the truth."""

    needs: tuple[str, ...] = field(default=(OWNER, TERRAIN), init=False)

    def __call__(self, states: Batch) -> np.ndarray:
        terrain = flat(states[TERRAIN])
        sites = (terrain == CITY) | (terrain == GENERAL)
        return count(_mine(states) & sites) / np.maximum(count(sites), 1)


def _mine(states: Batch) -> np.ndarray:
    """bool (n, H * W): tiles of the player."""
    owner = flat(states[OWNER])
    return owner == states["player"].astype(owner.dtype)[:, None]


@dataclass(frozen=True, slots=True)
class PotentialReward:
    """F = gamma * phi(s') - phi(s), phi of a terminal state being 0.

    gamma  of the discounted return that is learned from, 0 to 1; the theorem holds only for the same one

    A truncated game is not over, so its last state keeps its potential: from any state on the discounted sum over the
    rest of an episode is gamma^T phi(s_T) - phi(s), or -phi(s) where it terminated. Where the row that follows is not
    known and the game not over, F is 0.
    """

    potential: Potential
    gamma: float = 0.99

    def __post_init__(self) -> None:
        require_finite("potential", gamma=self.gamma)
        if not 0 <= self.gamma <= 1:
            raise ConfigError(f"reward potential: gamma is {self.gamma:g}; it has to be from 0 to 1")

    @property
    def needs(self) -> tuple[str, ...]:
        names = needs_of(self.potential)
        return (*names, *(NEXT + name for name in names))

    def __call__(self, batch: Batch) -> np.ndarray:
        before = self._phi(batch, "")
        after = np.where(batch["terminated"], 0.0, self._phi(batch, NEXT))
        return np.where(batch["has_next"] | batch["terminated"], self.gamma * after - before, 0.0)

    def _phi(self, batch: Batch, prefix: str) -> np.ndarray:
        player = batch["player"]
        states = {name: batch[prefix + name] for name in needs_of(self.potential)} | {"player": player}
        return checked_values(self.potential(states), len(player), called(self.potential))
