"""`Recorder`: what a training script uses to record. Rows in, durable and checksummed shards out.

Two forms: `reset` and `step` follow the loop of a Gymnasium environment, single or vectorised; `add`, `add_batch` and
`end` take rows that somebody else has numbered. Everything given is copied at the call.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from expkit.buffers.budget import plan_blocks
from expkit.collect.background import BackgroundCollector
from expkit.collect.row_lane import RowLane
from expkit.collect.sharded import ShardedFeed
from expkit.collect.subscribe import Subscription
from expkit.episodes import Ended, PolicyInfo
from expkit.errors import BufferClosed, SchemaError, UsageError
from expkit.formats.shard.layout import FRAME_ROWS
from expkit.recording.autoreset import autoreset_mode
from expkit.recording.episodes import COUNTER, EpisodeBook
from expkit.recording.seeds import by_env, seeds_by_env
from expkit.recording.steps import StepRecording
from expkit.rows import Progress, RowFactory
from expkit.runs.guard import DiskGuard
from expkit.runs.layout import RunInfo, new_run_id
from expkit.runs.locks import Lock
from expkit.runs.prune import make_room
from expkit.runs.resume import begin_run, take_writer
from expkit.runs.write import RunWriter, ShardLimits, Sync, check_same, create_run
from expkit.schema import Schema
from expkit.units import parse_duration, parse_size

if TYPE_CHECKING:
    from expkit.pipeline.chain import Pipeline

Mode = Literal["x", "a", "w"]


class Recorder:
    """Records rows into a run directory.

    run       the folder; mode `x` refuses one that exists, `w` replaces a run, `a` joins it as a further writer, or
              goes on as `writer` after a stop or a crash; its episodes are then numbered above all that it began
    schema    the fields of a row
    players   names, or how many
    memory    of all buffers together, as bytes or `512MiB`
    on_full   when `min_free` or `max_total` is reached: `stop`, or `prune` the run's oldest episodes
    frame_rows  of a wide column that are compressed together: 32 make single rows cheaper to read and files larger
    overflow  `block` (the caller waits for the disk), `drop-oldest`, `drop-newest`, `spill`
    num_envs  of a vector environment, for `reset` and `step`; None for a single one, whose arrays lack that axis
    autoreset  what it does when an episode is over: `next_step`, `same_step`, `disabled`, or Gymnasium's AutoresetMode
              (`env.metadata["autoreset_mode"]`); never guessed for a vector environment
    pipeline  processors that rows go through before they are written, or a Chain of them; see `expkit.pipeline`. What
              is stored has the chain's schema, and the run's config names the links. Those that need whole episodes
              are refused (UsageError)

    Thread-safe. Leaving the `with` block ends open episodes as interrupted and publishes everything. Rows are
    durable after at most `flush_interval` seconds, or when `flush` returns. Raises OutputExists, SchemaError,
    MemoryBudget, NoSpace.
    """

    def __init__(
        self,
        run: str | os.PathLike[str],
        schema: Schema,
        *,
        mode: Mode = "x",
        players: Sequence[str] | int = 1,
        num_envs: int | None = None,
        autoreset: Any = None,
        source: str = "recorder",
        policies: Sequence[PolicyInfo] = (),
        config: Mapping[str, Any] | None = None,
        metadata: Mapping[str, Any] | None = None,
        seed: int | None = None,
        writer: int | None = None,
        memory: str | int = "512MiB",
        overflow: str = "block",
        flush_interval: str | float = 1.0,
        sync: Sync = "interval",
        shard_size: str | int = "256MiB",
        shard_rows: int = 0,
        shard_age: str | float = "1h",
        min_free: str | int = "2GiB",
        max_total: str | int = 0,
        on_full: Literal["stop", "prune"] = "stop",
        concurrent_episodes: int = 16,
        drain_threads: int = 1,
        frame_rows: int = FRAME_ROWS,
        pipeline: Pipeline | None = None,
    ):
        if mode not in ("x", "a", "w"):
            raise UsageError(f"mode {mode!r} is not one of 'x' (new), 'w' (replace), 'a' (join)")
        names = [f"player{i}" for i in range(players)] if isinstance(players, int) else list(players)
        if not names:
            raise UsageError("a recording needs at least one player")
        if num_envs is not None and num_envs < 1:
            raise UsageError(f"num_envs {num_envs} is no number of environments; leave it out for a single one")
        mode_of_reset = autoreset_mode(autoreset, num_envs)
        self.path = Path(run)
        self.schema = schema
        processing, stored, config = None, schema, dict(config or {})
        if pipeline is not None:
            from expkit.pipeline.blocks import BlockPipeline
            from expkit.pipeline.chain import as_chain

            processing = BlockPipeline(as_chain(pipeline, schema))
            stored = processing.schema
            config.setdefault("pipeline", {"processors": processing.chain.describe()})
        # Planned and guarded before anything is made on disk, so that a refusal leaves nothing behind.
        at_once = max(concurrent_episodes, num_envs or 1)
        plan = plan_blocks(schema, len(names), at_once, parse_size(memory), drain_threads + 1)
        room = make_room if on_full == "prune" else None
        guard = DiskGuard(parse_size(min_free), parse_size(max_total), room)
        guard.start(self.path)
        info = RunInfo(
            id=new_run_id(),
            source=source,
            schema=stored,
            players=names,
            policies=list(policies),
            config=config,
            metadata=dict(metadata or {}),
            seed=seed,
        )
        held: int | tuple[int, Lock] | None = writer
        before = 0
        if mode == "a":
            check_same(self.path, begin_run(self.path, info), stored, len(names))
            held, before = take_writer(self.path, writer, join=writer is None)
        else:
            create_run(self.path, info, force=mode == "w")
        limits = ShardLimits(parse_size(shard_size), shard_rows, parse_duration(shard_age))
        self._writer = RunWriter(self.path, stored, len(names), writer=held, limits=limits, sync=sync, guard=guard)
        self.players = self._writer.info.players
        self.collector = BackgroundCollector(
            self._writer,
            schema,
            len(names),
            plan,
            overflow=overflow,
            drain_threads=drain_threads,
            flush_interval=parse_duration(flush_interval),
            frame_rows=frame_rows,
            pipeline=processing,
        )
        self._book = EpisodeBook(self.writer, before, source, len(self.players), self._writer.info.config_digest)
        self._factory = RowFactory(schema, len(names))
        self._feed = self.collector.feed()
        self._lanes: list[RowLane] = []
        if isinstance(self._feed, ShardedFeed):
            self._lanes = [RowLane(self._feed, self._factory, player) for player in range(len(self.players))]
        # By player, and episode as it was given to add; empty where there are no lanes.
        self._open: dict[tuple[int, int], Progress] = {}
        self._block_rows = plan.block_rows
        self._steps = StepRecording(schema, len(names), num_envs, mode_of_reset, self._feed, self._factory, self._book)
        self._lock = threading.RLock()
        self._closed = False

    @property
    def writer(self) -> int:
        """The number of this recorder among the writers of the run."""
        return self._writer.writer

    def new_episode(self, *, seeds: Mapping[str, int] | None = None, number: int | None = None, **metadata: Any) -> int:
        """Begin an episode and return its number; give `number` to choose it. `add` begins one by itself when it
        meets a new number."""
        with self._lock:
            self._check()
            number = self._book.allot() if number is None else self._book.whole(number)
            if self._book.has_begun(number):
                raise SchemaError(f"episode {number} has begun already")
            self._feed.commit((self._book.begin(number, seeds or {}, metadata),))
            return number

    def set_policy(
        self,
        player: int,
        name: str | Sequence[str],
        *,
        version: Any = 0,
        checkpoint: str = "",
        digest: str = "",
    ) -> None:
        """The policy that the player's rows are stamped with from now on. For `step`, names and versions may be one
        for each environment; single rows then carry the first."""
        with self._lock:
            self._check()
            self._factory.check_player(player)
            envs = self._steps.envs
            names = by_env("name", [name] if isinstance(name, str) else name, 1 if isinstance(name, str) else envs)
            versions = by_env("version", version, envs)
            table = {one: self._writer.add_policy(PolicyInfo(one, checkpoint, digest)) for one in dict.fromkeys(names)}
            indices = [table[one] for one in names]
            self._steps.set_policy(player, indices, versions)
            self._factory.set_policy(player, indices[0], int(versions[0]))
            if self._lanes:
                self._lanes[player].set_policy(indices[0], int(versions[0]))

    def reset(
        self,
        *,
        observation: Any = None,
        action_mask: Any = None,
        mask: Any = None,
        seed: Any = None,
        seeds: Mapping[str, Any] | None = None,
        metadata: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None,
        **fields: Any,
    ) -> None:
        """New episodes begin: what `env.reset` returned. An episode that is still open ends as interrupted.

        observation, action_mask, fields   what is seen before the first action; arrays lead with (num_envs, players),
                   without the axis of a single environment, of a single player; dicts and tuples as the space has them
        mask       bool (num_envs,): which environments were reset, as in Gymnasium's `reset_mask`; all if left out
        seed       that `env.reset` was given: an integer, of which environment i has seed + i, or one for each
        seeds      what else randomness came from, by use: {"action_space": 3, "policy": 4}
        metadata   of the episodes: one for all, or one for each environment

        The episodes are on disk from their first `step` on. Raises SchemaError, UsageError.
        """
        with self._lock:
            self._check()
            envs = self._steps.envs
            self._steps.reset(
                _given({"observation": observation, "action_mask": action_mask, **fields}),
                mask,
                seeds_by_env(seed, seeds, envs),
                [dict(one) for one in by_env("metadata", metadata or {}, envs)],
            )

    def step(
        self,
        *,
        action: Any = None,
        reward: Any = None,
        terminated: Any = None,
        truncated: Any = None,
        observation: Any = None,
        action_mask: Any = None,
        final: Any = None,
        active: Any = None,
        outcome: Any = None,
        **fields: Any,
    ) -> Any:
        """What an action caused: what `env.step` returned. Arrays as in `reset`.

        action, reward, fields    of the action; fields that belong to the observation go with the observation
        terminated, truncated     by player, or shared by all players of an environment; both may be true
        observation, action_mask  what is seen after it, and may be done next; a mask stands on the row of that action
        final      under `same_step` the last observations of the episodes that ended: `info.get("final_obs")`; or by
                   field, {"observation": …, "action_mask": …}. Else `observation` has them
        active     bool by player: who acted in this step, all if left out. A reward or an end that comes to a player in
                   a step of others belongs to its last action; so the rows of such steps are written when their
                   players act again
        outcome    of episodes that end here, for each player

        Returns the numbers of the episodes that the rows went to, u8 (num_envs,) or one number. The steps in which
        an environment only resets itself (`next_step`) have no row. Raises SchemaError, UsageError, before anything
        is recorded.
        """
        with self._lock:
            self._check()
            values = {"action": action, "reward": reward, "observation": observation, "action_mask": action_mask}
            self._steps.step(_given({**values, **fields}), terminated, truncated, final, active, outcome)
            return self._steps.episodes

    def add(self, *, player: int = 0, episode: int, step: int, **fields: Any) -> None:
        """One transition: the observation before the action, the action, and what it caused. Raises SchemaError."""
        with self._lock:
            progress = self._open.get((player, episode))
            if progress is not None and not self._closed and self._lanes[player].add(progress, step, fields):
                return
            self._check()
            self._factory.check_player(player)
            number = self._book.whole(episode)
            self._book.refuse_ended(number, player)
            views, index = self._feed.reserve(player, 1)
            self._factory.transition(views, index, player, number, step, fields)
            progress = self._note_part(number, player)
            if self._lanes:
                self._open[player, episode] = progress
            self._feed.sink.position[player] += 1
            self._feed.commit()

    def add_batch(self, *, player: int = 0, episode: Any, step: Any, **fields: Any) -> None:
        """Many transitions of one player; `episode` (one number or (n,)), `step` (n,), fields lead with n. Rows of
        one episode come in the order of their steps. Raises SchemaError, before anything is recorded of the part
        that does not fit (a batch larger than a block is recorded in parts)."""
        steps = np.asarray(step)
        if steps.ndim != 1 or steps.dtype.kind not in "iu":
            raise SchemaError(f"step: a batch needs a vector of whole numbers, not {steps.dtype} {steps.shape}")
        given = np.broadcast_to(np.asarray(episode), steps.shape)
        with self._lock:
            self._check()
            self._factory.check_player(player)
            unique, places = np.unique(given, return_inverse=True)
            numbers = np.array([self._book.whole(one) for one in unique.tolist()], np.uint64)[places]
            for number in numbers[np.sort(np.unique(places, return_index=True)[1])].tolist():
                self._book.refuse_ended(number, player)
            for at in range(0, len(steps), self._block_rows):
                part = slice(at, at + self._block_rows)
                rows = len(steps[part])
                views, start = self._feed.reserve(player, rows)
                sliced = {name: _slice(value, part) for name, value in fields.items()}
                self._factory.batch(views, start, player, numbers[part], steps[part], sliced)
                for number in np.unique(numbers[part]).tolist():
                    self._note_part(number, player)
                self._feed.sink.position[player] += rows
                self._feed.commit()

    def end(
        self,
        *,
        episode: int,
        player: int | None = None,
        outcome: float | Sequence[float | None] | None = None,
        ended: Ended | None = None,
        step: int | None = None,
        **observation: Any,
    ) -> None:
        """The last row: the final observation of one player, or of all players when `player` is left out (arrays
        then lead with the players that are still open). The episode is over when its last player has ended; how
        follows from the last `terminated` and `truncated`, unless `ended` says. Raises SchemaError."""
        with self._lock:
            self._check()
            episode = self._book.whole(episode)
            if player is not None:
                self._end_player(episode, player, outcome, ended, step, observation)
                return
            open_players = self._factory.open_players(episode)
            if not open_players:
                raise SchemaError(f"episode {episode} has no open rows to end")
            for index, one in enumerate(open_players):
                mine = {name: _pick(value, index) for name, value in observation.items()}
                theirs = outcome[index] if isinstance(outcome, Sequence) else outcome
                self._end_player(episode, one, theirs, ended, step, mine)

    def annotate(self, episode: int, **metadata: Any) -> None:
        """Say more about an episode, at any time; readers see it in the episode's metadata."""
        with self._lock:
            self._check()
            self._writer.append_meta({"annotate": {"episode": str(episode), "metadata": metadata}})

    def flush(self) -> None:
        """Returns when everything added before is durable. Raises what stopped the writing, if anything did."""
        with self._lock:
            self._check()
        self.collector.flush()

    def subscribe(self, max_batches: int = 16) -> Subscription:
        """The stream of batches as they are written, for a trainer in this process."""
        return self.collector.subscribe(max_batches)

    def close(self) -> None:
        """End open episodes as interrupted, write and publish everything. Closing twice is fine."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            if self.collector.shards.failure is None:
                self._feed.commit((), [*self._steps.close(), *self._book.cut_off()])
        self.collector.close()

    def __enter__(self) -> Recorder:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _check(self) -> None:
        if self._closed:
            raise BufferClosed(f"{self.path}: the recorder is closed")
        self.collector.check()

    def _note_part(self, number: int, player: int) -> Progress:
        """The player's part of an episode, to which rows were written; the episode begins if it is new."""
        known = self._book.open.get(number)
        if known is None:
            self._feed.commit((self._book.begin(number, {}, {}),))
            known = self._book.open[number]
        progress = known.parts.get(player)
        if progress is None:
            progress = known.parts[player] = self._factory.progress(number, player)  # type: ignore[assignment]
        assert progress is not None
        return progress

    def _end_player(
        self,
        episode: int,
        player: int,
        outcome: Any,
        ended: Ended | None,
        step: int | None,
        observation: dict[str, Any],
    ) -> None:
        self._book.refuse_ended(episode, player)
        views, index = self._feed.reserve(player, 1)
        progress = self._factory.final(views, index, player, episode, observation, step)
        self._feed.sink.position[player] += 1
        for given in (episode, episode & COUNTER):
            self._open.pop((player, given), None)
        end = self._book.end_player(episode, player, progress, outcome, ended)
        self._feed.commit((), () if end is None else (end,))


def _given(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _slice(value: Any, part: slice) -> Any:
    if isinstance(value, Mapping):
        return {name: _slice(inner, part) for name, inner in value.items()}
    return None if value is None else np.asarray(value)[part]


def _pick(value: Any, index: int) -> Any:
    if isinstance(value, Mapping):
        return {name: _pick(inner, index) for name, inner in value.items()}
    return None if value is None else np.asarray(value)[index]
