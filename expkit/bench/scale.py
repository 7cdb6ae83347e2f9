"""Does a row cost the same in a long recording as in a short one, and a shard among thousands as among ten?

Two series: recordings of ten times as many rows each time, and runs of ten times as many shards. Each point is
measured in a process of its own, so that its peak memory is its own, too.
"""

from __future__ import annotations

import multiprocessing
import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import msgspec
import numpy as np

from expkit.bench.lab import Lab
from expkit.bench.machine import Machine, look_at_machine
from expkit.bench.measure import peak_memory
from expkit.bench.results import now
from expkit.bench.stage import Values
from expkit.bench.workloads import make_workload

SCHEMA = "expkit.bench.scale/1"
LEAST_ROWS = 100_000
ROWS_PER_SHARD = 10_000  # N rows stand beside N / 10,000 shards
_BLOCK_ROWS = 1_000  # of a shard in the series of shards
_DRAWS = 20  # samples of 256


# What a point tells, in the order in which it is shown, and its heading.
MEASURES = {
    "rows": {
        "record_ns_per_row": "record, a row",
        "scan_ns_per_row": "scan, a row",
        "bytes_per_row": "on disk, a row",
        "record_peak_bytes": "memory recording",
        "scan_peak_bytes": "memory scanning",
    },
    "shards": {
        "publish_ns_per_shard": "publish, a shard",
        "open_ns_per_shard": "open, a shard",
        "quick_ns_per_shard": "validate --quick, a shard",
        "scan_ns_per_row": "scan, a row",
        "sample_ns_per_row": "a random row",
        "read_peak_bytes": "memory reading",
    },
}


class Point(msgspec.Struct):
    """What one size costs: nanoseconds and bytes by name, see MEASURES."""

    size: int
    values: Values


class Series(msgspec.Struct):
    """Points of growing size. `title`: of what, in words."""

    name: str
    title: str
    points: list[Point]

    def growth(self, measure: str) -> float:
        """How much dearer the largest size is than the second: the first is often a matter of starting up."""
        values = [point.values[measure] for point in self.points]
        return values[-1] / values[min(1, len(values) - 1)]


class ScaleReport(msgspec.Struct):
    """Both series, of one machine."""

    schema: str
    created: str
    seconds: float
    machine: Machine
    series: list[Series]


# Told before each point: what it is, how many are done, how many there are.
Progress = Callable[[str, int, int], None]


def sizes(most: int, least: int) -> list[int]:
    """`least`, ten times that, and so on until `most`, which is always the last."""
    out = [least]
    while out[-1] * 10 < most:
        out.append(out[-1] * 10)
    return [size for size in out if size < most] + [most]


def measure_scale(
    lab: Lab,
    most_rows: int,
    progress: Progress = lambda key, done, total: None,
    stop: Callable[[], bool] = lambda: False,
) -> ScaleReport:
    """Recordings from 100,000 rows to `most_rows`, runs from one shard to a ten-thousandth of that, until `stop`."""
    begun = time.monotonic()
    rows = Series("rows", "recorded live, two players on 20x20, then scanned", [])
    shards = Series("shards", "of 1,000 small rows each, then read", [])
    todo = [(rows, size) for size in sizes(most_rows, LEAST_ROWS)]
    todo += [(shards, size) for size in sizes(max(1, most_rows // ROWS_PER_SHARD), 1)]
    progress("machine", 0, len(todo))
    report = ScaleReport(SCHEMA, now(), 0.0, look_at_machine(lab), [rows, shards])
    for done, (series, size) in enumerate(todo):
        if stop():
            break
        progress(f"{size:,} {series.name}", done, len(todo))
        series.points.append(Point(size, _point(lab, series.name, size)))
    report.seconds = time.monotonic() - begun
    return report


def _point(lab: Lab, name: str, size: int) -> Values:
    path = lab.path(name)
    steps = (record_rows, scan_rows) if name == "rows" else (write_shards, read_shards)
    try:
        out: Values = {}
        for step in steps:
            out |= _in_own_process(step, path, size)
        return out
    finally:
        shutil.rmtree(path, ignore_errors=True)


def _in_own_process(step: Callable[[Path, int], Values], path: Path, size: int) -> Values:
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(step, path, size).result()


def record_rows(path: Path, rows: int) -> Values:
    """Two hunters on 20x20, as `expkit record --rows N` plays and writes them."""
    from expkit.collect.session import Session
    from expkit.settings.config import resolve

    settings = resolve({"rows": rows, "seed": 1, "min_free": "0"}, None).config
    session = Session(settings, path)
    session.warm_up(lambda line: None)
    with peak_memory() as peak:
        result = session.run()
    return {
        "record_ns_per_row": result.seconds * 1e9 / result.rows,
        "record_peak_bytes": peak[0],
        "bytes_per_row": result.bytes / result.rows,
    }


def scan_rows(path: Path, rows: int) -> Values:
    """All columns, one thread."""
    from expkit.reading.opening import open_run

    with peak_memory() as peak, open_run(path) as run:
        steps = run.steps
        next(run.scan(batch_size=1, threads=1))  # by which the kernels are loaded
        begun = time.perf_counter()
        for _ in run.scan(threads=1):
            pass
        seconds = time.perf_counter() - begun
    return {"scan_ns_per_row": seconds * 1e9 / steps, "scan_peak_bytes": peak[0]}


def write_shards(path: Path, shards: int) -> Values:
    """`shards` shards of CartPole rows. What the last of them took: half of the last tenth took no longer."""
    from expkit.formats.shard.encode import BlockEncoder
    from expkit.runs.layout import RunInfo, new_run_id
    from expkit.runs.write import RunWriter, create_run

    work = make_workload("tiny")
    rows = {name: values[work.order][:_BLOCK_ROWS].copy() for name, values in work.columns.items()}
    create_run(path, RunInfo(new_run_id(), "bench", work.schema, ["player0"]))
    writer, encoder = RunWriter(path, work.schema, 1, sync="none"), BlockEncoder(work.schema)
    took, episodes = [], rows["episode"].max() + 1
    for _ in range(shards):
        block = encoder.encode(0, rows, _BLOCK_ROWS)
        writer.ledger.produced[0] += _BLOCK_ROWS
        begun = time.perf_counter()
        writer.append(block)
        writer.rotate()
        took.append(time.perf_counter() - begun)
        rows["episode"] += episodes
    writer.close()
    return {"publish_ns_per_shard": float(np.median(took[-max(1, shards // 10) :])) * 1e9}


def read_shards(path: Path, shards: int) -> Values:
    """Opened, checked at a glance, scanned, sampled."""
    from expkit.reading.opening import open_run
    from expkit.validation.validate import validate_run

    laps = _laps()
    with peak_memory() as peak:
        next(laps)
        with open_run(path) as run:
            steps = run.steps
            opened = next(laps)
            for _ in validate_run(run, "quick"):
                pass
            checked = next(laps)
            next(run.scan(batch_size=1, threads=1))  # by which the kernels are loaded
            next(laps)
            for _ in run.scan(threads=1):
                pass
            scanned = next(laps)
            rng = np.random.default_rng(1)
            for _ in range(_DRAWS):
                run.sample(256, rng)
            sampled = next(laps)
    return {
        "open_ns_per_shard": opened / shards,
        "quick_ns_per_shard": checked / shards,
        "scan_ns_per_row": scanned / steps,
        "sample_ns_per_row": sampled / (_DRAWS * 256),
        "read_peak_bytes": peak[0],
    }


def _laps() -> Iterator[float]:
    """Nanoseconds since the last time, from the second on."""
    before = time.perf_counter_ns()
    while True:
        now = time.perf_counter_ns()
        yield float(now - before)
        before = now
