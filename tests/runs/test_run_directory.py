"""The run directory: rotation, locks, ledger, manifest, requests, the disk guard, and what a reader makes of damage."""

import fcntl
import json
import os
import struct
import threading
import time
import zlib

import numpy as np
import pytest
from patience import PATIENCE, wait_until

from expkit import Field, Recorder, Schema, open_run
from expkit.errors import Busy, CheckFailed, NoSpace, NotThere
from expkit.runs.counters import Ledger, read_ledger
from expkit.runs.guard import DiskGuard, shards_bytes
from expkit.runs.layout import RunInfo, find_runs, new_run_id, read_run_info, write_run_info
from expkit.runs.locks import live_writers, lock_writer
from expkit.runs.manifest import read_manifest
from expkit.runs.requests import request_rotation
from expkit.runs.write import RunWriter, create_run

SCHEMA = Schema([Field("observation", "f8", (16,), "observation")])


def fill(rec, episodes, steps=50, rng=None):
    rng = rng or np.random.default_rng(0)
    for episode in episodes:
        for step in range(steps):
            rec.add(episode=episode, step=step, observation=rng.random(16), reward=0)
        rec.end(episode=episode, player=0, observation=rng.random(16))


def test_shards_rotate_by_rows_and_carry_the_starts_of_open_episodes(tmp_path):
    with Recorder(tmp_path / "run", SCHEMA, shard_rows=120, min_free=0) as rec:
        for part in range(8):
            for step in range(part * 40, part * 40 + 40):
                rec.add(episode=0, step=step, observation=np.zeros(16), reward=0)
            rec.flush()
    run = open_run(tmp_path / "run")
    assert len(run.shards) >= 3
    assert all(shard.rows >= 120 for shard in run.shards[:-1])
    assert all(shard.closed for shard in run.shards)
    for position in range(len(run.shards)):
        (start,) = run.reader(position).episode_starts
        assert start.episode == 0
        assert start.repeated == (position > 0)
    assert run.rows(0, 0)["step"].tolist() == list(range(320))
    assert len(run.episodes()) == 1
    assert read_manifest(tmp_path / "run").keys() == {shard.name for shard in run.shards}
    assert sum(entry["rows"] for entry in read_manifest(tmp_path / "run").values()) == len(run)


def test_shards_rotate_by_size(tmp_path):
    with Recorder(tmp_path / "run", SCHEMA, shard_size="64KiB", min_free=0) as rec:
        for part in range(12):
            fill(rec, [part], 200, np.random.default_rng(part))
            rec.flush()
    run = open_run(tmp_path / "run")
    assert len(run.shards) > 2
    assert all(shard.bytes >= 64 << 10 for shard in run.shards[:-1])


def test_shards_rotate_by_age_and_no_empty_shard_is_made(tmp_path):
    with Recorder(tmp_path / "run", SCHEMA, shard_age=0.2, flush_interval=0.05, min_free=0) as rec:
        fill(rec, [0])
        wait_until(lambda: list((tmp_path / "run").rglob("*.exp")))
        time.sleep(0.6)  # for an empty one to be made, if one were
    assert len(open_run(tmp_path / "run").shards) == 1


def test_a_request_rotates_a_running_recorder(tmp_path):
    path = tmp_path / "run"
    with pytest.raises(NotThere, match="no run"):
        request_rotation(path)
    with Recorder(path, SCHEMA, flush_interval=0.05, min_free=0) as rec:
        fill(rec, [0])
        rec.flush()
        assert request_rotation(path, timeout=PATIENCE) == [0]
        assert open_run(path).shards[0].closed
        assert not list((path / "requests").iterdir())
    with pytest.raises(NotThere, match="nobody is recording"):
        request_rotation(path)


def test_a_request_to_a_recorder_that_does_not_answer_times_out(tmp_path):
    path = tmp_path / "run"
    with Recorder(path, SCHEMA, min_free=0) as rec:
        fill(rec, [0])
    _, lock = lock_writer(path, 0)
    with pytest.raises(Busy, match="did not answer"):
        request_rotation(path, timeout=0.1)
    lock.release()


def test_a_writer_is_one_process_at_a_time(tmp_path):
    create_run(tmp_path / "run", RunInfo(new_run_id(), "test", SCHEMA, ["p"]))
    first = RunWriter(tmp_path / "run", SCHEMA, 1, guard=DiskGuard(0))
    second = RunWriter(tmp_path / "run", SCHEMA, 1, guard=DiskGuard(0))
    assert (first.writer, second.writer) == (0, 1)
    assert live_writers(tmp_path / "run") == [0, 1]
    with pytest.raises(Busy):
        RunWriter(tmp_path / "run", SCHEMA, 1, writer=1, guard=DiskGuard(0))
    first.close()
    second.close()
    second.close()
    assert live_writers(tmp_path / "run") == []


def test_asking_who_records_does_not_keep_a_writer_out(tmp_path):
    """Though the one who asks gets no processor for a while."""
    (tmp_path / "locks").mkdir()
    (tmp_path / "locks" / "w0").touch()
    handle = os.open(tmp_path / "locks" / "w0", os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_SH)
    threading.Timer(0.5, os.close, [handle]).start()
    assert lock_writer(tmp_path, 0)[0] == 0


def test_the_disk_guard_counts_earlier_runs(tmp_path):
    with Recorder(tmp_path / "a", SCHEMA, min_free=0) as rec:
        fill(rec, range(20), 100)
    used = shards_bytes(tmp_path / "a")
    assert used > 10_000
    (tmp_path / "b").mkdir()
    guard = DiskGuard(0, max_total=used + 1000)
    guard.start(tmp_path / "b")
    (tmp_path / "b" / "shards" / "w0").mkdir(parents=True)
    (tmp_path / "b" / "shards" / "w0" / "000000.exp").write_bytes(bytes(1000))
    with pytest.raises(NoSpace, match="max-total"):
        guard.check(tmp_path / "b")
    with pytest.raises(NoSpace, match="max-total"):
        Recorder(tmp_path / "c", SCHEMA, min_free=0, max_total=used // 2)


def test_the_ledger_survives_without_its_writer(tmp_path):
    ledger = Ledger(tmp_path, 2, 3)
    ledger.produced += [5, 6, 7]
    ledger.written += [5, 5, 5]
    ledger.drop(1, "drop-oldest", 1)
    assert ledger.unaccounted().tolist() == [0, 0, 2]
    (seen,) = read_ledger(tmp_path)
    assert (seen.writer, seen.state, seen.damaged) == (2, "recording", False)
    assert [p.produced for p in seen.players] == [5, 6, 7]
    assert seen.players[1].dropped == {"drop-oldest": 1}
    ledger.close()
    assert read_ledger(tmp_path)[0].state == "closed"
    assert read_ledger(tmp_path / "nowhere") is None


@pytest.mark.parametrize("place", ["header", "counts"])
def test_a_damaged_ledger_is_noticed(tmp_path, place):
    ledger = Ledger(tmp_path, 0, 1)
    ledger.produced += 9
    ledger.close()
    data = bytearray((tmp_path / "counters").read_bytes())
    data[9 if place == "header" else 4096 + 64] ^= 4
    (tmp_path / "counters").write_bytes(data)
    if place == "header":
        with pytest.raises(CheckFailed, match="ledger"):
            read_ledger(tmp_path)
    else:
        assert read_ledger(tmp_path)[0].damaged


def test_run_yaml_round_trip_and_its_loss(tmp_path):
    with Recorder(tmp_path / "run", SCHEMA, players=["a", "b"], seed=7, min_free=0) as rec:
        rec.set_policy(0, "ppo")
        rec.add(episode=0, step=0, observation=np.zeros(16), reward=0)
    info = read_run_info(tmp_path / "run")
    write_run_info(tmp_path / "run", info)
    assert read_run_info(tmp_path / "run") == info
    before = open_run(tmp_path / "run")
    (tmp_path / "run" / "run.yaml").unlink()
    after = open_run(tmp_path / "run")
    assert after.schema == before.schema
    assert (after.id, after.info.players, after.info.seed) == (before.id, ["a", "b"], 7)
    for nonsense in ("", "[]", "run: 3", "{", "run: {id: 1}"):
        (tmp_path / "run" / "run.yaml").write_text(nonsense)
        with pytest.raises(CheckFailed):
            read_run_info(tmp_path / "run")
        assert open_run(tmp_path / "run").schema == before.schema


def test_a_manifest_is_only_a_cache(tmp_path):
    with Recorder(tmp_path / "run", SCHEMA, min_free=0) as rec:
        fill(rec, [0])
    assert read_manifest(tmp_path / "run")
    path = tmp_path / "run" / "manifest.json"
    tree = json.loads(path.read_text())
    tree["shards"]["w0/000000"]["rows"] += 1
    path.write_text(json.dumps(tree))
    assert read_manifest(tmp_path / "run") == {}
    path.unlink()
    assert len(open_run(tmp_path / "run")) == 51


def test_ledger_and_manifest_are_what_the_specification_says(tmp_path):
    """Read by `struct`, `zlib` and `json` alone, as SPEC.md has them under "Beside the shards"."""
    run = tmp_path / "run"
    for writer in (0, 1):
        with Recorder(run, SCHEMA, min_free=0, mode="a", writer=writer) as rec:
            fill(rec, [writer << 48], steps=10 + writer)
    data = (run / "counters").read_bytes()
    magic, players, section, crc = struct.unpack_from("<8sIII", data)
    assert (magic, players, crc) == (b"EXPLEDG1", 1, zlib.crc32(data[:16]))
    assert section == -(-(8 + 16 * players) * 8 // 4096) * 4096
    for writer in (0, 1):
        at = 4096 + writer * section
        state, pid, _, _, sealed = struct.unpack_from("<5q", data, at)
        body = data[at + 64 : at + 64 + players * 128]
        assert (state, pid, sealed) == (2, os.getpid(), zlib.crc32(body))
        rows = 11 + writer
        assert list(struct.unpack("<16q", body)) == [rows, rows, rows, *[0] * 13]
    tree = json.loads((run / "manifest.json").read_bytes())
    assert tree["crc32"] == zlib.crc32(json.dumps(tree["shards"], sort_keys=True).encode())
    assert [(name, one["rows"], one["players"]) for name, one in tree["shards"].items()] == [
        ("w0/000000", 11, {"0": 11}), ("w1/000000", 12, {"0": 12}),
    ]  # fmt: skip
    for name, one in tree["shards"].items():
        shard = run / "shards" / f"{name}.exp"
        assert one["bytes"] == shard.stat().st_size
        head = shard.read_bytes()
        told = json.loads(head[20 : 20 + struct.unpack_from("<I", head, 12)[0]])
        assert name == f"w{told['writer']}/{told['shard']:06d}"


def test_runs_are_found_below_a_folder_and_not_inside_each_other(tmp_path):
    for name in ("x/a", "x/b", "c"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        create_run(tmp_path / name, RunInfo(new_run_id(), "test", SCHEMA, ["p"]))
    assert [p.relative_to(tmp_path).as_posix() for p in find_runs(tmp_path)] == ["c", "x/a", "x/b"]
    with pytest.raises(NotThere, match="no such folder"):
        open_run(tmp_path / "zzz")
    (tmp_path / "empty").mkdir()
    with pytest.raises(NotThere, match="no run"):
        open_run(tmp_path / "empty")


def test_a_reader_follows_a_shard_through_its_publication(tmp_path):
    """Readers open the active file by name; it is renamed under them at any moment."""
    with Recorder(tmp_path / "run", SCHEMA, shard_rows=60, flush_interval=0.02, min_free=0) as rec:
        stop = threading.Event()
        errors: list[BaseException] = []

        def read():
            try:
                while not stop.is_set():
                    run = open_run(tmp_path / "run")
                    for batch in run.scan(rows="all"):
                        assert len(batch["step"])
                    run.close()
            except BaseException as error:
                errors.append(error)

        rec.add(episode=999, step=0, observation=np.zeros(16), reward=0)
        rec.flush()
        thread = threading.Thread(target=read)
        thread.start()
        fill(rec, range(60))
        rec.flush()
        stop.set()
        thread.join()
        assert errors == []


def test_a_shard_that_is_just_being_made_holds_nothing_yet(tmp_path):
    create_run(tmp_path / "run", RunInfo(new_run_id(), "test", SCHEMA, ["p"]))
    (tmp_path / "run" / "shards" / "w0").mkdir()
    (tmp_path / "run" / "shards" / "w0" / "000000.active").touch()
    run = open_run(tmp_path / "run")
    assert len(run) == 0
    assert list(run.scan(rows="all")) == []
