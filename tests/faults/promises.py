"""What the files of a run promise, and how each promise is tried.

Suites report what they tried with the fixture `tried`. With EXPKIT_FAULT_REPORT=FILE every report is appended to that
file, one line of JSON each, and `python tests/faults/promises.py FILE` prints the table with its sums. The same table
stands in formats/shard/SPEC.md, with the figures of a run; tests/faults/test_promises.py writes it.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

REPORT = "EXPKIT_FAULT_REPORT"
Figures = dict[str, int]


@dataclass(frozen=True, slots=True)
class Promise:
    """`tests` are node ids below tests/; `figures` what their reports count, `none_of` what has to stay at 0."""

    id: str
    sentence: str
    tried: str
    tests: tuple[str, ...]
    figures: tuple[str, ...]
    none_of: str = "rows lost beyond the promise"


PROMISES = (
    Promise(
        "kill",
        "After `kill -9` at any moment every row that flush reported durable is read back, and `validate` tells how "
        "many were produced after that and lost.",
        "the real `expkit record` killed at random moments: while it starts, writes and rotates",
        (
            "faults/test_kills.py::test_a_killed_recording_gives_back_what_was_durable",
            "faults/test_kills.py::test_a_recorder_killed_as_it_rotates",
        ),
        ("kills", "durable rows"),
    ),
    Promise(
        "power",
        "After a power cut at any moment every row that flush reported durable is read back, and what changes a run "
        "has been done or not.",
        "the log of all disk operations of recording, prune, compact and recover, cut after each of them, with what "
        "was not synced gone, torn or reordered",
        (
            "faults/test_crashes.py::test_a_recording_survives_a_crash_after_any_operation",
            "faults/test_crashed_maintenance.py::test_maintenance_survives_a_crash_after_any_operation",
        ),
        ("kills", "power cuts", "durable rows"),
    ),
    Promise(
        "cut",
        "A file cut at any byte gives back every whole block before the cut.",
        "every byte offset of a small closed file and of one that was being written",
        ("faults/test_damage.py::test_a_cut_at_any_byte_gives_back_every_whole_block_before_it",),
        ("cuts",),
    ),
    Promise(
        "flip",
        "One flipped bit anywhere is noticed, names shard, block and column, and costs at most that column block, or "
        "that block if it hit its head.",
        "every bit of a small file, random ones of a large file, and of manifest, counters and run.yaml",
        (
            "faults/test_damage.py::test_flipped_bits_of_a_shard_are_noticed",
            "faults/test_damage.py::test_flipped_bits_beside_the_shards_cost_no_row",
        ),
        ("flips",),
        "silent or costing more",
    ),
    Promise(
        "ledger",
        "produced = written + dropped (by cause) + rejected + lost, and present = written - pruned - quarantined, per "
        "player, always.",
        "overload with each overflow policy, kills, prunes, rewrites that leave rows out",
        (
            "faults/test_ledger.py::test_the_ledger_balances_under_overload",
            "faults/test_ledger.py::test_the_ledger_balances_whatever_happens",
        ),
        ("balances", "rows produced"),
        "rows unaccounted for",
    ),
    Promise(
        "maintenance",
        "rotate, compact, merge, recover, prune can be killed at any moment and run again: nothing is lost, nothing "
        "doubled.",
        "each killed at random moments of its duration, run again, killed again, then left to finish",
        ("faults/test_kills_of_maintenance.py::test_maintenance_killed_at_any_moment",),
        ("kills", "rows compared"),
        "rows lost or doubled",
    ),
    Promise(
        "rewrite",
        "A rewrite keeps the data: the sum of row hashes per (episode, player) does not depend on layout and is equal "
        "before and after, checked before the old files go.",
        "rewrites of random runs with `--prove`, and one that drops or changes a row, which has to be refused",
        (
            "rewrite/test_compact.py::test_a_row_dropped_on_the_way_is_noticed",
            "faults/test_rewrites.py::test_no_wrong_rewrite_is_published",
        ),
        ("rewrites", "wrong ones refused"),
        "wrong ones published",
    ),
    Promise(
        "disk",
        "A full disk, a read-only folder, a file that vanishes under way: a clear error, its exit code, and everything "
        "already durable intact.",
        "every disk operation made to fail, a small disk filled up, files unlinked, folders that refuse writing",
        ("faults/test_disk_errors.py", "faults/test_full_disk.py"),
        ("failures",),
    ),
    Promise(
        "schedule",
        "What flush reported durable is so whichever thread ran when, also where a write failed in another one, and "
        "the ledger balances.",
        "recordings of several threads that run one at a time, in orders that a seed says, on a disk of which an "
        "operation fails",
        ("faults/test_schedules.py::test_no_order_of_threads_breaks_a_promise",),
        ("schedules", "flushes", "failed disks"),
        "broken promises",
    ),
    Promise(
        "read",
        "A read, a listing or an opening that the system refuses is told, or nothing needed it; it is never taken for "
        "damage or for nothing being there.",
        "EIO, EMFILE and ENOMEM at every call that concerns a run, under every verb",
        ("faults/test_read_faults.py::test_a_read_that_fails_is_told_and_costs_nothing",),
        ("faults",),
        "silent or costing a row",
    ),
    Promise(
        "model",
        "Whatever is done in whatever order, a reader sees what was recorded, less what was pruned, left out or told "
        "to be lost.",
        "random sequences of record, flush, rotate, kill, damage, recover, compact, prune and read against a model in "
        "memory",
        ("faults/test_state_machine.py::test_a_run_is_what_a_model_says_after_any_operations",),
        ("operations",),
        "rows lost or doubled",
    ),
    Promise(
        "readers",
        "Readers never see a half-written block, and a shard held open stays readable through compaction and pruning.",
        "processes that read with all checksums while others record, rotate, compact and prune the same run",
        ("faults/test_readers.py::test_readers_see_whole_blocks_whatever_goes_on",),
        ("scans", "rows read"),
        "rows wrong or doubled",
    ),
    Promise(
        "hostile",
        "A hostile file costs bounded memory and time and raises ShardError, nothing else.",
        "shards, runs, settings and conditions changed at random with their checksums mended, also guided by coverage; "
        "columns and records that unfold to gigabytes",
        (
            "faults/test_fuzz.py::test_hostile_files_raise_what_is_documented_and_nothing_else",
            "faults/test_bombs.py",
        ),
        ("inputs",),
        "other errors",
    ),
)  # fmt: skip
BY_ID = {promise.id: promise for promise in PROMISES}


def told(promise: Promise, figures: Mapping[str, int]) -> str:
    """`200 kills, 81,004 durable rows, 0 rows lost beyond the promise`."""
    return ", ".join(f"{figures.get(name, 0):,} {name}" for name in (*promise.figures, promise.none_of))


def report(promise: str, broken: int, **figures: int) -> str:
    """Note what one test tried of a promise; `broken` is the number that has to be 0. Returns the line to tell."""
    known = BY_ID[promise]
    counts = {name.replace("_", " "): int(count) for name, count in figures.items()}
    assert counts.keys() <= set(known.figures), f"{promise} counts {known.figures}"
    counts[known.none_of] = int(broken)
    if os.environ.get(REPORT):
        line = json.dumps({"promise": promise, **counts}).encode() + b"\n"
        handle = os.open(os.environ[REPORT], os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        try:
            os.write(handle, line)  # one call, so that the lines of processes do not mix
        finally:
            os.close(handle)
    return f"{promise}: " + ", ".join(f"{count:,} {name}" for name, count in counts.items())


def read_report(path: Path) -> dict[str, Figures]:
    """The sums of a report, by promise."""
    out: dict[str, Figures] = {promise.id: {} for promise in PROMISES}
    for line in path.read_text().splitlines():
        entry = json.loads(line)
        sums = out[entry.pop("promise")]
        for name, count in entry.items():
            sums[name] = sums.get(name, 0) + count
    return out


def table(rows: Iterable[tuple[Promise, str]]) -> str:
    """The section of SPEC.md: each promise with what was tried of it."""
    lines = ["| promise | how it is tried | in a run of the suite |", "| --- | --- | --- |"]
    lines += [f"| {promise.sentence} | {promise.tried} | {figures} |" for promise, figures in rows]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sums = read_report(Path(sys.argv[1]))
    for promise in PROMISES:
        print(f"{promise.id:12} {told(promise, sums[promise.id])}")
    sys.exit(any(sums[promise.id].get(promise.none_of) for promise in PROMISES))
