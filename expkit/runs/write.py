"""One writer of a run: appends encoded blocks and episode records, rotates shards, says what is durable.

Thread-safe. The order on disk is the order of calls: an episode's start before its rows, its end after them.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np

from expkit.errors import BufferClosed, Busy, CheckFailed, NotThere, OutputExists, SchemaError
from expkit.formats.shard.encode import EncodedBlock
from expkit.formats.shard.write import ShardWriter
from expkit.row.episodes import EpisodeEnd, EpisodeStart, PolicyInfo
from expkit.row.schema import Schema
from expkit.runs.counters import Ledger
from expkit.runs.guard import DiskGuard
from expkit.runs.layout import (
    LOCKS_DIR,
    RUN_FILE,
    SHARDS_DIR,
    RunInfo,
    command_line,
    is_run,
    log_event,
    read_run_info,
    shard_file,
    write_run_info,
)
from expkit.runs.locks import READERS_LOCK, Lock, live_writers, taking_turns
from expkit.runs.manifest import Listed, update_manifest
from expkit.runs.requests import pending_rotations
from expkit.runs.reserve import keep_reserve
from expkit.runs.superseding import claim_writer, next_shard_number
from expkit.runs.unbegun import came_to_nothing
from expkit.system.files import DiskErrors, disk, make_folder, publish, remove_tree, unlink_quietly
from expkit.system.version import __version__

Sync = Literal["none", "interval", "block"]


@dataclass(frozen=True, slots=True)
class ShardLimits:
    """When a shard is closed and the next one begun: at `size` bytes, `rows` rows or `age` seconds. 0 is never."""

    size: int = 256 << 20
    rows: int = 0
    age: float = 3600.0


def check_output(run: Path, *, force: bool = False) -> None:
    """Whether a run may be made at `run`: nothing there, an empty folder, a run that failed before its first row, or
    with `force` a run that nobody records. Raises OutputExists, Busy, and CheckFailed while the machine's clock says
    what no row can hold."""
    check_clock(run)
    if not run.exists() or (run.is_dir() and not any(run.iterdir())):
        return
    if not is_run(run):
        raise OutputExists(f"{run} exists already and is no run; choose another -o")
    if not force and not came_to_nothing(run):
        raise OutputExists(f"{run} exists already; use --force to replace it, or choose another -o")
    if live_writers(run):
        raise Busy(f"{run} is being recorded; stop that recorder first")


def check_clock(run: Path) -> None:
    """Raises CheckFailed before 1970 and after 2262: runs and rows tell times as nanoseconds since 1970 in 63 bits."""
    now = time.time_ns()
    if not 0 <= now < _END_OF_TIME:
        when = "before 1970" if now < 0 else "after 2261"
        raise CheckFailed(f"{run}: this machine's clock says a time {when}, which no run can hold; set the clock")


def create_run(run: Path, info: RunInfo, *, force: bool = False) -> None:
    """Make the folder and `run.yaml`, in place of a run that is there with `force`. Raises as `check_output`."""
    check_output(run, force=force)
    with DiskErrors(run, "make the run"):
        if is_run(run):
            remove_tree(run)
    make_run(run, info)


def make_run(run: Path, info: RunInfo) -> None:
    """Make what is missing of the folder, and `run.yaml` last: from then on it is a run."""
    with DiskErrors(run, "make the run"):
        make_folder(run)
        make_folder(run / SHARDS_DIR)
        make_folder(run / LOCKS_DIR)
        os.close(disk().open_or_create(run / LOCKS_DIR / READERS_LOCK))
    if not info.created_ns:
        info.created_ns = time.time_ns()
    write_run_info(run, info)
    keep_reserve(run)


def check_same(run: Path, info: RunInfo, schema: Schema, players: int) -> None:
    """Raises SchemaError when the run holds rows of another schema or of other players."""
    if info.schema != schema:
        raise SchemaError(f"{run} was begun with another schema; record into a new run")
    if len(info.players) != players:
        raise SchemaError(f"{run} has {len(info.players)} players, not {players}; record into a new run")


def shard_header(info: RunInfo, number: int, **place: int) -> dict[str, Any]:
    """What a shard says of itself, besides the schema; `place` is its writer or its generation."""
    return {
        "run": info.id,
        "source": info.source,
        **place,
        "shard": number,
        "created_ns": str(time.time_ns()),
        "players": info.players,
        "policies": msgspec.to_builtins(info.policies),
        "config": info.config,
        "config_digest": info.config_digest,
        "seed": None if info.seed is None else str(info.seed),
        "metadata": info.metadata,
        "host": socket.gethostname(),
        "argv": command_line(),
        "expkit": __version__,
    }


# The manifest is written whole. With every shard it took 60 ms a shard at 3,000 of them; so it is when a fiftieth of
# the shards is not in it, and at the end. It is a cache: what it lacks is read from the files.
LISTED_SHARE = 50
_END_OF_TIME = (1 << 63) - (366 * 86400 * 10**9)  # what a year's recording may add is left


class RunWriter:
    """Writer `wN` of a run directory that exists (see `create_run`).

    writer  a number; one that is locked already (see `expkit.runs.resume`); or a number nobody used before
    about   more for the headers of its shards

    Raises Busy when that writer is taken, SchemaError when the run has another schema.
    """

    def __init__(
        self,
        run: Path,
        schema: Schema,
        players: int,
        *,
        writer: int | tuple[int, Lock] | None = None,
        limits: ShardLimits | None = None,
        sync: Sync = "interval",
        guard: DiskGuard | None = None,
        about: Mapping[str, Any] | None = None,
    ):
        self.run = run
        self._about = dict(about or {})
        self.schema = schema
        self.limits = limits or ShardLimits()
        self.sync_policy = sync
        self.guard = guard or DiskGuard()
        held = writer if isinstance(writer, tuple) else None
        try:
            self.info = read_run_info(run)
            check_same(run, self.info, schema, players)
            self.guard.start(run)
            self.writer, self._lock_file = held = writer if isinstance(writer, tuple) else claim_writer(run, writer)
            self.ledger = Ledger(run, self.writer, players)
            self._number = next_shard_number(run, self.writer)
            with DiskErrors(run, "make a folder for shards"):
                make_folder(shard_file(run, self.writer, 0).parent)
            log_event(run, "started", writer=self.writer)
        except BaseException:
            if held is not None:
                held[1].release()
            raise
        self.lock = threading.RLock()
        # One sync at a time: that it failed is known before another one begins. The system tells of an error once,
        # and a file that is opened after that syncs without one. Taken before the lock; where each append is synced
        # under the lock, the lock it is.
        self._sync_lock = self.lock if sync == "block" else threading.RLock()
        self._shard: ShardWriter | None = None
        self._shard_path = Path()
        self._shard_begun = 0.0
        self._open_episodes: dict[int, EpisodeStart] = {}
        self._synced = 0  # bytes of the active shard that are durable
        self._closed = False
        self._unlisted: dict[str, Listed] = {}
        self.closed_bytes = 0
        self.last_rows = 0
        self.shards = 0

    @property
    def nbytes(self) -> int:
        """Bytes of all shards this writer wrote, the active one included."""
        with self.lock:
            return self.closed_bytes + (self._shard.nbytes if self._shard is not None else 0)

    def append(self, block: EncodedBlock, *, starts: Sequence[EpisodeStart] = (), last_rows: int = 0) -> None:
        """Episode starts, then the block, of which `last_rows` rows are the last of their episode and player.
        Raises NoSpace, OSError, BufferClosed."""
        with self.lock:
            self.append_episodes(starts, ())
            shard = self._active()
            with self._disk_errors():
                shard.append_block(block)
            self.ledger.written[block.player] += block.rows
            self.last_rows += last_rows
            if self.sync_policy == "block":
                self.sync()

    def rotate_if_full(self) -> None:
        """Publish the active shard when it has reached its size or rows. Called after a block and the episode ends
        that came with it, so that they stand in one file."""
        with self.lock:
            shard, limits = self._shard, self.limits
            if shard is not None and (
                (limits.size and shard.nbytes >= limits.size) or (limits.rows and shard.rows >= limits.rows)
            ):
                self.rotate()

    def append_episodes(self, starts: Sequence[EpisodeStart], ends: Sequence[EpisodeEnd]) -> None:
        """Records of episodes that begin or end. Raises NoSpace, OSError, BufferClosed."""
        if not starts and not ends:
            return
        with self.lock:
            shard = self._active()
            with self._disk_errors():
                shard.append_episodes(starts, ends)
            for start in starts:
                self._open_episodes[start.episode] = start
            for end in ends:
                self._open_episodes.pop(end.episode, None)

    def append_drops(self, player: int, causes: Mapping[str, int]) -> None:
        """Rows that were dropped and that no later block of the player will tell of."""
        with self.lock:
            shard = self._active()
            with self._disk_errors():
                shard.append_drops(player, dict(causes))

    def append_meta(self, data: dict[str, Any]) -> None:
        """A record of the run's own: annotations, policies, discarded episodes."""
        with self.lock:
            shard = self._active()
            with self._disk_errors():
                shard.append_meta(data)

    def add_policy(self, policy: PolicyInfo) -> int:
        """The policy's row in the run's table, added when it is new."""
        with self.lock:
            if policy in self.info.policies:
                return self.info.policies.index(policy)
            # Other writers of the run add to the same table: what stands in the file goes first.
            with taking_turns(self.run, RUN_FILE):
                with suppress(NotThere, CheckFailed):  # a description that is gone is written anew
                    self.info.policies = read_run_info(self.run).policies
                if policy not in self.info.policies:
                    self.info.policies.append(policy)
                    write_run_info(self.run, self.info)
            self.append_meta({"policies": msgspec.to_builtins(self.info.policies)})
            return self.info.policies.index(policy)

    def sync(self) -> None:
        """Everything appended before the call is on the disk when it returns. Raises NoSpace, OSError."""
        with self._sync_lock:
            self._sync()

    def _sync(self) -> None:
        with self.lock:
            shard = self._shard
            # Another thread's sync may have done it.
            if shard is None or self._synced >= shard.nbytes:
                return
            shard.check_trusted()
            mark, upto = self.ledger.written.copy(), shard.nbytes
            with self._disk_errors():
                # The system tells of an error once for each time the file was opened. Opened anew, so that a shard
                # which is published meanwhile hears of it through its own descriptor.
                handle = disk().open_existing(self._shard_path)
        # Outside the lock: a drain thread goes on appending while the disk works.
        try:
            with self._disk_errors():
                disk().sync(handle, data_only=True)
        except BaseException:
            shard.distrust()
            raise
        finally:
            os.close(handle)
        with self.lock:
            if self._shard is shard:
                self._synced = max(self._synced, upto)
            self._raise_durable(mark)

    def tick(self) -> None:
        """What is due: the disk guard, requests from commands, shards too old. Called every flush interval."""
        self.guard.check(self.run)
        requests = pending_rotations(self.run, self.writer)
        if requests:
            self.rotate()
            for path in requests:
                unlink_quietly(path)
        with self.lock:
            old = self._shard is not None and self._shard.rows and self.limits.age
            if old and time.monotonic() - self._shard_begun >= self.limits.age:
                self.rotate()

    def rotate(self) -> None:
        """Publish the active shard: footer, fsync, rename. The next append begins a new one."""
        with self.lock:
            shard = self._shard
            if shard is None:
                return
            with self._disk_errors():
                shard.close()
                published = shard_file(self.run, self.writer, self._number)
                if self._shard_path != published:  # else an earlier try came as far as this
                    publish(self._shard_path, published)
                    self._shard_path = published
                disk().sync_folder(published.parent)
            self._shard = None
            self.closed_bytes += shard.nbytes
            self._number += 1
            self._raise_durable(self.ledger.written)
            self._unlisted[f"w{self.writer}/{published.stem}"] = Listed.of(shard)
            if len(self._unlisted) * LISTED_SHARE >= self._number:
                self._list_shards()
            log_event(self.run, "published", shard=f"w{self.writer}/{published.stem}", rows=shard.rows)

    def _list_shards(self) -> None:
        """Bring the manifest up to date."""
        listed, self._unlisted = self._unlisted, {}
        if listed:
            update_manifest(self.run, listed)

    def close(self) -> None:
        """Publish, mark the ledger closed, let the lock go. Closing twice is fine."""
        with self.lock:
            if self._closed:
                return
            self._closed = True
            try:
                self.rotate()
                self._list_shards()
                self.ledger.close()
                log_event(self.run, "closed", writer=self.writer)
            finally:
                self._lock_file.release()

    def abandon(self) -> None:
        """Let go after an error that keeps the shard from being published: what is written stays as it is."""
        with self.lock:
            self._closed = True
            if self._shard is not None:
                self._shard.abandon()
            self._lock_file.release()

    def _raise_durable(self, mark: np.ndarray) -> None:
        with self.lock:
            np.maximum(self.ledger.durable, mark, out=self.ledger.durable)

    def _active(self) -> ShardWriter:
        if self._closed:
            raise BufferClosed(f"{self.run}: writer w{self.writer} is closed")
        if self._shard is None:
            self._shard_path = shard_file(self.run, self.writer, self._number, active=True)
            with self._disk_errors():
                self._shard = self._begin_shard(self._shard_path)
            self._synced = self._shard.nbytes
            self._shard_begun = time.monotonic()
            self.shards += 1
        return self._shard

    def _begin_shard(self, path: Path) -> ShardWriter:
        """A new shard file, which gets its name when its header is on the disk: a shard that a crash cut within its
        header cannot be read, and a scan of the run would stop at it."""
        unnamed = path.with_name(f".{path.name}.new")
        unlink_quietly(unnamed)  # left by a writer that was killed here
        shard = None
        try:
            shard = ShardWriter(
                unnamed, self.schema, {**shard_header(self.info, self._number, writer=self.writer), **self._about}
            )
            if self._open_episodes:
                repeated = [msgspec.structs.replace(s, repeated=True) for s in self._open_episodes.values()]
                shard.append_episodes(repeated, ())
            shard.sync()
            publish(unnamed, path)
            shard.name = str(path)
            disk().sync_folder(path.parent)
        except BaseException:
            if shard is not None:
                shard.abandon()
            unlink_quietly(unnamed)
            unlink_quietly(path)
            raise
        return shard

    def _disk_errors(self) -> DiskErrors:
        return DiskErrors(self.run, "record")
