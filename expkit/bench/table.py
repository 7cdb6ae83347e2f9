"""A report as Markdown: the part of the README between two lines, made from the report that the repository keeps."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from expkit.bench.measure import Spread
from expkit.bench.results import GoalResult, PeerResult, Report, Result
from expkit.bench.words import (
    format_bare_measure,
    format_bare_rate,
    format_date,
    format_interval,
    format_limits,
    format_machine,
    format_rate,
    format_ratio,
    format_target,
    format_versions,
)
from expkit.errors import NotThere, UsageError

PART = "bench"  # between the lines <!-- bench --> and <!-- end bench -->
REGENERATE = "expkit bench --suite {suite}{peers} --save-baseline .ci/bench.json --readme README.md"
# Stages that the quick suite leaves out and the README shows, in a part and a report of their own.
FIGURES = "figures"
FIGURES_STAGES = ("training", "record/cartpole", "export", "import")
FIGURES_ANEW = f"expkit bench --stage {' --stage '.join(FIGURES_STAGES)} --peers --save-baseline .ci/{FIGURES}.json"
_NONE = "–"


def markdown(report: Report, anew: str = "") -> str:
    """Both tables, the machine and how to make them anew, by the command `anew` if not by that of a whole suite; ends
    with a newline."""
    parts = [_stages(report.stages)]
    if report.peers:
        parts.append("The same work by other libraries, on the same rows; **bold** where expkit is the slower one.\n")
        parts.append(_peers(report))
    whole = REGENERATE.format(suite=report.suite, peers=" --peers" if report.peers else "")
    parts.append(_origin(report, anew or whole))
    return "\n".join(parts)


def _stages(results: Sequence[Result]) -> str:
    rows = []
    for one in results:
        rows.append(
            (
                f"`{one.stage}` {one.title}",
                one.workload or _NONE,
                format_rate(one.rows_per_second),
                f"{one.mb_per_second:,.0f}" if one.mb_per_second else _NONE,
                one.limit or _NONE,
                _NONE if one.ratio is None else format_ratio(one.ratio.median),
                _NONE if one.ratio is None else format_interval(one.ratio, "–"),
                ", ".join(goal_text(goal) for goal in one.goals),
            )
        )
    titles = ("stage", "rows", "rows/s", "MB/s", "beside", "ratio", "95%", "goal")
    return make_table(titles, (False, False, True, True, False, True, True, False), rows)


def goal_text(goal: GoalResult) -> str:
    """`✓ ≥ 1`, `✗ CPU ≤ 2.2 (2.81)`: what was measured where it stands in no column of its own."""
    target = format_target(goal.measure, goal.least, goal.most)
    told = "" if goal.measure in ("ratio", "rows_per_second") else f" ({format_bare_measure(goal.measure, goal.value)})"
    return f"{'✓' if goal.met else '✗'} {target}{told}"


def _peers(report: Report) -> str:
    titles = {one.stage: one.title for one in report.stages}
    rows = []
    for peer in in_order(report):
        rows.append(
            (
                f"`{peer.stage}` {titles.get(peer.stage, '')}".strip(),
                peer.workload or _NONE,
                f"{peer.peer} {peer.version}".strip(),
                _NONE if peer.rows_per_second is None else format_bare_rate(peer.rows_per_second.median),
                _NONE if peer.bytes_per_row is None else f"{peer.bytes_per_row:,.0f}",
                _NONE if peer.ratio is None else times(peer.ratio),
                _NONE if peer.ratio is None else format_interval(peer.ratio, "–"),
                peer.note,
            )
        )
    columns = ("stage", "rows", "library", "its rows/s", "B/row", "expkit is", "95%", "note")
    return make_table(columns, (False, False, False, True, True, True, True, False), rows)


def times(ratio: Spread) -> str:
    """`12.4 x`, a loss as `**0.84 x**`."""
    text = f"{format_ratio(ratio.median)} x"
    return text if ratio.median >= 1 else f"**{text}**"


def in_order(report: Report) -> list[PeerResult]:
    """The peers as the stages are, the closest rival of each first."""
    order = {one.key: number for number, one in enumerate(report.stages)}

    def place(peer: PeerResult) -> tuple[int, str, str, float]:
        key = f"{peer.stage} {peer.workload}".strip()
        return order.get(key, len(order)), peer.stage, peer.workload, peer.ratio.median if peer.ratio else float("inf")

    return sorted(report.peers, key=place)


def _origin(report: Report, anew: str) -> str:
    return (
        f"Measured on {format_date(report.created)} on {format_machine(report.machine)} "
        f"({', '.join(format_limits(report.machine))}), {format_versions(report.machine)}. A ratio is a stage's rows a "
        "second by those of what stands beside it, in the same minute on the same rows; seconds are processor time "
        f"where one thread works without waiting, else wall time. Made by `{anew}`.\n"
    )


def make_table(titles: Sequence[str], right: Sequence[bool], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table, without columns in which no row says anything."""
    cells = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    kept = [at for at in range(len(titles)) if any(row[at] not in ("", _NONE) for row in cells)]
    lines = [[titles[at] for at in kept], ["--:" if right[at] else "---" for at in kept]]
    lines += [[row[at] for at in kept] for row in cells]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def part_of(path: Path, name: str = PART) -> str:
    """What stands between the lines of a part. Raises NotThere without the file, UsageError without the lines."""
    return _split(path, name)[1]


def replace_part(path: Path, content: str, name: str = PART) -> None:
    """Write `content` between the lines of a part. Raises as `part_of`."""
    from expkit.system.files import write_atomic

    before, _, after = _split(path, name)
    write_atomic(path, f"{before}{content}{after}".encode())


def _split(path: Path, name: str) -> tuple[str, str, str]:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise NotThere(f"{path}: no such file") from None
    begin, end = f"<!-- {name} -->", f"<!-- end {name} -->"
    match = re.fullmatch(rf"(.*{begin}\n)(.*?)({end}.*)", text, re.DOTALL)
    if match is None:
        raise UsageError(f"{path} has no part for the tables; put a line {begin} and a line {end} where they go")
    return match[1], match[2], match[3]
