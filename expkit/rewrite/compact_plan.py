"""Which shards of a run are worth compacting, which episodes that means, and what room it takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from expkit.formats.shard.read import ShardReader
from expkit.reading.run import Run
from expkit.rewrite.generation import complete_episodes, episodes_in
from expkit.rewrite.layout import DEFAULT_SHARD_SIZE, Encoding, cut_shards
from expkit.rewrite.segments import Segments

MADE_BY = "compact"  # key of a shard's header: how it was compressed


@dataclass(frozen=True, slots=True)
class OutputShard:
    """One shard to be written: `episodes` in their order, the `rows` and `bytes` they take now, and the positions of
    the shards in which nothing counts any more once it is published."""

    episodes: list[int]
    rows: int
    bytes: int
    retires: list[int]


@dataclass(slots=True)
class CompactPlan:
    """What compacting does.

    shards, bytes   how many shards it replaces, and their size
    peak_bytes      most that is on the disk beyond what was before, as long as nobody reads the run
    left            episodes that are still being recorded, or share a shard with one that is
    """

    outputs: list[OutputShard] = field(default_factory=list)
    shards: int = 0
    bytes: int = 0
    peak_bytes: int = 0
    left: int = 0

    @property
    def episodes(self) -> int:
        return sum(len(output.episodes) for output in self.outputs)

    @property
    def rows(self) -> int:
        return sum(output.rows for output in self.outputs)

    @property
    def output_bytes(self) -> int:
        """What the output takes at most."""
        return sum(output.bytes for output in self.outputs)


@dataclass(frozen=True, slots=True)
class _Shard:
    """What counts in one shard of the run. `worth` compacting: `yes`, `small` for one that is small and compact
    already, or `no`."""

    position: int
    bytes: int
    shown: set[int]
    worth: str
    growing: bool


def plan_compact(
    run: Run, segments: Segments, encoding: Encoding | None = None, shard_size: int = DEFAULT_SHARD_SIZE
) -> CompactPlan:
    """What `compact` would do with the run as it was opened. `segments` are all of its. Raises ShardError, NotThere."""
    encoding = encoding or Encoding()
    shards = [_look_at(run, position, encoding, shard_size) for position in range(len(run.shard_paths))]
    busy = _busy_episodes(run, shards, segments)
    able = [shard for shard in shards if shard.worth != "no" and shard.shown and not shard.shown & busy]
    estimates = _estimates(segments)
    going = [shard for shard in able if shard.worth == "yes"]
    if not going:
        size = sum(shard.bytes for shard in able)
        going = able if len(able) > max(1, round(size / shard_size)) else []
    elif len(going) < len(able):
        going = able
    plan = CompactPlan()
    chosen = set().union(*(shard.shown for shard in going)) if going else set()
    plan.left = len(set().union(*(shard.shown for shard in shards if shard.worth == "yes")) - chosen)
    if not chosen:
        return plan
    order, begins = _in_file_order(segments, shards, chosen)
    sizes = np.array([estimates.get(episode, (0, 0.0))[1] for episode in order])
    place: dict[int, int] = {}
    for number, part in enumerate(cut_shards(sizes, shard_size, begins)):
        episodes = order[part]
        place.update(dict.fromkeys(episodes, number))
        rows = sum(estimates.get(episode, (0, 0.0))[0] for episode in episodes)
        plan.outputs.append(OutputShard(episodes, rows, int(sizes[part].sum()) + 1, []))
    for shard in shards:
        if not shard.growing and shard.shown <= chosen:
            last = max((place[episode] for episode in shard.shown), default=0)
            plan.outputs[last].retires.append(shard.position)
            plan.shards += 1
            plan.bytes += shard.bytes
    plan.peak_bytes = _peak(plan.outputs, {shard.position: shard.bytes for shard in shards})
    return plan


def _look_at(run: Run, position: int, encoding: Encoding, shard_size: int) -> _Shard:
    reader, path = run.reader(position), run.shard_paths[position]
    held = np.array(sorted(episodes_in(reader)), np.uint64)
    shown = set(held[~run.superseding.hidden(path.generation, held)].tolist())
    growing = path.active and path.writer in run.live_writers
    worth = "yes"
    if growing:
        worth = "no"
    elif _is_compact(reader, encoding):
        counting = sum(rows for (episode, _), (rows, _) in reader.digests.items() if episode in shown)
        if 2 * counting >= reader.rows:
            worth = "small" if 2 * reader.nbytes < shard_size else "no"
    return _Shard(position, reader.nbytes, shown, worth, growing)


def _is_compact(reader: ShardReader, encoding: Encoding) -> bool:
    made = reader.header.get(MADE_BY)
    if not isinstance(made, dict) or not isinstance(made.get("level"), int):
        return False
    return made["level"] >= encoding.level and made.get("frame_rows") == encoding.frame_rows


def _busy_episodes(run: Run, shards: Sequence[_Shard], segments: Segments) -> set[int]:
    """Episodes that stay where they are: those to which rows may still be added, those with a part in a shard that
    grows, and those that have lost their numbers or steps, without which rows cannot be put into order."""
    complete = complete_episodes(run, run.live_writers)
    busy = {episode for shard in shards for episode in shard.shown if shard.growing or episode not in complete}
    keyless = [place for place, lost in enumerate(segments.lost_sets) if {"episode", "step"} & set(lost)]
    if keyless:
        busy.update(segments.episode[np.isin(segments.lost, keyless)].tolist())
    return busy


def _estimates(segments: Segments) -> dict[int, tuple[int, float]]:
    """By episode: its rows, and the bytes that they take now."""
    numbers, place = np.unique(segments.episode, return_inverse=True)
    rows = np.bincount(place, weights=segments.rows, minlength=len(numbers)).astype(np.int64)
    size = np.bincount(place, weights=segments.rows * segments.row_bytes, minlength=len(numbers))
    return dict(zip(numbers.tolist(), zip(rows.tolist(), size.tolist(), strict=True), strict=True))


def _in_file_order(segments: Segments, shards: Sequence[_Shard], chosen: set[int]) -> tuple[list[int], np.ndarray]:
    """The chosen episodes as they lie in the files: those that were played together stay together. And the places in
    that order at which a shard begins: with all episodes before one of them, the shards before it can go."""
    first = {episode: (shard.position, -1) for shard in reversed(shards) for episode in shard.shown & chosen}
    order = np.lexsort((segments.block, segments.shard))[::-1]
    triples = (segments.episode[order], segments.shard[order], segments.block[order])
    for episode, shard, block in zip(*(array.tolist() for array in triples), strict=True):
        if episode in chosen:
            first[episode] = (shard, block)
    ordered = sorted(chosen, key=lambda episode: (first[episode], episode))
    where = np.array([first[episode][0] for episode in ordered])
    return ordered, np.flatnonzero(where[1:] != where[:-1]) + 1


def _peak(outputs: Sequence[OutputShard], sizes: dict[int, int]) -> int:
    peak = now = 0
    for output in outputs:
        now += output.bytes
        peak = max(peak, now)
        now -= sum(sizes[position] for position in output.retires)
    return peak
