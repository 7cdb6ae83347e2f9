"""README's training: the clone that it trains beats random play, and its other ways to read run."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from expkit import open_run

README = Path(__file__).resolve().parent.parent / "README.md"


def part(name: str) -> str:
    """The code between the lines of a part."""
    found = re.search(rf"<!-- training: {re.escape(name)} -->\n```\w+\n(.*?)```", README.read_text("utf-8"), re.DOTALL)
    assert found is not None
    return found[1]


def run_line(line: str, cwd: Path) -> None:
    environ = {**os.environ, "EXPKIT_MIN_FREE": "0"}
    words = shlex.split(line)
    if words[0] == "PYTHONPATH=.":
        environ["PYTHONPATH"] = "."
        words = words[1:]
    assert words[0] == "expkit"
    done = subprocess.run(
        [sys.executable, "-m", "expkit.commands", *words[1:]], cwd=cwd, env=environ, capture_output=True, text=True,
        timeout=280,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def wins(path: Path) -> tuple[int, int]:
    with open_run(path) as run:
        outcomes = [episode.outcome for episode in run.episodes()]
    return sum(o[0] == 1 for o in outcomes), sum(o[1] == 1 for o in outcomes)


@pytest.mark.slow
def test_the_clone_beats_random_play(tmp_path):
    code = part("clone.py")
    assert len([line for line in code.splitlines() if line]) <= 32
    (tmp_path / "clone.py").write_text(code)
    record, evaluate = part("shell").splitlines()
    run_line(record, tmp_path)
    run_line(evaluate, tmp_path)
    run_line(evaluate.replace("clone:play,random", "random").replace("runs/clone", "runs/random"), tmp_path)
    won, lost = wins(tmp_path / "runs/clone")
    assert won >= 20
    assert won > 2 * lost
    assert won > 2 * max(wins(tmp_path / "runs/random"))


def test_the_other_ways_to_read_run(tmp_path, monkeypatch):
    record = part("shell").splitlines()[0].replace("--episodes 160", "--episodes 20")
    run_line(record, tmp_path)
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(compile(part("reading.py"), "reading.py", "exec"), names)
    assert len(names["batch"]["sample_weight"]) == 256
    assert sum(len(one) for one in names["parts"].values()) == len(names["run"])
    for run in (names["run"], *names["parts"].values()):
        run.close()
