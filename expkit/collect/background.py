"""The collector that writes while the game plays: drain threads, a flush interval, and durable on request.

A drain thread takes one lane (a player's ring of one producing thread) at a time under its lock, so the blocks of a
lane reach the disk in order and as many threads can help as there are lanes. The flusher drains what is in
half-filled blocks every flush interval, makes it durable, and looks after the disk guard, requests and shard age.
An error in either reaches the caller at its next call.
"""

from __future__ import annotations

import dataclasses
import shutil
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from expkit.buffers.budget import Plan
from expkit.buffers.claim import Claimed
from expkit.collect.aside import Aside
from expkit.collect.protocol import CollectorStats
from expkit.collect.sharded import Lane, Mark, ShardedCollector, ShardedFeed
from expkit.collect.subscribe import Subscription
from expkit.errors import ExpkitError, NoSpace, WriteFailed
from expkit.formats.shard.encode import BlockEncoder, EncodedBlock
from expkit.formats.shard.layout import FRAME_ROWS
from expkit.row.schema import Schema
from expkit.runs.counters import DROP_CAUSES, FILTERED
from expkit.runs.layout import log_event
from expkit.runs.write import RunWriter

if TYPE_CHECKING:
    from expkit.pipeline.blocks import BlockPipeline
    from expkit.pipeline.chain import Counts

# How often the flusher looks around between flushes: requests answered, the first rows made durable, within this.
POLL_SECONDS = 0.05
IDLE_WAIT_SECONDS = 0.1


class Interrupted(WriteFailed):
    """Somebody who was writing rows out was stopped by a signal. The disk is as good as before."""


Convert = Callable[[Mapping[str, np.ndarray], int, int], dict[str, np.ndarray]]


class BackgroundCollector:
    """Rings, drain threads and a `RunWriter`.

    schema    of the rows as producers give them; `writer.schema` is what `convert` makes of them
    level, frame_rows   of blocks, see `BlockEncoder`
    convert   (stored columns, rows, player) -> stored columns of `writer.schema`, called in drain threads
    pipeline  what the rows go through after that, also in drain threads; `writer.schema` is then the pipeline's
    """

    def __init__(
        self,
        writer: RunWriter,
        schema: Schema,
        players: int,
        plan: Plan,
        *,
        producers: int = 1,
        overflow: str = "block",
        drain_threads: int = 1,
        flush_interval: float = 1.0,
        level: int = 1,
        frame_rows: int = FRAME_ROWS,
        convert: Convert | None = None,
        pipeline: BlockPipeline | None = None,
    ):
        self.schema = schema
        self.players = players
        self.writer = writer
        self._spill_dir = writer.run / f"spill-w{writer.writer}" if overflow == "spill" else None
        self.shards = ShardedCollector(
            schema, players, plan, writer.ledger, producers=producers, overflow=overflow, spill_dir=self._spill_dir
        )
        self._flush_interval = flush_interval
        self._level, self._frame_rows = level, frame_rows
        self._convert = convert
        self._pipeline = pipeline
        self._aside = None if pipeline is None else Aside(writer, pipeline.chain.from_schema, pipeline.chain.names)
        self._flush_lock = threading.Lock()
        self._close_lock = threading.RLock()
        self._flush_encoder: BlockEncoder | None = None
        self._subscriptions: list[Subscription] = []
        self._stop = threading.Event()
        self._wake = threading.Event()
        self._closed = False
        self._next_lane = 0
        self._threads = [
            threading.Thread(target=self._guarded, args=(self._drain_loop,), name=f"expkit-drain-{i}", daemon=True)
            for i in range(max(1, min(drain_threads, len(self.shards.lanes))))
        ]
        self._threads.append(
            threading.Thread(target=self._guarded, args=(self._flush_loop,), name="expkit-flush", daemon=True)
        )
        for thread in self._threads:
            thread.start()

    def feed(self) -> ShardedFeed:
        """A producer's way in; one per thread."""
        return self.shards.feed()

    def check(self) -> None:
        """Raise what stopped a background thread, if anything did."""
        self.shards.check()

    def subscribe(self, max_batches: int = 16) -> Subscription:
        """A stream of the batches that are written from now on, in logical form."""
        subscription = Subscription(self.writer.schema, max_batches)
        self._subscriptions.append(subscription)
        return subscription

    def flush(self) -> None:
        """Everything committed before the call is durable when it returns. Raises what stopped the writing.

        That no row is waiting any more proves nothing, for whoever took it may have failed: each row that was there at
        the call has to be accounted for.
        """
        self.shards.check()
        marks = [lane.mark() for lane in self.shards.lanes]
        try:
            self._drain_partial(marks)
            self.writer.sync()
        except Exception as error:
            self._fail(error)  # rows that were taken and not written are gone: nobody records on over the gap
            raise

    def stats(self) -> CollectorStats:
        stats = self.shards.stats()
        if self._pipeline is None:
            return stats
        filtered = self.writer.ledger.since_opened().dropped[:, DROP_CAUSES.index(FILTERED)].tolist()
        more = {p: causes | ({FILTERED: filtered[p]} if filtered[p] else {}) for p, causes in stats.dropped.items()}
        return dataclasses.replace(stats, dropped=more)

    def close(self) -> None:
        """Write and publish everything, stop the threads. Closing twice is fine; the second call waits for the first.

        Raises what stopped a background thread; what could be saved has been saved by then.
        """
        with self._close_lock:
            if not self._closed:
                self._closed = True
                self._close()

    def _close(self) -> None:
        self.shards.close()
        self._stop.set()
        self._wake.set()
        for thread in self._threads:
            thread.join()
        with self._flush_lock:
            pass  # a flush of another thread is done with what it took; those that come now find that it is closed
        try:
            # After a failed write the disk is not trusted with more; after the guard's stop it is.
            if self._may_write_on():
                self._drain_rest()
            if self._may_write_on():  # else it was a flush of another thread that failed meanwhile
                self._tell_last_drops()
                self.writer.append_episodes(self.shards.take_starts(), self.shards.remaining_ends())
            self.writer.ledger.lost += self.writer.ledger.unaccounted()  # of a failure; else there is none
            try:
                self._close_pipeline()
            finally:
                self.writer.close()  # whatever became of the rows that were put aside
        except (OSError, ExpkitError) as error:
            self.writer.abandon()
            self.shards.fail(error)
        finally:
            for subscription in self._subscriptions:
                subscription.close()
            if self._spill_dir is not None:
                shutil.rmtree(self._spill_dir, ignore_errors=True)  # scratch space; its rows are in the shards now
        if self.shards.failure is not None:
            raise self.shards.failure

    def _drain_rest(self) -> None:
        """What is left when all threads have stopped. A disk that fails at it is not tried again; of what a user's
        conversion does not take, what was written before it is published."""
        try:
            self._drain_partial()
        except (OSError, ExpkitError):
            raise
        except Exception:
            assert self.shards.failure is not None

    def _may_write_on(self) -> bool:
        return self.shards.failure is None or isinstance(self.shards.failure, NoSpace | Interrupted)

    def _close_pipeline(self) -> None:
        """Close what was put aside, and leave it written in the run what was left out and why."""
        if self._pipeline is not None and self._aside is not None:
            self._aside.close()
            chain, writer = self._pipeline.chain, self.writer
            log_event(writer.run, "pipeline", writer=writer.writer, links=chain.names, **chain.counts.as_dict())

    def __enter__(self) -> BackgroundCollector:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _guarded(self, loop: Callable[[], None]) -> None:
        try:
            loop()
        except BaseException as error:  # a user's conversion may raise anything; it must reach the caller
            self._fail(error)

    def _fail(self, error: BaseException) -> None:
        """Tell producers and `flush`. While writing, before the lane's lock is let go: a flush that got the lock first
        would find nothing left to write and call rows durable that are gone."""
        run = self.writer.run
        if isinstance(error, OSError) and not isinstance(error, ExpkitError):
            error = WriteFailed(error.errno, f"{run}: writing failed: {error}")
        elif not isinstance(error, Exception):  # ^C in the thread that flushes
            error = Interrupted(
                f"{run}: writing was interrupted; rows under way may be in no file, see expkit validate"
            )
        self.shards.fail(error)

    def _new_encoder(self) -> BlockEncoder:
        return BlockEncoder(self.writer.schema, self._level, self._frame_rows)

    def _drain_loop(self) -> None:
        encoder = self._new_encoder()
        while not self._stop.is_set() and self.shards.failure is None:
            if not self._drain_one(encoder):
                self.shards.wait_full(IDLE_WAIT_SECONDS)

    def _drain_one(self, encoder: BlockEncoder) -> bool:
        """Write one full block of any lane that no other thread is at. False when there was none."""
        lanes = self.shards.lanes
        for turn in range(len(lanes)):
            place = (self._next_lane + turn) % len(lanes)
            lane = lanes[place]
            if not lane.lock.acquire(blocking=False):
                continue
            try:
                if self.shards.failure is not None:
                    return False  # what came before may be gone: nothing is written behind a gap
                claimed = lane.ring.claim()
                if claimed is not None:
                    self._next_lane = place + 1
                    self._write(lane, claimed, encoder)
                    return True
            except BaseException as error:
                self._fail(error)
                raise
            finally:
                lane.lock.release()
        return False

    def _drain_partial(self, marks: Sequence[Mark] | None = None) -> None:
        """Write everything that has been committed before the call, half-filled blocks included. With `marks`, of each
        lane one, raises what stopped another thread, and WriteFailed when not all rows before them are accounted for.
        """
        with self._flush_lock:
            if self._flush_encoder is None:
                self._flush_encoder = self._new_encoder()
            for place, lane in enumerate(self.shards.lanes):
                with lane.lock:
                    if marks is not None and self.shards.failure is not None:
                        raise self.shards.failure
                    try:
                        self._drain_lane(lane, self._flush_encoder)
                        missing = 0 if marks is None else lane.missing(marks[place])
                        if missing:
                            raise WriteFailed(
                                f"{self.writer.run}: {missing:,} rows of player {lane.player} were taken and are in no "
                                "file; close the recorder and see expkit validate"
                            )
                    except BaseException as error:
                        self._fail(error)
                        raise

    def _drain_lane(self, lane: Lane, encoder: BlockEncoder) -> None:
        """Write what the lane holds now; a fast game would otherwise keep the flusher here for ever. The caller holds
        the lane's lock."""
        target = lane.produced
        while lane.accounted < target:
            claimed = lane.ring.claim(partial=True)
            if claimed is None:
                break
            self._write(lane, claimed, encoder)

    def _write(self, lane: Lane, claimed: Claimed, encoder: BlockEncoder) -> None:
        """Encode and append one claim. The caller holds the lane's lock."""
        player, rows, dropped = claimed.player, claimed.rows, claimed.dropped_before
        counts, last_rows = None, 0
        encoded: EncodedBlock | None = None
        try:
            columns, kept = claimed.columns, rows
            if self._convert is not None:
                columns = self._convert(columns, rows, player)
            if self._pipeline is not None:
                columns, kept, counts, aside = self._pipeline.process(columns, rows, player)
                if aside is not None and self._aside is not None:
                    self._aside.append(player, aside)
            if kept:
                told = dropped | {FILTERED: counts.filtered} if counts is not None and counts.filtered else dropped
                encoded = encoder.encode(player, columns, kept, told)
                last_rows = int(np.count_nonzero(columns["is_last"][:kept]))
                for subscription in self._subscriptions:
                    subscription.offer(player, columns, kept)
        finally:
            claimed.release()
        for cause, count in dropped.items():
            self.writer.ledger.drop(player, cause, count)
        # One hold of the writer's lock: another thread that took the starts has then written them, too.
        with self.writer.lock:
            starts = self.shards.take_starts()
            try:
                self.writer.append_episodes(starts, ())
            except BaseException:
                self.shards.put_back(starts)  # other threads may still write rows of these episodes
                raise
            if counts is not None:
                self._count_left_out(player, counts, dropped, alone=encoded is None)
            if encoded is not None:
                self.writer.append(encoded, last_rows=last_rows)
            self.writer.append_episodes((), self.shards.account(lane, rows, dropped))
            self.writer.rotate_if_full()

    def _count_left_out(self, player: int, counts: Counts, dropped: Mapping[str, int], alone: bool) -> None:
        """Rows that the pipeline took out of a block, in the ledger; and in the shard, where it took out all of them,
        what the block would have told (`alone`). The caller holds the writer's lock."""
        ledger = self.writer.ledger
        ledger.rejected[player] += counts.rejected.total() + counts.quarantined.total()
        if counts.filtered:
            ledger.drop(player, FILTERED, counts.filtered)
        told = {**dropped, FILTERED: counts.filtered}
        if alone and any(told.values()):
            self.writer.append_drops(player, {cause: rows for cause, rows in told.items() if rows})

    def _tell_last_drops(self) -> None:
        """Drops that no block came after."""
        ledger = self.writer.ledger
        all_told = ledger.since_opened().dropped
        for player, dropped in self.shards.dropped().items():
            told = dict(zip(DROP_CAUSES, all_told[player].tolist(), strict=True))
            causes = {cause: rows - told[cause] for cause, rows in dropped.items() if rows > told[cause]}
            for cause, count in causes.items():
                ledger.drop(player, cause, count)
            if causes:
                self.writer.append_drops(player, causes)

    def _flush_loop(self) -> None:
        # The first rows are flushed as soon as there are any, not one interval later.
        first, due = True, time.monotonic() + self._flush_interval
        while not self._wake.wait(POLL_SECONDS):
            if (first and self.writer.ledger.since_opened().produced.any()) or time.monotonic() >= due:
                first, due = False, time.monotonic() + self._flush_interval
                self._drain_partial([lane.mark() for lane in self.shards.lanes])
                if self.writer.sync_policy != "none":
                    self.writer.sync()
            self.writer.tick()
