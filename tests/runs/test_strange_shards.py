"""Shards that lie in a run and do not belong there: of another run, doubles, under the name of another."""

import json
import os
import shutil

import numpy as np
import pytest
from written_runs import write_boards

from expkit import open_run
from expkit.commands import main


def copied_in(run, other):
    shutil.copyfile(other / "shards/w0/000000.exp", run / "shards/w0/000001.exp")


def another_name(run, other):
    shutil.copyfile(run / "shards/w0/000000.exp", run / "shards/w0/000001.exp")


def another_writer(run, other):
    (run / "shards/w1").mkdir()
    shutil.copyfile(run / "shards/w0/000000.exp", run / "shards/w1/000000.exp")


def hard_link(run, other):
    os.link(run / "shards/w0/000000.exp", run / "shards/w0/000001.exp")


@pytest.mark.parametrize("put", [copied_in, another_name, another_writer, hard_link])
def test_a_shard_that_does_not_belong_is_told_refused_and_set_aside(tmp_path, monkeypatch, capfd, put):
    monkeypatch.chdir(tmp_path)
    run, other = write_boards(tmp_path / "run"), write_boards(tmp_path / "other")
    with open_run(run) as sound:
        before = sound.rows(1, 0)
    put(run, other)
    for level in ("--full", "--quick"):
        assert main(["validate", "run", "--json", level]) == 4
        found = json.loads(capfd.readouterr().out)["findings"]
        assert "file/stranger" in {finding["rule"] for finding in found}
    for verb in (
        ["compact", "run"],
        ["prune", "run", "--keep-episodes", "1", "--yes"],
        ["merge", "run", "-o", "merged"],
        ["rewrite", "run", "-o", "rewritten"],
        ["export", "run", "-o", "out.npz"],
    ):
        assert main(verb) == 4, verb
        said = capfd.readouterr().err
        assert "under another name" in said or "belongs to the run" in said, (verb, said)
    main(["recover", "run"])
    capfd.readouterr()
    assert main(["validate", "run"]) == 0, capfd.readouterr()
    with open_run(run) as recovered:
        after = recovered.rows(1, 0)
        assert len(recovered) == 36
    for name, values in before.items():
        np.testing.assert_array_equal(after[name], values)
    assert list((run / "quarantine").glob("*.exp"))
