"""A 64-bit hash of each row that does not depend on how rows are blocked or ordered.

Every column is read as little-endian 64-bit words, the last one filled with zeros. With k the column's key
stream, a word w at place i adds (v mod 2**32) * (v >> 32) for v = w xor k[i] (the NH step of UMAC and XXH3: one
32x32 multiplication a word, which vectorises); the sum over all columns goes through the splitmix64 finaliser.
Sums of row hashes over (episode, player) are equal before and after any rewrite that keeps the data.
"""

from __future__ import annotations

from zlib import crc32

import numpy as np

from expkit.kernels import inner, kernel
from expkit.kernels.bytes_at import load1, load2, load4, load8

_LOW = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)


def key_stream(name: str, row_bytes: int) -> np.ndarray:
    """uint64 (ceil(row_bytes / 8),): splitmix64 of seed crc32(name) << 32, the keys of the column `name`."""
    with np.errstate(over="ignore"):
        z = np.arange(1, (row_bytes + 7) // 8 + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        z += np.uint64(crc32(name.encode()) << 32)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))


@inner
def term(word, key):
    """What a word adds to the sum of its row."""
    value = word ^ key
    return (value & _LOW) * (value >> _HALF)


@kernel
def nh_row(address, width, keys):
    """Sum over the words of one row of one column, `width` bytes at `address`; `keys`: address of its stream."""
    total = np.uint64(0)
    words = width >> 3
    for word in range(words):
        total += term(load8(address, word << 3), load8(keys, word << 3))
    if width & 7:
        value = np.uint64(0)
        for byte in range(width & 7):
            value |= load1(address, (words << 3) + byte) << np.uint64(byte << 3)
        total += term(value, load8(keys, words << 3))
    return total


@kernel
def mix(value):
    """The splitmix64 finaliser: every bit of the sum reaches every bit of the row's hash."""
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))


@kernel
def hash_rows(columns, rows, out):
    """uint64 (rows,) out: the sum of what is not in `columns` of each row, becomes its hash. `columns`: int64 (n, 3) of
    data address, bytes a row, key address."""
    for column in range(columns.shape[0]):
        address, width, keys = columns[column, 0], columns[column, 1], columns[column, 2]
        # Numbers of a width known when it is compiled vectorise: 13 scalars took 38 ns a row, and now 10.
        if width == 1:
            for row in range(rows):
                out[row] += term(load1(address, row), load8(keys, 0))
        elif width == 2:
            for row in range(rows):
                out[row] += term(load2(address, row << 1), load8(keys, 0))
        elif width == 4:
            for row in range(rows):
                out[row] += term(load4(address, row << 2), load8(keys, 0))
        elif width == 8:
            for row in range(rows):
                out[row] += term(load8(address, row << 3), load8(keys, 0))
        else:
            for row in range(rows):
                out[row] += nh_row(address + row * width, width, keys)
    for row in range(rows):
        out[row] = mix(out[row])


@kernel
def sum_runs(hashes, first, count, runs, out):
    """Wrapping sum of `hashes` over each run of rows."""
    for run in range(runs):
        total = np.uint64(0)
        for row in range(first[run], first[run] + count[run]):
            total += hashes[row]
        out[run] = total
