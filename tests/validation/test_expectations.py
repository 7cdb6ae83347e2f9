"""Expectations: what they parse to, what they measure, and what is said when a run does not meet one."""

import json
import operator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from warm_processes import expkit
from written_runs import write_boards, write_vectors

from expkit import open_run
from expkit.errors import UsageError
from expkit.validation.expectations import NAMES, check_expectations, measure, parse_expectation

OPERATORS = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
    "==": operator.eq,
    "=": operator.eq,
    "!=": operator.ne,
}


@pytest.fixture(scope="module")
def boards(tmp_path_factory):
    """4 episodes of 2 players, 5 steps each."""
    return write_boards(tmp_path_factory.mktemp("runs") / "boards", episodes=4, steps=5)


@pytest.mark.parametrize(
    ("text", "name", "value"),
    [
        ("episodes >= 200", "episodes", 200),
        ("episodes>=200", "episodes", 200),
        ("  lost ==  0 ", "lost", 0),
        ("bytes <= 10GiB", "bytes", 10 << 30),
        ("bytes <= 1.5 kB", "bytes", 1500),
        ("rows > 5M", "rows", 5_000_000),
        ("rows > 1_000", "rows", 1000),
        ("rows != 1e6", "rows", 1e6),
        ("mean_length < 2.5", "mean_length", 2.5),
        ("lost >= -3", "lost", -3),
    ],
)
def test_an_expression_is_a_name_an_operator_and_a_number(text, name, value):
    expected = parse_expectation(text)
    assert (expected.name, expected.value) == (name, value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("episdes >= 200", "did you mean episodes?"),
        ("reward > 1", "nothing is called 'reward'"),
        ("episodes", "write it like 'episodes >= 200'"),
        ("", "write it like"),
        ("episodes => 200", "'> 200'|=> 200"),
        ("200 <= episodes", "write it like"),
        ("rows >= many", "many"),
        ("rows >= 5 and lost == 0", "5 and lost == 0"),
        ("bytes <= 10 parsecs", "unknown unit"),
        ("rows >= nan", "nan"),
        ("rows >= --5", "--5"),
    ],
)
def test_a_bad_expression_is_refused_and_named(text, words):
    with pytest.raises(UsageError, match=words.replace("?", r"\?")) as caught:
        parse_expectation(text)
    assert "\n" not in str(caught.value)


@given(st.integers(-50, 50), st.sampled_from(sorted(OPERATORS)), st.integers(-50, 50))
@settings(max_examples=200, deadline=None)
def test_a_comparison_is_that_of_python(actual, compare, value):
    found = parse_expectation(f"lost {compare} {value}").finding(actual)
    assert (found is None) == OPERATORS[compare](actual, value)
    if found is not None:
        assert (found.severity, found.rule) == ("error", "expect/lost")
        assert f"lost is {actual}" in found.message


def test_every_name_is_measured(boards):
    with open_run(boards) as run:
        found = measure(run, NAMES)
        size = sum(shard.stat().st_size for shard in boards.glob("shards/w0/*.exp"))
        assert found == {
            "rows": 48, "steps": 40, "players": 2, "shards": 1, "bytes": size, "bytes_per_row": size / 48,
            "produced": 48, "written": 48, "dropped": 0, "rejected": 0, "lost": 0, "pruned": 0, "quarantined": 0,
            "episodes": 4, "won": 4, "terminated": 4, "truncated": 0, "interrupted": 0, "mean_length": 5,
        }  # fmt: skip
        for name in NAMES:
            assert measure(run, [name]) == {name: found[name]}
            assert list(check_expectations(run, [parse_expectation(f"{name} == {found[name]!r}")])) == []


def test_all_that_are_not_met_are_told_in_their_order(boards):
    texts = ["episodes >= 200", "rows == 48", "bytes <= 1KiB", "mean_length > 5"]
    with open_run(boards) as run:
        found = list(check_expectations(run, map(parse_expectation, texts)))
    assert [finding.rule for finding in found] == ["expect/episodes", "expect/bytes", "expect/mean_length"]
    assert found[0].message == "expected episodes >= 200, but episodes is 4"
    assert "KiB)" in found[1].message


def test_what_cannot_be_told_is_never_met(tmp_path):
    run_path = write_vectors(tmp_path / "run")
    (run_path / "counters").unlink()
    with open_run(run_path) as run:
        (found,) = check_expectations(run, [parse_expectation("lost == 0")])
    assert "cannot be told: its ledger is gone" in found.message


def test_exit_codes_of_expectations(boards, tmp_path):
    met = expkit("validate", boards, "--expect", "episodes >= 4", "--expect", "lost == 0", cwd=tmp_path)
    assert (met.returncode, met.stderr) == (0, "")
    missed = expkit("validate", boards, "--quick", "--expect", "rows >= 1M", "--json", cwd=tmp_path)
    assert missed.returncode == 4
    assert [finding["rule"] for finding in json.loads(missed.stdout)["findings"]] == ["expect/rows"]
    bad = expkit("validate", boards, "--expect", "episdes >= 4", cwd=tmp_path)
    assert (bad.returncode, bad.stdout) == (2, "")
    assert "did you mean episodes?" in bad.stderr
    shard = next(boards.glob("shards/w0/*.exp"))
    assert expkit("validate", shard, "--expect", "rows > 1", cwd=tmp_path).returncode == 2
