"""Where the columns of a block of rows lie in memory: struct of arrays in one allocation.

Kernels get one uint8 array and a table of byte offsets, so that a block of any schema is two arguments.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from expkit.row.schema import Column, Schema

ALIGN = 64  # a cache line, and the width of an AVX-512 register


class BlockLayout:
    """Offsets of each stored column in a block of `rows` rows.

    `offsets` and `widths` are int64 arrays over `schema.columns`: byte offset of the column in the block and bytes
    of one row in it. `nbytes` is the size of the block, a multiple of ALIGN.
    """

    def __init__(self, schema: Schema, rows: int):
        self.schema = schema
        self.rows = rows
        offsets, position = [], 0
        for column in schema.columns:
            offsets.append(position)
            position += -(-column.row_bytes * rows // ALIGN) * ALIGN
        self.offsets = np.array(offsets, np.int64)
        self.widths = np.array([column.row_bytes for column in schema.columns], np.int64)
        self.nbytes = position

    @cached_property
    def columns(self) -> tuple[Column, ...]:
        return self.schema.columns

    def views(self, block: np.ndarray, start: int = 0, stop: int | None = None) -> dict[str, np.ndarray]:
        """Typed views, without a copy, of rows [start, stop) of `block`, a uint8 array of `nbytes` bytes."""
        stop = self.rows if stop is None else stop
        out: dict[str, np.ndarray] = {}
        for column, offset in zip(self.columns, self.offsets.tolist(), strict=True):
            width = column.row_bytes
            raw = block[offset + start * width : offset + stop * width]
            out[column.name] = raw.view(column.dtype).reshape(column.shape(stop - start))
        return out


def aligned_empty(nbytes: int) -> np.ndarray:
    """An uninitialised uint8 array of `nbytes` bytes that starts on an ALIGN boundary."""
    raw = np.empty(nbytes + ALIGN, np.uint8)
    shift = -raw.ctypes.data % ALIGN
    return raw[shift : shift + nbytes]


@dataclass(slots=True)
class RowSink:
    """Where a game writes its rows: the open block of each player, all in one arena.

    memory    uint8, holds the blocks of all players
    base      int64 (players, columns): byte offset in `memory` of a column of the player's open block
    position  int64 (players,): rows written in the open block; the game advances it
    capacity  int64 (players,): rows the open block can hold
    widths    int64 (columns,): bytes of one row
    policy    int64 (players, 2): policy table index and policy_version to stamp on rows

    Row i of column c of player p is `memory[base[p, c] + i * widths[c]:][:widths[c]]`.
    """

    memory: np.ndarray
    base: np.ndarray
    position: np.ndarray
    capacity: np.ndarray
    widths: np.ndarray
    policy: np.ndarray
    columns: tuple[Column, ...]

    @classmethod
    def scratch(cls, schema: Schema, players: int, rows: int) -> RowSink:
        """A sink of its own memory, for games that are not recorded: reset `position` to reuse it."""
        layout = BlockLayout(schema, rows)
        base = layout.offsets[None, :] + np.arange(players, dtype=np.int64)[:, None] * layout.nbytes
        return cls(
            memory=aligned_empty(layout.nbytes * players),
            base=np.ascontiguousarray(base),
            position=np.zeros(players, np.int64),
            capacity=np.full(players, rows, np.int64),
            widths=layout.widths,
            policy=np.zeros((players, 2), np.int64),
            columns=layout.columns,
        )

    def column(self, player: int, index: int) -> np.ndarray:
        """A typed view, without a copy, of the `index`-th column of the player's open block."""
        column, at, rows = self.columns[index], int(self.base[player, index]), int(self.capacity[player])
        return self.memory[at : at + rows * column.row_bytes].view(column.dtype).reshape(column.shape(rows))

    def views(self, player: int, rows: int | None = None) -> dict[str, np.ndarray]:
        """Typed views, without a copy, of the first `rows` rows (all if None) of the player's open block."""
        count = int(self.capacity[player]) if rows is None else rows
        out: dict[str, np.ndarray] = {}
        for index, column in enumerate(self.columns):
            at = int(self.base[player, index])
            raw = self.memory[at : at + count * column.row_bytes]
            out[column.name] = raw.view(column.dtype).reshape(column.shape(count))
        return out
