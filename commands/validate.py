"""`expkit validate`: is everything that was recorded still there, whole and meaningful?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from expkit.commands import output, session
from expkit.commands.options import Json, RunPaths, expand, is_shard
from expkit.errors import ExpkitError, UsageError
from expkit.runs.finding import Finding
from expkit.runs.layout import find_runs, is_run
from expkit.runs.read import open_run
from expkit.runs.summary import Balance, balance
from expkit.runs.validate import Level, validate_run, validate_shard

EXAMPLES = (
    ("expkit validate sample_data/*", "every checksum and every rule of all runs in a folder"),
    ("expkit validate sample_data --quick --fail-on never", "headers, footers, manifest and ledger only"),
    ("expkit validate sample_data --format json --fail-on never", "for a script; --format github for a workflow"),
)

_STYLES = {"error": "bold red", "warn": "bold yellow", "info": "dim"}
_FAIL_ON = {"error": ("error",), "warn": ("error", "warn"), "never": ()}
_LIMIT = 1000


class _Checked(msgspec.Struct):
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


def validate(
    paths: RunPaths,
    full: Annotated[bool, typer.Option("--full/--quick", help="Read every row, or headers and footers only.")] = True,
    fail_on: Annotated[
        str, typer.Option("--fail-on", metavar="error|warn|never", help="What makes the exit code 4.")
    ] = "error",
    format: Annotated[str, typer.Option("--format", metavar="text|json|github", help="How to list findings.")] = "text",
    json: Json = False,
) -> None:
    """Check checksums, structure and the ledger; list every finding."""
    if fail_on not in _FAIL_ON:
        raise UsageError(f"--fail-on '{fail_on}' is not understood; use error, warn or never")
    if format not in ("text", "json", "github"):
        raise UsageError(f"--format '{format}' is not understood; use text, json or github")
    json = json or format == "json"
    level: Level = "full" if full else "quick"
    targets = _targets(paths)
    checked = []
    for target in targets:
        one = _check(target, level)
        checked.append(one)
        if not json:
            _print_findings(one, github=format == "github", named=len(targets) > 1)
    failing = [f for one in checked for f in one.findings if f.severity in _FAIL_ON[fail_on]]
    code = 4 if failing else 3 if any(one.killed_with_losses for one in checked) else 0
    if json:
        output.write_json(_as_json(checked, level, ok=not failing, code=code))
    elif format == "text":
        _print_summary(checked, code)
    raise typer.Exit(code)


def _targets(paths: list[str]) -> list[Path]:
    """Runs and shard files. Raises UsageError where a path holds neither."""
    found = expand(paths)
    targets: list[Path] = []
    for path in found:
        if is_run(path) or is_shard(path):
            targets.append(path)
        elif path.is_dir():
            targets += find_runs(path)
    if not targets:
        where = str(found[0]) if len(found) == 1 else f"these {len(found)} paths"
        raise UsageError(f"no run and no shard file in {where}; a run is a folder with run.yaml, see expkit list")
    return list(dict.fromkeys(targets))


def _check(target: Path, level: Level) -> _Checked:
    if target.is_file():
        findings, rows = validate_shard(target, level)
        return _Checked(target, rows, "closed", findings)
    with open_run(target) as run:
        one = _Checked(target, 0, run.state)
        try:
            one.findings = list(validate_run(run, level))
            one.rows = len(run)
            one.balance = balance(run) or []
        except ExpkitError as error:
            one.findings.append(Finding(severity="error", rule="run/unreadable", message=str(error)))
        return one


def _print_findings(one: _Checked, github: bool, named: bool) -> None:
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


def _print_summary(checked: list[_Checked], code: int) -> None:
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


def _as_json(checked: list[_Checked], level: Level, ok: bool, code: int) -> dict[str, Any]:
    def totals(members: list[_Checked]) -> dict[str, int]:
        names = {"produced": "produced", "written": "present", "dropped": "dropped_rows", "rejected": "rejected"}
        counts = {key: sum(one.total(name) for one in members) for key, name in names.items()}
        return {**counts, "lost": sum(one.total("lost") for one in members)}

    def listed(one: _Checked) -> list[dict[str, Any]]:
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
