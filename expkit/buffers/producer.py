"""The producing side of a ring: one Producer for each thread that adds rows."""

from __future__ import annotations

import platform
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from expkit.buffers.blocks import RingBlocks
from expkit.buffers.row_writer import UNFIT, RowWriter, compile_batch_writer, compile_writer
from expkit.errors import BufferClosed, Busy, UsageError
from expkit.kernels import ring as words
from expkit.kernels.ring_add import next_block, producer_state

# Processors that keep stores in order need no kernel to publish: there a plain 8-byte store is a release store.
_STORES_KEEP_ORDER = platform.machine().lower() in ("x86_64", "amd64", "i686", "i386")
_MAX_PLANS = 256
_RETRY_PAUSE = 0.00005


class _Plan(NamedTuple):
    """How rows of certain keys are written into a certain block: `fields` is the number of keys, -1 if only some rows
    may have these keys: those with is_last."""

    fields: int
    write: RowWriter


@dataclass(frozen=True, slots=True)
class OpenBlock:
    """A block to write rows into: rows [position, capacity) are free.

    block     its index in the ring
    offset    byte offset of the block in the arena; column c starts at offset + layout.offsets[c]
    """

    block: int
    offset: int
    position: int
    capacity: int


class Producer:
    """Writes rows into one open block of a ring at a time. Not for several threads at once; each has its own.

    Two ways to write from Python: `add` and `add_batch`; or `open`, write rows in place (a game, through a RowSink),
    `publish` the count, and so on. Kernels call `ring_add` with `state`; after that, `open` before `add` again.
    """

    def __init__(self, ring: RingBlocks):
        self._ring = ring
        self.state = producer_state(ring.layout.offsets, ring.layout.widths)
        self._control = memoryview(ring.control)  # type: ignore[arg-type]
        self._fields, self._write = -1, compile_writer({}, {}, ())
        self._batch: _Plan | None = None  # of the open block, for batches as the one before
        self._batch_plans: dict[tuple[int, tuple[str, ...]], _Plan] = {}
        self._plans: dict[tuple[int, tuple[str, ...]], _Plan] = {}
        self._zeroed = False  # whether the free rows of the open block are zero where a row may leave columns out
        self._one = np.zeros(1, np.int64)
        self._one_word = np.zeros(1, np.int64)
        self._follow_state()

    def _follow_state(self) -> None:
        """Copy the kernel's view of the open block to plain numbers, which are faster to reach from Python."""
        self._block, self._word, self._capacity = self.state[:3].tolist()
        self._fields, self._batch, self._zeroed = -1, None, False
        if self._control[words.CLOSED]:
            self.stop()

    def stop(self) -> None:
        """Have the next add, also one in a kernel, look whether the ring is closed; called by the ring that closes.
        A kernel that opens a block at this very moment misses it and looks again when that block is full."""
        self._capacity = 0
        self.state[words.P_CAPACITY] = 0

    @property
    def block(self) -> int:
        """Index of the open block, -1 when there is none."""
        return int(self.state[words.P_BLOCK])

    def open(self, need_rows: int = 1, timeout: float | None = None) -> OpenBlock | None:
        """The open block if it has room for `need_rows` rows; otherwise it is handed over and another one claimed.

        Waits up to `timeout` seconds (None: the ring's own timeout) for a free block, but not under `drop-newest`.
        Under `drop-oldest` that happens only when consumers hold all blocks, so that none can be dropped. None means
        that there is no room: the time is over, or the policy refuses new rows. The caller then counts the rows it
        throws away with `refuse`. Raises BufferClosed; UsageError if no block holds `need_rows`.
        """
        ring = self._ring
        if need_rows > ring.layout.rows:
            raise UsageError(f"{need_rows} rows do not fit a block of {ring.layout.rows}; use larger blocks")
        if ring.closed:
            raise BufferClosed("this ring is closed; rows can only be drained from it")
        if self._block != self.state[words.P_BLOCK]:
            self._follow_state()
        position = self._control[self._word] if self._block >= 0 else 0
        if (self._block < 0 or position + need_rows > self._capacity) and not self._next(timeout):
            return None
        position = self._control[self._word]
        return OpenBlock(self._block, int(self.state[words.P_OFFSET]), position, self._capacity)

    def publish(self, rows: int) -> None:
        """Let others see the first `rows` rows of the open block, which are written and stay as they are."""
        if _STORES_KEEP_ORDER:
            self._control[self._word] = rows
        else:
            self._one_word[0], self._one[0] = self._word, rows
            words.publish_rows(self._ring.control, self._one_word, self._one)

    def hand_over(self) -> int:
        """Queue the open block, full or not, for the consumers. Returns its rows; 0 if none is open."""
        rows = int(words.hand_over_block(self._ring.control, self.state))
        self._follow_state()
        if rows:
            self._ring.filled.ring()
        return rows

    def refuse(self, rows: int) -> None:
        """Count rows that found no room as dropped (cause drop-newest), in front of the next block."""
        words.refuse_rows(self._ring.control, self.state, rows)

    def wait_for_room(self, timeout: float | None = None) -> bool:
        """To be called when a kernel stopped at WAIT: spill a block, or wait up to `timeout` seconds (None: the
        ring's own timeout) until there may be room or the ring is closed. False when the time is over.

        It also wakes the consumers, which blocks handed over in kernels cannot do.
        """
        ring = self._ring
        ring.filled.ring()
        return ring.spill_oldest() or ring.freed.wait_for(
            ring.may_have_room, ring.timeout if timeout is None else timeout
        )

    def close(self) -> None:
        """Hand over what is open."""
        self.hand_over()

    def _next(self, timeout: float | None) -> bool:
        """Hand over and claim a block, waiting as the policy says. False: no room."""
        ring = self._ring
        limit = ring.timeout if timeout is None else timeout
        deadline = time.monotonic() + limit
        while True:
            # The first round hands over; later ones find nothing open and only claim.
            handing = self.state[words.P_BLOCK] >= 0
            code = next_block(ring.control, self.state)
            self._follow_state()
            if handing:
                ring.filled.ring()
            if code == words.DONE:
                return True
            if code == words.RING_CLOSED:
                raise BufferClosed("this ring is closed; rows can only be drained from it")
            if code == words.NO_ROOM and ring.overflow == "drop-newest":
                return False
            if code == words.WAIT and ring.spill_oldest():
                continue
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            if code == words.LOCKED:
                time.sleep(_RETRY_PAUSE)
            else:
                ring.freed.wait_for(ring.may_have_room, left)

    def add(self, row: Mapping[str, Any]) -> None:
        """Add and publish one row; see ExperienceBuffer.add."""
        at = self._control[self._word]
        if at >= self._capacity:
            if not self._make_room(1):
                return
            at = self._control[self._word]
        if len(row) != self._fields:
            self._prepare(row)
        try:
            self._write(row, at)
        except UNFIT:
            self._add_carefully(row, at)
        if _STORES_KEEP_ORDER:
            self._control[self._word] = at + 1
        else:
            self.publish(at + 1)

    def _add_carefully(self, row: Mapping[str, Any], at: int) -> None:
        """Write row `at` through Schema.pack, which converts or says what is wrong."""
        self._fields = -1  # as many keys perhaps, but others
        views, form = self._ring.views(self._block), self._ring.form
        for name in form.narrow_defaults | form.wide_defaults:
            views[name][at] = 0
        one = {name: np.asarray(value)[None] for name, value in row.items() if value is not None}
        _, stored = form.stored(one)
        for name, array in stored.items():
            views[name][at] = array[0]

    def _zero(self) -> dict[str, np.ndarray]:
        """Views of the open block, whose free rows are zero from now on where a row may leave narrow columns out."""
        views = self._ring.views(self._block)
        if not self._zeroed:
            at = self._control[self._word]
            for name in self._ring.form.narrow_defaults:
                views[name][at:] = 0
            self._zeroed = True
        return views

    def _prepare(self, row: Mapping[str, Any]) -> None:
        """Plan how rows with these keys are written into the open block."""
        keys, form = tuple(row), self._ring.form
        views = self._zero()
        final_only = not form.required <= row.keys()
        form.check_required(row, final_only=final_only and bool(row.get("is_last")))
        plan = self._plans.get((self._block, keys))
        if plan is None:
            marks = [(f"valid:{name}", 1) for name in keys if f"valid:{name}" in views]
            marks += [(name, 0) for name in form.wide_defaults.difference(keys)]  # narrow ones are zero already
            write = compile_writer(form.columns, views, [self._known(name) for name in keys], marks=marks)
            plan = _Plan(-1 if final_only else len(keys), write)
            if len(self._plans) >= _MAX_PLANS:
                self._plans.clear()
            self._plans[self._block, keys] = plan
        self._fields, self._write = plan

    def _known(self, name: str) -> str:
        """The name of a stored column. Raises SchemaError."""
        return self._ring.schema.column(name).name

    def add_batch(self, columns: Mapping[str, Any]) -> None:
        """Add and publish rows block by block; see ExperienceBuffer.add_batch."""
        plan = self._batch
        if plan is not None and len(columns) == plan.fields:
            at = self._control[self._word]
            try:
                stop = at + len(next(iter(columns.values())))
                if stop <= self._capacity:
                    plan.write(columns, at, stop)
                    self.publish(stop)
                    return
            except UNFIT:
                self._batch = None
        self._add_batch_carefully(columns)

    def _add_batch_carefully(self, columns: Mapping[str, Any]) -> None:
        """Convert what is not as it is stored, or say what is wrong; cut what does not fit the open block."""
        form = self._ring.form
        rows, stored = form.stored(columns)
        done = 0
        while done < rows:
            at = self._control[self._word]
            if at >= self._capacity:
                if not self._make_room(rows - done):
                    return
                at = self._control[self._word]
            count = min(rows - done, self._capacity - at)
            views, stop = self._zero(), at + count
            for name, array in stored.items():
                views[name][at:stop] = array if count == rows else array[done : done + count]
            for name in form.wide_defaults:
                if name not in stored:
                    views[name][at:stop] = 0
            self.publish(stop)
            done += count
        if rows and form.required <= columns.keys():
            self._batch = self._plan_batch(tuple(columns))

    def _plan_batch(self, names: tuple[str, ...]) -> _Plan:
        """How batches of these columns, as they are stored, go into the open block; narrow columns left out are zero
        there already."""
        plan = self._batch_plans.get((self._block, names))
        if plan is None:
            form, views = self._ring.form, self._ring.views(self._block)
            marks = [
                (f"valid:{name}", 1) for name in names if f"valid:{name}" in views and f"valid:{name}" not in names
            ]
            marks += [(name, 0) for name in form.wide_defaults.difference(names)]
            plan = _Plan(len(names), compile_batch_writer(form.columns, views, names, marks))
            if len(self._batch_plans) >= _MAX_PLANS:
                self._batch_plans.clear()
            self._batch_plans[self._block, names] = plan
        return plan

    def _make_room(self, rows: int) -> bool:
        """Open the next block, or count `rows` as refused and return False. Raises Busy when waiting was in vain."""
        if self._ring.closed:
            raise BufferClosed("this ring is closed; rows can only be drained from it")
        if self._block != self.state[words.P_BLOCK]:
            self._follow_state()
            if self._block >= 0 and self._control[self._word] < self._capacity:
                return True
        # A dropping policy promises not to wait, not even when consumers hold all blocks.
        if self._next(0.0 if self._ring.overflow == "drop-oldest" else None):
            return True
        if self._ring.overflow in ("block", "spill"):
            raise Busy(f"ring of player {self._ring.player} stayed full for {self._ring.timeout:g} s; drain it")
        self.refuse(rows)
        return False
