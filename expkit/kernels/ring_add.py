"""Adding rows to a ring from inside other kernels, without Python.

    producer = ring.producer()                                   # one per producing thread
    play(ring.control, ring.memory, producer.state, …)           # a kernel of your own; in it, for each row:

        row = ring_row(ctl, producer)                            # 112 M rows/s of 46 bytes this way
        if row < 0: …                                            # refused, full or closed
        put(memory, producer, 0, row, 0, np.uint64(episode))     # column by column
        ring_publish(ctl, producer, row)

        code = ring_add(ctl, memory, producer, packed)           # or a packed row at once, 69 M rows/s

A packed row holds the stored columns in schema order, one after the other, `row_bytes` bytes in all. The producer's
state array carries two tables behind its first words: the columns, and the pieces of 8, 4, 2 and 1 bytes into which
narrow columns fall, grouped by size, so that a row is copied in one loop per size without a branch on the width.
Declare kernels that call these with `@kernel(_nrt=False)`: counting references to the arrays costs 10 ns a call.
"""

from __future__ import annotations

import numpy as np

from expkit.kernels import kernel
from expkit.kernels.atomics import (
    copy_1,
    copy_2,
    copy_4,
    copy_8,
    copy_bytes,
    load_acquire,
    peek,
    size_of,
    store_release,
    store_value,
)
from expkit.kernels.ring import (
    CLOSED,
    DONE,
    NO_ROOM,
    P_CAPACITY,
    P_OFFSET,
    P_WORD,
    PRODUCER_WORDS,
    control_kernel,
    hand_over_block,
    open_block,
    refuse_rows,
)

_COLUMNS = PRODUCER_WORDS  # number of columns
_PIECES = PRODUCER_WORDS + 1  # word of the first piece; the counts by size (8, 4, 2, 1, wide) follow this one
_COLUMN_TABLE = PRODUCER_WORDS + 8  # (byte of row 0 in the arena, bytes of a row, byte of row 0 in a block) each
_COLUMN_WORDS = 3
_PIECE_WORDS = 5  # byte of row 0 in the arena, stride, offset in the packed row, bytes, byte of row 0 in a block
REFUSED = -10
_WIDE = 64  # wider columns go by memcpy, which is faster from here on


def producer_state(offsets: np.ndarray, widths: np.ndarray) -> np.ndarray:
    """State words of a producer for a block layout: `offsets` and `widths` are int64 (columns,), in bytes."""
    pieces: dict[int, list[tuple[int, ...]]] = {8: [], 4: [], 2: [], 1: [], 0: []}
    packed = 0
    for offset, width in zip(offsets.tolist(), widths.tolist(), strict=True):
        if width > _WIDE:
            pieces[0].append((0, width, packed, width, offset))
        done = 0
        while width <= _WIDE and done < width:
            size = next(size for size in (8, 4, 2, 1) if size <= width - done)
            pieces[size].append((0, width, packed + done, size, offset + done))
            done += size
        packed += width
    table = [word for offset, width in zip(offsets, widths, strict=True) for word in (0, width, offset)]
    listed = [word for group in pieces.values() for piece in group for word in piece]
    counts = [len(group) for group in pieces.values()]
    head = [-1, CLOSED, 0, 0, 0, 0, 0, 0]
    start = _COLUMN_TABLE + len(table)
    return np.array([*head, len(offsets), start, *counts, 0, *table, *listed], np.int64)


@control_kernel
def next_block(ctl, producer):
    """Hand the full block over and open the next one. Returns what `open_block` does."""
    hand_over_block(ctl, producer)
    code = open_block(ctl, producer)
    if code == DONE:
        # Once per block, so that no row has to add where its block begins.
        for column in range(producer[_COLUMNS]):
            at = _COLUMN_TABLE + _COLUMN_WORDS * column
            producer[at] = producer[P_OFFSET] + producer[at + 2]
        pieces = 0
        for size in range(1, 6):
            pieces += producer[_PIECES + size]
        for piece in range(pieces):
            at = producer[_PIECES] + _PIECE_WORDS * piece
            producer[at] = producer[P_OFFSET] + producer[at + 4]
    return code


@kernel(forceinline=True, _nrt=False)
def ring_add(ctl, memory, producer, row):
    """Add one packed row and publish it.

    `ctl` int64 and `memory` uint8 are the ring's, `producer` int64 the producer's state, `row` uint8 (row_bytes,).
    Returns DONE (1); NO_ROOM (0) when the policy refused the row, which is then counted as dropped; or, with nothing
    done, WAIT (-1) when the ring is full and its policy is to wait or to spill, RING_CLOSED (-2), LOCKED (-3: call
    again).
    """
    word = peek(producer, P_WORD)
    position = peek(ctl, word)
    if position >= peek(producer, P_CAPACITY):
        code = next_block(ctl, producer)
        if code != DONE:
            if code == NO_ROOM:
                refuse_rows(ctl, producer, 1)
            return code
        word = peek(producer, P_WORD)
        position = 0
    piece = peek(producer, _PIECES)
    last = piece + _PIECE_WORDS * peek(producer, _PIECES + 1)
    while piece < last:
        at = peek(producer, piece) + position * peek(producer, piece + 1)
        copy_8(memory, at, row, peek(producer, piece + 2))
        piece += _PIECE_WORDS
    last = piece + _PIECE_WORDS * peek(producer, _PIECES + 2)
    while piece < last:
        at = peek(producer, piece) + position * peek(producer, piece + 1)
        copy_4(memory, at, row, peek(producer, piece + 2))
        piece += _PIECE_WORDS
    last = piece + _PIECE_WORDS * peek(producer, _PIECES + 3)
    while piece < last:
        at = peek(producer, piece) + position * peek(producer, piece + 1)
        copy_2(memory, at, row, peek(producer, piece + 2))
        piece += _PIECE_WORDS
    last = piece + _PIECE_WORDS * peek(producer, _PIECES + 4)
    while piece < last:
        at = peek(producer, piece) + position * peek(producer, piece + 1)
        copy_1(memory, at, row, peek(producer, piece + 2))
        piece += _PIECE_WORDS
    last = piece + _PIECE_WORDS * peek(producer, _PIECES + 5)
    while piece < last:
        at = peek(producer, piece) + position * peek(producer, piece + 1)
        copy_bytes(memory, at, row, peek(producer, piece + 2), peek(producer, piece + 3))
        piece += _PIECE_WORDS
    store_release(ctl, word, position + 1)
    return DONE


@kernel(forceinline=True, _nrt=False)
def ring_row(ctl, producer):
    """Row of the open block to write next, opening a block if need be; or a code of `ring_add` that is no row:
    REFUSED (-10) for a row the policy refuses, which is then counted as dropped, WAIT, RING_CLOSED or LOCKED.

    Write all columns of that row with `put`, then make it visible with `ring_publish`.
    """
    position = peek(ctl, peek(producer, P_WORD))
    if position >= peek(producer, P_CAPACITY):
        code = next_block(ctl, producer)
        if code == NO_ROOM:
            refuse_rows(ctl, producer, 1)
            return REFUSED
        if code != DONE:
            return code
        position = 0
    return position


@kernel(forceinline=True, _nrt=False)
def put(memory, producer, column, row, item, value):
    """Store `value` as element `item` (0 for a scalar) of a column, by its index in Schema.columns.

    The value's type decides how many bytes are written, so it must be the column's: np.float32(x), np.uint8(x), …
    """
    entry = _COLUMN_TABLE + _COLUMN_WORDS * column
    start = peek(producer, entry) + row * peek(producer, entry + 1)
    store_value(memory, start + item * size_of(value), value)


@kernel(forceinline=True, _nrt=False)
def ring_publish(ctl, producer, row):
    """Let others see the rows up to and including `row`."""
    store_release(ctl, peek(producer, P_WORD), row + 1)


@kernel(_nrt=False)
def ring_add_rows(ctl, memory, producer, source, offsets, start, stop):
    """Add rows [start, stop) of a block of columns lying in `source` (uint8) at byte `offsets` (int64, columns).

    Published block by block. Returns the number of rows taken, those refused by the policy included; less than
    stop - start when the ring is full and its policy is to wait or to spill, or when it is closed.
    """
    at = start
    while at < stop:
        if load_acquire(ctl, CLOSED) != 0:
            break
        if ctl[producer[P_WORD]] >= producer[P_CAPACITY]:
            code = next_block(ctl, producer)
            if code == NO_ROOM:
                refuse_rows(ctl, producer, stop - at)
                return stop - start
            if code != DONE:
                break
        position = ctl[producer[P_WORD]]
        rows = min(stop - at, producer[P_CAPACITY] - position)
        for column in range(producer[_COLUMNS]):
            width = producer[_COLUMN_TABLE + _COLUMN_WORDS * column + 1]
            target = producer[_COLUMN_TABLE + _COLUMN_WORDS * column] + position * width
            copy_bytes(memory, target, source, offsets[column] + at * width, rows * width)
        store_release(ctl, producer[P_WORD], position + rows)
        at += rows
    return at - start
