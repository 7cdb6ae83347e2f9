"""BlockRing: the buffer the collector fills, a lock-free ring of fixed blocks of one player's rows."""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from expkit.buffers.claim import Claimed, concatenate
from expkit.buffers.producer import Producer
from expkit.buffers.protocol import CAUSES, OVERFLOWS, Batch, BufferStats, ExperienceBuffer, causes_of
from expkit.buffers.rows import RowForm
from expkit.buffers.snapshot import Choice, copy_rows, copy_spilled
from expkit.buffers.waiting import Doorbell
from expkit.errors import Busy, NotThere, UsageError
from expkit.kernels import ring as words
from expkit.layout import BlockLayout, aligned_empty

if TYPE_CHECKING:
    from expkit.buffers.spill import SpillBuffer

_POLICIES = {"block": 0, "drop-oldest": 1, "drop-newest": 2, "spill": 3}
_ALL = 1 << 62
_STUCK_SECONDS = 10.0
_PAUSE = 0.00005


def control_words(blocks: int) -> int:
    """Number of int64 control words of a ring of `blocks` blocks, a multiple of a cache line."""
    return -(-(words.HEADER + words.BLOCK_WORDS * blocks + _queue_slots(blocks)) // 8) * 8


def _queue_slots(blocks: int) -> int:
    return 1 << (blocks - 1).bit_length()  # a power of two, so that tickets may wrap


class BlockRing(ExperienceBuffer):
    """A ring of `blocks` blocks of one player's rows, struct of arrays, in one arena.

    overflow   what happens to a new row when no block is free: wait (`block`), discard the oldest full block
               (`drop-oldest`), refuse the row (`drop-newest`), or move the oldest full block to disk (`spill`, which
               needs the buffer `spill`)
    memory     uint8 arena that holds the blocks from byte `offset` on (a multiple of 64); its own if None
    control    zeroed int64 words, `control_words(blocks)` of them; its own if None
    timeout    seconds that `add` waits under `block` before it raises Busy
    attach     `memory` and `control` are those of a ring that another process made, with the same layout and overflow:
               each side has a BlockRing of its own over them; not with `spill`
    generation where generations, tickets and sequence numbers start; they wrap at 2**63
    filled, freed  doorbells rung when a block is handed over or released; rings may share them

    `add` and `add_batch` share one producer behind a lock. Threads with rows of their own take a `producer()` each.
    """

    def __init__(
        self,
        layout: BlockLayout,
        blocks: int,
        *,
        overflow: str = "block",
        memory: np.ndarray | None = None,
        offset: int = 0,
        control: np.ndarray | None = None,
        player: int = 0,
        timeout: float = 60.0,
        spill: SpillBuffer | None = None,
        attach: bool = False,
        generation: int = 0,
        filled: Doorbell | None = None,
        freed: Doorbell | None = None,
    ):
        if overflow not in OVERFLOWS:
            raise UsageError(f"overflow policy {overflow!r} is not one of {', '.join(OVERFLOWS)}")
        if blocks < 1 or layout.rows < 1:
            raise UsageError(f"a ring needs at least one block of one row, not {blocks} of {layout.rows}")
        if attach and (memory is None or control is None or spill is not None):
            raise UsageError("to attach to a ring takes its memory and its control words, and no spill buffer")
        if (overflow == "spill") != (spill is not None):
            raise UsageError("overflow 'spill' and a spill buffer go together; give both or neither")
        self.schema, self.layout, self.blocks = layout.schema, layout, blocks
        self.overflow, self.player, self.timeout = overflow, player, timeout
        self.memory = aligned_empty(layout.nbytes * blocks) if memory is None else memory
        self.control = aligned_empty(8 * control_words(blocks)).view(np.int64) if control is None else control
        if offset % 64 or len(self.memory) < offset + layout.nbytes * blocks:
            raise UsageError(f"{blocks} blocks of {layout.nbytes} bytes do not fit the arena at byte {offset}")
        if len(self.control) < control_words(blocks):
            raise UsageError(f"a ring of {blocks} blocks needs {control_words(blocks)} control words")
        self.form = RowForm(self.schema)
        self._producers: weakref.WeakSet[Producer] = weakref.WeakSet()
        self.filled = filled or Doorbell()
        self.freed = freed or Doorbell()
        self._spill = spill
        self._sequence = generation
        self._high_water = 0
        self._take_lock = threading.Lock()
        self._add_lock = threading.Lock()
        self._views: dict[int, dict[str, np.ndarray]] = {}
        if attach:
            self._check_same(offset)
        else:
            self._initialise(offset, generation)
        self._default = self.producer()

    def _initialise(self, offset: int, generation: int) -> None:
        control, slots = self.control, _queue_slots(self.blocks)
        control[: control_words(self.blocks)] = 0
        control[[words.HEAD, words.TAIL, words.SEQUENCE]] = generation
        control[words.BLOCKS], control[words.BLOCK_ROWS] = self.blocks, self.layout.rows
        control[words.BLOCK_BYTES], control[words.ARENA] = self.layout.nbytes, offset
        control[words.QUEUE], control[words.QUEUE_MASK] = (
            words.HEADER + words.BLOCK_WORDS * self.blocks,
            slots - 1,
        )
        control[words.POLICY] = _POLICIES[self.overflow]
        for block in range(self.blocks):
            control[words.HEADER + words.BLOCK_WORDS * block + words.GENERATION] = generation

    def _check_same(self, offset: int) -> None:
        mine = (self.blocks, self.layout.rows, self.layout.nbytes, offset, _POLICIES[self.overflow])
        there = self.control[[words.BLOCKS, words.BLOCK_ROWS, words.BLOCK_BYTES, words.ARENA, words.POLICY]]
        if tuple(there.tolist()) != mine:
            names = "blocks, rows and bytes of a block, offset and policy"
            raise UsageError(f"the ring to attach to has {names} {there.tolist()}, not {list(mine)}")

    # Producing

    def producer(self) -> Producer:
        """A producer for one more thread. Each keeps a block open, so a ring needs more blocks than producers."""
        producer = Producer(self)
        self._producers.add(producer)
        return producer

    def views(self, block: int) -> dict[str, np.ndarray]:
        """Typed views of all rows of a block."""
        views = self._views.get(block)
        if views is None:
            start = int(self.control[words.ARENA]) + block * self.layout.nbytes
            views = self.layout.views(self.memory[start : start + self.layout.nbytes])
            self._views[block] = views
        return views

    def add(self, row: Mapping[str, Any]) -> None:
        with self._add_lock:
            self._default.add(row)

    def add_batch(self, columns: Mapping[str, Any]) -> None:
        with self._add_lock:
            self._default.add_batch(columns)

    def may_have_room(self) -> bool:
        """Whether it is worth asking for a block: one is free, or full and may be dropped, or the ring is closed."""
        if self.closed or (self.overflow == "drop-oldest" and self.full_blocks > 0):
            return True
        states = self.control[words.HEADER + words.STATE :: words.BLOCK_WORDS][: self.blocks]
        return bool((states == words.FREE).any())

    # Consuming

    def claim(self, *, partial: bool = False, max_rows: int | None = None) -> Claimed | None:
        """The undrained rows of the oldest full block, in place; None when there is none.

        With `partial`, when no block is full, also the published rows of a block that is still filling, without
        disturbing its producer: so repeated partial claims flush everything. Several threads may claim at a time.
        """
        return self._claim(_ALL if max_rows is None else max_rows, partial, False)

    def _claim(self, max_rows: int, partial: bool, stop_at_gap: bool) -> Claimed | None:
        if self._spill is None:
            return self._claim_block(max_rows, partial, stop_at_gap)
        with self._take_lock:
            self._note_high_water()
            claim = self._spill.claim(max_rows, stop_at_gap)
            if claim is None:
                if self._spill.size or (stop_at_gap and self._spill.gap_ahead):
                    return None
                claim = self._claim_block(max_rows, partial, stop_at_gap)
                if claim is None:
                    return None
                for cause, rows in self._spill.take_gap().items():
                    claim.dropped_before[cause] = claim.dropped_before.get(cause, 0) + rows
            # Rows that went by the disk were numbered before; a consumer's numbers have no holes.
            claim.sequence, self._sequence = self._sequence, self._sequence + 1
            claim.player = self.player
            return claim

    def _claim_block(self, max_rows: int, partial: bool, stop_at_gap: bool) -> Claimed | None:
        out = np.zeros(words.TAKE_OUT, np.int64)
        code = self.until_unlocked(lambda: words.take(self.control, out, max_rows, partial, stop_at_gap))
        if code != words.DONE:
            return None
        block, start, stop, sequence, _, whole, offset, _, *gap = out.tolist()[:12]
        return Claimed(
            self.player,
            sequence,
            self.layout,
            self.memory,
            offset,
            start,
            stop - start,
            bool(whole),
            causes_of(gap),
            lambda: self._release(block),
        )

    def _release(self, block: int) -> None:
        self.until_unlocked(lambda: words.release_block(self.control, block))
        self.freed.ring()

    def until_unlocked(self, call: Callable[[], int]) -> int:
        """Repeat a kernel call while another thread is in the middle of a take or hand-over. Raises Busy after 10 s,
        when that thread must have died in another process."""
        code = call()
        if code == words.LOCKED:
            deadline = time.monotonic() + _STUCK_SECONDS
            while (code := call()) == words.LOCKED:
                if time.monotonic() > deadline:
                    raise Busy(f"ring of player {self.player} is locked for {_STUCK_SECONDS:g} s; its holder died")
                time.sleep(_PAUSE)
        return int(code)

    @property
    def full_blocks(self) -> int:
        """Blocks handed over and not yet claimed."""
        waiting = (int(self.control[words.HEAD]) - int(self.control[words.TAIL])) % (1 << 64)  # tickets wrap
        return waiting if waiting <= self.blocks else 0  # read one after the other, they may have crossed

    def wait_full(self, timeout: float | None = None) -> bool:
        """Wait until a full block can be claimed, the ring is closed, or `timeout` seconds are over. Returns whether
        there is a full block."""
        self.filled.wait_for(lambda: self.full_blocks > 0 or self.closed, timeout)
        return self.full_blocks > 0

    def drain(self, max_rows: int | None = None) -> Batch | None:
        left = _ALL if max_rows is None else max_rows
        claims: list[Claimed] = []
        try:
            while left > 0:
                claim = self._claim(left, True, bool(claims))
                if claim is None:
                    break
                claims.append(claim)
                left -= claim.rows
            return concatenate(claims) if claims else None
        finally:
            for claim in claims:
                claim.release()

    # Closing and counting

    @property
    def closed(self) -> bool:
        return bool(self.control[words.CLOSED])

    def clear(self) -> None:
        with self._take_lock:
            self._note_high_water()
            if self._spill is not None:
                self._spill.clear()
            self.until_unlocked(lambda: words.clear_ring(self.control))
        self.freed.ring()

    def close(self) -> None:
        self.control[words.CLOSED] = 1
        for producer in list(self._producers):
            producer.stop()
        self.filled.ring()
        self.freed.ring()

    def spill_oldest(self) -> bool:
        """Move the oldest full block to disk. False if there is none, or no disk to move it to."""
        if self._spill is None:
            return False
        with self._take_lock:
            claim = self._claim_block(_ALL, False, False)
            if claim is None:
                return False
            with claim:
                self._spill.put(claim)
        return True

    def latest(self, rows: int, *, include_drained: bool = False) -> Batch:
        def newest(held: int) -> np.ndarray:
            return np.arange(max(0, held - rows), held)

        return self._copy(newest, include_drained)

    def sample(self, count: int, rng: np.random.Generator, *, include_drained: bool = False) -> Batch:
        def uniform(held: int) -> np.ndarray:
            if held == 0:
                raise NotThere(f"the buffer of player {self.player} is empty; nothing to sample")
            # Half the time of rng.integers, and no further from uniform than held / 2**53.
            return (rng.random(count) * held).astype(np.int64)

        return self._copy(uniform, include_drained)

    def _copy(self, choose: Choice, include_drained: bool) -> Batch:
        if self._spill is None:
            columns = copy_rows(self, choose, include_drained)
        else:
            with self._take_lock:
                columns = copy_spilled(self, self._spill, choose, include_drained)
        return Batch(self.player, len(columns["step"]), columns)

    def stats(self) -> BufferStats:
        counts = np.zeros(9, np.int64)
        with self._take_lock:
            self.until_unlocked(lambda: words.ring_counts(self.control, counts))
            held, added, drained, *dropped, high_water, _ = counts.tolist()
            if self._spill is not None:
                # What went to disk left the ring as if drained, and came back from there or has yet to.
                disk = self._spill.stats()
                held += disk.size
                drained += disk.drained - disk.added
                dropped = [count + disk.dropped[cause] for cause, count in zip(CAUSES, dropped, strict=True)]
                self._high_water = high_water = max(self._high_water, held)
        return BufferStats(
            size=held,
            capacity=self.blocks * self.layout.rows,
            high_water=high_water,
            added=added,
            drained=drained,
            dropped=dict(zip(CAUSES, dropped, strict=True)),
        )

    def _note_high_water(self) -> None:
        """Remember the most rows ever held, disk included; called before rows leave."""
        if self._spill is not None:
            counts = np.zeros(9, np.int64)
            self.until_unlocked(lambda: words.ring_counts(self.control, counts))
            self._high_water = max(self._high_water, int(counts[0]) + self._spill.size)
