"""`expkit record` of environments: Gymnasium's, PettingZoo's and a user's own, and what becomes of such runs."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import warm_processes
from recorded_games import importable

from expkit import Run, open_run
from expkit.collect.game_settings import fitted_settings
from expkit.collect.session import Result, Session
from expkit.errors import MissingExtra, UsageError
from expkit.games import find_source
from expkit.resimulation.verify import verify_run
from expkit.settings.config import resolve

CARTPOLE, CONNECT_FOUR = "gymnasium:CartPole-v1", "pettingzoo:classic/connect_four_v3"
ROCK_PAPER_SCISSORS = "pettingzoo:classic/rps_v2"

MODULE = """
import gymnasium, numpy as np
from gymnasium import spaces
from pettingzoo.classic.tictactoe import tictactoe

class Talk(gymnasium.Env):
    observation_space = spaces.Dict(said=spaces.Text(9), seen=spaces.Sequence(spaces.Discrete(5)))
    action_space = spaces.Dict(move=spaces.Box(-1, 1, (2,)), word=spaces.Discrete(3))
    drift = 0

    def look(self):
        length = int(self.np_random.integers(0, 6))
        seen = tuple(np.int64(x) for x in self.np_random.integers(0, 5, length))
        return {"said": "abcdefghi"[: self.count + 1], "seen": seen}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.count = 0
        return self.look(), {}

    def step(self, action):
        self.count += 1
        return self.look(), float(action["move"][0]) + self.drift, self.count == 7, False, {}

def make_talk(): return Talk()
def make_game(): return tictactoe.env()
def make_vector(): return gymnasium.make_vec("CartPole-v1", 2)
def make_nothing(): return 3

def last_legal(observation, action_mask, episode, step, player):
    assert observation["observation"].shape == (len(step), 6, 7, 2)
    return action_mask.shape[1] - 1 - action_mask[:, ::-1].argmax(1)

def wrong(observation, action_mask, episode, step, player): return np.full(len(step), 99)
def short(observation, action_mask, episode, step, player): return [0]
"""


@pytest.fixture(autouse=True)
def _module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    importable(tmp_path, monkeypatch, "own_environments.py", MODULE)
    monkeypatch.delitem(sys.modules, "own_environments", raising=False)


def record(path: Path, source: str, **flags: Any) -> tuple[Result, Run]:
    resolved = resolve({"source": source, "seed": 7, "min_free": "0", **flags}, None, {})
    result = Session(fitted_settings(resolved, resolved.config), path).run()
    return result, open_run(path)


def same(run: Run) -> list[str]:
    """What differs when every episode is played again."""
    return [str(one.difference) for one in verify_run(run, run.episodes()) if one.difference is not None]


@pytest.mark.parametrize("source", [CARTPOLE, CONNECT_FOUR, ROCK_PAPER_SCISSORS, "own_environments:make_talk"])
def test_rows_are_recorded_and_play_out_the_same_again(tmp_path: Path, source: str) -> None:
    result, run = record(tmp_path / "run", source, rows=400)
    assert 400 - 2 * len(run.players) <= result.rows <= 400
    assert result.stopped_by == "rows"
    assert sum(result.stats.produced.values()) == len(run) == result.rows
    assert not result.illegal_actions
    assert same(run) == []
    assert {episode.ended for episode in run.episodes()} >= {"interrupted"}


def test_an_episode_follows_from_seed_and_number_whatever_runs_beside_it(tmp_path: Path) -> None:
    _, one = record(tmp_path / "one", CONNECT_FOUR, episodes=5, num_envs=1)
    _, many = record(tmp_path / "many", CONNECT_FOUR, episodes=5, num_envs=4)
    assert [episode.number for episode in one.episodes()] == list(range(5))
    for episode in one.episodes():
        assert episode.start is not None
        assert episode.start == many.find_episode(episode.number).start.__class__(
            **{**_dict(many.find_episode(episode.number).start), "time_ns": episode.start.time_ns}
        )
        for player in (0, 1):
            left, right = one.rows(episode.number, player), many.rows(episode.number, player)
            for name in ("step", "observation", "action_mask", "action", "reward"):
                np.testing.assert_array_equal(left[name], right[name])
    assert len({tuple(one.episode(number, 0)["action"].tolist()) for number in range(5)}) > 1


def _dict(struct: Any) -> dict[str, Any]:
    return {name: getattr(struct, name) for name in struct.__struct_fields__}


def test_going_on_continues_numbers_and_seeds(tmp_path: Path) -> None:
    record(tmp_path / "parts", ROCK_PAPER_SCISSORS, episodes=2)
    resolved = resolve({"append": True, "episodes": 3, "min_free": "0"}, None, {})
    from expkit.collect.continued import TAKEN_OVER, continued_settings

    info = open_run(tmp_path / "parts").info
    settings = fitted_settings(resolved, continued_settings(resolved, tmp_path / "parts", info), TAKEN_OVER)
    assert settings.recording.num_envs == 8
    Session(settings, tmp_path / "parts").run()
    _, whole = record(tmp_path / "whole", ROCK_PAPER_SCISSORS, episodes=5)
    parts = open_run(tmp_path / "parts")
    assert [e.number for e in parts.episodes()] == [e.number for e in whole.episodes()] == list(range(5))
    for episode in whole.episodes():
        np.testing.assert_array_equal(
            whole.episode(episode.number, 1)["action"], parts.episode(episode.number, 1)["action"]
        )


def test_a_cut_by_max_steps_is_interrupted(tmp_path: Path) -> None:
    result, run = record(tmp_path / "run", "gymnasium:Pendulum-v1", episodes=3, max_steps=20)
    assert result.episodes == {"interrupted": 3}
    assert [episode.length for episode in run.episodes()] == [20, 20, 20]
    assert not any(batch["truncated"].any() for batch in run.scan(["truncated"]))
    _, whole = record(tmp_path / "whole", "gymnasium:Pendulum-v1", episodes=1)
    assert (whole.episodes()[0].ended, whole.episodes()[0].length) == ("truncated", 200)


def test_what_differs_is_told(tmp_path: Path) -> None:
    _, run = record(tmp_path / "run", "own_environments:make_talk", episodes=3)
    sys.modules["own_environments"].Talk.drift = 1  # type: ignore[attr-defined]
    differing = same(run)
    assert len(differing) == 3
    assert differing[0].startswith("episode 0 player 0 step 0 reward: recorded ")


def test_policies_of_a_user(tmp_path: Path) -> None:
    result, run = record(tmp_path / "run", CONNECT_FOUR, episodes=3, policy="random,own_environments:last_legal")
    assert result.episodes == {"terminated": 3}
    assert [policy.name for policy in run.policies] == ["random", "own_environments:last_legal"]
    for episode in run.episodes():
        rows = run.rows(episode.number, 1)
        acted = ~rows["is_last"]
        assert (rows["action"][acted] == 6 - rows["action_mask"][acted][:, ::-1].argmax(1)).all()
        assert set(rows["policy"].tolist()) == {1}
    for policy, words in (
        ("own_environments:wrong", "returned action .*99.*, which is not in Discrete"),
        ("own_environments:short", "returned 1 actions for 8 decisions"),
        ("hunter", "is for generals; environments take random"),
        ("random,random,random", "3 policies for 2 players"),
    ):
        with pytest.raises(UsageError, match=words):
            record(tmp_path / policy[-5:], CONNECT_FOUR, episodes=9, policy=policy)


def test_the_run_tells_of_its_environment(tmp_path: Path) -> None:
    _, run = record(tmp_path / "aec", CONNECT_FOUR, episodes=1)
    assert run.info.players == ["player_0", "player_1"]
    assert run.info.source == CONNECT_FOUR
    assert run.info.metadata["simultaneous_moves"] is False
    assert "pettingzoo" in run.info.metadata["game"]["environment"]["versions"]
    assert run.episodes()[0].start.seeds.keys() == {"env", "action_space/0", "action_space/1"}  # type: ignore[union-attr]
    _, run = record(tmp_path / "taxi", "gymnasium:Taxi-v4", episodes=1, max_steps=9)
    assert "action_mask" in run.schema  # its info has one, which was looked for
    assert run.info.metadata["simultaneous_moves"] is True
    rows = run.rows(0, 0)
    acted = ~rows["is_last"]
    assert rows["action_mask"][acted, rows["action"][acted]].all()


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("gymnasum:CartPole-v1", "no game is called 'gymnasum'; did you mean gymnasium:CartPole-v1?"),
        ("generls", "did you mean generals?"),
        ("gymnasium:CartPol-v1", "Did you mean: `CartPole`"),
        ("gymnasium", "name the environment after the colon, like gymnasium:CartPole-v1"),
        ("pettingzoo:connect_four_v3", "did you mean classic/connect_four_v3?"),
        ("pettingzoo:classic/conect_four_v3", "did you mean classic/connect_four_v3?"),
        ("pettingzoo:classic", "there is no environment in pettingzoo.classic"),
        ("own_environments:make_vector", "a vector environment"),
        ("own_environments:make_nothing", "int is no environment of Gymnasium or PettingZoo"),
        ("own_environments:nope", "has no 'nope'"),
        ("nowhere_at_all:make", "no module 'nowhere_at_all'"),
    ],
)
def test_a_wrong_source_is_told_with_what_to_do(tmp_path: Path, source: str, words: str) -> None:
    with pytest.raises(UsageError) as told:
        record(tmp_path / "run", source, episodes=1)
    assert words in str(told.value)
    assert not (tmp_path / "run").exists()


def test_what_is_not_installed_is_told(tmp_path: Path) -> None:
    with pytest.raises(MissingExtra, match="MuJoCo is not installed"):
        record(tmp_path / "run", "gymnasium:Ant-v5", episodes=1)
    with pytest.raises(MissingExtra, match="rlcard"):
        record(tmp_path / "run", "pettingzoo:classic/leduc_holdem_v4", episodes=1)


def test_settings_of_generals_are_refused(tmp_path: Path) -> None:
    for flags in ({"size": "9x9"}, {"players": 2}, {"state": True}, {"ruleset": "go-system"}, {"threads": 2}):
        with pytest.raises(UsageError, match="is of generals; gymnasium:CartPole-v1 has no such setting"):
            record(tmp_path / "run", CARTPOLE, episodes=1, **flags)
    with pytest.raises(UsageError, match="gives rewards of its own"):
        record(tmp_path / "run", CARTPOLE, episodes=1, reward="sparse")


def test_reading_a_run_imports_no_module_of_a_user(tmp_path: Path) -> None:
    record(tmp_path / "run", "own_environments:make_talk", episodes=1)
    sys.modules.pop("own_environments")
    from expkit.validation.validate import validate_run

    run = open_run(tmp_path / "run")
    assert find_source(run.info.source).name == "own_environments"
    assert list(validate_run(run)) == []
    assert "own_environments" not in sys.modules


def expkit(*words: str, folder: Path) -> tuple[int, str, str]:
    done = warm_processes.expkit(*words, cwd=folder)
    return done.returncode, done.stdout, done.stderr


def test_the_command_line(tmp_path: Path) -> None:
    code, out, _ = expkit(
        "record", "own_environments:make_talk", "--episodes", "3", "--seed", "1", "-o", "run", "--json", "--min-free",
        "0", folder=tmp_path,
    )  # fmt: skip
    told = json.loads(out)
    assert (code, told["rows"], told["steps"], told["episodes_by_end"]) == (0, 24, 21, {"terminated": 3})
    words = ["record", "--append", "--episodes", "1", "-o", "run", "--min-free", "0"]
    code, _, err = expkit(*words, folder=tmp_path)
    assert (code, "own_environments:make_talk" in err, "--trust-code" in err) == (2, True, True)
    code, out, _ = expkit(*words, "--trust-code", folder=tmp_path)
    assert (code, out.splitlines()[1]) == (0, "1 episodes: 1 terminated")
    code, out, _ = expkit("replay", "run", "--verify", "--trust-code", folder=tmp_path)
    assert (code, out) == (0, "same: 4 episodes, 32 rows re-simulated\n")
    code, out, _ = expkit("inspect", "run", "--episode", "0", "--player", "0", "--step", "3", folder=tmp_path)
    assert code == 0
    assert "observation/said         'abcd'" in out
    assert "action/move" in out
    code, out, _ = expkit("replay", "run", "--episode", "0", "--step", "2", folder=tmp_path)
    assert code == 0
    assert "observation/said  'abc'" in out
    code, _, err = expkit("record", "gymnasum:CartPole-v1", folder=tmp_path)
    assert (code, err) == (
        2,
        "expkit record: no game is called 'gymnasum'; did you mean gymnasium:CartPole-v1?\n",
    )
