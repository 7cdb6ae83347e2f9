"""Running stages one after another."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from expkit.bench.lab import Lab
from expkit.bench.machine import look_at_machine
from expkit.bench.measure import FULL, QUICK, Effort, measure
from expkit.bench.results import SCHEMA, Failure, Report, Result, now, result_of
from expkit.bench.stage import Stage, SuiteName
from expkit.errors import UsageError

# Told before each stage: its key, how many are done, how many there are.
Progress = Callable[[str, int, int], None]


def effort_of(suite: SuiteName) -> Effort:
    return QUICK if suite == "quick" else FULL


def run_stage(lab: Lab, stage: Stage, workload: str, effort: Effort) -> Result:
    """Measure one stage on one workload."""
    trial = stage.make(lab, workload)
    try:
        return result_of(stage, workload, trial, measure(trial, effort, clock=stage.clock, traced=stage.traced))
    finally:
        trial.close()


def run_suite(
    lab: Lab,
    stages: Sequence[Stage],
    suite: SuiteName,
    progress: Progress = lambda key, done, total: None,
    stop: Callable[[], bool] = lambda: False,
) -> Report:
    """Measure the given stages, each on its workloads, until `stop` says so. A stage that fails is told of in the
    report, and the others go on."""
    begun, effort = time.monotonic(), effort_of(suite)
    todo = [(stage, workload) for stage in stages for workload in stage.workloads]
    # The processor is asked for what it can do before anything has warmed it up or worn it out.
    progress("machine", 0, len(todo))
    report = Report(SCHEMA, suite, now(), 0.0, look_at_machine(lab), [], source=lab.source)
    for done, (stage, workload) in enumerate(todo):
        if stop():
            break
        key = f"{stage.name} {workload}".strip()
        progress(key, done, len(todo))
        try:
            report.stages.append(run_stage(lab, stage, workload, effort))
        except UsageError:
            raise
        except Exception as error:  # a user's game may raise anything
            report.failures.append(Failure(key, f"{type(error).__name__}: {error}"))
    report.seconds = time.monotonic() - begun
    return report
