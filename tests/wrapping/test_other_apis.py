"""Environments of other libraries and of older versions: wrapped, or refused by name with the way out, and nothing is
left behind."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv

import expkit
from expkit.commands import main
from expkit.errors import SchemaError, UsageError


class Listing(gym.Env):
    """Shows lists that grow; `capacity` has to be as large as the last one."""

    observation_space = spaces.Sequence(spaces.Discrete(200))
    action_space = spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.seen: tuple[int, ...] = ()
        return self.seen, {}

    def step(self, action: Any) -> Any:
        self.seen = (*self.seen, *range(30))
        return self.seen, 1.0, len(self.seen) == 90, False, {}


class Short(gym.Env):
    """`old` is the call that returns what the old gym did."""

    observation_space = spaces.Box(-9, 9, (2,), np.float32)
    action_space = spaces.Discrete(2)

    def __init__(self, old: str = ""):
        self.old, self.count = old, 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.count = 0
        seen = np.zeros(2, np.float32)
        return seen if self.old == "reset" else (seen, {})

    def step(self, action: Any) -> Any:
        self.count += 1
        seen, over = np.full(2, self.count, np.float32), self.count == 3
        return (seen, 1.0, over, {}) if self.old == "step" else (seen, 1.0, over, False, {})


class OldNames(gym.vector.VectorWrapper):
    """A vector whose infos are called as before Gymnasium 1.0."""

    def step(self, actions: Any) -> Any:
        *rest, info = super().step(actions)
        return *rest, {key.replace("final_obs", "final_observation"): one for key, one in info.items()}


class Tensors(gym.vector.VectorWrapper):
    """As the wrappers DictInfoToList and NumpyToTorch together: an info for each, and tensors."""

    def reset(self, **options: Any) -> Any:
        seen, _ = super().reset(**options)
        return torch.from_numpy(seen), [{}] * self.num_envs

    def step(self, actions: Any) -> Any:
        *arrays, info = super().step(actions.numpy())
        final = info.get("final_obs", [None] * self.num_envs)
        infos = [{} if one is None else {"final_obs": torch.from_numpy(one)} for one in final]
        return *(torch.from_numpy(np.array(one)) for one in arrays), infos


class FourValues(gym.vector.VectorWrapper):
    def step(self, actions: Any) -> Any:
        return super().step(actions)[:4]


def vector() -> Any:
    return SyncVectorEnv([Short, Short], autoreset_mode=AutoresetMode.SAME_STEP)


@pytest.mark.filterwarnings("ignore:.*(is not in the observation space|Casting input x)")  # tensors
@pytest.mark.parametrize("around", [OldNames, Tensors])
def test_last_observations_of_a_vector_in_other_forms(around: Any, tmp_path: Path) -> None:
    env = expkit.wrap(around(vector()), tmp_path / "run", min_free=0, autoreset="same_step")
    env.reset()
    for _ in range(3):
        env.step(torch.zeros(2, dtype=torch.int64))
    env.close()
    run = expkit.open_run(tmp_path / "run")
    for number in (0, 1):
        assert run.episode(number, 0)["observation"][:, 0].tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Short("reset"), "reset returned a ndarray; Gymnasium's has observation, info: .*shimmy"),
        (lambda: Short("step"), "step returned 4 values; Gymnasium's has .*shimmy"),
        (lambda: FourValues(vector()), "step returned 4 values; Gymnasium's has .*shimmy"),
    ],
)
def test_calls_of_the_old_gym_are_named(make: Any, words: str, tmp_path: Path) -> None:
    env = expkit.wrap(make(), tmp_path / "run", min_free=0)
    with pytest.raises(SchemaError, match=words):
        env.reset(), env.step(np.zeros(getattr(env, "num_envs", ()), np.int64))
    env.close()
    assert len(expkit.open_run(tmp_path / "run")) == 0


def as_class(module: str, **members: Any) -> Any:
    return type("Other", (), {"__module__": module, "observation_space": Short.observation_space,
                              "action_space": Short.action_space, "step": None, **members})()  # fmt: skip


class Strange(spaces.Space):
    pass


def with_space(space: Any) -> Any:
    env = Short()
    env.observation_space = space
    return env


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: as_class("gym.core"), UsageError, "one of the old gym; shimmy makes it one of Gymnasium"),
        (lambda: as_class("stable_baselines3.common", num_envs=2, step_wait=None), UsageError, "Stable-Baselines3"),
        (lambda: as_class("supersuit.vector", num_envs=2), UsageError, "wrap the PettingZoo environment within"),
        (lambda: with_space(Strange()), SchemaError, "Strange is none of Gymnasium's spaces"),
        (lambda: with_space(spaces.Sequence(spaces.Dict({}))), SchemaError, "a sequence of nothing"),
    ],
)
def test_a_refusal_leaves_nothing_behind(make: Any, error: Any, words: str, tmp_path: Path) -> None:
    threads = threading.active_count()
    with pytest.raises(error, match=words):
        expkit.wrap(make(), tmp_path / "run", min_free=0)
    assert not (tmp_path / "run").exists()
    assert threading.active_count() == threads


def recorded(*options: str) -> int:
    return main(["record", *options, "--min-free", "0", "--memory", "8MiB"])


def test_record_takes_a_capacity_and_goes_on_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    source, run = "test_other_apis:Listing", str(tmp_path / "run")
    assert recorded(source, "--episodes", "2", "--capacity", "90", "--seed", "1", "-o", run) == 0
    assert recorded("--append", "--trust-code", "--episodes", "1", "-o", run) == 0
    opened = expkit.open_run(run)
    assert [one.length for one in opened.episodes()] == [3, 3, 3]
    assert opened.rows(2, 0)["observation/length"].tolist() == [0, 30, 60, 90]
    assert recorded("--append", "--trust-code", "--episodes", "1", "--capacity", "91", "-o", run) != 0
    assert "--capacity is 91 (flag --capacity), but" in capsys.readouterr().err
    assert recorded("--episodes", "1", "--capacity", "9", "-o", str(tmp_path / "generals")) == 2
    assert "--capacity is of environments" in capsys.readouterr().err
