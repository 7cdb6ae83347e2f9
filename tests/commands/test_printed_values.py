"""Values on their way out: what JSON and CSV have no number for, text that a terminal or a spreadsheet would obey."""

from __future__ import annotations

import csv
import io
import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from patience import PATIENCE, together
from places import ROOT
from terminals import shown_on

from expkit import Field, Recorder, Schema
from expkit.commands import main

NAN, INF = float("nan"), float("inf")
SCHEMA = Schema(
    [
        Field("observation", "f4", (2,), "observation"),
        Field("action", "u1", belongs="action"),
        Field("value", "f4", belongs="action", nullable=True),
        Field("flag", "bool", belongs="action"),
    ]
)
REWARDS = [NAN, INF, -INF, 0.25]
NAMED = ["NaN", "Infinity", "-Infinity", 0.25]
VALUES = [None, NAN, 1.5, None]
EVIL = "=a\nb\x1b[31m\u202e\x9b"
SHOWN = "=a\\nb\\x1b[31m\\u202e\\x9b"


def write_odd(path: Path, last: float = 0.25, policy: str = EVIL) -> Path:
    with Recorder(path, SCHEMA, min_free=0, seed=1) as recorder, together(recorder):
        recorder.set_policy(0, policy)
        for step, (reward, value) in enumerate(zip([*REWARDS[:-1], last], VALUES, strict=True)):
            given = {} if value is None else {"value": value}
            observation = np.array([reward, 1], np.float32)
            recorder.add(episode=0, step=step, observation=observation, action=step, reward=reward, flag=True, **given)
        recorder.end(episode=0, player=0, observation=np.zeros(2, np.float32), metadata={"note": EVIL, "loss": NAN})
        recorder.annotate(0, best=-INF)
    return path


@pytest.fixture
def say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd):
    """Run a verb beside `run`; what it wrote to stdout."""
    write_odd(tmp_path / "run")
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str, code: int = 0) -> str:
        capfd.readouterr()
        assert main(arguments) == code
        return capfd.readouterr().out

    return call


def test_what_is_no_number_is_told_from_what_is_not_there(say) -> None:
    sql = "SELECT step, observation, reward, value FROM steps ORDER BY step"
    for question in (["step < 4", "--columns", "observation,reward,value"], [sql]):
        told = json.loads(say("query", "run", *question, "--json"))["rows"]
        lines = [json.loads(line) for line in say("query", "run", *question, "--format", "ndjson").splitlines()]
        for rows in (told, lines):
            assert [row["reward"] for row in rows[:4]] == NAMED
            assert [row["value"] for row in rows[:4]] == [None, "NaN", 1.5, None]
            assert rows[1]["observation"] == ["Infinity", 1.0]
        assert [line.split()[-1] for line in say("query", "run", *question).splitlines()[1:3]] == ["null", "NaN"]
    page = json.loads(say("inspect", "run", "--episode", "0", "--json"))
    assert (page["metadata"]["loss"], page["metadata"]["best"]) == ("NaN", "-Infinity")
    rows = page["rows"]
    assert [row["reward"] for row in rows] == [*NAMED, None]
    row = json.loads(say("inspect", "run", "--episode", "0", "--player", "0", "--step", "1", "--json"))
    assert (row["values"]["value"], row["values"]["observation"]) == ("NaN", ["Infinity", 1.0])
    assert "reward Infinity" in say("inspect", "run", "--episode", "0", "--player", "0", "--step", "1")
    write_odd(Path("other"), last=NAN)
    found = json.loads(say("diff", "run", "other", "--ignore", "time_ns", "--columns", "reward", "--json", code=4))
    assert (found["first_difference"]["a"], found["first_difference"]["b"]) == (0.25, "NaN")
    say("export", "run", "-o", "out.ndjson")
    assert [json.loads(line)["reward"] for line in Path("out.ndjson").read_text().splitlines()[1:5]] == NAMED


def test_csv_of_a_query_and_of_an_export_are_the_same(say) -> None:
    columns = ["step", "observation", "action", "reward", "flag", "value"]
    say("export", "run", "-o", "out.csv", "--force")
    exported = list(csv.DictReader(Path("out.csv").read_text().splitlines()))
    listed = ",".join(f'"{name}"' for name in columns)
    asked = list(csv.DictReader(io.StringIO(say("query", "run", f"SELECT {listed} FROM rows", "--format", "csv"))))
    assert asked == [{name: row[name] for name in columns} for row in exported]
    assert [row["reward"] for row in asked] == ["NaN", "Infinity", "-Infinity", "0.25", ""]
    assert [row["value"] for row in asked] == ["", "NaN", "1.5", "", ""]
    assert (asked[0]["observation"], asked[0]["flag"]) == ('["NaN",1.0]', "true")


def test_a_safe_csv_has_no_formulas(say) -> None:
    sql = """SELECT policy_name AS "=name", reward, -1 AS less, '@x' AS x FROM steps ORDER BY step LIMIT 3"""
    plain = list(csv.reader(io.StringIO(say("query", "run", sql, "--format", "csv"))))
    assert (plain[0][0], plain[1][0], plain[3][1]) == ("=name", EVIL, "-Infinity")
    say("query", "run", sql, "-o", "safe.csv", "--safe-csv")
    safe = list(csv.reader(io.StringIO(Path("safe.csv").read_bytes().decode(), newline="")))
    assert safe[0] == ["'=name", "reward", "less", "x"]
    assert [row[1] for row in safe[1:]] == ["NaN", "Infinity", "'-Infinity"]
    assert {(row[0], row[2], row[3]) for row in safe[1:]} == {("'" + EVIL, "-1", "'@x")}
    say("export", "run", "-o", "safe_export.csv", "--safe-csv")
    exported = list(csv.DictReader(Path("safe_export.csv").read_text().splitlines()))
    assert [row["reward"] for row in exported[:3]] == ["NaN", "Infinity", "'-Infinity"]
    say("query", "run", sql, "--format", "ndjson", "--safe-csv", code=2)
    say("export", "run", "-o", "out.ndjson", "--safe-csv", code=2)


def test_text_from_data_never_ends_a_line(say) -> None:
    shown = say("inspect", "run", "--episode", "0").splitlines()
    assert sum(SHOWN in line for line in shown) == 6
    assert len(shown) == 9
    write_odd(Path("other"), policy=EVIL + "2")
    (first, *_) = say("diff", "run", "other", "--ignore", "time_ns", code=4).splitlines()
    assert f"{SHOWN} vs {SHOWN}2" in first
    for verb in (("query", "run", "step = 3"), ("inspect", "run"), ("list", ".")):
        assert not any(c in say(*verb) for c in "\x1b\u202e\x9b"), verb


@pytest.mark.parametrize("format", ["csv", "ndjson", "json"])
def test_nothing_from_data_reaches_a_terminal_as_it_is(tmp_path: Path, format: str) -> None:
    write_odd(tmp_path / "run")
    leader, follower = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "expkit.commands", "query", "run", "SELECT policy_name FROM steps LIMIT 2",
         "--format", format],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdin=follower, stdout=follower,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    os.close(follower)
    shown = shown_on(leader).replace("\r\n", "\n")
    assert process.wait(PATIENCE) == 0
    assert all(c.isprintable() or c == "\n" for c in shown)
    if format == "csv":
        assert shown.splitlines() == ["policy_name", SHOWN, SHOWN]
    else:
        rows = json.loads(shown)["rows"] if format == "json" else list(map(json.loads, shown.splitlines()))
        assert rows == [{"policy_name": EVIL}] * 2
