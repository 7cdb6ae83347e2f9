"""The table of promises in formats/shard/SPEC.md is that of `promises.py`. EXPKIT_UPDATE_SPEC=1 writes it anew, with
the figures of the report that EXPKIT_FAULT_REPORT names."""

import ast
import json
import os
import re
from pathlib import Path

import mutants
import pytest
from places import TESTS
from promises import PROMISES, REPORT, read_report, report, table, told

from expkit.settings.config import OTHER_VARIABLES, SETTINGS

SPEC = TESTS.parent / "formats" / "shard" / "SPEC.md"
SECTION = re.compile(r"(?<=## Promises\n\n).*?(?=\n## |\Z)", re.S)
ABOUT = "Each is tried by tests that try to break it (tests/faults/); one that is broken fails the build.\n\n"


def rows_of_spec():
    section = SECTION.search(SPEC.read_text(encoding="utf-8"))
    assert section is not None, "SPEC.md has no section '## Promises'"
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in section[0].splitlines() if "|" in line]


def test_the_specification_lists_the_promises_with_figures():
    if os.environ.get("EXPKIT_UPDATE_SPEC"):
        sums = read_report(Path(os.environ[REPORT]))
        made = ABOUT + table((promise, told(promise, sums[promise.id])) for promise in PROMISES)
        SPEC.write_text(SECTION.sub(lambda _: made, SPEC.read_text(encoding="utf-8")), encoding="utf-8")
    rows = rows_of_spec()[2:]
    assert [row[:2] for row in rows] == [[promise.sentence, promise.tried] for promise in PROMISES]
    for promise, row in zip(PROMISES, rows, strict=True):
        counts = [int(count.replace(",", "")) for count in re.findall(r"(?:^|, )([\d,]+) ", row[2])]
        assert len(counts) >= len(promise.figures) + 1, f"{promise.id}: {row[2]}"
        assert all(counts[: len(promise.figures)]), f"{promise.id}: nothing was tried: {row[2]}"
        assert f" 0 {promise.none_of}" in row[2], f"{promise.id}: {row[2]}"


@pytest.mark.parametrize("promise", PROMISES, ids=lambda promise: promise.id)
def test_every_promise_names_tests_that_are_there(promise):
    assert promise.tests
    for node in promise.tests:
        path, _, name = node.partition("::")
        tree = ast.parse((TESTS / path).read_text(encoding="utf-8"))
        names = {item.name for item in tree.body if isinstance(item, ast.FunctionDef)}
        assert any(one.startswith("test_") for one in names)
        assert not name or name in names, f"{path} has no {name}"


def test_reports_of_several_suites_are_added_up(tmp_path, monkeypatch):
    monkeypatch.setenv(REPORT, str(tmp_path / "report"))
    said = report("kill", 0, kills=3, durable_rows=1200)
    assert said == "kill: 3 kills, 1,200 durable rows, 0 rows lost beyond the promise"
    report("kill", 2, kills=4)
    with pytest.raises(AssertionError):
        report("kill", 0, cuts=1)
    assert len([json.loads(line) for line in (tmp_path / "report").read_text().splitlines()]) == 2
    sums = read_report(tmp_path / "report")
    assert sums["kill"] == {"kills": 7, "durable rows": 1200, "rows lost beyond the promise": 2}
    assert told(PROMISES[0], sums["kill"]) == "7 kills, 1,200 durable rows, 2 rows lost beyond the promise"


def test_variables_of_the_suites_are_taken_for_no_settings():
    """A warning of each would stand on stderr of every command that CI runs."""
    text = "".join(path.read_text() for path in TESTS.rglob("*.py"))
    read = re.findall(r"environ(?:\.get\(|\[)\"(EXPKIT_[A-Z_]+)\"", text)
    assert {REPORT, mutants.VARIABLE, *read} <= {*OTHER_VARIABLES, *(setting.variable for setting in SETTINGS)}
