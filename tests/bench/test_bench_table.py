"""The tables of the README are those of the report that the repository keeps, and that is of the stages there are.
EXPKIT_UPDATE_README=1 writes them anew from the same report."""

import os

import pytest
from bench_reports import goal, peer, report, result
from places import ROOT

from expkit.bench import table
from expkit.bench.measure import Spread
from expkit.bench.results import read_report
from expkit.bench.stage import choose, load_stages
from expkit.bench.words import (
    format_bare_rate,
    format_interval,
    format_measure,
    format_rate,
    format_ratio,
    format_short_target,
    format_target,
    format_time,
)
from expkit.errors import NotThere, UsageError

REPORT = ROOT / ".ci/bench.json"
README = ROOT / "README.md"
ANEW = table.REGENERATE.format(suite="quick", peers=" --peers")


def test_the_readme_shows_the_report_of_the_repository():
    made = table.markdown(read_report(REPORT))
    if os.environ.get("EXPKIT_UPDATE_README"):
        table.replace_part(README, made)
    assert table.part_of(README) == made, "run EXPKIT_UPDATE_README=1 python -m pytest tests/bench/test_bench_table.py"


def test_the_report_of_the_repository_is_of_the_stages_there_are():
    kept = read_report(REPORT)
    stages = choose(load_stages(), (), "quick")
    assert kept.suite == "quick"
    measured = [(one.stage, one.workload, one.title, one.limit, one.clock) for one in kept.stages]
    registered = [(one.name, name, one.title, one.limit, one.clock) for one in stages for name in one.workloads]
    assert measured == registered, f"measure them anew: {ANEW}"


def test_training_recording_and_exchange_have_a_part_of_their_own():
    kept = read_report(ROOT / f".ci/{table.FIGURES}.json")
    made = table.markdown(kept, table.FIGURES_ANEW)
    if os.environ.get("EXPKIT_UPDATE_README"):
        table.replace_part(README, made, table.FIGURES)
    assert table.part_of(README, table.FIGURES) == made
    stages = choose(load_stages(), table.FIGURES_STAGES, "quick")
    registered = [(one.name, name, one.title, one.limit) for one in stages for name in one.workloads]
    measured = [(one.stage, one.workload, one.title, one.limit) for one in kept.stages]
    assert measured == registered, f"measure them anew: {table.FIGURES_ANEW}"


def cells(text):
    """The tables of a text, a list of rows of cells each."""
    out = [[]]
    for line in text.splitlines():
        if line.startswith("|"):
            out[-1].append([cell.strip() for cell in line.strip("|").split(" | ")])
        elif out[-1]:
            out.append([])
    return [rows for rows in out if rows]


def test_a_row_a_stage():
    goals = [goal("ratio", 1.25, 1.0), goal("cpu_ratio", 2.81, most=2.2)]
    made = report(result(ratio=1.25, goals=goals), result("validate/quick", "", None, limit="", mb_per_second=0.0))
    stages, *others = cells(table.markdown(made))
    assert others == []
    assert stages[0] == ["stage", "rows", "rows/s", "MB/s", "beside", "ratio", "95%", "goal"]
    assert stages[2] == [
        "`ring/add-1` add one row", "W", "250k ±5%", "4,006", "NumPy columns", "1.25", "1.19–1.31",
        "✓ ≥ 1, ✗ CPU ≤ 2.2 (2.81)",
    ]  # fmt: skip
    assert stages[3] == ["`validate/quick` add one row", "–", "250k ±5%", "–", "–", "–", "–", ""]


def test_losses_are_kept_and_bold_and_the_closest_rival_comes_first():
    rivals = [peer("far", 88.0), peer("lost", 0.84), peer("near", 1.0), peer("cannot", None, note="no single rows")]
    elsewhere = peer("unknown", 3.0, stage="other/stage", workload="")
    made = report(result(), result("shard/scan"), peers=[elsewhere, peer("scanner", 2.0, stage="shard/scan"), *rivals])
    _, others = cells(table.markdown(made))
    assert [row[2].split()[0] for row in others[2:]] == ["lost", "near", "far", "cannot", "scanner", "unknown"]
    assert [row[4] for row in others[2:]] == ["**0.84 x**", "1.00 x", "88.0 x", "–", "2.00 x", "3.00 x"]
    assert others[5][-1] == "no single rows"
    assert others[2][0] == "`ring/add-1` add one row"


def test_machine_date_and_how_to_make_it_anew():
    last = table.markdown(report(result())).splitlines()[-1]
    for part in (
        "2026-01-02",
        "Some Processor · 2 cores",
        "memcpy 16.0 GB/s",
        "450 MB/s",
        "expkit 0.1.0",
        ANEW.replace(" --peers", ""),
    ):
        assert part in last


def test_the_words_that_make_it_anew_are_options_of_the_verb():
    from expkit.commands.app import load
    from expkit.commands.verbs import find_verb

    options = {option for parameter in load(find_verb("bench")).params for option in parameter.opts}
    assert {word for word in ANEW.split() if word.startswith("--")} <= options


def test_a_part_of_a_file_is_replaced_and_the_rest_kept(tmp_path):
    path = tmp_path / "README.md"
    path.write_text("# Title\n\n<!-- bench -->\nold \\1\n<!-- end bench -->\n\nend · ünd\n", encoding="utf-8")
    table.replace_part(path, "new \\g<1>\n")
    table.replace_part(path, "newer \\g<1>\n")
    assert table.part_of(path) == "newer \\g<1>\n"
    assert path.read_text(encoding="utf-8").startswith("# Title\n\n<!-- bench -->\nnewer")
    assert path.read_text(encoding="utf-8").endswith("<!-- end bench -->\n\nend · ünd\n")
    path.write_text("<!-- end bench -->\n<!-- bench -->\n")
    with pytest.raises(UsageError, match="has no part for the tables"):
        table.part_of(path)
    with pytest.raises(NotThere):
        table.replace_part(tmp_path / "nowhere.md", "")


def test_what_would_end_a_cell_does_not():
    made = table.markdown(report(result(title="a | b")))
    assert "a \\| b" in made


@pytest.mark.parametrize(("value", "said"), [
    (0.0214, "0.021"), (0.0994, "0.099"), (0.0996, "0.10"), (0.834, "0.83"), (9.99, "9.99"), (9.999, "10.0"),
    (12.44, "12.4"), (99.96, "100"), (1035.2, "1,035"),
])  # fmt: skip
def test_ratios_keep_the_digits_that_count(value, said):
    assert format_ratio(value) == said


@pytest.mark.parametrize(("value", "said"), [
    (7.6, "8 ns"), (812, "812 ns"), (4100, "4.1 µs"), (31e6, "31 ms"), (1.24e9, "1.2 s"), (20e9, "20.0 s"),
])  # fmt: skip
def test_times(value, said):
    assert format_time(value) == said


def test_rates_and_goals():
    assert format_rate(Spread(1.21e6, 1.16e6, 1.26e6)) == "1.21M ±4%"
    assert format_rate(Spread(5.0, 4.5, 5.5)) == "200 ms ±10%"
    assert format_bare_rate(0.0) == "0"
    assert format_interval(Spread(1, 0.05, 12.4)) == "0.050-12.4"
    assert format_measure("rows_per_second", 1.236e6) == "1.24M rows/s"
    assert format_measure("size_ratio", 0.368) == "size 0.37"
    assert format_target("rows_per_second", 100e6, None) == "≥ 100M rows/s"
    assert format_target("seconds_per_pass", None, 0.15) == "≤ 0.15 s"
    assert format_target("cpu_ratio", None, 2.2) == "CPU ≤ 2.2"
    assert format_short_target("bytes_per_row", None, 55) == "≤55 B"
    assert format_short_target("rows_per_second", 4e6, None) == "≥4M/s"


@pytest.mark.slow
@pytest.mark.parametrize("suffix", ["png", "svg", "PDF"])
def test_a_plot_is_drawn(tmp_path, suffix):
    pytest.importorskip("matplotlib")
    from expkit.bench.plot import plot

    path = tmp_path / f"out.{suffix}"
    rivals = [peer(), peer("lost", 0.2), peer("cannot", None)]
    stages = [
        result(ratio=0.02, goals=[goal("ratio", 0.02, 0.5), goal("bytes_per_row", 1, most=2)]),
        result("ring/add-256", ratio=30.0),
        result("validate/quick", "", None),
    ]
    plot(report(*stages, peers=rivals), path)
    head = {"png": b"\x89PNG", "svg": b"<?xml", "PDF": b"%PDF"}[suffix]
    assert path.read_bytes().startswith(head)
    plot(report(stages[2]), path)
