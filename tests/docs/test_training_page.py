"""The page about training: the clone that it trains beats random play, and its other ways to read run."""

from __future__ import annotations

from pathlib import Path

import pytest
from doc_parts import page, part, run_line

from expkit import open_run


def wins(path: Path) -> tuple[int, int]:
    with open_run(path) as run:
        outcomes = [episode.outcome for episode in run.episodes()]
    return sum(o[0] == 1 for o in outcomes), sum(o[1] == 1 for o in outcomes)


@pytest.mark.slow
def test_the_clone_beats_random_play(tmp_path):
    code = part(page("training"), "training", "clone.py")
    assert len([line for line in code.splitlines() if line]) <= 32
    (tmp_path / "clone.py").write_text(code)
    record, evaluate = part(page("training"), "training", "shell").splitlines()
    run_line(record, tmp_path)
    run_line(evaluate, tmp_path)
    run_line(evaluate.replace("clone:play,random", "random").replace("runs/clone", "runs/random"), tmp_path)
    won, lost = wins(tmp_path / "runs/clone")
    assert won >= 20
    assert won > 2 * lost
    assert won > 2 * max(wins(tmp_path / "runs/random"))


def test_the_other_ways_to_read_run(tmp_path, monkeypatch):
    record = part(page("training"), "training", "shell").splitlines()[0].replace("--episodes 160", "--episodes 20")
    run_line(record, tmp_path)
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(compile(part(page("training"), "training", "reading.py"), "reading.py", "exec"), names)
    assert len(names["batch"]["sample_weight"]) == 256
    assert sum(len(one) for one in names["parts"].values()) == len(names["run"])
    for run in (names["run"], *names["parts"].values()):
        run.close()
