"""Several producers in kernels without the GIL against consumers: no row lost, doubled, torn or out of order.

Each row carries its producer, a counter and a checksum of both. EXPKIT_STRESS_ROWS overrides the number of rows of
the slow test.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from patience import PATIENCE
from test_ring_kernels import run_together

from expkit.buffers.ring import BlockRing
from expkit.buffers.spill import SpillBuffer
from expkit.errors import NotThere
from expkit.kernels import kernel
from expkit.kernels.ring_add import ring_add
from expkit.row.layout import BlockLayout
from expkit.row.schema import Field, Schema

SCHEMA = Schema([Field("producer", "u4"), Field("counter", "u8"), Field("checksum", "u8")])
PRODUCER_AT, COUNTER_AT = 28, 32  # byte offsets in a packed row, behind 28 bytes of keys


@kernel(cache=False, _nrt=False)
def _mix(producer, counter):
    mixed = np.uint64(counter) * np.uint64(0x9E3779B97F4A7C15)
    return (mixed ^ (mixed >> np.uint64(29))) + np.uint64(producer)


@kernel(cache=False, _nrt=False)
def produce(ctl, memory, state, row, numbers, producer, first, last):
    """Add rows first..last-1; returns the first that was not added because the ring is full."""
    for counter in range(first, last):
        numbers[0] = np.uint64(counter)
        numbers[1] = _mix(producer, counter)
        code = ring_add(ctl, memory, state, row)
        while code == -3:
            code = ring_add(ctl, memory, state, row)
        if code < 0:
            return counter
    return last


@kernel(cache=False, _nrt=False)
def verify(producers, counters, checksums, seen, wrong):
    """`seen` (producers, 2): next counter expected and rows so far. `wrong`: torn rows, rows out of order, skipped."""
    for i in range(len(counters)):
        producer, counter = np.int64(producers[i]), np.int64(counters[i])
        if producer >= len(seen) or checksums[i] != _mix(producer, counter):
            wrong[0] += 1
            continue
        if counter < seen[producer, 0]:
            wrong[1] += 1
        wrong[2] += counter - seen[producer, 0]
        seen[producer, 0] = counter + 1
        seen[producer, 1] += 1


class Stress:
    """A ring, its producers, and what its consumers saw."""

    def __init__(self, ring: BlockRing, producers: int, rows_each: int):
        self.ring, self.rows_each = ring, rows_each
        self.seen = np.zeros((producers, 2), np.int64)
        self.wrong = np.zeros(3, np.int64)
        self.gaps = 0
        self.looks = 0
        self.left = producers
        self.lock = threading.Lock()

    def produce(self, number: int) -> None:
        ring, producer = self.ring, self.ring.producer()
        row = np.zeros(SCHEMA.row_bytes, np.uint8)
        row[PRODUCER_AT:COUNTER_AT].view(np.uint32)[0] = number
        numbers = row[COUNTER_AT : COUNTER_AT + 16].view(np.uint64)
        at = 0
        while at < self.rows_each:
            at = produce(ring.control, ring.memory, producer.state, row, numbers, number, at, self.rows_each)
            if at < self.rows_each:
                assert producer.wait_for_room(PATIENCE)
        producer.hand_over()
        with self.lock:
            self.left -= 1

    def consume(self, flush: bool) -> None:
        """Take blocks until all is there; with `flush` now and then also the rows of blocks still filling."""
        turn = 0
        while True:
            done = self.left == 0
            turn += 1
            claim = self.ring.claim(partial=done or (flush and turn % 3 == 0))
            if claim is not None:
                with claim:
                    self.check(claim.columns)
                self.gaps += sum(claim.dropped_before.values())
            elif done:
                return
            else:
                self.ring.wait_full(0.02)

    def check(self, columns: dict[str, np.ndarray]) -> None:
        verify(columns["producer"], columns["counter"], columns["checksum"], self.seen, self.wrong)

    def look(self) -> None:
        """Copy rows under way: whatever it is, none may be torn, and the newest must be in order."""
        rng = np.random.default_rng(0)
        ring = self.ring
        while self.left:
            for drained in (True, False):
                found = ring.latest(200, include_drained=drained)
                with contextlib.suppress(NotThere):  # all may be drained between the two calls
                    found = ring.sample(200, rng, include_drained=drained)
                columns = found.columns
                wrong, seen = np.zeros(3, np.int64), np.zeros_like(self.seen)
                verify(columns["producer"], columns["counter"], columns["checksum"], seen, wrong)
                assert wrong[0] == 0
                self.looks += 1

    def finish(self) -> None:
        stats = self.ring.stats()
        produced = len(self.seen) * self.rows_each
        dropped = sum(stats.dropped.values())
        assert self.wrong[:2].tolist() == [0, 0], "torn rows, rows out of order"
        assert stats.size == 0
        assert stats.added == produced == stats.drained + dropped
        assert self.seen[:, 1].sum() == stats.drained
        assert self.gaps <= dropped
        if dropped == 0:
            assert (self.seen == self.rows_each).all()
        else:
            assert self.wrong[2] <= dropped


def run(stress: Stress, consumers: int = 1, flush: bool = True, look: bool = True) -> float:
    producers = [lambda number=number: stress.produce(number) for number in range(len(stress.seen))]
    takers = [lambda: stress.consume(flush)] * consumers
    start = time.perf_counter()
    run_together(*producers, *takers, *([stress.look] if look else []))
    seconds = time.perf_counter() - start
    stress.finish()
    return seconds


@pytest.mark.parametrize("generation", [0, 2**63 - 50])
@pytest.mark.parametrize("overflow", ["block", "drop-oldest", "drop-newest", "spill"])
def test_three_producers_lose_nothing(overflow: str, generation: int, tmp_path: Path) -> None:
    layout = BlockLayout(SCHEMA, 512)
    spill = SpillBuffer(layout, tmp_path / "rows.spill") if overflow == "spill" else None
    ring = BlockRing(layout, 8, overflow=overflow, spill=spill, generation=generation)
    stress = Stress(ring, 3, 300_000)
    run(stress)
    if overflow in ("block", "spill"):
        assert stress.seen[:, 1].sum() == 900_000


def test_tiny_blocks_hand_over_all_the_time() -> None:
    ring = BlockRing(BlockLayout(SCHEMA, 3), 5, overflow="drop-oldest", generation=2**63 - 1000)
    run(Stress(ring, 3, 100_000))


def test_two_consumers_share_the_blocks_of_one_producer() -> None:
    """Each block goes to one of them, and the sequence numbers give the order back."""
    ring = BlockRing(BlockLayout(SCHEMA, 64), 6, generation=2**63 - 100)
    stress = Stress(ring, 1, 200_000)
    taken: list[tuple[int, np.ndarray]] = []

    def consume() -> None:
        while True:
            done = stress.left == 0
            claim = ring.claim(partial=done)
            if claim is not None:
                with claim:
                    taken.append((claim.sequence, claim.columns["counter"].copy()))
            elif done:
                return
            else:
                ring.wait_full(0.02)

    run_together(lambda: stress.produce(0), consume, consume)
    start = 2**63 - 100
    in_order = sorted(taken, key=lambda pair: (pair[0] - start) % 2**64)
    assert [(pair[0] - start) % 2**64 for pair in in_order] == list(range(len(taken)))
    np.testing.assert_array_equal(np.concatenate([rows for _, rows in in_order]), np.arange(200_000))


def test_close_wakes_everybody() -> None:
    ring = BlockRing(BlockLayout(SCHEMA, 4), 2, timeout=PATIENCE)
    ring.producer().open(4)
    ring.producer().open(4)
    woken: list[str] = []

    def opening() -> None:
        try:
            ring.producer().open(1)
        except RuntimeError:
            woken.append("producer")

    def waiting() -> None:
        assert not ring.wait_full()
        woken.append("consumer")

    def closing() -> None:
        time.sleep(0.05)
        assert woken == []
        ring.close()

    run_together(opening, opening, waiting, closing)
    assert sorted(woken) == ["consumer", "producer", "producer"]


@pytest.mark.slow
def test_a_hundred_million_rows() -> None:
    rows = int(os.environ.get("EXPKIT_STRESS_ROWS", 100_000_000))
    ring = BlockRing(BlockLayout(SCHEMA, 16384), 16)
    stress = Stress(ring, 2, rows // 2)
    seconds = run(stress, look=False, flush=False)
    print(f"{rows:,} rows of {SCHEMA.row_bytes} bytes, 2 producers, 1 consumer: {rows / seconds / 1e6:.1f}M/s")
    assert stress.seen[:, 1].tolist() == [rows // 2, rows // 2]
