"""Batches of a run's rows: in the order of the files, shuffled for training, or drawn at random.

First it is settled which rows of which blocks make a batch and where each goes in it; then every row is decoded where
it is to be. A row of 16 KB is so written to memory once, in whatever order it is wanted: shuffling costs no copy.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Literal, NamedTuple

import numpy as np

from expkit.batches.selection import Selection
from expkit.batches.source import BatchSource
from expkit.errors import ShardError, UsageError
from expkit.formats.shard.layout import FRAME_ROWS
from expkit.formats.shard.pool import POOL
from expkit.formats.shard.read import ShardReader
from expkit.row.schema import KEY_NAMES, Schema
from expkit.runs.superseding import VisibleBlock
from expkit.system.parallel import in_order

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


def rows_wanted(
    block: VisibleBlock, rows: Rows, part: slice | None = None, selection: Selection | None = None
) -> np.ndarray:
    """int64, rising: the rows of a block, or of a part of it, that count and are selected. Raises ShardError."""
    if selection is None:
        return _rows_counting(block, rows, part)
    if not selection.may_match(block):
        return np.empty(0, np.int64)
    return selection.of_block(block, _rows_counting(block, rows, part))


def _rows_counting(block: VisibleBlock, rows: Rows, part: slice | None) -> np.ndarray:
    first, last = (0, block.info.rows) if part is None else (part.start, min(part.stop, block.info.rows))
    last_rows = rows == "transitions" and block.reader.statistics_of(block.info.index, "is_last").high != 0
    if block.keep is None and not last_rows:
        return np.arange(first, last)
    keep = np.ones(last - first, bool) if block.keep is None else block.keep[first:last].copy()
    if last_rows:
        is_last = np.empty(last - first, bool)
        every = np.arange(first, last)
        block.reader.read_into(block.info.index, every, {"is_last": is_last}, every - first)
        keep &= ~is_last
    return first + np.flatnonzero(keep)


def check_batch_size(batch_size: int | None) -> None:
    """Raises UsageError for a batch of no rows; None leaves the size to the files."""
    if batch_size is not None and batch_size < 1:
        raise UsageError(f"a batch of {batch_size} rows is none; use 1 or more")


def scan(
    run: BatchSource,
    decoder: BatchDecoder,
    batch_size: int | None,
    rows: Rows,
    skip_damaged: bool,
    threads: int,
    selection: Selection | None = None,
) -> Iterator[Batch]:
    """See `Readable.scan`."""
    check_batch_size(batch_size)
    parts = _in_file_order(run, decoder.names, rows, skip_damaged, threads, selection)
    batches = _as_they_are(parts, decoder.row_bytes) if batch_size is None else _of_size(parts, batch_size)
    yield from in_order(decoder.make, batches, threads)


def _in_file_order(
    run: BatchSource, names: Sequence[str], rows: Rows, skip_damaged: bool, threads: int, selection: Selection | None
) -> Iterator[tuple[VisibleBlock, np.ndarray]]:
    """Blocks and their rows that are wanted."""

    def part(block: VisibleBlock) -> tuple[VisibleBlock, np.ndarray]:
        try:
            wanted = rows_wanted(block, rows, None, selection)
            if skip_damaged and len(wanted):
                block.reader.read_block(block.info.index, names)  # whether it can be read at all
        except ShardError:
            if skip_damaged:
                return block, np.empty(0, np.int64)
            raise
        return block, wanted

    blocks = run.blocks(unreadable="skip" if skip_damaged else "raise")
    return in_order(part, blocks, threads if selection is not None else 1)


def _as_they_are(parts: Iterable[tuple[VisibleBlock, np.ndarray]], row_bytes: int) -> Iterator[list[Piece]]:
    """Whole frames of one block at a time, about BATCH_BYTES of them: no frame is decompressed twice and nothing
    crosses blocks."""
    frames = max(1, round(BATCH_BYTES / (FRAME_ROWS * row_bytes)))
    for block, wanted in parts:
        for first in range(0, block.info.rows, frames * FRAME_ROWS):
            begin, end = np.searchsorted(wanted, [first, first + frames * FRAME_ROWS])
            if begin < end:
                yield [Piece.of(block, wanted[begin:end], np.arange(end - begin))]


def _of_size(parts: Iterable[tuple[VisibleBlock, np.ndarray]], batch_size: int) -> Iterator[list[Piece]]:
    batch: list[Piece] = []
    filled = 0
    for block, wanted in parts:
        while len(wanted):
            part, wanted = wanted[: batch_size - filled], wanted[batch_size - filled :]
            batch.append(Piece.of(block, part, np.arange(filled, filled + len(part))))
            filled += len(part)
            if filled == batch_size:
                yield batch
                batch, filled = [], 0
    if batch:
        yield batch
