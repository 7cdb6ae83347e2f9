"""Single cases in which a run said what had not happened, each with the true values."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from truth_games import Turns

import expkit
from expkit.errors import SchemaError, UsageError
from expkit.row.schema import Field, Schema
from expkit.validation.validate import validate_run


class Counting(gym.Env):
    """Observations count; ends at `length`. `reused`: in one buffer. `paid`: what each step pays."""

    metadata: ClassVar[dict[str, Any]] = {"render_modes": []}

    def __init__(
        self,
        length: int = 3,
        reused: bool = False,
        paid: Any = 1.0,
        end: Any = None,
        start: int = 0,
        masked: bool = False,
    ):
        self.observation_space = spaces.Box(-1e6, 1e6, (2,), np.float32)
        self.action_space = spaces.Discrete(3, start=start)
        self.length, self.reused, self.paid, self.end, self.count, self.games = length, reused, paid, end, 0, -1
        self.masked, self._buffer = masked, np.zeros(2, np.float32)

    def look(self) -> np.ndarray:
        out = self._buffer if self.reused else np.zeros(2, np.float32)
        out[:] = self.games + 1, self.count
        return out

    def info(self) -> dict[str, Any]:
        return {"action_mask": np.array([1, 0, 0], np.int8)} if self.masked and self.count % 2 == 0 else {}

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.count, self.games = 0, self.games + 1
        return self.look(), self.info()

    def step(self, action: Any) -> Any:
        self.count += 1
        over = self.count >= self.length if self.end is None else self.end
        return self.look(), self.paid, over, False, self.info()


def errors(path: Path) -> list[str]:
    return [f"{one.rule} {one.message}" for one in validate_run(expkit.open_run(path)) if one.severity == "error"]


def test_looks_do_not_move_the_random_stream_of_a_game(tmp_path: Path) -> None:
    plain, inner = Turns(3, "array", False, 4, None), Turns(3, "array", False, 4, None)
    env = expkit.wrap(inner, tmp_path / "run", min_free=0)
    told: list[list[float]] = []
    for one in (plain, env):
        one.reset()
        told.append([])
        for agent in one.agent_iter():
            _, _, terminated, truncated, _ = one.last(observe=False)
            told[-1].append(float(one.observe(agent)["observation"][2]))
            one.step(None if terminated or truncated else 0)
    env.close()
    assert told[0] == told[1]
    assert plain.looks == inner.looks


def test_rewards_are_taken_for_what_they_mean_or_refused(tmp_path: Path) -> None:
    for name, paid, stored in (("one", np.array([2.5]), 2.5), ("int", 3, 3.0), ("zero-d", np.float64(0.5), 0.5)):
        env = expkit.wrap(Counting(paid=paid), tmp_path / name, min_free=0)
        env.reset()
        env.step(0)
        env.close()
        assert expkit.open_run(tmp_path / name).episode(0, 0)["reward"].tolist() == [stored]
    for name, paid in (("none", None), ("text", "1"), ("vector", np.ones(2)), ("tuple", (1.0, 2.0))):
        env = expkit.wrap(Counting(paid=paid), tmp_path / name, min_free=0)
        env.reset()
        with pytest.raises(SchemaError, match="not one number"):
            env.step(0)
        env.close()
        assert len(expkit.open_run(tmp_path / name)) == 0
    env = Counting(paid=np.array([1.0, -2.0]))
    env.reward_space = spaces.Box(-9, 9, (2,))
    recorded = expkit.wrap(env, tmp_path / "objectives", min_free=0)
    recorded.reset()
    recorded.step(0)
    recorded.close()
    assert expkit.open_run(tmp_path / "objectives").episode(0, 0)["reward"].tolist() == [[1, -2]]


def test_a_reward_that_is_not_held_is_said_once(tmp_path: Path) -> None:
    env = expkit.wrap(Counting(paid=16777217.0), tmp_path / "f4", min_free=0)
    env.reset()
    with pytest.warns(UserWarning, match='is stored as 16777216.0; give reward_dtype="f8"') as told:
        env.step(0), env.step(0)
    assert len(told) == 1
    env.close()
    env = expkit.wrap(Counting(paid=16777217.0), tmp_path / "f8", min_free=0, reward_dtype="f8")
    env.reset()
    env.step(0)
    env.close()
    assert expkit.open_run(tmp_path / "f8").episode(0, 0)["reward"].tolist() == [16777217.0]


def test_a_flag_that_is_a_text_and_a_bit_that_is_two_are_refused(tmp_path: Path) -> None:
    env = expkit.wrap(Counting(end="False"), tmp_path / "flag", min_free=0)
    env.reset()
    with pytest.raises(SchemaError, match="terminated is 'False', not one truth value"):
        env.step(0)
    env.close()
    schema = Schema([Field("observation", "bool", (2,), "observation"), Field("action", "bool", belongs="action")])
    with expkit.Recorder(tmp_path / "bits", schema, min_free=0) as rec:
        with pytest.raises(SchemaError, match="2 is neither 0 nor 1"):
            rec.add(episode=0, step=0, observation=[2, 1], action=True, reward=0)
        with pytest.raises(SchemaError, match="2 is neither 0 nor 1"):
            rec.add(episode=0, step=0, observation=[0, 1], action=2, reward=0)


def test_masks_of_some_steps_and_actions_that_start_elsewhere_are_sound(tmp_path: Path) -> None:
    env = expkit.wrap(Counting(5, start=4, masked=True), tmp_path / "run", min_free=0, action_mask="action_mask")
    env.reset()
    for action in (4, 6, 4, 5, 4):
        env.step(action)
    env.close()
    assert errors(tmp_path / "run") == []
    rows = expkit.open_run(tmp_path / "run").rows(0, 0)
    assert rows["valid:action_mask"].tolist() == [True, False, True, False, True, False]


def test_after_an_exception_of_a_vector_all_of_it_is_reset(tmp_path: Path) -> None:
    class Failing(Counting):
        def step(self, action: Any) -> Any:
            if self.games == 0 and self.count == 1:
                raise RuntimeError("once")
            return super().step(action)

    vector = SyncVectorEnv([lambda: Counting(9), lambda: Failing(9)], autoreset_mode=AutoresetMode.NEXT_STEP)
    env = expkit.wrap(vector, tmp_path / "run", min_free=0)
    env.reset()
    env.step([0, 0])
    with pytest.raises(RuntimeError, match="once"):
        env.step([0, 0])
    with pytest.raises(UsageError, match="step raised RuntimeError.*reset all of them"):
        env.step([0, 0])
    env.reset()
    env.step([0, 0])
    env.close()
    run = expkit.open_run(tmp_path / "run")
    assert [run.episode(one.number, 0)["observation"].tolist() for one in run.episodes()] == [
        [[1, 0], [1, 1]], [[1, 0], [1, 1]], [[2, 0], [2, 1]], [[2, 0], [2, 1]],
    ]  # fmt: skip


def same_step(reused: bool, wrap: Any = None) -> Any:
    env = SyncVectorEnv([lambda: Counting(3, reused)] * 2, autoreset_mode=AutoresetMode.SAME_STEP)
    return env if wrap is None else wrap(env)


def inside() -> Any:
    return SyncVectorEnv(
        [lambda: gym.wrappers.RecordEpisodeStatistics(Counting(3))] * 2, autoreset_mode=AutoresetMode.SAME_STEP
    )


@pytest.mark.parametrize("make", [lambda: same_step(False, gym.wrappers.vector.DictInfoToList), inside])
def test_same_step_beside_wrappers_of_infos(tmp_path: Path, make: Any) -> None:
    env = expkit.wrap(make(), tmp_path / "run", min_free=0, autoreset="same_step")
    env.reset()
    for _ in range(4):
        env.step(np.zeros(2, np.int64))
    env.close()
    run = expkit.open_run(tmp_path / "run")
    first = run.episode(run.episodes()[0].number, 0)["observation"]
    assert first.tolist() == [[1, 0], [1, 1], [1, 2], [1, 3]]


def test_a_last_observation_that_a_reset_has_overwritten_is_said(tmp_path: Path) -> None:
    env = expkit.wrap(same_step(True), tmp_path / "run", min_free=0)
    env.reset()
    env.step(np.zeros(2, np.int64)), env.step(np.zeros(2, np.int64))
    with pytest.warns(UserWarning, match="return a copy from its step") as told:
        env.step(np.zeros(2, np.int64))
    assert len(told) == 1
    for _ in range(4):
        env.step(np.zeros(2, np.int64))
    env.close()
    ended = [one for one in expkit.open_run(tmp_path / "run").episodes() if one.ended == "terminated"]
    assert len(ended) == 4
    assert all("overwrites" in one.metadata["final_observation"] for one in ended)


def test_what_is_not_accepted_leaves_the_run_and_no_threads(tmp_path: Path) -> None:
    env = expkit.wrap(Counting(), tmp_path / "run", min_free=0)
    env.reset()
    env.step(0)
    env.close()
    rows, threads = len(expkit.open_run(tmp_path / "run")), threading.active_count()

    class VecEnv:
        observation_space, action_space, num_envs = Counting().observation_space, spaces.Discrete(3), 2

        def step_wait(self) -> Any: ...

    with pytest.raises(UsageError, match="a VecEnv of Stable-Baselines3; wrap each environment"):
        expkit.wrap(VecEnv(), tmp_path / "run", min_free=0, mode="w")
    assert len(expkit.open_run(tmp_path / "run")) == rows
    assert threading.active_count() == threads
