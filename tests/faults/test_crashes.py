"""A kill or a power cut after any operation on the disk: every row that flush reported durable is there, once."""

from functools import partial

import pytest
from crash_machine import crash_recording
from recordings import record_on, record_parts


def test_a_recording_survives_a_crash_after_any_operation(tmp_path, tell):
    tally = crash_recording(tmp_path, record_parts, cuts=3, resume=record_on)
    assert tally["kill"] >= 100
    assert tally["power"] >= 300
    tell(str(tally))


@pytest.mark.slow
@pytest.mark.parametrize("sync", ["interval", "block", "none"])
def test_longer_recordings_survive_a_crash_after_any_operation(tmp_path, tell, sync):
    record = partial(record_parts, parts=40, sync=sync, drain_threads=2, flush_interval=0.02)
    tell(str(crash_recording(tmp_path, record, cuts=8, resume=record_on)))
