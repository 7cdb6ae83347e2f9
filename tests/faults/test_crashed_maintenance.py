"""Whatever changes a run that exists, crashed after any of its operations: the rows are as before or as after, the run
is sound, and running it again ends where it would have ended."""

import shutil
from functools import partial

import pytest
from crash_machine import crash_operation
from recordings import record_on, record_parts
from written_runs import flip_bit

from expkit.formats.shard import ShardReader
from expkit.recovery.recover import recover
from expkit.rewrite.compact import compact
from expkit.rewrite.prune import Retention, prune
from expkit.runs.layout import COUNTERS_FILE, MANIFEST_FILE, RUN_FILE
from expkit.runs.resume import take_writer


def recorded(run):
    record_parts(run, lambda keys: None, parts=6, steps=4)


def killed(run):
    """As a kill leaves it after four parts: an episode open, the shard active, the ledger not closed."""
    alive = run.with_name("alive")

    def look(keys, seen=[]):  # noqa: B006
        seen.append(keys)
        if len(seen) == 4:
            shutil.copytree(alive, run)

    record_parts(alive, look, parts=6, steps=4)
    shutil.rmtree(alive)


def twice_rewritten(run):
    """Two generations beside the recorder's own shards."""
    recorded(run)
    prune(run, Retention(keep_episodes=5))
    compact(run)
    record_on(run)
    prune(run, Retention(keep_episodes=4))


def damaged(run):
    """A column of a published shard is damaged; what says what the run is, and what it held, is gone."""
    recorded(run)
    shard = sorted((run / "shards" / "w0").iterdir())[1]
    with ShardReader(shard) as reader:
        block = reader.blocks[1]
    flip_bit(shard, block.offset + block.nbytes - 3)
    for name in (RUN_FILE, MANIFEST_FILE, COUNTERS_FILE):
        (run / name).unlink()


def pruned(run):
    prune(run, Retention(keep_episodes=3))


def closed(run):
    take_writer(run).held[1].release()


OPERATIONS = {
    "prune": (recorded, pruned),
    "prune again": (twice_rewritten, pruned),
    "compact": (recorded, compact),
    "compact again, and prove it": (twice_rewritten, partial(compact, proving=True)),
    "recover a killed run": (killed, recover),
    "recover a damaged run": (damaged, recover),
    "close a dead writer": (killed, closed),
}


def crash(folder, name, cuts):
    prepare, operation = OPERATIONS[name]
    return crash_operation(folder, prepare, operation, cuts=cuts, damaged="damaged" in name)


@pytest.mark.parametrize("name", OPERATIONS)
def test_maintenance_survives_a_crash_after_any_operation(tmp_path, tried, name):
    tally = crash(tmp_path, name, cuts=3)
    assert tally["kill"] >= 10
    assert tally["power"] >= 5
    tally.report(tried)


@pytest.mark.slow
@pytest.mark.timeout(4000)
@pytest.mark.parametrize("name", OPERATIONS)
def test_maintenance_survives_many_crashes(tmp_path, tried, name):
    crash(tmp_path, name, cuts=30).report(tried)
