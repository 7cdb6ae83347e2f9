"""Hostile files: only the errors that are documented, bounded memory and time, whatever the bytes are.

The short form changes good files at random places and mends their checksums; the long one is guided by coverage. What
either of them found once stands in corpus/ (TARGET-what), and is tried again each time.
"""

import base64
import os
import re
import resource
import subprocess
import sys
from collections import Counter
from pathlib import Path
from random import Random

import pytest
from fuzz_shards import reseal
from fuzz_targets import CORPUS, TARGETS, golden, remove_made
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from expkit.formats.shard import check_shard

FUZZER = Path(__file__).parent / "fuzz.py"
# Inputs of the short form; a target that reads whole runs takes 30 times as long as a parser of text.
EXAMPLES = {
    "shard": 150,
    "run": 50,
    "manifest": 50,
    "counters": 50,
    "description": 50,
    "settings": 350,
    "condition": 350,
    "reward": 350,
    "representation": 200,
    "pipeline": 350,
}
MEMORY = 512 << 20
inputs: Counter[str] = Counter()


@pytest.fixture(scope="module", autouse=True)
def made_files():
    yield
    remove_made()


@pytest.mark.parametrize("path", sorted(CORPUS.glob("*-*")), ids=lambda path: path.name)
def test_what_was_found_before(path):
    TARGETS[path.name.partition("-")[0]].run(path.read_bytes())


def test_what_is_sealed_again_passes_every_checksum(tmp_path):
    """Else the fuzzer would try the checksums and nothing behind them."""
    path = tmp_path / "a.exp"
    for data in golden():
        path.write_bytes(data)
        before = [finding.rule for finding in check_shard(path)]
        path.write_bytes(reseal(data))
        assert [finding.rule for finding in check_shard(path)] == before
        assert set(before) <= {"file/lost-values"}


@pytest.mark.parametrize("name", TARGETS)
def test_hostile_files_raise_what_is_documented_and_nothing_else(name, tried, tell):
    target = TARGETS[name]
    seeds = list(target.seeds())
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    @settings(
        max_examples=EXAMPLES[name], derandomize=True, deadline=None, database=None,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(st.integers(0, len(seeds) - 1), st.integers(0, (1 << 64) - 1), st.integers(1, 4))
    def attack(seed, numbers, times):
        data, rng = seeds[seed], Random(numbers)
        for _ in range(times):
            data = target.mutate(data, rng)
        target.run(data)
        inputs[name] += 1

    for seed in seeds[:2]:
        target.run(seed)
    attack()
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) << 10
    assert grown < MEMORY, f"{grown:,} bytes more memory at the most"
    tell(f"fuzzing {name}: {grown >> 20} MiB more memory at the most")
    tried("hostile", inputs=inputs[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", TARGETS)
def test_guided_by_coverage(name, tmp_path, tried, tell):
    """For EXPKIT_FUZZ_SECONDS each, 20 by default; memory is bounded by the system, 512 MiB above the start."""
    pytest.importorskip("atheris", reason="atheris has no wheel for this Python")
    seconds = os.environ.get("EXPKIT_FUZZ_SECONDS", "20")
    done = subprocess.run(
        [sys.executable, str(FUZZER), name, f"-max_total_time={seconds}", "-seed=1"],
        cwd=tmp_path, capture_output=True, text=True, timeout=300 + int(seconds),
        env=os.environ | {"MALLOC_ARENA_MAX": "2"},  # so that address space says how much memory is in use
    )  # fmt: skip
    said = done.stdout + done.stderr
    crashes = {path.name: base64.b64encode(path.read_bytes()).decode() for path in tmp_path.rglob("crash-*")}
    assert done.returncode == 0, f"{done.stdout[-6000:]}\n{done.stderr[-2000:]}\nbase64, for corpus/{name}-: {crashes}"
    runs = re.findall(r"stat::number_of_executed_units: (\d+)", said)
    edges = re.findall(r"cov: (\d+)", said)
    slowest = re.findall(r"stat::slowest_unit_time_sec: +(\d+)", said)
    tell(f"fuzzing {name}: {edges[-1]} edges covered, the slowest input took {slowest[-1]} s")
    assert int(runs[-1]) > 0
    tried("hostile", inputs=int(runs[-1]))
