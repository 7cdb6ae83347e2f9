"""A recording session: games on one side, a collector on the other, limits and signals in between.

Games run in threads of their own (their kernels hold no GIL); the calling thread only looks at the clock, at
limits and at what the user asked for, about twenty times a second.
"""

from __future__ import annotations

import os
import secrets
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from expkit.buffers.budget import Plan, plan_blocks
from expkit.collect.background import BackgroundCollector
from expkit.collect.continued import check_continued
from expkit.collect.failed import one_line, told, with_reason
from expkit.collect.result import Progress, Result
from expkit.collect.sharded import ShardedFeed
from expkit.collect.warm import warm_kernels
from expkit.errors import ExpkitError, MemoryBudget, NoSpace, UsageError
from expkit.games import GameSource, find_source
from expkit.games.protocol import Game
from expkit.rewards.columns import GAME, RewardColumns
from expkit.rewrite.prune import make_room
from expkit.row.episodes import EpisodeEnd, PolicyInfo, episode_number
from expkit.row.layout import RowSink
from expkit.runs.guard import DiskGuard, free_bytes
from expkit.runs.layout import RunInfo, new_run_id, read_run_info
from expkit.runs.resume import begin_run, check_resumable, is_begun, take_writer
from expkit.runs.write import RunWriter, ShardLimits, check_output, check_same, create_run
from expkit.serialize.representations import checked_convert, parse_representation
from expkit.settings.config import Config

if TYPE_CHECKING:
    from expkit.pipeline.blocks import BlockPipeline

POLL_SECONDS = 0.05
# Ticks per kernel call: at 128 rows a tick about 2 ms, so a stop is heard soon and Python costs under 3%.
TICKS_PER_CALL = 16
DEMONSTRATION_SECONDS = 5.0
# A block should hold so many steps of each game: 64 cost 20 B a row on disk, 16 cost 32 B (measured on boards).
STEPS_PER_BLOCK = 64


class Session:
    """One recording of a built-in or adapted game. `run` may be called once.

    With `recording.append` it goes on with the run that is there: as the lowest writer that nobody is, from its next
    episode on, or as one more writer beside live ones. The game is the run's, so is the seed.

    Raises what is wrong with the settings before anything is written: SchemaError when they contradict the run.
    """

    def __init__(self, config: Config, run: Path, *, force: bool = False, policies: list[Any] | None = None):
        self.config = config
        self.path = run
        self._force = force
        self.source: GameSource = find_source(config.game.source)
        # Checked before the game is made: a run that is there says which game it has to be.
        self._append = config.recording.append
        going_on = self._look(run) if self._append else None
        self.game_config = self.source.configure(config.game)
        if going_on is not None and going_on.metadata.get("game"):
            self.game_config = self.source.from_builtins(going_on.metadata["game"])
        self._policies = policies or [name.strip() for name in config.game.policy.split(",")]
        seed = config.game.seed if going_on is None else going_on.seed
        self.seed = secrets.randbits(63) if seed is None else seed
        # Environments of Python would wait for each other.
        self.threads = (config.recording.threads or max(1, (os.cpu_count() or 2) - 1)) if self.source.embedded else 1
        self.threads = min(self.threads, config.recording.num_envs)
        reward = config.rewards.reward.strip()
        self._rewards = RewardColumns.parse(None if reward == GAME else reward, config.rewards.columns)
        self.schema = self._rewards.schema(self.source.schema(self.game_config))
        self._names = self.source.player_names(self.game_config)
        self.players = len(self._names)
        self._representation = parse_representation(config.recording.representation)
        self.stored_schema = self._representation.schema(self.schema)
        self._pipeline: BlockPipeline | None = None
        if config.pipeline.processors:
            from expkit.pipeline.blocks import BlockPipeline
            from expkit.pipeline.chain import Chain

            self._pipeline = BlockPipeline(Chain(config.pipeline.processors, self.stored_schema))
            self.stored_schema = self._pipeline.schema
        self.num_envs, self.plan = self._fit_memory()
        if going_on is not None:
            check_same(run, going_on, self.stored_schema, self.players)
        self._games = self._make_games()
        room = make_room if config.retention.on_full == "prune" else None
        self._guard = DiskGuard(int(config.retention.min_free), int(config.retention.max_total or 0), room)
        if not self._append:
            check_output(run, force=force)
        self._guard.start(run)
        self.rotate = threading.Event()
        self._stop = threading.Event()
        self._failure: BaseException | None = None
        self._writer: RunWriter | None = None
        self._lock = threading.Lock()
        self._ended: dict[str, int] = {}
        self._episodes_done = 0

    def _look(self, run: Path) -> RunInfo | None:
        """The run to go on with, None where there is none yet. Raises SchemaError, UsageError, OutputExists."""
        if self._force:
            raise UsageError("append goes on with a run and force replaces it; use one of them")
        check_resumable(run)
        if not is_begun(run):
            return None
        info = read_run_info(run)
        check_continued(self.config, run, info)
        return info

    def _make_games(self, writer: int = 0, first: int = 0) -> list[Game]:
        """A batch of games for each thread; they share the counter of episodes. Raises UsageError for a policy or a
        reward."""
        counter = self.source.counter(writer, self.config.recording.episodes, first)
        whole, rest = divmod(self.num_envs, self.threads)
        return [
            self.source.make(
                self.game_config,
                num_envs=whole + (i < rest),
                seed=self.seed,
                policies=self._policies,
                counter=counter,
                rewards=self._rewards or None,
            )
            for i in range(self.threads)
        ]

    def _fit_memory(self) -> tuple[int, Plan]:
        """Games at once and the plan of blocks. Fewer games than asked for are played where the memory would
        otherwise cut their episodes into pieces too short to compress; never fewer than one a thread."""
        recording, buffer = self.config.recording, self.config.buffer
        num_envs = recording.num_envs
        while True:
            per_thread = -(-num_envs // self.threads)
            try:
                # The flusher has an encoder of its own, hence one work space more than there are drain threads.
                encoders = self._drain_threads + 1
                plan = plan_blocks(self.schema, self.players * self.threads, per_thread, int(buffer.memory), encoders)
                if plan.block_rows >= STEPS_PER_BLOCK * per_thread or num_envs <= self.threads:
                    return num_envs, plan
            except MemoryBudget:
                if num_envs <= self.threads:
                    raise
            num_envs = max(num_envs // 2, self.threads)

    @property
    def _drain_threads(self) -> int:
        # The flusher encodes, too; one thread a spare core keeps up (a row costs less to write than to play).
        return max(1, min(self.players, (os.cpu_count() or 2) - self.threads))

    def warm_up(self, say: Callable[[str], None]) -> None:
        """Compile all kernels of the way, once per machine and version; `say` gets a line when that takes long."""
        with warm_kernels(self.source.name, say) as cold:
            if cold and self.source.embedded:
                counter = self.source.counter(0, 2)
                game = self.source.make(
                    self.game_config, num_envs=2, seed=0, policies=["hunter"] * self.players, counter=counter
                )
                sink = RowSink.scratch(self.schema, self.players, 256)
                game.play(sink, 8)
                game.finish(sink)

    def unwritten(self) -> int:
        """Rows that were played and are in no file, now."""
        return 0 if self._writer is None else max(int(self._writer.ledger.unaccounted().sum()), 0)

    def run(
        self,
        *,
        should_stop: Callable[[], bool] = lambda: False,
        on_progress: Callable[[Progress], None] = lambda progress: None,
    ) -> Result:
        """Record until a limit, a request, a full disk or an error. Raises what a game or a policy raised, after
        saving what was recorded; a disk that is full comes back as `Result.error`."""
        writer, first = self._open()
        self._writer = writer
        if self._append:
            self._games = self._make_games(writer.writer, first)
        raw = self.config.recording.representation == "raw"
        convert = None if raw else checked_convert(self._representation, self.schema)
        collector = BackgroundCollector(
            writer,
            self.schema,
            self.players,
            self.plan,
            producers=self.threads,
            overflow=self.config.buffer.overflow,
            drain_threads=self._drain_threads,
            flush_interval=float(self.config.shards.flush_interval),
            level=self.config.shards.level,
            frame_rows=self.config.shards.frame_rows,
            convert=convert,
            pipeline=self._pipeline,
        )
        budgets = _split(self.config.recording.rows, self.threads)
        threads = [
            threading.Thread(target=self._play, args=(game, collector, budget), name=f"expkit-game-{i}", daemon=True)
            for i, (game, budget) in enumerate(zip(self._games, budgets, strict=True))
        ]
        begun = time.monotonic()
        for thread in threads:
            thread.start()
        stopped_by = self._watch(threads, begun, should_stop, on_progress, collector, writer)
        self._stop.set()
        for thread in threads:
            thread.join()
        if self._failure is not None:
            self._failure = told(self._failure, self.config.game.source, writer)
        error = self._close(collector, writer)
        seconds = time.monotonic() - begun
        stats = collector.stats()
        rows = sum(stats.written.values())
        if self._failure is not None and error is None:
            raise self._failure
        return Result(
            run=self.path,
            seconds=seconds,
            rows=rows,
            steps=rows - writer.last_rows,
            episodes=dict(self._ended),
            stats=stats,
            bytes=writer.nbytes,
            shards=writer.shards,
            stopped_by="disk" if error is not None else stopped_by,
            illegal_actions=sum(game.illegal_actions for game in self._games),
            seed=self.seed,
            writer=writer.writer,
            first_episode=episode_number(writer.writer, first),
            error=error,
            terminated_word="won" if self.source.embedded else "terminated",
            illegal_word=" were played as a pass" if self.source.embedded else ", see each episode's metadata",
            left_out=None if self._pipeline is None else self._pipeline.chain.counts,
        )

    def _open(self) -> tuple[RunWriter, int]:
        """Make the run directory, or take up the one that is there, and become its writer; returns with it the counter
        of the first episode. Raises OutputExists, NoSpace, and CheckFailed when what is there needs recovery first."""
        config = self.config
        tree = config.as_dict()
        tree["game"]["seed"] = self.seed
        names = [name if isinstance(name, str) else getattr(name, "__name__", "policy") for name in self._policies]
        names = names * self.players if len(names) == 1 else names
        table = list(dict.fromkeys(names))
        info = RunInfo(
            id=new_run_id(),
            source=config.game.source,
            schema=self.stored_schema,
            players=self._names,
            policies=[PolicyInfo(name) for name in table],
            config=tree,
            config_digest=config.digest,
            seed=self.seed,
            metadata={**self.source.metadata(self.game_config), **self._rewards.metadata},
        )
        held, first = None, 0
        if self._append:
            # Another recorder may have begun the run in this moment, with a seed of its own.
            begun = begin_run(self.path, info).seed
            self.seed = self.seed if begun is None else begun
            held, first = take_writer(self.path)
        else:
            create_run(self.path, info, force=self._force)
        shards = config.shards
        writer = RunWriter(
            self.path,
            self.stored_schema,
            self.players,
            writer=held,
            limits=ShardLimits(int(shards.size), shards.rows, float(shards.age)),
            sync=shards.sync,
            guard=self._guard,
        )
        self._policy_rows = np.array([[writer.add_policy(PolicyInfo(name)), 0] for name in names], np.int64)
        return writer, first

    def _play(self, game: Game, collector: BackgroundCollector, budget: int) -> None:
        """One game thread: play into the feed until told to stop."""
        room = 2 * game.num_envs
        try:
            feed = collector.feed()
            feed.sink.policy[:] = self._policy_rows
            while not self._stop.is_set() and not game.idle:
                feed.ready(room)
                ticks = game.play(feed.sink, TICKS_PER_CALL, budget)
                self._commit(game, feed)
                if budget >= 0 and game.committed_rows >= budget:
                    break
                if ticks == 0 and not game.idle and (feed.sink.position + room <= feed.sink.capacity).all():
                    break  # nothing left to play and nothing in the way: the budget is used up
            self._finish(game, feed, room)
        except BaseException as error:
            self._failure = self._failure or error
            self._stop.set()
            if collector.shards.failure is None and game.committed_rows:
                self._save(game, feed, room, error)

    def _finish(self, game: Game, feed: ShardedFeed, room: int, reason: str = "") -> None:
        done = False
        while not done:
            feed.ready(room)
            done = game.finish(feed.sink)
            self._commit(game, feed, reason)

    def _save(self, game: Game, feed: ShardedFeed, room: int, error: BaseException) -> None:
        """Keep what was played until a game or a policy raised: its rows, and its episodes as interrupted by that."""
        reason = one_line(error)
        try:
            self._commit(game, feed, reason)
            self._finish(game, feed, room, reason)
        except Exception:  # the first error is told
            with suppress(Exception):
                self._commit(game, feed, reason)

    def _commit(self, game: Game, feed: ShardedFeed, reason: str = "") -> None:
        starts, ends = game.take_events()
        feed.commit(starts, with_reason(ends, reason))
        if ends:
            self._count(ends)

    def _count(self, ends: list[EpisodeEnd]) -> None:
        with self._lock:
            self._episodes_done += len(ends)
            for end in ends:
                self._ended[end.ended] = self._ended.get(end.ended, 0) + 1

    def _watch(
        self,
        threads: list[threading.Thread],
        begun: float,
        should_stop: Callable[[], bool],
        on_progress: Callable[[Progress], None],
        collector: BackgroundCollector,
        writer: RunWriter,
    ) -> str:
        """Wait for the first reason to stop and name it."""
        recording = self.config.recording
        limitless = not (recording.rows or recording.episodes or recording.duration or recording.forever)
        duration = DEMONSTRATION_SECONDS if limitless else recording.duration
        while True:
            threads[0].join(POLL_SECONDS)
            seconds = time.monotonic() - begun
            stats = collector.stats()
            rows = sum(stats.produced.values())
            unit, done, total = "rows", float(rows), float(recording.rows) if recording.rows else None
            if recording.episodes:
                unit, done, total = "episodes", float(self._episodes_done), float(recording.episodes)
            elif duration is not None and not recording.rows:
                unit, done, total = "s", seconds, float(duration)
            on_progress(Progress(seconds, unit, done, total, rows, writer.nbytes, free_bytes(self.path), stats))
            if self.rotate.is_set():
                self.rotate.clear()
                collector.flush()
                writer.rotate()
            if should_stop():
                return "request"
            if self._failure is not None or collector.shards.failure is not None:
                return "failure"
            if not any(thread.is_alive() for thread in threads):
                return "rows" if recording.rows else "episodes"
            if duration is not None and seconds >= duration:
                return "demonstration" if limitless else "duration"

    def _close(self, collector: BackgroundCollector, writer: RunWriter) -> ExpkitError | None:
        """Close the collector; NoSpace is returned rather than raised, for it is told with the summary."""
        try:
            collector.close()
        except NoSpace as error:
            return error
        except Exception as error:  # a conversion or a processor of the user's raises in a drain thread
            if self._failure is None or isinstance(error, ExpkitError):
                raise told(error, self.config.game.source, writer) from error
        return None


def _split(rows: int | None, parts: int) -> list[int]:
    """A budget of rows for each thread, -1 for none."""
    if rows is None:
        return [-1] * parts
    return [rows // parts + (i < rows % parts) for i in range(parts)]
