"""Playing many games: the same episodes whatever runs beside them, exact budgets, events, policies from Python."""

from __future__ import annotations

import threading
from collections import Counter
from typing import Any

import numpy as np
import pytest
from generals_games import Tables, play_episodes, tables_of

from expkit.errors import UsageError
from expkit.games.generals import EpisodeCounter, Generals, GeneralsConfig
from expkit.row.episodes import episode_number
from expkit.row.layout import RowSink
from expkit.row.schema import Field, Schema

SMALL = GeneralsConfig(players=3, height=8, width=9, max_steps=90)


def same(one: Tables, other: Tables) -> None:
    for mine, theirs in zip(one, other, strict=True):
        for name in mine:
            assert name == "time_ns" or np.array_equal(mine[name], theirs[name]), name


@pytest.mark.parametrize("policy", ["hunter", "expander", "random"])
def test_episodes_are_the_same_for_any_number_of_games_side_by_side(policy: str) -> None:
    one = play_episodes(SMALL, [policy], 9, num_envs=1)[1]
    for num_envs in (2, 7, 32):
        same(one, play_episodes(SMALL, [policy], 9, num_envs=num_envs)[1])


def test_episodes_are_the_same_on_two_threads() -> None:
    alone = play_episodes(SMALL, ["hunter"], 24)[1]
    counter = EpisodeCounter(limit=24)
    games = [Generals(SMALL, num_envs=3, seed=1, counter=counter) for _ in range(2)]
    sinks = [RowSink.scratch(game.schema, 3, 24 * 91 + 10) for game in games]

    def run(game: Generals, sink: RowSink) -> None:
        while not game.idle:
            game.play(sink, 5)

    threads = [threading.Thread(target=run, args=pair) for pair in zip(games, sinks, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    parts = [tables_of(game, sink) for game, sink in zip(games, sinks, strict=True)]
    joined = []
    for player in range(3):
        table = {name: np.concatenate([part[player][name] for part in parts]) for name in parts[0][player]}
        order = np.lexsort((table["step"], table["episode"]))
        joined.append({name: values[order] for name, values in table.items()})
    same(alone, joined)
    assert counter.next == 24


def test_numbers_carry_the_writer_and_go_on_from_the_first() -> None:
    counter = EpisodeCounter(3, first=10, limit=14)
    game = Generals(SMALL, num_envs=2, seed=1, policies=["random"], counter=counter)
    sink = RowSink.scratch(game.schema, 3, 1000)
    game.play(sink, 1 << 30)
    starts, ends = game.take_events()
    assert [start.episode for start in starts] == [episode_number(3, number) for number in range(10, 14)]
    assert sorted(end.episode for end in ends) == [start.episode for start in starts]
    assert starts[0].players == [0, 1, 2]
    assert starts[0].seeds == {"env": 1}
    assert game.idle
    assert game.take_events() == ([], [])


@pytest.mark.parametrize(
    ("players", "num_envs", "budget"), [(2, 8, 1000), (2, 1, 2), (2, 3, 602), (2, 5, 3000), (4, 6, 901)]
)
def test_a_row_budget_is_met(players: int, num_envs: int, budget: int) -> None:
    config = GeneralsConfig(players=players, height=7, width=7, max_steps=40)
    game = Generals(config, num_envs=num_envs, seed=4, counter=EpisodeCounter())
    sink = RowSink.scratch(game.schema, players, 4000)
    for _ in range(100):
        game.play(sink, 10, budget)
    assert game.committed_rows >= budget
    assert game.finish(sink)
    written = int(sink.position.sum())
    assert written == game.committed_rows
    assert written == budget if players == 2 else budget <= written < budget + 2 * players
    for table in tables_of(game, sink):
        first, last = table["is_first"], table["is_last"]
        assert first.sum() == last.sum() == len(np.unique(table["episode"]))
    _, ends = game.take_events()
    assert sum(sum(end.rows.values()) for end in ends) == written


def test_unfinished_episodes_end_interrupted_and_blocks_are_never_overrun() -> None:
    game = Generals(SMALL, num_envs=4, seed=1, counter=EpisodeCounter())
    sink = RowSink.scratch(game.schema, 3, 30)
    ticks = game.play(sink, 1 << 30)
    assert 0 < ticks <= 30
    assert (sink.position <= 30).all()
    assert game.play(sink, 1 << 30) == 0
    sink.capacity[:] = sink.position + 3
    assert not game.finish(sink)
    sink.capacity[:] = 30
    sink.position[:] = 0
    assert game.finish(sink)
    assert game.finish(sink)
    assert sink.position.tolist() == [4, 4, 4]
    ends = game.take_events()[1]
    assert Counter(end.ended for end in ends) == {"interrupted": 4}
    assert ends[0].outcome == {"0": None, "1": None, "2": None}
    with pytest.raises(UsageError, match="a block of 7 rows cannot hold a tick of 4 games"):
        game.play(RowSink.scratch(game.schema, 3, 7), 1)


def test_stamps_of_policies_and_columns_the_game_does_not_know() -> None:
    game = Generals(SMALL, num_envs=2, seed=1, counter=EpisodeCounter())
    schema = Schema([*game.schema.fields, Field("value", "f4", (3,), "action", nullable=True)])
    sink = RowSink.scratch(schema, 3, 100)
    sink.memory[:] = 255
    sink.policy[:] = [[1, 7], [2, 8], [65535, 1 << 31]]
    game.play(sink, 20)
    game.schema = schema
    for player, table in enumerate(tables_of(game, sink)):
        assert set(table["policy"].tolist()) == {sink.policy[player, 0]}
        assert set(table["policy_version"].tolist()) == {sink.policy[player, 1]}
        assert not table["value"].any()
        assert not table["valid:value"].any()
        assert (np.diff(np.unique(table["time_ns"])) > 0).all()
        assert len(np.unique(table["time_ns"])) == 20


def random_player(observation: dict[str, np.ndarray], mask: np.ndarray, episode: Any, step: Any, player: Any) -> Any:
    """Legal moves, drawn from what identifies the decision, so that batches do not matter."""
    out = np.empty(len(mask), np.int64)
    for index, legal in enumerate(mask):
        assert observation["army"].shape == (len(mask), 8, 9)
        rng = np.random.default_rng([int(episode[index]), int(step[index]), int(player[index])])
        out[index] = rng.choice(np.flatnonzero(legal))
    return out


def test_policies_from_python_play_the_same_games_in_any_batch() -> None:
    game, one, *_ = play_episodes(SMALL, [random_player], 3, num_envs=1)
    assert game.illegal_actions == 0
    same(one, play_episodes(SMALL, [random_player], 3, num_envs=3)[1])
    mixed = play_episodes(SMALL, ["hunter", random_player, "hunter"], 3, num_envs=2)
    same(mixed[1], play_episodes(SMALL, ["hunter", random_player, "hunter"], 3, num_envs=3)[1])


def test_a_policy_from_python_is_not_asked_for_a_tick_that_the_block_has_no_room_for() -> None:
    config = GeneralsConfig(height=8, width=9, max_steps=30)
    game = Generals(config, num_envs=4, seed=1, policies=[random_player], counter=EpisodeCounter(limit=6))
    sink = RowSink.scratch(game.schema, 2, 20)
    rows = 0
    while not game.idle:
        assert game.play(sink, 16) > 0
        assert (sink.position <= sink.capacity).all()
        rows += int(sink.position.sum())
        sink.position[:] = 0
    assert rows == game.committed_rows
    starts, ends = game.take_events()
    assert len(starts) == len(ends) == 6
    whole = play_episodes(config, [random_player], 6)[3]
    assert {end.episode: end.rows for end in ends} == {end.episode: end.rows for end in whole}


def test_the_actions_of_a_built_in_player_replayed_from_python_give_the_same_rows() -> None:
    built_in = play_episodes(SMALL, ["hunter"], 4)[1]
    actions = {
        (int(episode), int(step), player): int(action)
        for player, table in enumerate(built_in)
        for episode, step, action in zip(table["episode"], table["step"], table["action"], strict=True)
    }

    def again(observation: Any, mask: Any, episode: Any, step: Any, player: Any) -> list[int]:
        return [actions[int(e), int(s), int(p)] for e, s, p in zip(episode, step, player, strict=True)]

    same(built_in, play_episodes(SMALL, [again], 4, num_envs=2)[1])


def test_illegal_actions_are_counted_recorded_and_played_as_a_pass() -> None:
    game, tables, _, ends = play_episodes(SMALL, [lambda o, m, e, s, p: np.full(len(m), 3)], 1)
    assert game.illegal_actions == 3 * 90
    assert set(tables[0]["action"][:-1].tolist()) == {3}
    assert tables[0]["observation/total_land"][-1].tolist() == [1, 1, 1]
    assert ends[0].ended == "truncated"


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        (lambda o, m, e, s, p: 1, "returned shape ()"),
        (lambda o, m, e, s, p: np.zeros(len(m)), "returned float64; return integers"),
        (lambda o, m, e, s, p: np.full(len(m), 577), "returned action 577; actions are 0 to 576"),
        (lambda o, m, e, s, p: np.full(len(m), -1), "returned action -1"),
    ],
)
def test_what_a_policy_returns_is_checked(policy: Any, message: str) -> None:
    game = Generals(SMALL, num_envs=2, seed=1, policies=[policy], counter=EpisodeCounter())
    with pytest.raises(UsageError, match=message.replace("()", r"\(\)")):
        game.play(RowSink.scratch(game.schema, 3, 100), 1)


@pytest.mark.parametrize(
    ("policies", "message"),
    [
        (["huntr"], "policy 'huntr' is unknown; did you mean hunter"),
        (["hunter", "random"], "2 policies for 3 players"),
        (["nowhere_at_all:player"], "no module 'nowhere_at_all'"),
        (["json:nothing"], "module 'json' has no 'nothing'"),
        (["json:__name__"], "is a str, not a callable"),
    ],
)
def test_policies_that_are_not_there_are_refused(policies: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Generals(SMALL, num_envs=1, seed=1, policies=policies, counter=EpisodeCounter())
