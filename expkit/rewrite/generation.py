"""Writes the shards of one maintenance operation and deletes what they replace.

An operation holds the maintenance lock, takes the next generation, and publishes its shards one after another in
`shards/gN/`. Each publication is one rename: from then on the episodes it supersedes count there and nowhere else.
Killed at any moment, a run is as it was before the shard at hand or as it is after it; what was left over goes with
the next `sweep`.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from expkit.errors import NoSpace, ShardError, quoted
from expkit.formats.shard.read import ShardReader
from expkit.formats.shard.write import ShardWriter
from expkit.reading.run import Run
from expkit.row.episodes import WRITER_BITS
from expkit.row.schema import Schema
from expkit.runs.entries import annotation
from expkit.runs.layout import (
    MANIFEST_FILE,
    SHARDS_DIR,
    RunInfo,
    ShardPath,
    generation_file,
    list_shards,
    log_event,
    read_run_info,
)
from expkit.runs.locks import maintenance, without_readers
from expkit.runs.manifest import ShardCounts, taken_off, update_manifest
from expkit.runs.superseding import Superseding, removed_rows
from expkit.runs.write import shard_header
from expkit.system import unread
from expkit.system.files import DiskErrors, disk, make_folder, publish, unlink_quietly


class Generation:
    """One maintenance operation on a run, to be used as a context manager; `doing` names it in the run's events.

    Raises Busy when another one is at work.
    """

    def __init__(self, run: Path, info: RunInfo, doing: str):
        self.run = run
        self.info = info
        self.doing = doing
        self._lock = maintenance(run)
        self._begun = unread.mark()
        self.number = 1 + max((shard.generation for shard in list_shards(run, unfinished=True)), default=0)
        self._shards = 0
        self._path: Path | None = None
        self._shard: ShardWriter | None = None
        self.published_bytes = 0

    def __enter__(self) -> Generation:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.abandon()
        finally:
            self._lock.release()

    def begin(
        self,
        *,
        supersedes: Sequence[tuple[int, int]] = (),
        retires: Iterable[str] = (),
        removed: Sequence[tuple[int, int, int, int]] = (),
        schema: Schema | None = None,
        extra: Mapping[str, Any] | None = None,
    ) -> ShardWriter:
        """A new shard, not published yet. `supersedes` are ranges of whole episode numbers, `removed` the accounts
        of rows taken out (by this shard, and carried over from the shards it retires). Raises NoSpace, WriteFailed."""
        folder = generation_file(self.run, self.number, 0).parent
        self._path = generation_file(self.run, self.number, self._shards, active=True)
        header = {
            **shard_header(self.info, self._shards, generation=self.number),
            "supersedes": supersedes,
            "retires": sorted(retires),
            "removed": removed,
            **(extra or {}),
        }
        with DiskErrors(self.run, self.doing):
            make_folder(folder)
            self._shard = ShardWriter(self._path, schema or self.info.schema, header)
        return self._shard

    def close(self) -> Path:
        """Footer and sync; returns the path of the shard, which still has no published name and may be checked."""
        assert self._shard is not None
        with DiskErrors(self.run, self.doing):
            self._shard.close()
        return Path(self._shard.name)

    def publish(self) -> str:
        """Give the shard its published name: from now on it counts. Returns the name, `g1/000000`. Raises ReadFailed
        where the run could not be read meanwhile: what reading gets by without is no reason to retire it."""
        assert self._shard is not None
        unread.refuse_since(self._begun, self.run)
        shard = self._shard
        written = self.close()
        published = generation_file(self.run, self.number, self._shards)
        with DiskErrors(self.run, self.doing):
            publish(written, published)
            disk().sync_folder(published.parent)
        self._shard = self._path = None
        self._shards += 1
        self.published_bytes += shard.nbytes
        name = f"g{self.number}/{published.stem}"
        _list(self.run, {name: shard})
        with suppress(NoSpace):
            log_event(self.run, "published", shard=name, rows=shard.rows, by=self.doing)
        return name

    def abandon(self) -> None:
        """Drop the shard at hand, if there is one, also one that could not be begun."""
        if self._shard is not None:
            self._shard.abandon()
            self._shard = None
        if self._path is not None:
            unlink_quietly(self._path)
            self._path = None


def carried(headers: Iterable[Mapping[str, Any]]) -> list[tuple[int, int, int, int]]:
    """The accounts of removed rows of several shards as one, by writer and player."""
    totals: dict[tuple[int, int], tuple[int, int]] = {}
    for header in headers:
        for writer, player, pruned, quarantined in removed_rows(dict(header)):
            before = totals.get((writer, player), (0, 0))
            totals[writer, player] = (before[0] + pruned, before[1] + quarantined)
    return [(writer, player, *sums) for (writer, player), sums in sorted(totals.items())]


def retired_shards(run: Path) -> list[ShardPath]:
    """Shard files in which nothing counts any more: retired, or left by an operation that did not finish."""
    shards = list_shards(run, unfinished=True)
    retired = Superseding.read(shards, run=read_run_info(run).id).retired
    return [shard for shard in shards if shard.name in retired or (shard.generation and shard.active)]


def sweep(run: Path, despite_readers: Collection[str] = ()) -> tuple[int, int]:
    """Delete the files of retired shards; the caller holds the maintenance lock. Returns (files, bytes) deleted.

    As long as somebody has the run open, only those named in `despite_readers` are deleted: what a reader has opened
    stays readable, what it would open later is gone. Raises WriteFailed.
    """
    waiting = retired_shards(run)
    lock = without_readers(run) if waiting else None
    try:
        chosen = [shard for shard in waiting if lock is not None or shard.name in despite_readers]
        return _delete(run, chosen) if chosen else (0, 0)
    finally:
        if lock is not None:
            lock.release()


def _delete(run: Path, shards: Sequence[ShardPath]) -> tuple[int, int]:
    freed = 0
    folders = set()
    with taken_off(run, [shard.name for shard in shards]), DiskErrors(run, "delete shards that were replaced"):
        for shard in shards:
            freed += shard.path.stat().st_size
            disk().unlink(shard.path)
            folders.add(shard.path.parent)
        for folder in sorted(folders):
            disk().sync_folder(folder)
            _remove_if_empty(run, folder)
    return len(shards), freed


def _list(run: Path, shards: Mapping[str, ShardCounts | None]) -> None:
    """Update the manifest; on a disk too full for that it goes, being a cache."""
    try:
        update_manifest(run, shards)
    except NoSpace:
        unlink_quietly(run / MANIFEST_FILE)


def _remove_if_empty(run: Path, folder: Path) -> None:
    """Generation folders go with their last shard; a writer's folder says that its number is taken."""
    if folder.name.startswith("g") and not os.listdir(folder):
        disk().rmdir(folder)
        disk().sync_folder(run / SHARDS_DIR)


def complete_episodes(run: Run, live_writers: Collection[int]) -> set[int]:
    """Episodes of the run to which no row will be added any more: those that have an end record, and all of writers
    that do not live. `live_writers` are those that lived before the run was opened."""
    return {e.number for e in run.episodes() if e.end is not None or e.number >> WRITER_BITS not in live_writers}


@dataclass(slots=True)
class Inheritance:
    """What the last shard of an operation has to say in place of the shards that it retires.

    supersedes  episodes that were pruned earlier: those of which rows are still in the shards that stay, and the
                highest of each writer, so that its number is not used again
    retires     shards retired earlier whose files are still there
    removed     accounts of removed rows;  drops: rows dropped by player and cause;  metas: annotations
    """

    supersedes: list[int] = field(default_factory=list)
    retires: list[str] = field(default_factory=list)
    removed: list[tuple[int, int, int, int]] = field(default_factory=list)
    drops: dict[int, dict[str, int]] = field(default_factory=dict)
    metas: list[dict[str, Any]] = field(default_factory=list)


def inherit(run: Run, retiring: Collection[int], pruned: Collection[int] = ()) -> Inheritance:
    """What has to be carried over when the shards at the positions `retiring` go and `pruned` episodes with them.
    Raises ShardError where one of them cannot be read."""
    out = Inheritance()
    on_disk = {shard.name for shard in list_shards(run.path)}
    out.retires = sorted(run.superseding.retired & on_disk)
    shown = {episode.number for episode in run.episodes()} - set(pruned)
    waiting: set[int] = set()
    for position, shard in enumerate(run.shard_paths):
        reader = run.reader_or_none(position)
        if position not in retiring:
            if reader is not None and run.superseding.may_hide(shard.generation, 0, 2**64 - 1):
                held = np.array(sorted(episodes_in(reader)), np.uint64)
                waiting.update(held[run.superseding.hidden(shard.generation, held)].tolist())
            continue
        if reader is None:
            raise ShardError(f"{shard.path} cannot be read; run expkit recover {quoted(run.path)} first")
        for player, causes in reader.drops.items():
            known = out.drops.setdefault(player, {})
            for cause, rows in causes.items():
                known[cause] = known.get(cause, 0) + rows
        out.metas += [meta for meta in reader.metas if noted_episode(meta) in shown]
    out.removed = carried(run.reader(position).header for position in sorted(retiring))
    out.supersedes = sorted((waiting | _highest(run.superseding)) - shown)
    return out


def _highest(superseding: Superseding) -> set[int]:
    """Of each writer the highest episode number that any generation supersedes: what goes on recording numbers its
    episodes above all that there ever were, also where neither rows nor records of those are left."""
    highest: dict[int, int] = {}
    for layer in superseding.layers:
        for last in layer.last.tolist():
            highest[last >> WRITER_BITS] = max(last, highest.get(last >> WRITER_BITS, 0))
    return set(highest.values())


def noted_episode(meta: Mapping[str, Any]) -> int | None:
    """The episode that a meta record annotates, None for one that says something else."""
    note = annotation(meta)
    return None if note is None else note[0]


def episodes_in(reader: ShardReader) -> set[int]:
    """Episodes of which a shard holds rows or records, whether they count or not."""
    held = {episode for episode, _ in reader.digests}
    held.update(start.episode for start in reader.episode_starts)
    held.update(end.episode for end in reader.episode_ends)
    return held
