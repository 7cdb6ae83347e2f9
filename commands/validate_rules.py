"""What `expkit validate` tells of its rules: how many findings each has, and what each asks and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from expkit.commands import output, session
from expkit.commands.validate_report import SEVERITIES, Checked
from expkit.rules.registry import RuleChoice
from expkit.rules.rule import TRAITS, Rule, Severity

_OVER = {
    "file": "files, folder and ledger",
    "rows": "rows",
    "steps": "a row and the next one",
    "episode": "whole episodes",
    "run": "the whole run",
}


def counters(checked: Sequence[Checked], choice: RuleChoice) -> dict[str, Any]:
    """By rule that was applied or has findings: how many rows or episodes it looked at, and its findings by
    severity."""
    found: dict[str, Counter[Severity]] = {}
    judged: Counter[str] = Counter()
    for one in checked:
        for (id, severity), count in one.counts.items():
            found.setdefault(id, Counter())[severity] += count
        judged.update(one.judged)
    out: dict[str, Any] = {}
    for id in [*choice.known, *(id for id in found if id not in choice.known)]:
        if id in judged or id in found:
            unit = "episodes" if id in choice.known and choice.known[id].over == "episode" else "rows"
            mine: Counter[Severity] = found.get(id, Counter())
            out[id] = {**({unit: judged[id]} if id in judged else {}), **{of: mine[of] for of in SEVERITIES}}
    return out


def print_counters(told: dict[str, Any]) -> None:
    """How many findings each rule has, where several rules have some; with -v of every rule that was applied, and how
    much it looked at. `told`: see `counters`."""
    if session.current().verbosity:
        columns = [output.Column("rule"), output.Column("looked at", right=True)]
        columns += [output.Column(name, right=True) for name in ("errors", "warnings", "notes")]
        rows: list[list[output.Piece]] = []
        for id, one in told.items():
            seen = next((f"{one[unit]:,} {unit}" for unit in ("rows", "episodes") if unit in one), "")
            rows.append([id, seen, *(f"{one[severity]:,}" for severity in SEVERITIES)])
        output.table(columns, rows)
        return
    found = {id: sum(one[severity] for severity in SEVERITIES) for id, one in told.items()}
    listed = [f"{id} {count:,}" for id, count in found.items() if count]
    if len(listed) > 1:
        output.line(("by rule: ", "dim"), " · ".join(listed))


def explained(rule: Rule) -> dict[str, Any]:
    """A rule as JSON values."""
    return {
        "id": rule.id,
        "severity": rule.severity,
        "over": rule.over,
        "requires": sorted(rule.requires),
        "thresholds": dict(rule.options),
        "source": rule.source,
        "text": rule.text,
    }


def print_explained(rules: Sequence[Rule]) -> None:
    """What each rule asks, why, and what can be set of it."""
    for place, rule in enumerate(rules):
        if place:
            output.line("")
        output.line((rule.id, "bold"), (f"  {rule.severity} · over {_OVER[rule.over]}", "dim"))
        for text in rule.text.splitlines():
            output.line(f"  {text}")
        for trait in sorted(rule.requires):
            output.line(("  asked where: ", "dim"), TRAITS[trait])
        if rule.options:
            told = ", ".join(f"{name}={value:g}" for name, value in rule.options.items())
            output.line(("  thresholds: ", "dim"), told)
        if rule.source != "expkit":
            output.line(("  from: ", "dim"), rule.source)


def rules_markdown(rules: Sequence[Rule]) -> str:
    """The table of rules, for the page about them."""
    lines = ["| rule | severity | over | what holds in sound data |", "| --- | --- | --- | --- |"]
    lines += [f"| `{rule.id}` | {rule.severity} | {_OVER[rule.over]} | {rule.summary} |" for rule in rules]
    return "\n".join(lines) + "\n"
