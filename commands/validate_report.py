"""How the findings of `expkit validate` are told: lines, workflow commands of GitHub, JSON."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from expkit.commands import output, session
from expkit.runs.finding import Finding
from expkit.runs.summary import Balance

_STYLES = {"error": "bold red", "warn": "bold yellow", "info": "dim"}
_LIMIT = 1000


class Checked(msgspec.Struct):
    """What came of one run or shard file."""

    path: Path
    rows: int = 0
    state: str = "closed"
    findings: list[Finding] = []
    balance: list[Balance] = []

    def total(self, name: str) -> int:
        return sum(getattr(player, name) for player in self.balance)

    @property
    def killed_with_losses(self) -> bool:
        return self.state == "killed" and any(player.lost > 0 for player in self.balance)


def print_findings(one: Checked, github: bool, named: bool) -> None:
    shown = [f for f in one.findings if f.severity != "info" or session.current().verbosity or len(one.findings) < 20]
    for finding in shown[:_LIMIT]:
        if github:
            _print_github(one.path, finding)
            continue
        where = f"{one.path} " if named else ""
        output.line(
            (f"{finding.severity.upper():<5} ", _STYLES[finding.severity]),
            f"{finding.rule:<16} ",
            (f"{where}{finding.where}".strip(), "bold"),
            ": " if finding.where or where else "",
            finding.message,
        )
    if len(shown) > _LIMIT:
        output.line((f"      … and {len(shown) - _LIMIT:,} more; --json lists all", "dim"))


def _print_github(path: Path, finding: Finding) -> None:
    """A workflow command that GitHub shows beside the run."""
    kind = {"error": "error", "warn": "warning", "info": "notice"}[finding.severity]
    where = f"{finding.where}: " if finding.where else ""
    message = f"{where}{finding.message}".replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
    title = finding.rule.replace("%", "%25").replace(":", "%3A").replace(",", "%2C")
    file = str(path).replace("%", "%25").replace(":", "%3A").replace(",", "%2C")
    output.line(f"::{kind} file={file},title={title}::{message}")


def print_summary(checked: list[Checked], code: int) -> None:
    counts = {s: sum(f.severity == s for one in checked for f in one.findings) for s in ("error", "warn", "info")}
    names = {"error": "error", "warn": "warning", "info": "note"}
    parts = [f"{n:,} {names[s]}{'s' * (n != 1)}" for s, n in counts.items() if n]
    rows = sum(one.rows for one in checked)
    style = "bold red" if counts["error"] else "bold yellow" if counts["warn"] else "bold green"
    text: list[output.Piece] = [(", ".join(parts) if counts["error"] + counts["warn"] else "ok", style)]
    text.append(f" · {rows:,} rows")
    if len(checked) > 1:
        text.append(f" in {len(checked)} runs")
    lost = sum(max(one.total("lost"), 0) for one in checked)
    if lost:
        text.append((f" · {lost:,} lost", "red"))
    worst = next((one for one in checked if any(f.severity == "error" for f in one.findings)), None)
    worst = worst or next((one for one in checked if one.killed_with_losses), None)
    if worst is not None and not session.current().quiet:
        text += [" · ", ("next: ", "dim"), f"expkit inspect {worst.path}"]
    if code:
        text.append((f"   [exit {code}]", "dim"))
    output.line(*text)


def as_json(checked: list[Checked], level: str, ok: bool, code: int) -> dict[str, Any]:
    def totals(members: list[Checked]) -> dict[str, int]:
        names = {"produced": "produced", "written": "present", "dropped": "dropped_rows", "rejected": "rejected"}
        counts = {key: sum(one.total(name) for one in members) for key, name in names.items()}
        return {**counts, "lost": sum(one.total("lost") for one in members)}

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
        "findings": [finding for one in checked for finding in listed(one)],
    }
    body["runs"] = [{"path": one.path, "state": one.state, "rows": one.rows, **totals([one])} for one in checked]
    return body
