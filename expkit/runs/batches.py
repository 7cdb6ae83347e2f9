"""Batches of a run's rows: in the order of the files, or shuffled for training.

First it is settled which rows of which blocks make a batch and where each goes in it; then every row is decoded where
it is to be. A row of 16 KB is so written to memory once, in whatever order it is wanted: shuffling costs no copy.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from expkit.errors import ShardError, UsageError
from expkit.formats.shard.pool import POOL
from expkit.formats.shard.read import ShardReader
from expkit.parallel import in_order
from expkit.runs.superseding import VisibleBlock
from expkit.schema import KEY_NAMES, Schema

if TYPE_CHECKING:
    from expkit.runs.read import Run

Rows = Literal["transitions", "all"]
Batch = dict[str, np.ndarray]
# Rows that shuffling keeps together until they are in memory: one frame of a wide column, as recorders write it.
PIECE_ROWS = 512


class Piece(NamedTuple):
    """Rows `rows` (int64, rising) of block number `block` of a shard, which go to `places` of a batch."""

    reader: ShardReader
    block: int
    rows: np.ndarray
    places: np.ndarray


class BatchDecoder:
    """Makes batches of some columns from pieces. Safe to share between threads."""

    def __init__(self, schema: Schema, names: Sequence[str]):
        self.schema, self.names = schema, list(names)
        self._columns = [schema.column(name) for name in names]

    def empty(self, rows: int) -> Batch:
        """Stored arrays for so many rows, and the player of each."""
        stored = {column.name: POOL.empty(column.shape(rows), column.dtype) for column in self._columns}
        return {**stored, "player": np.empty(rows, np.uint16)}

    def fill(self, stored: Batch, piece: Piece) -> None:
        """Decode a piece into its places. Raises ShardError."""
        piece.reader.read_into(piece.block, piece.rows, {name: stored[name] for name in self.names}, piece.places)
        stored["player"][piece.places] = piece.reader.blocks[piece.block].player

    def finish(self, stored: Batch) -> Batch:
        """The logical arrays."""
        out = {name: self.schema.unpack(name, stored[name]) for name in self.names}
        return {**out, "player": stored["player"]}

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


def rows_wanted(block: VisibleBlock, rows: Rows, part: slice | None = None) -> np.ndarray:
    """int64, rising: the rows of a block, or of a part of it, that count. Raises ShardError."""
    first, last = (0, block.info.rows) if part is None else (part.start, min(part.stop, block.info.rows))
    last_rows = rows == "transitions" and block.reader.statistics(block.info.index)["is_last"].high != 0
    if block.keep is None and not last_rows:
        return np.arange(first, last)
    keep = np.ones(last - first, bool) if block.keep is None else block.keep[first:last].copy()
    if last_rows:
        is_last = np.empty(last - first, bool)
        every = np.arange(first, last)
        block.reader.read_into(block.info.index, every, {"is_last": is_last}, every - first)
        keep &= ~is_last
    return first + np.flatnonzero(keep)


def scan(
    run: Run, names: Sequence[str], batch_size: int, rows: Rows, skip_damaged: bool, threads: int
) -> Iterator[Batch]:
    """See `Run.scan`."""
    if batch_size < 1:
        raise UsageError(f"a batch of {batch_size} rows is none; use 1 or more")
    decoder = BatchDecoder(run.schema, names)
    yield from in_order(decoder.make, _in_file_order(run, names, batch_size, rows, skip_damaged), threads)


def _in_file_order(
    run: Run, names: Sequence[str], batch_size: int, rows: Rows, skip_damaged: bool
) -> Iterator[list[Piece]]:
    """The pieces of each batch."""
    batch: list[Piece] = []
    filled = 0
    for block in run.blocks():
        try:
            wanted = rows_wanted(block, rows)
            if skip_damaged:
                block.reader.read_block(block.info.index, names)  # whether it can be read at all
        except ShardError:
            if skip_damaged:
                continue
            raise
        while len(wanted):
            part, wanted = wanted[: batch_size - filled], wanted[batch_size - filled :]
            batch.append(Piece(block.reader, block.info.index, part, np.arange(filled, filled + len(part))))
            filled += len(part)
            if filled == batch_size:
                yield batch
                batch, filled = [], 0
    if batch:
        yield batch


def shuffled(
    run: Run,
    names: Sequence[str],
    batch_size: int,
    seed: int,
    epoch: int,
    rows: Rows,
    memory: int,
    threads: int,
) -> Iterator[Batch]:
    """See `Run.shuffled`."""
    if batch_size < 1:
        raise UsageError(f"a batch of {batch_size} rows is none; use 1 or more")
    decoder = BatchDecoder(run.schema, names)
    pieces = _pieces(run)
    pieces = pieces[np.random.default_rng([seed, epoch]).permutation(len(pieces))]
    row_bytes = sum(run.schema.column(name).row_bytes for name in names)
    at_once = max(1, batch_size // PIECE_ROWS, memory // (row_bytes * PIECE_ROWS))
    left: Batch | None = None
    with ExitStack() as stack:
        pool = stack.enter_context(ThreadPoolExecutor(threads, "expkit-read")) if threads > 1 else None
        for wave, first in enumerate(range(0, len(pieces), at_once)):
            parts = _wanted_of(run, pieces[first : first + at_once], rows)
            carried = 0 if left is None else len(left["player"])
            total = carried + sum(len(part) for _, part in parts)
            places = np.random.default_rng([seed, epoch, wave]).permutation(total)
            stored = decoder.empty(total)
            if left is not None:
                for name, values in left.items():
                    stored[name][places[:carried]] = values
            todo, at = [], carried
            for block, part in parts:
                todo.append(Piece(block.reader, block.info.index, part, places[at : at + len(part)]))
                at += len(part)
            for _ in (
                map(decoder.fill, [stored] * len(todo), todo)
                if pool is None
                else pool.map(decoder.fill, [stored] * len(todo), todo)
            ):
                pass
            whole = total // batch_size * batch_size
            logical = decoder.finish({name: values[:whole] for name, values in stored.items()})
            for begin in range(0, whole, batch_size):
                yield {name: values[begin : begin + batch_size] for name, values in logical.items()}
            left = {name: values[whole:] for name, values in stored.items()}
    if left is not None and len(left["player"]):
        yield decoder.finish(left)


def _pieces(run: Run) -> np.ndarray:
    """int64 (n, 3): shard, block and first row of every piece, from the blocks' entries in the index alone."""
    out = []
    for block in run.blocks():
        first = np.arange(0, block.info.rows, PIECE_ROWS)
        out.append(np.stack([np.full(len(first), block.shard), np.full(len(first), block.info.index), first], 1))
    return np.concatenate(out) if out else np.empty((0, 3), np.int64)


def _wanted_of(run: Run, pieces: np.ndarray, rows: Rows) -> list[tuple[VisibleBlock, np.ndarray]]:
    """Blocks and their rows that count, of the pieces of a wave."""
    out = []
    for shard, index, first in pieces.tolist():
        block = run.visible(shard, index)
        out.append((block, rows_wanted(block, rows, slice(first, first + PIECE_ROWS))))
    return out
