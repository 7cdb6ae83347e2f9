"""Producers and consumers for the benchmarks, which run as a user's kernels would."""

from __future__ import annotations

import numpy as np

from expkit.kernels import kernel
from expkit.kernels.atomics import copy_bytes
from expkit.kernels.ring_add import put, ring_add, ring_publish, ring_row


@kernel(_nrt=False)
def put_rows(ctl, memory, producer, columns, first, last):
    """Rows of keys, reward, flags and four float32, column by column. `columns` int64: of episode, step, time_ns,
    is_first, reward, terminated, observation, action. Returns the first number that found no room."""
    for number in range(first, last):
        row = ring_row(ctl, producer)
        if row < 0:
            return number
        put(memory, producer, columns[0], row, 0, np.uint64(number >> 6))
        put(memory, producer, columns[1], row, 0, np.uint32(number & 63))
        put(memory, producer, columns[2], row, 0, np.int64(number))
        put(memory, producer, columns[3], row, 0, np.uint8((number & 63) == 0))
        put(memory, producer, columns[4], row, 0, np.float32(1.0))
        put(memory, producer, columns[5], row, 0, np.uint8(0))
        for item in range(4):
            put(memory, producer, columns[6], row, item, np.float32(number))
        put(memory, producer, columns[7], row, 0, np.uint8(number & 1))
        ring_publish(ctl, producer, row)
    return last


@kernel(_nrt=False)
def add_rows(ctl, memory, producer, packed, first, last):
    """One packed row again and again, numbered in its first 8 bytes. Returns the first number that found no room."""
    numbers = packed[:8].view(np.uint64)
    for number in range(first, last):
        numbers[0] = np.uint64(number)
        code = ring_add(ctl, memory, producer, packed)
        while code == -3:
            code = ring_add(ctl, memory, producer, packed)
        if code < 0:
            return number
    return last


@kernel(_nrt=False)
def copy_rows(source, target, width, rows):
    """`rows` packed rows of `width` bytes, one after the other round and round in `target`: what the memory allows."""
    most = len(target) // width
    for row in range(rows):
        copy_bytes(target, (row % most) * width, source, 0, width)


@kernel(_nrt=False)
def count_in_order(numbers, seen):
    """`seen` int64 (2,): the number expected next, and how many were not it."""
    for i in range(len(numbers)):
        number = np.int64(numbers[i])
        if number != seen[0]:
            seen[1] += 1
        seen[0] = number + 1
