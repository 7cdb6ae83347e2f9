"""What a stage is: a small function that makes a Trial, registered under a name with what it is compared with."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from expkit.errors import UsageError, did_you_mean

if TYPE_CHECKING:
    from expkit.bench.lab import Lab

SuiteName = Literal["quick", "full"]
Clock = Literal["thread", "wall"]
Measure = Literal[
    "ratio", "rows_per_second", "bytes_per_row", "size_ratio", "seconds_per_pass", "cpu_ratio", "allocated_per_row"
]
Values = dict[str, float]

# A later part adds its module here.
MODULES = (
    "games", "serializers", "rings", "hand_over", "collectors", "shards", "runs", "training", "exchange", "recording",
    "environments", "startup",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Goal:
    """What a measure is to reach: at `least`, or at `most`."""

    measure: Measure
    least: float | None = None
    most: float | None = None

    def met(self, value: float) -> bool:
        return (self.least is None or value >= self.least) and (self.most is None or value <= self.most)


@dataclass(slots=True)
class Trial:
    """Something to be run many times, and the machine's own limit for the same work.

    run         one pass over `rows` rows; a float it returns is the seconds it took, for work of which it prepares a
                part by itself
    rows        of a pass
    nbytes      of a pass, as callers see the rows, not as they are stored
    limit       one pass of what stands beside it, None for none; `limit_rows` as `rows`
    finish      after all passes: more measures by name (`p50_ns`, `p99_ns`, `bytes_per_row`, `dropped`, …)
    close       frees what the trial holds, also after an error
    repeatable  several passes may be run in one sample, back to back
    """

    run: Callable[[], object]
    rows: int
    nbytes: int
    limit: Callable[[], object] | None = None
    limit_rows: int = 0
    finish: Callable[[], Values] = dict
    close: Callable[[], Any] = lambda: None
    repeatable: bool = True


@dataclass(frozen=True, slots=True)
class Stage:
    """A registered stage; see `stage`."""

    name: str
    title: str
    make: Callable[[Lab, str], Trial]
    workloads: tuple[str, ...]
    limit: str
    goals: Mapping[str, tuple[Goal, ...]]
    suites: tuple[SuiteName, ...]
    steady: bool
    traced: bool
    clock: Clock


STAGES: dict[str, Stage] = {}


def stage(
    name: str,
    title: str,
    *,
    workloads: Sequence[str] = ("",),
    limit: str = "",
    goals: Mapping[str, Goal | tuple[Goal, ...]] | None = None,
    suites: Sequence[SuiteName] = ("quick", "full"),
    steady: bool = True,
    traced: bool = True,
    clock: Clock = "wall",
) -> Callable[[Callable[[Lab, str], Trial]], Callable[[Lab, str], Trial]]:
    """Register `make(lab, workload) -> Trial` as a stage.

    name       `part/what`, as `--stage` takes it
    workloads  names in `expkit.bench.workloads`, "" for a stage with rows of its own
    limit      what the trial's `limit` is, in a word or two
    goals      by workload
    steady     whether a gate may judge its ratio; not so where threads or the disk decide
    traced     whether a pass may be run under tracemalloc; not so where that would take too long
    clock      `thread` for what one thread does without waiting: processor time, which others on the machine cannot
               take away, so that ratios of 30 ms hold on a busy machine; `wall` for disks and several threads
    """

    def register(make: Callable[[Lab, str], Trial]) -> Callable[[Lab, str], Trial]:
        if name in STAGES:
            raise UsageError(f"stage {name} is registered twice")
        listed = {key: goal if isinstance(goal, tuple) else (goal,) for key, goal in (goals or {}).items()}
        STAGES[name] = Stage(name, title, make, tuple(workloads), limit, listed, tuple(suites), steady, traced, clock)
        return make

    return register


def load_stages() -> list[Stage]:
    """All stages, in the order in which a row meets them."""
    for module in MODULES:
        importlib.import_module(f"expkit.bench.stages.{module}")
    return list(STAGES.values())


def choose(stages: Sequence[Stage], wanted: Sequence[str], suite: SuiteName) -> list[Stage]:
    """The stages of a suite; with `wanted`, those whose name is or begins with one of these, whatever their suite.
    Raises UsageError for a name that is none."""
    if not wanted:
        return [one for one in stages if suite in one.suites]
    out: list[Stage] = []
    for name in wanted:
        hits = [one for one in stages if one.name == name or one.name.startswith(name.rstrip("/") + "/")]
        if not hits:
            names = [one.name for one in stages]
            parts = list(dict.fromkeys(one.partition("/")[0] for one in names))
            hint = did_you_mean(name, [*parts, *names], f"there are {', '.join(names)}")
            raise UsageError(f"no stage is called {name!r}; {hint}")
        out += [one for one in hits if one not in out]
    return out
