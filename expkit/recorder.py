"""`Recorder`: what a training script uses to record. Rows in, durable and checksummed shards out.

Two forms: `reset` and `step` follow the loop of a Gymnasium environment, single or vectorised; `add`, `add_batch` and
`end` take rows that somebody else has numbered. Everything given is copied at the call.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from expkit.buffers.budget import plan_blocks
from expkit.collect.background import BackgroundCollector
from expkit.collect.subscribe import Subscription
from expkit.errors import BufferClosed, SchemaError, UsageError
from expkit.formats.shard.layout import FRAME_ROWS
from expkit.recording.autoreset import autoreset_mode
from expkit.recording.by_entry import by_entry, seeds_by_env
from expkit.recording.discards import Discards
from expkit.recording.episodes import EpisodeBook, as_json
from expkit.recording.rows import RowRecording
from expkit.recording.steps import StepRecording
from expkit.rewrite.prune import make_room
from expkit.row.episodes import Ended, PolicyInfo
from expkit.row.factory import RowFactory
from expkit.row.schema import Schema
from expkit.runs.guard import DiskGuard
from expkit.runs.layout import RunInfo, new_run_id
from expkit.runs.locks import Lock
from expkit.runs.resume import begin_run, take_writer
from expkit.runs.write import RunWriter, ShardLimits, Sync, check_same, create_run
from expkit.system.forks import own
from expkit.system.units import parse_duration, parse_size

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
        self._rows = RowRecording(self._feed, self._factory, self._book, plan.block_rows)
        self._lanes, self._open = self._rows.lanes, self._rows.open
        self._steps = StepRecording(schema, len(names), num_envs, mode_of_reset, self._feed, self._factory, self._book)
        self._discards = Discards(self.path, self._book)
        self._lock = threading.RLock()
        self._closed = self._forked = False
        self._owner = os.getpid()
        own(self, Recorder._leave_to_parent)

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

    def new_episode_batch(self, count: int, *, seeds: Mapping[str, Any] | None = None, **metadata: Any) -> list[int]:
        """Begin `count` episodes and return their numbers; of a sequence of seeds or of metadata each gets its own."""
        given = {use: by_entry(f"seeds[{use!r}]", value, count, "episode") for use, value in (seeds or {}).items()}
        told = {name: by_entry(name, value, count, "episode") for name, value in metadata.items()}
        with self._lock:
            return [
                self.new_episode(
                    seeds={use: int(values[place]) for use, values in given.items()},
                    **{name: values[place] for name, values in told.items()},
                )
                for place in range(count)
            ]

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
            names = by_entry("name", [name] if isinstance(name, str) else name, 1 if isinstance(name, str) else envs)
            versions = by_entry("version", version, envs)
            table = {one: self._writer.add_policy(PolicyInfo(one, checkpoint, digest)) for one in dict.fromkeys(names)}
            indices = [table[one] for one in names]
            self._steps.set_policy(player, indices, versions)
            self._rows.set_policy(player, indices[0], int(versions[0]))

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
                [dict(one) for one in by_entry("metadata", metadata or {}, envs)],
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
            self._rows.add(player, episode, step, fields)

    def add_batch(self, *, player: int = 0, episode: Any, step: Any, **fields: Any) -> None:
        """Many transitions of one player; `episode` (one number or (n,)), `step` (n,), fields lead with n. Rows of
        one episode come in the order of their steps. Raises SchemaError, before anything is recorded of the part
        that does not fit (a batch larger than a block is recorded in parts)."""
        with self._lock:
            self._check()
            self._rows.add_batch(player, episode, step, fields)

    def end(
        self,
        *,
        episode: int,
        player: int | None = None,
        outcome: float | Sequence[float | None] | None = None,
        ended: Ended | None = None,
        step: int | None = None,
        metadata: Mapping[str, Any] | None = None,
        **observation: Any,
    ) -> None:
        """The last row: the final observation of one player, or of all players when `player` is left out (arrays
        then lead with the players that are still open). The episode is over when its last player has ended; how
        follows from the last `terminated` and `truncated`, unless `ended` says. A player that never acted in an open
        episode, and for which `ended` says how, has this row alone; end it before the others. `metadata`: what the end
        of the episode tells, JSON values. Raises SchemaError."""
        with self._lock:
            self._check()
            self._rows.end(episode, player, outcome, ended, step, observation, metadata)

    def end_batch(
        self,
        *,
        episode: Any,
        player: int | None = None,
        outcome: Any = None,
        ended: Any = None,
        step: Any = None,
        metadata: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None,
        **observation: Any,
    ) -> None:
        """The last rows of many episodes, (n,), as `end` writes them one by one: what is given leads with n, but
        `outcome`, `ended`, `step` and `metadata` may be one for all. Raises SchemaError; the episodes before the one
        that does not fit have ended."""
        with self._lock:
            self._check()
            self._rows.end_batch(_numbers(episode), player, outcome, ended, step, observation, metadata)

    def annotate(self, episode: int, **metadata: Any) -> None:
        """Say more about an episode, at any time; readers see it in the episode's metadata. Raises SchemaError for
        what is no JSON value."""
        self.annotate_batch([episode], **{name: [value] for name, value in metadata.items()})

    def annotate_batch(self, episode: Any, **metadata: Any) -> None:
        """Say more about many episodes, (n,): of a sequence each gets its own, of anything else all the same."""
        numbers = _numbers(episode)
        told = {name: by_entry(name, value, len(numbers), "episode") for name, value in metadata.items()}
        told = as_json("metadata", told)
        with self._lock:
            self._check()
            for place, number in enumerate(map(self._book.whole, numbers)):
                mine = {name: values[place] for name, values in told.items()}
                self._writer.append_meta({"annotate": {"episode": str(number), "metadata": mine}})

    def discard(self, episode: int) -> None:
        """Take an episode out again: no reader sees it when `flush` or `close` has returned after this; one that is
        still open goes on, and is out when it is over. The ledger counts its rows as pruned. Raises SchemaError for an
        episode that never began."""
        self.discard_batch([episode])

    def discard_batch(self, episode: Any) -> None:
        """Take many episodes out, (n,), as `discard` does; nothing is done when one of them never began."""
        with self._lock:
            self._check()
            numbers = [self._book.whole(one) for one in _numbers(episode)]
            for number in numbers:
                if not self._book.has_begun(number):
                    raise SchemaError(f"episode {number} has not begun; there is nothing to discard")
            self.annotate_batch(numbers, discarded=True)  # for a kill may come before they are taken out
            self._discards.add(numbers)

    def flush(self) -> None:
        """Returns when everything added before is durable, and what was discarded is out. Rows of `step` with
        `active=` that may still get a reward wait for it. Raises what stopped the writing, if anything did."""
        with self._lock:
            self._check()
            due = self._discards.due()
        self.collector.flush()
        self._discards.take_out(due)

    def subscribe(self, max_batches: int = 16) -> Subscription:
        """The stream of batches as they are written, for a trainer in this process."""
        self._check()
        return self.collector.subscribe(max_batches)

    def close(self) -> None:
        """End open episodes as interrupted, write and publish everything. Closing twice is fine."""
        if self._forked:
            return  # it is the parent's to close
        with self._lock:
            if self._closed:
                return
            self._closed = True
            if self.collector.shards.failure is None:
                self._feed.commit((), [*self._steps.close(), *self._book.cut_off()])
        self.collector.close()
        self._discards.take_out(self._discards.all())

    def __enter__(self) -> Recorder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _leave_to_parent(self) -> None:
        """This process is a child of the one that records, to which all that is under way belongs."""
        self._forked, self._open = True, {}
        self._lock = threading.RLock()  # a thread that is not here may hold the other one

    def _check(self) -> None:
        if self._forked:
            raise UsageError(
                f"{self.path}: this recorder is of process {self._owner}, of which this one is a fork; make one here, "
                "with mode='a'"
            )
        if self._closed:
            raise BufferClosed(f"{self.path}: the recorder is closed")
        self.collector.check()


def _given(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _numbers(episode: Any) -> list[int]:
    """Numbers of episodes, given as a vector. Raises SchemaError."""
    numbers = np.asarray(episode)
    if numbers.ndim != 1 or (len(numbers) and numbers.dtype.kind not in "iu"):
        raise SchemaError(f"episode: a batch needs a vector of numbers, not {numbers.dtype} {numbers.shape}")
    out: list[int] = numbers.tolist()
    return out
