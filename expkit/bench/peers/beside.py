"""A library's pass beside expkit's own stage: the same rows, in turn, so that the ratio is of pairs."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from expkit.bench.lab import Lab
from expkit.bench.measure import Effort, Timing, measure
from expkit.bench.peers.adapter import DiskPeer, EnvironmentPeer, MemoryPeer, Peer, row_count
from expkit.bench.stage import Trial
from expkit.bench.stages.environments import STEPS
from expkit.bench.stages.rings import BATCH, capacity, ring_of
from expkit.bench.stages.shards import RANDOM_ROWS

# The stages that libraries are measured beside, and on which rows; noise only where there is time for it, for it takes
# a hundred times the bytes.
MEMORY_STAGES: dict[str, tuple[str, ...]] = {
    "ring/add-1": ("W", "tiny"),
    "ring/add-256": ("W", "tiny"),
    "ring/sample-256": ("W", "tiny"),
}
DISK_STAGES: dict[str, tuple[str, ...]] = {
    "shard/write": ("W", "R", "noise", "tiny"),
    "run/scan": ("W", "R", "tiny"),
    "run/scan-2": ("W", "R"),  # two threads of expkit's, one of theirs
    "shard/random-rows": ("W", "tiny"),
}
# With rows of their own.
ENVIRONMENT_STAGES: dict[str, tuple[str, ...]] = {"record/cartpole": ("",)}
MOST_BY_ONE = 4096  # rows of a buffer that is filled one by one
# Of single rows, fewer than expkit reads where a library would take this long for as many.
SECONDS_OF_A_PASS = 0.25
FEW_ROWS = 8


@dataclass(frozen=True, slots=True)
class Pass:
    """One pass of a library over so many rows; `bytes_per_row` of what stands on disk."""

    run: Callable[[], float | None]
    rows: int
    bytes_per_row: Callable[[], float | None] = lambda: None


def stages_of(peer: type[Peer]) -> dict[str, tuple[str, ...]]:
    """What a kind of library can be measured at, with the workloads."""
    if issubclass(peer, EnvironmentPeer):
        return ENVIRONMENT_STAGES
    return MEMORY_STAGES if issubclass(peer, MemoryPeer) else DISK_STAGES


@contextmanager
def pass_of(kind: type[Peer], lab: Lab, stage: str, workload: str) -> Iterator[Pass]:
    """A library's pass of a stage, ready to be run; what it holds goes afterwards."""
    path = lab.path(kind.name)
    if issubclass(kind, EnvironmentPeer):
        recorder = kind(path)
        try:
            yield Pass(lambda: recorder.record(STEPS), STEPS, lambda: recorder.nbytes() / STEPS)
        finally:
            recorder.close()
            shutil.rmtree(path, ignore_errors=True)
        return
    rows = lab.workload(workload).ordered
    if issubclass(kind, MemoryPeer):
        at_once = 1 if stage == "ring/add-1" else BATCH
        room = min(capacity(ring_of(lab.workload(workload))), row_count(rows) // BATCH * BATCH)
        buffer = kind(rows, min(room, MOST_BY_ONE) if at_once == 1 else room, at_once, path)
        try:
            yield _memory_pass(buffer, stage)
        finally:
            buffer.close()
    elif issubclass(kind, DiskPeer):
        disk = kind({name: values[: kind.most_rows] for name, values in rows.items()}, path)
        try:
            yield _disk_pass(disk, stage)
        finally:
            disk.close()
            disk.remove()


def _memory_pass(buffer: MemoryPeer, stage: str) -> Pass:
    # Full, so that no pass has to wait for the system to hand out memory.
    for first in range(0, buffer.capacity, BATCH):
        buffer.adding(first, BATCH)()
    if stage != "ring/sample-256":
        return Pass(buffer.adding(0, BATCH), BATCH)

    def sample() -> None:
        buffer.sample(BATCH)

    return Pass(sample, BATCH)


def _disk_pass(disk: DiskPeer, stage: str) -> Pass:
    rows = row_count(disk.given)

    def size() -> float:
        return disk.nbytes() / rows

    def write() -> float:
        disk.remove()
        begun = time.perf_counter()
        disk.write()
        return time.perf_counter() - begun

    if stage == "shard/write":
        return Pass(write, rows, size)
    disk.write()
    disk.open()
    wanted = np.random.default_rng(0).integers(0, rows, RANDOM_ROWS).tolist()

    def scan() -> None:
        for _ in disk.scan():
            pass

    def read_rows() -> None:
        for _ in disk.read_rows(wanted):
            pass

    if stage in ("run/scan", "run/scan-2"):
        return Pass(scan, rows, size)
    begun = time.perf_counter()
    for _ in disk.read_rows(wanted[:FEW_ROWS]):
        pass
    affordable = int(FEW_ROWS * SECONDS_OF_A_PASS / (time.perf_counter() - begun))
    del wanted[max(FEW_ROWS, affordable) :]
    return Pass(read_rows, len(wanted), size)


def measure_beside(ours: Trial, theirs: Pass, effort: Effort) -> Timing:
    """Both in turn; the limit of the Timing is the library."""
    return measure(
        Trial(ours.run, ours.rows, ours.nbytes, theirs.run, limit_rows=theirs.rows, repeatable=ours.repeatable),
        effort,
        traced=False,
    )
