"""Which episodes share an output shard, and which rows an output block."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from expkit.formats.shard.layout import FRAME_ROWS
from expkit.rewrite.segments import Segments

# Blocks of 24,576 rows of generals 20x20 take 18.2 B a row and give 680 cold rows a second, of 8,192 rows 18.4 and
# 1,190: the narrow columns of a block are decoded as a whole for one row. Some seven copies of a block are in memory.
BLOCK_BYTES = 16 << 20
BLOCK_ROWS = 16_384
DEFAULT_SHARD_SIZE = 256 << 20


@dataclass(frozen=True, slots=True)
class Encoding:
    """How output blocks are compressed.

    Measured on 110,847 rows of generals 20x20, blocks of 8,192 rows, one thread; cold: one row of a block not read
    before, batch: 256 rows at once. Live recording is level 1, 512 rows, 21.8 B/row.

        level  frame rows   B/row   encoded rows/s   cold rows/s   batch rows/s
            1         512    18.5        1,770,000         1,200         20,000
            6         512    17.7          930,000         1,170         20,200
            9         512    17.3          490,000         1,200         20,100
            6         256    18.8          850,000         1,150         20,700
           12         128    18.6          285,000         1,240         20,900
           12          64    19.8          280,000         1,190         21,600

    Smaller frames gain little: what a single row costs is the fixed work for its 15 columns.
    """

    level: int = 6
    frame_rows: int = FRAME_ROWS


@dataclass(frozen=True, slots=True)
class BlockPlan:
    """The rows of one output block: of each of `segments` the rows from `skip` on, `rows` many. `lost` are the columns
    that none of them has."""

    player: int
    segments: Segments
    skip: np.ndarray
    rows: np.ndarray
    lost: tuple[str, ...]


def cut_shards(estimates: np.ndarray, size: int, preferred: np.ndarray | None = None) -> list[slice]:
    """Cut episodes, given the bytes each is estimated to take, into shards of about `size` bytes: from half to one and
    a half as much, but for single episodes and what is left at the end.

    preferred  rising numbers of episodes before which a cut is best
    """
    upto = np.concatenate([[0.0], np.cumsum(estimates)])
    best = np.empty(0, np.int64) if preferred is None else preferred
    bounds = [0]
    while upto[-1] - upto[bounds[-1]] > 1.5 * size:
        begin = bounds[-1]
        wanted = upto[begin] + size
        end = max(_nearest(upto, wanted), begin + 1)
        good = best[best > begin]
        if len(good):
            near = int(good[_nearest(upto[good], wanted)])
            end = near if abs(upto[near] - wanted) <= size / 2 else end
        bounds.append(end)
    bounds += [len(estimates)] * (bounds[-1] < len(estimates))
    return [slice(a, b) for a, b in pairwise(bounds)]


def _nearest(rising: np.ndarray, wanted: float) -> int:
    """Place of the value nearest to the wanted one."""
    at = int(np.searchsorted(rising, wanted))
    if at == len(rising) or (at and wanted - rising[at - 1] < rising[at] - wanted):
        return at - 1
    return at


def plan_blocks(segments: Segments, ranks: np.ndarray, row_bytes: int, players: Sequence[int]) -> Iterator[BlockPlan]:
    """The output blocks of a shard, player after player.

    ranks      int (segments,): place of each segment's episode in the output
    row_bytes  of one row in memory

    An episode's rows keep their order over the blocks. Rows that lost different columns are kept apart.
    """
    most = max(1, min(BLOCK_ROWS, BLOCK_BYTES // row_bytes))
    for player in players:
        mine = np.flatnonzero(segments.player == player)
        mine = mine[np.lexsort((segments.first_step[mine], ranks[mine]))]
        if not len(mine):
            continue
        kind = _stretches(ranks[mine], segments.lost[mine])
        for one in np.unique(kind):
            part = mine[kind == one]
            yield from _cut_blocks(segments.take(part), ranks[part], most, player)


def _stretches(ranks: np.ndarray, lost: np.ndarray) -> np.ndarray:
    """One number for all segments that may share a block; an episode's own never fall along its steps."""
    same = np.concatenate([[False], ranks[1:] == ranks[:-1]])
    changes = np.cumsum(same & np.concatenate([[False], lost[1:] != lost[:-1]]))
    begins = np.maximum.accumulate(np.where(same, 0, np.arange(len(ranks))))
    return (changes - changes[begins]) * (int(lost.max(initial=0)) + 1) + lost


def _cut_blocks(segments: Segments, ranks: np.ndarray, most: int, player: int) -> Iterator[BlockPlan]:
    """Blocks of about equally many rows, at most about `most`, cut between episodes where those are small."""
    ends = np.cumsum(segments.rows)
    total = int(ends[-1])
    count = -(-total // most)
    closing = np.append(np.flatnonzero(ranks[1:] != ranks[:-1]), len(ranks) - 1)
    whole = ends[closing]  # rows up to the end of each episode
    cuts = [0]
    for wanted in (np.arange(1, count) * total // count).tolist():
        near = int(np.searchsorted(whole, wanted))
        nearest = min(whole[max(near - 1, 0) : near + 1].tolist(), key=lambda row: abs(row - wanted))
        cuts.append(nearest if abs(nearest - wanted) <= most // 4 else wanted)
    cuts = [*np.unique(cuts).tolist(), total]
    lost = segments.lost_sets[int(segments.lost[0])]
    for begin, end in pairwise(cuts):
        if begin == end:
            continue
        first, last = np.searchsorted(ends, begin, "right"), np.searchsorted(ends, end, "left")
        part = segments.take(np.arange(first, last + 1))
        skip = np.zeros(len(part), np.int64)
        rows = part.rows.copy()
        skip[0] = begin - (int(ends[first]) - int(part.rows[0]))
        rows[0] -= skip[0]
        rows[-1] -= int(ends[last]) - end
        yield BlockPlan(player, part, skip, rows, lost)
