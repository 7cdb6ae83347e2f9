"""Taking episodes out of a run: the oldest until it is small, young or free enough, or chosen ones.

Whole episodes go, all players together. A shard in which no episode counts any more is deleted; rows of a pruned
episode in a shard that stays are hidden by a *tombstone*, a shard without rows that supersedes them, until that
shard is compacted. So pruning needs no more room than the run's reserve has, and the tombstone's one rename is all
that a kill can come before or after. The tombstone accounts for the rows: present = written - pruned - quarantined.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from expkit.errors import Busy, NoSpace
from expkit.reading.opening import open_run
from expkit.reading.run import Run
from expkit.rewrite.generation import Generation, carried, complete_episodes, episodes_in, inherit, sweep
from expkit.row.episodes import WRITER_BITS, Episode
from expkit.runs.guard import free_bytes, shards_bytes
from expkit.runs.layout import log_event
from expkit.runs.reserve import give_up_reserve, keep_reserve
from expkit.runs.superseding import ranges_of

_SPARE = 20  # a twentieth of the run goes beyond what is needed


@dataclass(frozen=True, slots=True)
class Retention:
    """What is to stay. None switches a rule off; what any rule wants gone goes.

    max_total      bytes of the run's shards
    max_age        seconds since an episode ended (or began, where that is not known)
    keep_episodes  the newest so many
    min_free       bytes free on the disk
    """

    max_total: int | None = None
    max_age: float | None = None
    keep_episodes: int | None = None
    min_free: int | None = None


@dataclass(slots=True)
class PrunePlan:
    """What pruning takes out.

    episodes   numbers, oldest first;  kept: how many stay;  rows: {(writer, player): rows}
    shards     names of the shard files that go, at `positions` of the run's; `bytes` is what they take
    tombstones how many of the shards are tombstones of an earlier call, for which the new one stands in
    hidden     rows that stay in files until those are compacted
    short      bytes by which `max_total` or `min_free` is still missed: what is left is still being recorded, or
               shares its shard with episodes that stay
    """

    episodes: list[int] = field(default_factory=list)
    kept: int = 0
    rows: dict[tuple[int, int], int] = field(default_factory=dict)
    shards: list[str] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    tombstones: int = 0
    bytes: int = 0
    hidden: int = 0
    short: int = 0

    @property
    def total_rows(self) -> int:
        return sum(self.rows.values())


def plan_prune(run: Run, retention: Retention, now_ns: int | None = None) -> PrunePlan:
    """What `prune` would do now. Only complete episodes go. Reads records and footers, no rows. Raises ShardError
    for a damaged run."""
    now_ns = time.time_ns() if now_ns is None else now_ns
    episodes = run.episodes()
    complete = complete_episodes(run, run.live_writers)
    candidates = sorted((e for e in episodes if e.number in complete), key=lambda e: (_time(e), e.number))
    count = 0
    if retention.max_age is not None:
        oldest = now_ns - int(retention.max_age * 1e9)
        count = sum(_time(episode) < oldest for episode in candidates)
    if retention.keep_episodes is not None:
        count = max(count, min(len(candidates), len(episodes) - retention.keep_episodes))
    need = 0
    if retention.max_total is not None:
        need = shards_bytes(run.path) - retention.max_total
    if retention.min_free is not None:
        need = max(need, retention.min_free - free_bytes(run.path))
    place = {episode.number: position for position, episode in enumerate(candidates)}
    holdings = [_Holding.of(run, position, place) for position in range(len(run.shard_paths))]
    going = sorted((h for h in holdings if h.emptied_by is not None), key=lambda h: h.emptied_by or 0)
    freed = sum(h.bytes for h in going if (h.emptied_by or 0) <= count)
    for holding in going:
        if freed >= need:
            break
        if (holding.emptied_by or 0) > count:
            count = holding.emptied_by or 0
            freed = sum(h.bytes for h in going if (h.emptied_by or 0) <= count)
    if not count and all(h.is_tombstone for h in going if h.emptied_by == 0):
        return PrunePlan(kept=len(episodes), short=max(need - freed, 0))  # a tombstone alone is not worth another one
    return _plan([e.number for e in candidates[:count]], len(episodes), run, holdings, max(need - freed, 0))


def plan_discard(run: Run, episodes: Collection[int]) -> PrunePlan:
    """What `discard` would do now: those of the episodes that are complete go. Raises ShardError for a damaged run."""
    there = run.episodes()
    complete = complete_episodes(run, run.live_writers)
    chosen = sorted({e.number for e in there} & complete & set(episodes))
    if not chosen:
        return PrunePlan(kept=len(there))
    place = dict.fromkeys(chosen, len(chosen) - 1)  # they go together
    holdings = [_Holding.of(run, position, place) for position in range(len(run.shard_paths))]
    return _plan(chosen, len(there), run, holdings, 0)


def _plan(episodes: list[int], there: int, run: Run, holdings: Sequence[_Holding], short: int) -> PrunePlan:
    """That these of the `there` episodes go."""
    count, chosen = len(episodes), set(episodes)
    plan = PrunePlan(episodes, kept=there - count, short=short)
    rows: Counter[tuple[int, int]] = Counter()
    for holding in holdings:
        gone = holding.emptied_by is not None and holding.emptied_by <= count
        if gone:
            plan.positions.append(holding.position)
            plan.tombstones += holding.is_tombstone
            plan.shards.append(run.shard_paths[holding.position].name)
            plan.bytes += holding.bytes
        for (episode, player), held in holding.rows.items():
            if episode in chosen:
                rows[episode >> WRITER_BITS, player] += held
                plan.hidden += 0 if gone else held
    plan.rows = dict(rows)
    return plan


def _time(episode: Episode) -> int:
    if episode.end is not None:
        return episode.end.time_ns
    return episode.start.time_ns if episode.start is not None else 0


@dataclass(frozen=True, slots=True)
class _Holding:
    """What of a shard counts: `rows` by (episode, player). `emptied_by` is how many of the candidates have to go
    until nothing does; None where something always will, or where a writer may still be at work."""

    position: int
    bytes: int
    rows: dict[tuple[int, int], int]
    emptied_by: int | None
    is_tombstone: bool

    @classmethod
    def of(cls, run: Run, position: int, place: dict[int, int]) -> _Holding:
        shard, reader = run.shard_paths[position], run.reader(position)
        held = np.array(sorted(episodes_in(reader)), np.uint64)
        shown = set(held[~run.superseding.hidden(shard.generation, held)].tolist())
        rows = {key: count for key, (count, _) in reader.digests.items() if key[0] in shown}
        stays = shard.active or not shown <= place.keys()
        emptied_by = None if stays else max((place[episode] + 1 for episode in shown), default=0)
        return cls(position, reader.nbytes, rows, emptied_by, bool(shard.generation) and not held.size)


def prune(path: Path, retention: Retention, now_ns: int | None = None) -> PrunePlan:
    """Prune the run at `path`, which may be read and recorded meanwhile. Returns what was taken out.

    Raises Busy when other maintenance is at work, ShardError for a damaged run (recover it first), NoSpace,
    WriteFailed. Killed at any moment, another call does the rest.
    """
    return _take_out(path, "prune", "pruned", lambda run: plan_prune(run, retention, now_ns))


def discard(path: Path, episodes: Collection[int]) -> PrunePlan:
    """Take these episodes out of the run at `path`, those that are there and complete; as `prune` in all else."""
    return _take_out(path, "discard", "discarded", lambda run: plan_discard(run, episodes))


def _take_out(path: Path, doing: str, done: str, choose: Callable[[Run], PrunePlan]) -> PrunePlan:
    with open_run(path) as run, Generation(path, run.info, doing) as generation:
        run.refresh()  # nothing is rewritten from here on
        plan = choose(run)
        going: Collection[str] = plan.shards
        if plan.episodes or plan.shards:
            try:
                _publish_tombstone(run, generation, plan)
            except NoSpace:
                generation.abandon()
                if not give_up_reserve(path):
                    raise
                _publish_tombstone(run, generation, plan)
            with suppress(NoSpace):
                log_event(path, done, episodes=len(plan.episodes), rows=plan.total_rows, shards=plan.shards)
        run.close()
        sweep(path, despite_readers=going)
        keep_reserve(path)
        return plan


def make_room(path: Path, excess: int) -> bool:
    """Prune the oldest episodes of a run that is being recorded until `excess` bytes are free, and some more, so
    that this is not needed again at once. False when less could be freed. Raises as `prune`, but for Busy: while
    other maintenance is at work, or when the run has become smaller since, the answer is True, and the question comes
    again."""
    total = shards_bytes(path)
    try:
        plan = prune(path, Retention(max_total=max(total - excess - total // _SPARE, 0)))
    except Busy:
        return True
    return plan.bytes >= excess or not plan.short


def _publish_tombstone(run: Run, generation: Generation, plan: PrunePlan) -> None:
    heritage = inherit(run, plan.positions, plan.episodes)
    pruned = [(writer, player, rows, 0) for (writer, player), rows in sorted(plan.rows.items())]
    shard = generation.begin(
        supersedes=ranges_of([*heritage.supersedes, *plan.episodes]),
        retires=[*heritage.retires, *plan.shards],
        removed=carried([{"removed": [list(row) for row in [*heritage.removed, *pruned]]}]),
    )
    for player, causes in sorted(heritage.drops.items()):
        shard.append_drops(player, causes)
    for meta in heritage.metas:
        shard.append_meta(meta)
    generation.publish()
