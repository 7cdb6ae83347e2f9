"""How long a user waits: for the help, and for the first row that is on the disk."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence

from expkit.bench.lab import Lab
from expkit.bench.stage import Goal, Trial, stage

PYTHON = "python -c pass"


def _call(words: Sequence[str]) -> None:
    subprocess.run(
        [sys.executable, *words], check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip


def _python() -> None:
    _call(["-c", "pass"])


@stage(
    "start/help",
    "expkit --help",
    limit=PYTHON,
    goals={"": Goal("seconds_per_pass", most=0.15)},
    steady=False,
    traced=False,
)
def show_help(lab: Lab, workload: str) -> Trial:
    return Trial(lambda: _call(["-m", "expkit.commands", "--help"]), 1, 0, _python, repeatable=False)


@stage(
    "start/first-row",
    "expkit record until its first row is on the disk",
    limit=PYTHON,
    goals={"": Goal("seconds_per_pass", most=1.5)},
    steady=False,
    traced=False,
)
def first_row(lab: Lab, workload: str) -> Trial:
    from expkit.errors import CheckFailed
    from expkit.runs.counters import read_ledger

    def run() -> float:
        path = lab.path("run")
        words = ["-m", "expkit.commands", "record", "--forever", "--min-free", "0", "-q", "-o", os.fspath(path)]
        begun = time.perf_counter()
        process = subprocess.Popen([sys.executable, *words], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        try:
            while process.poll() is None:
                try:
                    ledger = read_ledger(path) or []
                except (CheckFailed, OSError):  # not yet written
                    ledger = []
                if any(player.durable for writer in ledger for player in writer.players):
                    return time.perf_counter() - begun
                time.sleep(0.005)
            raise RuntimeError(f"expkit record ended with {process.returncode} before a row was durable")
        finally:
            process.terminate()
            process.wait()
            shutil.rmtree(path, ignore_errors=True)

    return Trial(run, 1, 0, _python, repeatable=False)
