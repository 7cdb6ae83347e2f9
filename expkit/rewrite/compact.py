"""Compacts a run in place: many small shards, written as the rows came, become few, of whole episodes.

One output shard after another is written, checked against the digests of its sources and published by one rename;
then the shards that it replaces are deleted. So it takes the room of about one shard, may be killed at any moment
and called again, and neither a reader nor a recorder of the run notices.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import msgspec
import numpy as np

from expkit.errors import Busy, NoSpace, NotThere, quoted
from expkit.formats.shard.encode import BlockEncoder
from expkit.reading.run import Run
from expkit.reading.run_files import FEW_BLOCKS
from expkit.rewrite.compact_plan import MADE_BY, CompactPlan, OutputShard, plan_compact
from expkit.rewrite.engine import Stopped, Work
from expkit.rewrite.gather import Gatherer
from expkit.rewrite.generation import Generation, Inheritance, inherit, retired_shards, sweep
from expkit.rewrite.layout import DEFAULT_SHARD_SIZE, Encoding, plan_blocks
from expkit.rewrite.prove import check_output, check_sound, prove
from expkit.rewrite.segments import Segments
from expkit.rewrite.sources import settle
from expkit.runs.guard import free_bytes
from expkit.runs.layout import log_event
from expkit.runs.locks import live_writers, without_readers
from expkit.runs.requests import request_rotation
from expkit.runs.superseding import ranges_of
from expkit.system.parallel import cores, in_order
from expkit.system.units import format_size

_SPARE = 16 << 20  # bytes to be free beyond what a shard is estimated to take


@dataclass(slots=True)
class Compacted:
    """What compacting did.

    episodes, rows, shards   rewritten, and the shards that hold them now
    run_rows                 of the whole run; bytes_before, bytes_after: of all its shards in which something counts
    deleted, deleted_bytes   files that were replaced and are gone
    waiting, waiting_bytes   files that were replaced and stay until nobody reads the run
    left                     episodes of shards that are still being recorded
    unasked                  a recorder did not answer the request to rotate
    stopped                  `stop` said so before all was done; what was done counts
    """

    episodes: int = 0
    rows: int = 0
    shards: int = 0
    run_rows: int = 0
    bytes_before: int = 0
    bytes_after: int = 0
    deleted: int = 0
    deleted_bytes: int = 0
    waiting: int = 0
    waiting_bytes: int = 0
    left: int = 0
    proven: bool = False
    unasked: bool = False
    stopped: bool = False


def compact(
    path: Path,
    *,
    proving: bool = False,
    encoding: Encoding | None = None,
    shard_size: int = DEFAULT_SHARD_SIZE,
    on_plan: Callable[[CompactPlan], object] | None = None,
    on_rows: Callable[[int], None] | None = None,
    stop: Callable[[], bool] | None = None,
) -> Compacted:
    """Compact the run at `path`, which may be read and recorded meanwhile: complete episodes only.

    proving  decode and hash source and output again before each publication
    on_plan  told what is going to be done;  on_rows: rows done since the last call;  stop: asked before each block

    Raises Busy when other maintenance is at work, ShardError for a damaged source (nothing is changed then),
    CheckFailed when an output is not what its sources were (it is not published), NoSpace, WriteFailed.
    """
    encoding = encoding or Encoding()
    done = Compacted(proven=proving)
    if live_writers(path):
        try:
            request_rotation(path)
        except Busy:
            done.unasked = True
        except NotThere:
            pass  # it has ended meanwhile
    with Run(path, guarded=False) as first, Generation(path, first.info, "compact") as generation:
        _sweep(path, done)
        with Run(path, guarded=False) as run:
            run.most_blocks = FEW_BLOCKS
            segments = settle(run)
            plan = plan_compact(run, segments, encoding, shard_size)
            done.left, done.run_rows = plan.left, len(run)
            done.bytes_before = done.bytes_after = run.bytes
            if on_plan is not None:
                on_plan(plan)
            if plan.outputs:
                _check_sources(run, segments, plan)
                _check_space(path, plan)
                heritage = [inherit(run, output.retires) for output in plan.outputs]
                columns = run.schema.columns
                work = Work(
                    Gatherer([run], columns),
                    BlockEncoder(run.schema, encoding.level, encoding.frame_rows),
                    on_rows=on_rows,
                    stop=stop,
                )
                retired = 0
                with suppress(Stopped):
                    done.stopped = True
                    for output, carried in zip(plan.outputs, heritage, strict=True):
                        _write_shard(run, generation, segments, output, carried, work, encoding, proving)
                        done.episodes += len(output.episodes)
                        done.rows += output.rows
                        done.shards += 1
                        retired += sum(run.shards[position].bytes for position in output.retires)
                        done.bytes_after = done.bytes_before + generation.published_bytes - retired
                        _sweep(path, done)
                    done.stopped = False
                log_event(path, "compacted", episodes=done.episodes, rows=done.rows, shards=done.shards)
    waiting = retired_shards(path)
    done.waiting, done.waiting_bytes = len(waiting), sum(shard.path.stat().st_size for shard in waiting)
    return done


def _write_shard(
    run: Run,
    generation: Generation,
    segments: Segments,
    output: OutputShard,
    carried: Inheritance,
    work: Work,
    encoding: Encoding,
    proving: bool,
) -> None:
    """Write, check and publish one output shard."""
    chosen = segments.take(np.flatnonzero(np.isin(segments.episode, np.array(output.episodes, np.uint64))))
    shard = generation.begin(
        supersedes=ranges_of([*output.episodes, *carried.supersedes]),
        retires=[*carried.retires, *(run.shard_paths[position].name for position in output.retires)],
        removed=carried.removed,
        extra={MADE_BY: asdict(encoding)},
    )
    episodes = [run.find_episode(number) for number in output.episodes]
    shard.append_episodes(
        [msgspec.structs.replace(episode.start, repeated=False) for episode in episodes if episode.start is not None]
    )
    ranks = {number: rank for rank, number in enumerate(output.episodes)}
    order = np.array([ranks[number] for number in chosen.episode.tolist()], np.int64)
    work.write(plan_blocks(chosen, order, run.schema.row_bytes, run.players), shard.append_block)
    shard.append_episodes((), [episode.end for episode in episodes if episode.end is not None])
    for player, causes in sorted(carried.drops.items()):
        shard.append_drops(player, causes)
    for meta in carried.metas:
        shard.append_meta(meta)
    path = generation.close()
    check_output(path, chosen.sums())
    if proving:
        prove(run, chosen, path)
    generation.publish()


def _check_sources(run: Run, segments: Segments, plan: CompactPlan) -> None:
    """Compare the checksums of all shards that are read or replaced; with damage nothing is begun. Raises
    ShardError."""
    advice = f"run expkit recover {quoted(run.path)} first"
    chosen = np.array([episode for output in plan.outputs for episode in output.episodes], np.uint64)
    touched = set(segments.shard[np.isin(segments.episode, chosen)].tolist())
    touched.update(position for output in plan.outputs for position in output.retires)

    def check(position: int) -> None:
        path = run.current_path(position)
        try:
            check_sound(path, advice)
        except NotThere:  # published since we looked
            check_sound(run.current_path(position), advice)

    for _ in in_order(check, sorted(touched), cores()):
        pass


def _check_space(path: Path, plan: CompactPlan) -> None:
    """Raises NoSpace when the output shards, or where readers keep the old ones all of them, do not fit."""
    lock = without_readers(path)
    need = plan.output_bytes if lock is None else plan.peak_bytes
    if lock is not None:
        lock.release()
    free = free_bytes(path)
    if free < need + _SPARE:
        raise NoSpace(
            f"{path}: compacting needs {format_size(need + _SPARE)}, {format_size(free)} are free on the disk; "
            "nothing was changed, make room or choose a smaller --shard-size"
        )


def _sweep(path: Path, done: Compacted) -> None:
    """Delete what nobody needs. What an operation left that did not finish never counted: readers do not know it."""
    unfinished = [shard.name for shard in retired_shards(path) if shard.generation and shard.active]
    files, freed = sweep(path, despite_readers=unfinished)
    done.deleted += files
    done.deleted_bytes += freed
