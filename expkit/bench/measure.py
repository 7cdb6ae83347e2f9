"""Timing a trial beside its limit, so that the ratio of the two can be trusted on a machine shared with others.

Runs of the two alternate, a ratio is taken of each pair, and what is told is the median of these with the interval
that holds the true median in 95 of 100 cases, whatever the distribution (order statistics; binomial, p = 1/2). The
first pass compiles and warms up and counts apart.
"""

from __future__ import annotations

import gc
import math
import resource
import statistics
import time
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import msgspec

from expkit.bench.stage import Clock, Trial, Values

CONFIDENCE = 0.95
MOST_PASSES = 1 << 20  # of one sample


class Spread(msgspec.Struct, frozen=True):
    """A median and its 95% interval, which for fewer than six runs is their whole range."""

    median: float
    low: float
    high: float

    @property
    def width(self) -> float:
        """Half of the interval, as a part of the median."""
        return (self.high - self.low) / 2 / self.median if self.median else 0.0


def spread(values: Sequence[float]) -> Spread:
    """Median and interval of the values."""
    ordered = sorted(values)
    count = len(ordered)
    cut, below = 0, 0.0
    for k in range(count // 2):
        below += math.comb(count, k) / 2**count
        if 2 * below > 1 - CONFIDENCE:
            break
        cut = k
    return Spread(statistics.median(ordered), ordered[cut], ordered[count - 1 - cut])


@dataclass(frozen=True, slots=True)
class Effort:
    """How long to measure: so many pairs of samples, each of at least so many seconds."""

    rounds: int
    sample_seconds: float


QUICK = Effort(9, 0.03)  # from nine on, the interval leaves out the slowest and the fastest
FULL = Effort(15, 0.1)


@dataclass(frozen=True, slots=True)
class Timing:
    """What was measured of a trial; per second of its clock, per row of processor time in nanoseconds."""

    rows_per_second: Spread
    limit_rows_per_second: Spread | None
    ratio: Spread | None
    cpu_ns_per_row: float
    limit_cpu_ns_per_row: float | None
    first_seconds: float
    compile_seconds: float
    peak_bytes: int
    allocated_per_row: float | None
    extra: Values


def measure(trial: Trial, effort: Effort, *, clock: Clock = "wall", traced: bool = True) -> Timing:
    """Run a trial and its limit, seconds by that clock; `traced` adds a pass under tracemalloc."""
    now = time.thread_time if clock == "thread" else time.perf_counter
    compiled: list[float] = []
    with compile_time(compiled):
        first = _sample(trial.run, 1, time.perf_counter)[0]
        if trial.limit is not None:
            trial.limit()
    gc.collect()
    passes = _passes(trial.run, effort, now) if trial.repeatable else 1
    limit_passes = _passes(trial.limit, effort, now) if trial.repeatable and trial.limit is not None else 1
    rates: list[float] = []
    limits: list[float] = []
    cpu: list[float] = []
    limit_cpu: list[float] = []
    with peak_memory() as peak:
        for turn in range(effort.rounds):
            sides = [(trial.run, trial.rows, passes, rates, cpu)]
            if trial.limit is not None:
                sides.append((trial.limit, trial.limit_rows or trial.rows, limit_passes, limits, limit_cpu))
            for call, rows, count, out, busy in sides if turn % 2 else reversed(sides):
                seconds, used = _sample(call, count, now)
                out.append(rows * count / seconds)
                busy.append(used / (rows * count) * 1e9)
    return Timing(
        rows_per_second=spread(rates),
        limit_rows_per_second=spread(limits) if limits else None,
        ratio=spread([a / b for a, b in zip(rates, limits, strict=True)]) if limits else None,
        cpu_ns_per_row=statistics.median(cpu),
        limit_cpu_ns_per_row=statistics.median(limit_cpu) if limit_cpu else None,
        first_seconds=first,
        compile_seconds=sum(compiled),
        peak_bytes=peak[0],
        allocated_per_row=_allocated(trial) if traced else None,
        extra=trial.finish(),
    )


def _sample(call: Callable[[], object], passes: int, now: Callable[[], float]) -> tuple[float, float]:
    """Seconds by a clock, and seconds of processor time of all threads, of so many passes."""
    told = 0.0
    begun, used = now(), time.process_time()
    for _ in range(passes):
        seconds = call()
        if isinstance(seconds, float):
            told += seconds
    passed, used = now() - begun, time.process_time() - used
    return told or passed, used


def _passes(call: Callable[[], object], effort: Effort, now: Callable[[], float]) -> int:
    """How many passes fill a sample. The first one is not counted: it touches new memory."""
    call()
    passes = 1
    while True:
        seconds = _sample(call, passes, now)[0]
        if seconds >= effort.sample_seconds or passes >= MOST_PASSES:
            return passes
        wanted = int(passes * effort.sample_seconds / max(seconds, 1e-7) * 1.1) + 1
        passes = min(max(wanted, passes + 1), passes * 32, MOST_PASSES)


def _allocated(trial: Trial) -> float:
    """Bytes of Python's and NumPy's memory by which a pass in the steady state goes above what was held before it,
    per row."""
    tracemalloc.start()
    try:
        trial.run()
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        trial.run()
        return max(0, tracemalloc.get_traced_memory()[1] - before) / trial.rows
    finally:
        tracemalloc.stop()


@contextmanager
def compile_time(seconds: list[float]) -> Iterator[None]:
    """Collect the seconds that Numba compiles within, outermost compilations only."""
    from numba.core import event

    with event.install_timer("numba:compile", seconds.append):
        yield


@contextmanager
def peak_memory() -> Iterator[list[int]]:
    """Yields a list that holds, afterwards, the most resident memory of the process within, in bytes: that of all its
    life where the system cannot count anew."""
    out = [0]
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    yield out
    try:
        status = Path("/proc/self/status").read_text()
        out[0] = 1024 * next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        out[0] = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def latencies(call: Callable[[], object], count: int) -> Values:
    """p50 and p99 of single calls in nanoseconds, the clock's own cost taken off."""
    clock, out = time.perf_counter_ns, []
    empty = []
    for _ in range(1000):
        begun = clock()
        empty.append(clock() - begun)
    for _ in range(count):
        begun = clock()
        call()
        out.append(clock() - begun)
    out.sort()
    base = statistics.median(empty)
    return {"p50_ns": max(out[count // 2] - base, 0.0), "p99_ns": max(out[count * 99 // 100] - base, 0.0)}
