"""What a run amounts to: counts, how its episodes ended, the ledger's balance, and distributions of what is in it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from expkit.errors import CheckFailed, NotThere, ShardError
from expkit.formats.shard.read import ShardReader
from expkit.reading.known_run import KnownRun
from expkit.row.episodes import Episode
from expkit.runs.superseding import removed_rows

BINS = 24
# Above this many rows distributions come from evenly spaced blocks: reading all of 10^8 rows takes half a minute.
SCAN_ROWS = 4_000_000


@dataclass(frozen=True, slots=True)
class Balance:
    """Rows of one player over all writers. `present` is what the files hold; while a run is recorded, what is not
    yet in them is `pending`, afterwards it is `lost`, of which a recovery has `acknowledged` some.

    produced = present + pruned + quarantined + dropped + rejected + lost + pending
    """

    player: int
    produced: int
    written: int
    durable: int
    rejected: int
    present: int
    dropped: dict[str, int] = field(default_factory=dict)
    pending: int = 0
    lost: int = 0
    acknowledged: int = 0
    pruned: int = 0
    quarantined: int = 0

    @property
    def dropped_rows(self) -> int:
        return sum(self.dropped.values())

    @property
    def stored(self) -> int:
        """Rows that came to be in the files, whether they still are or were taken out."""
        return self.present + self.pruned + self.quarantined

    @property
    def has_gaps(self) -> bool:
        """Whether rows inside its episodes may be missing for a known reason. A prune takes whole episodes."""
        return bool(self.dropped_rows or self.lost or self.pending or self.rejected or self.quarantined)

    @property
    def unexplained(self) -> int:
        """Rows lost that no recovery has told of; negative when the files hold more than was produced."""
        return self.lost - self.acknowledged


@dataclass(frozen=True, slots=True)
class Summary:
    """Counts of a run; `balance` is None where there is no readable ledger."""

    rows: int
    steps: int
    episodes: int
    ended: dict[str, int]
    won: int
    balance: list[Balance] | None
    seconds: float | None


def summarize(run: KnownRun) -> Summary:
    """Count what the run holds. Raises ShardError where `Run` does."""
    episodes = run.episodes()
    ended = Counter(episode.ended for episode in episodes)
    won = sum(1 for episode in episodes if has_winner(episode))
    return Summary(
        rows=len(run),
        steps=run.steps,
        episodes=len(episodes),
        ended={how: ended[how] for how in ("terminated", "truncated", "interrupted") if ended[how]},
        won=won,
        balance=balance(run),
        seconds=duration(run),
    )


def has_winner(episode: Episode) -> bool:
    """Whether one player's outcome is above all others' (a game of one player: above 0)."""
    outcomes = sorted((value for value in episode.outcome.values() if value is not None), reverse=True)
    if not outcomes or episode.ended != "terminated":
        return False
    return outcomes[0] > (outcomes[1] if len(outcomes) > 1 else 0)


def balance(run: KnownRun, present: dict[int, int] | None = None) -> list[Balance] | None:
    """The ledger against the files, by player; None where the ledger is gone or damaged. `present` saves counting
    the rows of the files when the caller has done so."""
    try:
        writers = run.counters
    except CheckFailed:
        return None
    if not writers:
        return None
    removed = removed_by_player(run, listed=present is not None)
    present = present_rows(run) if present is None else present
    recording = bool(run.live_writers)
    out = []
    for player in range(max(len(writer.players) for writer in writers)):
        mine = [writer.players[player] for writer in writers if player < len(writer.players)]
        dropped: Counter[str] = Counter()
        for ledger in mine:
            dropped.update(ledger.dropped)
        produced, rejected = sum(m.produced for m in mine), sum(m.rejected for m in mine)
        pruned, quarantined = removed.get(player, (0, 0))
        missing = produced - rejected - dropped.total() - present.get(player, 0) - pruned - quarantined
        out.append(
            Balance(
                player=player,
                produced=produced,
                written=sum(m.written for m in mine),
                durable=sum(m.durable for m in mine),
                rejected=rejected,
                present=present.get(player, 0),
                dropped=dict(dropped),
                pending=max(missing, 0) if recording else 0,
                lost=0 if recording else missing,
                acknowledged=sum(m.lost for m in mine),
                pruned=pruned,
                quarantined=quarantined,
            )
        )
    return out


def present_rows(run: KnownRun) -> dict[int, int]:
    """Rows in the files by player."""
    index = run.index
    totals = np.bincount(index.player, weights=index.rows) if len(index.player) else np.zeros(0)
    return {player: int(rows) for player, rows in enumerate(totals) if rows}


def listed_rows(run: KnownRun) -> dict[int, int]:
    """As `present_rows`, but believing the manifest of a shard whose file has the size it tells. Where episodes were
    rewritten or pruned the manifest cannot tell which rows still count, and the blocks are asked."""
    if run.superseding:
        return present_rows(run)
    totals: Counter[int] = Counter()
    for position, entry in enumerate(run.listed):
        if entry is not None:
            totals.update({int(player): rows for player, rows in entry["players"].items()})
            continue
        with suppress(ShardError, NotThere):
            for block in run.reader(position).blocks:
                totals[block.player] += block.rows
    return dict(totals)


def removed_by_player(run: KnownRun, *, listed: bool = False) -> dict[int, tuple[int, int]]:
    """(pruned, quarantined) rows by player, as the shards' headers account for them. `listed` believes the manifest
    of a shard whose file has the size it tells, and does not open it."""
    totals: dict[int, tuple[int, int]] = {}
    for position, entry in enumerate(run.listed):
        try:
            header = run.reader(position).header if entry is None or not listed else entry
        except (ShardError, NotThere):
            continue
        for _, player, pruned, quarantined in removed_rows(header):
            before = totals.get(player, (0, 0))
            totals[player] = (before[0] + pruned, before[1] + quarantined)
    return totals


def duration(run: KnownRun) -> float | None:
    """Seconds from the first writer's start to the last one's end, None while one records or was killed."""
    try:
        writers = run.counters
    except CheckFailed:
        return None
    if not writers or any(writer.state != "closed" for writer in writers):
        return None
    return (max(w.closed_ns for w in writers) - min(w.started_ns for w in writers)) / 1e9


class Distribution(NamedTuple):
    """How often values occur. `edges` has one entry more than `counts` for bins, as many for single values."""

    name: str
    counts: list[int]
    edges: list[float]
    mean: float
    low: float
    high: float

    @property
    def total(self) -> int:
        return sum(self.counts)

    @property
    def is_binned(self) -> bool:
        return len(self.edges) == len(self.counts) + 1


def distribution(name: str, values: np.ndarray) -> Distribution | None:
    """Of finite numbers; few distinct ones are counted one by one, others in `BINS` equal bins. None of no values."""
    values = np.asarray(values, np.float64)
    values = values[np.isfinite(values)]
    if not len(values):
        return None
    low, high, mean = float(values.min()), float(values.max()), float(values.mean())
    distinct, counts = np.unique(values, return_counts=True)
    if len(distinct) <= 6:
        return Distribution(name, counts.tolist(), distinct.tolist(), mean, low, high)
    if np.array_equal(distinct, np.floor(distinct)) and high - low < BINS:
        counted, edges = np.histogram(values, int(high - low) + 1, (low, high + 1))
    else:
        counted, edges = np.histogram(values, BINS, (low, high))
    return Distribution(name, counted.tolist(), edges.tolist(), mean, low, high)


class Distributions(NamedTuple):
    """`share` of the rows were looked at; those of whole episodes cover all episodes when it is 1."""

    share: float
    parts: list[Distribution]


def distributions(run: KnownRun) -> Distributions:
    """Length, outcome and return of episodes; rewards, actions and staleness of rows.

    A return is the sum of one player's rewards in one episode. Staleness of a row is how many versions older its
    policy is than the newest of the same policy in the run. Damaged blocks are left out.
    """
    episodes = run.episodes()
    parts = [
        distribution("length", np.array([e.length for e in episodes])),
        distribution(
            "outcome", np.array([v for e in episodes for v in e.outcome.values() if v is not None], np.float64)
        ),
    ]
    total = len(run)
    every = max(-(-total // SCAN_ROWS), 1)
    scalars = [f.name for f in run.schema.fields if not f.shape and f.dtype != "bool"]
    wanted: list[str] = [name for name in ("reward", "action") if name in scalars]
    batches = [batch for number, batch in enumerate(_blocks(run, wanted, every)) if len(batch["episode"]) or not number]
    seen = sum(len(batch["episode"]) for batch in batches)
    if seen:
        merged = {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}
        if "reward" in merged:
            if every == 1:
                parts.append(distribution("return", _returns(merged)))
            parts.append(distribution("reward", merged["reward"]))
        if "action" in merged:
            parts.append(distribution("action", merged["action"]))
        parts.append(distribution("staleness", _staleness(merged)))
    return Distributions(1 / every, [part for part in parts if part is not None])


def _blocks(run: KnownRun, columns: list[str], every: int) -> Iterator[dict[str, np.ndarray]]:
    """Transitions of every `every`-th block."""
    names = ["episode", "is_last", "policy", "policy_version", *columns]
    for number, block in enumerate(run.blocks(unreadable="skip")):
        if number % every:
            continue
        try:
            stored = block.read(names)
        except ShardError:
            continue
        keep = ~stored["is_last"]
        batch = {name: stored[name][keep] for name in names}
        batch["player"] = np.full(int(keep.sum()), block.info.player, np.int64)
        yield batch


def _returns(merged: dict[str, np.ndarray]) -> np.ndarray:
    """Sum of rewards by (episode, player)."""
    keys = np.stack([merged["episode"].astype(np.uint64), merged["player"].astype(np.uint64)], 1)
    _, group = np.unique(keys, axis=0, return_inverse=True)
    return np.bincount(group.reshape(-1), weights=merged["reward"].astype(np.float64))


def _staleness(merged: dict[str, np.ndarray]) -> np.ndarray:
    """Versions behind the newest of the same policy, by row."""
    policy, version = merged["policy"].astype(np.int64), merged["policy_version"].astype(np.int64)
    newest = np.zeros(int(policy.max()) + 1, np.int64)
    np.maximum.at(newest, policy, version)
    return newest[policy] - version


def bytes_by_column(run: KnownRun) -> dict[str, int]:
    """Bytes on disk of each stored column, from the heads of the blocks; no rows are read."""
    names = [column.name for column in run.schema.columns]
    totals = np.zeros(len(names), np.int64)
    for position in range(len(run.shard_paths)):
        try:
            reader = run.reader(position)
        except ShardError:
            continue
        totals += column_bytes(reader)
    return dict(zip(names, totals.tolist(), strict=True))


def column_bytes(reader: ShardReader) -> np.ndarray:
    """int64 (columns,): bytes of each column's frames in one shard, damaged blocks left out."""
    totals = np.zeros(len(reader.schema.columns), np.int64)
    for block in reader.blocks:
        try:
            head = reader.head(block.index)
        except ShardError:
            continue
        totals += np.diff(np.array(head.body_at)[head.first_frame])
    return totals
