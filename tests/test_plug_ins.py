"""README's plug-ins: own reward, processor and representation from outside of the tree, in one recording."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np

from expkit import open_run

README = Path(__file__).resolve().parent.parent / "README.md"


def part(name: str) -> str:
    """The code between the lines of a part."""
    text = README.read_text(encoding="utf-8")
    found = re.search(rf"<!-- plug-in: {re.escape(name)} -->\n```\w+\n(.*?)```", text, re.DOTALL)
    assert found is not None
    return found[1]


def test_a_dozen_lines_shape_what_is_recorded_and_it_can_be_had_again(tmp_path: Path) -> None:
    code = part("mine.py")
    assert len(code.splitlines()) == 12
    (tmp_path / "mine.py").write_text(code)
    (tmp_path / "mine.yaml").write_text(part("mine.yaml"))
    environ = {**os.environ, "EXPKIT_MIN_FREE": "0"}
    for line in part("shell").splitlines():
        words = shlex.split(line)
        if words[0] == "PYTHONPATH=.":
            environ["PYTHONPATH"] = "."
            words = words[1:]
        assert words[0] == "expkit"
        done = subprocess.run(
            [sys.executable, "-m", "expkit.commands", *words[1:]], cwd=tmp_path, env=environ, capture_output=True,
            text=True, timeout=200,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
    with open_run(tmp_path / "runs/mine") as run:
        assert run.schema["observation"].shape == (1,)
        rows = next(run.scan())
        for episode in run.episodes():
            for player in run.players:
                mine = run.rows(episode.number, player)
                assert (mine["observation"] > 0).any()
                # What the scoreboard of the next row shows of the player was rewarded.
                own = mine["observation/total_land"][:, player]
                np.testing.assert_allclose(mine["reward"][:-2], np.minimum(own[1:-1] * 0.01, 0.5), rtol=1e-5)
        assert rows["reward"].max() <= 0.5
