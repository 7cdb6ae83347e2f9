"""The rows of runs in batches, as an export wants them: by episode and player, in the order of their steps.

Blocks hold many games at once; what a file of another tool is read by is episodes. So blocks are gathered as rewriting
does it, in one thread, sorted and unpacked in others, while the format encodes in the caller's.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from expkit.exchange.plan import Asked, PartPlan
from expkit.formats.protocol import Batch, column_names
from expkit.rewrite.filter import Where
from expkit.rewrite.gather import Gatherer
from expkit.rewrite.layout import BlockPlan, cut_shards, plan_blocks
from expkit.rewrite.sources import Sources
from expkit.row.schema import Schema
from expkit.system.parallel import ahead, in_order

# The players of some so many rows' episodes come one after the other: as near as decoding frames twice allows.
GROUP_ROWS = 1 << 18
_AHEAD = 2

StoredRows = tuple[int, dict[str, np.ndarray], int]  # player, stored columns, rows


def stored_blocks(sources: Sources, part: PartPlan, asked: Asked, *, by_player: bool = False) -> Iterator[StoredRows]:
    """The part's rows, block after block; within a block in any order.

    by_player  all rows of a player before those of the next
    """
    schema = part.head.schema
    where = None if asked.where is None else [Where.of(asked.where, run) for run in sources.runs]
    gatherer = Gatherer(sources.runs, schema.columns, part.numbers, sources.policy_maps, where, sources.conversions)
    players = range(len(part.head.players))
    for plan in _plans(part, schema, players, by_player):
        rows, count = gatherer.gather(plan)
        if asked.rows == "transitions" and count:
            keep = ~rows["is_last"][:count]
            if not keep.all():
                rows, count = {name: values[:count][keep] for name, values in rows.items()}, int(keep.sum())
        if count:
            yield plan.player, rows, count


def _plans(part: PartPlan, schema: Schema, players: range, by_player: bool) -> Iterator[BlockPlan]:
    segments, ranks = part.segments, part.ranks
    if not len(segments):
        return
    sizes = np.bincount(ranks, weights=segments.rows)
    groups = [slice(0, len(sizes))] if by_player else cut_shards(sizes, GROUP_ROWS)
    for group in groups:
        mine = np.flatnonzero((ranks >= group.start) & (ranks < group.stop))
        yield from plan_blocks(segments.take(mine), ranks[mine], schema.row_bytes, players)


def batches(
    sources: Sources,
    part: PartPlan,
    asked: Asked,
    *,
    by_player: bool = False,
    threads: int = 2,
) -> Iterator[Batch]:
    """All rows of the part, each batch of one player: episodes in their order, steps rising. Raises ShardError."""
    schema = part.head.schema
    blocks = stored_blocks(sources, part, asked, by_player=by_player)
    if threads > 1:
        blocks = ahead(blocks, _AHEAD)
    yield from in_order(lambda block: logical(schema, *block), blocks, threads - 1)


def logical(schema: Schema, player: int, stored: dict[str, np.ndarray], rows: int) -> Batch:
    """A batch out of stored columns, sorted by episode and step."""
    stored = {name: values[:rows] for name, values in stored.items()}
    episode, step = stored["episode"], stored["step"]
    same = episode[1:] == episode[:-1]
    if not bool(np.all((episode[1:] > episode[:-1]) | (same & (step[1:] >= step[:-1])))):
        order = np.lexsort((step, episode))
        stored = {name: values[order] for name, values in stored.items()}
    whole = {name: schema.unpack(name, values) for name, values in stored.items()}
    whole["player"] = np.full(rows, player, np.uint16)
    return {name: whole[name] for name in column_names(schema)}
