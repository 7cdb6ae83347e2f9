"""Batches of a run's rows that have gone through a pipeline, in order or shuffled.

Where no link looks at more than a row, the rows are read as they are without a pipeline. Where one needs whole
episodes, a wave of them is read at a time: consecutive ones, for before a compaction their rows lie in the same blocks,
so that each block is read about once, and no more than a wave is in memory.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from expkit.batches import decode as batches
from expkit.batches.decode import BATCH_BYTES, PIECE_BYTES, PIECE_FRAMES, Batch, BatchDecoder, Piece, Rows, stored_names
from expkit.batches.epochs import Epoch, beginning
from expkit.batches.selection import Selection
from expkit.batches.source import BatchSource
from expkit.errors import ShardError
from expkit.formats.shard.layout import FRAME_ROWS
from expkit.pipeline import Chain, ColumnBatch
from expkit.row.stretches import stretches
from expkit.system.parallel import in_order


def scan(
    run: BatchSource,
    chain: Chain,
    columns: Sequence[str] | None,
    batch_size: int | None,
    rows: Rows,
    skip_damaged: bool,
    threads: int,
    selection: Selection | None = None,
) -> Iterator[Batch]:
    """See `Readable.scan`."""
    batches.check_batch_size(batch_size)
    decoder = _ProcessingDecoder(run, chain, columns, selection)
    made: Iterator[Batch]
    if chain.whole_episodes:
        episodes = _Episodes(run, decoder, skip_damaged)
        most = max(1, BATCH_BYTES // (decoder.row_bytes + decoder.made_bytes))
        waves = map(episodes.wave, _waves(episodes.rows, most))
        made = in_order(lambda wave: decoder.unpack(episodes.read(rows, wave)), waves, threads)
    else:
        size = None if chain.leaves_out else batch_size
        made = batches.scan(run, decoder, size, rows, skip_damaged, threads, selection)
    yield from _filled(made) if batch_size is None else _of_size(made, batch_size)


def shuffled(
    run: BatchSource,
    chain: Chain,
    columns: Sequence[str] | None,
    batch_size: int,
    seed: int,
    epoch: int,
    rows: Rows,
    memory: int,
    threads: int,
    selection: Selection | None = None,
) -> Iterator[Batch]:
    """See `Readable.shuffled`."""
    batches.check_batch_size(batch_size)
    decoder = _ProcessingDecoder(run, chain, columns, selection)
    if not chain.whole_episodes:
        state = beginning(
            run, decoder, batch_size=batch_size, seed=seed, epoch=epoch, rows=rows, where=None, memory=memory
        )
        made = Epoch(run, decoder, state, selection, threads)
        yield from _of_size(made, batch_size)
        return
    episodes = _Episodes(run, decoder, False)
    left: list[Batch] = []
    # Of what comes out of a wave there is a second copy, which is mixed.
    most = max(1, memory // (decoder.row_bytes + 2 * decoder.made_bytes))
    for number, groups in enumerate(_mixed_waves(episodes, decoder.row_bytes, seed, epoch, most)):
        mixed = _mixed([*left, episodes.read(rows, episodes.wave(groups), threads)], [seed, epoch, number])
        total = len(mixed["player"])
        whole = total // batch_size * batch_size
        for begin in range(0, whole, batch_size):
            yield decoder.unpack({name: values[begin : begin + batch_size] for name, values in mixed.items()})
        left = [{name: values[whole:].copy() for name, values in mixed.items()}]
    yield from map(decoder.unpack, _filled(left))


class _ProcessingDecoder(BatchDecoder):
    """Makes batches of what comes out of a chain: `columns` of it, all when left out. What no link asks for stays as it
    is stored until it is known which rows are left, and in which order.

    made_bytes  of a row that comes out of `process`
    """

    def __init__(self, run: BatchSource, chain: Chain, columns: Sequence[str] | None, selection: Selection | None):
        names = stored_names(chain.from_schema, chain.needs(columns))
        # Where whole episodes are processed, it shows only afterwards which of their rows are wanted.
        self._selection = selection if chain.whole_episodes else None
        if self._selection is not None:
            names += [name for name in self._selection.columns if name not in names]
        super().__init__(chain.from_schema, names, run.policy_places)
        self._chain = chain
        self._wanted = stored_names(chain.schema, columns)
        self._altered = {name for name in self._wanted if name.removeprefix("valid:") in chain.altered()}
        self._touched = stored_names(chain.from_schema, chain.needs(()))
        made = [chain.schema[name] for name in self._altered if name in chain.schema]
        self.made_bytes = sum(math.prod(known.logical_shape) * known.numpy_dtype.itemsize for known in made)
        self.made_bytes += sum(self.schema.column(n).row_bytes for n in self._wanted if n not in self._altered)

    def finish(self, stored: Batch) -> Batch:
        return self.unpack(self.process(stored, None, "all"))

    def process(self, stored: Batch, stretch: np.ndarray | None, rows: Rows) -> Batch:
        """Rows through the chain, and then without last rows or with them, and those selected. What no link changed is
        as it is stored."""
        chain, player = self._chain, stored["player"]
        logical = {name: self.schema.unpack(name, stored[name]) for name in self._touched}
        done = chain.apply(ColumnBatch(chain.from_schema, {**logical, "player": player}, stretch))
        keep: slice | np.ndarray = slice(None) if rows == "all" else ~done.batch["is_last"]
        if self._selection is not None:
            selected = self._selection.of_rows(stored)[done.rows]
            keep = selected if rows == "all" else selected & ~done.batch["is_last"]
        left: slice | np.ndarray = slice(None) if len(done.rows[keep]) == len(player) else done.rows[keep]
        out = {n: done.batch[n][keep] if n in self._altered else stored[n][left] for n in self._wanted}
        return {**out, **{name: stored[name][left] for name in self.beside}}

    def unpack(self, processed: Batch) -> Batch:
        """The logical arrays of what `process` gave."""
        stored = (name for name in self._wanted if name not in self._altered)
        return {**processed, **{name: self.schema.unpack(name, processed[name]) for name in stored}}


class _Wave(NamedTuple):
    """Some players' episodes: where their rows are, how many, and of which rows' episodes others may be missing, bool
    (rows,)."""

    pieces: list[Piece]
    rows: int
    missing: np.ndarray


class _Episodes:
    """The players' episodes of a run, by number and player, to be read whole.

    rows  int64: of each of them
    """

    def __init__(self, run: BatchSource, decoder: _ProcessingDecoder, skip_damaged: bool):
        self._run, self._decoder, self._skip = run, decoder, skip_damaged
        if not skip_damaged:
            for block in run.blocks():
                block.reader.runs(block.info.index)  # which raises for those that the index has to leave out
        index = self._index = run.index
        starts = np.flatnonzero(index.boundaries)
        self._bounds = np.append(starts, len(index.rows)) if len(starts) else np.zeros(1, np.int64)
        self.rows = np.add.reduceat(index.rows, starts) if len(starts) else np.empty(0, np.int64)
        steps = index.last_step[self._bounds[1:] - 1] - index.first_step[self._bounds[:-1]] + 1
        self._jumps = steps != self.rows
        self._readable: dict[tuple[int, int], bool] = {}

    def wave(self, groups: np.ndarray) -> _Wave:
        """The rows of the episodes with those numbers (int64), one after another, in the order of their steps."""
        index = self._index
        counts = self._bounds[groups + 1] - self._bounds[groups]
        segments, group = _ranges(self._bounds[groups], counts), np.repeat(np.arange(len(groups)), counts)
        missing = self._jumps[groups]
        missing[missing] = [self._lacks_rows(number) for number in groups[missing].tolist()]
        if self._skip:
            good = np.array([self._can_read(*place) for place in self._places(segments)], bool)
            missing[group[~good]] = True
            segments, group = segments[good], group[good]
        place = np.cumsum(index.rows[segments]) - index.rows[segments]
        order = np.lexsort((index.first_row[segments], index.block[segments], index.shard[segments]))
        shard, block = index.shard[segments][order], index.block[segments][order]
        starts = np.flatnonzero((np.diff(shard, prepend=-1) != 0) | (np.diff(block, prepend=-1) != 0))
        pieces = []
        for begin, end in pairwise([*starts.tolist(), len(order)]):
            mine = order[begin:end]
            lengths = index.rows[segments[mine]]
            rows, places = _ranges(index.first_row[segments[mine]], lengths), _ranges(place[mine], lengths)
            run = int(index.run[segments[mine[0]]])
            reader, number = self._run.reader(int(shard[begin])), int(block[begin])
            pieces.append(Piece(reader, number, rows, places, run, int(shard[begin])))
        return _Wave(pieces, int(index.rows[segments].sum()), np.repeat(missing[group], index.rows[segments]))

    def _places(self, segments: np.ndarray) -> Iterable[tuple[int, int]]:
        return zip(self._index.shard[segments].tolist(), self._index.block[segments].tolist(), strict=True)

    def _can_read(self, shard: int, block: int) -> bool:
        known = self._readable.get((shard, block))
        if known is None:
            try:
                self._run.reader(shard).read_block(block, self._decoder.names)
                known = True
            except ShardError:
                known = False
            self._readable[shard, block] = known
        return known

    def read(self, rows: Rows, wave: _Wave, threads: int = 1) -> Batch:
        """Decode a wave, number its stretches, put it through the chain. Raises ShardError."""
        stored = self._decoder.empty(wave.rows)
        for _ in in_order(partial(self._decoder.fill, stored), wave.pieces, threads):
            pass
        stretch = stretches(stored["episode"], stored["player"], stored["step"], wave.missing)
        return self._decoder.process(stored, stretch, rows)

    def _lacks_rows(self, group: int) -> bool:
        """Whether a row inside a player's episode, whose steps do not all follow each other, may be missing."""
        index, first = self._index, int(self._bounds[group])
        run, episode, player = int(index.run[first]), int(index.episode[first]), int(index.player[first])
        return self._run.lacks_rows(run, episode, player, int(self.rows[group]))


def _ranges(first: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """int64: first[0], first[0] + 1, … counts[0] of them, then those of first[1], …"""
    before = np.cumsum(counts) - counts
    return np.arange(int(counts.sum())) + np.repeat(first - before, counts)


def _waves(sizes: np.ndarray, most: int) -> Iterator[np.ndarray]:
    """Numbers of consecutive things of those sizes, at most `most` together, but at least one."""
    begin, ends = 0, np.cumsum(sizes)
    while begin < len(sizes):
        before = int(ends[begin - 1]) if begin else 0
        end = max(begin + 1, int(np.searchsorted(ends, before + most, "right")))
        yield np.arange(begin, end)
        begin = end


def _mixed_waves(episodes: _Episodes, row_bytes: int, seed: int, epoch: int, most: int) -> Iterator[np.ndarray]:
    """Waves of episodes in random order; neighbours that lie in one piece of the files stay together."""
    frames = min(max(round(PIECE_BYTES / (FRAME_ROWS * row_bytes)), 1), PIECE_FRAMES)
    pieces = list(_waves(episodes.rows, min(FRAME_ROWS * frames, most)))
    order = np.random.default_rng([seed, epoch]).permutation(len(pieces))
    sizes = np.array([int(episodes.rows[pieces[place]].sum()) for place in order.tolist()], np.int64)
    for wave in _waves(sizes, most):
        yield np.concatenate([pieces[place] for place in order[wave].tolist()])


def _filled(made: Iterable[Batch]) -> Iterator[Batch]:
    return (batch for batch in made if len(batch["player"]))


def _of_size(made: Iterable[Batch], size: int) -> Iterator[Batch]:
    """The same rows in batches of `size`, the last one smaller."""
    waiting: list[Batch] = []
    rows = 0
    for batch in _filled(made):
        if not waiting and len(batch["player"]) == size:
            yield batch
            continue
        waiting.append(batch)
        rows += len(batch["player"])
        if rows < size:
            continue
        whole = _joined(waiting)
        for begin in range(0, rows - size + 1, size):
            yield {name: values[begin : begin + size] for name, values in whole.items()}
        rest = rows % size
        waiting = [{name: values[-rest:] for name, values in whole.items()}] if rest else []
        rows = rest
    if waiting:
        yield _joined(waiting)


def _mixed(parts: Sequence[Batch], seed: Sequence[int]) -> Batch:
    """The rows of all parts in random order."""
    sizes = [len(part["player"]) for part in parts]
    places = np.split(np.random.default_rng(seed).permutation(sum(sizes)), np.cumsum(sizes)[:-1])
    out = {}
    for name, values in parts[0].items():
        out[name] = np.empty((sum(sizes), *values.shape[1:]), values.dtype)
        for part, mine in zip(parts, places, strict=True):
            out[name][mine] = part[name]
    return out


def _joined(parts: Sequence[Batch]) -> Batch:
    if len(parts) == 1:
        return parts[0]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
