"""What all verbs do with what they are given: whole numbers, `-` for a stream; and what progress and summaries tell."""

from __future__ import annotations

import io
import json
import os
import shutil
from pathlib import Path

import pytest
from places import SAMPLE
from written_runs import write_vectors

from expkit.commands import main
from expkit.commands.progress import Progress
from expkit.settings.config import resolve

RECORD = ["record", "-o", "new", "--size", "5x5", "--seed", "1", "--min-free", "0", "--num-envs", "4"]


@pytest.fixture
def say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd):
    """Run a verb beside `run`: exit code, stdout, stderr."""
    write_vectors(tmp_path / "run")
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str) -> tuple[int, str, str]:
        capfd.readouterr()
        code = main(arguments)
        return code, *capfd.readouterr()

    return call


def test_whole_numbers_as_people_write_them(say) -> None:
    code, out, _ = say(*RECORD, "--rows", "1.2k", "--shard-rows", "1e3", "--json")
    assert (code, json.loads(out)["rows"]) == (0, 1200)
    assert say("query", "run", "step = 3", "--limit", "1k", "-q")[1].count("\n") == 5
    for verb, told in (
        ([*RECORD, "--rows", "many"], "--rows: number 'many' is not understood; write it like 250000, 1e6 or 1M"),
        ([*RECORD, "--seed", "1.5"], "--seed: '1.5' is no whole number; write it like"),
        (["query", "run", "step = 3", "--limit", "-1"], "--limit: -1 is not at least 0"),
        (["compact", "run", "--level", "0.1k"], "--level: 100 is not from 1 to 22"),
        (["inspect", "run", "--episode", "x"], "--episode: number 'x' is not understood"),
    ):
        code, out, err = say(*verb)
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert f"expkit {verb[0]}: {told}" in err


def test_settings_take_such_numbers_too(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("recording: {rows: 1e6}\nshards: {rows: 20k}\n")
    config = resolve({}, tmp_path / "a.yaml", {"EXPKIT_NUM_ENVS": "1k"}).config
    assert (config.recording.rows, config.shards.rows, config.recording.num_envs) == (10**6, 20_000, 1000)


def test_a_stream_is_never_a_file_of_that_name(say) -> None:
    before = sorted(os.listdir())
    for verb in (
        ["record", "-o", "-"], ["export", "run", "-o", "-"], ["merge", "run", "-o", "-"], ["import", "-", "-o", "back"],
        ["import", "a.parquet", "-o", "-"], ["rewrite", "run", "-o", "-"], ["recover", "run", "-o", "-"],
        ["bench", "--save-baseline", "-"], ["bench", "--plot", "-"], ["config", "check", "-"],
    ):  # fmt: skip
        code, out, err = say(*verb)
        assert (code, out, err.count("\n")) == (2, "", 1), verb
        assert " -: expkit " in err
    assert sorted(os.listdir()) == before
    plain = say("query", "run", "step = 3", "--format", "csv")
    assert say("query", "run", "step = 3", "--format", "csv", "-o", "-") == plain
    assert sorted(os.listdir()) == before


def test_a_folder_is_no_settings_file(say) -> None:
    assert say("config", "check", "run")[::2] == (
        2, "expkit config: run is a folder; name a settings file, like run/run.yaml\n",
    )  # fmt: skip


def test_games_that_a_limit_cuts_are_told(say) -> None:
    code, out, err = say(*RECORD, "--rows", "100")
    assert code == 0
    assert " interrupted" in out
    assert "4 episodes were cut when the limit was reached, interrupted at the last row; --episodes N records" in err
    assert "cut" not in say(*RECORD, "--episodes", "2", "--force")[2]


def test_a_damaged_run_is_listed_and_shown_as_that(say) -> None:
    shutil.copytree(SAMPLE / "damaged", "damaged")
    code, out, err = say("list", ".", "--json")
    states = {run["run"]: run["state"] for run in json.loads(out)["runs"]}
    assert (code, states, err) == (0, {"damaged": "damaged", "run": "closed"}, "")
    assert say("list", ".")[2] == "next: expkit validate damaged\n"
    assert json.loads(say("inspect", "damaged", "--json")[1])["state"] == "damaged"
    lines = say("inspect", "damaged")[1].splitlines()
    assert lines[0].startswith("damaged · generals · damaged · ")
    assert any("661 rows that were durable are in no shard" in line for line in lines)


def test_rate_and_time_left_are_those_of_the_last_seconds() -> None:
    now, shown = [0.0], io.StringIO()
    with Progress("working", "rows", stream=shown, clock=lambda: now[0]) as progress:
        for seconds in range(0, 210, 10):
            now[0] = float(seconds)
            # A thousand rows a second, and then none.
            progress.update(min(seconds, 100) * 1000, total=200_000)
    lines = shown.getvalue().splitlines()
    assert lines[10] == " 50% · 100k/200k rows · 1,000/s · 1:40 left"
    assert lines[-1].startswith(" 50% · 100k/200k rows · 0/s · ")
