"""What a bench tells: a Report of one Result a stage and workload, as JSON and back."""

from __future__ import annotations

import time
from pathlib import Path

import msgspec

from expkit.bench.machine import Machine
from expkit.bench.measure import Spread, Timing
from expkit.bench.stage import Goal, Measure, Stage, Trial, Values
from expkit.errors import CheckFailed, NotThere

SCHEMA = "expkit.bench/1"


class GoalResult(msgspec.Struct):
    """A goal, what was measured, and whether that is enough."""

    measure: str
    value: float
    least: float | None
    most: float | None
    met: bool


class Result(msgspec.Struct):
    """One stage on one workload.

    ratio            rows per second beside the limit's; seconds are those of `clock` (see `expkit.bench.stage`)
    cpu_ns_per_row   of all threads of the process; `allocated_per_row` in bytes, see `expkit.bench.measure`
    first_seconds    of the first pass, `compile_seconds` of it (and of the limit's) by Numba
    extra            what else the stage tells: p50_ns, p99_ns, dropped, bytes_per_row, …
    """

    stage: str
    workload: str
    title: str
    limit: str
    rows: int
    bytes: int
    steady: bool
    clock: str
    rows_per_second: Spread
    mb_per_second: float
    limit_rows_per_second: Spread | None
    ratio: Spread | None
    cpu_ns_per_row: float
    cpu_ratio: float | None
    first_seconds: float
    compile_seconds: float
    peak_bytes: int
    allocated_per_row: float | None
    extra: Values
    goals: list[GoalResult]

    @property
    def key(self) -> str:
        return f"{self.stage} {self.workload}".strip()

    def value(self, measure: Measure) -> float | None:
        """What a goal speaks of."""
        if measure == "ratio":
            return self.ratio.median if self.ratio is not None else None
        if measure == "rows_per_second":
            return self.rows_per_second.median
        if measure == "seconds_per_pass":
            return self.rows / self.rows_per_second.median
        if measure == "cpu_ratio":
            return self.cpu_ratio
        if measure == "allocated_per_row":
            return self.allocated_per_row
        return self.extra.get(measure)


class PeerResult(msgspec.Struct):
    """Another library at the same work: `ratio` is expkit's rows per second by its."""

    peer: str
    version: str
    stage: str
    workload: str
    rows_per_second: Spread | None
    ratio: Spread | None
    bytes_per_row: float | None = None
    note: str = ""


class Failure(msgspec.Struct):
    """A stage that could not be measured."""

    key: str
    message: str


class Report(msgspec.Struct):
    """All results of a bench. `source`: the user's own game, where one was played."""

    schema: str
    suite: str
    created: str
    seconds: float
    machine: Machine
    stages: list[Result]
    peers: list[PeerResult] = []
    source: str = ""
    failures: list[Failure] = []

    def find(self, key: str) -> Result | None:
        return next((one for one in self.stages if one.key == key), None)


def result_of(stage: Stage, workload: str, trial: Trial, timing: Timing) -> Result:
    """The Result of a timed trial, goals judged."""
    out = Result(
        stage=stage.name,
        workload=workload,
        title=stage.title,
        limit=stage.limit,
        rows=trial.rows,
        bytes=trial.nbytes,
        steady=stage.steady,
        clock=stage.clock,
        rows_per_second=timing.rows_per_second,
        mb_per_second=timing.rows_per_second.median * trial.nbytes / trial.rows / 1e6,
        limit_rows_per_second=timing.limit_rows_per_second,
        ratio=timing.ratio,
        cpu_ns_per_row=timing.cpu_ns_per_row,
        cpu_ratio=timing.cpu_ns_per_row / timing.limit_cpu_ns_per_row if timing.limit_cpu_ns_per_row else None,
        first_seconds=timing.first_seconds,
        compile_seconds=timing.compile_seconds,
        peak_bytes=timing.peak_bytes,
        allocated_per_row=timing.allocated_per_row,
        extra=timing.extra,
        goals=[],
    )
    for goal in stage.goals.get(workload, ()):
        value = out.value(goal.measure)
        if value is not None:
            out.goals.append(_judged(goal, value))
    return out


def _judged(goal: Goal, value: float) -> GoalResult:
    return GoalResult(goal.measure, value, goal.least, goal.most, goal.met(value))


def now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def save_report(report: msgspec.Struct, path: Path) -> None:
    """A Report, or that of another bench, as indented JSON, in place of what is there."""
    from expkit.system.files import write_atomic

    text = msgspec.json.format(msgspec.json.encode(report), indent=1)
    write_atomic(path, text + b"\n")


def read_report(path: Path) -> Report:
    """Raises NotThere for a file that is not there, CheckFailed for one that is no report of this version."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise NotThere(f"{path}: no such baseline; make one with --save-baseline {path}") from None
    try:
        report = msgspec.json.decode(data, type=Report)
    except msgspec.DecodeError as error:
        raise CheckFailed(f"{path}: not a report of expkit bench: {error}") from None
    if report.schema != SCHEMA:
        raise CheckFailed(f"{path}: a report of {report.schema}, not {SCHEMA}; make it anew with --save-baseline")
    return report
