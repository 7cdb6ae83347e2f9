"""Recorded games of the engine played again from their start and their actions alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from expkit.errors import GameError
from expkit.games.generals.config import GeneralsConfig
from expkit.games.generals.engine import EpisodeCounter, Generals
from expkit.games.generals.resimulate import GeneralsReplay
from expkit.games.protocol import Resimulator
from expkit.row.episodes import EpisodeStart
from expkit.row.layout import BlockLayout, RowSink

ROWS = 2000


@pytest.mark.parametrize(("players", "ruleset"), [(2, "generals.io"), (4, "generals.io"), (3, "go-system")])
def test_every_recorded_row_is_seen_again(players: int, ruleset: str) -> None:
    config = GeneralsConfig(players=players, height=9, width=12, max_steps=150, ruleset=ruleset, state=True)
    policies = ["expander"] * players
    game = Generals(config, num_envs=3, seed=5, policies=policies, counter=EpisodeCounter(2, limit=4))
    sink = RowSink.scratch(game.schema, players, ROWS)
    game.play(sink, 1000)
    assert game.finish(sink)
    layout = BlockLayout(game.schema, ROWS)
    tables = [
        layout.views(block, 0, int(count))
        for block, count in zip(sink.memory.reshape(players, -1), sink.position, strict=True)
    ]
    starts, _ = game.take_events()
    compared = 0
    for start in starts:
        again = GeneralsReplay(config, start, 5)
        assert isinstance(again, Resimulator)
        for step in range(config.max_steps + 1):
            assert again.step_number == step
            actions, rewards = {}, {}
            for player, table in enumerate(tables):
                for at in np.flatnonzero((table["episode"] == start.episode) & (table["step"] == step)):
                    for name, seen in again.observation(player).items():
                        assert np.array_equal(game.schema.unpack(name, table[name][at : at + 1])[0], seen), name
                    compared += 1
                    if not table["is_last"][at]:
                        actions[player], rewards[player] = int(table["action"][at]), float(table["reward"][at])
            if not actions:
                break
            again.step(actions)
            assert {player: again.rewards()[player] for player in rewards} == rewards
    assert compared == sink.position.sum()
    assert len(starts) == 4


def small_game(**metadata: Any) -> GeneralsReplay:
    board = {"generals": [0, 24], "cities": [], "mountains": [], "neutrals": []}
    start = EpisodeStart(3, 0, [0, 1], "generals", metadata={"map": board} | metadata)
    return GeneralsReplay(GeneralsConfig(height=5, width=5), start, 0)


def test_actions_that_are_not_legal_change_nothing() -> None:
    game = small_game(leaves=[[1, 0]])
    before = game.board().army.tolist()
    with pytest.raises(GameError, match="step 0: action 3 of player 0 is not legal"):
        game.step({0: 3})
    for beyond in (201, -1, -(1 << 40), 1 << 70):
        with pytest.raises(GameError, match=f"step 0: action {beyond} of player 0 is not legal"):
            game.step({0: beyond})
    assert (game.step_number, game.board().army.tolist()) == (0, before)
    game.step({})
    assert game.rewards() == {0: 1.0, 1: -1.0}
    with pytest.raises(GameError, match="step 1: player 1 acts, but is not in the game"):
        game.step({1: 200})


BROKEN: list[dict[str, Any]] = [
    {"map": []},
    {"map": {}},
    {"map": {"generals": [0], "cities": [], "mountains": [], "neutrals": []}},
    {"map": {"generals": [0, 0], "cities": [], "mountains": [], "neutrals": []}},
    {"map": {"generals": [0, 25], "cities": [], "mountains": [], "neutrals": []}},
    {"map": {"generals": [0, 24], "cities": [[3]], "mountains": [], "neutrals": []}},
    {"map": {"generals": [0, 24], "cities": [[3, 1 << 40]], "mountains": [], "neutrals": []}},
    {"map": {"generals": [0, 24], "cities": [], "mountains": [-1], "neutrals": []}},
    {"leaves": [[2, 0]]},
    {"leaves": 5},
    {"order": {"one": []}},
    {"order": {"1": [[9, 0]]}},
    {"order": {"1": [[0, 1 << 70]]}},
    {"order": {"1": [[0, -1]]}},
]


@pytest.mark.parametrize("metadata", BROKEN, ids=str)
def test_metadata_that_describes_no_game_is_refused(metadata: dict[str, Any]) -> None:
    with pytest.raises(GameError, match="episode 3: its metadata describes no game of generals"):
        small_game(**metadata)
