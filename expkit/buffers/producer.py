"""The producing side of a ring: one Producer for each thread that adds rows."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from expkit.buffers.rows import can_default, check_required, stored_columns
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

_Target = tuple[Any, Any, Any, Any, Callable[[Any], Any] | None]


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
        self._keys: tuple[str, ...] | None = None
        self._plan: list[_Target] = []
        self._plans: dict[tuple[int, tuple[str, ...]], list[_Target]] = {}
        self._final_only = False
        self._zeroed = -1  # block whose free rows are zero where a row may leave columns out
        self._one = np.zeros(1, np.int64)
        self._one_word = np.zeros(1, np.int64)
        self._follow_state()

    def _follow_state(self) -> None:
        """Copy the kernel's view of the open block to plain numbers, which are faster to reach from Python."""
        self._block, self._word, self._capacity = self.state[:3].tolist()
        self._plan, self._keys = [], None

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
        self._zeroed = -1
        if rows:
            self._ring.filled.ring()
        return rows

    def refuse(self, rows: int) -> None:
        """Count rows that found no room as dropped (cause drop-newest), in front of the next block."""
        words.refuse_rows(self._ring.control, self.state, rows)

    def close(self) -> None:
        """Hand over what is open."""
        self.hand_over()

    def _next(self, timeout: float | None) -> bool:
        """Hand over and claim a block, waiting as the policy says. False: no room."""
        ring = self._ring
        limit = ring.timeout if timeout is None else timeout
        deadline = time.monotonic() + limit
        self._zeroed = -1
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
        if at >= self._capacity or self._control[words.CLOSED]:
            if not self._make_room(1):
                return
            at = self._control[self._word]
        keys = tuple(row)
        if keys != self._keys or self._zeroed != self._block:
            self._prepare(keys, row, at)
        if self._final_only and not row.get("is_last"):
            check_required(self._ring.schema, keys, final_only=False)
        try:
            for (target, dtype, shape, valid, convert), value in zip(self._plan, row.values(), strict=True):
                # Scalars go through memoryviews, which refuse what the type cannot hold and are twice as fast as
                # assigning to an element of an array.
                if dtype is None or (value.dtype == dtype and value.shape == shape):
                    target[at] = value
                elif convert is not None:
                    target[at] = convert(value)
                else:
                    raise TypeError
                if valid is not None:
                    valid[at] = True
        except (TypeError, ValueError, AttributeError):
            self._add_carefully(row, at)
        self.publish(at + 1)

    def _add_carefully(self, row: Mapping[str, Any], at: int) -> None:
        """Write row `at` through Schema.pack, which converts or says what is wrong."""
        views = self._ring.views(self._block)
        for column in self._ring.layout.columns:
            if can_default(column):
                views[column.name][at] = 0
        one = {name: np.asarray(value)[None] for name, value in row.items() if value is not None}
        _, stored = stored_columns(self._ring.schema, one)
        for name, array in stored.items():
            views[name][at] = array[0]

    def _prepare(self, keys: tuple[str, ...], row: Mapping[str, Any], at: int) -> None:
        """Plan how rows of these keys are written into the open block."""
        views = self._ring.views(self._block)
        if self._zeroed != self._block:
            for column in self._ring.layout.columns:
                if can_default(column):
                    views[column.name][at:] = 0
            self._zeroed = self._block
        plan = self._plans.get((self._block, keys))
        missing = [f for f in self._ring.schema.fields if f.name not in keys and not f.nullable]
        final_only = bool(missing)
        check_required(self._ring.schema, keys, final_only=final_only and bool(row.get("is_last")))
        if plan is None:
            plan = [self._target(name, views) for name in keys]
            if len(self._plans) >= _MAX_PLANS:
                self._plans.clear()
            self._plans[self._block, keys] = plan
        self._keys, self._plan, self._final_only = keys, plan, final_only

    def _target(self, name: str, views: dict[str, np.ndarray]) -> _Target:
        """Where a value of this name goes: the view by row, the dtype it must have (None for a scalar), its shape,
        the validity column if there is one, and what converts values that do not fit as they are."""
        column = self._ring.schema.column(name)
        field, view = column.field, views[name]
        valid = None
        if field is not None and field.nullable:
            valid = memoryview(views[f"valid:{name}"])  # type: ignore[arg-type]
        if not column.items:
            if column.dtype.itemsize == 2 and column.dtype.kind == "f":
                return view, column.dtype, (), valid, None  # memoryviews of half floats need Python 3.12
            return memoryview(view), None, None, valid, None  # type: ignore[arg-type]
        if field is None:
            return view, column.dtype, (column.items,), valid, None
        if column.packed:
            stored = (column.items,)
            return view, column.dtype, None if field.shape == stored else stored, valid, _bit_packer(field)
        shaped = view.reshape(-1, *field.shape)
        return shaped, column.dtype, field.shape, valid, _float_caster(field) if field.dtype[0] == "f" else None

    def add_batch(self, columns: Mapping[str, Any]) -> None:
        """Add and publish rows block by block; see ExperienceBuffer.add_batch."""
        rows, stored = stored_columns(self._ring.schema, columns)
        done = 0
        while done < rows:
            at = self._control[self._word]
            if at >= self._capacity or self._control[words.CLOSED]:
                if not self._make_room(rows - done):
                    return
                at = self._control[self._word]
            count = min(rows - done, self._capacity - at)
            for name, view in self._ring.views(self._block).items():
                array = stored.get(name)
                if array is None:
                    view[at : at + count] = 0
                else:
                    view[at : at + count] = array[done : done + count]
            self.publish(at + count)
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


def _bit_packer(field: Field) -> Callable[[Any], Any]:
    shapes, items = (field.shape, field.logical_shape), field.items

    def pack(value: Any) -> Any:
        if value.dtype != bool or value.shape not in shapes:
            raise TypeError
        return np.packbits(value.reshape(-1)[:items], None, "little")

    return pack


def _float_caster(field: Field) -> Callable[[Any], Any]:
    def cast(value: Any) -> Any:
        if value.dtype.kind != "f" or value.shape != field.shape:
            raise TypeError
        return value

    return cast
