"""Shards that lie in a run and do not belong there: of another run, doubles, under the name of another."""

import json
import os
import shutil

import numpy as np
import pytest
from written_runs import write_boards

from expkit import Recorder, open_run
from expkit.commands import main
from expkit.errors import CheckFailed
from expkit.rewrite.compact import compact


def copied_in(run, other):
    shutil.copyfile(other / "shards/w0/000000.exp", run / "shards/w0/000001.exp")


def another_name(run, other):
    shutil.copyfile(run / "shards/w0/000000.exp", run / "shards/w0/000001.exp")


def another_writer(run, other):
    (run / "shards/w1").mkdir()
    shutil.copyfile(run / "shards/w0/000000.exp", run / "shards/w1/000000.exp")


def hard_link(run, other):
    os.link(run / "shards/w0/000000.exp", run / "shards/w0/000001.exp")


def generation(run, other):
    compact(other)
    shutil.copytree(other / "shards/g1", run / "shards/g1")


@pytest.mark.parametrize("put", [copied_in, another_name, another_writer, hard_link, generation])
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
    assert main(["recover", "run", "-o", "sound"]) == 0
    assert "left out" in capfd.readouterr().out
    assert main(["recover", "run"]) == 0
    assert "set aside in quarantine/" in capfd.readouterr().out
    assert main(["validate", "sound"]) == 0, capfd.readouterr()
    assert main(["validate", "run"]) == 0, capfd.readouterr()
    with open_run(run) as recovered:
        after = recovered.rows(1, 0)
        assert len(recovered) == 36
    for name, values in before.items():
        np.testing.assert_array_equal(after[name], values)
    assert list((run / "quarantine").glob("*.exp"))


def _schema(run):
    with open_run(run) as sound:
        return sound.schema


@pytest.mark.parametrize("put", [copied_in, another_name, generation])
def test_no_recorder_goes_on_beside_a_shard_that_does_not_belong(tmp_path, capfd, put):
    run, other = write_boards(tmp_path / "run"), write_boards(tmp_path / "other")
    schema = _schema(run)
    put(run, other)
    with pytest.raises(CheckFailed, match="expkit recover"):
        Recorder(run, schema, players=["left", "right"], mode="a", writer=0)


def test_an_active_shard_of_another_run_is_not_published(tmp_path, capfd):
    """Its writer looks dead, and whoever goes on as that writer closes what it left."""
    run, other = write_boards(tmp_path / "run"), write_boards(tmp_path / "other")
    schema = _schema(run)
    shutil.copyfile(other / "shards/w0/000000.exp", run / "shards/w0/000001.active")
    with pytest.raises(CheckFailed, match="belongs to the run"):
        Recorder(run, schema, players=["left", "right"], mode="a", writer=0)
    assert main(["recover", str(run)]) == 0
    assert "w0/000001 set aside" in capfd.readouterr().out
    with open_run(run) as recovered:
        assert len(recovered) == 36


def test_the_shard_that_a_stranger_took_the_place_of_is_missed(tmp_path, capfd):
    run, other = (write_boards(tmp_path / name, shard_rows=12) for name in ("run", "other"))
    with open_run(run) as sound:
        held = {shard.name: shard.rows for shard in sound.shards}
    shutil.copyfile(other / "shards/w0/000000.exp", run / "shards/w0/000000.exp")
    assert main(["recover", str(run), "--json"]) == 3
    told = json.loads(capfd.readouterr().out)
    assert told["shards_missing"] == ["w0/000000"]
    assert list(told["shards_set_aside"]) == ["w0/000000"]
    assert sum(player["rows_lost"] for player in told["players"].values()) == held["w0/000000"] > 0
    assert main(["validate", str(run)]) in (0, 3)


def test_the_manifest_of_another_run_is_told_and_made_anew(tmp_path, capfd):
    run, other = write_boards(tmp_path / "run"), write_boards(tmp_path / "other", episodes=5)
    shutil.copyfile(other / "manifest.json", run / "manifest.json")
    main(["validate", str(run)])
    assert "run/manifest" in capfd.readouterr().out
    assert main(["recover", str(run)]) == 0
    assert "it lists other files than these" in capfd.readouterr().out
    main(["validate", str(run)])
    assert "run/manifest" not in capfd.readouterr().out
