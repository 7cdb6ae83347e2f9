"""Missing shards: whoever reads all of a run says so, and a manifest that is only old harms nobody."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import numpy as np
import pytest
from damaged_runs import TINY, small_run, write_episode
from test_prune import write
from warm_processes import expkit

import expkit.formats.shard.records as records
from expkit import open_run, query
from expkit.errors import CheckFailed, ShardError
from expkit.reading.whole import missing_shards
from expkit.recovery.recover import plan_recovery
from expkit.rewrite.compact import compact
from expkit.rewrite.prune import Retention, prune
from expkit.rewrite.sources import Sources
from expkit.runs.layout import list_shards, shard_file
from expkit.runs.manifest import Listed, read_manifest, update_manifest, write_manifest
from expkit.runs.write import RunWriter
from expkit.validation.validate import validate_run

VERBS = (
    ("export", "run", "-o", "out.npz", "--force"),
    ("rewrite", "run", "-o", "out", "--force"),
    ("merge", "run", "-o", "out", "--force"),
    ("query", "run", "SELECT count(*) FROM episodes"),
    ("query", "run", "step >= 0"),
)


def run_of_many(path: Path) -> Path:
    return write(path, [6] * 6, shard_rows=10)


def refused(path: Path) -> str:
    """What both ways to read all of a run say."""
    with open_run(path) as run, pytest.raises(CheckFailed) as found:
        run.check_whole()
    with pytest.raises(CheckFailed, match="--partial"):
        Sources([path])
    return str(found.value)


@pytest.mark.parametrize("verb", VERBS, ids=" ".join)
def test_a_verb_that_reads_all_says_that_a_shard_is_missing(tmp_path: Path, verb: tuple[str, ...]) -> None:
    path = run_of_many(tmp_path / "run")
    list_shards(path)[0].path.unlink()
    done = expkit(*verb, cwd=tmp_path)
    assert done.returncode == 4, done.stdout + done.stderr
    assert "w0/000000" in done.stderr
    assert done.stderr.count("\n") == 1
    assert not [place for place in tmp_path.iterdir() if place.name != "run"]
    assert expkit(*verb, "--partial", cwd=tmp_path).returncode == 0


def test_replaying_says_that_a_shard_is_missing(tmp_path: Path) -> None:
    game = ("record", "-o", "run", "--episodes", "4", "--num-envs", "1", "--size", "5x5", "--shard-rows", "20")
    assert expkit(*game, "--max-steps", "20", "--seed", "1", cwd=tmp_path).returncode == 0
    shards = list_shards(tmp_path / "run")
    assert expkit("replay", "run", "--verify", cwd=tmp_path).returncode == 0
    shards[0].path.unlink()
    done = expkit("replay", "run", "--verify", cwd=tmp_path)
    assert (done.returncode, "w0/000000" in done.stderr) == (4, True)


def test_a_shard_that_no_manifest_lists_is_missed_by_the_ledger(tmp_path: Path) -> None:
    path = run_of_many(tmp_path / "run")
    list_shards(path)[0].path.unlink()
    (path / "manifest.json").unlink()
    assert "rows that were durable are in no shard" in refused(path)
    with pytest.raises(CheckFailed):
        query(path, "SELECT count(*) FROM episodes")
    assert query(path, "SELECT count(*) FROM episodes", partial=True).num_rows == 1


@pytest.mark.parametrize("failure", [errno.EIO, errno.EACCES])
def test_a_shard_that_cannot_be_opened_is_told(tmp_path: Path, failure: int, monkeypatch: pytest.MonkeyPatch) -> None:
    path = run_of_many(tmp_path / "run")
    real = os.open

    def fails(name: str | os.PathLike[str], *rest: int, **more: int) -> int:
        if os.fspath(name).endswith("w0/000001.exp"):
            raise OSError(failure, os.strerror(failure))
        return real(name, *rest, **more)

    monkeypatch.setattr(records.os, "open", fails)
    for question in ("SELECT count(*) FROM episodes", "SELECT ended FROM episodes", "step >= 0"):
        with pytest.raises(ShardError, match="w0/000001"):
            query(path, question)
    with pytest.raises(ShardError, match="w0/000001"):
        Sources([path])


def test_a_missing_tombstone_is_missed(tmp_path: Path) -> None:
    """Without it what was pruned counts again, and the ledger adds up."""
    path = run_of_many(tmp_path / "run")
    prune(path, Retention(keep_episodes=5))
    tombstone = next(shard for shard in list_shards(path) if shard.generation)
    tombstone.path.unlink()
    assert tombstone.name in refused(path)


def test_a_manifest_that_lists_too_much_harms_nobody(tmp_path: Path) -> None:
    path = run_of_many(tmp_path / "run")
    listed = read_manifest(path)
    write_manifest(path, {**listed, "w0/000077": next(iter(listed.values()))})
    with open_run(path) as run:
        assert missing_shards(run) == {}
        run.check_whole()
        found = [(finding.severity, finding.rule) for finding in validate_run(run)]
    assert found == [("warn", "run/manifest")]
    assert plan_recovery(path).missing_shards == []
    list_shards(path)[0].path.unlink()
    assert "w0/000000" in refused(path)


@pytest.mark.parametrize("manifest", ["gone", "old"])
def test_a_run_that_is_recorded_and_rewritten_is_whole_all_the_time(tmp_path: Path, manifest: str) -> None:
    path, rng = small_run(tmp_path / "run", episodes=3, rotate=True), np.random.default_rng(5)
    writer = RunWriter(path, TINY, 2, writer=0)
    old = (path / "manifest.json").read_bytes()
    with open_run(path) as early:
        for episode in range(10, 14):
            write_episode(writer, episode, rng)
            writer.rotate()
            early.check_whole()
            if episode == 11:
                prune(path, Retention(keep_episodes=3))
            if manifest == "gone":
                (path / "manifest.json").unlink(missing_ok=True)
            else:
                (path / "manifest.json").write_bytes(old)
            with open_run(path) as run:
                run.check_whole()
    writer.close()
    compact(path)
    with open_run(path) as run, run.split({"a": 0.5, "b": 0.5})["a"] as part:
        run.check_whole()
        part.check_whole()


def test_what_is_gone_is_not_entered(tmp_path: Path) -> None:
    path = small_run(tmp_path / "run")
    before = json.loads((path / "manifest.json").read_text())
    update_manifest(path, {"w0/000009": Listed(1, 2, {0: 1}, {})})
    assert json.loads((path / "manifest.json").read_text()) == before
    assert not shard_file(path, 0, 9).exists()
