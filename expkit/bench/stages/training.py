"""What a trainer reads: batches by a DataLoader of PyTorch, windows, next observations, rows by a condition."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from expkit.bench.lab import Lab
from expkit.bench.stage import Trial, stage
from expkit.bench.stages.runs import SAMPLE, close_run, run_of
from expkit.reading.run import Run

WINDOW = 16


def _all(make: Callable[[], Iterator[Any]]) -> None:
    for _ in make():
        pass


def _beside_shuffled(lab: Lab, workload: str, make: Callable[[Run], Callable[[], Iterator[Any]]]) -> Trial:
    work, run, rows = run_of(lab, workload)
    reading = make(run)
    return Trial(
        run=lambda: _all(reading),
        rows=rows,
        nbytes=rows * work.row_bytes,
        limit=lambda: _all(lambda: run.shuffled(SAMPLE, seed=1)),
        close=lambda: close_run(run),
    )


def _loader(lab: Lab, workload: str, workers: int) -> Trial:
    from expkit.torch import ExperienceDataset, ExperienceLoader

    loaders: list[ExperienceLoader] = []

    def make(run: Run) -> Callable[[], Iterator[Any]]:
        loader = ExperienceLoader(ExperienceDataset(run.path, SAMPLE, seed=1, keys=True), workers)
        loaders.append(loader)
        _all(loader.__iter__)  # which starts the workers
        return loader.__iter__

    trial = _beside_shuffled(lab, workload, make)
    close = trial.close

    def end() -> None:
        loaders[0].close()
        close()

    trial.close = end
    return trial


@stage(
    "training/loader",
    "DataLoader, batches of 256, no workers",
    workloads=("W", "R"),
    limit="shuffled batches",
    suites=("full",),
)
def loader(lab: Lab, workload: str) -> Trial:
    return _loader(lab, workload, 0)


@stage(
    "training/loader-2",
    "DataLoader, batches of 256, two workers",
    workloads=("W", "R"),
    limit="shuffled batches",
    suites=("full",),
    steady=False,
    traced=False,
)
def loader_2(lab: Lab, workload: str) -> Trial:
    return _loader(lab, workload, 2)


@stage(
    "training/next",
    "shuffled batches with next observations",
    workloads=("W", "R"),
    limit="shuffled batches",
    suites=("full",),
)
def next_observation(lab: Lab, workload: str) -> Trial:
    return _beside_shuffled(
        lab, workload, lambda run: lambda: run.shuffled(SAMPLE, seed=1, columns=["observation"], next_observation=True)
    )


@stage(
    "training/windows",
    f"windows of {WINDOW} steps, one after another",
    workloads=("W", "R"),
    limit="shuffled batches",
    suites=("full",),
)
def windows(lab: Lab, workload: str) -> Trial:
    return _beside_shuffled(lab, workload, lambda run: lambda: run.windows(WINDOW))


@stage(
    "training/where",
    "scanned where one row in a hundred matches",
    workloads=("W", "R"),
    limit="shuffled batches",
    suites=("full",),
)
def where(lab: Lab, workload: str) -> Trial:
    return _beside_shuffled(lab, workload, lambda run: lambda: run.scan(where="step % 100 == 7"))
