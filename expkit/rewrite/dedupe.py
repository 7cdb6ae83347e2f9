"""Finds episodes that are there more than once, whatever their numbers, layout, writer and run are.

Two episodes are the same when all their rows are, apart from the episode's number; a policy counts by name,
checkpoint and digest, not by its place in the run's table. What was lost to damage cannot be compared: an episode with
lost values is the same only as one of the same origin.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from expkit.formats.shard.digest import RowHasher, sum_by_run, zeros_for
from expkit.reading.run import Run
from expkit.rewrite.segments import Segments
from expkit.rewrite.sources import Sources
from expkit.system.mixing import mixed

Key = tuple[int, int]  # run, episode
_U64 = (1 << 64) - 1
_QUICK = ("step", "time_ns")


def find_duplicates(sources: Sources, episodes: Sequence[Key]) -> set[Key]:
    """Those of `episodes` whose content is that of an earlier one. Reads two narrow columns of all rows, and all
    columns only of episodes that are alike in those. Raises ShardError."""
    quick = _contents(sources, set(episodes), full=False)
    alike: dict[object, list[Key]] = {}
    for key in episodes:
        if key in quick:
            alike.setdefault(quick[key], []).append(key)
    doubtful = {key for keys in alike.values() if len(keys) > 1 for key in keys}
    if not doubtful:
        return set()
    whole = _contents(sources, doubtful, full=True)
    taken: set[object] = set()
    duplicates: set[Key] = set()
    for key in episodes:
        if key in doubtful:
            if whole[key] in taken:
                duplicates.add(key)
            taken.add(whole[key])
    return duplicates


def _contents(sources: Sources, wanted: set[Key], *, full: bool) -> dict[Key, object]:
    """What can be compared of each wanted episode: rows and a sum of hashes, by player."""
    sums: dict[Key, dict[int, tuple[int, int]]] = {}
    damaged: set[Key] = set()
    table = sources.segments
    mine = np.array([key in wanted for key in zip(table.run.tolist(), table.episode.tolist(), strict=True)], bool)
    for number, run in enumerate(sources.runs):
        part = table.take(np.flatnonzero(mine & (table.run == number)))
        for player, episodes, rows, digests, whole in _hashed(run, part, sources.policy_maps[number], full):
            damaged.update(() if whole else ((number, episode) for episode in episodes))
            for episode, count, digest in zip(episodes, rows, digests, strict=True):
                known = sums.setdefault((number, episode), {})
                before = known.get(player, (0, 0))
                known[player] = before[0] + count, (before[1] + digest) & _U64
        run.close_readers()
    return {
        key: (tuple(sorted(known.items())), _origin(sources.runs[key[0]], key[1]) if key in damaged else None)
        for key, known in sums.items()
    }


def _origin(run: Run, number: int) -> tuple[str, int]:
    """Run and number under which an episode was recorded."""
    start = run.find_episode(number).start
    return (run.id, number) if start is None or start.origin is None else (start.origin.run, start.origin.episode)


def _hashed(
    run: Run, part: Segments, policies: np.ndarray, full: bool
) -> Iterator[tuple[int, list[int], list[int], list[int], bool]]:
    """(player, episodes, rows, sums of hashes, no column lost) of the segments of each block of one run."""
    if not len(part):
        return
    hasher = RowHasher(run.schema)
    order = np.lexsort((part.first_row, part.block, part.shard))
    places = np.stack([part.shard, part.block], 1)[order]
    begins = np.flatnonzero(np.append(True, (places[1:] != places[:-1]).any(1)))
    for mine in np.split(order, begins[1:]):
        reader, block = run.reader(int(part.shard[mine[0]])), int(part.block[mine[0]])
        player, rows = reader.blocks[block].player, reader.blocks[block].rows
        lost = reader.lost_columns(block)
        names = [name for name in (reader.names if full else _QUICK) if name not in lost]
        stored = {**reader.read_block(block, names), **zeros_for(run.schema, lost, rows)}
        if full:
            used = stored["policy"]
            stored["policy"] = policies[np.minimum(used, len(policies) - 1)]
            hashes = hasher.rows({**stored, "episode": np.zeros(rows, np.uint64)}, player)
        else:
            hashes = mixed(stored["time_ns"].view(np.uint64) ^ mixed(stored["step"].astype(np.uint64)))
        digests = sum_by_run(hashes, part.first_row[mine], part.rows[mine])
        yield player, part.episode[mine].tolist(), part.rows[mine].tolist(), digests.tolist(), not lost
