"""How the results of `expkit bench` are told to people and scripts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import msgspec

from expkit.bench.baseline import Change, Comparison
from expkit.bench.results import GoalResult, Report, Result
from expkit.bench.stage import Goal, Stage
from expkit.bench.table import in_order
from expkit.bench.words import (
    format_bare_rate,
    format_date,
    format_interval,
    format_limits,
    format_machine,
    format_measure,
    format_rate,
    format_ratio,
    format_short_target,
    format_target,
    format_time,
    format_versions,
)
from expkit.commands import output
from expkit.commands.output import Column, Piece
from expkit.system.units import format_duration, format_number, format_size

# Width from which goals stand in the table with what they ask for, not as marks alone.
_ROOMY = 200
_ROWS = "tiny: of CartPole · R: 20x20 boards as they are recorded · W: the same as float planes · noise: random floats"
# Cells of the bar left and right of its limit.
_BAR = 4


def print_list(stages: Sequence[Stage], json: bool) -> None:
    """Stages without measuring them."""
    if json:
        output.write_json({"schema": "expkit.bench.list/1", "stages": [_listed(one) for one in stages]})
        return
    columns = (
        Column("stage"), Column("suites"), Column("rows"), Column("what is measured", fold=True),
        Column("beside", wide=120), Column("time of", wide=120), Column("goals", wide=160),
    )  # fmt: skip
    rows: list[list[Piece]] = []
    for part in _parts(stages, lambda one: one.name):
        for one in part:
            goals = [
                f"{workload} {format_target(goal.measure, goal.least, goal.most)}".strip()
                for workload, listed in one.goals.items()
                for goal in listed
            ]
            workloads = " ".join(one.workloads)
            rows.append([one.name, " ".join(one.suites), workloads, one.title, one.limit, one.clock, " · ".join(goals)])
        rows.append([""] * len(columns))
    output.table(columns, rows[:-1])
    output.blank()
    if stages:
        output.line(("rows  ", "dim"), _ROWS)
        output.hint(f"expkit bench --stage {stages[0].name}")


def _listed(one: Stage) -> dict[str, Any]:
    def told(goal: Goal) -> dict[str, Any]:
        return {"measure": goal.measure, "least": goal.least, "most": goal.most}

    return {
        "stage": one.name,
        "title": one.title,
        "suites": one.suites,
        "workloads": one.workloads,
        "limit": one.limit,
        "steady": one.steady,
        "clock": one.clock,
        "goals": {workload: [told(goal) for goal in goals] for workload, goals in one.goals.items()},
    }


def as_json(report: Report, compared: Comparison | None) -> dict[str, Any]:
    """The report, and `comparison` when there is one."""
    body: dict[str, Any] = msgspec.to_builtins(report)
    if compared is not None:
        body["comparison"] = msgspec.to_builtins(compared)
    return body


def print_report(report: Report, compared: Comparison | None, source: str = "") -> None:
    """The machine, the stages, goals that were missed, other libraries, what has changed."""
    machine = report.machine
    output.line((format_machine(machine), "bold"), f" · {format_versions(machine)}")
    output.line("at most: ", " · ".join(format_limits(machine)))
    if source:
        output.line(f"games: {source}")
    output.blank()
    _print_stages(report.stages)
    missed = [(one, goal) for one in report.stages for goal in one.goals if not goal.met]
    if missed:
        output.blank()
        columns = (Column("goals missed"), Column("measured", right=True), Column("goal"))
        output.table(columns, [_missed(one, goal) for one, goal in missed])
    if report.peers:
        output.blank()
        _print_peers(report)
    if compared is not None:
        output.blank()
        _print_comparison(compared)
    output.blank()


def _parts(items: Sequence[Any], name: Any) -> Iterator[list[Any]]:
    """Neighbours of the same part."""
    for _, members in groupby(items, key=lambda one: name(one).partition("/")[0]):
        yield list(members)


def _print_stages(results: Sequence[Result]) -> None:
    roomy = not output.has_ansi_terminal() or output.width() >= _ROOMY
    scale = f"0{1:>{_BAR}}{2:>{_BAR}}"
    columns = (
        Column("stage"), Column("rows"), Column("rows/s", right=True), Column("MB/s", right=True, wide=100),
        Column("ratio", right=True, style="bold"), Column("95%", right=True), Column(scale, style="cyan"),
        Column("goal"), Column("beside", wide=130),
        Column("p50", right=True, wide=145), Column("p99", right=True, wide=145),
        Column("CPU/row", right=True, wide=110), Column("B/row", right=True, wide=155),
        Column("alloc/row", right=True, wide=165), Column("peak", right=True, wide=175), Column("time of", wide=215),
    )  # fmt: skip
    rows: list[list[Piece]] = []
    for part in _parts(results, lambda one: one.stage):
        rows += [_stage_row(one, roomy) for one in part]
        rows.append([""] * len(columns))
    output.table(columns, rows[:-1])


def _stage_row(one: Result, roomy: bool) -> list[Piece]:
    """In the order of the columns."""
    extra = one.extra
    return [
        one.stage,
        one.workload,
        format_rate(one.rows_per_second),
        f"{one.mb_per_second:,.0f}" if one.mb_per_second else "",
        "" if one.ratio is None else format_ratio(one.ratio.median),
        "" if one.ratio is None else format_interval(one.ratio),
        "" if one.ratio is None else _bar(one.ratio.median),
        _goals(one.goals, roomy),
        one.limit,
        format_time(extra["p50_ns"]) if "p50_ns" in extra else "",
        format_time(extra["p99_ns"]) if "p99_ns" in extra else "",
        format_time(one.cpu_ns_per_row),
        _bytes(extra["bytes_per_row"]) if "bytes_per_row" in extra else "",
        "" if one.allocated_per_row is None else format_size(one.allocated_per_row),
        f"{one.peak_bytes / (1 << 20):,.0f} MiB",
        one.clock,
    ]


def _bytes(count: float) -> str:
    return f"{count:.1f}" if count < 1000 else f"{count:,.0f}"


def _bar(ratio: float) -> str:
    """0 to 2 with a mark at 1: `━━━  ┃    `, `━━━━╋━╸  `."""
    plain, crossed = ("┃", "╋") if output.can_show("┃╋") else ("|", "+")
    if ratio < 1:
        return output.bar(ratio, _BAR) + plain
    return output.bar(1, _BAR) + crossed + output.bar(ratio - 1, _BAR)


def _goals(goals: Sequence[GoalResult], roomy: bool) -> Piece:
    """A mark a goal; with what it asks for where there is room."""
    style = "green" if all(goal.met for goal in goals) else "red"
    if not output.can_show("✓✗≥≤"):
        return " ".join("met" if goal.met else "missed" for goal in goals), style
    marks = ["✓" if goal.met else "✗" for goal in goals]
    if not roomy:
        return "".join(marks), style
    targets = [format_short_target(goal.measure, goal.least, goal.most) for goal in goals]
    return " ".join(f"{mark}{target}" for mark, target in zip(marks, targets, strict=True)), style


def _missed(one: Result, goal: GoalResult) -> list[Piece]:
    target = format_target(goal.measure, goal.least, goal.most)
    return [one.key, (format_measure(goal.measure, goal.value), "red"), target]


def _print_peers(report: Report) -> None:
    columns = (
        Column("stage"), Column("rows"), Column("other library"), Column("rows/s", right=True),
        Column("expkit is", right=True), Column("95%", right=True), Column("B/row", right=True, wide=100),
        Column("note", wide=120, fold=True),
    )  # fmt: skip
    rows: list[list[Piece]] = []
    for one in in_order(report):
        rate = "" if one.rows_per_second is None else format_bare_rate(one.rows_per_second.median)
        times: Piece = ""
        if one.ratio is not None:
            times = (f"{format_ratio(one.ratio.median)} x", "bold" if one.ratio.median >= 1 else "bold red")
        interval = "" if one.ratio is None else format_interval(one.ratio)
        size = "" if one.bytes_per_row is None else _bytes(one.bytes_per_row)
        rows.append([one.stage, one.workload, f"{one.peer} {one.version}", rate, times, interval, size, one.note])
    output.table(columns, rows)


def _print_comparison(compared: Comparison) -> None:
    """What changed beyond doubt or fails; the rest in numbers."""
    allowed = "" if compared.fail_slower is None else f", {compared.fail_slower:.0%} slower allowed"
    told = [one for one in compared.changes if one.failed or one.moved]
    output.line(
        (f"beside the baseline of {format_date(compared.baseline_created)}", "bold"),
        f" (suite {compared.baseline_suite}{allowed}): {format_number(len(compared.changes), 'stage')} compared",
        f", {len(compared.changes) - len(told)} without a change that is sure" if compared.changes else "",
    )
    if told:
        columns = (
            Column("stage"), Column("then", right=True), Column("now", right=True), Column("change", right=True),
            Column("between", right=True), Column("verdict"),
        )  # fmt: skip
        output.table(columns, [_change_row(one) for one in sorted(told, key=lambda one: -one.slower)])
    reasons: dict[str, list[str]] = {}
    for left in compared.left_out:
        reasons.setdefault(left.reason.partition(" (")[0], []).append(left.key)
    for reason, keys in reasons.items():
        output.line((f"left out, {reason}: ", "dim"), ", ".join(keys))
    for word, keys in (("new", compared.new), ("gone", compared.gone)):
        if keys:
            output.line((f"{word}: ", "dim"), ", ".join(keys))
    for warning in compared.warnings:
        output.line(("warning: ", "yellow"), warning)


def _change_row(one: Change) -> list[Piece]:
    tries = f", best of {one.tries}" if one.tries > 1 else ""
    word = "slower" if one.slower > 0 else "faster"
    sure = "surely" if one.sure else "likely"
    verdict = f"{sure} too slow{tries}" if one.failed else f"{word}{tries}"
    style = "bold red" if one.failed else "yellow" if one.slower > 0 else "green"
    between = f"{-one.slower_most:+.0%}..{-one.slower_least:+.0%}"
    figures = [format_ratio(one.baseline.median), format_ratio(one.ratio.median)]
    return [one.key, *figures, f"{-one.slower:+.0%}", between, (verdict, style)]


def print_end(
    report: Report, compared: Comparison | None, baseline: Path | None, saved: Path | None, code: int
) -> None:
    """The last lines: what failed, time, goals, what to do next."""
    for failure in report.failures:
        output.line(("failed ", "bold red"), f"{failure.key}: {failure.message}")
    compiling = sum(one.compile_seconds for one in report.stages)
    goals = [goal for one in report.stages for goal in one.goals]
    text: list[Piece] = [f"{format_number(len(report.stages), 'result')} in {format_duration(report.seconds)}"]
    text.append(f", {format_duration(compiling)} of it compiling" if compiling >= 0.05 else ", nothing to compile")
    if goals:
        met = sum(goal.met for goal in goals)
        style = "green" if met == len(goals) else "yellow"
        text += [" · ", (f"{met} of {format_number(len(goals), 'goal')} met", style)]
    if compared is not None and compared.fail_slower is not None:
        failed = len(compared.failed)
        verdict = (f"{failed} too slow", "bold red") if failed else ("none too slow", "bold green")
        text += [" · ", verdict if compared.changes else ("nothing could be judged", "bold yellow")]
    if code:
        text.append((f"   [exit {code}]", "dim"))
    output.line(*text)
    output.hint(_next(report, compared, baseline, saved))


def _next(report: Report, compared: Comparison | None, baseline: Path | None, saved: Path | None) -> str:
    if compared is not None and compared.failed:
        shown = output.quoted(baseline) if baseline is not None else "FILE"
        return f"expkit bench --suite full --stage {compared.failed[0].key.split()[0]} --baseline {shown}"
    if saved is not None:
        return f"expkit bench --baseline {output.quoted(saved)} --fail-slower 40%"
    missed = next((one for one in report.stages if not all(goal.met for goal in one.goals)), None)
    if missed is not None and report.suite == "quick":
        return f"expkit bench --suite full --stage {missed.stage}"
    return "expkit bench --save-baseline bench.json"
