"""Rewards and potentials by name: the built-in ones, `module:callable`, and rewards of installed packages.

Others plug in under the entry-point group `expkit.rewards`: a function of a batch (see `RewardFunction`), or a class
whose instances are such functions, made with the settings given.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from inspect import signature
from typing import Any

import numpy as np

from expkit.errors import ConfigError, UsageError, did_you_mean
from expkit.rewards.potential import ArmyPotential, CityPotential, LandPotential, PotentialReward
from expkit.rewards.protocol import Batch, Potential, RewardFunction, needs_of
from expkit.rewards.strategies import ConstantReward, GameReward, SparseReward
from expkit.rewards.weighted import DOCUMENTED, TargetReward, WeightedReward
from expkit.system.plugins import known_names, load_callable, load_installed

GROUP = "expkit.rewards"


@dataclass(frozen=True, slots=True)
class GivenFunction:
    """A function of somebody else's as a reward or a potential, under the name it was asked for by."""

    name: str
    function: Callable[..., Any]
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def needs(self) -> tuple[str, ...]:
        return needs_of(self.function)

    def __call__(self, batch: Batch) -> np.ndarray:
        values: np.ndarray = self.function(batch, **self.settings)
        return values


def _potential(of: str = "army", gamma: float = 0.99) -> PotentialReward:
    return PotentialReward(find_potential(of), gamma)


_REWARDS: dict[str, Callable[..., RewardFunction]] = {
    "game": GameReward,
    "constant": ConstantReward,
    "sparse": SparseReward,
    "weighted": WeightedReward,
    "weighted_documented": partial(WeightedReward, **DOCUMENTED),
    "target": TargetReward,
    "potential": _potential,
}
_POTENTIALS: dict[str, Callable[[], Potential]] = {
    "army": ArmyPotential,
    "land": LandPotential,
    "cities": CityPotential,
}


def reward_names() -> list[str]:
    """Names that `find_reward` knows: the built-in ones, then those of installed packages."""
    return known_names(GROUP, _REWARDS)


def find_reward(name: str, **settings: Any) -> RewardFunction:
    """The reward of that name, or at `module:callable`, with the settings given.

    Raises UsageError for a name that is nothing, ConfigError for settings that the reward does not take.
    """
    factory = _REWARDS.get(name)
    if factory is not None:
        return _made(name, factory, settings)
    if ":" in name:
        return _given(name, load_callable(name, "reward"), settings)
    found = load_installed(GROUP, name)
    if found is None:
        raise UsageError(f"no reward is called {name!r}; {_instead(name, reward_names())}")
    return _given(name, found, settings)


def find_potential(name: str) -> Potential:
    """The potential of that name, or at `module:callable`. Raises UsageError, ConfigError."""
    factory = _POTENTIALS.get(name)
    if factory is not None:
        return factory()
    if ":" in name:
        return _given(name, load_callable(name, "potential"), {})
    raise UsageError(f"no potential is called {name!r}; {_instead(name, list(_POTENTIALS))}")


def _given(name: str, found: Callable[..., Any], settings: Mapping[str, Any]) -> GivenFunction:
    if isinstance(found, type):
        given = GivenFunction(name, _made(name, found, settings))
    else:
        given = GivenFunction(name, found, dict(settings))
    if not callable(given.function):
        raise UsageError(f"{name} is a class whose instances cannot be called; give it __call__(self, batch)")
    needs_of(given.function)
    return given


def _made(name: str, factory: Callable[..., Any], settings: Mapping[str, Any]) -> Any:
    try:
        return factory(**settings)
    except TypeError as error:
        takes = ", ".join(signature(factory).parameters) or "no settings"
        what = str(error).partition("() ")[2] or str(error)
        raise ConfigError(f"reward {name} {what}; it takes {takes}") from None


def _instead(name: str, known: list[str]) -> str:
    return did_you_mean(name, known, f"there are {', '.join(known)}, and module:callable", 0.5)
