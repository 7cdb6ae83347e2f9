"""Whole runs: scanned, shuffled for training, sampled, validated."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path

import numpy as np

from expkit.bench.lab import Lab
from expkit.bench.reference import BlockFile
from expkit.bench.stage import Goal, Trial, stage
from expkit.bench.stages.shards import REFERENCE
from expkit.bench.workloads import GAMES, Workload
from expkit.reading.opening import open_run
from expkit.reading.run import Run
from expkit.recorder import Recorder
from expkit.validation.validate import validate_run

COPIES = 3  # of the workload's rows, in a shard each
SAMPLE = 256
EMPTY_SHARDS = 10_000


def write_run(path: Path, work: Workload, copies: int = COPIES) -> None:
    """The workload's rows, several times over as other episodes, a shard each time."""
    rows = {name: values[work.order] for name, values in work.logical.items()}
    # A game's last row is given as one more transition, so that this is the one that ends it.
    rows |= {"terminated": work.columns["is_last"][work.order].astype(bool), "truncated": np.zeros(work.rows, bool)}
    episodes, places = np.unique(work.columns["episode"][work.order], return_inverse=True)
    steps = work.columns["step"][work.order]
    with Recorder(
        path, work.schema, min_free=0, flush_interval=3600, concurrent_episodes=GAMES, memory="1GiB"
    ) as recorder:
        for copy in range(copies):
            numbers = np.arange(len(episodes)) + copy * len(episodes)
            recorder.add_batch(episode=numbers[places], step=steps, **rows)
            recorder.flush()
            recorder.collector.writer.rotate()


def run_of(lab: Lab, workload: str) -> tuple[Workload, Run, int]:
    """The workload, a run of its rows, and how many transitions it holds."""
    work, path = lab.workload(workload), lab.path("run")
    write_run(path, work)
    run = open_run(path)
    return work, run, run.steps


def close_run(run: Run) -> None:
    run.close()
    shutil.rmtree(run.path, ignore_errors=True)


def _scan_all(run: Run, threads: int = 1) -> None:
    for _ in run.scan(threads=threads):
        pass


def _scan(lab: Lab, workload: str, threads: int) -> Trial:
    work, run, rows = run_of(lab, workload)
    reference = BlockFile(lab.path("reference"))
    reference.write(work.ordered)

    def limit() -> None:
        for _ in reference.read():
            pass

    def close() -> None:
        close_run(run)
        reference.path.unlink()

    scan = partial(_scan_all, run, threads)
    return Trial(scan, rows, rows * work.row_bytes, limit, limit_rows=work.rows, close=close)


@stage(
    "run/scan",
    "scanned, batches as the files have them, one thread",
    workloads=("W", "R"),
    limit=REFERENCE,
    clock="thread",
)
def scan(lab: Lab, workload: str) -> Trial:
    return _scan(lab, workload, 1)


@stage("run/scan-2", "scanned, two threads decode", workloads=("W", "R"), limit=REFERENCE, steady=False)
def scan_2(lab: Lab, workload: str) -> Trial:
    return _scan(lab, workload, 2)


@stage(
    "run/shuffled",
    "shuffled batches of 256, every row once",
    workloads=("W", "R"),
    limit="the scan",
    goals={"W": Goal("ratio", least=0.7), "R": Goal("ratio", least=0.7)},
    clock="thread",
)
def shuffled(lab: Lab, workload: str) -> Trial:
    work, run, rows = run_of(lab, workload)
    epoch = [0]

    def run_epoch() -> None:
        count = sum(len(batch["step"]) for batch in run.shuffled(SAMPLE, seed=1, epoch=epoch[0], threads=1))
        epoch[0] += 1
        if count != rows:
            raise RuntimeError(f"an epoch had {count} rows of {rows}")

    limit = partial(_scan_all, run)
    return Trial(run_epoch, rows, rows * work.row_bytes, limit, close=lambda: close_run(run))


@stage(
    "run/sample-256",
    "256 transitions drawn from disk",
    workloads=("W",),
    limit="the scan",
    clock="thread",
)
def sample(lab: Lab, workload: str) -> Trial:
    work, run, rows = run_of(lab, workload)
    rng = np.random.default_rng(0)

    return Trial(
        run=lambda: run.sample(SAMPLE, rng),
        rows=SAMPLE,
        nbytes=SAMPLE * work.row_bytes,
        limit=partial(_scan_all, run),
        limit_rows=rows,
        close=lambda: close_run(run),
    )


@stage(
    "validate/full",
    "validate --full, every rule",
    workloads=("W", "R"),
    limit="the scan, two threads",
    goals={"W": Goal("ratio", least=0.6), "R": Goal("ratio", least=0.6)},
    steady=False,
)
def validate(lab: Lab, workload: str) -> Trial:
    work, run, rows = run_of(lab, workload)

    def check() -> None:
        findings = [finding for finding in validate_run(run) if finding.severity == "error"]
        if findings:
            raise RuntimeError(str(findings[0]))

    limit = partial(_scan_all, run, 2)
    return Trial(check, rows, rows * work.row_bytes, limit, close=lambda: close_run(run))


@stage(
    "validate/quick",
    "validate --quick of 10,000 shards",
    suites=("full",),
    goals={"": Goal("seconds_per_pass", most=0.5)},
    steady=False,
    traced=False,
)
def validate_quick(lab: Lab, workload: str) -> Trial:
    path, work = lab.path("run"), lab.workload("tiny")
    with Recorder(path, work.schema, min_free=0, shard_rows=8, flush_interval=3600, sync="none") as recorder:
        writer = recorder.collector.writer
        for episode in range(EMPTY_SHARDS):
            recorder.add(episode=episode, step=0, observation=np.zeros(4, np.float32), action=0, reward=0.0)
            recorder.flush()
            writer.rotate()
    run = open_run(path)

    def check() -> None:
        for _ in validate_run(run, "quick"):
            pass

    return Trial(check, EMPTY_SHARDS, run.bytes, close=lambda: close_run(run), repeatable=False)
