"""One ring over memory that several processes map: rows of another process are neither lost nor torn, also when it
dies. EXPKIT_STRESS_ROWS overrides the number of rows of the slow test."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from test_ring_kernels import run_together
from test_ring_stress import SCHEMA, Stress

from expkit.buffers.blocks import control_words
from expkit.buffers.ring import BlockRing
from expkit.errors import UsageError
from expkit.row.layout import BlockLayout

ARENA = 1 << 16
SPAWN = multiprocessing.get_context("spawn")


def mapped_ring(path: Path, attach: bool, rows: int = 4096, blocks: int = 8, overflow: str = "block") -> BlockRing:
    layout = BlockLayout(SCHEMA, rows)
    shape = (ARENA + 8 * layout.nbytes,)
    area = np.asarray(np.memmap(path, np.uint8, "r+" if attach else "w+", shape=shape))
    control = area[: 8 * control_words(blocks)].view(np.int64)
    return BlockRing(layout, blocks, overflow=overflow, memory=area[ARENA:], control=control, attach=attach)


def row(counter: int) -> dict[str, object]:
    keys = {"episode": 0, "step": counter, "reward": 0.0, "terminated": False, "truncated": False}
    return {**keys, "producer": 0, "counter": counter, "checksum": 0}


def produce_elsewhere(path: Path, number: int, rows: int) -> None:
    Stress(mapped_ring(path, attach=True), number + 1, rows).produce(number)


def produce_and_die(path: Path, rows: int) -> None:
    ring = mapped_ring(path, attach=True)
    producer = ring.producer()
    for counter in range(rows):
        producer.add(row(counter))
    os._exit(9)  # in the middle of a block, which it has neither filled nor handed over


def stress(path: Path, others: int, rows: int) -> Stress:
    """`others` processes and one thread here produce, one thread here consumes."""
    made = Stress(mapped_ring(path, attach=False), others + 1, rows)
    processes = [SPAWN.Process(target=produce_elsewhere, args=(path, number, rows)) for number in range(others)]

    def watch(number: int) -> Callable[[], None]:
        def work() -> None:
            processes[number].join()
            assert processes[number].exitcode == 0
            with made.lock:
                made.left -= 1

        return work

    for process in processes:
        process.start()
    run_together(
        lambda: made.produce(others), lambda: made.consume(flush=True), *(watch(number) for number in range(others))
    )
    made.finish()
    return made


def test_rows_of_another_process_arrive_whole_and_in_order(tmp_path: Path) -> None:
    done = stress(tmp_path / "ring", 1, 300_000)
    assert done.seen[:, 1].tolist() == [300_000, 300_000]


@pytest.mark.slow
def test_no_row_is_lost_or_torn_in_a_hundred_million(tmp_path: Path, tell: Callable[[str], None]) -> None:
    rows = int(os.environ.get("EXPKIT_STRESS_ROWS", 100_000_000)) // 2
    done = stress(tmp_path / "ring", 1, rows)
    assert done.seen[:, 1].tolist() == [rows, rows]
    tell(f"a ring between two processes: {2 * rows:,} rows, none lost, torn or out of order")


def test_what_a_process_published_before_it_died_can_be_taken(tmp_path: Path) -> None:
    ring = mapped_ring(tmp_path / "ring", attach=False)
    process = SPAWN.Process(target=produce_and_die, args=(tmp_path / "ring", 5000))
    process.start()
    process.join()
    assert process.exitcode == 9
    batch = ring.drain()
    assert batch is not None
    np.testing.assert_array_equal(batch.columns["counter"], np.arange(5000))
    assert ring.stats().size == 0


def test_only_the_same_ring_can_be_attached_to(tmp_path: Path) -> None:
    first = mapped_ring(tmp_path / "ring", attach=False)
    first.add(row(7))
    second = mapped_ring(tmp_path / "ring", attach=True)
    batch = second.drain()
    assert batch is not None
    assert batch.columns["counter"].tolist() == [7]
    for other in ({"rows": 2048}, {"blocks": 7}, {"overflow": "drop-oldest"}):
        with pytest.raises(UsageError, match="the ring to attach to has"):
            mapped_ring(tmp_path / "ring", attach=True, **other)
    with pytest.raises(UsageError, match="takes its memory"):
        BlockRing(BlockLayout(SCHEMA, 8), 2, attach=True)
    first.close()
    assert second.closed
