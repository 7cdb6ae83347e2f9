"""Games of generals played into memory, as tables per player, for tests."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from expkit.games.generals import EpisodeCounter, Generals, GeneralsConfig
from expkit.row.episodes import EpisodeEnd, EpisodeStart
from expkit.row.layout import BlockLayout, RowSink

Tables = list[dict[str, np.ndarray]]


def tables_of(game: Generals, sink: RowSink) -> Tables:
    """The stored columns of every player's rows, sorted by (episode, step)."""
    layout = BlockLayout(game.schema, int(sink.capacity[0]))
    out = []
    for block, count in zip(sink.memory.reshape(game.players, -1), sink.position.tolist(), strict=True):
        views = layout.views(block, 0, count)
        order = np.lexsort((views["step"], views["episode"]))
        out.append({name: values[order] for name, values in views.items()})
    return out


def play_episodes(
    config: GeneralsConfig,
    policies: Sequence[str | Callable[..., Any]],
    episodes: int,
    num_envs: int = 4,
    seed: int = 1,
) -> tuple[Generals, Tables, list[EpisodeStart], list[EpisodeEnd]]:
    """Episodes 0 to `episodes` - 1, all played to their ends."""
    counter = EpisodeCounter(limit=episodes)
    game = Generals(config, num_envs=num_envs, seed=seed, policies=policies, counter=counter)
    sink = RowSink.scratch(
        game.schema, config.players, max(2 * num_envs, episodes * (config.max_steps + 1)) + 2 * num_envs
    )
    game.play(sink, 1 << 30)
    assert game.idle
    starts, ends = game.take_events()
    return game, tables_of(game, sink), starts, ends


def outcomes(
    config: GeneralsConfig, policies: Sequence[str], episodes: int, seed: int = 1
) -> tuple[list[EpisodeEnd], Generals]:
    """Only how the episodes end; rows are overwritten."""
    counter = EpisodeCounter(limit=episodes)
    game = Generals(config, num_envs=32, seed=seed, policies=policies, counter=counter)
    sink = RowSink.scratch(game.schema, config.players, 2048)
    while not game.idle:
        sink.position[:] = 0
        game.play(sink, 1 << 30)
    return game.take_events()[1], game
