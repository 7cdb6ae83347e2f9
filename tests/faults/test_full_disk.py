"""Disks that are full or refuse writing, files that vanish: a clear error, its exit code, what was durable intact.

The full disk is a real one, a tmpfs of a few MiB; mounting it needs root, as CI has it.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from crash_machine import errors_of, visible_rows
from patience import PATIENCE
from recordings import PLAYERS, SCHEMA, observation, record_on

from expkit import Recorder, open_run
from expkit.errors import ExpkitError, NoSpace, NotThere
from expkit.reading.summary import balance
from expkit.rewrite.compact import compact
from expkit.rewrite.prune import Retention, prune
from expkit.runs.guard import free_bytes
from expkit.runs.layout import list_shards
from expkit.runs.reserve import keep_reserve

WITHOUT = frozenset({"time_ns"})


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 6 MiB."""
    place = tmp_path / "disk"
    place.mkdir()
    if os.geteuid() or not shutil.which("mount"):
        pytest.skip("a small file system is mounted by root only")
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(place)], capture_output=True, text=True
    )
    if done.returncode:
        pytest.skip(f"no tmpfs can be mounted here: {done.stderr.strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def expkit(*arguments: object, cwd: Path, **options: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "expkit.commands", *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=PATIENCE, **options)  # type: ignore[call-overload]


def refused(done: subprocess.CompletedProcess[str], code: int, verb: str) -> str:
    """The one line that it said, without a trace."""
    assert done.returncode == code, done.stdout + done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith(f"expkit {verb}: ")]
    assert len(lines) == 1, done.stderr
    assert "Traceback" not in done.stderr
    return lines[0]


def fill(place: Path, leave: int = 0) -> Path:
    """Take all room but `leave` bytes."""
    ballast = place / "ballast"
    with open(ballast, "wb", buffering=0) as file:
        size = max(free_bytes(place) - leave, 0)
        while size > 0:
            size -= file.write(bytes(min(size, 1 << 16)))
    return ballast


def record_noise(run: Path, episodes: int, steps: int = 200, **options: object) -> None:
    """Whole episodes of rows that do not compress."""
    noise = np.random.default_rng(7)
    options = {"min_free": 0, "memory": "32MiB", "shard_size": "256KiB"} | options
    with Recorder(run, SCHEMA, players=PLAYERS, mode="a", **options) as recorder:  # type: ignore[arg-type]
        for _ in range(episodes):
            episode = recorder.new_episode()
            for player in range(PLAYERS):
                recorder.add_batch(
                    player=player, episode=np.full(steps, episode, np.uint64), step=np.arange(steps),
                    action=np.zeros(steps, np.uint8), reward=noise.random(steps, np.float32),
                    observation=noise.random((steps, 3), np.float32),
                )  # fmt: skip
            recorder.end(episode=episode, observation=noise.random((PLAYERS, 3), np.float32))
            recorder.flush()


def told_of_losses(run: Path) -> int:
    """Rows that were produced and are in no file, by the ledger; the identity holds."""
    with open_run(run) as opened:
        players = balance(opened) or []
        for player in players:
            stored = player.present + player.pruned + player.quarantined
            assert player.produced == stored + player.dropped_rows + player.rejected + player.lost
        return sum(player.lost for player in players)


def test_recording_until_the_disk_is_full(small_disk: Path, tried) -> None:
    run, durable, given = small_disk / "run", 0, 0
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(64 << 10))
    error = None
    noise = np.random.default_rng(3)
    recorder = Recorder(
        run, SCHEMA, players=PLAYERS, min_free=0, memory="32MiB", shard_size="512KiB", flush_interval="1h"
    )
    try:
        with recorder:
            while True:
                episode = recorder.new_episode()
                steps = 500
                for player in range(PLAYERS):
                    recorder.add_batch(
                        player=player, episode=np.full(steps, episode, np.uint64), step=np.arange(steps),
                        action=np.zeros(steps, np.uint8), reward=noise.random(steps, np.float32),
                        observation=noise.random((steps, 3), np.float32),
                    )  # fmt: skip
                    given += steps
                recorder.flush()
                durable = given
    except NoSpace as caught:
        error = caught
    assert error is not None
    assert "\n" not in str(error)
    assert "the disk is full" in str(error)
    assert durable > 50_000
    rows = visible_rows(run)
    assert durable <= len(rows) <= given
    assert told_of_losses(run) == given - len(rows)
    assert errors_of(run) == []
    # With room again, the run is closed and goes on.
    ballast.unlink()
    prune(run, Retention(keep_episodes=2))
    record_on(run)
    assert errors_of(run) == []
    tried("disk", failures=1)


def test_record_on_a_small_disk_exits_with_7_and_tells_what_was_lost(small_disk: Path, tried) -> None:
    done = expkit(
        "record", "--forever", "--size", "8x8", "--num-envs", 4, "--seed", 1, "--min-free", 0, "--memory", "64MiB",
        "--shard-size", "512KiB", "--flush-interval", "50ms", "--json", "-o", "run", cwd=small_disk,
    )  # fmt: skip
    assert "the disk is full" in refused(done, 7, "record")
    told = json.loads(done.stdout)
    rows = visible_rows(small_disk / "run")
    assert told["durable"] <= len(rows) <= told["produced"]
    assert told_of_losses(small_disk / "run") == told["produced"] - len(rows)
    assert errors_of(small_disk / "run") == []
    tried("disk", failures=1)


def test_record_that_prunes_goes_on_where_the_disk_would_be_full(small_disk: Path, tried) -> None:
    done = expkit(
        "record", "--rows", 400_000, "--size", "8x8", "--num-envs", 4, "--seed", 1, "--min-free", "2MiB", "--on-full",
        "prune", "--memory", "64MiB", "--shard-size", "256KiB", "--flush-interval", "20ms", "--json", "-o", "run",
        cwd=small_disk,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads(done.stdout)
    assert told["lost"] == 0
    with open_run(small_disk / "run") as run:
        players = balance(run) or []
        assert sum(player.pruned for player in players) > 0
        assert sum(player.pruned + player.present for player in players) == told["produced"]
    assert errors_of(small_disk / "run") == []
    tried("disk", failures=1)


def test_maintenance_on_a_full_disk(small_disk: Path, tried) -> None:
    """Compacting refuses before it begins, a copy leaves nothing behind, pruning makes room."""
    run = small_disk / "run"
    record_noise(run, 40, shard_size="64KiB")
    before = visible_rows(run)
    files = {shard.name for shard in list_shards(run)}
    fill(small_disk)
    assert "free on the disk" in refused(expkit("compact", "run", cwd=small_disk), 7, "compact")
    assert "disk" in refused(expkit("recover", "run", "-o", "copy", cwd=small_disk), 7, "recover")
    assert {path.name for path in small_disk.iterdir()} == {"run", "ballast"}
    assert visible_rows(run) == before
    assert errors_of(run) == []
    assert {shard.name for shard in list_shards(run)} == files
    # Without the reserve there is no room for the tombstone, and nothing is pruned.
    (run / "reserve").unlink()
    fill(small_disk)
    refused(expkit("prune", "run", "--keep-episodes", 10, "--yes", cwd=small_disk), 7, "prune")
    assert visible_rows(run) == before
    fill(small_disk, leave=256 << 10)
    keep_reserve(run)
    fill(small_disk)
    assert free_bytes(small_disk) == 0
    done = expkit("prune", "run", "--keep-episodes", 10, "--yes", "--json", cwd=small_disk)
    assert done.returncode == 0, done.stderr
    assert free_bytes(small_disk) > 128 << 10
    assert set(visible_rows(run)) < set(before)
    assert told_of_losses(run) == 0
    assert errors_of(run) == []
    tried("disk", failures=3)


@pytest.mark.parametrize("spare", [0, 4096, 12288, 65536])
def test_maintenance_that_meets_the_end_of_the_disk_on_its_way(small_disk: Path, spare: int) -> None:
    """Whatever the place where room ends: an error or a success, all rows there, and again with room a success."""
    run = small_disk / "run"
    record_noise(run, 12)
    before = visible_rows(run)
    ballast = fill(small_disk, leave=spare)
    for change in (lambda: compact(run), lambda: prune(run, Retention(keep_episodes=12)), lambda: record_on(run)):
        with suppress(NoSpace):
            change()
        found = visible_rows(run)
        assert {key: found.get(key) for key in before} == before
        assert errors_of(run) == []
    ballast.unlink()
    prune(run, Retention(keep_episodes=3))
    assert errors_of(run) == []


# Root is asked for no permission, unless it lets go of that for good: PR_CAPBSET_DROP of what passes over modes.
WITHOUT_PRIVILEGE = """
import ctypes, os, sys
if not os.geteuid():
    for capability in (1, 2):
        assert ctypes.CDLL(None).prctl(24, capability, 0, 0, 0) == 0
os.execv(sys.executable, [sys.executable, "-m", "expkit.commands", *sys.argv[1:]])
"""


def unprivileged(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    """The command as somebody for whom the modes of files count."""
    command = [sys.executable, "-c", WITHOUT_PRIVILEGE, *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=PATIENCE)


@pytest.fixture
def readable(tmp_path: Path) -> Iterator[Path]:
    """A folder with a run, all of which may be read and none written."""
    done = expkit("record", "--rows", 300, "--size", "8x8", "--seed", 1, "--min-free", 0, "-o", "run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    everything = [tmp_path, *tmp_path.rglob("*")]
    before = {path: path.stat().st_mode for path in everything}
    for path in everything:
        path.chmod(0o555 if path.is_dir() else 0o444)
    yield tmp_path
    for path, mode in before.items():
        path.chmod(mode)


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["record", "--rows", 100, "-o", "other"], 1),
        (["record", "--append", "--rows", 100, "-o", "run"], 1),
        (["prune", "run", "--keep-episodes", 1, "--yes"], 1),
        (["compact", "run"], 1),
        (["recover", "run"], 1),
        (["recover", "run", "-o", "copy"], 1),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, list) else None,
)
def test_a_folder_that_may_not_be_written(readable: Path, arguments: list[object], code: int, tried) -> None:
    before = visible_rows(readable / "run")
    files = sorted(str(path) for path in readable.rglob("*"))
    line = refused(unprivileged(*arguments, cwd=readable), code, str(arguments[0]))
    assert re.search("ermission denied", line), line
    assert sorted(str(path) for path in readable.rglob("*")) == files
    assert visible_rows(readable / "run") == before
    tried("disk", failures=1)


def test_a_folder_that_may_not_be_written_is_read(readable: Path) -> None:
    for arguments in (
        ["inspect", "run"],
        ["validate", "run"],
        ["list", "."],
        ["prune", "run", "--keep-episodes", 1, "--dry-run"],
    ):
        done = unprivileged(*arguments, cwd=readable)
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", ["run.yaml", "counters", "manifest.json", "shards/w0/000000.exp"])
def test_a_file_that_may_not_be_read(readable: Path, name: str, tried) -> None:
    (readable / "run" / name).chmod(0o000)
    for arguments in (["inspect", "run"], ["validate", "run"], ["recover", "run", "--dry-run"]):
        done = unprivileged(*arguments, cwd=readable)
        assert done.returncode in (0, 1, 4), done.stderr
        assert "Traceback" not in done.stderr
    tried("disk", failures=1)


def test_a_shard_unlinked_under_a_reader_stays_readable(tmp_path: Path, tried) -> None:
    run = tmp_path / "run"
    record_noise(run, 6, shard_rows=400)
    with open_run(run) as opened:
        first, last = (shard.path for shard in (opened.shard_paths[0], opened.shard_paths[-1]))
        assert first != last
        held = opened.reader(0).read_block(0)
        first.unlink()
        last.unlink()
        again = opened.reader(0).read_block(0)
        assert all(np.array_equal(held[name], again[name]) for name in held)
        with pytest.raises(NotThere, match=r"refresh\(\) looks again"):
            opened.reader(len(opened.shard_paths) - 1)
        opened.refresh()
        assert len(opened) > 0
    # What is gone without a word is found: listed, and not there.
    assert any("run/shard-missing" in error for error in errors_of(run))
    tried("disk", failures=2)


def test_files_that_vanish_while_they_are_read(tmp_path: Path, tried) -> None:
    """A folder is removed under a scan and under a validation: an error of ours, or what was there."""
    record_noise(tmp_path / "base", 8)
    vanished = 0
    for delay in (0.0, 0.001, 0.003, 0.01, 0.03):
        run = tmp_path / "run"
        shutil.copytree(tmp_path / "base", run)

        def remove(run: Path = run, delay: float = delay) -> None:
            time.sleep(delay)
            shutil.rmtree(run / "shards")

        thread = threading.Thread(target=remove)
        thread.start()
        try:
            errors_of(run)
            visible_rows(run)
        except (ExpkitError, KeyError):
            vanished += 1
        finally:
            thread.join()
            shutil.rmtree(run)
    tried("disk", failures=5)


def test_files_that_vanish_under_a_recorder(tmp_path: Path, tried) -> None:
    """The folder is gone: the recorder says so, and does not make up a run of a half."""
    run = tmp_path / "run"
    recorder = Recorder(run, SCHEMA, players=PLAYERS, min_free=0, memory="16MiB")
    recorder.add(player=0, episode=0, step=0, action=0, reward=0, observation=observation(0, 0, 0))
    recorder.flush()
    shutil.rmtree(run)
    recorder.add(player=0, episode=0, step=1, action=0, reward=0, observation=observation(0, 0, 1))
    with pytest.raises(ExpkitError) as caught:
        recorder.close()
    assert "\n" not in str(caught.value)
    assert not run.exists()
    tried("disk", failures=1)
