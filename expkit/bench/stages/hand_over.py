"""Rows that go through a ring from one thread to another, and from one process to another, none lost or torn."""

from __future__ import annotations

import multiprocessing
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

from expkit.bench.lab import Lab
from expkit.bench.stage import Goal, Trial, stage
from expkit.bench.stages.rings import ring_values
from expkit.buffers.blocks import control_words
from expkit.buffers.ring import BlockRing
from expkit.kernels import bench_rows
from expkit.row.layout import BlockLayout
from expkit.row.schema import Schema

ROWS = 4_000_000
BLOCKS, BLOCK_ROWS = 16, 16384
_ARENA = 1 << 16  # where the blocks begin in a shared file, behind the control words
_PATIENCE = 60.0


@stage(
    "ring/hand-over",
    "from one thread to another, none lost or torn",
    workloads=("tiny",),
    limit="memcpy of packed rows",
    goals={"tiny": Goal("rows_per_second", least=20e6)},
    steady=False,
    traced=False,
)
def between_threads(lab: Lab, workload: str) -> Trial:
    ring = BlockRing(BlockLayout(lab.workload(workload).schema, BLOCK_ROWS), BLOCKS, overflow="block")
    threads: list[threading.Thread] = []

    def begin() -> None:
        threads[:] = [threading.Thread(target=produce, args=(ring, ROWS))]
        threads[0].start()

    return _trial(ring, begin, lambda: threads[0].join(), lambda: None)


@stage(
    "ring/hand-over-2",
    "from one process to another, none lost or torn",
    workloads=("tiny",),
    limit="memcpy of packed rows",
    goals={"tiny": Goal("rows_per_second", least=20e6)},
    steady=False,
    traced=False,
)
def between_processes(lab: Lab, workload: str) -> Trial:
    schema, path = lab.workload(workload).schema, lab.path("ring")
    ring = shared_ring(path, schema)
    here, there = multiprocessing.Pipe()
    arguments = (there, path, schema.to_json())
    process = multiprocessing.get_context("spawn").Process(target=produce_when_told, args=arguments, daemon=True)
    process.start()

    def close() -> None:
        here.send(0)
        process.join(_PATIENCE)
        path.unlink()

    return _trial(ring, lambda: here.send(ROWS), lambda: _answer(here), close)


def _trial(ring: BlockRing, begin: Callable[[], None], end: Callable[[], None], close: Callable[[], None]) -> Trial:
    """Rows numbered from 0 are taken here while somebody produces them."""
    width = ring.schema.row_bytes
    source, target = np.zeros(width, np.uint8), np.zeros(len(ring.memory), np.uint8)

    def run() -> float:
        seen = np.zeros(2, np.int64)
        begun, taken = time.perf_counter(), 0
        begin()
        while taken < ROWS:
            claim = ring.claim()
            if claim is None:
                ring.wait_full(0.02)
                continue
            with claim:
                bench_rows.count_in_order(claim.columns["episode"], seen)
                taken += claim.rows
        seconds = time.perf_counter() - begun
        end()
        if seen[1] or seen[0] != ROWS:
            raise RuntimeError(f"{seen[1]} rows out of order, {ROWS - seen[0]} lost")
        return seconds

    return Trial(
        run=run,
        rows=ROWS,
        nbytes=ROWS * width,
        limit=lambda: bench_rows.copy_rows(source, target, width, ROWS),
        finish=lambda: ring_values(ring),
        close=close,
        repeatable=False,
    )


def produce(ring: BlockRing, rows: int) -> None:
    """Rows numbered from 0, in a kernel; waits for room."""
    producer, packed, at = ring.producer(), np.zeros(ring.schema.row_bytes, np.uint8), 0
    while at < rows:
        at = bench_rows.add_rows(ring.control, ring.memory, producer.state, packed, at, rows)
        if at < rows and not producer.wait_for_room(_PATIENCE):
            raise RuntimeError("nobody took rows for a minute")
    producer.hand_over()


def shared_ring(path: Path, schema: Schema, attach: bool = False) -> BlockRing:
    """A ring in a file that two processes map: made new, or that of the other one."""
    layout = BlockLayout(schema, BLOCK_ROWS)
    size = _ARENA + layout.nbytes * BLOCKS
    area = np.asarray(np.memmap(path, np.uint8, "r+" if attach else "w+", shape=(size,)))
    control = area[: 8 * control_words(BLOCKS)].view(np.int64)
    return BlockRing(layout, BLOCKS, overflow="block", memory=area[_ARENA:], control=control, attach=attach)


def produce_when_told(told: Connection, path: Path, schema: bytes) -> None:
    """The other process: as many rows as it is told each time, until that is none. Answers with what went wrong."""
    ring = shared_ring(path, Schema.from_json(schema), attach=True)
    while rows := told.recv():
        try:
            produce(ring, rows)
            told.send("")
        except Exception as error:  # told here, where nobody sees it
            told.send(f"{type(error).__name__}: {error}")


def _answer(told: Connection) -> None:
    problem = told.recv() if told.poll(_PATIENCE) else "no answer"
    if problem:
        raise RuntimeError(f"the other process: {problem}")
