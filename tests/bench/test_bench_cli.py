"""`expkit bench` keeps the contract of all verbs. It measures one stage of half a second; figures decide nothing."""

import importlib
import json
import os
import pty
import re
import signal
import subprocess
import sys

import pytest
from bench_reports import goal, peer, report, result
from patience import PATIENCE, wait_until
from terminals import shown_on

from expkit.bench import table
from expkit.bench.baseline import compare
from expkit.bench.results import SCHEMA, read_report
from expkit.bench.stage import load_stages
from expkit.commands import bench_report, main, session
from expkit.commands.output import make_console

ANSI = re.compile(r"\x1b[\[\]()]")
STAGE = ["--stage", "serialize/mask"]


@pytest.fixture
def call(tmp_path, monkeypatch, capfd):
    """Run `expkit bench` in this process and in an empty folder, nothing of which is a terminal."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        capfd.readouterr()
        code = main(["bench", *map(str, arguments)])
        return code, *capfd.readouterr()

    yield run
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def known_machine(monkeypatch):
    """Its limits are not measured: two seconds."""
    monkeypatch.setattr("expkit.bench.suite.look_at_machine", lambda lab: report().machine)


REFUSED = [
    (["--stage", "ring/ad-1"], 2, "did you mean ring/add-1?"),
    (["--stage", "nonsense"], 2, "there are game/step, "),
    (["--workload", "tinny"], 2, "did you mean tiny?"),
    ([*STAGE, "--workload", "tiny"], 2, "no stage of these runs on tiny; see expkit bench --list"),
    (["--suite", "slow"], 2, "use quick or full"),
    (["--fail-slower", "40%"], 2, "needs --baseline FILE"),
    (["--baseline", "old.json", "--fail-slower", "40"], 2, "write it like 40% or 0.4"),
    (["--baseline", "old.json", "--fail-slower", "much"], 2, "write it like 40% or 0.4"),
    (["--baseline", "old.json", "--fail-slower", "-5%"], 2, "write it like 40% or 0.4"),
    (["--baseline", "nowhere.json"], 5, "nowhere.json: no such baseline; make one with --save-baseline"),
    (["--baseline", "other.json"], 4, "not a report of expkit bench"),
    (["--baseline", "later.json"], 4, "a report of expkit.bench/9"),
    (["--save-baseline", "nowhere/new.json"], 2, "there is no folder nowhere; make it first"),
    (["--save-baseline", "."], 2, "is a folder; name a file"),
    (["--folder", "nowhere"], 2, "there is no folder nowhere; make it first"),
    (["--plot", "nowhere/out.png"], 2, "there is no folder nowhere; make it first"),
    (["--plot", "out.txt"], 2, "a plot is drawn as .png, .svg, .pdf"),
    (["--readme", "nowhere.md"], 5, "nowhere.md: no such file"),
    (["--readme", "other.json"], 2, "put a line <!-- bench --> and a line <!-- end bench -->"),
]


@pytest.mark.parametrize(("arguments", "code", "words"), REFUSED, ids=lambda value: " ".join(value) if
                         isinstance(value, list) else "")  # fmt: skip
def test_what_cannot_work_is_refused_before_anything_is_measured(call, tmp_path, monkeypatch, arguments, code, words):
    monkeypatch.setattr("expkit.bench.suite.run_suite", None)
    (tmp_path / "other.json").write_text("{}")
    import msgspec

    for name, changes in (("old.json", {}), ("later.json", {"schema": "expkit.bench/9"})):
        (tmp_path / name).write_bytes(msgspec.json.encode(report(result(), **changes)))
    found, out, err = call(*arguments)
    assert (found, out) == (code, "")
    assert re.fullmatch(r"expkit bench: .+\n", err)
    assert words in err
    found, out, err = call(*arguments, "--json")
    assert (found, err) == (code, "")
    body = json.loads(out)
    assert out.count("\n") == 1
    assert (body["schema"], body["exit_code"], body["error"]["verb"]) == ("expkit.error/1", code, "bench")
    assert words in body["error"]["message"]


def test_two_formats_are_refused(call):
    code, out, _ = call("--json", "--markdown")
    assert code == 2
    assert "leave one out" in json.loads(out)["error"]["message"]


def test_a_plot_without_matplotlib_names_the_extra(call, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    code, out, err = call("--plot", "out.png")
    assert (code, out) == (2, "")
    assert err == "expkit bench: a plot needs matplotlib; install it with: pip install 'expkit[plot]'\n"


def test_the_list_measures_nothing(call, monkeypatch):
    monkeypatch.setattr("expkit.bench.suite.run_suite", None)
    code, out, err = call("--list")
    assert (code, err) == (0, "next: expkit bench --stage game/step\n")
    assert not ANSI.search(out)
    for stage in load_stages():
        assert re.search(rf"^{stage.name} .*{re.escape(stage.title)}", out, re.M)
    code, out, err = call("--list", "--json")
    assert (code, err) == (0, "")
    body = json.loads(out)
    assert body["schema"] == "expkit.bench.list/1"
    assert [one["stage"] for one in body["stages"]] == [stage.name for stage in load_stages()]
    code, out, _ = call("--list", "--stage", "ring", "--workload", "tiny", "--json")
    assert {one["stage"].split("/")[0] for one in json.loads(out)["stages"]} == {"ring"}
    assert all(one["workloads"] == ["tiny"] for one in json.loads(out)["stages"])


def test_one_stage_for_people(call, tmp_path):
    code, out, err = call(*STAGE)
    assert code == 0
    # Where kernels are compiled first, plain lines of progress follow.
    assert err.splitlines()[0] == "bench quick · 1 measurement · files in ."
    assert not ANSI.search(out + err)
    lines = out.splitlines()
    assert "2 cores" in lines[0] or " cores · " in lines[0]
    assert lines[1].startswith("at most: memcpy ")
    assert re.search(r"^serialize/mask +R +\S+ ±\d+% .* memset of the masks ", out, re.M)
    assert re.search(r"^1 result in .* · [01] of 1 goal met$", out, re.M)
    assert err.splitlines()[-1].startswith("next: expkit bench ")
    assert lines == [line.rstrip() for line in lines]
    assert list(tmp_path.iterdir()) == []


def test_one_stage_as_json_and_everything_it_writes(call, tmp_path, known_machine):
    readme = tmp_path / "README.md"
    readme.write_text("before\n<!-- bench -->\nold\n<!-- end bench -->\nafter\n")
    code, out, err = call(*STAGE, "--json", "--save-baseline", "new.json", "--readme", readme, "-q")
    assert (code, err) == (0, "")
    assert out.count("\n") == 1
    body = json.loads(out)
    assert body["schema"] == SCHEMA
    assert "comparison" not in body
    (one,) = body["stages"]
    assert (one["stage"], one["workload"], one["limit"]) == ("serialize/mask", "R", "memset of the masks")
    kept = read_report(tmp_path / "new.json")
    assert kept.stages[0].ratio.median == one["ratio"]["median"]
    told = f"expkit bench {' '.join(STAGE)} --json --save-baseline new.json --readme {readme} -q"
    assert readme.read_text() == f"before\n<!-- bench -->\n{table.markdown(kept, told)}<!-- end bench -->\nafter\n"


def test_markdown_is_all_there_is_on_stdout(call, known_machine):
    code, out, _ = call(*STAGE, "--markdown")
    assert code == 0
    assert out.startswith("| stage | rows | rows/s |")
    assert "| `serialize/mask` " in out
    assert out.endswith(f"Made by `expkit bench {' '.join(STAGE)} --markdown`.\n")


def test_a_game_of_ones_own_is_played_and_recorded(call, monkeypatch, tmp_path):
    """Without --stage: the stages that play, and these only."""
    asked = []

    def run_suite(lab, stages, suite, show, stop):
        asked.append((lab.source, [one.name for one in stages]))
        return report(result("game/step", ""))

    monkeypatch.setattr("expkit.bench.suite.run_suite", run_suite)
    code, out, _ = call("--source", "mine:make_game")
    assert code == 0
    assert asked == [("mine:make_game", ["game/step", "record/live"])]
    assert "games: mine:make_game" in out


def test_other_libraries_are_asked_for_what_was_measured(call, monkeypatch):
    asked = []

    def run_peers(lab, made, effort, wanted=(), progress=None):
        asked.append(list(wanted))
        progress("ring/add-1 W cpprb", 0, 1)
        return [peer()]

    made = report(result("ring/add-1"), result("serialize/mask", "R"))
    monkeypatch.setattr("expkit.bench.suite.run_suite", lambda *arguments, **options: made)
    monkeypatch.setattr("expkit.bench.peers.registry.run_peers", run_peers)
    monkeypatch.setattr("expkit.bench.peers.registry.find_peers", lambda: ({}, ["lmdb", "mcap"]))
    code, out, err = call("--peers")
    assert code == 0
    assert asked == [["ring/add-1"]]
    assert re.search(r"^ring/add-1 +W +cpprb 1.2 +25.0k +10.0 x", out, re.M)
    assert err.startswith("not installed: lmdb, mcap; install with: pip install 'expkit[peers]'\n")
    code, out, _ = call("--peers", "--json", "-q")
    assert [one["peer"] for one in json.loads(out)["peers"]] == ["cpprb"]
    monkeypatch.setattr(
        "expkit.bench.suite.run_suite", lambda *arguments, **options: report(result("serialize/mask", "R"))
    )
    code, out, _ = call("--peers")
    assert code == 0
    assert len(asked) == 2


def test_the_examples_are_quick_ones():
    bench = importlib.import_module("expkit.commands.bench")
    assert all("--list" in line or "--stage serialize/mask" in line for line, _ in bench.EXAMPLES)


# Pages


@pytest.fixture
def page(capsys, monkeypatch):
    """What is printed of a report, a terminal as wide as asked for or a pipe."""

    def printed(made, compared=None, width=None):
        session.begin([], frozenset())
        if width is not None:
            monkeypatch.setattr("expkit.commands.output.has_ansi_terminal", lambda *stream: True)
            monkeypatch.setenv("COLUMNS", str(width))
            monkeypatch.setenv("NO_COLOR", "1")
            monkeypatch.setenv("TERM", "xterm")
        monkeypatch.setattr("expkit.commands.output._console", make_console)
        bench_report.print_report(made, compared)
        bench_report.print_end(made, compared, None, None, 0)
        return capsys.readouterr().out

    return printed


def full_report():
    """Something in every column, as long as it gets."""
    long = dict(
        limit="memcpy of the rows by two threads", extra={"p50_ns": 812.0, "p99_ns": 48_000.0, "bytes_per_row": 12834.4}
    )
    goals = [goal("ratio", 0.27, 0.75), goal("cpu_ratio", 2.81, most=2.2), goal("bytes_per_row", 22.2, most=25)]
    return report(
        result("ring/kernel-add-packed", "tiny", 0.024, goals=[goal("rows_per_second", 2e8, 1e8)], **long),
        result("shard/scan", "noise", 12.4, goals=goals, mb_per_second=26624.3, peak_bytes=3 << 30, **long),
        result("start/help", "", None, mb_per_second=0.0, allocated_per_row=None),
        peers=[peer(), peer("stable-baselines3", 0.84, bytes_per_row=49.0, note="batches only"), peer("none", None)],
    )


@pytest.mark.parametrize("width", [80, 100, 120, 160, 200])
def test_a_page_fits_its_terminal(page, width):
    made = full_report()
    lines = page(made, compare(made, made, 0.4, None), width).splitlines()
    assert max(map(len, lines)) <= width
    text = "\n".join(lines)
    assert "…" not in text
    row = next(line for line in lines if line.startswith("shard/scan"))
    assert "12.4" in row
    assert "11.8-13.0" in row
    assert ("memcpy of the rows by two threads" in row) is (width >= 130)
    assert ("12,834" in row) is (width >= 155)
    assert ("✗≥0.75 ✗CPU≤2.2 ✓≤25 B" in row) is (width >= 200)
    assert "✗✗✓" in row or width >= 200


def test_a_pipe_gets_everything(page):
    made = full_report()
    out = page(made, compare(made, made, 0.4, None))
    row = next(line for line in out.splitlines() if line.startswith("ring/kernel-add-packed"))
    for part in ("tiny", "250k ±5%", "4,006", "0.024", "✓≥100M/s", "812 ns", "48 µs", "4.0 µs", "12,834", "300 MiB"):
        assert part in row
    assert "╸" not in row.split("┃")[1]
    assert re.search(r"^shard/scan noise +CPU 2.81 +CPU ≤ 2.2$", out, re.M)
    assert re.search(r"^ring/add-1 +W +stable-baselines3 1.2 .* 0.84 x +0.80-0.88 +49.0 +batches only$", out, re.M)
    assert "2 stages compared" in out
    assert "2 of 4 goals met" in out


@pytest.mark.parametrize(("ratio", "bar"), [
    (0, "    ┃"), (0.5, "━━  ┃"), (0.99, "━━━╸┃"), (1, "━━━━╋"), (1.5, "━━━━╋━━"), (9, "━━━━╋━━━━")
])  # fmt: skip
def test_a_bar_has_its_limit_in_the_middle(ratio, bar):
    assert bench_report._bar(ratio).rstrip() == bar


def test_a_terminal_shows_progress_that_a_pipe_does_not(tmp_path):
    """As a process on a terminal of its own: the bar on stderr, the table on stdout."""
    leader, follower = pty.openpty()
    environ = {key: value for key, value in os.environ.items() if key not in ("NO_COLOR", "FORCE_COLOR")}
    process = subprocess.Popen(
        [sys.executable, "-m", "expkit.commands", "bench", "--stage", "serialize"], cwd=tmp_path, stdin=follower,
        stdout=subprocess.PIPE, stderr=follower, env={**environ, "TERM": "xterm-256color", "COLUMNS": "80"},
    )  # fmt: skip
    os.close(follower)
    shown = shown_on(leader)
    out = process.communicate(timeout=PATIENCE)[0].decode()
    assert process.returncode == 0
    assert "0/2 measurements" in shown
    assert "serialize/planes R" in shown
    assert not ANSI.search(out)
    assert "serialize/mask" in out


def test_a_signal_ends_it_after_a_measurement_and_leaves_no_files(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-m", "expkit.commands", "bench", "--stage", "shard/write", "--suite", "full"], cwd=tmp_path,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    wait_until(lambda: process.poll() is not None or list(tmp_path.glob(".expkit-bench-*/*")))
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 143, err
    assert re.search(r"^\d results? in ", out, re.M), "what was measured is told, and nothing else is begun"
    assert list(tmp_path.iterdir()) == []
