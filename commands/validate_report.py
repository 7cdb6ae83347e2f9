"""How the findings of `expkit validate` are told to people and scripts: lines and JSON. See validate_formats for what
build services read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from expkit.commands import output
from expkit.reading.summary import Balance
from expkit.rules.rule import Severity
from expkit.system.units import format_number
from expkit.validation.finding import Finding

SEVERITIES: tuple[Severity, ...] = ("error", "warn", "info")
_STYLES = {"error": "bold red", "warn": "bold yellow", "info": "dim"}


class Checked(msgspec.Struct):
    """What came of one run or shard file.

    findings   those that are listed, in the order they were found
    counts     of all, by (rule, severity)
    omitted    how many are not listed
    judged     rows, or of rules over episodes episodes, that each rule has looked at
    """

    path: Path
    rows: int = 0
    state: str = "closed"
    findings: list[Finding] = []
    counts: Counter[tuple[str, Severity]] = msgspec.field(default_factory=Counter)
    omitted: int = 0
    judged: Counter[str] = msgspec.field(default_factory=Counter)
    balance: list[Balance] = []

    def total(self, name: str) -> int:
        return sum(getattr(player, name) for player in self.balance)

    def count(self, severity: Severity) -> int:
        return sum(count for (_, of), count in self.counts.items() if of == severity)

    def count_family(self, family: str, severity: Severity) -> int:
        return sum(n for (rule, of), n in self.counts.items() if of == severity and rule.startswith(f"{family}/"))

    @property
    def killed_with_losses(self) -> bool:
        return self.state == "killed" and any(player.lost > 0 for player in self.balance)


class Limit:
    """Of how many findings to list, over all runs; 0 for all. Errors go before warnings before notes, and no more
    than three times as many are held at any time."""

    def __init__(self, findings: int):
        self._left = findings or None

    @contextmanager
    def keeping(self, one: Checked) -> Iterator[Callable[[Finding], None]]:
        """Gives what takes the findings of `one`; at the end those to list are in it."""
        kept: dict[Severity, list[tuple[int, Finding]]] = {severity: [] for severity in SEVERITIES}
        seen = 0

        def keep(finding: Finding) -> None:
            nonlocal seen
            one.counts[finding.rule, finding.severity] += 1
            mine = kept[finding.severity]
            if self._left is None or len(mine) < self._left:
                mine.append((seen, finding))
            seen += 1

        yield keep
        chosen = [entry for severity in SEVERITIES for entry in kept[severity]]
        if self._left is not None:
            chosen = chosen[: self._left]
            self._left -= len(chosen)
        one.findings = [finding for _, finding in sorted(chosen, key=lambda entry: entry[0])]
        one.omitted = seen - len(chosen)


def print_findings(one: Checked, named: bool) -> None:
    """One line each; `named` for findings of several runs."""
    for finding in one.findings:
        where = f"{one.path} " if named else ""
        output.line(
            (f"{finding.severity.upper():<5} ", _STYLES[finding.severity]),
            f"{finding.rule:<16} ",
            (f"{where}{finding.where}".strip(), "bold"),
            ": " if finding.where or where else "",
            " ".join(finding.message.splitlines()),
        )


def print_omitted(checked: list[Checked], github: bool) -> None:
    """How many findings the limit left out."""
    omitted = sum(one.omitted for one in checked)
    if omitted:
        more = f"… and {omitted:,} more: --max-findings 0 shows all"
        output.line(f"::notice::{more}" if github else ("      " + more, "dim"))


def print_summary(checked: list[Checked], code: int) -> None:
    counts = {severity: sum(one.count(severity) for one in checked) for severity in SEVERITIES}
    names = {"error": "error", "warn": "warning", "info": "note"}
    parts = [format_number(n, names[s]) for s, n in counts.items() if n]
    rows = sum(one.rows for one in checked)
    style = "bold red" if counts["error"] else "bold yellow" if counts["warn"] else "bold green"
    text: list[output.Piece] = [(", ".join(parts) if counts["error"] + counts["warn"] else "ok", style)]
    text.append(f" · {rows:,} rows")
    if len(checked) > 1:
        text.append(f" in {len(checked)} runs")
    lost = sum(max(one.total("lost"), 0) for one in checked)
    if lost:
        text.append((f" · {lost:,} lost", "red"))
    worst = next((one for one in checked if one.count("error")), None)
    worst = worst or next((one for one in checked if one.killed_with_losses), None)
    if code:
        text.append((f"   [exit {code}]", "dim"))
    output.line(*text)
    if worst is not None:
        output.hint(f"expkit inspect {output.quoted(worst.path)}")


def as_json(checked: list[Checked], level: str, rules: dict[str, Any], ok: bool, code: int) -> dict[str, Any]:
    def totals(members: list[Checked]) -> dict[str, int]:
        names = {
            "produced": "produced",
            "written": "present",
            "dropped": "dropped_rows",
            "rejected": "rejected",
            "lost": "lost",
            "pruned": "pruned",
            "quarantined": "quarantined",
        }
        counts = {key: sum(one.total(name) for one in members) for key, name in names.items()}
        counts["written"] += counts["pruned"] + counts["quarantined"]
        return counts

    def listed(one: Checked) -> list[dict[str, Any]]:
        out = []
        for finding in one.findings:
            body = msgspec.to_builtins(finding)
            if finding.episode is not None:
                body["episode"] = output.wide_integer(finding.episode)
            out.append({"path": str(one.path), **body})
        return out

    body: dict[str, Any] = {
        "schema": "expkit.validate/1",
        "ok": ok,
        "exit_code": code,
        "level": level,
        "rows": sum(one.rows for one in checked),
        **totals(checked),
        "found": {severity: sum(one.count(severity) for one in checked) for severity in SEVERITIES},
        "rules": rules,
        "omitted": sum(one.omitted for one in checked),
        "findings": [finding for one in checked for finding in listed(one)],
    }
    body["runs"] = [{"path": one.path, "state": one.state, "rows": one.rows, **totals([one])} for one in checked]
    return body
