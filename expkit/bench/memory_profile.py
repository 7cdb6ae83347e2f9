"""Where the memory of a stage is when it holds the most: one pass of it under memray (extra `profile`)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from expkit.bench.lab import Lab
from expkit.bench.stage import Stage
from expkit.bench.workloads import WORKLOADS
from expkit.errors import MissingExtra

if TYPE_CHECKING:
    from memray import AllocationRecord

SCHEMA = "expkit.bench.memory/1"
_ALLOCATORS = ("aligned_empty", "empty")  # whose callers say what for
_PACKAGE = Path(__file__).resolve().parent.parent


class Holding(msgspec.Struct):
    """What one line of expkit (or, where none was at work, of another package) holds at the peak."""

    where: str
    function: str
    bytes: int
    allocations: int


class MemoryProfile(msgspec.Struct):
    """`peak_bytes` were allocated at the highest point of the pass, by the lines of `holdings`, largest first."""

    schema: str
    stage: str
    workload: str
    peak_bytes: int
    holdings: list[Holding]


def check_memray() -> None:
    """Raises MissingExtra."""
    try:
        import memray  # noqa: F401
    except ImportError:
        raise MissingExtra("a memory profile needs memray; install it with: pip install 'expkit[profile]'") from None


def profile_memory(lab: Lab, stage: Stage, workload: str, path: Path) -> MemoryProfile:
    """Make the stage's trial and run one pass of it; all allocations go to a file at `path`, which memray's own
    reports read. Raises MissingExtra, and what the stage raises."""
    check_memray()
    import memray

    if workload in WORKLOADS:
        lab.workload(workload)  # the rows are no part of the stage
    with memray.Tracker(destination=memray.FileDestination(str(path), overwrite=True)):
        trial = stage.make(lab, workload)
        try:
            trial.run()
        finally:
            trial.close()
    by_line: dict[tuple[str, str], Holding] = {}
    with memray.FileReader(str(path)) as reader:
        for record in reader.get_high_watermark_allocation_records(merge_threads=True):
            function, where = _line_of(record)
            held = by_line.setdefault((function, where), Holding(where, function, 0, 0))
            held.bytes += record.size
            held.allocations += record.n_allocations
    holdings = sorted(by_line.values(), key=lambda one: -one.bytes)
    return MemoryProfile(SCHEMA, stage.name, workload, sum(one.bytes for one in holdings), holdings)


def _line_of(record: AllocationRecord) -> tuple[str, str]:
    """Function and line, innermost first, that is expkit's; else the innermost."""
    frames = record.stack_trace()
    for function, file, line in frames:
        ours = Path(file).is_relative_to(_PACKAGE) or "/formats/shard/" in file
        if ours and function not in _ALLOCATORS:
            return function, f"{_short(file)}:{line}"
    function, file, line = frames[0] if frames else ("?", "?", 0)
    return function, f"{_short(file)}:{line}"


def _short(file: str) -> str:
    """The path from the package on."""
    parts = Path(file).parts
    for name in ("site-packages", "expkit"):
        if name in parts:
            at = len(parts) - 1 - parts[::-1].index(name)
            return "/".join(parts[at + (name == "site-packages") :])
    return "/".join(parts[-2:])
