"""Batches of a run's rows: in the order of the files, shuffled for training, or drawn at random.

First it is settled which rows of which blocks make a batch and where each goes in it; then every row is decoded where
it is to be. A row of 16 KB is so written to memory once, in whatever order it is wanted: shuffling costs no copy.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from expkit.errors import NotThere, ShardError, UsageError
from expkit.formats.shard.layout import FRAME_ROWS
from expkit.formats.shard.pool import POOL
from expkit.formats.shard.read import ShardReader
from expkit.parallel import in_order
from expkit.runs.superseding import VisibleBlock
from expkit.schema import KEY_NAMES, Schema

if TYPE_CHECKING:
    from expkit.reading.readable import Readable
    from expkit.reading.selection import Selection

Rows = Literal["transitions", "all"]
Batch = dict[str, np.ndarray]
# What shuffling keeps together until it is in memory: whole frames, about so many bytes, so many frames at the most.
# A piece costs 0.3 ms whatever is in it: that is a third of the time of 512 boards of 2.6 KB.
PIECE_BYTES = 4 << 20
PIECE_FRAMES = 8
# Of a batch as the files have it: of 2,048 boards as planes, where a call costs 3 % of the time.
BATCH_BYTES = 32 << 20


class Piece(NamedTuple):
    """Rows `rows` (int64, rising) of block number `block` of a shard of a run, which go to `places` of a batch."""

    reader: ShardReader
    block: int
    rows: np.ndarray
    places: np.ndarray
    run: int = 0

    @classmethod
    def of(cls, block: VisibleBlock, rows: np.ndarray, places: np.ndarray) -> Piece:
        return cls(block.reader, block.info.index, rows, places, block.run)


class BatchDecoder:
    """Makes batches of some columns from pieces. Safe to share between threads.

    policies  where rows of several runs come together, for each run the place of each of its policies (u2) in the table
              of all; batches then have a column `run`
    """

    def __init__(self, schema: Schema, names: Sequence[str], policies: Sequence[np.ndarray] | None = None):
        self.schema, self.names = schema, list(names)
        self._policies = policies
        self.beside = ("player",) if policies is None else ("player", "run")
        self._columns = [schema.column(name) for name in names]
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
            stored["policy"][piece.places] = self._policies[piece.run][stored["policy"][piece.places]]

    def finish(self, stored: Batch) -> Batch:
        """The logical arrays."""
        out = {name: self.schema.unpack(name, stored[name]) for name in self.names}
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
    run: Readable,
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
    run: Readable, names: Sequence[str], rows: Rows, skip_damaged: bool, threads: int, selection: Selection | None
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


def shuffled(
    run: Readable,
    decoder: BatchDecoder,
    batch_size: int,
    seed: int,
    epoch: int,
    rows: Rows,
    memory: int,
    threads: int,
    selection: Selection | None = None,
) -> Iterator[Batch]:
    """See `Readable.shuffled`."""
    check_batch_size(batch_size)
    piece = FRAME_ROWS * min(max(round(PIECE_BYTES / (FRAME_ROWS * decoder.row_bytes)), 1), PIECE_FRAMES)
    pieces = _pieces(run, piece)
    pieces = pieces[np.random.default_rng([seed, epoch]).permutation(len(pieces))]
    at_once = max(1, batch_size // piece, memory // (decoder.row_bytes * piece))
    left: Batch | None = None
    for wave, first in enumerate(range(0, len(pieces), at_once)):
        parts = _wanted_of(run, pieces[first : first + at_once], piece, rows, selection)
        carried = 0 if left is None else len(left["player"])
        total = carried + sum(len(part) for _, part in parts)
        places = np.random.default_rng([seed, epoch, wave]).permutation(total)
        stored = decoder.empty(total)
        if left is not None:
            for name, values in left.items():
                stored[name][places[:carried]] = values
        todo, at = [], carried
        for block, part in parts:
            todo.append(Piece.of(block, part, places[at : at + len(part)]))
            at += len(part)
        for _ in in_order(partial(decoder.fill, stored), todo, threads):
            pass
        whole = total // batch_size * batch_size
        for begin in range(0, whole, batch_size):
            # Flags are unpacked batch by batch: those of a whole wave would be new memory each time.
            yield decoder.finish({name: values[begin : begin + batch_size] for name, values in stored.items()})
        left = {name: values[whole:] for name, values in stored.items()}
    if left is not None and len(left["player"]):
        yield decoder.finish(left)


def _pieces(run: Readable, piece: int) -> np.ndarray:
    """int64 (n, 3): shard, block and first row of every piece, from the blocks' entries in the index alone."""
    out = []
    for block in run.blocks():
        first = np.arange(0, block.info.rows, piece)
        out.append(np.stack([np.full(len(first), block.shard), np.full(len(first), block.info.index), first], 1))
    return np.concatenate(out) if out else np.empty((0, 3), np.int64)


def _wanted_of(
    run: Readable, pieces: np.ndarray, piece: int, rows: Rows, selection: Selection | None
) -> list[tuple[VisibleBlock, np.ndarray]]:
    """Blocks and their rows that count, of the pieces of a wave."""
    out = []
    for shard, index, first in pieces.tolist():
        block = run.visible(shard, index)
        out.append((block, rows_wanted(block, rows, slice(first, first + piece), selection)))
    return out


def sample(run: Readable, decoder: BatchDecoder, count: int, rng: np.random.Generator) -> Batch:
    """See `Readable.sample`."""
    index = run.index
    total = int(index.rows.sum())
    if total == 0 or run.steps == 0:
        raise NotThere(f"{run.label}: no transitions to sample from")
    stored = decoder.empty(count)
    bounds = np.cumsum(index.rows)
    todo = np.arange(count)
    while len(todo):
        draws = np.sort(rng.integers(0, total, len(todo)))
        segments = np.searchsorted(bounds, draws, "right")
        rows = draws - (bounds[segments] - index.rows[segments]) + index.first_row[segments]
        rng.shuffle(todo)  # or the rows of a batch would be in the order of the run
        order = np.lexsort((rows, index.block[segments], index.shard[segments]))
        place = np.stack([index.shard[segments], index.block[segments]], 1)[order]
        starts = np.flatnonzero(np.diff(place, axis=0, prepend=-1).any(1))
        for begin, end in pairwise([*starts.tolist(), len(order)]):
            shard, block = place[begin].tolist()
            mine = order[begin:end]
            decoder.fill(stored, Piece(run.reader(shard), block, rows[mine], todo[mine]))
        todo = todo[stored["is_last"][todo]]
    return decoder.finish(stored)
