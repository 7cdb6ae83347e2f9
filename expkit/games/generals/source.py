"""Generals as a source of games to record."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np

from expkit.errors import GameError
from expkit.games.generals.config import GeneralsConfig
from expkit.games.generals.engine import EpisodeCounter, Generals
from expkit.games.generals.schema import generals_schema
from expkit.games.protocol import Resimulator
from expkit.rewards import RewardColumns
from expkit.row.episodes import EpisodeStart
from expkit.row.schema import Schema
from expkit.settings.config import GameSettings
from expkit.system.units import parse_board_size

DEFAULT_MAX_STEPS = 500  # where the settings name no limit, for a game of generals needs one


class GeneralsSource:
    """See `expkit.games.GameSource`."""

    name = "generals"
    simultaneous_moves = True
    embedded = True

    def configure(self, settings: GameSettings) -> GeneralsConfig:
        height, width = parse_board_size(settings.size)
        return GeneralsConfig(
            players=settings.players,
            height=height,
            width=width,
            max_steps=settings.max_steps or DEFAULT_MAX_STEPS,
            ruleset=settings.ruleset,
            state=settings.state,
        )

    def player_names(self, config: GeneralsConfig) -> list[str]:
        return [f"player{i}" for i in range(config.players)]

    def schema(self, config: GeneralsConfig) -> Schema:
        return generals_schema(config)

    def describe(self, config: GeneralsConfig) -> str:
        rules = "" if config.ruleset == "generals.io" else f" · {config.ruleset}"
        return f"generals {config.height}x{config.width}{rules} · {config.players} players"

    def metadata(self, config: GeneralsConfig) -> dict[str, Any]:
        return {"game": self.to_builtins(config)}

    def to_builtins(self, config: GeneralsConfig) -> dict[str, Any]:
        tree: dict[str, Any] = msgspec.to_builtins(config)
        return tree

    def from_builtins(self, tree: Mapping[str, Any]) -> GeneralsConfig:
        try:
            return msgspec.convert(dict(tree), GeneralsConfig)
        except msgspec.ValidationError as error:
            raise GameError(f"the run's game settings are not understood: {error}") from None

    def counter(self, writer: int, limit: int | None, first: int = 0) -> EpisodeCounter:
        return EpisodeCounter(writer, first, -1 if limit is None else first + limit)

    def make(
        self,
        config: GeneralsConfig,
        *,
        num_envs: int,
        seed: int,
        policies: Sequence[str | Callable[..., Any]],
        counter: EpisodeCounter,
        rewards: RewardColumns | None = None,
    ) -> Generals:
        return Generals(config, num_envs=num_envs, seed=seed, policies=policies, counter=counter, rewards=rewards)

    def resimulator(self, config: GeneralsConfig, start: EpisodeStart, seed: int) -> Resimulator:
        from expkit.games.generals.resimulate import GeneralsReplay

        return GeneralsReplay(config, start, seed)

    def replay_rewards(self, config: GeneralsConfig, start: EpisodeStart, seed: int, actions: np.ndarray) -> np.ndarray:
        from expkit.games.generals.resimulate import replay_rewards

        return replay_rewards(config, start, seed, actions)
