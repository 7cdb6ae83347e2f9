"""Recorder and collector: rows of a training loop, and of several game threads at once, on their way to the disk."""

from __future__ import annotations

import shutil
import threading
import time

import numpy as np

from expkit.bench.lab import Lab
from expkit.bench.measure import latencies
from expkit.bench.reference import CircularColumns
from expkit.bench.stage import Goal, Trial, Values, stage
from expkit.bench.stages.rings import BATCH, COLUMNS, given_rows
from expkit.buffers.budget import plan_blocks
from expkit.collect.sharded import ShardedCollector
from expkit.recorder import Recorder
from expkit.runs.counters import Ledger

THREADS = 2
TICK_ROWS = 64


@stage(
    "recorder/add",
    "Recorder.add, one row",
    workloads=("W", "tiny"),
    limit=COLUMNS,
    goals={"W": Goal("ratio", least=0.5), "tiny": Goal("ratio", least=0.5)},
    clock="thread",
)
def recorder_add(lab: Lab, workload: str) -> Trial:
    work = lab.workload(workload)
    path = lab.path("run")
    recorder = Recorder(path, work.schema, min_free=0, flush_interval=3600)
    rows = [{name: value for name, value in row.items() if name not in ("episode", "step")}
            for row in given_rows(work, BATCH)]  # fmt: skip
    columns = CircularColumns(work.given, 4096)
    for row in rows:
        row.update(terminated=False, truncated=False)
    step = [0]
    recorder.new_episode(number=0)

    def run() -> None:
        add, at = recorder.add, step[0]
        for row in rows:
            add(episode=0, step=at, **row)
            at += 1
        step[0] = at

    # All of its memory, once: fresh pages cost more than rows.
    for _ in range(-(-recorder.collector.stats().capacity // BATCH)):
        run()

    def limit() -> None:
        add = columns.add
        for at, row in enumerate(rows):
            add({"episode": 0, "step": at, **row})

    def one() -> None:
        recorder.add(episode=0, step=step[0], **rows[step[0] % BATCH])
        step[0] += 1

    def finish() -> Values:
        out = latencies(one, 5_000)
        stats = recorder.collector.stats()
        return {**out, "dropped": float(sum(sum(causes.values()) for causes in stats.dropped.values()))}

    def close() -> None:
        recorder.close()
        shutil.rmtree(path, ignore_errors=True)

    return Trial(run, BATCH, BATCH * work.row_bytes, limit, finish=finish, close=close)


@stage(
    "collect/concurrent",
    "two game threads, two players, to a collector that drains",
    workloads=("R",),
    limit="memcpy of the rows by two threads",
    steady=False,
    traced=False,
)
def concurrent(lab: Lab, workload: str) -> Trial:
    work, ticks, players = lab.workload(workload), 200, 2
    path = lab.path("ledger")
    path.mkdir()
    plan = plan_blocks(work.schema, players * THREADS, TICK_ROWS, 256 << 20, producers=1)
    rows = ticks * TICK_ROWS * players * THREADS
    tick = {name: values[:TICK_ROWS] for name, values in work.columns.items()}
    collector = ShardedCollector(work.schema, players, plan, Ledger(path, 0, players), producers=THREADS)
    feeds = [collector.feed() for _ in range(THREADS)]
    source = np.zeros(TICK_ROWS * work.schema.row_bytes, np.uint8)

    def play(number: int) -> None:
        feed = feeds[number]
        for _ in range(ticks):
            for player in range(players):
                views, at = feed.reserve(player, TICK_ROWS)
                for name, values in tick.items():
                    views[name][at : at + TICK_ROWS] = values
                feed.sink.position[player] += TICK_ROWS
            feed.commit()

    def run() -> float:
        threads = [threading.Thread(target=play, args=(number,)) for number in range(THREADS)]
        begun, taken = time.perf_counter(), 0
        for thread in threads:
            thread.start()
        while taken < rows:
            claims = [lane.ring.claim(partial=not any(t.is_alive() for t in threads)) for lane in collector.lanes]
            for claim in claims:
                if claim is not None:
                    taken += claim.rows
                    claim.release()
            if not any(claims):
                collector.wait_full(0.01)
        seconds = time.perf_counter() - begun
        for thread in threads:
            thread.join()
        return seconds

    def copy() -> None:
        target = np.zeros_like(source)
        for _ in range(ticks * players):
            np.copyto(target, source)

    def limit() -> None:
        threads = [threading.Thread(target=copy) for _ in range(THREADS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    return Trial(run, rows, rows * work.row_bytes, limit, close=collector.close, repeatable=False)
