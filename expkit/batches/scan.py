"""The rows of blocks that are wanted, in the order of the files, in batches."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from expkit.batches.decode import BATCH_BYTES, Batch, BatchDecoder, Piece, Rows
from expkit.batches.selection import Selection
from expkit.batches.source import BatchSource
from expkit.errors import ShardError, UsageError
from expkit.formats.shard.layout import FRAME_ROWS
from expkit.runs.superseding import VisibleBlock
from expkit.system.parallel import in_order


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


def scan_rows(
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
