"""`expkit compact`: many small shards become few, smaller and of whole episodes, in place."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from expkit.commands import output
from expkit.commands.options import DryRun, Json, RunPath, one_run_path
from expkit.errors import UsageError
from expkit.system.units import format_number, format_size, parse_size

if TYPE_CHECKING:
    from expkit.rewrite.compact import Compacted
    from expkit.rewrite.compact_plan import CompactPlan
    from expkit.rewrite.layout import Encoding

EXAMPLES = (
    ("expkit compact runs/a --dry-run", "what it would do, and the room it takes meanwhile"),
    ("expkit compact runs/a --prove", "reads source and result again and compares all rows before deleting"),
    ("expkit compact runs/a --level 12", "smaller, at a third of the speed"),
    ("expkit compact runs/a --frame-rows 32", "larger, and three times as many single rows a second at random"),
)


def compact(
    run: RunPath,
    prove: Annotated[
        bool, typer.Option("--prove", help="Decode source and result again, compare digests, then publish.")
    ] = False,
    level: Annotated[
        int | None, typer.Option("--level", metavar="N", min=1, max=22, help="zstd level, 1 to 22 (6).")
    ] = None,
    frame_rows: Annotated[
        int | None,
        typer.Option(
            "--frame-rows", metavar="N", min=1, max=65536, help="Rows compressed together, at most 65536 (512)."
        ),
    ] = None,
    shard_size: Annotated[
        str, typer.Option("--shard-size", metavar="SIZE", help="About this large do shards become.")
    ] = "256MiB",
    dry_run: DryRun = False,
    json: Json = False,
) -> None:
    """Rewrite small shards into few, recompressed, with proof."""
    from expkit.rewrite.layout import Encoding

    path = one_run_path(run)
    size = parse_size(shard_size)
    if size < 1 << 20:
        raise UsageError(f"--shard-size {shard_size} is too small; 1MiB is the least")
    default = Encoding()
    encoding = Encoding(level or default.level, frame_rows or default.frame_rows)
    if dry_run:
        _plan_only(path, encoding, size, json)
    else:
        _compact(path, encoding, size, prove, json)


def _plan_only(path: Path, encoding: Encoding, size: int, json: bool) -> None:
    from expkit.reading.opening import open_run
    from expkit.rewrite.compact_plan import plan_compact
    from expkit.rewrite.sources import settle

    with open_run(path) as run:
        plan = plan_compact(run, settle(run), encoding, size)
    if json:
        output.write_json(
            {
                "schema": "expkit.compact/1",
                "run": path,
                "dry_run": True,
                "episodes": plan.episodes,
                "rows": plan.rows,
                "shards_replaced": plan.shards,
                "shards_written": len(plan.outputs),
                "bytes": plan.bytes,
                "peak_temporary_bytes": plan.peak_bytes,
                "episodes_left": plan.left,
            }
        )
        return
    if not plan.outputs:
        _say_nothing_to_do(path, plan.left)
        return
    output.line(
        (str(path), "bold"),
        f": would rewrite {plan.rows:,} rows of {plan.episodes:,} episodes in {format_number(plan.shards, 'shard')} "
        f"({format_size(plan.bytes)}) into {format_number(len(plan.outputs), 'shard')}, "
        f"with up to {format_size(plan.peak_bytes)} more on the disk meanwhile",
    )
    _say_left(plan.left)
    output.hint(f"expkit compact {output.quoted(path)}")


def _compact(path: Path, encoding: Encoding, size: int, prove: bool, json: bool) -> None:
    from expkit.commands.progress import Progress
    from expkit.commands.signals import finish_first
    from expkit.rewrite.compact import compact as compact_run

    with finish_first() as request, Progress(f"compacting {path} · ^C leaves it as good as before") as progress:
        total, done = 0, 0

        def planned(plan: CompactPlan) -> None:
            nonlocal total
            total = plan.rows

        def show(rows: int) -> None:
            nonlocal done
            done += rows
            progress.update(done, total)

        result = compact_run(
            path,
            proving=prove,
            encoding=encoding,
            shard_size=size,
            on_plan=planned,
            on_rows=show,
            stop=lambda: bool(request),
        )
        code = request.exit_code if result.stopped else 0
    if json:
        output.write_json(_as_json(path, result))
    else:
        _tell(path, result)
    raise typer.Exit(code)


def _as_json(path: Path, done: Compacted) -> dict[str, Any]:
    return {
        "schema": "expkit.compact/1",
        "run": path,
        "dry_run": False,
        "episodes": done.episodes,
        "rows": done.rows,
        "shards_written": done.shards,
        "shards_deleted": done.deleted,
        "bytes_deleted": done.deleted_bytes,
        "shards_waiting": done.waiting,
        "bytes_waiting": done.waiting_bytes,
        "bytes_before": done.bytes_before,
        "bytes_after": done.bytes_after,
        "episodes_left": done.left,
        "proven": done.proven and done.shards > 0,
        "recorder_answered": not done.unasked,
        "stopped": done.stopped,
    }


def _tell(path: Path, done: Compacted) -> None:
    gone = f"{format_number(done.deleted, 'old shard')} deleted"
    if not done.shards and not done.stopped:
        _say_nothing_to_do(path, done.left, gone if done.deleted else "")
    else:
        rows = max(done.run_rows, 1)
        before, after = done.bytes_before, done.bytes_after
        parts = [
            f"{_change(before, after)} ({before / rows:.1f} -> {after / rows:.1f} B/row)",
            f"{done.episodes:,} episodes in {format_number(done.shards, 'shard')}",
            *(["proven equal"] if done.proven and done.shards else []),
            gone,
        ]
        output.line((str(path), "bold"), ": ", ", ".join(parts))
    if done.waiting:
        output.line(
            f"{done.waiting:,} old shards ({format_size(done.waiting_bytes)}) are kept until nobody reads the run; "
            f"expkit compact {output.quoted(path)} deletes them then"
        )
    if done.shards:
        _say_left(done.left)
    if done.unasked:
        output.note("a recorder did not answer; its newest shard was left alone", "yellow")
    if done.stopped:
        output.line(("stopped before all was done; what was done counts, call it again for the rest", "yellow"))


def _change(before: int, after: int) -> str:
    """`98.1 -> 78.3 MiB`, or with both units where they differ."""
    was, now = format_size(before).split(), format_size(after).split()
    return f"{was[0]} -> {' '.join(now)}" if was[1] == now[1] else f"{' '.join(was)} -> {' '.join(now)}"


def _say_nothing_to_do(path: Path, left: int, more: str = "") -> None:
    output.line((str(path), "bold"), f": nothing to do, its shards are compact{', ' + more if more else ''}")
    _say_left(left)


def _say_left(left: int) -> None:
    if left:
        output.line(f"{left:,} episodes are left as they are: they are still being recorded, or share a shard with one")
