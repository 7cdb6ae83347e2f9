"""Each promise is tried by tests that can fail: a program that breaks it makes a named test fail."""

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import mutants
import pytest
from mutants import MUTANTS, VARIABLE
from places import TESTS
from promises import PROMISES, REPORT

HERE = Path(__file__).parent


def test_every_promise_has_a_mutant_and_every_mutant_applies():
    listed = [line.split(" | ")[0].strip("| ") for line in mutants.__doc__.splitlines() if line.startswith("| ")]
    assert listed[2:] == list(MUTANTS)
    assert {mutant.promise for mutant in MUTANTS.values()} == {promise.id for promise in PROMISES}
    for name in MUTANTS:
        undo = mutants.apply(name)
        undo()


def run_test(node, tmp_path, **environment):
    inherited = {key: value for key, value in os.environ.items() if key not in (REPORT, VARIABLE)}
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "mutants", "-q", "-n", "0", "-x", "-p", "no:cacheprovider",
         f"--basetemp={tmp_path / 'base'}", str(TESTS / node)],
        cwd=TESTS.parent, capture_output=True, text=True, timeout=3000,
        env={**inherited, "PYTHONPATH": str(HERE), **environment},
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.timeout(6000)
@pytest.mark.parametrize("node", sorted({mutant.test for mutant in MUTANTS.values()}))
def test_mutants_are_noticed(node, tmp_path):
    whole = run_test(node, tmp_path)
    assert whole.returncode == 0, whole.stdout
    for name, mutant in MUTANTS.items():
        if mutant.test == node:
            done = run_test(node, tmp_path, **{VARIABLE: name})
            assert done.returncode == 1, f"{name} was not noticed: {done.stdout[-3000:]}{done.stderr[-1000:]}"
            assert Counter(done.stdout.split())["failed"] or "FAILED" in done.stdout
