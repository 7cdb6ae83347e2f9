"""Which rows and episodes of a run count after parts of it were rewritten.

A shard written by maintenance lives in `shards/gN/`: it is of *generation* N, the recorder's own shards are of
generation 0. Its header may say

    supersedes   [[first, last], …]   whole episode numbers, ends included: these episodes in shards of a lower
                                      generation no longer count
    retires      ["w0/000003", …]     shards in which nothing counts any more: no rows, no records, no drops

Both hold from the moment the shard has its published name, so that one rename commits a rewrite. Deleting what is
superseded can wait, be killed and be repeated.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from expkit.errors import CheckFailed, NewerFormat, NotThere, ShardError
from expkit.formats.shard.blocks import BlockInfo
from expkit.formats.shard.read import ShardReader
from expkit.row.episodes import MOST_ROWS, WRITER_BITS
from expkit.row.schema import Schema
from expkit.runs.counters import read_ledger
from expkit.runs.entries import stranger
from expkit.runs.layout import SHARD_NAME, ShardPath, list_shards
from expkit.runs.locks import Lock, lock_writer

Ranges = list[tuple[int, int]]


def ranges_of(episodes: Iterable[int]) -> Ranges:
    """Whole episode numbers as sorted ranges, both ends included. Only numbers given are covered."""
    numbers = np.unique(np.fromiter(episodes, np.uint64))
    if not len(numbers):
        return []
    breaks = np.flatnonzero(np.diff(numbers) != 1)
    first = numbers[np.concatenate([[0], breaks + 1])]
    last = numbers[np.concatenate([breaks, [len(numbers) - 1]])]
    return list(zip(first.tolist(), last.tolist(), strict=True))


@dataclass(frozen=True, slots=True)
class Layer:
    """What one generation supersedes: sorted ranges that do not overlap, as two u64 arrays."""

    generation: int
    first: np.ndarray
    last: np.ndarray

    def covers(self, episodes: np.ndarray) -> np.ndarray:
        """bool, like `episodes` (u64)."""
        place = np.searchsorted(self.first, episodes, "right") - 1
        return (place >= 0) & (episodes <= self.last[np.maximum(place, 0)])

    def meets(self, low: int, high: int) -> bool:
        """Whether an episode of [low, high] may be covered."""
        place = int(np.searchsorted(self.last, np.uint64(low), "left"))
        return place < len(self.first) and int(self.first[place]) <= high


class Superseding:
    """What the published shards of higher generations say of the others. Empty for a run never rewritten."""

    def __init__(self, layers: Sequence[Layer] = (), retired: frozenset[str] = frozenset()):
        self.layers = sorted(layers, key=lambda layer: layer.generation)
        self.retired = retired

    @classmethod
    def read(cls, shards: Iterable[ShardPath], schema: Schema | None = None, run: str = "") -> Superseding:
        """From the headers of the published generation shards among `shards`. One that cannot be read, or is not of the
        run of that id, says nothing; validation reports it. `schema` serves where a file's own copies are lost.
        Raises NewerFormat."""
        ranges: dict[int, Ranges] = {}
        retired: set[str] = set()
        for shard in shards:
            if not shard.generation or shard.active:
                continue
            try:
                with ShardReader(shard.path, schema=schema) as reader:
                    if stranger(reader.header, shard, run):
                        continue
                    ranges.setdefault(shard.generation, []).extend(superseded_by(reader))
                    retired.update(_names(reader.header.get("retires")))
            except NewerFormat:
                raise  # what it supersedes would be counted twice
            except (ShardError, NotThere):
                continue
        return cls([_layer(generation, found) for generation, found in ranges.items() if found], frozenset(retired))

    def __bool__(self) -> bool:
        return bool(self.layers or self.retired)

    def hidden(self, generation: int, episodes: np.ndarray) -> np.ndarray:
        """bool, like `episodes` (u64): which of them do not count in a shard of that generation."""
        episodes = np.asarray(episodes, np.uint64)
        out = np.zeros(episodes.shape, bool)
        for layer in self._above(generation):
            out |= layer.covers(episodes)
        return out

    def may_hide(self, generation: int, low: int, high: int) -> bool:
        """Whether an episode of [low, high] may be hidden in a shard of that generation."""
        return any(layer.meets(low, high) for layer in self._above(generation))

    def _above(self, generation: int) -> list[Layer]:
        return [layer for layer in self.layers if layer.generation > generation]


def superseded_by(reader: ShardReader) -> Ranges:
    """What a generation shard supersedes: as its header says, or, where the header is lost, what it holds."""
    told = reader.header.get("supersedes")
    if isinstance(told, list) and all(map(_is_range, told)):
        return [(first, last) for first, last in told]
    held = {start.episode for start in reader.episode_starts}
    for block in reader.blocks:
        try:
            held.update(reader.runs(block.index)["episode"].tolist())
        except ShardError:
            continue
    return ranges_of(held)


def _names(told: Any) -> list[str]:
    """Those of the names a header gives that are names of shards."""
    return (
        [name for name in told if isinstance(name, str) and SHARD_NAME.fullmatch(name)]
        if isinstance(told, list)
        else []
    )


def _is_range(pair: Any) -> bool:
    return (
        isinstance(pair, list)
        and len(pair) == 2
        and all(isinstance(value, int) for value in pair)
        and 0 <= pair[0] <= pair[1] < 1 << 64
    )


def _layer(generation: int, ranges: Ranges) -> Layer:
    """Ranges of one generation, sorted and joined where they meet."""
    joined: list[list[int]] = []
    for first, last in sorted(ranges):
        if joined and first <= joined[-1][1] + 1:
            joined[-1][1] = max(joined[-1][1], last)
        else:
            joined.append([first, last])
    table = np.array(joined, np.uint64)
    return Layer(generation, table[:, 0].copy(), table[:, 1].copy())


@dataclass(frozen=True, slots=True)
class VisibleBlock:
    """A block of a run with rows that count.

    shard   position of its shard in `Run.shard_paths`;  name: `w0/000003`
    keep    bool (rows of the block,): which rows count; None when all do
    run     which of the runs that are read together it belongs to
    """

    shard: int
    name: str
    reader: ShardReader
    info: BlockInfo
    keep: np.ndarray | None
    run: int = 0

    @property
    def rows(self) -> int:
        return self.info.rows if self.keep is None else int(np.count_nonzero(self.keep))

    def read(self, columns: Iterable[str] | None = None) -> dict[str, np.ndarray]:
        """Stored arrays of the rows that count, as `ShardReader.read_block` gives them. Raises ShardError."""
        stored = self.reader.read_block(self.info.index, columns)
        if self.keep is None:
            return stored
        return {name: values[self.keep] for name, values in stored.items()}


def visible_block(
    superseding: Superseding, shard: int, path: ShardPath, reader: ShardReader, info: BlockInfo
) -> VisibleBlock | None:
    """The block with its rows that count, None when none does. A block whose head is damaged counts whole: it can
    not be read anyway."""
    keep = None
    if superseding.may_hide(path.generation, info.episode_min, info.episode_max):
        try:
            runs = reader.runs(info.index)
        except ShardError:
            return VisibleBlock(shard, path.name, reader, info, None)
        shown = ~superseding.hidden(path.generation, runs["episode"])
        if not shown.any():
            return None
        if not shown.all():
            keep = np.repeat(shown, runs["rows"])
    return VisibleBlock(shard, path.name, reader, info, keep)


def next_shard_number(run: Path, writer: int) -> int:
    """The number of the writer's next shard: above all that are there, and above all that were retired, for a shard
    under a retired name would not count."""
    shards = list_shards(run)
    folder = f"w{writer}/"
    retired = [int(name.removeprefix(folder)) for name in Superseding.read(shards).retired if name.startswith(folder)]
    return max([*retired, *(shard.number for shard in shards if shard.writer == writer)], default=-1) + 1


def used_writers(run: Path) -> set[int]:
    """Numbers of writers that recorded into the run, also where neither their locks nor their shards are left: a copy
    comes without locks, and compacting takes a writer's last shard. Rows are numbered by writer, so a number that was
    used is used for good."""
    shards = list_shards(run)
    used = {shard.writer for shard in shards if shard.writer is not None}
    for layer in Superseding.read(shards).layers:
        for first, last in zip(layer.first.tolist(), layer.last.tolist(), strict=True):
            used.update(range(first >> WRITER_BITS, (last >> WRITER_BITS) + 1))
    with suppress(CheckFailed):  # a damaged ledger tells nothing
        used.update(section.writer for section in read_ledger(run) or [])
    return used


def claim_writer(run: Path, writer: int | None = None) -> tuple[int, Lock]:
    """The lock of `writer`, or of the lowest number that was never used in the run. Raises Busy, UsageError."""
    return lock_writer(run, writer, used_writers(run) if writer is None else ())


def removed_rows(header: dict[str, Any]) -> list[tuple[int, int, int, int]]:
    """The header's account of rows that maintenance took out: [(writer, player, pruned, quarantined), …]."""
    told = header.get("removed")
    if not isinstance(told, list):
        return []
    return [
        (row[0], row[1], row[2], row[3])
        for row in told
        if isinstance(row, list) and len(row) == 4 and all(map(_is_count, row))
    ]


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and 0 <= value <= MOST_ROWS


def shards_of(run: str, shards: Sequence[ShardPath]) -> tuple[list[ShardPath], Superseding]:
    """Those of `shards` in which something counts, and what hides rows in them; `run` is the run's id."""
    superseding = Superseding.read(shards, run=run)
    return [shard for shard in shards if shard.name not in superseding.retired], superseding
