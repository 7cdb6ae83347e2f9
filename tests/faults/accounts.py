"""What a run holds and how its ledger balances, counted without the code that counts it in the program."""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from expkit import open_run
from expkit.formats.shard import ShardReader
from expkit.runs.layout import list_shards

PAGE, HEAD_WORDS, PLAYER_WORDS = 4096, 8, 16


@dataclass(frozen=True, slots=True)
class Words:
    """A player's words in the ledger, over all writers; `closed` when all of these have closed their sections."""

    produced: int
    written: int
    durable: int
    rejected: int
    dropped: int
    lost: int
    closed: bool


def ledger_words(run: Path) -> list[Words]:
    """By player, from the bytes of `counters`; empty without one."""
    try:
        data = (run / "counters").read_bytes()
    except FileNotFoundError:
        return []
    if len(data) < PAGE:
        return []
    players, section = struct.unpack_from("<II", data, 8)
    out = []
    sections = range(PAGE, len(data) - section + 1, section)
    states = [struct.unpack_from("<q", data, at)[0] for at in sections]
    for player in range(players):
        total = [0] * PLAYER_WORDS
        for at in sections:
            words = struct.unpack_from(f"<{PLAYER_WORDS}q", data, at + 8 * (HEAD_WORDS + PLAYER_WORDS * player))
            total = [a + b for a, b in zip(total, words, strict=True)]
        produced, written, durable, rejected = total[:4]
        dropped = sum(total[4:-1])
        out.append(Words(produced, written, durable, rejected, dropped, total[-1], all(s in (0, 2) for s in states)))
    return out


def rows_by_player(run: Path, *, gaps: bool = False) -> Counter[int]:
    """Reads every value of every row. Fails when rows are doubled, and, unless there may be `gaps`, when those of an
    (episode, player) do not begin at step 0 and go on one by one."""
    with open_run(run) as opened:
        return rows_of_scan(opened.scan(rows="all"), gaps=gaps)


def rows_of_scan(batches: Iterable[dict[str, np.ndarray]], *, gaps: bool = False) -> Counter[int]:
    """As `rows_by_player`, of the batches of one scan."""
    keys = [np.zeros((0, 3), np.int64)]
    for batch in batches:
        keys.append(np.stack([batch[name].astype(np.int64) for name in ("episode", "player", "step")], 1))
    merged = np.concatenate(keys)
    merged = merged[np.lexsort(merged.T[::-1])]
    first = np.ones(len(merged), bool)
    first[1:] = (merged[1:, :2] != merged[:-1, :2]).any(1)
    steps = np.diff(merged[:, 2])[~first[1:]]
    assert (steps > 0).all(), "rows are doubled"
    assert gaps or not merged[first, 2].any(), "an episode does not begin at step 0"
    assert gaps or (steps == 1).all(), f"steps are missing: {np.unique(steps)}"
    return Counter(merged[:, 1].tolist())


def removed_rows(run: Path) -> tuple[Counter[int], Counter[int]]:
    """Rows by player that prune took out, and that recover gave up, as the headers of all shards tell."""
    headers = {}
    for shard in list_shards(run):
        with ShardReader(shard.path) as reader:
            headers[shard.name] = reader.header
    retired = {name for header in headers.values() for name in header.get("retires", ())}
    pruned: Counter[int] = Counter()
    quarantined: Counter[int] = Counter()
    for name, header in headers.items():
        for _, player, first, second in header.get("removed", ()) if name not in retired else ():
            pruned[player] += first
            quarantined[player] += second
    return pruned, quarantined


def balances(run: Path, present: Counter[int] | None = None) -> int:
    """Check both sums for every player of a run that nobody records; returns the rows produced. `present` are the rows
    that are there by player, counted when left out."""
    present = rows_by_player(run) if present is None else present
    pruned, quarantined = removed_rows(run)
    words = ledger_words(run)
    for player, told in enumerate(words):
        there = present[player] + pruned[player] + quarantined[player]
        accounted = told.dropped + told.rejected + told.lost
        where = (
            f"player {player}: {told}, {present[player]} present, {pruned[player]} pruned, {quarantined[player]} out"
        )
        if told.closed:
            assert told.produced == told.written + accounted, where
            assert there == told.written, where
        else:  # killed: the rest is lost, and nobody has told yet
            assert there >= told.durable, where
            assert told.produced >= there + accounted, where
    assert sum(present.values()) <= sum(told.produced for told in words)
    return sum(told.produced for told in words)
