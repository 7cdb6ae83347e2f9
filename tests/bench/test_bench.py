"""Measuring: intervals that keep their word, stages that are what the registry says, trials that are closed."""

import itertools
import time
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from expkit.bench.choice import only_workloads
from expkit.bench.lab import Lab
from expkit.bench.measure import CONFIDENCE, FULL, QUICK, Effort, latencies, measure, spread
from expkit.bench.results import read_report, save_report
from expkit.bench.stage import STAGES, Goal, Stage, Trial, choose, load_stages, stage
from expkit.bench.suite import run_stage, run_suite
from expkit.bench.workloads import WORKLOADS
from expkit.errors import CheckFailed, NotThere, UsageError

TINY = Effort(3, 0.0005)


@pytest.fixture
def fake():
    """Register stages that the test brings; they are gone afterwards."""
    load_stages()
    before = dict(STAGES)
    yield stage
    STAGES.clear()
    STAGES.update(before)


# Spreads


def coverage(count, cut):
    """How often the interval between the `cut`-th smallest and largest of `count` values holds the true median: every
    way in which the values can fall below and above it."""
    ways = 0
    for sides in itertools.product((False, True), repeat=count):
        below = sum(sides)
        ways += cut < below < count - cut
    return Fraction(ways, 2**count)


@pytest.mark.parametrize("count", range(1, 18))
def test_the_interval_is_the_narrowest_that_holds_the_median_95_times_in_100(count):
    out = spread([float(value) for value in range(count)])
    cut = int(out.low)
    assert out.high == count - 1 - cut
    wide_enough = [k for k in range((count + 1) // 2) if coverage(count, k) >= Fraction(str(CONFIDENCE))]
    # Of fewer than six values none is wide enough: then it is their whole range.
    assert cut == (max(wide_enough) if wide_enough else 0)
    assert bool(wide_enough) is (count >= 6)


@given(st.lists(st.floats(0.1, 1e9), min_size=1, max_size=40))
def test_a_spread_is_about_its_values(values):
    out = spread(values)
    assert min(values) <= out.low <= out.median <= out.high <= max(values)
    assert out == spread(values[::-1])
    assert out.width >= 0


# The registry


@pytest.mark.parametrize("one", load_stages(), ids=lambda one: one.name)
def test_every_stage_is_sound(one):
    part, _, what = one.name.partition("/")
    assert part
    assert what
    assert one.title
    assert not one.title.endswith(".")
    assert set(one.workloads) <= {*WORKLOADS, ""}
    assert len(one.workloads) == len(set(one.workloads)) > 0
    assert set(one.goals) <= set(one.workloads), "a goal on rows that are not measured"
    assert set(one.suites) <= {"quick", "full"}
    for goal in (goal for goals in one.goals.values() for goal in goals):
        assert (goal.least is None) != (goal.most is None)
        assert one.limit or goal.measure not in ("ratio", "cpu_ratio")


def test_what_is_quick_is_in_full_too():
    assert all("full" in one.suites for one in load_stages())
    assert choose(load_stages(), (), "full") == load_stages()


def test_stages_are_chosen_by_name_by_part_and_by_nearest_name():
    stages = load_stages()
    assert [one.name for one in choose(stages, ["serialize/mask"], "quick")] == ["serialize/mask"]
    ring = [one.name for one in choose(stages, ["ring/", "ring/add-1"], "quick")]
    assert ring == [one.name for one in stages if one.name.startswith("ring/")]
    assert [one.name for one in choose(stages, ["validate/quick"], "quick")] == ["validate/quick"]
    with pytest.raises(UsageError, match="did you mean ring/add-1"):
        choose(stages, ["ring/ad-1"], "quick")


def test_workloads_narrow_stages():
    stages = load_stages()
    chosen = only_workloads(choose(stages, ["ring"], "quick"), ["tiny"])
    assert {one.workloads for one in chosen} == {("tiny",)}
    assert only_workloads(stages, []) == stages
    assert all(one.workloads == ("W",) for one in only_workloads(stages, ["W"]))
    with pytest.raises(UsageError, match="did you mean tiny"):
        only_workloads(stages, ["tiney"])
    with pytest.raises(UsageError, match="no stage of these runs on W"):
        only_workloads(choose(stages, ["serialize"], "quick"), ["W"])


def test_a_name_is_registered_once(fake):
    with pytest.raises(UsageError, match="registered twice"):
        fake("ring/add-1", "again")(lambda lab, workload: None)


# Measuring


def registered(name) -> Stage:
    return STAGES[name]


def test_a_stage_is_measured_from_end_to_end(fake, tmp_path):
    calls = {"run": 0, "limit": 0, "closed": 0}

    def passing(what, seconds):
        def one():
            calls[what] += 1
            return seconds

        return one

    @fake(
        "fake/pass", "a stage of a test", workloads=("tiny", ""), limit="the same, slower",
        goals={"tiny": (Goal("ratio", least=2.0), Goal("bytes_per_row", most=7), Goal("seconds_per_pass", most=0.001))},
    )  # fmt: skip
    def make(lab, workload):
        assert lab.path("file").parent.parent == tmp_path
        rows = lab.workload(workload).rows if workload else 1000
        return Trial(
            passing("run", 0.002), rows, rows * 39, passing("limit", 0.008), finish=lambda: {"bytes_per_row": 7.5},
            close=lambda: calls.update(closed=calls["closed"] + 1),
        )  # fmt: skip

    told = []
    with Lab(tmp_path) as lab:
        report = run_suite(lab, [registered("fake/pass")], "quick", lambda *at: told.append(at))
        assert list(tmp_path.iterdir())
    assert not list(tmp_path.iterdir()), "the lab leaves nothing"
    assert calls["closed"] == 2
    assert min(calls["run"], calls["limit"]) >= 2 * QUICK.rounds
    assert told == [("machine", 0, 2), ("fake/pass tiny", 0, 2), ("fake/pass", 1, 2)]
    one = report.find("fake/pass tiny")
    assert one.value("ratio") == pytest.approx(4)
    assert one.rows_per_second.median == pytest.approx(one.rows / 0.002)
    assert one.mb_per_second == pytest.approx(one.rows * 39 / 0.002 / 1e6)
    assert [goal.met for goal in one.goals] == [True, False, False]
    assert [goal.value for goal in one.goals] == pytest.approx([4, 7.5, 0.002])
    assert report.find("fake/pass").goals == []
    assert report.find("fake/other") is None
    machine = report.machine
    assert min(machine.memcpy, machine.zstd, machine.crc32, machine.disk, machine.memory, machine.cores) > 0
    save_report(report, tmp_path / "report.json")
    assert read_report(tmp_path / "report.json") == report


@pytest.mark.parametrize("where", ["run", "limit", "finish"])
def test_a_trial_is_closed_after_an_error(fake, tmp_path, where):
    closed = []

    def fail():
        raise RuntimeError("as asked")

    @fake("fake/fails", "a stage that fails", limit="nothing")
    def make(lab, workload):
        calls = {"run": lambda: None, "limit": lambda: None, "finish": dict, where: fail}
        return Trial(rows=1, nbytes=1, close=lambda: closed.append(workload), **calls)

    with Lab(tmp_path) as lab, pytest.raises(RuntimeError, match="as asked"):
        run_stage(lab, registered("fake/fails"), "", TINY)
    assert closed == [""]


def test_ratios_are_of_rows_not_of_passes():
    out = measure(Trial(lambda: 0.01, 100, 0, lambda: 0.01, limit_rows=400), TINY)
    assert out.ratio.median == pytest.approx(0.25)
    alone = measure(Trial(lambda: 0.01, 100, 0), TINY)
    assert alone.ratio is alone.limit_rows_per_second is alone.limit_cpu_ns_per_row is None


def test_what_cannot_be_repeated_runs_once_a_sample():
    calls = []
    effort = Effort(4, 100.0)
    measure(Trial(lambda: calls.append("run"), 1, 0, lambda: calls.append("limit"), repeatable=False), effort,
            traced=False)  # fmt: skip
    assert calls.count("run") == calls.count("limit") == 1 + effort.rounds
    # Neither side always goes first.
    pairs = list(zip(calls[2::2], calls[3::2], strict=True))
    assert {pair[0] for pair in pairs} == {"run", "limit"}


def test_allocations_are_those_of_the_steady_state():
    kept = []

    def run():
        if not kept:
            kept.append(bytearray(10_000_000))
        bytearray(50_000)

    out = measure(Trial(run, 100, 0), TINY)
    assert 500 <= out.allocated_per_row < 600
    assert measure(Trial(run, 100, 0), TINY, traced=False).allocated_per_row is None
    assert out.peak_bytes > 10_000_000


def test_compiling_counts_apart():
    import numba

    function = numba.njit(lambda x: x + 1)
    compiled = measure(Trial(lambda: function(1) and None, 1, 0), TINY, traced=False)
    assert compiled.first_seconds >= compiled.compile_seconds > 0
    assert measure(Trial(lambda: function(1) and None, 1, 0), TINY, traced=False).compile_seconds == 0


def test_processor_time_is_told_beside_wall_time():
    out = measure(Trial(lambda: time.sleep(0.002), 1000, 0), TINY, traced=False)
    assert out.cpu_ns_per_row < 2000 <= 1e9 / out.rows_per_second.median


def test_latencies_are_ordered():
    values = latencies(lambda: sum(range(50)), 500)
    assert 0 <= values["p50_ns"] <= values["p99_ns"]


def test_full_takes_more_care_than_quick():
    assert FULL.rounds > QUICK.rounds >= 6, "fewer than six runs have no 95% interval"
    assert FULL.sample_seconds > QUICK.sample_seconds


# Files


def test_reports_that_are_none(tmp_path):
    with pytest.raises(NotThere, match="--save-baseline"):
        read_report(tmp_path / "nowhere.json")
    (tmp_path / "other.json").write_text('{"rows": 1}')
    with pytest.raises(CheckFailed, match="not a report of expkit bench"):
        read_report(tmp_path / "other.json")
