"""The observation after each row's action, read from the row that follows; it is stored nowhere else."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np

from expkit.batches.decode import Batch, BatchDecoder, Piece
from expkit.batches.source import BatchSource
from expkit.batches.timeline import Timeline
from expkit.formats.shard.pool import POOL
from expkit.rewards.protocol import NEXT

_THERE = "next"  # no field is called so in a batch, nor does a column end so


class NextObservations(BatchDecoder):
    """Makes batches with `next_NAME` beside every wanted field NAME that belongs to the observation, and
    `valid:next_NAME`, which is false where the next row is not there: the episode was cut off, or rows are missing."""

    def __init__(self, run: BatchSource, timeline: Timeline, names: Sequence[str], also: Sequence[str] = ()):
        super().__init__(run.schema, names, run.policy_places, also)
        self._run = run
        self._index, self._following = run.index, timeline.following
        self._fields = [name for name in names if name in run.schema and run.schema[name].belongs == "observation"]
        wanted = [name for name in names if name.removeprefix("valid:") in self._fields]
        self._next = [run.schema.column(name) for name in ("step", *wanted)]
        self.row_bytes += sum(column.row_bytes for column in self._next)

    def empty(self, rows: int) -> Batch:
        after = {NEXT + column.name: POOL.empty(column.shape(rows), column.dtype) for column in self._next}
        return {**super().empty(rows), **after, _THERE: np.empty(rows, bool)}

    def fill(self, stored: Batch, piece: Piece) -> None:
        super().fill(stored, piece)
        follow, index, places = self._following, self._index, piece.places
        segments = follow.segments(piece.shard, piece.block, piece.rows)
        inside = piece.rows + 1 < index.first_row[segments] + index.rows[segments]
        there, into = inside.copy(), {column.name: stored[NEXT + column.name] for column in self._next}
        piece.reader.read_into(piece.block, piece.rows[inside] + 1, into, places[inside])
        after = follow.after(segments)
        for one, at in self._others(after, np.flatnonzero(~inside & (after >= 0)), places):
            one.reader.read_into(one.block, one.rows, into, one.places)
            there[at] = True
        lacking = there & follow.lacks(segments)
        if lacking.any():
            step = stored["step"][places].astype(np.int64)
            there &= ~(lacking & (stored[NEXT + "step"][places].astype(np.int64) - step > 1))
        stored[_THERE][places] = there
        for column in self._next:
            stored[NEXT + column.name][places[~there]] = 0

    def _others(self, after: np.ndarray, at: np.ndarray, places: np.ndarray) -> Iterator[tuple[Piece, np.ndarray]]:
        """Pieces of the segments `after` of the rows `at`, which begin elsewhere, and which rows those are."""
        index, onward = self._index, after[at]
        order = np.lexsort((index.first_row[onward], index.block[onward], index.shard[onward]))
        at, onward = at[order], onward[order]
        shards, blocks = index.shard[onward], index.block[onward]
        new = (np.diff(shards, prepend=-1) != 0) | (np.diff(blocks, prepend=-1) != 0)
        for begin, end in pairwise([*np.flatnonzero(new).tolist(), len(at)]):
            shard, mine = int(shards[begin]), slice(begin, end)
            reader, rows = self._run.reader(shard), index.first_row[onward[mine]]
            yield Piece(reader, int(blocks[begin]), rows, places[at[mine]], 0, shard), at[mine]

    def finish(self, stored: Batch) -> Batch:
        out = super().finish(stored)
        for name in self._fields:
            there = stored[_THERE]
            if self.schema[name].nullable:
                there = there & stored[f"{NEXT}valid:{name}"]
            out[NEXT + name] = self.schema.unpack(name, stored[NEXT + name])
            if self.schema[name].expand is not None:
                out[NEXT + name][~there] = False  # which holds what is true of every row
            out[f"valid:{NEXT}{name}"] = there
        return out
