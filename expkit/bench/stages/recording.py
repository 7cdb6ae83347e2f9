"""Live self-play all the way to the disk, beside the same games without a recorder."""

from __future__ import annotations

import shutil
import time

from expkit.bench.lab import Lab
from expkit.bench.stage import Goal, Trial, Values, stage
from expkit.bench.stages.games import Playing, make_game
from expkit.buffers.budget import plan_blocks
from expkit.collect.background import BackgroundCollector
from expkit.runs.layout import RunInfo, new_run_id
from expkit.runs.write import RunWriter, create_run

ROWS = 400_000  # of a pass: a second or less, after which all of it is made durable
MEMORY = 512 << 20
TICKS_PER_CALL = 16


@stage(
    "record/live",
    "self-play to durable shards, one game thread",
    limit="the same games, unrecorded",
    goals={"": (Goal("ratio", least=0.75), Goal("cpu_ratio", most=2.2), Goal("bytes_per_row", most=25))},
    traced=False,
)
def record(lab: Lab, workload: str) -> Trial:
    playing = Playing(make_game(lab))
    game = make_game(lab, seed=2)
    schema, players = game.schema, game.players
    path = lab.path("run")
    create_run(path, RunInfo(new_run_id(), "bench", schema, [f"player{p}" for p in range(players)], []))
    writer = RunWriter(path, schema, players)
    collector = BackgroundCollector(writer, schema, players, plan_blocks(schema, players, game.num_envs, MEMORY, 2))
    feed, room, total = collector.feed(), 2 * game.num_envs, [0]

    def run() -> float:
        begun, rows = time.perf_counter(), 0
        while rows < ROWS:
            feed.ready(room)
            before = int(feed.sink.position.sum())
            game.play(feed.sink, TICKS_PER_CALL)
            rows += int(feed.sink.position.sum()) - before
            feed.commit(*game.take_events())
        collector.flush()
        seconds = time.perf_counter() - begun
        total[0] += rows
        # The call that reaches ROWS plays some more: the seconds of ROWS are told.
        return seconds * ROWS / rows

    def limit() -> float:
        begun, rows = time.perf_counter(), 0
        while rows < ROWS:
            rows += playing.play()
        return (time.perf_counter() - begun) * ROWS / rows

    def finish() -> Values:
        stats = collector.stats()
        if sum(stats.durable.values()) != total[0]:
            raise RuntimeError(f"{total[0]} rows were played, {stats.durable} are durable")
        dropped = sum(sum(causes.values()) for causes in stats.dropped.values())
        return {"bytes_per_row": writer.nbytes / total[0], "dropped": float(dropped)}

    def close() -> None:
        collector.close()
        shutil.rmtree(path, ignore_errors=True)

    return Trial(run, ROWS, ROWS * schema.row_bytes, limit, finish=finish, close=close, repeatable=False)
