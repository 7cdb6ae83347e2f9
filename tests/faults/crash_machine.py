"""Puts a workload through every crash there is: `crash_recording` for recorders, `crash_operation` for whatever
works on a run that exists. Shared by the short form and the long one."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

from crash_states import State, crash_states
from disk import LoggedDisk

from expkit import open_run
from expkit.system.files import using
from expkit.validation.validate import validate_run

MEMORY = "/dev/shm"
Key = tuple[int, int, int]  # episode, player, step
Rows = dict[Key, bytes]


def visible_rows(
    path: Path, damaged: Literal["raise", "skip"] = "raise", *, without: frozenset[str] = frozenset()
) -> Rows:
    """(episode, player, step) -> the bytes of all columns but those in `without`. Fails when a row is there twice."""
    rows: Rows = {}
    with open_run(path) as run:
        for batch in run.scan(rows="all", damaged=damaged):
            names = sorted(batch.keys() - without)
            keys = zip(batch["episode"].tolist(), batch["player"].tolist(), batch["step"].tolist(), strict=True)
            for at, key in enumerate(keys):
                assert key not in rows, f"{key} is there twice"
                rows[key] = b"".join(batch[name][at].tobytes() for name in names)
    return rows


def errors_of(path: Path) -> list[str]:
    """Findings of severity error. Nothing in a run makes validation raise."""
    with open_run(path) as run:
        return [str(finding) for finding in validate_run(run, "full") if finding.severity == "error"]


class Tally(Counter[str]):
    """States tried, by kind, and rows lost beyond the promise."""

    def report(self, tried: Callable[..., None]) -> None:
        tried("power", self["lost"], kills=self["kill"], power_cuts=self["power"], durable_rows=self["promised"])


def crash_recording(
    folder: Path,
    record: Callable[[Path, Callable[[Sequence[Key]], None]], Sequence[Key]],
    *,
    cuts: int,
    resume: Callable[[Path], None],
) -> Tally:
    """`record(run, promise)` records and calls `promise(keys)` whenever rows have been reported durable; it returns the
    keys of all rows it gave. After every crash the promised rows are read back as they were, none twice, none that was
    never given. `resume(run)` records on, at some of the states."""
    live = folder / "live"
    live.mkdir()
    disk = LoggedDisk(live)
    with using(disk):
        keys = record(live / "run", disk.note)
    given = visible_rows(live / "run")
    assert given.keys() == set(keys)
    tally = Tally()
    for number, state in enumerate(crash_states(disk, cuts=cuts)):
        with _built(state, folder) as path:
            tally[state.kind] += 1
            promised = state.notes[-1] if state.notes else []
            tally["promised"] += len(promised)
            where = f"{state.kind} after operation {state.after} of {len(disk.log)}"
            damaged: Literal["raise", "skip"] = "raise" if state.kind == "kill" else "skip"
            if not (path / "run.yaml").exists():  # it was just being made
                assert not promised, f"{where}: run.yaml is gone"
                continue
            found = visible_rows(path, damaged)
            missing = [key for key in promised if found.get(key) != given[key]]
            tally["lost"] += len(missing)
            assert not missing, f"{where}: {len(missing)} promised rows are gone or differ, the first {missing[0]}"
            assert found.items() <= given.items(), f"{where}: rows that nobody recorded"
            errors = errors_of(path)
            assert state.kind == "power" or not errors, f"{where}: {errors}"
            if number % 10 == 0:
                resume(path)
                after = visible_rows(path, damaged)
                assert found.items() < after.items(), f"{where}: recording on lost rows or added none"
    return tally


def crash_operation(
    folder: Path,
    prepare: Callable[[Path], Any],
    operation: Callable[[Path], Any],
    *,
    cuts: int,
    seed: int = 0,
    allowed: Sequence[Rows] | None = None,
    again: bool = True,
    damaged: bool = False,
) -> Tally:
    """`prepare(run)` makes a run; `operation(run)` is crashed at every one of its operations. What is then visible is
    one of `allowed`, by default what was visible before it or after it; with `again` the operation, run once more on
    what the crash left, ends where it would have ended. A run that `prepare` leaves `damaged` is sound only then."""
    skip: Literal["raise", "skip"] = "skip" if damaged else "raise"
    live = folder / "live"
    live.mkdir()
    prepare(live / "run")
    before = visible_rows(live / "run", skip)
    disk = LoggedDisk(live)
    with using(disk):
        operation(live / "run")
    after = visible_rows(live / "run", skip)
    outcomes = list(allowed) if allowed is not None else [before, after]
    must = set.intersection(*(set(rows.items()) for rows in outcomes))
    tally = Tally()
    for state in crash_states(disk, cuts=cuts, seed=seed):
        with _built(state, folder) as path:
            tally[state.kind] += 1
            tally["promised"] += len(must)
            where = f"{state.kind} after operation {state.after} of {len(disk.log)}"
            found = visible_rows(path, skip)
            tally["lost"] += len(must - set(found.items()))
            assert found in outcomes, f"{where}: {len(found)} rows, allowed are {[len(rows) for rows in outcomes]}"
            # A power cut may leave a torn file that nothing counts on; running it again heals that, too.
            errors = [error for error in errors_of(path) if state.kind == "kill" or "rule='file/" not in error]
            assert damaged or not errors, f"{where}: {errors}"
            if again:
                operation(path)
                assert visible_rows(path, skip) == after, f"{where}: run again, it ends elsewhere"
                assert not errors_of(path), f"{where}: run again, it leaves {errors_of(path)}"
    return tally


class _built:
    """The run of a state, in a folder that is gone afterwards."""

    def __init__(self, state: State, folder: Path):
        self.state, self.kept = state, folder / "state"

    def __enter__(self) -> Path:
        # In memory where there is such a folder: making and removing folders took a quarter of the time.
        self.folder = Path(tempfile.mkdtemp(dir=MEMORY if os.access(MEMORY, os.W_OK) else self.kept.parent))
        self.state.build(self.folder)
        return self.folder / "run"

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:  # to be looked at
            shutil.copytree(self.folder, self.kept)
        shutil.rmtree(self.folder)
