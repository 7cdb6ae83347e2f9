"""Live self-play all the way to the disk, beside the same games without a recorder."""

from __future__ import annotations

import shutil
import time
from functools import partial
from typing import NamedTuple

from expkit.bench.lab import Lab
from expkit.bench.stage import Goal, Trial, Values, stage
from expkit.bench.stages.games import Playing, make_game
from expkit.buffers.budget import plan_blocks
from expkit.collect.background import BackgroundCollector
from expkit.games.protocol import Game
from expkit.runs.layout import RunInfo, new_run_id
from expkit.runs.write import RunWriter, create_run

ROWS = 400_000  # of a pass: a second or less, after which all of it is made durable
MEMORY = 512 << 20
TICKS_PER_CALL = 16


class Shape(NamedTuple):
    """Games other than 64 at once of two players on 20x20, and how many rows make a pass of about a second."""

    title: str
    num_envs: int
    players: int
    side: int
    rows: int


SHAPES = {
    "64x64": Shape("self-play on huge boards to durable shards", 8, 2, 64, 40_000),
    "16-players": Shape("self-play of 16 players to durable shards", 64, 16, 20, 400_000),
    "one-game": Shape("self-play of one game at a time to durable shards", 1, 2, 20, 200_000),
    "1000-games": Shape("self-play of 1,000 games at once to durable shards", 1000, 2, 20, 400_000),
}
UNRECORDED = "the same games, unrecorded"


@stage(
    "record/live",
    "self-play to durable shards, one game thread",
    limit=UNRECORDED,
    goals={"": (Goal("ratio", least=0.75), Goal("cpu_ratio", most=2.2), Goal("bytes_per_row", most=25))},
    traced=False,
)
def record(lab: Lab, workload: str) -> Trial:
    return _record(lab, make_game(lab), make_game(lab, seed=2), ROWS)


def record_shape(shape: Shape, lab: Lab, workload: str) -> Trial:
    unrecorded, game = (make_game(lab, shape.num_envs, seed, shape.players, shape.side) for seed in (1, 2))
    return _record(lab, unrecorded, game, shape.rows)


for _name, _shape in SHAPES.items():
    stage(f"record/{_name}", _shape.title, limit=UNRECORDED, suites=("full",), traced=False)(
        partial(record_shape, _shape)
    )


def _record(lab: Lab, unrecorded: Game, game: Game, least: int) -> Trial:
    """At least so many rows a pass."""
    playing = Playing(unrecorded)
    schema, players = game.schema, game.players
    path = lab.path("run")
    create_run(path, RunInfo(new_run_id(), "bench", schema, [f"player{p}" for p in range(players)], []))
    writer = RunWriter(path, schema, players)
    collector = BackgroundCollector(writer, schema, players, plan_blocks(schema, players, game.num_envs, MEMORY, 2))
    feed, room, total = collector.feed(), 2 * game.num_envs, [0]

    def run() -> float:
        begun, rows = time.perf_counter(), 0
        while rows < least:
            feed.ready(room)
            before = int(feed.sink.position.sum())
            game.play(feed.sink, TICKS_PER_CALL)
            rows += int(feed.sink.position.sum()) - before
            feed.commit(*game.take_events())
        collector.flush()
        seconds = time.perf_counter() - begun
        total[0] += rows
        # The call that reaches `least` plays some more: the seconds of `least` rows are told.
        return seconds * least / rows

    def limit() -> float:
        begun, rows = time.perf_counter(), 0
        while rows < least:
            rows += playing.play()
        return (time.perf_counter() - begun) * least / rows

    def finish() -> Values:
        stats = collector.stats()
        if sum(stats.durable.values()) != total[0]:
            raise RuntimeError(f"{total[0]} rows were played, {stats.durable} are durable")
        dropped = sum(sum(causes.values()) for causes in stats.dropped.values())
        return {"bytes_per_row": writer.nbytes / total[0], "dropped": float(dropped)}

    def close() -> None:
        collector.close()
        shutil.rmtree(path, ignore_errors=True)

    return Trial(run, least, least * schema.row_bytes, limit, finish=finish, close=close, repeatable=False)
