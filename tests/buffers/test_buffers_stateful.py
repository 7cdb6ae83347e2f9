"""Random operations on every buffer against a plain list of the rows that should be there."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
from buffer_rows import batch, check, row
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from test_buffers import KINDS, make_buffer

from expkit.errors import BufferClosed, Busy, NotThere


class BufferMachine(RuleBasedStateMachine):
    """Numbers are added in order. What is drained must follow on what was drained before, but for the gaps told.

    Where rows are dropped is the policy's business (a ring drops whole blocks), so the model learns of it from the
    counts; that the counts, the gaps and the rows agree with each other is what is checked.
    """

    kind = ""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.next_number = 1
        self.expected = 1
        self.told = 0
        self.drained = 0
        self.peak = 0
        self.batched: set[int] = set()
        self.closed = False
        self.claims: list = []

    @initialize(start=st.sampled_from([0, 2**63 - 3, -(2**63), -2]))
    def make(self, start: int) -> None:
        self.buffer = make_buffer(self.kind, self.folder, timeout=0.0, generation=start)

    def teardown(self) -> None:
        shutil.rmtree(self.folder)

    @rule()
    def add(self) -> None:
        before = self.buffer.stats().added
        try:
            self.buffer.add(row(self.next_number))
        except BufferClosed:
            assert self.closed
        except Busy:
            assert self.may_be_full()
        else:
            assert not self.closed
            self.next_number += 1
        self.peak = max(self.peak, self.buffer.stats().size)
        assert self.buffer.stats().added - before in (0, 1)

    def may_be_full(self) -> bool:
        """Nothing is dropped or spilled under `block`; and what consumers have claimed cannot be spilled either."""
        return "block" in self.kind or ("spill" in self.kind and bool(self.claims))

    @precondition(lambda self: not self.closed)
    @rule(rows=st.integers(0, 50))
    def add_batch(self, rows: int) -> None:
        before = self.buffer.stats().added
        try:
            self.buffer.add_batch(batch(self.next_number, self.next_number + rows))
        except Busy:
            assert self.may_be_full()
        added = self.buffer.stats().added - before
        assert added == rows or self.may_be_full()
        self.batched |= set(range(self.next_number, self.next_number + added))
        self.next_number += added
        self.peak = max(self.peak, self.buffer.stats().size)

    @rule(rows=st.one_of(st.none(), st.integers(1, 40)))
    def drain(self, rows: int | None) -> None:
        held = self.buffer.stats().size
        got = self.buffer.drain(rows)
        if got is None:
            assert held == 0
            return
        assert 0 < got.rows <= held
        self.follow(check(got.columns, self.batched), sum(got.dropped_before.values()))

    def follow(self, numbers: list[int], gap: int) -> None:
        self.expected += gap
        self.told += gap
        assert numbers == list(range(self.expected, self.expected + len(numbers)))
        self.expected += len(numbers)
        self.drained += len(numbers)

    @precondition(lambda self: self.kind.startswith("ring"))
    @rule(partial=st.booleans(), rows=st.one_of(st.none(), st.integers(1, 9)))
    def claim(self, partial: bool, rows: int | None) -> None:
        claimed = self.buffer.claim(partial=partial, max_rows=rows)
        if claimed is not None:
            numbers = check(claimed.columns, self.batched)
            self.follow(numbers, sum(claimed.dropped_before.values()))
            self.claims.append((claimed, numbers))

    @precondition(lambda self: self.claims)
    @rule(which=st.integers(0, 99))
    def release(self, which: int) -> None:
        claimed, numbers = self.claims.pop(which % len(self.claims))
        assert check(claimed.columns, self.batched) == numbers
        claimed.release()
        claimed.release()

    @rule(rows=st.integers(0, 60), drained=st.booleans())
    def latest(self, rows: int, drained: bool) -> None:
        size = self.buffer.stats().size
        numbers = check(self.buffer.latest(rows, include_drained=drained).columns, self.batched)
        assert numbers == sorted(set(numbers))
        if drained:
            assert len(numbers) >= min(rows, size)
        else:
            assert len(numbers) == min(rows, size)
            assert all(number >= self.expected for number in numbers)
        assert all(number < self.next_number for number in numbers)

    @rule(rows=st.integers(1, 60), drained=st.booleans(), seed=st.integers(0, 9))
    def sample(self, rows: int, drained: bool, seed: int) -> None:
        rng = np.random.default_rng(seed)
        readable = set(check(self.buffer.latest(10**6, include_drained=drained).columns, self.batched))
        if not readable:
            with pytest.raises(NotThere):
                self.buffer.sample(rows, rng, include_drained=drained)
            return
        numbers = check(self.buffer.sample(rows, rng, include_drained=drained).columns, self.batched)
        assert len(numbers) == rows
        assert set(numbers) <= readable

    @rule()
    def clear(self) -> None:
        self.buffer.clear()
        assert self.buffer.stats().size == 0
        assert self.buffer.drain() is None

    @precondition(lambda self: self.next_number > 60)
    @rule()
    def close(self) -> None:
        self.closed = True
        self.buffer.close()

    @invariant()
    def counts_agree(self) -> None:
        if not hasattr(self, "buffer"):
            return
        stats = self.buffer.stats()
        dropped = sum(stats.dropped.values())
        assert stats.added == self.next_number - 1
        assert stats.drained == self.drained
        assert stats.added == stats.drained + dropped + stats.size
        assert self.told <= dropped
        assert max(self.peak, stats.size) <= stats.high_water <= stats.added


@pytest.mark.parametrize("kind", KINDS)
def test_random_operations(kind: str) -> None:
    machine = type("Machine", (BufferMachine,), {"kind": kind})
    from hypothesis.stateful import run_state_machine_as_test

    run_state_machine_as_test(machine, settings=settings(max_examples=25, stateful_step_count=40, deadline=None))
