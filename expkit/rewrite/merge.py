"""Runs into new ones: merge takes all episodes, rewrite those rows, columns and parts that it is told to.

The inputs stay as they are and may be recorded meanwhile. Episodes are numbered from 0 on, as those of writer 0, in
the order of the inputs and of their numbers there; each keeps its origin. The output grows in a hidden folder, is
validated there, and gets its name at the end.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from expkit.errors import CheckFailed, NoSpace
from expkit.formats.shard.encode import BlockEncoder, EncodedBlock
from expkit.reading.run import Run
from expkit.reading.split import part_of
from expkit.rewards.columns import REWARDS, RewardColumns, told_rewards
from expkit.rewrite.compact_plan import MADE_BY
from expkit.rewrite.dedupe import find_duplicates
from expkit.rewrite.engine import Work
from expkit.rewrite.filter import Where, narrowed
from expkit.rewrite.gather import Gatherer
from expkit.rewrite.layout import DEFAULT_SHARD_SIZE, Encoding, cut_shards, plan_blocks
from expkit.rewrite.new_folder import NewFolder
from expkit.rewrite.revalue import Revaluation, unknown_note
from expkit.rewrite.segments import Segments
from expkit.rewrite.sources import Sources
from expkit.row.episodes import Episode, EpisodeEnd, EpisodeStart, Origin
from expkit.row.schema import Schema
from expkit.rules.registry import choose_rules
from expkit.runs.counters import FILTERED
from expkit.runs.guard import DiskGuard, free_bytes
from expkit.runs.write import RunWriter, ShardLimits, create_run
from expkit.system.units import format_size
from expkit.validation.validate import validate_run

_SPARE = 16 << 20  # bytes to be free beyond what the output is estimated to take


@dataclass(frozen=True, slots=True)
class Choice:
    """What of the inputs goes into the output.

    dedupe   leave out episodes whose rows are those of one already taken
    where    a predicate: only rows for which it is true, and the last rows behind them
    columns  fields or groups; all when left out
    split    fractions by name: a run for each, in a folder
    rewards  columns of rewards that are computed anew, or for the first time
    """

    dedupe: bool = False
    where: str | None = None
    columns: Sequence[str] | None = None
    split: Mapping[str, float] | None = None
    rewards: RewardColumns = field(default_factory=RewardColumns)

    def schema(self, from_schema: Schema) -> Schema:
        """Of the output. Raises UsageError for columns that are not there, SchemaError."""
        return self.rewards.schema(narrowed(from_schema, self.columns))

    def described(self) -> dict[str, Any]:
        """As JSON objects can hold it; what was left out is not in it."""
        told: dict[str, Any] = {"dedupe": self.dedupe, "where": self.where, "columns": self.columns}
        told |= {"split": self.split, "rewards": dict(self.rewards.texts)}
        return {key: value for key, value in told.items() if value}


@dataclass(slots=True)
class Part:
    """One output run: `name` is "" when it is the only one. `rows` and `bytes` are what its episodes take in the
    inputs, at most what they will take; `filtered` rows by player of episodes that are known to be left out."""

    name: str
    taken: list[tuple[int, Episode]] = field(default_factory=list)
    rows: int = 0
    bytes: int = 0
    filtered: dict[int, int] = field(default_factory=dict)


@dataclass(slots=True)
class MergePlan:
    """What a merge or a rewrite does. `duplicates` episodes are left out."""

    parts: list[Part]
    duplicates: int = 0
    notes: list[str] = field(default_factory=list)

    @property
    def rows(self) -> int:
        return sum(part.rows for part in self.parts)

    @property
    def episodes(self) -> int:
        return sum(len(part.taken) for part in self.parts)

    @property
    def bytes(self) -> int:
        return sum(part.bytes for part in self.parts)


@dataclass(slots=True)
class Written:
    """One output run as it was written. `filtered` rows were left out, `emptied` episodes had none left."""

    name: str
    path: Path
    rows: int = 0
    episodes: int = 0
    shards: int = 0
    bytes: int = 0
    filtered: int = 0
    emptied: int = 0


@dataclass(slots=True)
class Merged:
    """What a merge or a rewrite did. `odd_values` is how many findings of validation are about values, which are as
    in the inputs."""

    out: Path
    parts: list[Written] = field(default_factory=list)
    duplicates: int = 0
    odd_values: int = 0
    notes: list[str] = field(default_factory=list)

    @property
    def rows(self) -> int:
        return sum(part.rows for part in self.parts)

    @property
    def episodes(self) -> int:
        return sum(part.episodes for part in self.parts)


def plan_merge(sources: Sources, choice: Choice | None = None) -> MergePlan:
    """What `merge` would do. Raises UsageError, ShardError."""
    choice = choice or Choice()
    numbers = [
        (at, episode)
        for at, run in enumerate(sources.runs)
        for episode in run.episodes()
        if episode.number in sources.complete[at]
    ]
    plan = MergePlan([Part(name) for name in choice.split or [""]], notes=list(sources.notes))
    if choice.dedupe:
        twice = find_duplicates(sources, [(at, episode.number) for at, episode in numbers])
        numbers = [(at, episode) for at, episode in numbers if (at, episode.number) not in twice]
        plan.duplicates = len(twice)
    table = sources.segments
    wanted = wanted_segments(sources, choice)
    # What grows in memory grows at most as much in the file.
    growth = [max(1.0, sources.schema.row_bytes / run.schema.row_bytes) for run in sources.runs]
    sizes: dict[tuple[int, int], list[float]] = {}
    left_out: dict[tuple[int, int], dict[int, int]] = {}
    told = (table.run, table.episode, table.player, table.rows, table.row_bytes, wanted)
    for at, number, player, rows, row_bytes, good in zip(*(array.tolist() for array in told), strict=True):
        if good:
            known = sizes.setdefault((at, number), [0, 0.0])
            known[0] += rows
            known[1] += rows * row_bytes * growth[at]
        else:
            by_player = left_out.setdefault((at, number), {})
            by_player[player] = by_player.get(player, 0) + rows
    parts = {part.name: part for part in plan.parts}
    for at, episode in numbers:
        key = at, episode.number
        part = parts[part_of(sources.runs[at].id, episode, choice.split) if choice.split else ""]
        for player, rows in left_out.get(key, {}).items():
            part.filtered[player] = part.filtered.get(player, 0) + rows
        if key in sizes or (choice.where is None and key not in left_out):
            part.taken.append((at, episode))
            part.rows += int(sizes.get(key, [0, 0.0])[0])
            part.bytes += int(sizes.get(key, [0, 0.0])[1])
    return plan


def wanted_segments(sources: Sources, choice: Choice) -> np.ndarray:
    """bool (segments,): false for those that are known to be left out without reading their rows."""
    table = sources.segments
    wanted = np.ones(len(table), bool)
    if choice.where is None:
        return wanted
    for at, run in enumerate(sources.runs):
        where = Where.of(choice.where, run)
        mine = np.flatnonzero(table.run == at)
        if where.predicate.by_episode and len(mine):
            wanted[mine] = where.selects(table.episode[mine], table.player[mine])
    return wanted


def merge(
    sources: Sources,
    plan: MergePlan,
    out: Path,
    choice: Choice | None = None,
    *,
    force: bool = False,
    encoding: Encoding | None = None,
    shard_size: int = DEFAULT_SHARD_SIZE,
    on_rows: Callable[[int], None] | None = None,
    stop: Callable[[], bool] | None = None,
) -> Merged:
    """Write what `plan` says to `out`. Killed at any moment, nothing is there, and another call cleans up.

    on_rows  rows done since the last call;  stop: asked before each block; raises Stopped then

    Raises OutputExists, Busy, ShardError for a damaged input, CheckFailed when the result does not validate, NoSpace,
    WriteFailed, UsageError.
    """
    choice = choice or Choice()
    done = Merged(out, duplicates=plan.duplicates, notes=plan.notes)
    schema = choice.schema(sources.schema)
    revaluation = Revaluation(sources, choice.rewards) if choice.rewards else None
    with NewFolder(out, force=force) as folder:
        free, need = free_bytes(folder.path), plan.bytes + _SPARE
        if free < need:
            raise NoSpace(f"{out}: needs {format_size(need)}, {format_size(free)} are free on the disk; make room")
        for part in plan.parts:
            writing = _Writing(
                sources, part, folder.path / part.name, choice, schema, encoding or Encoding(), revaluation
            )
            written = writing.run(shard_size, on_rows, stop)
            done.odd_values += check_result(writing.path)
            written.path = out / part.name if part.name else out
            done.parts.append(written)
        sources.check_read()
        folder.publish()
    if revaluation is not None and revaluation.unknown:
        done.notes.append(unknown_note(revaluation.unknown))
    return done


class _Writing:
    """The writing of one output run."""

    def __init__(
        self,
        sources: Sources,
        part: Part,
        path: Path,
        choice: Choice,
        schema: Schema,
        encoding: Encoding,
        revaluation: Revaluation | None,
    ) -> None:
        self.path = path
        self._sources = sources
        self._part = part
        self._choice = choice
        self._schema = schema
        self._encoding = encoding
        self._revaluation = revaluation
        self._target = {(at, episode.number): number for number, (at, episode) in enumerate(part.taken)}
        self._written = Written(part.name, path)
        self._begun: dict[int, dict[int, int]] = {}  # by episode of the shard at hand: rows by player

    def run(self, shard_size: int, on_rows: Callable[[int], None] | None, stop: Callable[[], bool] | None) -> Written:
        sources, choice, written = self._sources, self._choice, self._written
        info = sources.describe(choice.described() | ({"part": self._part.name} if self._part.name else {}))
        info.schema = self._schema
        rewards = told_rewards(info.metadata) | dict(choice.rewards.texts)
        if rewards:
            info.metadata[REWARDS] = {name: text for name, text in rewards.items() if name in self._schema}
        create_run(self.path, info)
        limits = ShardLimits(0, 0, 0.0)
        self._writer = RunWriter(
            self.path, self._schema, len(info.players), writer=0, limits=limits, sync="none",
            guard=DiskGuard(min_free=0), about={MADE_BY: asdict(self._encoding)},
        )  # fmt: skip
        try:
            columns = self._schema.columns
            where = None if choice.where is None else [Where.of(choice.where, run) for run in sources.runs]
            gatherer = Gatherer(
                sources.runs, columns, self._target, sources.policy_maps, where, sources.conversions, self._revaluation
            )
            encoder = BlockEncoder(self._schema, self._encoding.level, self._encoding.frame_rows)
            work = Work(gatherer, encoder, on_rows=on_rows, stop=stop)
            segments, ranks, sizes = self._ranked()
            for shard in cut_shards(sizes, shard_size) if len(sizes) else []:
                self._writer.rotate()
                mine = np.flatnonzero((ranks >= shard.start) & (ranks < shard.stop))
                self._write_shard(segments.take(mine), ranks[mine], shard, work)
            self._leave_out(self._part.filtered)
            self._leave_out(work.filtered)
            self._writer.close()
        except BaseException:
            self._writer.abandon()
            raise
        written.rows = int(self._writer.ledger.written.sum())
        written.filtered = int(self._writer.ledger.dropped.sum())
        written.shards, written.bytes = self._writer.shards, self._writer.closed_bytes
        return written

    def _ranked(self) -> tuple[Segments, np.ndarray, np.ndarray]:
        """Segments to read, the place of each one's episode, and the bytes of each episode."""
        table = self._sources.segments.take(np.flatnonzero(wanted_segments(self._sources, self._choice)))
        keys = zip(table.run.tolist(), table.episode.tolist(), strict=True)
        ranks = np.array([self._target.get(key, -1) for key in keys], np.int64)
        table, ranks = table.take(np.flatnonzero(ranks >= 0)), ranks[ranks >= 0]
        sizes = np.bincount(ranks, weights=table.rows * table.row_bytes, minlength=len(self._part.taken))
        return table, ranks, sizes

    def _write_shard(self, segments: Segments, ranks: np.ndarray, shard: slice, work: Work) -> None:
        writer, self._begun = self._writer, {}
        if self._revaluation is not None:
            self._revaluation.forget()
        for player in np.unique(segments.player).tolist():
            writer.ledger.produced[player] += int(segments.rows[segments.player == player].sum())
        players = range(len(self._sources.runs[0].players))
        work.write(plan_blocks(segments, ranks, self._schema.row_bytes, players), self._append)
        if self._choice.where is None:
            self._compare(segments, ranks)
            writer.append_episodes([self._start(n) for n in range(shard.start, shard.stop) if n not in self._begun], ())
            self._begun = {n: self._begun.get(n, {}) for n in range(shard.start, shard.stop)}
        self._written.episodes += len(self._begun)
        self._written.emptied += shard.stop - shard.start - len(self._begun)
        writer.append_episodes((), [self._end(number) for number in sorted(self._begun)])
        for number in sorted(self._begun):
            notes = self._part.taken[number][1].notes
            if notes:
                writer.append_meta({"annotate": {"episode": str(number), "metadata": notes}})

    def _append(self, block: EncodedBlock) -> None:
        starts = [self._start(number) for number in block.episodes if number not in self._begun]
        for cause, rows in block.dropped.items():
            self._writer.ledger.drop(block.player, cause, rows)
        self._writer.append(block, starts=starts)
        for number, (rows, _) in block.episodes.items():
            known = self._begun.setdefault(number, {})
            known[block.player] = known.get(block.player, 0) + rows

    def _compare(self, segments: Segments, ranks: np.ndarray) -> None:
        """Every row that was read is written. Raises CheckFailed."""
        expected: dict[tuple[int, int], int] = {}
        for key in zip(ranks.tolist(), segments.player.tolist(), segments.rows.tolist(), strict=True):
            expected[key[:2]] = expected.get(key[:2], 0) + key[2]
        found = {(number, player): rows for number, known in self._begun.items() for player, rows in known.items()}
        for number, player in sorted(expected.keys() | found.keys()):
            want, have = expected.get((number, player), 0), found.get((number, player), 0)
            if want != have:
                at, episode = self._part.taken[number]
                raise CheckFailed(
                    f"{self._sources.runs[at].path} episode {episode.number} player {player}: {want:,} rows became "
                    f"{have:,} on rewriting; nothing was written"
                )

    def _leave_out(self, filtered: Mapping[int, int]) -> None:
        """Account for rows that no block tells of."""
        for player, rows in sorted(filtered.items()):
            if rows:
                if filtered is self._part.filtered:
                    self._writer.ledger.produced[player] += rows
                self._writer.ledger.drop(player, FILTERED, rows)
                self._writer.append_drops(player, {FILTERED: rows})

    def _start(self, number: int) -> EpisodeStart:
        at, episode = self._part.taken[number]
        run = self._sources.runs[at]
        start = episode.start
        if start is None:  # its record was lost
            start = EpisodeStart(episode.number, 0, sorted(episode.rows), run.info.source)
        origin = start.origin or Origin(run.id, episode.number)
        change = self._sources.change
        more = {} if change is None else change.of_episodes()
        metadata = {**start.metadata, **more}
        return msgspec.structs.replace(start, episode=number, repeated=False, origin=origin, metadata=metadata)

    def _end(self, number: int) -> EpisodeEnd:
        episode = self._part.taken[number][1]
        if episode.end is not None:
            return msgspec.structs.replace(episode.end, episode=number)
        rows = {str(player): count for player, count in sorted(self._begun[number].items())}
        time_ns = episode.start.time_ns if episode.start is not None else 0
        return EpisodeEnd(number, time_ns, "interrupted", episode.length, rows=rows, cut=True)


def check_result(path: Path) -> int:
    """Validate an output run; returns how many errors are about what its rows say, which is what the inputs' rows said.
    Raises CheckFailed for any other."""
    odd, choice = 0, choose_rules()
    with Run(path) as run:
        for finding in validate_run(run, rules=choice):
            if finding.severity == "error" and choice.known[finding.rule].over == "file":
                raise CheckFailed(f"the result does not validate: {finding.rule} {finding.where}: {finding.message}")
            odd += finding.severity == "error"
    return odd


def describe_plan(plan: MergePlan) -> dict[str, Any]:
    """As JSON objects can hold it."""
    return {
        "episodes": plan.episodes,
        "rows": plan.rows,
        "duplicates": plan.duplicates,
        "rows_filtered": sum(sum(part.filtered.values()) for part in plan.parts),
        "bytes": plan.bytes,
        "peak_temporary_bytes": plan.bytes,
        "parts": [{"name": p.name, "episodes": len(p.taken), "rows": p.rows, "bytes": p.bytes} for p in plan.parts],
        "notes": plan.notes,
    }
