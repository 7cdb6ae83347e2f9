"""What reading for training holds in memory, measured in processes of their own: the bound that the docstrings give."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from patience import PATIENCE

from expkit import Field, Recorder, Schema

ROWS, EPISODE, ITEMS = 60_000, 500, 1500  # 6 KB a row, 360 MB in all
MIB = 1 << 20
CHILD = """
import sys
import numpy as np
from expkit import open_run
from expkit.reading.prioritized import PrioritizedSampler
def peak():
    return int(next(l for l in open("/proc/self/status") if l.startswith("VmHWM")).split()[1]) * 1024
def epoch(run):
    return run.epoch(memory="32MiB", batch_size=256)
def following(run):
    return run.shuffled(256, memory="32MiB", next_observation=True)
def windows(run):
    return run.windows(20, batch_size=64)
def follow(run):
    return run.follow()
def prioritized(run):
    sampler = PrioritizedSampler(run)
    for _ in range(3):
        batch = sampler.sample(256)
        sampler.update(batch["handle"], batch["reward"] + 1)
        yield batch
with open_run(sys.argv[1]) as run:
    run.sample(256)
    before = peak()
    rows = sum(batch["action"].size for batch in globals()[sys.argv[2]](run))
    print(rows, peak() - before)
"""


@pytest.fixture(scope="module")
def path(tmp_path_factory) -> Path:
    run = tmp_path_factory.mktemp("memory") / "run"
    schema = Schema([Field("observation", "f4", (ITEMS,), "observation"), Field("action", "i4", belongs="action")])
    with Recorder(run, schema, min_free=0, shard_rows=20_000) as recorder:
        steps = np.arange(EPISODE)
        for episode in range(ROWS // EPISODE):
            seen = np.repeat(np.float32(steps[:, None] + episode), ITEMS, 1)
            recorder.add_batch(
                episode=episode, step=steps, observation=seen, action=steps, reward=np.zeros(EPISODE),
                truncated=steps == EPISODE - 1,
            )  # fmt: skip
            recorder.end(episode=episode, player=0, observation=seen[0])
    return run


@pytest.mark.parametrize(
    ("reading", "rows", "most"),
    [("epoch", ROWS, 128), ("following", ROWS, 128), ("windows", ROWS, 96), ("follow", ROWS, 128),
     ("prioritized", 3 * 256, 64)],
)  # fmt: skip
def test_memory_does_not_follow_the_size_of_the_run(path, reading, rows, most):
    """360 MB of rows, read with 32 MiB to mix, or a batch or block at a time."""
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(path), reading], capture_output=True, text=True, timeout=PATIENCE
    )
    assert done.returncode == 0, done.stderr
    found, grown = map(int, done.stdout.split())
    assert found == rows
    assert grown < most * MIB, f"{grown / MIB:.0f} MiB"
