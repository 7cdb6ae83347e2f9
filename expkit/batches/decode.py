"""Batches of rows decoded, once it is known which rows of which blocks they are.

First it is settled which rows of which blocks make a batch and where each goes in it; then every row is decoded where
it is to be. A row of 16 KB is so written to memory once, in whatever order it is wanted: shuffling costs no copy.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np

from expkit.formats.shard.pool import POOL
from expkit.formats.shard.read import ShardReader
from expkit.row.schema import KEY_NAMES, Schema
from expkit.runs.superseding import VisibleBlock

Rows = Literal["transitions", "all"]
Batch = dict[str, np.ndarray]
# What shuffling keeps together until it is in memory: whole frames, about so many bytes, so many frames at the most.
# A piece costs 0.3 ms whatever is in it: that is a third of the time of 512 boards of 2.6 KB.
PIECE_BYTES = 4 << 20
PIECE_FRAMES = 8
# Of a batch as the files have it: of 2,048 boards as planes, where a call costs 3 % of the time.
BATCH_BYTES = 32 << 20


class Piece(NamedTuple):
    """Rows `rows` (int64, rising) of block number `block` of shard number `shard`, which is of run number `run` of
    those that are read together; they go to `places` of a batch."""

    reader: ShardReader
    block: int
    rows: np.ndarray
    places: np.ndarray
    run: int
    shard: int

    @classmethod
    def of(cls, block: VisibleBlock, rows: np.ndarray, places: np.ndarray) -> Piece:
        return cls(block.reader, block.info.index, rows, places, block.run, block.shard)


class BatchDecoder:
    """Makes batches of some columns from pieces. Safe to share between threads.

    names     stored columns that batches have;  also: those that are decoded and not given
    policies  where rows of several runs come together, for each run the place of each of its policies (u2) in the table
              of all, and behind them that of any other; batches then have a column `run`
    """

    def __init__(
        self,
        schema: Schema,
        names: Sequence[str],
        policies: Sequence[np.ndarray] | None = None,
        also: Sequence[str] = (),
    ):
        self.schema, self.given = schema, list(names)
        self.names = [*names, *(name for name in also if name not in names)]
        self._policies = policies
        self.beside = ("player",) if policies is None else ("player", "run")
        self._columns = [schema.column(name) for name in self.names]
        self.row_bytes = sum(column.row_bytes for column in self._columns)

    def empty(self, rows: int) -> Batch:
        """Stored arrays for so many rows, and the player of each."""
        stored = {column.name: POOL.empty(column.shape(rows), column.dtype) for column in self._columns}
        return {**stored, **{name: np.empty(rows, np.uint16) for name in self.beside}}

    def fill(self, stored: Batch, piece: Piece) -> None:
        """Decode a piece into its places. Raises ShardError."""
        piece.reader.read_into(piece.block, piece.rows, {name: stored[name] for name in self.names}, piece.places)
        stored["player"][piece.places] = piece.reader.blocks[piece.block].player
        if self._policies is not None:
            stored["run"][piece.places] = piece.run
            stored["policy"][piece.places] = self._policies[piece.run].take(stored["policy"][piece.places], mode="clip")

    def finish(self, stored: Batch) -> Batch:
        """The logical arrays."""
        out = {name: self.schema.unpack(name, stored[name]) for name in self.given}
        return {**out, **{name: stored[name] for name in self.beside}}

    def make(self, pieces: Sequence[Piece]) -> Batch:
        """A whole batch. Raises ShardError."""
        stored = self.empty(sum(len(piece.rows) for piece in pieces))
        for piece in pieces:
            self.fill(stored, piece)
        return self.finish(stored)


def stored_names(schema: Schema, columns: Sequence[str] | None) -> list[str]:
    """Stored columns to read for the wanted fields or groups: the keys, the fields, their validity. Raises
    SchemaError."""
    wanted = [field.name for field in schema.fields] if columns is None else schema.expand_names(columns)
    names = list(KEY_NAMES)
    for name in wanted:
        if name in names or name == "player":
            continue
        names.append(name)
        if schema[name].nullable:
            names.append(f"valid:{name}")
    return names
