"""`expkit validate`: is everything that was recorded still there, whole and meaningful?"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from expkit.commands import output
from expkit.commands.options import ConfigFile, Json, MaybeRunPaths, expand, is_shard, resolve_for
from expkit.errors import CheckFailed, NewerFormat, NotThere, UsageError

if TYPE_CHECKING:
    from expkit.commands.validate_report import Checked, Limit
    from expkit.reading.run import Run
    from expkit.rules.registry import RuleChoice
    from expkit.rules.rule import Severity
    from expkit.validation.expectations import Expectation
    from expkit.validation.finding import Finding
    from expkit.validation.validate import Level

EXAMPLES = (
    ("expkit validate sample_data/run", "every checksum and every rule; many runs, folders and globs work too"),
    ("expkit validate sample_data/damaged --fail-on never", "what a damaged run looks like"),
    ("expkit validate sample_data --quick --fail-on never", "headers, footers, manifest and ledger only"),
    ("expkit validate sample_data/run --expect 'episodes >= 3' --expect 'lost == 0'", "and what you need of it"),
    ("expkit validate sample_data/run --format json", "for a script; github and junit for a build"),
    ("expkit validate sample_data/run --rules value,board,reward/replayed", "only these rules, by id or beginning"),
    ("expkit validate --explain value/legal", "what a rule asks, why, and what to do; all tells of every rule"),
    ("expkit validate sample_data/run --rule-settings 'value/frozen=off,value/balance.share=0.9'", "rules tuned"),
)

_FAIL_ON: dict[str, tuple[Severity, ...]] = {"error": ("error",), "warn": ("error", "warn"), "never": ()}
_FORMATS = ("text", "json", "github", "junit")
_TEXT_FINDINGS = 100
_WORTH_A_BAR = 100_000_000  # bytes of shards: some five seconds


def validate(
    paths: MaybeRunPaths = None,
    full: Annotated[bool, typer.Option("--full/--quick", help="Read every row, or headers and footers only.")] = True,
    fail_on: Annotated[
        str, typer.Option("--fail-on", metavar="error|warn|never", help="What makes the exit code 4.")
    ] = "error",
    expect: Annotated[
        list[str] | None,
        typer.Option(
            "--expect",
            metavar="EXPR",
            help="An error unless each run meets it, as 'episodes >= 200' or 'bytes <= 10GiB'; can be repeated. Names: "
            "rows, steps, players, shards, bytes, bytes_per_row; produced, written, dropped, rejected, lost, pruned, "
            "quarantined; episodes, won, terminated, truncated, interrupted, mean_length.",
        ),
    ] = None,
    rules: Annotated[
        str | None,
        typer.Option(
            "--rules",
            metavar="ID[,ID]|all",
            help="Which rules apply: ids, their beginnings as value, module:callable for your own.",
        ),
    ] = None,
    rule_settings: Annotated[
        str | None,
        typer.Option(
            "--rule-settings",
            metavar="ID=SEVERITY,ID.THRESHOLD=X",
            help="off, error, warn or info for a rule, or its thresholds.",
        ),
    ] = None,
    explain: Annotated[
        str | None,
        typer.Option("--explain", metavar="ID|all", help="Say what rules ask and why, and validate nothing."),
    ] = None,
    config: ConfigFile = None,
    format: Annotated[
        str, typer.Option("--format", metavar="text|json|github|junit", help="How to list findings.")
    ] = "text",
    max_findings: Annotated[
        int | None,
        typer.Option(
            "--max-findings",
            metavar="N",
            min=0,
            help="List at most N, errors first; 0 lists all. As text 100 when not given, else all. All are counted.",
        ),
    ] = None,
    threads: Annotated[
        int, typer.Option("--threads", metavar="N", min=0, help="Threads that read and decode; 0: one a core.")
    ] = 0,
    json: Json = False,
) -> None:
    """Check bytes, structure and ledger, then what the rows say."""
    from expkit.commands.validate_formats import print_github, print_junit
    from expkit.commands.validate_report import Limit, as_json, print_findings, print_omitted, print_summary
    from expkit.commands.validate_rules import counters, print_counters
    from expkit.validation.expectations import parse_expectation

    if explain is not None:
        _explain(explain, rules, json or format == "json")
        return
    if fail_on not in _FAIL_ON:
        raise UsageError(f"--fail-on '{fail_on}' is not understood; use error, warn or never")
    if format not in _FORMATS:
        raise UsageError(f"--format '{format}' is not understood; use text, json, github or junit")
    if json and format in ("github", "junit"):
        raise UsageError(f"--json and --format {format} are two formats; leave one out")
    format = "json" if json else format
    choice = _choose(rules, rule_settings, config)
    expectations = [parse_expectation(text) for text in expect or []]
    level: Level = "full" if full else "quick"
    targets = _targets(paths or [])
    for target in targets:
        if expectations and target.is_file():
            raise UsageError(f"--expect is about runs, and {target} is a shard file; name its run")
    limit = Limit((_TEXT_FINDINGS if format == "text" else 0) if max_findings is None else max_findings)
    checked = []
    for target in targets:
        one = _check(target, level, threads, choice, expectations, limit)
        checked.append(one)
        if format == "text":
            print_findings(one, named=len(targets) > 1)
        elif format == "github":
            print_github(one)
        if format in ("text", "github"):
            one.findings.clear()
    failing = _FAIL_ON[fail_on]
    failed = any(one.count(severity) for one in checked for severity in failing)
    code = 4 if failed else 3 if any(one.killed_with_losses for one in checked) else 0
    if format == "json":
        output.write_json(as_json(checked, level, counters(checked, choice), ok=not failed, code=code))
    elif format == "junit":
        print_junit(checked, level, failing, expected=bool(expectations))
    else:
        if format == "text":
            print_counters(counters(checked, choice))
        print_omitted(checked, github=format == "github")
        if format == "text":
            print_summary(checked, code)
    raise typer.Exit(code)


def _choose(rules: str | None, rule_settings: str | None, config: Path | None) -> RuleChoice:
    """The rules that apply by flags, variables, a settings file and defaults."""
    from expkit.rules.registry import choose_rules

    flags = {"rules": rules, "rule_settings": rule_settings}
    settings = resolve_for("validate", flags, config).config.validation
    return choose_rules(settings.rules, settings.rule_settings)


def _explain(wanted: str, rules: str | None, json: bool) -> None:
    """Tell of the rules that `wanted` names, those among `rules` that are named as module:callable included."""
    from expkit.commands.validate_rules import explained, print_explained
    from expkit.rules.registry import load_rules, match_rules

    named = {part.strip() for text in (wanted, rules or "") for part in text.split(",") if ":" in part}
    known = load_rules(sorted(named))
    others = ",".join(part for part in wanted.split(",") if ":" not in part)
    added = {id for id in known if id not in load_rules()}
    ids = match_rules(known, others) if others.strip() else []
    chosen = [rule for id, rule in known.items() if id in ids or (id in added and ":" in wanted)]
    if json:
        output.write_json({"schema": "expkit.validate.explain/1", "rules": [explained(rule) for rule in chosen]})
    else:
        print_explained(chosen)


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


def _check(
    target: Path, level: Level, threads: int, choice: RuleChoice, expectations: list[Expectation], limit: Limit
) -> Checked:
    from expkit.commands.validate_report import Checked
    from expkit.reading.opening import open_run
    from expkit.validation.finding import Finding
    from expkit.validation.validate import validate_shard

    one = Checked(target)
    with limit.keeping(one) as keep:
        if target.is_file():
            findings, one.rows = validate_shard(target, level, threads, choice)
            for finding in findings:
                keep(finding)
            return one
        try:
            with open_run(target) as run:
                one.state = run.state
                for finding in _findings(run, one, level, threads, choice, expectations):
                    keep(finding)
        except NewerFormat as error:
            keep(Finding(severity="error", rule="file/version", message=str(error)))
        except (CheckFailed, NotThere) as error:
            keep(Finding(severity="error", rule="run/unreadable", message=str(error)))
    return one


def _findings(
    run: Run, one: Checked, level: Level, threads: int, choice: RuleChoice, expectations: list[Expectation]
) -> Iterator[Finding]:
    """Of one run; fills in what there is to tell of it."""
    from expkit.commands.progress import Progress
    from expkit.validation.expectations import check_expectations
    from expkit.validation.validate import Totals, validate_run

    long = level == "full" and _bytes(run) >= _WORTH_A_BAR
    totals = Totals()
    with Progress(f"validating {one.path}") if long else nullcontext() as progress:
        yield from validate_run(run, level, threads, None if progress is None else progress.update, totals, choice)
    one.rows, one.balance, one.judged = totals.rows, totals.balance, totals.judged
    yield from check_expectations(run, expectations)


def _bytes(run: Run) -> int:
    """Of its shard files as far as they are still there."""
    total = 0
    for shard in run.shard_paths:
        with suppress(OSError):
            total += shard.path.stat().st_size
    return total
