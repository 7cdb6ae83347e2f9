"""Whoever runs when: recordings of several threads, one at a time in an order that a seed says, on disks that fail."""

import os

import pytest
from promises import report
from schedules import play, play_many

SHORT, LONG = 250, 3000
MANY = int(os.environ.get("EXPKIT_SCHEDULES", "0"))  # 100,000 take half an hour; before a release


def tried(seeds, tmp_path, tell):
    told = play_many(seeds, tmp_path)
    tell(report("schedule", 0, schedules=told["schedules"], flushes=told["flushes"], failed_disks=told["failures"]))


def test_no_order_of_threads_breaks_a_promise(tmp_path, tell):
    tried(range(SHORT), tmp_path, tell)


@pytest.mark.slow
@pytest.mark.timeout(6000 + MANY)
def test_no_order_of_threads_breaks_a_promise_in_many_schedules(tmp_path, tell):
    tried(range(SHORT, max(LONG, MANY)), tmp_path, tell)


def test_a_schedule_happens_again_by_its_seed(tmp_path):
    first, again = (play(7, tmp_path / name) for name in made(tmp_path, "first", "again"))
    assert first.scheduler.steps == again.scheduler.steps > 20
    assert [rows for rows, _ in first.promises] == [rows for rows, _ in again.promises]
    assert first.committed == again.committed


def made(folder, *names):
    for name in names:
        (folder / name).mkdir()
    return names
