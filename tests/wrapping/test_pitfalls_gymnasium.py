"""What Gymnasium does that a recorder has to know, each against the library itself, through `expkit.wrap`."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode, SyncVectorEnv

import expkit
from expkit.errors import SchemaError, UsageError
from expkit.spaces.spaces import layout_of


class Counting(gym.Env):
    """Observations count the steps: (tag and game, step). Ends at `length`. Its info may have a mask that rotates."""

    metadata: ClassVar[dict[str, Any]] = {"render_modes": []}

    def __init__(self, length: int = 4, tag: int = 0, masked: bool = False, observation_space: Any = None):
        self.observation_space = observation_space or spaces.Box(-1e6, 1e6, (2,), np.float32)
        self.action_space = spaces.Discrete(3)
        self.length, self.tag, self.count, self.games = length, tag, 0, -1
        self.masked = masked

    def look(self) -> np.ndarray:
        return np.array([100 * self.tag + self.games, self.count], np.float32)

    def mask(self) -> np.ndarray:
        return (np.arange(3) == self.count % 3).astype(np.int8)

    def info(self) -> dict[str, Any]:
        return {"action_mask": self.mask(), "legal_moves": [self.count % 3]} if self.masked else {}

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.count, self.games = 0, self.games + 1
        return self.look(), self.info()

    def step(self, action: Any) -> Any:
        self.count += 1
        return self.look(), float(self.count), self.count >= self.length, False, self.info() | {"won": True}


def vector(mode: AutoresetMode, masked: bool = False, **options: Any) -> SyncVectorEnv:
    makers = [lambda length=length, tag=tag: Counting(length, tag, masked) for tag, length in enumerate((2, 5))]
    return SyncVectorEnv(makers, autoreset_mode=mode, **options)


def record(env: Any, run: Path, steps: int, **options: Any) -> expkit.Run:
    """Random actions; `reset` where the environment has to be."""
    env = expkit.wrap(env, run, min_free=0, **options)
    env.action_space.seed(5)
    env.reset(seed=3)
    for _ in range(steps):
        _, _, terminated, truncated, _ = env.step(env.action_space.sample())
        done = np.asarray(terminated) | np.asarray(truncated)
        if done.any() and not done.ndim:
            env.reset()
        elif done.any() and env.metadata["autoreset_mode"] is AutoresetMode.DISABLED:
            env.reset(options={"reset_mask": done})
    env.close()
    return expkit.open_run(run)


def check_counting(run: expkit.Run) -> None:
    """Every episode of `Counting` has its own observations, in order, and no other rows."""
    for episode in run.episodes():
        rows = run.episode(episode.number, 0)
        tags, counts = rows["observation"].T
        assert len(set(tags.tolist())) == 1
        assert counts.tolist() == list(range(episode.length + 1))
        assert rows["reward"].tolist() == list(range(1, episode.length + 1))
        assert rows["terminated"][:-1].sum() == 0
        assert rows["terminated"][-1] == (episode.ended == "terminated")
    assert run.steps == sum(episode.length for episode in run.episodes())


def test_pitfall_01_terminated_and_truncated_can_both_be_true(tmp_path: Path) -> None:
    run = record(gym.wrappers.TimeLimit(Counting(4), 4), tmp_path / "run", 4)
    rows = run.episode(0, 0)
    assert rows["terminated"].tolist() == rows["truncated"].tolist() == [False, False, False, True]
    assert run.find_episode(0).ended == "terminated"
    cut = record(gym.wrappers.TimeLimit(Counting(9), 4), tmp_path / "cut", 4)
    assert cut.find_episode(0).ended == "truncated"
    assert cut.episode(0, 0)["terminated"].tolist() == [False] * 4


def test_pitfall_02_next_step_has_phantom_rows_that_are_dropped_by_environment(tmp_path: Path) -> None:
    run = record(vector(AutoresetMode.NEXT_STEP), tmp_path / "run", 12)
    check_counting(run)
    # 2 steps and a reset, 4 times; 5 steps and a reset, twice.
    assert sorted(episode.length for episode in run.episodes()) == [2, 2, 2, 2, 5, 5]
    assert run.steps == 18


def test_pitfall_03_same_step_has_the_last_observation_in_final_obs(tmp_path: Path) -> None:
    run = record(vector(AutoresetMode.SAME_STEP, True), tmp_path / "run", 11, action_mask="action_mask")
    check_counting(run)
    assert sorted(episode.length for episode in run.episodes()) == [1, 1, 2, 2, 2, 2, 2, 5, 5]
    masks = run.rows(run.episodes()[0].number, 0)["action_mask"]
    assert masks.argmax(1).tolist() == [0, 1, 2]  # the last one from the nested final_info


def test_pitfall_04_disabled_resets_by_mask(tmp_path: Path) -> None:
    run = record(vector(AutoresetMode.DISABLED, True), tmp_path / "run", 10, action_mask="action_mask")
    check_counting(run)
    assert [episode.ended for episode in run.episodes()] == ["terminated"] * 7
    for episode in run.episodes():
        rows = run.rows(episode.number, 0, ["action_mask"])
        masks, given = rows["action_mask"], rows["valid:action_mask"]
        # Of a reset by mask the info of the others is zeros, with a flag that says so: what is legal there is unknown.
        assert (masks[:1].argmax(1) == 0).all()
        assert given[0]
        assert all(mask.argmax() == step % 3 for step, mask in enumerate(masks) if given[step])
        assert not masks[~given].any()


def test_pitfall_05_the_mode_is_read_from_the_metadata_and_never_guessed(tmp_path: Path) -> None:
    env = vector(AutoresetMode.NEXT_STEP)
    env.metadata = {}
    with pytest.raises(UsageError, match="autoreset='next_step', 'same_step' or 'disabled'"):
        expkit.wrap(env, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    with pytest.raises(UsageError, match="metadata say 'next_step'; leave it out"):
        expkit.wrap(vector(AutoresetMode.NEXT_STEP), tmp_path / "told", autoreset="same_step")
    env = vector(AutoresetMode.SAME_STEP)
    env.metadata = {}
    wrapped = expkit.wrap(env, tmp_path / "given", autoreset="same_step", min_free=0)
    wrapped.reset(seed=1)
    for _ in range(6):
        wrapped.step(np.zeros(2, np.int64))
    wrapped.close()
    check_counting(expkit.open_run(tmp_path / "given"))


def test_pitfall_06_info_of_vector_environments_is_zero_where_it_is_absent(tmp_path: Path) -> None:
    class Sometimes(Counting):
        def info(self) -> dict[str, Any]:
            return super().info() if self.tag == 0 else {}

    env = SyncVectorEnv(
        [lambda tag=tag: Sometimes(3, tag, True) for tag in (0, 1)], autoreset_mode=AutoresetMode.NEXT_STEP
    )
    run = record(env, tmp_path / "run", 3, action_mask="action_mask")
    with_mask, without = (run.rows(episode.number, 0) for episode in run.episodes())
    assert with_mask["action_mask"].argmax(1).tolist() == [0, 1, 2, 0]
    assert with_mask["valid:action_mask"].all()
    assert not without["valid:action_mask"].any()  # not without legal actions, as the zeros would say


def test_pitfall_07_observations_are_copied(tmp_path: Path) -> None:
    run = record(vector(AutoresetMode.NEXT_STEP, copy=False), tmp_path / "run", 12)
    check_counting(run)

    class Reused(Counting):
        buffer = np.zeros(2, np.float32)

        def look(self) -> np.ndarray:
            self.buffer[:] = super().look()
            return self.buffer

    check_counting(record(Reused(4), tmp_path / "single", 9))


def test_pitfall_08_seeds_of_environment_and_action_space_are_recorded_apart(tmp_path: Path) -> None:
    run = record(vector(AutoresetMode.NEXT_STEP), tmp_path / "run", 12)
    seeds = [episode.start.seeds for episode in run.episodes() if episode.start]
    assert [one.get("env") for one in seeds] == [3, 4, None, None, None, None]  # without a seed the generator goes on
    env = expkit.wrap(Counting(2), tmp_path / "single", min_free=0)
    env.reset(seed=7)
    env.step(0), env.step(0)
    env.action_space.seed(11)
    env.reset(options={"hard": True})
    env.step(0)
    env.reset(seed=9)
    env.step(0)
    env.close()
    episodes = expkit.open_run(tmp_path / "single").episodes()
    assert [episode.start.seeds for episode in episodes if episode.start] == [
        {"env": 7},
        {"action_space": 11},
        {"env": 9, "action_space": 11},
    ]
    assert [episode.metadata.get("options") for episode in episodes] == [None, {"hard": True}, None]
    assert ["TimeLimit outside" in episode.metadata.get("interrupted_by", "") for episode in episodes] == [
        False, True, False,
    ]  # fmt: skip
    assert [episode.ended for episode in episodes] == ["terminated", "interrupted", "interrupted"]


def test_pitfall_09_spec_wrappers_and_versions_are_recorded_and_no_row_comes_after_the_end(tmp_path: Path) -> None:
    env = expkit.wrap(gym.make("CartPole-v1", max_episode_steps=7), tmp_path / "run", min_free=0)
    with pytest.raises(gym.error.ResetNeeded):
        env.step(0)
    env.reset(seed=1)
    done = False
    while not done:
        _, _, terminated, truncated, _ = env.step(1)
        done = terminated or truncated
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # CartPole's own; it steps all the same
        with pytest.raises(UsageError, match="the episode is over"):
            env.step(1)
    env.close()
    run = expkit.open_run(tmp_path / "run")
    assert len(run.episodes()) == 1
    about = run.info.metadata["environment"]
    assert about["spec"]["id"] == "CartPole-v1"
    assert about["spec"]["max_episode_steps"] == 7
    assert [name.rpartition(".")[2] for name in about["wrappers"]] == [
        "TimeLimit", "OrderEnforcing", "PassiveEnvChecker", "CartPoleEnv",
    ]  # fmt: skip
    assert about["versions"]["gymnasium"] == gym.__version__
    assert run.info.source == "gymnasium:CartPole-v1"
    other = expkit.wrap(gym.make_vec("CartPole-v1", 2), tmp_path / "vector", min_free=0)
    assert "gymnasium.envs.classic_control.cartpole.CartPoleVectorEnv" in str(
        expkit.open_run(tmp_path / "vector").info.metadata["environment"]["wrappers"]
    )
    other.close()


def test_pitfall_10_every_kind_of_space_single_and_batched(tmp_path: Path) -> None:
    space = spaces.Dict(
        b=spaces.Text(6),
        a=spaces.Sequence(spaces.Box(-1, 1, (2,)), stack=True),
        c=spaces.Graph(spaces.Box(0, 1, (2,)), spaces.Discrete(3)),
        d=spaces.OneOf([spaces.Discrete(3, start=5), spaces.Text(3)]),
        e=spaces.MultiDiscrete([[2, 3], [4, 5]]),
        f=spaces.Sequence(spaces.Discrete(4)),
    )
    assert list(spaces.Dict({"b": spaces.Discrete(2), "a": spaces.Discrete(2)}).spaces) != list(space.spaces)

    class Talking(Counting):
        def __init__(self, length: int):
            super().__init__(length, observation_space=space)

        def look(self) -> Any:
            seen.append(self.observation_space.sample())
            return seen[-1]

    layout = layout_of(space, "observation", "observation", 96)
    for name, env in (
        ("single", Talking(3)),
        ("vector", SyncVectorEnv([lambda: Talking(3)], autoreset_mode=AutoresetMode.SAME_STEP)),
    ):
        seen: list[Any] = []
        space.seed(1)
        run = record(env, tmp_path / name, 7, capacity=96)
        rows = [run.rows(episode.number, 0) for episode in run.episodes()]
        assert [len(one["step"]) for one in rows] == [4, 4, 2]
        batches = [layout.values(one, len(one["step"])) for one in rows]
        back = [layout.one(batch, i) for batch, one in zip(batches, rows, strict=True) for i in range(len(one["step"]))]
        assert len(back) == len(seen)
        for got, given in zip(back, seen, strict=True):
            assert space.contains(got)
            assert repr(got) == repr({key: given[key] for key in got})


def test_pitfall_11_an_observation_that_is_not_in_its_space_is_warned_of_once(tmp_path: Path) -> None:
    class Lying(Counting):
        def look(self) -> np.ndarray:
            return super().look().astype(np.float64)

    with pytest.warns(UserWarning, match="an array float64 .2,., is not in the observation space") as told:
        check_counting(record(Lying(3), tmp_path / "run", 9))
    assert len(told) == 1

    class Larger(Counting):
        def look(self) -> np.ndarray:
            return np.zeros(3, np.float32)

    env = expkit.wrap(Larger(), tmp_path / "larger", min_free=0)
    with pytest.warns(UserWarning, match="is not in"), pytest.raises(SchemaError, match="observation: shape"):
        env.reset()
    env.close()


def test_pitfall_12_a_mask_belongs_to_the_next_action(tmp_path: Path) -> None:
    for key in ("action_mask", "legal_moves"):
        run = record(Counting(4, masked=True), tmp_path / key, 4, action_mask=key)
        assert run.rows(0, 0)["action_mask"].argmax(1).tolist() == [0, 1, 2, 0, 1]

    class Own(Counting):
        def __init__(self) -> None:
            super().__init__(4, observation_space=spaces.Dict(
                place=spaces.Box(-1e6, 1e6, (2,), np.float32), masks=spaces.MultiBinary(3)))  # fmt: skip

        def look(self) -> Any:
            return {"place": super().look(), "masks": self.mask()}

    run = record(Own(), tmp_path / "own", 4, action_mask="masks")
    assert run.rows(0, 0)["action_mask"].argmax(1).tolist() == [0, 1, 2, 0, 1]
    assert "observation/place" in run.schema
    with pytest.warns(UserWarning, match="the info has action_mask, which is not recorded; give action_mask="):
        assert "action_mask" not in record(Counting(2, masked=True), tmp_path / "none", 2).schema


# Gymnasium's advice to authors of environments.
@pytest.mark.filterwarnings("ignore:.*(different from the unwrapped version|probably too|symmetric and normalized)")
def test_gymnasiums_own_check_passes_on_a_wrapped_environment(tmp_path: Path) -> None:
    for number, env in enumerate((gym.make("CartPole-v1"), gym.make("Pendulum-v1"), gym.make("FrozenLake-v1"))):
        wrapped = expkit.wrap(env, tmp_path / str(number), min_free=0)
        check_env(wrapped, skip_render_check=True)
        wrapped.close()
        run = expkit.open_run(tmp_path / str(number))
        assert len(run) > 0
        assert run.state == "closed"


def test_a_wrapped_environment_does_what_it_does_without(tmp_path: Path) -> None:
    plain, wrapped = gym.make("CartPole-v1"), expkit.wrap(gym.make("CartPole-v1"), tmp_path / "run", min_free=0)
    assert wrapped.spec is not None
    assert wrapped.unwrapped.__class__ is plain.unwrapped.__class__
    left, right = plain.reset(seed=4), wrapped.reset(seed=4)
    np.testing.assert_array_equal(left[0], right[0])
    over = False
    while not over:
        left, right = plain.step(1), wrapped.step(1)
        np.testing.assert_array_equal(left[0], right[0])
        assert left[1:] == right[1:]
        over = left[2] or left[3]
    wrapped.close()


def test_an_environment_that_resets_itself_has_no_row_for_it(tmp_path: Path) -> None:
    env = gym.wrappers.Autoreset(Counting(3))
    wrapped = expkit.wrap(env, tmp_path / "run", min_free=0)
    wrapped.reset()
    for _ in range(9):
        wrapped.step(0)
    wrapped.close()
    run = expkit.open_run(tmp_path / "run")
    check_counting(run)
    assert [episode.length for episode in run.episodes()] == [3, 3, 1]


def test_policies_and_versions_are_stamped(tmp_path: Path) -> None:
    env = expkit.wrap(Counting(2), tmp_path / "run", min_free=0)
    for version in (3, 4):
        env.recorder.set_policy(0, "ppo", version=version)
        env.reset()
        env.step(0), env.step(1)
    env.close()
    run = expkit.open_run(tmp_path / "run")
    assert [set(run.rows(number, 0)["policy_version"].tolist()) for number in (0, 1)] == [{3}, {4}]
    assert run.policies[run.rows(0, 0)["policy"][0]].name == "ppo"
