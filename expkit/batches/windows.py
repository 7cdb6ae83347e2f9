"""Windows: so many rows of one player's episode that follow each other with none missing in between."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from expkit.batches.decode import BATCH_BYTES, Batch, BatchDecoder, Rows
from expkit.batches.selection import Selection
from expkit.batches.timeline import Timeline
from expkit.errors import NotThere, UsageError
from expkit.system.parallel import in_order

VALID = "valid:window"


class Windows:
    """All windows of a run by their number, 0 up to `total`: 24 bytes for each stretch of rows without a gap.

    length, stride  of a window, and from the beginning of one to that of the next, in rows
    pad             the windows at the end of a stretch are there, too, where fewer than `length` rows are left; what
                    follows these is zero, and false in `valid:window`
    """

    def __init__(self, timeline: Timeline, length: int, stride: int, rows: Rows, pad: bool):
        if length < 1 or stride < 1:
            raise UsageError(f"windows of {length} rows every {stride} are none; use 1 or more")
        self._timeline, self.length, self.stride, self._pad = timeline, length, stride, pad
        self._first, self._lengths = timeline.stretches(rows)
        over = self._lengths - length
        if pad:
            self._counts = np.minimum(-(-np.maximum(over, 0) // stride) + 1, -(-self._lengths // stride))
        else:
            self._counts = np.maximum(over // stride + 1, 0)
        self._ends = np.cumsum(self._counts)
        self.total = int(self._ends[-1]) if len(self._ends) else 0

    def read(self, decoder: BatchDecoder, numbers: np.ndarray, selection: Selection | None = None) -> Batch:
        """Those windows (int64), in that order: arrays that lead with (windows, length). With a selection only those
        all of whose rows it wants. Raises ShardError."""
        stretches = np.searchsorted(self._ends, numbers, "right")
        begins = (numbers - (self._ends[stretches] - self._counts[stretches])) * self.stride
        left = np.minimum(self._lengths[stretches] - begins, self.length)
        rows = (self._first[stretches] + begins)[:, None] + np.arange(self.length)
        valid = np.arange(self.length) < left[:, None]
        places = np.flatnonzero(valid)
        stored = decoder.empty(valid.size)
        for piece in self._timeline.pieces(rows[valid], places):
            decoder.fill(stored, piece)
        if len(places) < valid.size:
            absent = np.flatnonzero(~valid)
            for values in stored.values():
                values[absent] = 0
        keep: slice | np.ndarray = slice(None)
        if selection is not None:
            # Padding is no row, so that it is not asked.
            keep = (selection.of_rows(stored).reshape(valid.shape) | ~valid).all(1)
        batch = decoder.finish(stored)
        for name in batch:
            if name in decoder.schema and decoder.schema[name].expand is not None:
                batch[name][~valid.ravel()] = False  # which holds what is true of every row
        out = {name: values.reshape(*valid.shape, *values.shape[1:])[keep] for name, values in batch.items()}
        return {**out, VALID: valid[keep]} if self._pad else out

    def batches(
        self, decoder: BatchDecoder, size: int | None, threads: int, selection: Selection | None
    ) -> Iterator[Batch]:
        """All of them, episode after episode, `size` at a time or about 32 MiB."""
        size = size or max(1, BATCH_BYTES // (decoder.row_bytes * self.length))
        numbers = (np.arange(begin, min(begin + size, self.total)) for begin in range(0, self.total, size))
        made = in_order(lambda some: self.read(decoder, some, selection), numbers, threads)
        return (batch for batch in made if len(batch["player"]))

    def sample(self, decoder: BatchDecoder, count: int, rng: np.random.Generator) -> Batch:
        """`count` drawn uniformly with replacement. Raises NotThere when there are none."""
        if not self.total:
            raise NotThere(f"no player's episode has {self.length} rows without a gap; use a smaller length, or pad")
        return self.read(decoder, rng.integers(0, self.total, count))
