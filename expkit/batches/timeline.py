"""The rows of runs, numbered in the order of (run, episode, player, step), and what follows what without a gap."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from itertools import pairwise

import numpy as np

from expkit.batches.decode import Batch, BatchDecoder, Piece, Rows
from expkit.batches.source import BatchSource
from expkit.errors import NotThere

_AT_ONCE = 1 << 20  # rows of which one column is looked at together


class Timeline:
    """Rows by their number, 0 up to `total`, over the segments of the index: 8 bytes a segment.

    first, rows  int64 (players' episodes,): the number of the first row of each, and how many there are
    total        all rows
    """

    def __init__(self, run: BatchSource):
        self._run, self.index = run, run.index
        index = self.index
        self._ends = np.cumsum(index.rows)
        self.total = int(self._ends[-1]) if len(self._ends) else 0
        starts = np.flatnonzero(index.boundaries)
        self._segments = np.append(starts, len(index.rows))
        self.rows = np.add.reduceat(index.rows, starts) if len(starts) else np.empty(0, np.int64)
        self.first = np.cumsum(self.rows) - self.rows

    def pieces(self, numbers: np.ndarray, places: np.ndarray | None = None) -> Iterator[Piece]:
        """Where those rows (int64, in any order, also repeated) are, block by block; row numbers[i] goes to places[i],
        to i when left out. Raises NotThere, ShardError."""
        index = self.index
        segments = np.searchsorted(self._ends, numbers, "right")
        rows = numbers - (self._ends[segments] - index.rows[segments]) + index.first_row[segments]
        shards, blocks = index.shard[segments], index.block[segments]
        order = np.lexsort((rows, blocks, shards))
        new = (np.diff(shards[order], prepend=-1) != 0) | (np.diff(blocks[order], prepend=-1) != 0)
        for begin, end in pairwise([*np.flatnonzero(new).tolist(), len(order)]):
            mine = order[begin:end]
            at = int(mine[0])
            shard, run = int(shards[at]), int(index.run[segments[at]])
            to = mine if places is None else places[mine]
            yield Piece(self._run.reader(shard), int(blocks[at]), rows[mine], to, run, shard)

    def column(self, name: str, numbers: np.ndarray) -> np.ndarray:
        """One stored column of those rows. Raises ShardError."""
        decoder = BatchDecoder(self._run.schema, [name])
        stored = decoder.empty(len(numbers))
        for piece in self.pieces(numbers):
            decoder.fill(stored, piece)
        return stored[name]

    def number(self, episode: int, player: int, step: int, run: int = 0) -> int:
        """The number of the row known by those keys. Raises NotThere, ShardError."""
        index = self.index
        begin, end = np.searchsorted(index.run, [run, run + 1])
        low = begin + np.searchsorted(index.episode[begin:end], np.uint64(episode), "left")
        high = begin + np.searchsorted(index.episode[begin:end], np.uint64(episode), "right")
        for at in (low + np.flatnonzero(index.player[low:high] == player)).tolist():
            if index.first_step[at] <= step <= index.last_step[at]:
                first = int(self._ends[at] - index.rows[at])
                numbers = np.arange(first, first + int(index.rows[at]))
                found = np.flatnonzero(self.column("step", numbers) == step)
                if len(found):
                    return first + int(found[0])
        raise NotThere(f"{self._run.label}: no row at episode {episode} player {player} step {step}")

    @cached_property
    def has_last(self) -> np.ndarray:
        """bool (players' episodes,): whether the last row there is holds the final observation only."""
        out = np.zeros(len(self.rows), bool)
        for begin in range(0, len(out), _AT_ONCE):
            part = slice(begin, begin + _AT_ONCE)
            out[part] = self.column("is_last", self.first[part] + self.rows[part] - 1)
        return out

    @cached_property
    def lacking(self) -> np.ndarray:
        """bool (players' episodes,): steps do not all follow each other, and rows may be missing."""
        index, begins, ends = self.index, self._segments[:-1], self._segments[1:]
        out = index.last_step[ends - 1] - index.first_step[begins] + 1 != self.rows
        for group in np.flatnonzero(out).tolist():
            at = int(begins[group])
            run, episode, player = int(index.run[at]), int(index.episode[at]), int(index.player[at])
            out[group] = self._run.lacks_rows(run, episode, player, int(self.rows[group]))
        return out

    def stretches(self, rows: Rows) -> tuple[np.ndarray, np.ndarray]:
        """(first, lengths), int64: rows of a player's episode that follow each other with none missing in between,
        in order; `transitions` without the last rows. Raises ShardError."""
        lengths = self.rows - self.has_last if rows == "transitions" else self.rows
        begins = [self.first[lengths > 0]]
        ends = np.sort((self.first + lengths)[lengths > 0])
        for group in np.flatnonzero(self.lacking & (lengths > 1)).tolist():
            numbers = np.arange(self.first[group], self.first[group] + lengths[group])
            steps = self.column("step", numbers).astype(np.int64)
            begins.append(numbers[1:][np.diff(steps) > 1])
        inner = np.concatenate(begins[1:]) if len(begins) > 1 else np.empty(0, np.int64)
        first = np.sort(np.concatenate([begins[0], inner]))
        return first, np.sort(np.concatenate([ends, inner])) - first

    @cached_property
    def following(self) -> Following:
        return Following(self)


class Following:
    """Where the row after a segment's last is."""

    def __init__(self, timeline: Timeline):
        index = timeline.index
        after = np.arange(1, len(index.rows) + 1)
        after[timeline._segments[1:] - 1] = -1
        self._lacks = np.repeat(timeline.lacking, np.diff(timeline._segments))
        self._order = np.lexsort((index.first_row, index.block, index.shard))
        self._keys = (index.shard << 32 | index.block)[self._order]
        self._first = index.first_row[self._order]
        self._index, self._after = index, after

    def segments(self, shard: int, block: int, rows: np.ndarray) -> np.ndarray:
        """int64: the segments of the index that rows (int64) of a block are in."""
        begin, end = np.searchsorted(self._keys, [shard << 32 | block, (shard << 32 | block) + 1])
        return self._order[begin + np.searchsorted(self._first[begin:end], rows, "right") - 1]

    def after(self, segments: np.ndarray) -> np.ndarray:
        """int64: the segment that follows each in its player's episode, -1 where none does."""
        return self._after[segments]

    def lacks(self, segments: np.ndarray) -> np.ndarray:
        """bool: whether rows may be missing in the player's episode of each segment."""
        return self._lacks[segments]


def sample(run: BatchSource, timeline: Timeline, decoder: BatchDecoder, count: int, rng: np.random.Generator) -> Batch:
    """See `Readable.sample`."""
    if timeline.total == 0 or run.steps == 0:
        raise NotThere(f"{run.label}: no transitions to sample from")
    stored = decoder.empty(count)
    todo = np.arange(count)
    while len(todo):
        draws = np.sort(rng.integers(0, timeline.total, len(todo)))
        rng.shuffle(todo)  # or the rows of a batch would be in the order of the run
        for piece in timeline.pieces(draws, todo):
            decoder.fill(stored, piece)
        todo = todo[stored["is_last"][todo]]
    return decoder.finish(stored)
