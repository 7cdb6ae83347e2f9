"""Many runs read like one: `open_run` of several paths, or of a glob."""

from __future__ import annotations

import dataclasses
import glob
import os
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np

from expkit.batches.decode import Batch, Rows
from expkit.batches.epochs import PinnedShard
from expkit.buffers.protocol import ExperienceBuffer
from expkit.errors import NotThere, SchemaError, UsageError
from expkit.formats.shard.read import ShardReader
from expkit.predicates import BoundPredicate, EpisodeTable, Predicate
from expkit.reading.follow import follow
from expkit.reading.known_run import State
from expkit.reading.readable import Readable
from expkit.reading.run import Run
from expkit.row.episodes import Episode, PolicyInfo
from expkit.row.schema import Schema
from expkit.row.schema_differences import schema_differences
from expkit.runs.index import RunIndex
from expkit.runs.layout import is_run
from expkit.runs.superseding import VisibleBlock

MOST_RUNS = 1 << 16  # what a column of u2 can name


def found_runs(patterns: Sequence[str | os.PathLike[str]]) -> list[Path]:
    """The folders that paths and globs name, in that order, those of a glob by name, none twice. Raises UsageError for
    a glob that matches no run."""
    out: dict[Path, None] = {}
    for pattern in patterns:
        text = os.fspath(pattern)
        if not glob.has_magic(text) or Path(text).exists():
            out[Path(text)] = None
            continue
        matches = [path for path in map(Path, sorted(glob.glob(text, recursive=True))) if is_run(path)]
        if not matches:
            raise UsageError(f"{text} matches no run; see expkit list")
        out |= dict.fromkeys(matches)
    return list(out)


class Runs(Readable):
    """Several runs, whose rows are read as of one. Batches have a column `run`, u2: the place of the row's run in
    `paths`. `policy` is a place in `policies`, the table of all. Episodes are known by their number and their run.

    Raises UsageError for none or more than 65,536, SchemaError where rows of one are not stored as those of the first.
    """

    def __init__(self, runs: Sequence[Run]):
        if not 0 < len(runs) <= MOST_RUNS:
            raise UsageError(f"{len(runs):,} runs were given; give 1 to {MOST_RUNS:,}")
        self.runs = list(runs)
        first = runs[0]
        for run in runs:
            run.beside = len(runs)
            for unlike in schema_differences(first.schema, run.schema)[:1]:
                names = str(first.path), str(run.path)
                raise SchemaError(
                    f"{names[1]}: its rows are not those of {names[0]}: {unlike.describe(*names)}; read them apart"
                )

    @classmethod
    def open(cls, patterns: Sequence[str | os.PathLike[str]]) -> Runs:
        """Raises NotThere, CheckFailed, UsageError, SchemaError; then none is left open."""
        opened: list[Run] = []
        try:
            for path in found_runs(patterns):
                opened.append(Run(path))
            return cls(opened)
        except BaseException:
            for run in opened:
                run.close()
            raise

    def check_whole(self) -> None:
        for run in self.runs:
            run.check_whole()

    def as_pinned(self, manifest: Sequence[PinnedShard]) -> Runs:
        pinned = []
        for run, id in zip(self.runs, self.run_ids, strict=True):
            pinned.append(run.as_pinned([shard._replace(run=run.id) for shard in manifest if shard.run == id]))
        if all(one is other for one, other in zip(pinned, self.runs, strict=True)):
            return self
        return Runs([one.reopened() if one is other else one for one, other in zip(pinned, self.runs, strict=True)])

    def refresh(self) -> None:
        """Look again at the files of all."""
        for name in ("index", "timeline", "policies", "policy_places", "_before"):
            self.__dict__.pop(name, None)
        for run in self.runs:
            run.refresh()

    def close(self) -> None:
        for run in self.runs:
            run.close()

    def __enter__(self) -> Runs:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Runs({[str(path) for path in self.paths]!r}, {len(self):,} rows, {self.state})"

    def __len__(self) -> int:
        return sum(map(len, self.runs))

    @property
    def single_runs(self) -> list[Run]:
        return self.runs

    @property
    def paths(self) -> list[Path]:
        return [run.path for run in self.runs]

    @property
    def label(self) -> str:
        paths = self.paths
        return str(paths[0]) if len(paths) == 1 else f"{len(paths)} runs, {paths[0]} to {paths[-1]}"

    @property
    def run_labels(self) -> list[str]:
        return [str(run.path) for run in self.runs]

    @cached_property
    def run_ids(self) -> list[str]:
        out: list[str] = []
        for run in self.runs:
            copies = sum(known.partition("#")[0] == run.id for known in out)
            out.append(f"{run.id}#{copies}" if copies else run.id)
        return out

    @property
    def schema(self) -> Schema:
        return self.runs[0].schema

    @property
    def players(self) -> list[int]:
        """Of all runs."""
        return list(range(max(len(run.players) for run in self.runs)))

    @cached_property
    def policies(self) -> list[PolicyInfo]:
        """The policy tables of all runs in one, in which equal entries are one; `policy` is an index into it. Rows of a
        run that names no policies are of an entry without a name."""
        tables = [run.policies or [PolicyInfo("")] for run in self.runs]
        return list(dict.fromkeys(policy for table in tables for policy in table))

    @cached_property
    def policy_places(self) -> list[np.ndarray]:
        known = {policy: place for place, policy in enumerate(self.policies)}
        unnamed = known.get(PolicyInfo(""), len(known))
        return [np.array([*(known[policy] for policy in run.policies), unnamed], np.uint16) for run in self.runs]

    @property
    def state(self) -> State:
        """`recording` while any is, else `killed` if any was, else `closed`."""
        states = {run.state for run in self.runs}
        return next(state for state in ("recording", "killed", "closed") if state in states)

    @property
    def steps(self) -> int:
        return sum(run.steps for run in self.runs)

    @property
    def bytes(self) -> int:
        """Bytes of all shard files."""
        return sum(run.bytes for run in self.runs)

    @cached_property
    def index(self) -> RunIndex:
        return RunIndex.joined([run.index for run in self.runs], [len(run.shard_paths) for run in self.runs])

    @cached_property
    def _before(self) -> list[int]:
        """Shards of the runs before each."""
        return np.cumsum([0, *(len(run.shard_paths) for run in self.runs)]).tolist()

    def _of(self, shard: int) -> tuple[int, int]:
        """(run, position in it) of a shard."""
        run = bisect_right(self._before, shard) - 1
        return run, shard - self._before[run]

    def blocks(self, *, unreadable: Literal["raise", "skip"] = "raise") -> Iterator[VisibleBlock]:
        for number, run in enumerate(self.runs):
            for block in run.blocks(unreadable=unreadable):
                yield dataclasses.replace(block, shard=self._before[number] + block.shard, run=number)

    def visible(self, position: int, index: int) -> VisibleBlock:
        run, shard = self._of(position)
        return dataclasses.replace(self.runs[run].visible(shard, index), shard=position, run=run)

    def reader(self, shard: int) -> ShardReader:
        run, position = self._of(shard)
        return self.runs[run].reader(position)

    def lacks_rows(self, run: int, episode: int, player: int, rows: int) -> bool:
        return self.runs[run].lacks_rows(0, episode, player, rows)

    def bind(self, where: Predicate) -> list[tuple[BoundPredicate, EpisodeTable | None]]:
        """Names of policies are those of all runs; a policy's number is its place in the row's own run."""
        out = []
        for run in self.runs:
            out += run.bind(where, self.policies)
        return out

    def episodes(self) -> list[Episode]:
        """All episodes by run and number; `Episode.run` is the place of its run in `paths`."""
        return [
            dataclasses.replace(episode, run=number)
            for number, run in enumerate(self.runs)
            for episode in run.episodes()
        ]

    def find_episode(self, number: int, run: int) -> Episode:
        """The episode of that number in the run at that place. Raises NotThere."""
        return dataclasses.replace(self._run(run).find_episode(number), run=run)

    def rows(self, episode: int, player: int, columns: Sequence[str] | None = None, *, run: int) -> Batch:
        """See `Run.rows`; `run`: its place in `paths`."""
        return self._with_run(self._run(run).rows(episode, player, columns), run)

    def episode(self, number: int, player: int, *, run: int) -> Batch:
        """See `Run.episode`; `run`: its place in `paths`."""
        return self._with_run(self._run(run).episode(number, player), run)

    def row(self, episode: int, player: int, step: int, *, run: int) -> Batch:
        """See `Run.row`; `run`: its place in `paths`."""
        return self._with_run(self._run(run).row(episode, player, step), run)

    def _run(self, place: int) -> Run:
        with suppress(IndexError):
            return self.runs[place]
        raise NotThere(f"{self.label}: no run {place}; there are {len(self.runs)}")

    def _with_run(self, batch: Batch, run: int) -> Batch:
        policy = batch["policy"]
        place = np.full(np.shape(policy), run, np.uint16)
        return {
            **batch,
            "policy": self.policy_places[run].take(policy, mode="clip"),
            "run": place if place.ndim else place[()],
        }

    def split(self, fractions: Mapping[str, float]) -> dict[str, Runs]:
        """See `Run.split`."""
        parts = [run.split(fractions) for run in self.runs]
        return {name: Runs([part[name] for part in parts]) for name in fractions}

    def follow(
        self,
        columns: Sequence[str] | None = None,
        *,
        rows: Rows = "transitions",
        where: str | Predicate | None = None,
        poll: float = 0.2,
        stop: Callable[[], bool] | None = None,
    ) -> Iterator[Batch]:
        """See `Run.follow`: of all runs in turns, until no recorder of any is at work. `run` is the place in `paths`,
        and `policy` the row of that run's own table: a table of all would change as tables grow."""
        if where is not None:
            self.selection(where)
        return (
            {**batch, "run": np.full(len(batch["step"]), place, np.uint16)}
            for place, batch in follow(self.runs, columns, rows, where, poll, stop)
        )

    def load_into(self, buffer: ExperienceBuffer) -> int:
        """See `Run.load_into`: of all runs, one after another."""
        return sum(run.load_into(buffer) for run in self.runs)
