"""What PettingZoo does that a recorder has to know, each against the library itself, through `expkit.wrap`."""

from __future__ import annotations

import copy
import warnings
from collections import defaultdict
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from gymnasium import spaces
from pettingzoo import ParallelEnv
from pettingzoo.classic.chess import chess as chess_v6
from pettingzoo.classic.connect_four import connect_four as connect_four_v3
from pettingzoo.classic.rps import rps as rps_v2
from pettingzoo.classic.tictactoe import tictactoe as tictactoe_v3
from pettingzoo.utils.conversions import (
    aec_to_parallel,
    parallel_to_aec,
    turn_based_aec_to_parallel,
)

import expkit
from expkit.errors import SchemaError, UsageError

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # its tests use its old way to make environments
    from pettingzoo.test import api_test, parallel_api_test, parallel_seed_test, seed_test


def play(env: Any, moves: list[int] | None = None, seed: int = 1) -> list[tuple[str, Any, float, bool, bool]]:
    """An episode of an AEC environment, of these moves or the first legal ones. What `last` said at each turn."""
    told = []
    env.reset(seed=seed)
    given = iter(moves or [])
    for agent in env.agent_iter():
        observation, reward, terminated, truncated, _ = env.last()
        told.append((agent, copy.deepcopy(observation), reward, terminated, truncated))
        legal = np.flatnonzero(observation["action_mask"]) if isinstance(observation, dict) else [0]
        env.step(None if terminated or truncated else next(given, int(legal[0])))
    return told


def wrapped(env: Any, run: Path, **options: Any) -> Any:
    return expkit.wrap(env, run, min_free=0, **options)


class Meeting(ParallelEnv):
    """Agents see (their number, the round). `ends` says after how many rounds each of them leaves."""

    metadata: ClassVar[dict[str, Any]] = {"name": "meeting", "is_parallelizable": True}
    render_mode = None

    def __init__(self, **ends: int):
        self.possible_agents, self.ends = list(ends), ends
        self.observation_spaces = {agent: spaces.Box(0, 99, (2,), np.float32) for agent in ends}
        self.action_spaces = {agent: spaces.Discrete(5) for agent in ends}

    def observation_space(self, agent: str) -> Any:
        return self.observation_spaces[agent]

    def action_space(self, agent: str) -> Any:
        return self.action_spaces[agent]

    def look(self, agent: str) -> np.ndarray:
        return np.array([list(self.ends).index(agent), self.round], np.float32)

    def reset(self, seed: int | None = None, options: Any = None) -> Any:
        self.agents, self.round = list(self.ends), 0
        return {agent: self.look(agent) for agent in self.agents}, {agent: {} for agent in self.agents}

    def step(self, actions: dict[str, Any]) -> Any:
        self.round += 1
        before = self.agents
        over = {agent: self.round >= self.ends[agent] for agent in before}
        self.agents = [agent for agent in before if not over[agent]]
        rewards = {agent: float(agent != "a") * (10 * list(self.ends).index(agent) + self.round) for agent in before}
        no = dict.fromkeys(before, False)
        return {agent: self.look(agent) for agent in before}, rewards, over, no, {agent: {} for agent in before}


def check_meeting(run: expkit.Run, ends: dict[str, int]) -> None:
    for number in range(len(run.episodes())):
        for player, (_, rounds) in enumerate(ends.items()):
            rows = run.episode(number, player)
            assert rows["observation"].tolist() == [[player, i] for i in range(rounds + 1)]
            assert rows["reward"].tolist() == [10 * player + i + 1 if player else 0 for i in range(rounds)]
            assert rows["terminated"].tolist() == [i == rounds - 1 for i in range(rounds)]


def test_pitfall_13_the_reward_of_last_belongs_to_the_agents_previous_action(tmp_path: Path) -> None:
    env = wrapped(tictactoe_v3.env(), tmp_path / "run")
    told = play(env, [0, 3, 1, 4, 2])  # player 0 wins with its third move
    env.close()
    run = expkit.open_run(tmp_path / "run")
    assert run.info.players == ["player_1", "player_2"]
    for player, name in enumerate(run.info.players):
        mine = [one for one in told if one[0] == name]
        rows = run.episode(0, player)
        assert rows["reward"].tolist() == [reward for _, _, reward, _, _ in mine[1:]]
        np.testing.assert_array_equal(rows["observation"], [seen["observation"] for _, seen, _, _, _ in mine])
        np.testing.assert_array_equal(run.rows(0, player)["action_mask"], [seen["action_mask"] for _, seen, *_ in mine])
    assert run.episode(0, 0)["action"].tolist() == [0, 1, 2]
    assert run.episode(0, 1)["action"].tolist() == [3, 4]
    assert run.rows(0, 0)["step"].tolist() == [0, 2, 4, 5]
    assert run.rows(0, 1)["step"].tolist() == [1, 3, 5]


def test_pitfall_14_the_turn_of_a_dead_agent_closes_its_last_transition(tmp_path: Path) -> None:
    env = wrapped(connect_four_v3.env(), tmp_path / "run")
    told = play(env, [0, 1, 0, 1, 0, 1, 0])
    assert [(agent, reward) for agent, _, reward, over, _ in told if over] == [("player_1", -1), ("player_0", 1)]
    env.close()
    run = expkit.open_run(tmp_path / "run")
    episode = run.find_episode(0)
    assert episode.rows == {0: 5, 1: 4}  # a row less than turns: none for a dead one's
    assert episode.outcome == {0: 1.0, 1: -1.0}
    assert run.episode(0, 0)["reward"].tolist() == [0, 0, 0, 1]
    assert run.episode(0, 1)["reward"].tolist() == [0, 0, -1]
    # `b` leaves first and is asked before `a` then: who an agent is never follows from the order.
    ends = {"a": 3, "b": 2, "c": 4}
    env = wrapped(parallel_to_aec(Meeting(**ends)), tmp_path / "order")
    order = [agent for agent, *_ in play(env)]
    assert order.index("b", order.index("b", 3) + 1) < len(order)
    assert order != sorted(order[:3]) * (len(order) // 3)
    env.close()
    check_meeting(expkit.open_run(tmp_path / "order"), ends)


def test_pitfall_15_the_mask_of_a_row_is_the_agents_own_in_its_turn(tmp_path: Path) -> None:
    env = connect_four_v3.env()
    env.reset()
    other = env.observe("player_1")
    assert not other["action_mask"].any()
    env = wrapped(connect_four_v3.env(), tmp_path / "run")
    told = play(env, [0, 1, 0, 1, 0, 1, 0])
    assert told[-1][1]["action_mask"].any()  # where nothing can be done any more
    env.close()
    run = expkit.open_run(tmp_path / "run")
    for player in (0, 1):
        rows = run.rows(0, player)
        acted = ~rows["is_last"]
        assert rows["action_mask"][acted, rows["action"][acted]].all()


def test_pitfall_16_an_illegal_move_is_told_and_is_no_loss(tmp_path: Path) -> None:
    env = wrapped(tictactoe_v3.env(), tmp_path / "run")
    told = play(env, [0, 0])
    assert all(terminated and truncated for *_, terminated, truncated in told[2:])
    env.close()
    run = expkit.open_run(tmp_path / "run")
    episode = run.find_episode(0)
    assert episode.metadata["illegal_actions"] == [{"player": 1, "step": 1}]
    assert episode.outcome == {0: None, 1: None}
    rows = run.episode(0, 1)
    assert (rows["reward"].tolist(), rows["terminated"].tolist(), rows["truncated"].tolist()) == ([-1], [True], [True])
    assert not rows["action_mask"][0, rows["action"][0]]


def test_pitfall_17_parallel_rows_are_of_the_agents_before_the_step(tmp_path: Path) -> None:
    class Silent(Meeting):
        def step(self, actions: Any) -> Any:
            seen, rewards, over, cut, _ = super().step(actions)
            paid = defaultdict(float, {agent: reward for agent, reward in rewards.items() if reward})
            return seen, paid, over, cut, {}

    ends = {"a": 2, "b": 4, "c": 3}
    env = wrapped(Silent(**ends), tmp_path / "run")
    for _ in range(2):
        env.reset()
        while env.agents:
            env.step(dict.fromkeys(env.agents, 0))
    env.close()
    run = expkit.open_run(tmp_path / "run")
    check_meeting(run, ends)
    assert [episode.ended for episode in run.episodes()] == ["terminated", "terminated"]
    env = wrapped(rps_v2.parallel_env(), tmp_path / "rps")
    observations, _ = env.reset(seed=1)
    assert np.asarray(observations["player_0"]).shape == ()
    while env.agents:
        env.step({"player_0": 0, "player_1": 1})
    env.close()
    run = expkit.open_run(tmp_path / "rps")
    assert run.episode(0, 1)["reward"].tolist() == [1] * 15
    assert run.episode(0, 0)["observation"].tolist() == [3, *[1] * 15]
    assert run.find_episode(0).ended == "truncated"


def test_pitfall_18_rows_of_agents_whose_turn_it_is_not_are_dropped(tmp_path: Path) -> None:
    with pytest.raises(AssertionError):
        aec_to_parallel(tictactoe_v3.env())
    moves = [0, 3, 1, 4, 2]
    env = wrapped(turn_based_aec_to_parallel(tictactoe_v3.raw_env()), tmp_path / "parallel")
    env.reset(seed=1)
    for move in moves:
        env.step(dict.fromkeys(env.agents, move))
    assert not env.agents
    env.close()
    env = wrapped(tictactoe_v3.raw_env(), tmp_path / "aec")
    play(env, moves)
    env.close()
    runs = [expkit.open_run(tmp_path / name) for name in ("parallel", "aec")]
    for player in (0, 1):
        left, right = (run.episode(0, player) for run in runs)
        for name in ("observation", "action", "reward", "terminated", "truncated", "step"):
            np.testing.assert_array_equal(left[name], right[name], err_msg=name)
    assert runs[0].find_episode(0).outcome == {0: 1.0, 1: -1.0}


# Gymnasium's, of what it is asked to find in a Box.
@pytest.mark.filterwarnings("ignore:.*Casting input x to numpy array")
def test_pitfall_19_what_does_not_keep_to_the_api_is_refused_by_name(tmp_path: Path) -> None:
    class Scalar(Meeting):
        def step(self, actions: Any) -> Any:
            seen, rewards, over, cut, infos = super().step(actions)
            return seen, rewards, all(over.values()), cut, infos

    class Empty(Meeting):
        def reset(self, seed: int | None = None, options: Any = None) -> Any:
            return {agent: {} for agent in super().reset()[0]}, {}

    class Short(Meeting):
        def step(self, actions: Any) -> Any:
            return super().step(actions)[:4]

    class Spaceless(Meeting):
        def observation_space(self, agent: str) -> Any:
            raise KeyError(agent)

    env = wrapped(Scalar(a=2, b=2), tmp_path / "scalar")
    env.reset()
    with pytest.raises(SchemaError, match="step returned terminations as bool; PettingZoo's Parallel API has them by"):
        env.step({"a": 0, "b": 0})
    env.close()
    env = wrapped(Short(a=2, b=2), tmp_path / "short")
    env.reset()
    with pytest.raises(SchemaError, match="step returned 4 values"):
        env.step({"a": 0, "b": 0})
    env.close()
    env = wrapped(Empty(a=2), tmp_path / "empty")
    with (
        pytest.warns(UserWarning, match="agent a, a mapping of nothing, is not in the observation space"),
        pytest.raises(SchemaError, match="observation"),
    ):
        env.reset()
    env.close()
    with pytest.raises(SchemaError, match="agent a has no spaces"):
        wrapped(Spaceless(a=2), tmp_path / "spaceless")
    differing = Meeting(a=2, b=2)
    differing.observation_spaces["b"] = spaces.Box(0, 1, (3,))
    with pytest.raises(SchemaError, match="agents a and b have observation spaces that differ.*make them equal"):
        wrapped(differing, tmp_path / "differing")
    with pytest.raises(UsageError, match="is no environment"):
        wrapped(object(), tmp_path / "none")
    assert not (tmp_path / "differing").exists()


def test_pitfall_20_what_the_recorder_cuts_is_interrupted(tmp_path: Path) -> None:
    env = wrapped(tictactoe_v3.env(), tmp_path / "aec")
    env.reset(seed=1)
    for move in (0, 3, 1):
        env.step(move)
    env.reset(seed=2)
    env.step(4)
    env.close()
    run = expkit.open_run(tmp_path / "aec")
    assert [episode.ended for episode in run.episodes()] == ["interrupted", "interrupted"]
    assert [episode.rows for episode in run.episodes()] == [{0: 3, 1: 2}, {0: 2}]
    for episode in run.episodes():
        for player in episode.rows:
            rows = run.rows(episode.number, player)
            assert not (rows["terminated"] | rows["truncated"]).any()
            assert rows["is_last"].tolist() == [False] * (len(rows["step"]) - 1) + [True]
    env = wrapped(Meeting(a=5, b=5), tmp_path / "parallel")
    env.reset()
    env.step({"a": 0, "b": 0})
    env.close()
    run = expkit.open_run(tmp_path / "parallel")
    assert [(episode.ended, episode.rows) for episode in run.episodes()] == [("interrupted", {0: 2, 1: 2})]


# PettingZoo's advice to authors of environments.
_ADVICE = pytest.mark.filterwarnings("ignore:.*(Observation|Action|base environment|agents to be named)")


@_ADVICE
@pytest.mark.parametrize("module", [connect_four_v3, tictactoe_v3, chess_v6, rps_v2])
def test_pettingzoos_own_test_passes_on_wrapped_aec_environments(tmp_path: Path, module: Any) -> None:
    env = wrapped(module.env(), tmp_path / "run")
    api_test(env, num_cycles=60)
    env.close()
    run = expkit.open_run(tmp_path / "run")
    assert len(run.episodes()) >= 1
    assert run.state == "closed"


@_ADVICE
def test_pettingzoos_own_test_passes_on_wrapped_parallel_environments(tmp_path: Path) -> None:
    for name, make in (("rps", rps_v2.parallel_env), ("meeting", lambda: Meeting(a=3, b=5, c=4))):
        env = wrapped(make(), tmp_path / name)
        parallel_api_test(env, num_cycles=60)
        env.close()
        assert expkit.open_run(tmp_path / name).steps >= 24
    env = wrapped(parallel_to_aec(Meeting(a=3, b=5, c=4)), tmp_path / "aec")
    api_test(env, num_cycles=60)
    env.close()


def test_agents_that_nobody_told_of_are_numbered_as_they_come(tmp_path: Path) -> None:
    class Coming(Meeting):
        def reset(self, seed: int | None = None, options: Any = None) -> Any:
            seen, infos = super().reset()
            self.agents = ["a"]
            return {"a": seen["a"]}, infos

        def step(self, actions: Any) -> Any:
            self.agents = list(self.ends)[: self.round + 2]
            return super().step(actions)

    env = Coming(a=3, b=4, c=5)
    del env.possible_agents
    with pytest.raises(SchemaError, match="no possible_agents.*reset it first, and give players="):
        wrapped(env, tmp_path / "run")
    env.reset()
    with pytest.raises(UsageError, match="does not say which agents there may be; give players="):
        wrapped(env, tmp_path / "run")
    recorded = wrapped(env, tmp_path / "run", players=3)
    recorded.reset()
    while recorded.agents:
        recorded.step(dict.fromkeys(recorded.agents, 1))
    recorded.close()
    run = expkit.open_run(tmp_path / "run")
    assert run.find_episode(0).rows == {0: 4, 1: 4, 2: 4}
    assert [run.rows(0, player)["step"].tolist() for player in range(3)] == [[0, 1, 2, 3], [1, 2, 3, 4], [2, 3, 4, 5]]


@_ADVICE
def test_pettingzoos_seed_tests_pass(tmp_path: Path) -> None:
    numbers = iter(range(100))
    seed_test(lambda: wrapped(tictactoe_v3.env(), tmp_path / f"aec{next(numbers)}"), num_cycles=20)
    parallel_seed_test(lambda: wrapped(rps_v2.parallel_env(), tmp_path / f"par{next(numbers)}"), num_cycles=20)
