"""The ring of blocks: its control words, and the kernels that move blocks round.

One int64 array holds all control words of a ring, one uint8 arena the rows. A block goes free -> opening -> filling
-> full -> claimed -> free. Producers meet consumers in three words only, without a lock: the published row count of
the block they fill (release store), the state of a free block (compare and swap), and the ticket of a hand-over
(atomic add), which is the block's place in a queue of full blocks. The taking end (claim, flush, drop-oldest, clear)
is serialised by one word held for some hundred nanoseconds, because a gap must be reported exactly in front of the
rows that follow it; a producer touches that word only when its ring overflows. Tickets and generations wrap.
"""

from __future__ import annotations

from expkit.kernels import kernel
from expkit.kernels.atomics import (
    atomic_add,
    compare_and_swap,
    fence_acquire,
    load_acquire,
    store_release,
)

# Words of the ring. What different threads write lies 8 words, a cache line, apart.
TAKE_LOCK = 0
HEAD = 8  # ticket of the next hand-over
TAIL = 16  # ticket of the next block to take
SEQUENCE = 17  # number of the next batch taken
DRAINED = 18  # rows given to consumers
DROPPED_OLDEST = 19
DROPPED_CLEARED = 20
DROPPED_SPILL = 21
HIGH_WATER = 22
RETIRED = 23  # rows of all blocks that left the queue
GAP = 24  # rows dropped since the last take: 24 oldest, 25 newest, 26 cleared, 27 spill
CLOSED = 32
BLOCKS = 33
BLOCK_ROWS = 34
BLOCK_BYTES = 35
ARENA = 36  # byte offset of block 0 in the arena
QUEUE = 37  # word of the first queue slot
QUEUE_MASK = 38
POLICY = 39
DROPPED_NEWEST = 40
ROTOR = 48  # where to look for a free block first
HEADER = 56

# Words of a block, 16 of them from HEADER + 16 * block; the count has a cache line of its own.
COUNT = 0  # rows published, written by the producer alone
STATE = 8
GENERATION = 9  # how often the block was opened
TAKEN = 10  # rows given to consumers, always the first ones
HOLDS = 11  # batches taken from it and not yet released
BLOCK_GAP = 12  # rows refused in front of it
FLOOR = 13  # first row that clear() left readable
TICKET = 14
BLOCK_WORDS = 16

FREE, OPENING, FILLING, FULL, CLAIMED = 0, 1, 2, 3, 4
POLICY_BLOCK, POLICY_OLDEST, POLICY_NEWEST, POLICY_SPILL = 0, 1, 2, 3

# What the kernels answer.
DONE = 1
NO_ROOM = 0  # the policy refuses new rows
WAIT = -1  # no free block yet
RING_CLOSED = -2
LOCKED = -3  # somebody is in the middle of a hand-over or a take; call again
NOTHING = -4
GAP_AHEAD = -5

# Words of a producer's state. The tables that `ring_add` walks follow (kernels/ring_add.py).
P_BLOCK = 0  # open block, -1 for none
P_WORD = 1  # control word of its count; CLOSED (0 rows of capacity 0) for none
P_CAPACITY = 2
P_GAP = 3  # rows refused since the last block was opened
P_OFFSET = 4  # byte offset of the open block in the arena
PRODUCER_WORDS = 8

TAKE_OUT = 16  # words that `take` fills: block, start, stop, sequence, generation, full, offset, -, gaps by cause
_SPINS = 20_000


def control_kernel(function):
    """A kernel of some hundred nanoseconds that Python calls between others: it keeps the GIL, for to get it back
    beside a busy loop takes 5 ms. What waits in one gives up after a moment."""
    return kernel(function, nogil=False, _nrt=False)


@kernel(_nrt=False)
def _lock(ctl):
    spins = _SPINS
    while spins > 0 and not compare_and_swap(ctl, TAKE_LOCK, 0, 1):
        spins -= 1
    return spins > 0


@kernel(_nrt=False)
def _unlock(ctl):
    store_release(ctl, TAKE_LOCK, 0)


@kernel(_nrt=False)
def _held(ctl):
    """Rows published and not taken; under the lock. Only taking makes it smaller, so its peak is seen here."""
    held = 0
    for block in range(ctl[BLOCKS]):
        at = HEADER + BLOCK_WORDS * block
        state = load_acquire(ctl, at + STATE)
        if state in (FILLING, FULL):
            held += load_acquire(ctl, at + COUNT) - ctl[at + TAKEN]
    if held > ctl[HIGH_WATER]:
        ctl[HIGH_WATER] = held
    return held


@kernel(_nrt=False)
def _oldest(ctl):
    """The oldest full block, -1 for none; under the lock. Fully flushed blocks are retired on the way."""
    while True:
        tail = ctl[TAIL]
        if load_acquire(ctl, HEAD) == tail:
            return -1
        block = load_acquire(ctl, ctl[QUEUE] + (tail & ctl[QUEUE_MASK])) - 1
        if block < 0:
            return -1  # its producer has the ticket but has not yet written the slot
        at = HEADER + BLOCK_WORDS * block
        if ctl[at + TAKEN] < load_acquire(ctl, at + COUNT):
            return block
        _retire(ctl, block, CLAIMED if ctl[at + HOLDS] > 0 else FREE)


@kernel(_nrt=False)
def _retire(ctl, block, state):
    """Take the oldest full block out of the queue, into `state`; under the lock."""
    at = HEADER + BLOCK_WORDS * block
    tail = ctl[TAIL]
    store_release(ctl, ctl[QUEUE] + (tail & ctl[QUEUE_MASK]), 0)
    ctl[TAIL] = tail + 1
    ctl[RETIRED] += load_acquire(ctl, at + COUNT)
    store_release(ctl, at + STATE, state)


@kernel(_nrt=False)
def _drop(ctl, block, cause):
    """Drop what is left of the oldest full block; under the lock. True when the block is OPENING for the caller,
    false when a consumer still reads part of it."""
    at = HEADER + BLOCK_WORDS * block
    rows = load_acquire(ctl, at + COUNT) - ctl[at + TAKEN]
    ctl[DROPPED_OLDEST + cause] += rows
    ctl[GAP + (2 if cause == 1 else 0)] += rows
    ctl[GAP + 1] += ctl[at + BLOCK_GAP]
    ctl[at + BLOCK_GAP] = 0
    alone = ctl[at + HOLDS] == 0
    _retire(ctl, block, OPENING if alone else CLAIMED)
    ctl[at + TAKEN] = 0
    store_release(ctl, at + COUNT, 0)
    return alone


@control_kernel
def open_block(ctl, producer):
    """Claim a block for `producer`, which has none open, by the ring's overflow policy.

    Returns DONE, NO_ROOM, WAIT, RING_CLOSED or LOCKED.
    """
    if load_acquire(ctl, CLOSED) != 0:
        return RING_CLOSED
    blocks = ctl[BLOCKS]
    start = load_acquire(ctl, ROTOR)
    block = -1
    for step in range(blocks):
        candidate = (start + step) % blocks
        word = HEADER + BLOCK_WORDS * candidate + STATE
        if load_acquire(ctl, word) == FREE and compare_and_swap(ctl, word, FREE, OPENING):
            block = candidate
            break
    if block < 0:
        if ctl[POLICY] == POLICY_NEWEST:
            return NO_ROOM
        if ctl[POLICY] != POLICY_OLDEST:
            return WAIT
        if not _lock(ctl):
            return LOCKED
        _held(ctl)
        while True:
            block = _oldest(ctl)
            if block < 0 or _drop(ctl, block, 0):
                break
        in_flight = load_acquire(ctl, HEAD) != ctl[TAIL]
        _unlock(ctl)
        if block < 0:
            return LOCKED if in_flight else NO_ROOM
    at = HEADER + BLOCK_WORDS * block
    # The generation moves before any row is overwritten: who copied old rows sees it and copies again.
    atomic_add(ctl, at + GENERATION, 1)
    store_release(ctl, ROTOR, (block + 1) % blocks)
    store_release(ctl, at + COUNT, 0)
    ctl[at + TAKEN] = 0
    ctl[at + FLOOR] = 0
    ctl[at + BLOCK_GAP] = producer[P_GAP]
    store_release(ctl, at + STATE, FILLING)
    producer[P_GAP] = 0
    producer[P_BLOCK] = block
    producer[P_WORD] = at + COUNT
    producer[P_CAPACITY] = ctl[BLOCK_ROWS]
    producer[P_OFFSET] = ctl[ARENA] + block * ctl[BLOCK_BYTES]
    return DONE


@control_kernel
def hand_over_block(ctl, producer):
    """Queue the producer's open block as full; an empty one is free again. Returns its rows, 0 for none open."""
    block = producer[P_BLOCK]
    if block < 0:
        return 0
    at = HEADER + BLOCK_WORDS * block
    rows = ctl[at + COUNT]
    producer[P_BLOCK] = -1
    producer[P_WORD] = CLOSED
    producer[P_CAPACITY] = 0
    if rows == 0:
        producer[P_GAP] += ctl[at + BLOCK_GAP]
        ctl[at + BLOCK_GAP] = 0
        store_release(ctl, at + STATE, FREE)
        return 0
    ticket = atomic_add(ctl, HEAD, 1)
    ctl[at + TICKET] = ticket
    store_release(ctl, at + STATE, FULL)
    store_release(ctl, ctl[QUEUE] + (ticket & ctl[QUEUE_MASK]), block + 1)
    return rows


@control_kernel
def publish_rows(ctl, words, rows):
    """Publish `rows[i]` rows in the block whose count is control word `words[i]`; a negative word is skipped."""
    for i in range(len(words)):
        if words[i] >= 0:
            store_release(ctl, words[i], rows[i])


@control_kernel
def refuse_rows(ctl, producer, rows):
    """Count rows that found no room; they are the gap in front of the producer's next block."""
    atomic_add(ctl, DROPPED_NEWEST, rows)
    producer[P_GAP] += rows


@control_kernel
def take(ctl, out, max_rows, partial, stop_at_gap):
    """Take up to `max_rows` rows of the oldest full block, or, if `partial`, of one that is still filling.

    `out` (TAKE_OUT,) int64 gets block, start, stop, sequence, generation, 1 if the block is used up, its byte offset
    in the arena, its ticket, then rows dropped in front of these by cause. Returns DONE, NOTHING, LOCKED, or
    GAP_AHEAD when `stop_at_gap` and rows were dropped in front of the next ones.
    """
    if not _lock(ctl):
        return LOCKED
    while True:
        filling = False
        block = _oldest(ctl)
        if block < 0:
            in_flight = load_acquire(ctl, HEAD) != ctl[TAIL]
            if in_flight or not partial:
                _unlock(ctl)
                return LOCKED if in_flight else NOTHING
            for candidate in range(ctl[BLOCKS]):
                at = HEADER + BLOCK_WORDS * candidate
                if load_acquire(ctl, at + STATE) == FILLING and load_acquire(ctl, at + COUNT) > ctl[at + TAKEN]:
                    block = candidate
                    filling = True
                    break
            # Its producer may have handed an older block over while we looked: that one comes first.
            if load_acquire(ctl, HEAD) != ctl[TAIL]:
                continue
            if block < 0:
                _unlock(ctl)
                return NOTHING
        break
    at = HEADER + BLOCK_WORDS * block
    if stop_at_gap and ctl[GAP] + ctl[GAP + 1] + ctl[GAP + 2] + ctl[GAP + 3] + ctl[at + BLOCK_GAP] > 0:
        _unlock(ctl)
        return GAP_AHEAD
    _held(ctl)
    start = ctl[at + TAKEN]
    count = load_acquire(ctl, at + COUNT)
    stop = min(count, start + max_rows)
    out[0] = block
    out[1] = start
    out[2] = stop
    out[3] = ctl[SEQUENCE]
    out[4] = ctl[at + GENERATION]
    out[5] = 0
    out[6] = ctl[ARENA] + block * ctl[BLOCK_BYTES]
    out[7] = ctl[at + TICKET]
    for cause in range(4):
        out[8 + cause] = ctl[GAP + cause]
        ctl[GAP + cause] = 0
    out[9] += ctl[at + BLOCK_GAP]
    ctl[at + BLOCK_GAP] = 0
    ctl[SEQUENCE] += 1
    ctl[DRAINED] += stop - start
    ctl[at + TAKEN] = stop
    ctl[at + HOLDS] += 1
    if not filling and stop == count:
        out[5] = 1
        _retire(ctl, block, CLAIMED)
    _unlock(ctl)
    return DONE


@control_kernel
def release_block(ctl, block):
    """Give a taken batch back; a block taken whole and read by nobody is free. Returns DONE or LOCKED."""
    if not _lock(ctl):
        return LOCKED
    at = HEADER + BLOCK_WORDS * block
    ctl[at + HOLDS] -= 1
    if ctl[at + HOLDS] == 0 and load_acquire(ctl, at + STATE) == CLAIMED:
        store_release(ctl, at + STATE, FREE)
    _unlock(ctl)
    return DONE


@control_kernel
def clear_ring(ctl):
    """Drop all published rows, counted as cleared, and forget drained ones. Returns DONE or LOCKED."""
    if not _lock(ctl):
        return LOCKED
    _held(ctl)
    while True:
        block = _oldest(ctl)
        if block < 0:
            break
        if _drop(ctl, block, 1):
            store_release(ctl, HEADER + BLOCK_WORDS * block + STATE, FREE)
    for block in range(ctl[BLOCKS]):
        at = HEADER + BLOCK_WORDS * block
        if compare_and_swap(ctl, at + STATE, FREE, OPENING):
            store_release(ctl, at + COUNT, 0)
            ctl[at + TAKEN] = 0
            store_release(ctl, at + STATE, FREE)
        elif load_acquire(ctl, at + STATE) == FILLING:
            count = load_acquire(ctl, at + COUNT)
            ctl[DROPPED_CLEARED] += count - ctl[at + TAKEN]
            ctl[GAP + 2] += count - ctl[at + TAKEN]
            if count > 0:
                ctl[GAP + 1] += ctl[at + BLOCK_GAP]
                ctl[at + BLOCK_GAP] = 0
            ctl[at + TAKEN] = count
            ctl[at + FLOOR] = count
    _unlock(ctl)
    return DONE


@control_kernel
def ring_counts(ctl, out):
    """`out` (9,) int64: rows held, added, drained, dropped by cause (oldest, newest, cleared, spill), high water,
    full blocks. Added is drained + dropped + held, counted on its own. Returns DONE or LOCKED."""
    if not _lock(ctl):
        return LOCKED
    refused = load_acquire(ctl, DROPPED_NEWEST)
    held = 0
    added = ctl[RETIRED] + refused
    for block in range(ctl[BLOCKS]):
        at = HEADER + BLOCK_WORDS * block
        state = load_acquire(ctl, at + STATE)
        if state in (FILLING, FULL):
            count = load_acquire(ctl, at + COUNT)
            held += count - ctl[at + TAKEN]
            added += count
    ctl[HIGH_WATER] = max(ctl[HIGH_WATER], held)
    out[0] = held
    out[1] = added
    out[2] = ctl[DRAINED]
    out[3] = ctl[DROPPED_OLDEST]
    out[4] = refused
    out[5] = ctl[DROPPED_CLEARED]
    out[6] = ctl[DROPPED_SPILL]
    out[7] = ctl[HIGH_WATER]
    out[8] = load_acquire(ctl, HEAD) - ctl[TAIL]
    _unlock(ctl)
    return DONE


@control_kernel
def readable_rows(ctl, drained, out):
    """List readable row ranges in `out` (blocks, 6) int64, oldest first: block, generation, start, stop, age
    (oldest smallest), rows up to here.

    Rows still held, or with `drained` also those drained but not yet overwritten. Returns the number of ranges, or
    LOCKED when blocks were handed over all the while. Takes no lock: the caller copies and then asks `unchanged`.
    """
    for _ in range(_SPINS):
        head = load_acquire(ctl, HEAD)
        found = 0
        for block in range(ctl[BLOCKS]):
            at = HEADER + BLOCK_WORDS * block
            generation = load_acquire(ctl, at + GENERATION)
            state = load_acquire(ctl, at + STATE)
            if state == OPENING or (not drained and state != FILLING and state != FULL):
                continue
            stop = load_acquire(ctl, at + COUNT)
            start = load_acquire(ctl, at + (FLOOR if drained else TAKEN))
            if start < stop:
                out[found, 0] = block
                out[found, 1] = generation
                out[found, 2] = start
                out[found, 3] = stop
                out[found, 4] = 1 if state == FILLING else ctl[at + TICKET] - head
                found += 1
        # A block handed over meanwhile may have been seen as filling beside its successor, in no order.
        if load_acquire(ctl, HEAD) == head:
            _sort_by_age(out, found)
            return found
    return LOCKED


@kernel(_nrt=False)
def _sort_by_age(ranges, count):
    """Insertion sort of the first `count` rows by column 4, stable; then running totals of rows in column 5."""
    for i in range(1, count):
        k = i
        while k > 0 and ranges[k - 1, 4] > ranges[k, 4]:
            for word in range(5):
                ranges[k - 1, word], ranges[k, word] = ranges[k, word], ranges[k - 1, word]
            k -= 1
    total = 0
    for i in range(count):
        total += ranges[i, 3] - ranges[i, 2]
        ranges[i, 5] = total


@control_kernel
def lock_taking(ctl, locked):
    """Take (`locked`) or release the taking end, so that nothing held is dropped or drained. Returns DONE or LOCKED."""
    if locked:
        return DONE if _lock(ctl) else LOCKED
    _unlock(ctl)
    return DONE


@control_kernel
def unchanged(ctl, ranges, count):
    """Whether none of the first `count` ranges of `readable_rows` was opened anew since."""
    fence_acquire()
    for i in range(count):
        if load_acquire(ctl, HEADER + BLOCK_WORDS * ranges[i, 0] + GENERATION) != ranges[i, 1]:
            return False
    return True
