"""What stands in the place of a run's file and is none is told, never waited for, followed or read to no end."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import strange_files
from written_runs import write_boards

from expkit.commands import main
from expkit.errors import CheckFailed
from expkit.system.files import only_zeros, open_to_read

FILES = ("run.yaml", "counters", "manifest.json", "events.jsonl", "shards/w0/000000.exp", "locks/readers", "locks/w0")
CODES = {0, 1, 2, 3, 4, 5, 6}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("strange")
    for name in ("sound", "other", "secret"):
        write_boards(folder / name)
    return folder


@pytest.mark.parametrize("name", FILES)
def test_whatever_stands_in_the_place_of_a_file(runs, tmp_path, name):
    for run in ("sound", "other", "secret"):
        shutil.copytree(runs / run, tmp_path / run)
    done = subprocess.run(
        [sys.executable, strange_files.__file__, str(tmp_path), name],
        capture_output=True, text=True, timeout=900, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    told = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(told) == len(strange_files.KINDS) * len(strange_files.VERBS)
    for one in told:
        assert one["code"] in CODES, one
        assert "unexpected" not in one["said"], one
        assert "Traceback" not in one["said"], one
        if one["kind"] in strange_files.NO_FILES:
            assert one["unchanged"], one
            verb = one["verb"].split()[0]
            if one["verb"].startswith("validate") or (verb in ("compact", "prune") or one["verb"] == "recover {}"):
                assert one["code"] == 4, one
            if verb in ("compact", "prune", "recover") and "--dry-run" not in one["verb"]:
                assert f"tried/{name}" in one["said"], one
                assert one["said"].count("expkit ") == 1, one


def test_a_folder_called_counters_hides_no_other_run(runs, tmp_path, capsys):
    shutil.copytree(runs / "sound", tmp_path / "a")
    shutil.copytree(runs / "sound", tmp_path / "b")
    (tmp_path / "a/counters").unlink()
    (tmp_path / "a/counters").mkdir()
    assert main(["validate", str(tmp_path), "--json"]) == 4
    body = json.loads(capsys.readouterr().out)
    assert "run/no-file" in {finding["rule"] for finding in body["findings"]}
    assert body["rows"] == 2 * 36


def test_a_link_is_followed_within_the_run_only(runs, tmp_path):
    shutil.copytree(runs / "sound", tmp_path / "run")
    shard = tmp_path / "run/shards/w0/000000.exp"
    moved = tmp_path / "run/shards/elsewhere"
    os.rename(shard, moved)
    shard.symlink_to("../elsewhere")
    os.close(open_to_read(shard, tmp_path / "run"))
    os.rename(moved, tmp_path / "outside")
    shard.unlink()
    shard.symlink_to("../../../outside")
    with pytest.raises(CheckFailed, match="is a link that leads out of the run"):
        open_to_read(shard, tmp_path / "run")
    os.close(open_to_read(shard))
    # Also where a folder on the way is the link.
    shard.unlink()
    os.rename(tmp_path / "run/shards", tmp_path / "shards")
    os.rename(tmp_path / "outside", tmp_path / "shards/w0/000000.exp")
    (tmp_path / "run/shards").symlink_to(tmp_path / "shards")
    with pytest.raises(CheckFailed, match="is a link that leads out of the run"):
        open_to_read(shard, tmp_path / "run")


def test_a_file_has_a_bound(tmp_path):
    place = tmp_path / "file"
    place.write_bytes(b"1234")
    os.close(open_to_read(place, most=4))
    with pytest.raises(CheckFailed, match="larger than"):
        open_to_read(place, most=3)


@pytest.mark.parametrize(("data", "zeros"), [(b"", True), (bytes(3 << 20), True), (bytes(3 << 20) + b"x", False)])
def test_only_zeros(tmp_path, data, zeros):
    place = Path(tmp_path / "file")
    place.write_bytes(data)
    with place.open("rb") as file:
        assert only_zeros(file.fileno()) is zeros
        os.truncate(place, 1 << 42)
        assert only_zeros(file.fileno()) is zeros
