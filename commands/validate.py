"""`expkit validate`: is everything that was recorded still there, whole and meaningful?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from expkit.commands import output
from expkit.commands.options import Json, RunPaths, expand, is_shard
from expkit.errors import ExpkitError, UsageError

if TYPE_CHECKING:
    from expkit.commands.validate_report import Checked
    from expkit.runs.validate import Level

EXAMPLES = (
    ("expkit validate sample_data/run", "every checksum and every rule; many runs, folders and globs work too"),
    ("expkit validate sample_data/damaged --fail-on never", "what a damaged run looks like"),
    ("expkit validate sample_data --quick --fail-on never", "headers, footers, manifest and ledger only"),
    ("expkit validate sample_data/run --format json", "for a script; --format github for a workflow"),
)

_FAIL_ON = {"error": ("error",), "warn": ("error", "warn"), "never": ()}


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
    from expkit.commands.validate_report import as_json, print_findings, print_summary

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
            print_findings(one, github=format == "github", named=len(targets) > 1)
    failing = [f for one in checked for f in one.findings if f.severity in _FAIL_ON[fail_on]]
    code = 4 if failing else 3 if any(one.killed_with_losses for one in checked) else 0
    if json:
        output.write_json(as_json(checked, level, ok=not failing, code=code))
    elif format == "text":
        print_summary(checked, code)
    raise typer.Exit(code)


def _targets(paths: list[str]) -> list[Path]:
    """Runs and shard files. Raises UsageError where a path holds neither."""
    from expkit.runs.layout import find_runs, is_run

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


def _check(target: Path, level: Level) -> Checked:
    from expkit.commands.validate_report import Checked
    from expkit.runs.finding import Finding
    from expkit.runs.read import open_run
    from expkit.runs.summary import balance
    from expkit.runs.validate import validate_run, validate_shard

    if target.is_file():
        findings, rows = validate_shard(target, level)
        return Checked(target, rows, "closed", findings)
    with open_run(target) as run:
        one = Checked(target, 0, run.state)
        try:
            one.findings = list(validate_run(run, level))
            one.rows = len(run)
            one.balance = balance(run) or []
        except ExpkitError as error:
            one.findings.append(Finding(severity="error", rule="run/unreadable", message=str(error)))
        return one
