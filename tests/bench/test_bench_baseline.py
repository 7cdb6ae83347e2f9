"""The gate: what has become slower than a baseline allows, how sure that is, and what is not judged."""

import json
import signal

import msgspec
import pytest
from bench_reports import around, report, result
from hypothesis import given
from hypothesis import strategies as st

from expkit.bench.baseline import TRIES, Comparison, compare, only_of
from expkit.bench.measure import Spread
from expkit.bench.results import read_report, save_report
from expkit.commands import main


def never(key):
    raise AssertionError(f"{key} was measured again")


class Again:
    """Measures stages again: gives the ratios it was made with, one after another."""

    def __init__(self, *ratios, part=0.05):
        self.ratios = list(ratios)
        self.part = part
        self.keys = []

    def __call__(self, key):
        self.keys.append(key)
        stage, _, workload = key.partition(" ")
        return result(stage, workload, self.ratios.pop(0), self.part)


def only(found: Comparison):
    (change,) = found.changes
    return change


def test_a_stage_that_is_as_fast_passes_at_once():
    found = compare(report(result(ratio=0.95)), report(result(ratio=1.0)), 0.4, never)
    change = only(found)
    assert found.ok
    assert (change.key, change.failed, change.sure, change.tries) == ("ring/add-1 W", False, True, 1)
    assert change.slower == pytest.approx(0.05)
    assert not change.moved
    assert (found.left_out, found.new, found.gone, found.warnings) == ([], [], [], [])


def test_the_cases_are_those_of_both_intervals():
    change = only(compare(report(result(ratio=0.5, part=0.1)), report(result(ratio=1.0, part=0.1)), None, never))
    assert change.slower == pytest.approx(0.5)
    assert change.slower_least == pytest.approx(1 - 0.55 / 0.9)
    assert change.slower_most == pytest.approx(1 - 0.45 / 1.1)
    assert change.moved
    assert change.sure


def test_too_slow_thrice_fails():
    again = Again(0.4, 0.45)
    found = compare(report(result(ratio=0.3)), report(result(ratio=1.0)), 0.4, again)
    change = only(found)
    assert not found.ok
    assert found.failed == [change]
    assert again.keys == ["ring/add-1 W"] * (TRIES - 1)
    assert (change.tries, change.failed, change.sure) == (3, True, True)
    assert change.ratio == around(0.45)
    assert change.slower == pytest.approx(0.55)


@pytest.mark.parametrize(("ratios", "tries"), [((0.8,), 2), ((0.3, 0.61), 3)])
def test_the_best_of_three_counts_and_no_more_are_taken_than_needed(ratios, tries):
    again = Again(*ratios)
    found = compare(report(result(ratio=0.3)), report(result(ratio=1.0)), 0.4, again)
    assert found.ok
    assert again.ratios == []
    assert (only(found).tries, only(found).failed) == (tries, False)
    assert only(found).ratio == around(ratios[-1])


def test_a_worse_measurement_does_not_replace_a_better_one():
    change = only(compare(report(result(ratio=0.5)), report(result(ratio=1.0)), 0.4, Again(0.2, 0.4)))
    assert change.ratio == around(0.5)
    assert change.failed


@pytest.mark.parametrize(("ratio", "failed", "sure"), [
    (0.30, True, True), (0.57, True, False), (0.63, False, False), (0.75, False, True), (2.0, False, True),
])  # fmt: skip
def test_near_the_limit_nothing_is_sure(ratio, failed, sure):
    change = only(compare(report(result(ratio=ratio)), report(result(ratio=1.0)), 0.4, Again(ratio, ratio)))
    assert (change.failed, change.sure) == (failed, sure)


def test_without_a_limit_nothing_fails_and_nothing_is_measured_again():
    found = compare(report(result(ratio=0.1)), report(result(ratio=1.0)), None, never)
    assert found.ok
    assert not only(found).failed
    assert found.fail_slower is None


@pytest.mark.parametrize(
    ("now", "then", "reason"),
    [
        (result(part=0.3), result(), "not steady here (±30%)"),
        (result(), result(part=0.25), "not steady then (±25%)"),
        (result(steady=False), result(steady=False), "threads or the disk decide"),
        (result(steady=False), result(), "threads or the disk decide"),
        (result(ratio=None), result(), "nothing stands beside it"),
        (result(), result(ratio=None), "nothing stands beside it"),
        (result(), result(ratio=0.0), "nothing stands beside it"),
        (result(clock="wall"), result(), "by wall time now, by thread time then"),
        (result(limit="memcpy"), result(), "beside memcpy now, beside NumPy columns then"),
    ],
)
def test_what_is_left_out_says_why(now, then, reason):
    found = compare(report(now), report(then), 0.4, never)
    assert found.ok
    assert found.changes == []
    assert [(one.key, one.reason) for one in found.left_out] == [("ring/add-1 W", reason)]


def test_slow_beyond_doubt_fails_however_unsteady():
    found = compare(report(result(ratio=0.1, part=0.5)), report(result(ratio=1.0)), 0.4, Again(0.1, 0.1, part=0.5))
    assert only(found).failed
    assert only(found).sure
    lucky = compare(report(result(ratio=0.1, part=0.5)), report(result(ratio=1.0)), 0.4, Again(0.9))
    assert lucky.ok


def test_stages_of_one_report_only_are_listed_and_do_not_fail():
    now = report(result("ring/new", "W"), result("ring/both", ""))
    then = report(result("ring/both", ""), result("ring/old", "tiny"), cores=64)
    found = compare(now, then, 0.4, never)
    assert found.ok
    assert (found.new, found.gone) == (["ring/new W"], ["ring/old tiny"])
    assert [one.key for one in found.changes] == ["ring/both"]
    (warning,) = found.warnings
    assert "another machine, Some Processor · 64 cores" in warning


def test_stages_that_were_not_asked_for_are_not_gone():
    then = report(result("ring/a"), result("ring/b"), result("ring/removed"))
    kept = only_of(then, ["ring/a W"], ["ring/a W", "ring/b W"])
    assert [one.key for one in kept.stages] == ["ring/a W", "ring/removed W"]
    assert len(then.stages) == 3


@st.composite
def spreads(draw):
    low, median, high = sorted(draw(st.lists(st.floats(0.01, 100), min_size=3, max_size=3)))
    return Spread(median, low, high)


@given(spreads(), spreads(), st.floats(0.01, 0.99), st.lists(st.floats(0.01, 100), min_size=2, max_size=2))
def test_a_verdict_agrees_with_its_figures(now, then, allowed, others):
    again = Again(*others)
    made = report(msgspec.structs.replace(result(), ratio=now))
    found = compare(made, report(msgspec.structs.replace(result(), ratio=then)), allowed, again)
    assert len(found.changes) + len(found.left_out) == 1
    for change in found.changes:
        assert change.slower_least <= change.slower <= change.slower_most
        assert change.failed is (change.slower > allowed)
        assert change.ratio.median == max([now.median, *others[: change.tries - 1]])
        if change.failed:
            assert change.tries == TRIES
            assert change.sure is (change.slower_least > allowed)
    assert found.ok is not any(change.failed for change in found.changes)
    body = json.loads(msgspec.json.encode(found))
    assert body["fail_slower"] == allowed


# Through the command line, on a stage that takes half a second


STAGE = ["bench", "--stage", "serialize/mask", "--suite", "quick"]


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """The report of one stage, measured here."""
    path = tmp_path_factory.mktemp("bench") / "measured.json"
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    assert main([*STAGE, "-q", "--folder", str(path.parent), "--save-baseline", str(path)]) == 0
    for number, handler in before.items():
        signal.signal(number, handler)
    return read_report(path)


@pytest.fixture
def gate(tmp_path, monkeypatch, capfd, measured):
    """Compare with `measured` after its ratio was made `times` as large: sure beyond any noise of a machine."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("expkit.bench.suite.look_at_machine", lambda lab: measured.machine)

    def call(times, *arguments, **changes):
        (one,) = measured.stages
        ratio = Spread(*(getattr(one.ratio, name) * times for name in ("median", "median", "median")))
        doctored = msgspec.structs.replace(one, ratio=ratio, **changes)
        save_report(msgspec.structs.replace(measured, stages=[doctored]), tmp_path / "doctored.json")
        capfd.readouterr()
        code = main([*STAGE, "-q", "--baseline", "doctored.json", *arguments])
        return code, *capfd.readouterr()

    yield call
    for number, handler in before.items():
        signal.signal(number, handler)


def test_a_gate_that_fails_is_exit_4(gate):
    code, out, err = gate(1000, "--fail-slower", "40%")
    assert code == 4
    assert err == ""
    assert "surely too slow, best of 3" in out
    assert out.rstrip().endswith("1 too slow   [exit 4]")


def test_a_gate_that_fails_as_json(gate):
    code, out, err = gate(1000, "--fail-slower", "0.4", "--json")
    assert code == 4
    assert err == ""
    body = json.loads(out)
    assert body["schema"] == "expkit.bench/1"
    assert [one["stage"] for one in body["stages"]] == ["serialize/mask"]
    compared = body["comparison"]
    assert compared["ok"] is False
    (change,) = compared["changes"]
    assert (change["key"], change["tries"], change["failed"], change["sure"]) == ("serialize/mask R", 3, True, True)


def test_a_gate_that_holds_and_one_that_was_not_asked_for(gate):
    code, out, _ = gate(0.001, "--fail-slower", "40%")
    assert code == 0
    assert "too slow" not in out.replace("none too slow", "")
    code, out, _ = gate(1000)
    assert code == 0
    assert "[exit" not in out


def test_stages_that_are_new_or_gone_pass_the_gate(gate):
    code, out, _ = gate(1000, "--fail-slower", "40%", workload="Q")
    assert code == 0
    assert "new: serialize/mask R" in out
    assert "gone: serialize/mask Q" in out
    assert "nothing could be judged" in out
