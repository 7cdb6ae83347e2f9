"""The plug-ins of their page: own reward, processor and representation from outside of the tree, in one recording."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from doc_parts import page, part, run_line

from expkit import open_run


def test_a_dozen_lines_shape_what_is_recorded_and_it_can_be_had_again(tmp_path: Path) -> None:
    code = part(page("plug-ins"), "plug-in", "mine.py")
    assert len(code.splitlines()) == 12
    (tmp_path / "mine.py").write_text(code)
    (tmp_path / "mine.yaml").write_text(part(page("plug-ins"), "plug-in", "mine.yaml"))
    for line in part(page("plug-ins"), "plug-in", "shell").splitlines():
        run_line(line, tmp_path)
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
