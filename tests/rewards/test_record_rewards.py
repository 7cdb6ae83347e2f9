"""Rewards chosen when games are recorded: those computed afterwards are the same; settings; going on with a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from recorded_games import importable, record
from test_compact import expkit
from test_merge import join
from test_rewrite_rewards import COLUMNS, by_the_twins, careless, same, stored

from expkit import open_run
from expkit.comparison.compare import compare_runs
from expkit.errors import SchemaError, UsageError
from expkit.games.generals import EpisodeCounter, Generals, GeneralsConfig, generals_schema
from expkit.reading.run import Run
from expkit.resimulation.verify import verify_run
from expkit.rewards import RewardColumns
from expkit.rewrite.merge import Choice
from expkit.row.layout import RowSink
from expkit.settings.config import load_file, resolve
from expkit.validation.validate import validate_run

ASKED = {
    "reward": COLUMNS.texts["reward"],
    "reward_column": ";".join(f"{name[7:]}={text}" for name, text in list(COLUMNS.texts.items())[1:]),
}


SMALL_WORDS = ("--episodes", 2, "--size", "8x8", "--num-envs", 2, "--min-free", 0)


@pytest.mark.parametrize(
    "flags",
    [
        {"state": True, "policies": ["hunter", careless, "expander"]},
        {"ruleset": "go-system", "players": 4, "size": "9x9"},
        {"representation": "planes", "players": 2, "num_envs": 5, "threads": 2},
        {"rows": 500, "episodes": None, "policy": "random"},
    ],
    ids=["with the truth, a user's policy", "four players, other rules", "as planes, two threads", "interrupted"],
)
def test_rewards_of_a_recording_are_those_computed_afterwards(tmp_path: Path, flags: dict[str, Any]) -> None:
    record(tmp_path / "asked", **ASKED, **flags)
    record(tmp_path / "plain", **flags)
    join([tmp_path / "plain"], tmp_path / "after", Choice(rewards=COLUMNS))
    found = stored(tmp_path / "asked")
    assert found == stored(tmp_path / "after")
    assert len({values["reward"] for values in found.values()}) > 20
    if flags.get("state"):
        same(found, by_the_twins(tmp_path / "plain"))
    with Run(tmp_path / "asked") as run, Run(tmp_path / "after") as other:
        assert run.schema == other.schema
        assert run.info.metadata["rewards"] == other.info.metadata["rewards"] == COLUMNS.texts
        assert {f.rule for f in validate_run(run) if f.severity != "info"} <= {"value/legal"}
        assert all(result.difference is None for result in verify_run(run, run.episodes()))


def test_nothing_is_different_where_no_reward_is_asked_for(tmp_path: Path) -> None:
    record(tmp_path / "run", reward="game")
    with open_run(tmp_path / "run") as run:
        assert run.schema == generals_schema(GeneralsConfig(players=3, height=8, width=9, max_steps=90))
        assert "rewards" not in run.info.metadata
        assert run.config["rewards"] == {"reward": "game", "columns": ""}


def test_games_without_rewards_are_played_by_one_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that they cost nothing where they are not asked for."""
    phases: list[int] = []
    run = Generals._run

    def noted(game: Generals, sink: RowSink, phase: int, ticks: int) -> int:
        phases.append(phase)
        return run(game, sink, phase, ticks)

    monkeypatch.setattr(Generals, "_run", noted)
    config = GeneralsConfig(height=8, width=8, max_steps=50)
    for columns, calls in ((RewardColumns(), 1), (RewardColumns.parse("weighted"), 20)):
        game = Generals(config, num_envs=2, seed=1, counter=EpisodeCounter(), rewards=columns)
        sink = RowSink.scratch(columns.schema(game.schema), 2, 400)
        phases.clear()
        assert game.play(sink, 10) == 10
        assert len(phases) == calls


def test_settings_of_rewards_by_file_variable_and_flag(tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text("rewards:\n  reward: weighted\n  columns: end=sparse; was=game\n")
    assert load_file(tmp_path / "s.yaml") == {"rewards.reward": "weighted", "rewards.columns": "end=sparse; was=game"}
    config = resolve({"reward": "sparse"}, tmp_path / "s.yaml", {"EXPKIT_REWARD_COLUMN": "x=target"}).config
    assert (config.rewards.reward, config.rewards.columns) == ("sparse", "x=target")
    words = ["record", *SMALL_WORDS, "--config", tmp_path / "s.yaml", "-o", tmp_path / "run"]
    done = expkit(*words, "--reward-column", "a=sparse - 1", "--reward-column", "b=clip(game)")
    assert done.returncode == 0, done.stderr
    with open_run(tmp_path / "run") as run:
        assert run.info.metadata["rewards"] == {
            "reward": "weighted", "reward/a": "sparse - 1", "reward/b": "clip(game)",
        }  # fmt: skip
        rows = run.episode(0, 0)
        assert np.array_equal(rows["reward/a"] + 1, rows["reward/b"])
        assert rows["reward/a"].shape == rows["reward"].shape == (len(rows["step"]) - 1,)


def test_going_on_with_a_run_keeps_its_rewards(tmp_path: Path) -> None:
    asked = {"reward": "weighted", "reward_column": "end=sparse"}
    record(tmp_path / "run", episodes=2, **asked)
    more = expkit("record", "--append", "--episodes", 2, "--num-envs", 2, "--min-free", 0, "-o", tmp_path / "run")
    assert more.returncode == 0, more.stderr
    record(tmp_path / "whole", episodes=4, **asked)
    with Run(tmp_path / "run") as run, Run(tmp_path / "whole") as whole:
        assert compare_runs(run, whole, ignore=["time_ns", "policy"]).equal
    done = expkit("record", "--append", "--episodes", 1, "-o", tmp_path / "run", "--reward", "sparse")
    assert (done.returncode, "--reward is sparse" in done.stderr) == (2, True)
    assert "was recorded with weighted; leave it out" in done.stderr
    with pytest.raises(SchemaError, match="--reward-column is other=game"):
        record(tmp_path / "run", append=True, reward="weighted", reward_column="other=game")
    record(tmp_path / "plain", episodes=1)
    with pytest.raises(SchemaError, match="--reward is weighted"):
        record(tmp_path / "plain", episodes=1, append=True, reward="weighted")


USER = """
from expkit.rewards import needs

@needs("observation/visible", "next_observation/visible")
def explored(batch, scale=1.0):
    return scale * (batch["next_observation/visible"] & ~batch["observation/visible"]).sum((1, 2))

@needs("observation/elephants")
def elephants(batch): return batch["observation/elephants"]

def grumpy(batch):
    if (batch["step"] > 12).any():
        raise ValueError("I have had enough")
    return batch["step"]
"""


@pytest.fixture
def user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return importable(tmp_path, monkeypatch, "my_record_rewards.py", USER)


def test_a_users_reward_while_games_are_played(user: Path) -> None:
    text = "my_record_rewards:explored(scale=0.5)"
    record(user / "run", reward=text)
    with open_run(user / "run") as run:
        for episode in run.episodes():
            for player in episode.rows:
                rows = run.episode(episode.number, player)
                visible = rows["observation/visible"]
                seen = (visible[1:] & ~visible[:-1]).sum((1, 2))
                assert np.array_equal(rows["reward"], seen.astype(np.float32) / 2)


def test_a_users_reward_that_cannot_be(user: Path) -> None:
    with pytest.raises(UsageError, match="observation/elephants, which generals does not tell"):
        record(user / "run", reward="my_record_rewards:elephants")
    with pytest.raises(UsageError, match="a reward is empty"):
        record(user / "run", reward="")
    assert not (user / "run").exists()


def test_a_users_reward_that_fails_while_recording(user: Path) -> None:
    """What was recorded before stays, as after a policy that fails."""
    done = expkit("record", *SMALL_WORDS, "-o", user / "run", "--json", "--reward", "my_record_rewards:grumpy")
    assert done.returncode == 1
    assert "I have had enough" in json.loads(done.stdout)["error"]["message"]
    with Run(user / "run") as run:
        assert {finding.severity for finding in validate_run(run)} <= {"info", "warning"}
