"""Recordings of which a seed says all: what is recorded, which operation of the disk fails, and who runs when.

`play(seed, folder)` plays one and compares what came of it with what was promised: what flush said is durable is, the
ledger balances, rows are in order, none is there twice, none is gone, nobody hangs. A broken promise is raised as
AssertionError that names the seed, with which it happens again.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from random import Random
from typing import Any

from scheduler import Hang, Scheduler

from expkit import Field, Schema
from expkit.buffers import blocks, group, producer, ring, spill, waiting
from expkit.buffers.budget import Plan
from expkit.collect import aside, background, sharded, subscribe
from expkit.collect.background import BackgroundCollector
from expkit.errors import ExpkitError
from expkit.formats.shard.read import ShardReader
from expkit.pipeline.blocks import BlockPipeline
from expkit.pipeline.chain import as_chain
from expkit.row.episodes import EpisodeEnd, EpisodeStart
from expkit.row.layout import BlockLayout
from expkit.runs import write
from expkit.runs.counters import read_ledger
from expkit.runs.guard import DiskGuard
from expkit.runs.layout import RunInfo, list_shards
from expkit.runs.write import RunWriter, ShardLimits, create_run
from expkit.system.files import Disk, using

SCHEMA = Schema([Field("observation", "i4", (2,), "observation"), Field("action", "u2", belongs="action")])
MODULES = (blocks, group, producer, ring, spill, waiting, aside, background, sharded, subscribe, write)
BLOCK_ROWS = 4
NEVER = 1 << 40
LEFT_OUT = 3  # the step that a pipeline filters
Row = tuple[int, int]  # episode, step

_scheduler: Scheduler | None = None


class ScheduledDisk(Disk):
    """The real disk, at each operation of which another thread may go on. One fails: of all, or of its syncs.

    durable   by inode, how much of a file a power cut leaves. As with Linux, what a failed sync did not write is gone,
              and those who had the file open then are told of it, once each; who opens it later is not.
    """

    def __init__(self, scheduler: Scheduler, error: int, kind: str):
        self._scheduler, self._left, self._error, self._kind = scheduler, NEVER, error, kind
        self.durable: dict[int, int] = {}
        self._errors: dict[int, int] = {}
        self._lost_from: dict[int, int] = {}
        self._seen: dict[int, int] = {}

    def fail_at(self, at: int) -> None:
        self._left = at

    def step(self, kind: str = "") -> None:
        self._scheduler.switch()
        self._left -= self._kind in ("", kind)
        if self._left == -1:
            self._left = NEVER
            raise OSError(self._error, os.strerror(self._error))

    def create(self, path: Any, *, replace: bool = False) -> int:
        self.step()
        return self._opened(super().create(path, replace=replace))

    def open_existing(self, path: Any) -> int:
        self.step()
        return self._opened(super().open_existing(path))

    def _opened(self, handle: int) -> int:
        self._seen[handle] = self._errors.get(os.fstat(handle).st_ino, 0)
        return handle

    def sync(self, handle: int, *, data_only: bool = False) -> None:
        status = os.fstat(handle)
        node = status.st_ino
        try:
            self.step("sync")
        except OSError:
            self._lost_from.setdefault(node, self.durable.get(node, 0))
            self._errors[node] = self._errors.get(node, 0) + 1
            self._seen[handle] = self._errors[node]
            self._scheduler.switch()
            raise
        if self._seen.get(handle, 0) < self._errors.get(node, 0):
            self._seen[handle] = self._errors[node]
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        upto = min(status.st_size, self._lost_from.get(node, status.st_size))
        self.durable[node] = max(self.durable.get(node, 0), upto)
        self._scheduler.switch()

    def sync_folder(self, folder: Any) -> None:
        self.step()

    def sync_map(self, mapping: Any) -> None:
        self.step()


def _stepping(kind: str) -> Callable[..., Any]:
    def operation(self: ScheduledDisk, *args: Any, **options: Any) -> Any:
        self.step()
        return getattr(Disk, kind)(self, *args, **options)

    return operation


for _kind in ("write", "write_at", "rename", "append_line", "truncate"):
    setattr(ScheduledDisk, _kind, _stepping(_kind))


@contextmanager
def giving_way() -> Iterator[None]:
    """Claims, releases, publishing and the telling of failures are places where another thread may go on, too."""
    places = [(ring.BlockRing, "claim"), (blocks.RingBlocks, "_release"), (producer.Producer, "publish"),
              (sharded.ShardedCollector, "fail"), (sharded.ShardedCollector, "account"),
              (blocks.RingBlocks, "spill_oldest")]  # fmt: skip
    before = [(place, name, getattr(place, name)) for place, name in places]

    def giving(method: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(method)
        def call(*args: Any, **options: Any) -> Any:
            assert _scheduler is not None
            _scheduler.switch()
            done = method(*args, **options)
            _scheduler.switch()
            return done

        return call

    for place, name, method in before:
        setattr(place, name, giving(method))
    try:
        yield
    finally:
        for place, name, method in before:
            setattr(place, name, method)


class Recording:
    """What is recorded in one schedule, and what was promised of it."""

    def __init__(self, seed: int, folder: Path):
        self.rng = Random(f"recording {seed}")
        self.scheduler = Scheduler(seed)
        self.run = folder / "run"
        rng = self.rng
        self.players, self.producers = rng.choice((1, 1, 2)), rng.choice((1, 1, 2))
        self.overflow = rng.choice(("block", "block", "spill", "drop-oldest", "drop-newest"))
        self.episodes, self.length = rng.randrange(1, 4), rng.randrange(1, 9)
        self.flushes, self.flushers = rng.randrange(1, 4), rng.randrange(1, 4)
        self.limits = ShardLimits(size=0, rows=rng.choice((0, 0, 6, 14)))
        self.sync = rng.choice(("interval", "interval", "block"))
        self.drain_threads = rng.choice((1, 2, 3))
        self.interval = rng.choice((0.0, 0.2, 1e6))
        kind = rng.choice(("", "sync"))
        self.disk = ScheduledDisk(self.scheduler, rng.choice((errno.EIO, errno.ENOSPC)), kind)
        self._fails_at = NEVER if rng.random() < 0.3 else rng.randrange(9 if kind else 50)
        self.in_the_middle = rng.random() < 0.2
        self.filtered, self.watched = rng.random() < 0.2, rng.random() < 0.3
        self.seen: list[tuple[int, Row]] = []
        self.missed = 0
        self.committed: list[list[Row]] = [[] for _ in range(self.producers)]
        self.promises: list[tuple[list[int], dict[int, int]]] = []
        self.failed = False

    def play(self) -> None:
        create_run(self.run, RunInfo("0" * 32, "test", SCHEMA, [f"p{i}" for i in range(self.players)]))
        with self.scheduler.patched(MODULES), using(self.disk):
            writer = RunWriter(self.run, SCHEMA, self.players, limits=self.limits, sync=self.sync,
                               guard=DiskGuard(min_free=0))  # fmt: skip
            layout = BlockLayout(SCHEMA, BLOCK_ROWS)
            plan = Plan(BLOCK_ROWS, 2, layout.nbytes * 2 * self.players, layout.nbytes, layout.nbytes * 8)
            self.disk.fail_at(self._fails_at)
            collector = BackgroundCollector(
                writer, SCHEMA, self.players, plan, producers=self.producers, overflow=self.overflow,
                drain_threads=self.drain_threads, flush_interval=self.interval,
                pipeline=self._pipeline(),
            )  # fmt: skip
            subscription = collector.subscribe(max_batches=self.rng.choice((1, 3, 100))) if self.watched else None
            watcher = self.scheduler.start("watcher", self._told(lambda: self._watch(subscription)))
            feeds = [collector.feed() for _ in range(self.producers)]
            work = [self._told(lambda place=place, feed=feed: self._produce(place, feed))
                    for place, feed in enumerate(feeds)]  # fmt: skip
            work += [self._told(lambda: self._flush(collector))] * self.flushers
            tasks = [self.scheduler.start(f"task {place}", one) for place, one in enumerate(work)]
            if self.in_the_middle:
                for _ in range(self.rng.randrange(200)):
                    self.scheduler.switch()
            else:
                for task in tasks:
                    task.join()
            self._told(collector.close)()
            for task in (*tasks, watcher):
                task.join()
        self.counted = collector.stats()

    def _told(self, work: Callable[[], None]) -> Callable[[], None]:
        def told() -> None:
            try:
                work()
            except (ExpkitError, OSError):
                self.failed = True

        return told

    def _produce(self, place: int, feed: Any) -> None:
        for number in range(self.episodes):
            episode = 100 * place + number
            for step in range(self.length + 1):
                feed.ready(1)
                for player in range(self.players):
                    views, at = feed.reserve(player, 1)
                    for name in views:
                        views[name][at] = 0
                    views["episode"][at], views["step"][at] = episode, step
                    views["is_first"][at], views["is_last"][at] = step == 0, step == self.length
                    feed.sink.position[player] += 1
                last = step == self.length
                feed.commit(
                    [EpisodeStart(episode, 1, list(range(self.players)), "test")] if step == 0 else [],
                    [EpisodeEnd(episode, 2, "terminated", self.length)] if last else [],
                )
                self.committed[place].append((episode, step))

    def _pipeline(self) -> BlockPipeline | None:
        where = {"kind": "filter", "where": f"step != {LEFT_OUT}"}
        return BlockPipeline(as_chain(where, SCHEMA)) if self.filtered else None

    def _watch(self, subscription: subscribe.Subscription | None) -> None:
        if subscription is None:
            return
        for batch in subscription:
            rows = zip(batch["episode"].tolist(), batch["step"].tolist(), strict=True)
            self.seen += [(int(batch["player"][0]), row) for row in rows]
        self.missed = subscription.dropped_rows

    def _flush(self, collector: BackgroundCollector) -> None:
        for _ in range(self.flushes):
            for _ in range(self.rng.randrange(60)):
                self.scheduler.switch()
            before = [len(rows) for rows in self.committed]
            collector.flush()
            self.promises.append((before, dict(self.disk.durable)))

    def check(self) -> None:
        """Raises AssertionError for what was promised and is not so."""
        held: dict[tuple[int, int], list[tuple[Row, int, int]]] = {}  # (producer, player): row, inode, end of block
        for shard in list_shards(self.run):
            node = shard.path.stat().st_ino
            with ShardReader(shard.path) as reader:
                for block in reader.blocks:
                    columns = reader.read_block(block.index, ["episode", "step"])
                    end = block.body_offset + block.body_bytes
                    for row in zip(columns["episode"].tolist(), columns["step"].tolist(), strict=True):
                        held.setdefault((row[0] // 100, block.player), []).append((row, node, end))
        ledger = (read_ledger(self.run) or [None])[0]
        assert ledger is not None
        for player, counts in enumerate(ledger.players):
            rows = sum(len(mine) for (_, who), mine in held.items() if who == player)
            if ledger.state == "closed":
                accounted = counts.written + counts.dropped_rows + counts.rejected + counts.lost
                assert counts.produced == accounted, f"produced {counts.produced} != {accounted}"
                assert rows == counts.written, f"{rows} rows in files, {counts.written} written"
                assert self.failed or not counts.lost, f"{counts.lost} lost and nobody was told"
            else:
                assert self.failed, "not closed, and nobody was told"
        for place, given in enumerate(self.committed):
            for player in range(self.players):
                mine = held.get((place, player), [])
                rows = [row for row, _, _ in mine]
                assert rows == sorted(rows), f"rows of producer {place}, player {player} out of order"
                assert len(set(rows)) == len(rows), "a row stands twice"
                if self.filtered:
                    given = [row for row in given if row[1] != LEFT_OUT]
                if not self.overflow.startswith("drop") and not self.failed:
                    assert rows == given or self.in_the_middle, f"{len(given)} rows given, {len(rows)} kept"
                if self.watched:
                    self._check_seen(place, player, rows)
                for before, durable in self.promises:
                    kept = {row for row, node, end in mine if durable.get(node, 0) >= end}
                    late = [row for row in self.committed[place][: before[place]] if row not in kept]
                    if self.filtered:
                        late = [row for row in late if row[1] != LEFT_OUT]
                    if self.overflow.startswith("drop"):
                        late = [row for row in late if row in set(rows)]  # what is in no file was dropped
                    assert not late, f"flush returned, and rows {late} of player {player} were not durable"

    def _check_seen(self, place: int, player: int, rows: list[Row]) -> None:
        seen = [row for who, row in self.seen if who == player and row[0] // 100 == place]
        assert seen == sorted(set(seen)), f"a subscriber saw rows of producer {place}, player {player} out of order"
        if not self.failed:
            assert set(seen) <= set(rows), "a subscriber saw rows that are in no file"
            assert self.missed or seen == rows, f"{len(rows)} rows kept, a subscriber saw {len(seen)} and missed none"


def play(seed: int, folder: Path) -> Recording:
    """One schedule in a folder of its own. Raises AssertionError."""
    global _scheduler
    here = folder / f"schedule-{seed}"
    here.mkdir()
    recording = Recording(seed, here)
    _scheduler = recording.scheduler
    try:
        recording.play()
        recording.check()
    except (AssertionError, Hang) as broken:
        raise AssertionError(f"schedule {seed} ({recording.overflow}): {broken}") from broken
    finally:
        shutil.rmtree(here, ignore_errors=True)
    return recording


def play_many(seeds: range, folder: Path) -> dict[str, int]:
    """What was tried. Raises AssertionError at the first broken promise."""
    told = {"schedules": 0, "switches": 0, "flushes": 0, "failures": 0}
    with giving_way():
        for seed in seeds:
            one = play(seed, folder)
            told["schedules"] += 1
            told["switches"] += one.scheduler.steps
            told["flushes"] += len(one.promises)
            told["failures"] += one.failed
    return told
