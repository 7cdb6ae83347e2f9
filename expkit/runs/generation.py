"""Writes the shards of one maintenance operation and deletes what they replace.

An operation holds the maintenance lock, takes the next generation, and publishes its shards one after another in
`shards/gN/`. Each publication is one rename: from then on the episodes it supersedes count there and nowhere else.
Killed at any moment, a run is as it was before the shard at hand or as it is after it; what was left over goes with
the next `sweep`.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import msgspec

from expkit import __version__
from expkit.files import DiskErrors, disk, make_folder, unlink_quietly
from expkit.formats.shard.write import ShardWriter
from expkit.runs.layout import (
    SHARDS_DIR,
    RunInfo,
    ShardPath,
    command_line,
    generation_file,
    list_shards,
    log_event,
)
from expkit.runs.locks import live_writers, maintenance, without_readers
from expkit.runs.manifest import update_manifest
from expkit.runs.superseding import Superseding, removed_rows
from expkit.schema import Schema


class Generation:
    """One maintenance operation on a run, to be used as a context manager; `doing` names it in the run's events.

    Raises Busy when another one is at work.
    """

    def __init__(self, run: Path, info: RunInfo, doing: str):
        self.run = run
        self.info = info
        self.doing = doing
        self._lock = maintenance(run)
        self.number = 1 + max((shard.generation for shard in list_shards(run, unfinished=True)), default=0)
        self._shards = 0
        self._path = Path()
        self._shard: ShardWriter | None = None
        self.published_bytes = 0

    def __enter__(self) -> Generation:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.abandon()
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
            "run": self.info.id,
            "source": self.info.source,
            "generation": self.number,
            "shard": self._shards,
            "supersedes": supersedes,
            "retires": sorted(retires),
            "removed": removed,
            "created_ns": str(time.time_ns()),
            "players": self.info.players,
            "policies": msgspec.to_builtins(self.info.policies),
            "config": self.info.config,
            "config_digest": self.info.config_digest,
            "seed": None if self.info.seed is None else str(self.info.seed),
            "metadata": self.info.metadata,
            "host": socket.gethostname(),
            "argv": command_line(),
            "expkit": __version__,
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
        return self._path

    def publish(self) -> str:
        """Give the shard its published name: from now on it counts. Returns the name, `g1/000000`."""
        assert self._shard is not None
        shard = self._shard
        self.close()
        published = generation_file(self.run, self.number, self._shards)
        with DiskErrors(self.run, self.doing):
            disk().rename(self._path, published)
            disk().sync_folder(published.parent)
        self._shard = None
        self._shards += 1
        self.published_bytes += shard.nbytes
        name = f"g{self.number}/{published.stem}"
        update_manifest(self.run, {name: shard})
        log_event(self.run, "published", shard=name, rows=shard.rows, by=self.doing)
        return name

    def abandon(self) -> None:
        """Drop the shard at hand, if there is one."""
        if self._shard is not None:
            self._shard.abandon()
            self._shard = None
            unlink_quietly(self._path)


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
    retired = Superseding.read(shards).retired
    return [shard for shard in shards if shard.name in retired or (shard.generation and shard.active)]


def sweep(run: Path, *, despite_readers: bool = False) -> tuple[int, int]:
    """Delete the files of retired shards; the caller holds the maintenance lock. Returns (files, bytes) deleted.

    As long as somebody has the run open nothing is deleted, unless `despite_readers`: what a reader has opened stays
    readable, what it would open later is gone. Raises WriteFailed.
    """
    waiting = retired_shards(run)
    if not waiting:
        return 0, 0
    lock = None if despite_readers else without_readers(run)
    if lock is None and not despite_readers:
        return 0, 0
    try:
        return _delete(run, waiting)
    finally:
        if lock is not None:
            lock.release()


def _delete(run: Path, shards: Sequence[ShardPath]) -> tuple[int, int]:
    freed = 0
    folders = set()
    with DiskErrors(run, "delete shards that were replaced"):
        for shard in shards:
            freed += shard.path.stat().st_size
            disk().unlink(shard.path)
            folders.add(shard.path.parent)
        for folder in sorted(folders):
            disk().sync_folder(folder)
            _remove_if_empty(run, folder)
    update_manifest(run, {shard.name: None for shard in shards})
    return len(shards), freed


def _remove_if_empty(run: Path, folder: Path) -> None:
    """Generation folders go with their last shard; a writer's folder says that its number is taken."""
    if folder.name.startswith("g") and not os.listdir(folder):
        disk().rmdir(folder)
        disk().sync_folder(run / SHARDS_DIR)


def complete_episodes(run: Path, ended: Iterable[int], known: Iterable[int]) -> set[int]:
    """Episodes to which no row will be added any more: those of `known` that have an end record (`ended`), and all
    of writers that do not live."""
    live = set(live_writers(run))
    finished = set(ended)
    return {episode for episode in known if episode in finished or episode >> 48 not in live}
