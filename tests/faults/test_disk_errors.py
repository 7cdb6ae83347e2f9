"""A disk that fails, at each operation of a recording in turn: a clear error, and everything durable is intact."""

import shutil
import threading
from functools import partial

import numpy as np
import pytest
from crash_machine import errors_of
from crash_machine import visible_rows as all_visible_rows
from crash_states import crash_states
from disk import WRITES, FaultyDisk, LoggedDisk
from patience import PATIENCE
from promises import report
from recordings import SCHEMA, record_on, record_parts
from shard_rows import rows_of

from expkit.errors import ExpkitError, NoSpace, WriteFailed
from expkit.formats.shard.encode import BlockEncoder
from expkit.row.episodes import EpisodeStart
from expkit.runs.counters import Ledger, read_ledger
from expkit.runs.guard import DiskGuard
from expkit.runs.layout import COUNTERS_FILE, RunInfo, new_run_id
from expkit.runs.locks import taking_turns
from expkit.runs.write import RunWriter, create_run
from expkit.system.files import Disk, using

record = partial(record_parts, parts=3, steps=2)
visible_rows = partial(all_visible_rows, without=frozenset({"time_ns"}))  # two recordings differ in it alone
# What an operation that only tidies up may pass over in silence.
TIDYING = {"unlink"}
FULL = {"create", "open_or_create", "mkdir", "rename", "link", "sync", "sync_map", "sync_folder", *WRITES}


def faults_of(kind):
    yield "EIO"
    if kind in FULL:
        yield "ENOSPC"
    if kind in WRITES and kind != "append_line":
        yield "short"
        yield "torn-ENOSPC"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """All rows of a recording that nothing happened to, and the kinds of its operations."""
    path = tmp_path_factory.mktemp("whole") / "run"
    disk = FaultyDisk("EIO", at=-1)
    with using(disk):
        record(path, lambda keys: None)
    return visible_rows(path), disk.seen


def try_fault(folder, rows, fault, at, lasting):
    """Record on a disk that fails. Returns the kind of operation that failed, None when there were fewer."""
    run, promised = folder / "run", []
    log = LoggedDisk(folder)
    disk = FaultyDisk(fault, at, lasting=lasting, inner=log)
    error = None
    with using(disk):
        try:
            record(run, promised.append)
        except ExpkitError as caught:
            error = caught
    if not disk.struck:
        return None
    kind = disk.seen[at]
    where = f"{fault} at operation {at}, {kind}: {error}"
    if error is None:
        assert fault == "short" or kind in TIDYING, where
    else:
        assert fault != "short", where
        assert isinstance(error, NoSpace) == fault.endswith("ENOSPC"), where
        assert "\n" not in str(error), where
    keys = promised[-1] if promised else []
    if (run / "run.yaml").exists():
        found = visible_rows(run)
        assert {key: found.get(key) for key in keys} == {key: rows[key] for key in keys}, where
        assert found.items() <= rows.items(), where
        assert not errors_of(run), f"{where}: {errors_of(run)}"
        if at % 4 == 0:
            record_on(run)
            assert found.items() < visible_rows(run).items(), where
    else:
        assert not keys, where
    # What was durable was so for good: pull the plug at the end.
    last = [state for state in crash_states(log, cuts=1) if state.kind == "power"][-1]
    cut = folder / "cut"
    cut.mkdir()
    last.build(cut)
    if keys:
        found = visible_rows(cut / "run", "skip")
        assert {key: found.get(key) for key in keys} == {key: rows[key] for key in keys}, f"{where}, then a power cut"
    return kind


def test_an_error_at_any_operation_is_told_and_costs_nothing_durable(tmp_path, tell, whole):
    rows, kinds = whole
    tried = 0
    for at, kind in enumerate(kinds):
        for fault in faults_of(kind):
            folder = tmp_path / "try"
            folder.mkdir()
            tried += try_fault(folder, rows, fault, at, lasting=fault == "torn-ENOSPC") is not None
            shutil.rmtree(folder)
    assert tried >= 100
    report("disk", 0, failures=tried)
    tell(f"disk errors: {tried:,} faults at {len(kinds)} operations, 0 rows lost beyond the promise")


def begin(path):
    """A writer whose active shard holds one block, not synced yet."""
    create_run(path, RunInfo(new_run_id(), "test", SCHEMA, ["p"]))
    writer = RunWriter(path, SCHEMA, 1, guard=DiskGuard(0))
    append(writer, first=0)
    return writer


def append(writer, first):
    block = BlockEncoder(SCHEMA).encode(0, rows_of(SCHEMA, np.random.default_rng(0), 8, games=1, first=first), 8)
    writer.ledger.produced[0] += 8
    writer.append(block, starts=[EpisodeStart((1 << 48) + first, 1, [0], "test")])


def test_what_a_failed_sync_did_not_write_is_never_called_durable(tmp_path):
    """The system takes the pages for clean then, and the next sync of the file succeeds."""
    writer = begin(tmp_path / "run")
    with using(FaultyDisk("EIO", at=0, kinds=["sync"])):
        with pytest.raises(WriteFailed):
            writer.sync()
        append(writer, first=1)
        for doing in (writer.sync, writer.sync, writer.rotate, writer.close):
            with pytest.raises(WriteFailed, match="earlier sync"):
                doing()
    assert writer.ledger.durable[0] == 0
    assert not list((tmp_path / "run").rglob("*.exp"))


def test_a_sync_waits_for_what_another_thread_is_just_syncing(tmp_path):
    writer = begin(tmp_path / "run")

    class Slow(Disk):
        under_way, go = threading.Semaphore(0), threading.Event()

        def sync(self, handle, *, data_only=False):
            self.under_way.release()
            self.go.wait(PATIENCE)
            super().sync(handle, data_only=data_only)

    with using(Slow()) as disk:
        threads = [threading.Thread(target=writer.sync) for _ in range(2)]
        threads[0].start()
        assert disk.under_way.acquire(timeout=PATIENCE)
        threads[1].start()
        threads[1].join(0.2)
        assert threads[1].is_alive(), "reported durable while the disk was still at it"
        assert writer.ledger.durable[0] == 0
        disk.go.set()
        for thread in threads:
            thread.join()
    assert writer.ledger.durable[0] == 8
    writer.close()


def test_a_sync_that_failed_is_known_before_another_one_begins(tmp_path):
    """The system tells of an error once: a file that is opened after that syncs without one."""
    writer = begin(tmp_path / "run")

    class Failing(Disk):
        failed, go, syncs = threading.Event(), threading.Event(), 0

        def sync(self, handle, *, data_only=False):
            self.syncs += 1
            if self.syncs == 1:
                self.failed.set()
                self.go.wait(PATIENCE)
                raise OSError(5, "Input/output error")

    told = []

    def sync():
        try:
            writer.sync()
        except WriteFailed as error:
            told.append(error)

    with using(Failing()) as disk:
        threads = [threading.Thread(target=sync) for _ in range(2)]
        threads[0].start()
        assert disk.failed.wait(PATIENCE)
        threads[1].start()
        threads[1].join(0.2)
        disk.go.set()
        for thread in threads:
            thread.join()
    assert len(told) == 2
    assert writer.ledger.durable[0] == 0
    writer.abandon()


@pytest.mark.parametrize("kind", ["write", "rename", "sync_folder"])
def test_a_shard_that_could_not_be_published_is_published_when_there_is_room(tmp_path, kind):
    writer = begin(tmp_path / "run")
    with using(FaultyDisk("ENOSPC", at=0, kinds=[kind])), pytest.raises(NoSpace):
        writer.rotate()
    assert writer.ledger.durable[0] == 0
    writer.rotate()
    append(writer, first=1)
    writer.close()
    assert writer.ledger.durable[0] == 16
    assert len(all_visible_rows(tmp_path / "run")) == 16
    assert not [error for error in errors_of(tmp_path / "run") if "episode/" not in error]


@pytest.mark.parametrize("kind", ["create", "write", "sync", "rename", "sync_folder"])
def test_a_shard_that_could_not_be_begun_is_begun_when_there_is_room(tmp_path, kind):
    writer = begin(tmp_path / "run")
    writer.rotate()
    with using(FaultyDisk("ENOSPC", at=0, kinds=[kind])), pytest.raises(NoSpace):
        writer.append_meta({"note": 1})
    assert not list((tmp_path / "run").rglob("*.active*"))
    append(writer, first=1)
    writer.close()
    assert len(all_visible_rows(tmp_path / "run")) == 16
    assert len(list((tmp_path / "run").rglob("*.exp"))) == 2


def test_the_ledger_has_no_holes(tmp_path):
    """A store into a hole of a mapped file ends the process with SIGBUS when the disk is full."""
    log = LoggedDisk(tmp_path)
    with using(log):
        for writer in (2, 0, 1):
            Ledger(tmp_path, writer, 2).close()
    assert "truncate" not in {operation.kind for operation in log.log}
    assert [section.state for section in read_ledger(tmp_path)] == ["closed"] * 3


def test_the_ledger_is_begun_by_one_writer_at_a_time(tmp_path):
    """Each looks how long the file is and makes it longer: at once, one would cut off the section of the other."""
    begun = threading.Thread(target=Ledger, args=(tmp_path, 1, 2))
    with taking_turns(tmp_path, COUNTERS_FILE):
        begun.start()
        begun.join(0.2)
        assert not (tmp_path / COUNTERS_FILE).exists()
    begun.join()
    assert len(read_ledger(tmp_path)) == 1
