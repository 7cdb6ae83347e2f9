"""The ring of blocks: rows added from kernels and from Python, sampled, handed from one thread to another."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from expkit.bench.lab import Lab
from expkit.bench.measure import latencies
from expkit.bench.reference import CircularColumns
from expkit.bench.stage import Goal, Trial, Values, stage
from expkit.bench.workloads import Workload
from expkit.buffers.producer import Producer
from expkit.buffers.ring import BlockRing
from expkit.kernels import bench_rows
from expkit.row.layout import BlockLayout

BLOCKS = 8
BATCH = 256
KERNEL_ROWS = 200_000
COLUMNS = "NumPy columns"
_TINY_COLUMNS = ("episode", "step", "time_ns", "is_first", "reward", "terminated", "observation", "action")


def ring_of(work: Workload) -> BlockRing:
    """A ring whose memory is about 64 MiB, and at least 256 rows a block."""
    rows = max(BATCH, min(4096, (8 << 20) // work.schema.row_bytes // BATCH * BATCH))
    ring = BlockRing(BlockLayout(work.schema, rows), BLOCKS, overflow="drop-oldest")
    ring.memory.fill(0)  # or its pages would be made when they are first written to
    return ring


def capacity(ring: BlockRing) -> int:
    return ring.blocks * ring.layout.rows


def given_rows(work: Workload, count: int) -> list[dict[str, Any]]:
    """Rows as a training loop has them: arrays and Python numbers."""
    return [
        {name: values[row] if values.ndim > 1 else values[row].item() for name, values in work.given.items()}
        for row in range(count)
    ]


def ring_values(ring: BlockRing) -> Values:
    stats = ring.stats()
    return {"dropped": float(sum(stats.dropped.values())), "added": float(stats.added)}


@stage(
    "ring/kernel-add",
    "add in a kernel, column by column",
    workloads=("tiny",),
    limit="memcpy of packed rows",
    goals={"tiny": Goal("rows_per_second", least=100e6)},
    clock="thread",
)
def kernel_add(lab: Lab, workload: str) -> Trial:
    work = lab.workload(workload)
    names = [column.name for column in work.schema.columns]
    columns = np.array([names.index(name) for name in _TINY_COLUMNS])
    return _in_kernel(
        work, lambda ring, producer: bench_rows.put_rows(
            ring.control, ring.memory, producer.state, columns, 0, KERNEL_ROWS
        ),
    )  # fmt: skip


@stage(
    "ring/kernel-add-packed",
    "add in a kernel, packed row",
    workloads=("tiny",),
    limit="memcpy of packed rows",
    clock="thread",
)
def kernel_add_packed(lab: Lab, workload: str) -> Trial:
    work = lab.workload(workload)
    packed = np.zeros(work.schema.row_bytes, np.uint8)
    return _in_kernel(
        work, lambda ring, producer: bench_rows.add_rows(
            ring.control, ring.memory, producer.state, packed, 0, KERNEL_ROWS
        ),
    )  # fmt: skip


def _in_kernel(work: Workload, add: Callable[[BlockRing, Producer], int]) -> Trial:
    ring = ring_of(work)
    producer = ring.producer()
    width = work.schema.row_bytes
    source, target = np.zeros(width, np.uint8), np.zeros_like(ring.memory)

    def run() -> None:
        if add(ring, producer) != KERNEL_ROWS:
            raise RuntimeError("the ring took fewer rows than it was given")

    return Trial(
        run=run,
        rows=KERNEL_ROWS,
        nbytes=KERNEL_ROWS * width,
        limit=lambda: bench_rows.copy_rows(source, target, width, KERNEL_ROWS),
        finish=lambda: ring_values(ring),
    )


@stage(
    "ring/add-1",
    "add one row from Python",
    workloads=("W", "tiny"),
    limit=COLUMNS,
    goals={"W": Goal("ratio", least=1.0), "tiny": Goal("ratio", least=1.0)},
    clock="thread",
)
def add_one(lab: Lab, workload: str) -> Trial:
    work = lab.workload(workload)
    ring, rows = ring_of(work), given_rows(work, BATCH)
    columns = CircularColumns(work.given, capacity(ring))
    producer, turn = ring.producer(), [0]

    def run() -> None:
        add = producer.add
        for row in rows:
            add(row)

    def limit() -> None:
        add = columns.add
        for row in rows:
            add(row)

    def one() -> None:
        producer.add(rows[turn[0] % BATCH])
        turn[0] += 1

    return Trial(
        run=run,
        rows=BATCH,
        nbytes=BATCH * work.row_bytes,
        limit=limit,
        finish=lambda: {**latencies(one, 20_000), **ring_values(ring)},
    )


@stage(
    "ring/add-256",
    "add 256 rows",
    workloads=("W", "tiny"),
    limit="memcpy of the columns",
    goals={"W": Goal("ratio", least=0.9), "tiny": Goal("rows_per_second", least=69e6)},
    clock="thread",
)
def add_batch(lab: Lab, workload: str) -> Trial:
    work = lab.workload(workload)
    ring = ring_of(work)
    batch = {name: values[:BATCH] for name, values in work.columns.items()}
    columns = CircularColumns(work.columns, capacity(ring))
    producer = ring.producer()
    return Trial(
        run=lambda: producer.add_batch(batch),
        rows=BATCH,
        nbytes=BATCH * work.row_bytes,
        limit=lambda: columns.add_batch(batch, BATCH),
        finish=lambda: ring_values(ring),
    )


@stage(
    "ring/sample-256",
    "sample 256 rows",
    workloads=("W", "tiny"),
    limit=COLUMNS,
    goals={"W": Goal("ratio", least=1.0), "tiny": Goal("ratio", least=1.5)},
    clock="thread",
)
def sample(lab: Lab, workload: str) -> Trial:
    work, rng = lab.workload(workload), np.random.default_rng(0)
    ring = ring_of(work)
    columns = CircularColumns(work.columns, capacity(ring))
    while columns.size < columns.capacity:
        part = {name: values[:BATCH] for name, values in work.columns.items()}
        ring.add_batch(part)
        columns.add_batch(part, BATCH)
    return Trial(
        run=lambda: ring.sample(BATCH, rng, include_drained=True),
        rows=BATCH,
        nbytes=BATCH * work.row_bytes,
        limit=lambda: columns.sample(BATCH, rng),
    )
