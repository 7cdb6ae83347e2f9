"""A kill or a power cut after any operation on the disk: every row that flush reported durable is there, once."""

from contextlib import suppress
from functools import partial

import pytest
from crash_machine import crash_recording
from crash_states import crash_states
from disk import LoggedDisk
from recordings import record_on, record_parts
from shard_rows import BOARD, write_shard

from expkit.errors import ShardError
from expkit.formats.shard import ShardReader, check_shard
from expkit.runs.locks import lock_writer
from expkit.system.files import using


def test_a_recording_survives_a_crash_after_any_operation(tmp_path, tried):
    tally = crash_recording(tmp_path, record_parts, cuts=3, resume=record_on)
    assert tally["kill"] >= 100
    assert tally["power"] >= 300
    tally.report(tried)


@pytest.mark.slow
@pytest.mark.timeout(4000)
@pytest.mark.parametrize("sync", ["interval", "block", "none"])
def test_longer_recordings_survive_a_crash_after_any_operation(tmp_path, tried, sync):
    record = partial(record_parts, parts=20, sync=sync, drain_threads=2, flush_interval=0.02)
    crash_recording(tmp_path, record, cuts=5, resume=record_on).report(tried)


def test_a_writers_number_is_taken_for_good(tmp_path):
    """Episodes are numbered by it: taken twice, two games would share a number."""
    live = tmp_path / "live"
    (live / "locks").mkdir(parents=True)
    disk = LoggedDisk(live)
    with using(disk):
        assert lock_writer(live)[0] == 0
    *_, last = crash_states(disk, cuts=1)
    assert last.kind == "power"
    last.build(tmp_path / "cut")
    assert lock_writer(tmp_path / "cut")[0] == 1


def test_a_writers_number_is_taken_in_a_copy_without_locks(tmp_path):
    (tmp_path / "shards" / "w0").mkdir(parents=True)
    assert lock_writer(tmp_path)[0] == 1


def test_a_footer_that_is_there_after_a_power_cut_has_its_blocks(tmp_path):
    origin = tmp_path / "origin"
    origin.mkdir()
    closed = 0
    with using(LoggedDisk(origin)) as disk:
        write_shard(origin / "shard.exp", BOARD, blocks=6)
    for number, state in enumerate(crash_states(disk, cuts=40)):
        folder = tmp_path / str(number)
        folder.mkdir()
        state.build(folder)
        path = folder / "shard.exp"
        if path.exists() and path.stat().st_size:
            with suppress(ShardError), ShardReader(path) as reader:
                if reader.closed:
                    closed += 1
                    assert list(check_shard(path)) == []
    assert closed
