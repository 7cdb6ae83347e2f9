"""A child that is forked while its parent records leaves the parent's run alone."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import forked_recorder
import numpy as np
from patience import PATIENCE, wait_until

from expkit import open_run
from expkit.runs.locks import live_writers
from expkit.validation.validate import validate_run


def script(folder, child):
    return subprocess.run(
        [sys.executable, forked_recorder.__file__, str(folder), child],
        capture_output=True, text=True, timeout=PATIENCE, check=False,
    )  # fmt: skip


def test_a_forked_child_is_refused_and_its_parent_records_on(tmp_path):
    done = script(tmp_path / "run", "uses")
    assert done.returncode == 0, done.stderr
    told = [line.split(maxsplit=2) for line in done.stdout.splitlines()]
    assert len(told) == 10
    for name, what, message in told:
        assert what == "UsageError", (name, message)
        assert "this recorder is of process" in message
    with open_run(tmp_path / "run") as run:
        assert [finding for finding in validate_run(run) if finding.severity == "error"] == []
        rows = run.episode(0, 0)
        assert [episode.end.ended for episode in run.episodes()] == ["truncated"]
    expected = np.repeat(np.arange(forked_recorder.ROWS, dtype="f4")[:, None], 64, 1)
    np.testing.assert_array_equal(rows["observation"][:-1], expected)
    assert rows["action"].tolist() == [step % 5 for step in range(forked_recorder.ROWS)]


def test_a_recorder_that_was_killed_is_dead_although_its_child_lives(tmp_path):
    done = subprocess.Popen([sys.executable, forked_recorder.__file__, str(tmp_path / "run"), "stays"])
    assert done.wait(PATIENCE) == -signal.SIGKILL
    child = Path(f"{tmp_path / 'run'}.child")
    wait_until(lambda: child.exists() and child.read_text())
    try:
        assert live_writers(tmp_path / "run") == []
    finally:
        os.kill(int(child.read_text()), signal.SIGKILL)
