"""An environment or a policy that raises while it is recorded: what was played is kept, and the run says why."""

import json
import sys

import pytest
import warm_processes
from recorded_games import importable

from expkit import Field, Schema, open_run
from expkit.errors import OutputExists
from expkit.runs.layout import RunInfo, new_run_id
from expkit.runs.write import check_output, create_run
from expkit.validation.validate import validate_run

SCHEMA = Schema([Field("observation", "u1", (2,), "observation"), Field("action", "u1", belongs="action")])
MODULE = """
import gymnasium, numpy as np
from gymnasium import spaces
from expkit.rewards import needs

class Falls(gymnasium.Env):
    observation_space = spaces.Box(0, 1, (2,))
    action_space = spaces.Discrete(3)
    steps = 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.count = 0
        return np.zeros(2, "f4"), {}

    def step(self, action):
        self.count += 1
        Falls.steps += 1
        if Falls.steps == 1500:
            raise ValueError("the robot\\nfell over")
        return self.observation_space.sample(), 1.0, self.count == 40, False, {}

def make(): return Falls()

calls = 0

def gives_up(observation, action_mask, episode, step, player):
    global calls
    calls += 1
    if calls == 11:
        raise ValueError("no idea")
    return np.argmax(action_mask, 1)

@needs("state/army")
def tires(batch):
    global calls
    calls += 1
    if calls == 11:
        raise ValueError("not another one")
    return batch["state/army"].sum((1, 2)) + 0.5

def never(observation, action_mask, episode, step, player):
    raise KeyError("first")
"""


@pytest.fixture(autouse=True)
def _module(tmp_path, monkeypatch):
    importable(tmp_path, monkeypatch, "falling.py", MODULE)
    monkeypatch.delitem(sys.modules, "falling", raising=False)


def record(folder, *words, code=1):
    done = warm_processes.expkit("record", *words, "--seed", "1", "--min-free", "0", cwd=folder)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stderr.splitlines()[-1] if code else done.stdout


def events(run):
    return [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]


def test_what_was_played_until_an_environment_raised_is_kept(tmp_path):
    said = record(tmp_path, "falling:make", "--num-envs", "8", "--rows", "100000", "-o", "run")
    line = MODULE.splitlines().index('            raise ValueError("the robot\\nfell over")') + 1
    assert said == (
        f"expkit record: falling:make: ValueError: the robot fell over (falling.py:{line}, in step); what was played "
        "before is in run"
    )
    run = open_run(tmp_path / "run")
    assert sum(int(batch["is_last"].size - batch["is_last"].sum()) for batch in run.scan()) == 1499
    assert [(one.produced, one.lost) for one in run.counters[0].players] == [(len(run), 0)]
    ends = [episode for episode in run.episodes() if episode.ended == "interrupted"]
    assert {one.metadata["reason"] for one in ends} == {"ValueError: the robot fell over"}
    assert all(episode.ended in ("terminated", "interrupted") for episode in run.episodes())
    assert not [one for one in validate_run(run) if one.severity == "error"]
    told = [event for event in events(run.path) if event["event"] == "failed"]
    assert [(one["error"], one["where"]) for one in told] == [
        ("ValueError: the robot fell over", f"falling.py:{line}, in step")
    ]


@pytest.mark.parametrize("source", ["falling:make", "generals"])
def test_what_was_played_until_a_policy_raised_is_kept(tmp_path, source):
    game = ["--size", "8x8"] if source == "generals" else []
    said = record(tmp_path, source, *game, "--num-envs", "4", "--policy", "falling:gives_up", "-o", "run", "--forever")
    assert "ValueError: no idea (falling.py:" in said
    run = open_run(tmp_path / "run")
    players = len(run.info.players)
    steps = sum(int(batch["is_last"].size - batch["is_last"].sum()) for batch in run.scan())
    assert steps == 10 * 4 * players
    assert [one.ended for one in run.episodes()] == ["interrupted"] * 4
    assert {one.metadata["reason"] for one in run.episodes()} == {"ValueError: no idea"}
    assert not [one for one in validate_run(run) if one.severity == "error"]


def test_no_row_has_a_reward_that_nobody_computed(tmp_path):
    words = ["--size", "8x8", "--num-envs", "4", "--state", "--forever"]
    said = record(tmp_path, *words, "--reward", "falling:tires", "-o", "run")
    assert "ValueError: not another one (falling.py:" in said
    with open_run(tmp_path / "run") as run:
        rows = list(run.scan(["state/army", "reward"]))
        assert sum(len(batch["reward"]) for batch in rows) == 10 * 4 * len(run.info.players)
        for batch in rows:
            assert batch["reward"].tolist() == (batch["state/army"].sum((1, 2)) + 0.5).tolist()
        assert [one.ended for one in run.episodes()] == ["interrupted"] * 4
        assert not [one for one in validate_run(run) if one.severity == "error"]


@pytest.mark.parametrize("source", ["falling:make", "generals"])
def test_a_run_that_came_to_nothing_is_in_nobodys_way(tmp_path, source):
    words = [source, "--episodes", "1", "-o", "run"]
    said = record(tmp_path, *words, "--policy", "falling:never")
    assert "KeyError: 'first' (falling.py:" in said
    assert said.endswith("nothing was recorded")
    record(tmp_path, *words, "--policy", "falling:never")
    record(tmp_path, *words, code=0)
    run = open_run(tmp_path / "run")
    assert len(list(run.episodes())) == 1
    with pytest.raises(OutputExists):
        check_output(tmp_path / "run")


def test_a_run_without_rows_that_did_not_fail_stays(tmp_path):
    create_run(tmp_path / "run", RunInfo(new_run_id(), "test", SCHEMA, ["one"]))
    with pytest.raises(OutputExists):
        check_output(tmp_path / "run")
