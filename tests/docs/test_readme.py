"""README says in a minute what the program is: its examples run, its session and its tables are made from the program
and from the reports of the repository. EXPKIT_UPDATE_DOCS=1 writes the generated parts anew."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from doc_parts import README, ROOT, between, check_generated, code_blocks, run_python

from expkit.bench.results import PeerResult, Report, Result, read_report
from expkit.bench.table import in_order, make_table, times
from expkit.bench.words import format_bare_rate, format_date, format_machine, format_ratio
from expkit.commands.pages import page_names, read_page
from expkit.commands.verbs import VERBS

# What README shows of the reports: where expkit loses, too.
SHOWN = (
    ("bench", "record/live"), ("figures", "record/cartpole"), ("bench", "recorder/add tiny"),
    ("bench", "ring/sample-256 W"), ("bench", "shard/write W"), ("bench", "run/scan W"),
    ("figures", "training/loader W"), ("bench", "shard/random-rows W"), ("bench", "validate/full W"),
    ("bench", "start/help"),
)  # fmt: skip
# Beginnings of the promises in the specification that README shows.
PROMISED = (
    "After `kill -9`", "A file cut", "One flipped bit", "produced = written", "rotate, compact", "A hostile file",
)  # fmt: skip


def text() -> str:
    return README.read_text(encoding="utf-8")


def test_readme_is_read_in_a_minute() -> None:
    assert len(text().splitlines()) <= 250


def test_the_verbs_are_those_of_the_program() -> None:
    made = "| verb | what it does |\n| --- | --- |\n"
    made += "".join(f"| `expkit {verb.name}` | {verb.help} |\n" for verb in VERBS)
    check_generated(README, "verbs", made)


def test_the_pages_are_those_there_are() -> None:
    made = "| page | what it is about |\n| --- | --- |\n"
    made += "".join(f"| [{name}](expkit/docs/{name}.md) | {read_page(name).about} |\n" for name in page_names())
    check_generated(README, "pages", made)


def test_the_promises_are_those_of_the_specification() -> None:
    rows = re.findall(r"^\| (.*) \| .* \| (.*) \|$", (ROOT / "formats/shard/SPEC.md").read_text("utf-8"), re.M)
    shown = [row for beginning in PROMISED for row in rows if row[0].startswith(beginning)]
    assert len(shown) == len(PROMISED)
    check_generated(README, "promises", make_table(("promise", "in a run of the suite"), (False, False), shown))


def closest(report: Report, one: Result) -> str:
    """The other library that comes nearest, or is faster."""
    peers: list[PeerResult] = [
        peer for peer in in_order(report) if (peer.stage, peer.workload) == (one.stage, one.workload) and peer.ratio
    ]
    return f"{peers[0].peer} {peers[0].version}: {times(peers[0].ratio)}" if peers and peers[0].ratio else ""


def test_the_figures_are_those_of_the_reports_of_the_repository() -> None:
    reports = {name: read_report(ROOT / f".ci/{name}.json") for name in dict(SHOWN)}
    rows = []
    for name, key in SHOWN:
        (one,) = (one for one in reports[name].stages if one.key == key)
        assert one.rows_per_second is not None
        assert one.ratio is not None
        beside = f"{format_ratio(one.ratio.median)} of {one.limit}"
        rate = format_bare_rate(one.rows_per_second.median)
        rows.append((one.title, one.workload or "–", rate, beside, closest(reports[name], one) or "–"))
    made = make_table(
        ("what", "rows", "rows/s", "beside what this machine can do", "beside the closest other library"),
        (False, False, True, False, False),
        rows,
    )
    of = reports["bench"]
    made += (
        f"\nMeasured on {format_date(of.created)} on {format_machine(of.machine)}; **bold** where expkit is the slower "
        "one. W are rows of 16 KB, tiny ones of 39 bytes. All figures, with intervals and how to make them anew, are "
        "in [performance](expkit/docs/performance.md); `expkit bench` measures your machine.\n"
    )
    check_generated(README, "speed", made)


def test_the_examples_run_and_print_what_they_say(tmp_path: Path) -> None:
    """In the order of the page, in one folder: a later one opens what an earlier one recorded."""
    examples = list(code_blocks(README, "python"))
    assert len(examples) == 3
    for code in examples:
        run_python(code, tmp_path, "-W", "error")


@pytest.mark.parametrize("name", ["record", "test"])
def test_the_two_commands_are_one_line_each_in_an_environment_of_their_own(name: str) -> None:
    match = re.search(rf"<!-- command: {name} -->\n```console\n(.*)\n```", text())
    assert match is not None
    assert match[1].startswith("python3 -m venv .venv")


def test_the_session_is_short() -> None:
    assert len(re.findall(r"^\$ ", between(README, "session"), re.M)) >= 4
    assert len(between(README, "session").splitlines()) <= 60
