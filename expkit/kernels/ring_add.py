"""Adding rows to a ring from inside other kernels, without Python.

    producer = ring.producer()                      # one per producing thread
    run_my_game(ring.control, ring.memory, producer.state, row)      # calls ring_add for each row

A row is packed: the stored columns in schema order, one after the other, `row_bytes` bytes in all. The producer's
state array carries two tables behind its first words: the columns, and the pieces of 8, 4, 2 and 1 bytes into which
narrow columns fall, grouped by size, so that a row is copied in one loop per size without a branch on the width.
"""

from __future__ import annotations

import numpy as np

from expkit.kernels import kernel
from expkit.kernels.atomics import copy_1, copy_2, copy_4, copy_8, copy_bytes, load_acquire, store_release
from expkit.kernels.ring import (
    CLOSED,
    DONE,
    NO_ROOM,
    P_CAPACITY,
    P_OFFSET,
    P_WORD,
    PRODUCER_WORDS,
    RING_CLOSED,
    hand_over_block,
    open_block,
    refuse_rows,
)

_COLUMNS = PRODUCER_WORDS  # number of columns
_PIECES = PRODUCER_WORDS + 1  # word of the first piece; the counts by size (8, 4, 2, 1, wide) follow this one
_COLUMN_TABLE = PRODUCER_WORDS + 8  # (offset in the block, bytes of a row) for each column
_PIECE_WORDS = 4  # offset in the block of row 0, stride, offset in the packed row, bytes
_WIDE = 64  # wider columns go by memcpy, which is faster from here on


def producer_state(offsets: np.ndarray, widths: np.ndarray) -> np.ndarray:
    """State words of a producer for a block layout: `offsets` and `widths` are int64 (columns,), in bytes."""
    pieces: dict[int, list[tuple[int, int, int, int]]] = {8: [], 4: [], 2: [], 1: [], 0: []}
    packed = 0
    for offset, width in zip(offsets.tolist(), widths.tolist(), strict=True):
        if width > _WIDE:
            pieces[0].append((offset, width, packed, width))
        done = 0
        while width <= _WIDE and done < width:
            size = next(size for size in (8, 4, 2, 1) if size <= width - done)
            pieces[size].append((offset + done, width, packed + done, size))
            done += size
        packed += width
    table = [word for offset, width in zip(offsets, widths, strict=True) for word in (offset, width)]
    listed = [word for group in pieces.values() for piece in group for word in piece]
    counts = [len(group) for group in pieces.values()]
    head = [-1, CLOSED, 0, 0, 0, 0, 0, 0]
    start = _COLUMN_TABLE + len(table)
    return np.array([*head, len(offsets), start, *counts, 0, *table, *listed], np.int64)


@kernel(_nrt=False)
def next_block(ctl, producer):
    """Hand the full block over and open the next one. Returns what `open_block` does."""
    hand_over_block(ctl, producer)
    return open_block(ctl, producer)


@kernel(forceinline=True, _nrt=False)
def ring_add(ctl, memory, producer, row):
    """Add one packed row and publish it.

    `ctl` int64 and `memory` uint8 are the ring's, `producer` int64 the producer's state, `row` uint8 (row_bytes,).
    Returns DONE (1); NO_ROOM (0) when the policy refused the row, which is then counted as dropped; or, with nothing
    done, WAIT (-1) when the ring is full and its policy is to wait or to spill, RING_CLOSED (-2), LOCKED (-3: call
    again).
    """
    if load_acquire(ctl, CLOSED) != 0:
        return RING_CLOSED
    word = producer[P_WORD]
    position = ctl[word]
    if position >= producer[P_CAPACITY]:
        code = next_block(ctl, producer)
        if code != DONE:
            if code == NO_ROOM:
                refuse_rows(ctl, producer, 1)
            return code
        word = producer[P_WORD]
        position = 0
    start = producer[P_OFFSET]
    piece = producer[_PIECES]
    for _ in range(producer[_PIECES + 1]):
        at = start + producer[piece] + position * producer[piece + 1]
        copy_8(memory, at, row, producer[piece + 2])
        piece += _PIECE_WORDS
    for _ in range(producer[_PIECES + 2]):
        at = start + producer[piece] + position * producer[piece + 1]
        copy_4(memory, at, row, producer[piece + 2])
        piece += _PIECE_WORDS
    for _ in range(producer[_PIECES + 3]):
        at = start + producer[piece] + position * producer[piece + 1]
        copy_2(memory, at, row, producer[piece + 2])
        piece += _PIECE_WORDS
    for _ in range(producer[_PIECES + 4]):
        at = start + producer[piece] + position * producer[piece + 1]
        copy_1(memory, at, row, producer[piece + 2])
        piece += _PIECE_WORDS
    for _ in range(producer[_PIECES + 5]):
        at = start + producer[piece] + position * producer[piece + 1]
        copy_bytes(memory, at, row, producer[piece + 2], producer[piece + 3])
        piece += _PIECE_WORDS
    store_release(ctl, word, position + 1)
    return DONE


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
            width = producer[_COLUMN_TABLE + 2 * column + 1]
            target = producer[P_OFFSET] + producer[_COLUMN_TABLE + 2 * column] + position * width
            copy_bytes(memory, target, source, offsets[column] + at * width, rows * width)
        store_release(ctl, producer[P_WORD], position + rows)
        at += rows
    return at - start
