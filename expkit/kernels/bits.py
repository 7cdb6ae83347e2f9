"""Narrow columns of a block: gather into sorted order, then the filters that make them small, and their inverses.

Filters, measured on 8,192 rows of a 20x20 board game, bytes a row after zstd-1: delta takes `episode` from 0.99 to
0.03; byte planes take an int32 action from 1.40 to 1.19; packed bits leave flags at an eighth before zstd.
"""

from __future__ import annotations

import numpy as np

from expkit.kernels import kernel
from expkit.kernels.bytes_at import bit_length, load1, load2, load4, load8, nonzero64, store1, store8
from expkit.kernels.digest import nh_row

_LOW = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)

NONE, PLANES, DELTA, BITS, CONSTANT, CHANGES = range(6)


@kernel
def load_item(address, offset, itemsize):
    """The unsigned number of 1, 2, 4 or 8 bytes at `address` + `offset`."""
    if itemsize == 1:
        return load1(address, offset)
    if itemsize == 2:
        return load2(address, offset)
    if itemsize == 4:
        return load4(address, offset)
    return load8(address, offset)


@kernel
def gather_scalar(address, width, is_bool, keys, order, rows, hashes, target):
    """Copy rows `order` of a column of 1, 2, 4 or 8 bytes a row to `target` and add their words to `hashes`.

    A bool is stored as 0 or 1. `target` needs 7 bytes to spare. Returns True when all rows are equal.
    """
    key = load8(keys, 0)
    varied = np.uint64(0)
    first = np.uint64(0)
    for row in range(rows):
        value = load_item(address, np.int64(order[row]) * width, width)
        if is_bool:
            value = np.uint64(value != np.uint64(0))
        if row == 0:
            first = value
        varied |= value ^ first
        # the bytes above the item are overwritten by the next row
        store8(target, row * width, value)
        word = value ^ key
        hashes[row] += (word & _LOW) * (word >> _HALF)
    return varied == np.uint64(0)


@kernel
def gather_vector(address, width, keys, order, rows, hashes, target):
    """`gather_scalar` for columns of several elements."""
    equal = True
    for row in range(rows):
        place = target + row * width
        source = address + np.int64(order[row]) * width
        for byte in range(width):
            value = load1(source, byte)
            store1(place, byte, value)
            if value != load1(target, byte):
                equal = False
        hashes[row] += nh_row(place, width, keys)
    return equal


@kernel
def delta_pays(source, items, itemsize, stride):
    """Whether the differences to the row above, `stride` elements before, need fewer bits than the numbers.
    Reads up to 7 bytes beyond the last number."""
    mask = ~np.uint64(0) >> np.uint64(64 - 8 * itemsize)
    top = np.uint64(1) << np.uint64(8 * itemsize - 1)
    plain = np.int64(0)
    differences = np.int64(0)
    for item in range(stride, items):
        value = load8(source, item * itemsize) & mask
        change = (value - load8(source, (item - stride) * itemsize)) & mask
        if change & top:
            change = ~change & mask
        plain += bit_length(value)
        differences += bit_length(change) + np.int64(change != np.uint64(0))  # and a sign
    return differences < plain


@kernel
def to_planes(source, items, itemsize, stride, target):
    """All lowest bytes of `items` numbers first, then the next bytes, …; for `stride` above 0 of their differences
    to the number `stride` elements before. Reads up to 7 bytes beyond the last number."""
    for item in range(items):
        value = load8(source, item * itemsize)
        if 0 < stride <= item:
            value -= load8(source, (item - stride) * itemsize)
        for plane in range(itemsize):
            store1(target, plane * items + item, value >> np.uint64(plane << 3))


@kernel
def from_planes(source, items, itemsize, stride, target):
    """Inverse of `to_planes`. `target` needs 7 bytes to spare."""
    for item in range(items):
        value = np.uint64(0)
        for plane in range(itemsize):
            value |= load1(source, plane * items + item) << np.uint64(plane << 3)
        if 0 < stride <= item:
            value += load8(target, (item - stride) * itemsize)
        # the bytes above the number are overwritten by the next one, and are not part of a sum's low bytes
        store8(target, item * itemsize, value)


@kernel
def to_bits(source, rows, target):
    """Pack `rows` bytes of 0 or 1 into bits, lowest first."""
    for byte in range((rows + 7) >> 3):
        packed = np.uint64(0)
        for bit in range(min(8, rows - byte * 8)):
            packed |= load1(source, byte * 8 + bit) << np.uint64(bit)
        store1(target, byte, packed)


@kernel
def pack_flags(flags, items, target):
    """The first `items` of contiguous bool `flags` as bits, lowest first, at address `target`, which gets
    ceil(items / 8) bytes. np.packbits takes 650 ns to begin; this takes 180 for a mask of 1,600, call included."""
    source = flags.ctypes.data
    item = 0
    while item + 64 <= items:
        store8(target, item >> 3, nonzero64(source, item))
        item += 64
    while item < items:
        packed = np.uint64(0)
        for bit in range(min(8, items - item)):
            packed |= np.uint64(load1(source, item + bit) != np.uint64(0)) << np.uint64(bit)
        store1(target, item >> 3, packed)
        item += 8
