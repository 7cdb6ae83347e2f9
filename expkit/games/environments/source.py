"""Environments of Gymnasium and PettingZoo, and those a user's module makes, as sources of games to record."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np

from expkit.errors import GameError, UsageError
from expkit.games.environments.make import make_environment
from expkit.games.protocol import SIMULTANEOUS, Game, Resimulator
from expkit.rewards import RewardColumns
from expkit.row.episodes import EpisodeStart
from expkit.row.schema import Schema
from expkit.settings.config import GameSettings
from expkit.system.units import format_number


class EnvironmentConfig(msgspec.Struct, frozen=True):
    """An environment by name, and what was found when it was made.

    players      names of the agents, one for a single environment
    action_mask  what the info calls its mask, where the observation has none
    capacity     entries there is room for in a Sequence, nodes and edges in a Graph
    environment  spec, wrappers, versions, spaces
    """

    source: str
    players: list[str]
    simultaneous: bool
    max_steps: int | None = None
    action_mask: str | None = None
    capacity: int = 64
    environment: dict[str, Any] = {}


class EnvironmentSource:
    """See `expkit.games.GameSource`."""

    embedded = False
    simultaneous_moves = False  # as its runs say, each for itself

    def __init__(self, source: str):
        self.source = source
        self.name = source.partition(":")[0]

    def configure(self, settings: GameSettings) -> EnvironmentConfig:
        from expkit.spaces.environment import agents_of, env_layout, env_metadata, is_multi_agent, is_turn_based
        from expkit.spaces.masks import mask_key_in

        env = make_environment(self.source)
        layout = env_layout(env, capacity=settings.capacity)
        try:
            several = is_multi_agent(env)
            players = [str(agent) for agent in agents_of(env)] if several else ["player0"]
            if not players:
                raise UsageError(f"{self.source} does not say which agents there may be; record it with expkit.wrap")
            key = None
            if not layout.actions:
                info = env.reset(seed=0)
                if several:
                    info = getattr(env, "infos", None) if info is None else info[1]
                    info = next(iter(info.values()), None) if isinstance(info, Mapping) else None
                else:
                    info = info[1]
                key = mask_key_in(info)
            simultaneous = not several or not is_turn_based(env)
            about = env_metadata(env, layout)
        finally:
            env.close()
        return EnvironmentConfig(self.source, players, simultaneous, settings.max_steps, key, settings.capacity, about)

    def player_names(self, config: EnvironmentConfig) -> list[str]:
        return config.players

    def schema(self, config: EnvironmentConfig) -> Schema:
        return self._layout(config).schema

    def describe(self, config: EnvironmentConfig) -> str:
        players = len(config.players)
        return f"{self.source} · {format_number(players, 'player')}"

    def metadata(self, config: EnvironmentConfig) -> dict[str, Any]:
        return {"game": self.to_builtins(config), SIMULTANEOUS: config.simultaneous}

    def to_builtins(self, config: EnvironmentConfig) -> dict[str, Any]:
        tree: dict[str, Any] = msgspec.to_builtins(config)
        return tree

    def from_builtins(self, tree: Mapping[str, Any]) -> EnvironmentConfig:
        try:
            return msgspec.convert(dict(tree), EnvironmentConfig)
        except msgspec.ValidationError as error:
            raise GameError(f"the run's game settings are not understood: {error}") from None

    def counter(self, writer: int, limit: int | None, first: int = 0) -> Any:
        from expkit.games.environments.game import Counter

        return Counter(writer, limit, first)

    def make(
        self,
        config: EnvironmentConfig,
        *,
        num_envs: int,
        seed: int,
        policies: Sequence[str | Callable[..., Any]],
        counter: Any,
        rewards: RewardColumns | None = None,
    ) -> Game:
        from expkit.games.environments.game import EnvironmentGame

        if rewards is not None:
            raise UsageError(f"{self.source} gives rewards of its own; choose others by expkit rewrite RUN --reward")
        return EnvironmentGame(
            lambda: make_environment(self.source),
            self._layout(config),
            source=self.source,
            config_digest=self._digest(config),
            players=len(config.players),
            num_envs=num_envs,
            seed=seed,
            max_steps=config.max_steps,
            policies=policies,
            counter=counter,
        )

    def resimulator(self, config: EnvironmentConfig, start: EpisodeStart, seed: int) -> Resimulator:
        raise UsageError(f"{self.source} does not tell its state, only what its players see")

    def replay_rewards(self, config: EnvironmentConfig, start: EpisodeStart, seed: int, actions: np.ndarray) -> Any:
        raise UsageError(f"{self.source} tells its rewards only as it is played; see expkit replay --verify")

    def replay_rows(
        self, config: EnvironmentConfig, start: EpisodeStart, tables: Mapping[int, Mapping[str, np.ndarray]]
    ) -> dict[int, dict[str, np.ndarray]]:
        """The rows of a whole episode played again from its seeds with the recorded actions: by player, columns
        by the schema's names. `tables` are the recorded ones. Raises GameError where the environment refuses them."""
        from expkit.games.environments.again import play_again

        return play_again(make_environment(self.source), self._layout(config), len(config.players), start, tables)

    def _layout(self, config: EnvironmentConfig) -> Any:
        from expkit.spaces.environment import env_layout

        env = make_environment(self.source)
        layout = env_layout(env, mask_key=config.action_mask, capacity=config.capacity)
        env.close()
        return layout

    def _digest(self, config: EnvironmentConfig) -> str:
        return hashlib.blake2b(msgspec.json.encode(config), digest_size=8).hexdigest()
