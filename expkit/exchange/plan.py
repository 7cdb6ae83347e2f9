"""What an export would write, part by part, and what its format cannot carry."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import msgspec
import numpy as np

from expkit.errors import UsageError
from expkit.formats.protocol import EpisodeRecord, Format, Head, RowKind, Shards
from expkit.reading.split import part_of
from expkit.rewrite.filter import narrowed
from expkit.rewrite.merge import Choice, wanted_segments
from expkit.rewrite.segments import Segments
from expkit.rewrite.sources import Sources
from expkit.row.episodes import Episode, Origin
from expkit.runs.layout import RunInfo


@dataclass(frozen=True, slots=True)
class Asked:
    """What of the runs an export is to hold.

    where       a predicate: only rows for which it is true, and the last rows behind them
    columns     fields or groups; all when left out. Keys, reward, terminated and truncated always stay
    split       fractions by name: an output for each, all rows of an episode in the same
    rows        `all`, or `transitions`
    shuffle     the seed that the order of all rows is drawn by; in the order of episodes when left out
    shard_rows  rows of a file, of an output in several
    shard_size  bytes of a file, about
    """

    where: str | None = None
    columns: Sequence[str] | None = None
    split: Mapping[str, float] | None = None
    rows: RowKind = "all"
    shuffle: int | None = None
    shard_rows: int = 0
    shard_size: int = 0

    def __post_init__(self) -> None:
        if self.shard_rows < 0 or self.shard_size < 0:
            raise UsageError("--shard-rows and --shard-size are 1 or more")
        if self.shard_rows and self.shard_size:
            raise UsageError("--shard-rows and --shard-size are two limits; give one")

    @property
    def shards(self) -> Shards:
        return Shards(self.shard_rows, self.shard_size)


@dataclass(slots=True)
class PartPlan:
    """One output: `name` is "" when it is the only one. `rows` is the most that it may hold; `numbers` what each
    (run, episode) that goes there is called in it."""

    name: str
    head: Head
    numbers: dict[tuple[int, int], int]
    segments: Segments
    ranks: np.ndarray
    rows: int

    @property
    def bytes(self) -> int:
        """Of the rows in memory, which is about what formats without compression take."""
        return self.rows * self.head.schema.row_bytes


@dataclass(slots=True)
class ExportPlan:
    """What an export does. `losses` says in words what the format cannot carry."""

    format: Format
    asked: Asked
    sources: Sources
    parts: list[PartPlan]
    losses: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def rows(self) -> int:
        return sum(part.rows for part in self.parts)


def plan_export(sources: Sources, format: Format, asked: Asked) -> ExportPlan:
    """What there is to write. Raises UsageError for columns or a predicate that do not fit the runs, ShardError."""
    if getattr(format, "by_player", False):
        # Next observations are the rows that follow, and an episode is read from one place.
        if asked.shuffle is not None:
            raise UsageError(f"{format.name} holds whole episodes, whose rows have an order; leave out --shuffle")
        if asked.shards:
            raise UsageError(f"{format.name} holds all rows of a player in one place; leave out --shard-rows, -size")
    schema = narrowed(sources.schema, asked.columns)
    alone = len(sources.runs) == 1
    segments = sources.segments
    wanted = wanted_segments(sources, Choice(where=asked.where))
    parts: dict[str, dict[tuple[int, int], int]] = {name: {} for name in asked.split or [""]}
    episodes: dict[tuple[int, int], Episode] = {}
    for at, run in enumerate(sources.runs):
        for episode in run.episodes():
            if episode.number not in sources.complete[at]:
                continue
            key = at, episode.number
            into = parts[part_of(run.id, episode, asked.split) if asked.split else ""]
            into[key] = episode.number if alone else len(episodes)
            episodes[key] = episode
    info = sources.runs[0].info if alone else sources.describe({})
    out = ExportPlan(format, asked, sources, [], notes=list(sources.notes))
    keys = list(zip(segments.run.tolist(), segments.episode.tolist(), strict=True))
    digests: dict[int, dict[str, int]] = {}
    if alone and asked.where is None and asked.rows == "all" and schema == sources.runs[0].schema:
        for (number, player), (_, digest) in sources.segments.sums().items():
            digests.setdefault(number, {})[str(player)] = digest
    for name, numbers in parts.items():
        order = {key: rank for rank, key in enumerate(numbers)}
        ranks = np.array([order.get(key, -1) for key in keys], np.int64)
        mine = np.flatnonzero(wanted & (ranks >= 0))
        head = Head(
            schema=schema,
            run=_described(info, sources, name),
            episodes=[
                _record(sources, key, episodes[key], number, digests.get(number, {})) for key, number in numbers.items()
            ],
            rows=asked.rows,
            filtered=asked.where is not None,
            shuffled=asked.shuffle is not None,
        )
        taken = segments.take(mine)
        out.parts.append(PartPlan(name, head, numbers, taken, ranks[mine], int(taken.rows.sum())))
    everything = msgspec.structs.replace(
        out.parts[0].head, episodes=[record for part in out.parts for record in part.head.episodes]
    )
    out.losses = losses(format, everything)
    return out


def losses(format: Format, head: Head) -> list[str]:
    """What of rows like these the format cannot carry, a line each; empty when an import brings all of it back."""
    can, schema, out = format.carries, head.schema, []
    if not can.arrays and any(one.shape for one in schema.fields):
        out.append("arrays stand as JSON text in one column each")
    if not can.nulls and any(one.nullable for one in schema.fields):
        names = [one.name for one in schema.fields if one.nullable]
        out.append(f"values that were not given ({', '.join(names)}) cannot be told from zero")
    if head.rows == "all" and not can.last_rows:
        out.append("final observations are left out: there is no row for them")
    elif head.rows == "all" and not can.exact_last_rows:
        out.append("of final rows only the observation stays, not their keys, masks and time stamps")
    if head.rows == "transitions":
        out.append("final observations are left out, as --rows transitions asks")
    short = sum(rows < can.least_rows for record in head.episodes for rows in record.rows.values())
    if short:
        out.append(f"{short:,} times a player's episode has fewer than {can.least_rows} rows, which are left out")
    if head.filtered and can.least_rows > 1:
        out.append(f"episodes of which --where leaves fewer than {can.least_rows} rows are left out")
    if not can.players and len(head.players) > 1:
        out.append(f"each of the {len(head.players)} players gets an output of its own")
    if not can.keys:
        out.append("policies, policy versions, time stamps and step numbers are left out")
    if not can.records and head.episodes:
        out.append("schema, policy names and episodes' metadata, seeds and outcomes are left out")
    return out


def _described(info: RunInfo, sources: Sources, part: str) -> dict[str, object]:
    """The run's own description, as JSON objects can hold it."""
    metadata = dict(info.metadata)
    if sources.change is not None:
        metadata["exported"] = {**sources.change.told()}
    if part:
        metadata["part"] = part
    return {
        "id": info.id,
        "source": info.source,
        "players": info.players,
        "policies": msgspec.to_builtins(sources.policies if len(sources.runs) > 1 else info.policies),
        "config": info.config,
        "config_digest": info.config_digest,
        "seed": None if info.seed is None else str(info.seed),
        "created_ns": str(info.created_ns),
        "metadata": metadata,
    }


def _record(
    sources: Sources, key: tuple[int, int], episode: Episode, number: int, digests: dict[str, int]
) -> EpisodeRecord:
    start, end, run = episode.start, episode.end, sources.runs[key[0]]
    if start is not None and (number != episode.number or len(sources.runs) > 1):
        origin = start.origin or Origin(run.id, episode.number)
        start = msgspec.structs.replace(start, episode=number, origin=origin)
    if start is not None:
        start = msgspec.structs.replace(start, repeated=False)
    if end is not None:
        end = msgspec.structs.replace(end, episode=number)
    rows = {str(player): count for player, count in sorted(episode.rows.items())}
    return EpisodeRecord(number, start, end, episode.notes, rows, digests)
