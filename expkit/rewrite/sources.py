"""The runs that are rewritten into a new one: opened, compared, and what they have in common."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from expkit.errors import Busy, SchemaError, ShardError, UsageError, quoted
from expkit.reading.run import Run
from expkit.reading.run_files import FEW_BLOCKS
from expkit.reading.summary import balance
from expkit.rewards.columns import GAME, MIXED, REWARD, REWARDS, told_rewards
from expkit.rewrite.change import Change, common_board, widened
from expkit.rewrite.generation import complete_episodes
from expkit.rewrite.segments import Segments
from expkit.row.episodes import PolicyInfo
from expkit.row.schema import Schema
from expkit.row.schema_differences import schema_differences
from expkit.runs.layout import RunInfo, list_shards, new_run_id
from expkit.runs.locks import live_writers
from expkit.runs.origins import ORIGINS, OriginPlayer, OriginRun, origins_of
from expkit.serialize.conversion import Conversion
from expkit.system import unread

_LOOKS = 10
_DIFFERENCES_SHOWN = 6


def settle(run: Run) -> Segments:
    """Where the rows of the run are, at a moment in which every writer that is not among its `live_writers` had said
    all it had to say; looks again until it is. Raises ShardError, and Busy when recorders come and go all the time."""
    for _ in range(_LOOKS):
        try:
            segments = Segments.of([run])
        except ShardError as error:
            raise ShardError(f"{error}; run expkit recover {quoted(run.path)} first") from None
        if _is_settled(run):
            return segments
        run.refresh()
    raise Busy(f"{run.path}: recorders begin and end all the time; try again")


def _is_settled(run: Run) -> bool:
    """Whether what was read of writers that did not live is all there is of them: one may have begun meanwhile, or
    have begun, recorded and ended."""
    now = {shard.name: shard for shard in list_shards(run.path)}
    living = set(live_writers(run.path)) - set(run.live_writers)
    for position, shard in enumerate(run.shard_paths):
        if shard.writer is None or shard.writer in run.live_writers:
            continue
        found = now.get(shard.name)
        if found is None or found.active != shard.active or shard.writer in living:
            return False
        try:
            if found.path.stat().st_size != run.reader(position).nbytes:
                return False
        except OSError:
            return False  # renamed since
    return True


class Sources:
    """Runs to be rewritten into one, open until `close`; what they hold of complete episodes.

    segments      where the rows of all runs are
    policies      the joined table;  policy_maps: by run, u16, the place in it of each of the run's policies
    complete      by run, the episodes to which no row will be added
    change        what becomes of the rows' boards;  conversions: by run, None where nothing does
    schema        of all rows, once converted
    notes         what is worth a word to whoever asked

    partial       go on with what is there of a run of which shards are missing

    Raises NotThere, ShardError for damage, CheckFailed where shards are missing, SchemaError for runs that do not fit
    together or cannot be converted.
    """

    def __init__(self, paths: Sequence[Path], change: Change | None = None, *, partial: bool = False):
        self.runs: list[Run] = []
        self.notes: list[str] = []
        self._begun, self._partial = unread.mark(), partial
        self.change = change
        self.conversions: list[Conversion] | None = None if change is None else []
        parts: list[Segments] = []
        try:
            for path in paths:
                run = Run(path)
                run.most_blocks = FEW_BLOCKS
                self.runs.append(run)
                if change is not None and self.conversions is not None:
                    self.conversions.append(change.conversion(run))
                schema = run.schema if self.conversions is None else self.conversions[-1].schema
                if len(self.runs) == 1:
                    self.schema = schema
                else:
                    self._compare(self.runs[0], run, schema)
                parts.append(settle(run))
                _check_records(run)
                run.episodes()
                if not partial:
                    run.check_whole()
                run.close_readers()  # of many runs not all can be open
        except BaseException:
            self.close()
            raise
        self.segments = Segments.join(parts)
        self.policies, self.policy_maps = _join_policies(self.runs)
        self.complete = [complete_episodes(run, run.live_writers) for run in self.runs]
        left = sum(len(run.episodes()) - len(complete) for run, complete in zip(self.runs, self.complete, strict=True))
        if left:
            self.notes.append(f"{left:,} episodes that are still being recorded are left out")

    def __enter__(self) -> Sources:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        for run in self.runs:
            run.close()

    def check_read(self) -> None:
        """Raises ReadFailed where a read of these runs has failed since they were opened, whoever got by without it.
        Not with `partial`, which asks for what is there."""
        for run in () if self._partial else self.runs:
            unread.refuse_since(self._begun, run.path)

    def _compare(self, first: Run, other: Run, schema: Schema) -> None:
        found = schema_differences(self.schema, schema)
        if found:
            told = [difference.describe(str(first.path), str(other.path)) for difference in found]
            more = f"; and {len(told) - _DIFFERENCES_SHOWN} more" if len(told) > _DIFFERENCES_SHOWN else ""
            advice = "merge only runs of one schema, or bring them to one by expkit rewrite --columns"
            sizes = common_board(first.schema, other.schema)
            if self.change is None and sizes is not None:
                advice = f"boards of two sizes are joined by expkit merge --pad {sizes[0]}x{sizes[1]}"
            raise SchemaError(
                f"{first.path} and {other.path} do not hold the same: {'; '.join(told[:_DIFFERENCES_SHOWN])}{more}; "
                f"{advice}"
            )
        self.schema = widened(self.schema, schema)
        mine, theirs = first.info.players, other.info.players
        if len(mine) != len(theirs):
            raise SchemaError(
                f"{first.path} has {len(mine)} players, {other.path} has {len(theirs)}; merge only runs of as many"
            )
        if mine != theirs:
            self.notes.append(
                f"the players of {other.path} are called {', '.join(theirs)}; the output has the names of {first.path}"
            )
        if not _same_rewards(first, other):
            self.notes.append(f"the rewards of {other.path} are not computed as those of {first.path} are")
        if first.info.source != other.info.source:
            self.notes.append(f"{first.path} is of {first.info.source}, {other.path} of {other.info.source}")

    def describe(self, rewritten: dict[str, Any]) -> RunInfo:
        """The description of an output run, with what was `rewritten` and the origins of its episodes."""
        first = self.runs[0].info
        infos = [run.info for run in self.runs]
        common = {
            key: value
            for key, value in first.metadata.items()
            if key != ORIGINS and all(info.metadata.get(key) == value for info in infos)
        }
        told = {} if self.change is None else self.change.told()
        if "pad" in told:
            common.pop("game", None)  # of another board; how each was played is told by its origin
        # What was converted is no longer what that config records.
        same_config = not told and all(info.config_digest == first.config_digest for info in infos)
        if not all(_same_rewards(self.runs[0], run) for run in self.runs):
            common[REWARDS] = _joined_rewards(self.runs)
        return RunInfo(
            id=new_run_id(),
            source=first.source if all(info.source == first.source for info in infos) else "mixed",
            schema=self.schema,
            players=first.players,
            policies=self.policies,
            config=first.config if same_config else {},
            config_digest=first.config_digest if same_config else "",
            seed=first.seed if all(info.seed == first.seed for info in infos) else None,
            metadata={**common, "rewritten": {**rewritten, **told}, ORIGINS: msgspec.to_builtins(self._origins())},
        )

    def _origins(self) -> list[OriginRun]:
        """One for each run, and those that the runs were made of."""
        found: dict[str, OriginRun] = {}
        for run in self.runs:
            for origin in [*origins_of(run.info.metadata), _origin(run)]:
                found.setdefault(origin.id, origin)
        return list(found.values())


def describe_changes(sources: Sources, schema: Schema) -> list[dict[str, Any]]:
    """What becomes of each run's rows under a change, as JSON objects can hold it: bytes of a row before compression,
    and the fields that are stored in another way. Empty without a change."""
    if sources.change is None:
        return []
    return [
        {
            "run": str(run.path),
            "row_bytes": {"from": run.schema.row_bytes, "to": schema.row_bytes},
            "fields": [
                {"name": field, "from": before, "to": after}
                for field, before, after in schema_differences(run.schema, schema)
            ],
        }
        for run in sources.runs
    ]


def _same_rewards(one: Run, other: Run) -> bool:
    return told_rewards(one.info.metadata) == told_rewards(other.info.metadata)


def _joined_rewards(runs: Sequence[Run]) -> dict[str, str]:
    """What each column of rewards is, MIXED where it is not the same in all runs."""
    told = [{REWARD: GAME, **told_rewards(run.info.metadata)} for run in runs]
    names = dict.fromkeys(name for one in told for name in one)
    return {name: told[0][name] if all(one.get(name) == told[0].get(name) for one in told) else MIXED for name in names}


def _origin(run: Run) -> OriginRun:
    info, game = run.info, run.info.metadata.get("game")
    told = {player.player: player for player in balance(run) or []}
    players = []
    for number, name in enumerate(info.players):
        one = told.get(number)
        if one is None:
            rows = sum(episode.rows.get(number, 0) for episode in run.episodes())
            players.append(OriginPlayer(name, rows, rows))
        else:
            accounts = (one.produced, one.dropped_rows, one.rejected, one.lost, one.pruned, one.quarantined)
            players.append(OriginPlayer(name, one.present, *accounts))
    return OriginRun(
        id=info.id,
        source=info.source,
        host=info.host,
        created_ns=str(info.created_ns),
        config_digest=info.config_digest,
        seed=None if info.seed is None else str(info.seed),
        game=game if isinstance(game, dict) else None,
        episodes=len(run.episodes()),
        rows=sum(player.rows for player in players),
        players=players,
    )


def _check_records(run: Run) -> None:
    """Records of episodes that cannot be read would be missed without a word. Raises ShardError."""
    for position in range(len(run.shard_paths)):
        reader = run.reader(position)
        reader.load_records()
        for finding in reader.findings:
            if finding.severity == "error":
                raise ShardError(f"{reader.path}: {finding.message}; run expkit recover {quoted(run.path)} first")


def _join_policies(runs: Sequence[Run]) -> tuple[list[PolicyInfo], list[np.ndarray]]:
    place: dict[PolicyInfo, int] = {}
    for run in runs:
        for policy in run.policies:
            place.setdefault(policy, len(place))
    if len(place) > 1 << 16:
        raise UsageError(f"the runs have {len(place):,} policies together, and rows can tell 65,536 apart")
    maps = []
    for run in runs:
        # A run without policies has rows of policy 0 all the same.
        maps.append(np.array([place[policy] for policy in run.policies] or [0], np.uint16))
    return list(place), maps
