"""Rows from a table of waiting rows, one for each player and environment, into the players' open blocks."""

from __future__ import annotations

import numpy as np

from expkit.kernels import kernel
from expkit.kernels.atomics import copy_1, copy_2, copy_4, copy_8, copy_bytes


# It keeps the GIL: some microseconds at the most, and beside a busy thread it takes 5 ms to get it back.
@kernel(nogil=False, _nrt=False)
def append_rows(memory, base, position, table, columns, entries, num_envs):
    """Copy the rows `entries` of `table` behind those of each player's open block, and advance `position`.

    memory, base, position   of a RowSink: uint8, int64 (players, columns), int64 (players,)
    table      uint8: the columns of the rows that wait, wherever they are in it
    columns    int64 (2, columns): byte offset of the column in `table`, -1 for zeros; bytes of one row of it
    entries    int64 (n,), rising: player * num_envs + environment
    """
    first, count = 0, len(entries)
    while first < count:
        player = entries[first] // num_envs
        stop = first + 1
        while stop < count and entries[stop] // num_envs == player:
            stop += 1
        at = position[player]
        for column in range(columns.shape[1]):
            of, width = columns[0, column], columns[1, column]
            to = base[player, column] + (at - first) * width
            if of < 0:
                for byte in range(to + first * width, to + stop * width):
                    memory[byte] = np.uint8(0)
            elif width == 1:
                for i in range(first, stop):
                    copy_1(memory, to + i, table, of + entries[i])
            elif width == 2:
                for i in range(first, stop):
                    copy_2(memory, to + i * 2, table, of + entries[i] * 2)
            elif width == 4:
                for i in range(first, stop):
                    copy_4(memory, to + i * 4, table, of + entries[i] * 4)
            elif width == 8:
                for i in range(first, stop):
                    copy_8(memory, to + i * 8, table, of + entries[i] * 8)
            else:
                for i in range(first, stop):
                    copy_bytes(memory, to + i * width, table, of + entries[i] * width, width)
        position[player] = at + stop - first
        first = stop
