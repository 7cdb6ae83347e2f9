"""Reads that fail: of every call that concerns a run, one in turn, under every verb. tests/faults/read_faults.py."""

import errno
import json
import os
import shutil
import subprocess
import sys

import pytest
import read_faults
from patience import PATIENCE
from promises import report

from expkit import open_run
from expkit.commands import main
from expkit.system.files import publish

SHORT, LONG = 60, 200
MANY = int(os.environ.get("EXPKIT_READ_FAULTS", "0"))  # 5,000 take twenty minutes


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two shards of a generation and three of a recorder that went on."""
    folder = tmp_path_factory.mktemp("reads")
    run = str(folder / "sound")
    small = ["--size", "8x8", "--seed", "1"]
    assert main(["record", "--rows", "400", *small, "--shard-rows", "200", "-o", run]) == 0
    assert main(["compact", run]) == 0
    assert main(["record", "--append", "-o", run, "--rows", "300", "--size", "8x8", "--shard-rows", "100"]) == 0
    return folder


def tried(folder, tries, seed, tell):
    done = subprocess.run(
        [sys.executable, read_faults.__file__, str(folder), str(tries), str(seed)],
        capture_output=True, text=True, timeout=PATIENCE + 2 * tries, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    *wrong, count = [json.loads(line) for line in done.stdout.splitlines()]
    assert not wrong, wrong[:3]
    assert count["tries"] > tries // 2
    tell(report("read", 0, faults=count["tries"]))


def test_a_read_that_fails_is_told_and_costs_nothing(folder, tell):
    tried(folder, SHORT, 1, tell)


def test_a_listing_that_fails_takes_no_name_of_a_shard(folder, tmp_path, monkeypatch, capfd):
    """The folder seemed empty, the next shard was 000000, and replaced the first one: 1,614 rows became 326."""
    run = tmp_path / "run"
    shutil.copytree(folder / "sound", run)
    with open_run(run) as sound:
        rows = len(sound)
    real = os.listdir

    def listdir(path="."):
        if str(path).endswith("shards/w0"):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return real(path)

    monkeypatch.setattr(os, "listdir", listdir)
    assert main(["record", "--append", "-o", str(run), "--rows", "60", "--size", "8x8"]) == 1
    assert "shards/w0: cannot be listed: Input/output error" in capfd.readouterr().err
    assert main(["export", str(run), "-o", str(tmp_path / "out.npz")]) == 1
    assert not (tmp_path / "out.npz").exists()
    monkeypatch.undo()
    with open_run(run) as after:
        assert len(after) == rows


def test_records_that_are_not_read_are_not_compacted_away(folder, tmp_path, monkeypatch, capfd):
    """A read of episode records failed, reading got by without them, and compact deleted the shard that had them: its
    episodes had never begun."""
    with open_run(folder / "sound") as sound:
        known = [(one.number, one.start, one.end) for one in sound.episodes()]
        rows = len(sound)
    real, left = os.pread, [0]

    def pread(handle, count, offset):
        if os.readlink(f"/proc/self/fd/{handle}").endswith("g1/000000.exp"):
            left[0] -= 1
            if left[0] == 0:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
        return real(handle, count, offset)

    monkeypatch.setattr(os, "pread", pread)
    said = []
    for at in range(1, 60):
        run = tmp_path / f"run{at}"
        shutil.copytree(folder / "sound", run)
        left[0] = at
        code = main(["compact", str(run)])
        if left[0] > 0:
            break
        said.append(capfd.readouterr().err)
        assert code != 0
        left[0] = 0
        with open_run(run) as after:
            assert len(after) == rows
            assert [(one.number, one.start, one.end) for one in after.episodes()] == known
    assert at > 10
    assert any("nothing was written that would lack it" in one for one in said)


def test_a_look_at_a_shard_that_fails_is_told_by_list(folder, monkeypatch, capfd):
    """`list` called the run damaged, and exited 0."""
    real = os.stat

    def stat(path, *args, **options):
        if str(path).endswith("w0/000003.exp"):
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), path)
        return real(path, *args, **options)

    monkeypatch.setattr(os, "stat", stat)
    assert main(["list", str(folder / "sound")]) == 1
    assert "000003.exp: cannot be" in capfd.readouterr().err


def test_publishing_replaces_nothing(tmp_path):
    (tmp_path / "a").write_text("new")
    (tmp_path / "b").write_text("published")
    with pytest.raises(FileExistsError):
        publish(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "b").read_text() == "published"


def test_a_file_that_opens_and_then_fails_is_told_and_let_go(folder, monkeypatch, capfd):
    """`list` called a run damaged, and exited 0, when the system had no descriptor to tell what it had opened."""
    real, opened = os.fstat, set()

    def fstat(handle):
        if os.readlink(f"/proc/self/fd/{handle}").endswith("manifest.json"):
            opened.add(handle)
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return real(handle)

    before = set(os.listdir("/proc/self/fd"))
    monkeypatch.setattr(os, "fstat", fstat)
    assert main(["list", str(folder / "sound")]) == 1
    assert "manifest.json: cannot be opened: Too many open files; raise the limit" in capfd.readouterr().err
    assert opened
    assert set(os.listdir("/proc/self/fd")) <= before


@pytest.mark.slow
@pytest.mark.timeout(3000 + 2 * MANY)
def test_reads_that_fail_everywhere_are_told_and_cost_nothing(folder, tell):
    tried(folder, max(LONG, MANY), 2, tell)
