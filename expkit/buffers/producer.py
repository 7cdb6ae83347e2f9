"""The producing side of a ring: one Producer for each thread that adds rows."""

from __future__ import annotations

import platform
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from expkit.errors import BufferClosed, Busy, UsageError
from expkit.kernels import ring as words
from expkit.kernels.ring_add import next_block, producer_state
from expkit.schema import Field

if TYPE_CHECKING:
    from expkit.buffers.ring import BlockRing

# Processors that keep stores in order need no kernel to publish: there a plain 8-byte store is a release store.
_STORES_KEEP_ORDER = platform.machine().lower() in ("x86_64", "amd64", "i686", "i386")
_MAX_PLANS = 256
_RETRY_PAUSE = 0.00005


class _Plan(NamedTuple):
    """How rows of certain keys are written into a certain block.

    fields     number of keys, -1 if only some rows may have these keys: those with is_last
    targets    where values go, by key: memoryviews by row for scalars, else arrays or converters
    checks     (key, dtype, shape) of the arrays, into which NumPy would broadcast or cast other values silently
    marks      (column, value) of the validity of nullable fields among the keys, true, and of wide columns that the
               keys leave out, zero; narrow ones are zero already
    """

    fields: int
    targets: dict[str, Any]
    checks: list[tuple[str, np.dtype[Any], tuple[int, ...]]]
    marks: list[tuple[np.ndarray, int]]


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

    def __init__(self, ring: BlockRing):
        self._ring = ring
        self.state = producer_state(ring.layout.offsets, ring.layout.widths)
        self._control = memoryview(ring.control)  # type: ignore[arg-type]
        self._fields, self._targets, self._checks, self._marks = _Plan(-1, {}, [], [])
        self._plans: dict[tuple[int, tuple[str, ...]], _Plan] = {}
        self._zeroed = False  # whether the free rows of the open block are zero where a row may leave columns out
        self._one = np.zeros(1, np.int64)
        self._one_word = np.zeros(1, np.int64)
        self._follow_state()

    def _follow_state(self) -> None:
        """Copy the kernel's view of the open block to plain numbers, which are faster to reach from Python."""
        self._block, self._word, self._capacity = self.state[:3].tolist()
        self._fields, self._zeroed = -1, False
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

    @property
    def count_word(self) -> int:
        """Index in `ring.control` of the row count of the open block, -1 when there is none."""
        return int(self.state[words.P_WORD]) if self.block >= 0 else -1

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
            targets = self._targets
            # Memoryviews refuse what the type cannot hold, and take two thirds of the time of an array's element.
            for name, value in row.items():
                targets[name][at] = value
            for name, dtype, shape in self._checks:
                value = row[name]
                if value.shape != shape or (
                    value.dtype is not dtype and (value.dtype.kind != "f" or dtype.kind != "f")
                ):
                    raise TypeError
            if self._marks:
                for target, mark in self._marks:
                    target[at] = mark
        except (TypeError, ValueError, AttributeError, KeyError):
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
            targets, checks = {}, []
            for name in keys:
                targets[name], shape = self._target(name, views)
                if shape is not None:
                    checks.append((name, views[name].dtype, shape))
            marks = [(views[f"valid:{name}"], 1) for name in keys if f"valid:{name}" in views]
            marks += [(views[name], 0) for name in form.wide_defaults.difference(keys)]
            plan = _Plan(-1 if final_only else len(keys), targets, checks, marks)
            if len(self._plans) >= _MAX_PLANS:
                self._plans.clear()
            self._plans[self._block, keys] = plan
        self._fields, self._targets, self._checks, self._marks = plan

    def _target(self, name: str, views: dict[str, np.ndarray]) -> tuple[Any, tuple[int, ...] | None]:
        """Where values of this name go, and the shape of values that are to be checked."""
        column = self._ring.schema.column(name)
        field, view = column.field, views[name]
        if not column.items:
            if column.dtype.itemsize == 2 and column.dtype.kind == "f":
                return _HalfFloats(view), None
            return memoryview(view), None  # type: ignore[arg-type]
        assert field is not None  # all keys are scalars
        if column.packed:
            return _PackedBits(view, field), None
        return view.reshape(-1, *field.shape), field.shape

    def add_batch(self, columns: Mapping[str, Any]) -> None:
        """Add and publish rows block by block; see ExperienceBuffer.add_batch."""
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


class _HalfFloats:
    """A float16 column by row; memoryviews of half floats need Python 3.12."""

    __slots__ = ("_view",)

    def __init__(self, view: np.ndarray):
        self._view = view

    def __setitem__(self, at: int, value: Any) -> None:
        if not isinstance(value, (float, int, np.floating)):
            raise TypeError
        self._view[at] = value


class _PackedBits:
    """A column of packed bits by row: takes bool arrays of the field's shape, or the bytes as they are stored."""

    __slots__ = ("_full", "_items", "_shape", "_stored", "_view")

    def __init__(self, view: np.ndarray, field: Field):
        self._view, self._items = view, field.items
        self._shape, self._full, self._stored = field.shape, field.logical_shape, view.shape[1:]

    def __setitem__(self, at: int, value: Any) -> None:
        shape = value.shape
        if value.dtype == bool and (shape == self._shape or shape == self._full):
            self._view[at] = np.packbits(value.reshape(-1)[: self._items], None, "little")
        elif value.dtype == np.uint8 and shape == self._stored != self._shape:
            self._view[at] = value
        else:
            raise TypeError
