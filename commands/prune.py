"""`expkit prune`: take the oldest episodes out of a run, by size, age, number or free space."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from expkit.commands import output
from expkit.commands.options import ConfigFile, DryRun, Json, RunPath, Yes, one_run_path, resolve_for
from expkit.errors import UsageError
from expkit.system.units import format_number, format_size

if TYPE_CHECKING:
    from expkit.rewrite.prune import PrunePlan

EXAMPLES = (
    ("expkit prune runs/a --keep-episodes 1000 --dry-run", "what would go if the newest 1,000 episodes stayed"),
    ("expkit prune runs/a --max-total 20GiB --yes", "the oldest episodes, until the shards take 20 GiB"),
    ("expkit prune runs/a --config expkit.yaml --dry-run", "what the section retention of a settings file says"),
    ("expkit prune runs/a --max-age 30d --min-free 50GiB --yes", "what ended 30 days ago, more while space is short"),
)


def prune(
    run: RunPath,
    max_total: Annotated[
        str | None, typer.Option("--max-total", metavar="SIZE", help="Bytes that the run's shards may take.")
    ] = None,
    max_age: Annotated[
        str | None, typer.Option("--max-age", metavar="T", help="Episodes that ended longer ago go, like 8h or 30d.")
    ] = None,
    keep_episodes: Annotated[
        int | None, typer.Option("--keep-episodes", metavar="N", min=0, help="Keep the newest N episodes.")
    ] = None,
    min_free: Annotated[
        str | None, typer.Option("--min-free", metavar="SIZE", help="Bytes to be free on the disk.")
    ] = None,
    dry_run: DryRun = False,
    yes: Yes = False,
    config: ConfigFile = None,
    json: Json = False,
) -> None:
    """Take the oldest episodes out: by size, age, number, free space."""
    flags = {"max_total": max_total, "max_age": max_age, "keep_episodes": keep_episodes, "min_free": min_free}
    limits = _limits(flags, config)
    if not limits:
        raise UsageError("nothing says what is to go; give --max-total, --max-age, --keep-episodes or --min-free")
    from expkit.reading.opening import open_run
    from expkit.rewrite.prune import Retention, plan_prune
    from expkit.rewrite.prune import prune as prune_run

    retention = Retention(**limits)
    path = one_run_path(run)
    if dry_run or not yes:
        with open_run(path) as opened:
            plan = plan_prune(opened, retention)
        if dry_run or not plan.episodes:
            _tell(path, plan, json, dry_run=True)
            return
        _ask(path, plan)
    _tell(path, prune_run(path, retention), json, dry_run=False)


def _limits(flags: Mapping[str, Any], config: Path | None) -> dict[str, Any]:
    """The limits that are set. A default is none: nothing is deleted because nobody said otherwise."""
    resolved = resolve_for("prune", flags, config)
    given = {name for name in flags if resolved.origins[f"retention.{name}"].source != "default"}
    limits = {name: getattr(resolved.config.retention, name) for name in given}
    return {name: value for name, value in limits.items() if value is not None}


def _ask(path: Path, plan: PrunePlan) -> None:
    """Deleting is asked for on a terminal, and has to be said with --yes elsewhere."""
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise UsageError(f"prune deletes: {_what(plan)} of {path}; say --yes, or --dry-run to look first")
    typer.confirm(f"delete {_what(plan)} of {path}?", abort=True, err=True)


def _what(plan: PrunePlan) -> str:
    episodes = f"{len(plan.episodes):,} of {len(plan.episodes) + plan.kept:,} episodes"
    return f"{episodes} ({plan.total_rows:,} rows)"


def _tell(path: Path, plan: PrunePlan, json: bool, *, dry_run: bool) -> None:
    if json:
        output.write_json(_as_json(path, plan, dry_run))
        return
    if not plan.episodes:
        output.line((str(path), "bold"), f": nothing to prune, {plan.kept:,} episodes stay")
    else:
        verb = "would prune" if dry_run else "pruned"
        files = len(plan.shards) - plan.tombstones
        shards = f"{format_number(files, 'shard')}, {format_size(plan.bytes)}"
        output.line((str(path), "bold"), f": {verb} {_what(plan)}, {shards} {'to free' if dry_run else 'freed'}")
    if plan.hidden:
        output.line(f"{plan.hidden:,} of these rows share a shard with episodes that stay: compact frees their bytes")
    if plan.short:
        output.line((f"still {format_size(plan.short)} too much: what is left is being recorded or shared", "yellow"))
    if plan.episodes:
        output.hint(f"expkit {'prune' if dry_run else 'validate'} {output.quoted(path)}{' … --yes' if dry_run else ''}")


def _as_json(path: Path, plan: PrunePlan, dry_run: bool) -> dict[str, Any]:
    players: dict[str, int] = {}
    for (_, player), rows in sorted(plan.rows.items(), key=lambda entry: entry[0][1]):
        players[str(player)] = players.get(str(player), 0) + rows
    return {
        "schema": "expkit.prune/1",
        "run": path,
        "dry_run": dry_run,
        "episodes_pruned": len(plan.episodes),
        "episodes_kept": plan.kept,
        "rows_pruned": plan.total_rows,
        "rows_hidden": plan.hidden,
        "players": players,
        "shards": plan.shards,
        "bytes_freed": plan.bytes,
        "bytes_short": plan.short,
        "peak_temporary_bytes": 0,
    }
