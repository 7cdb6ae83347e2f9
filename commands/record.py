"""`expkit record`: play live games and write a run."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from expkit.commands import output
from expkit.commands.contract import describe
from expkit.commands.options import ConfigFile, Force, Json, Reward, RewardColumn, resolve_for
from expkit.commands.progress import Progress
from expkit.commands.signals import finish_first
from expkit.commands.streams import one_line
from expkit.errors import UsageError, quoted
from expkit.system.units import format_count, format_duration, format_number, format_size

if TYPE_CHECKING:
    from expkit.collect import session
    from expkit.settings.config import Config, Resolved

EXAMPLES = (
    ("expkit record --rows 20000 -o runs/a --force", "20,000 rows of generals, hunter against hunter"),
    ("expkit record --episodes 4 --policy hunter,expander -o runs/b --force", "four games between two players"),
    ("expkit record --players 4 --size 24x24 --duration 2s -o runs/c --force", "two seconds of four-player games"),
    ("expkit record --seed 7 --episodes 2 --state -o runs/d --force", "repeatable, with the whole truth"),
    ("expkit record --pipeline validate --rows 9000 -o runs/e --force", "no NaN and nothing out of bounds is written"),
    ("expkit record --episodes 2 --reward weighted --reward-column end=sparse -o runs/f --force", "two rewards"),
    ("expkit record gymnasium:CartPole-v1 --rows 2000 -o runs/g --force", "any environment of Gymnasium (extra gym)"),
    ("expkit record pettingzoo:classic/rps_v2 --episodes 4 -o runs/h --force", "of PettingZoo, all agents (extra zoo)"),
    ("expkit record --append --episodes 2 -o runs/d", "the next two games of the same run, also after a crash"),
)


def record(
    source: Annotated[
        str | None,
        typer.Argument(metavar="SOURCE", help="generals, gymnasium:ID, pettingzoo:ID or module:callable."),
    ] = None,
    run: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="RUN", help="The run folder; runs/SOURCE-<utc> if left out."),
    ] = None,
    rows: Annotated[int | None, typer.Option(metavar="N", help="Stop after N rows of all players together.")] = None,
    episodes: Annotated[
        int | None, typer.Option(metavar="N", help="Record episodes 0 to N-1 (or the next N), then stop.")
    ] = None,
    duration: Annotated[str | None, typer.Option(metavar="T", help="Stop after this time, like 90s or 8h.")] = None,
    forever: Annotated[bool | None, typer.Option("--forever", help="Go on until a signal comes.")] = None,
    append: Annotated[
        bool | None,
        typer.Option("--append", help="Go on with RUN after a stop or a crash: its game, its seed, its numbering."),
    ] = None,
    num_envs: Annotated[int | None, typer.Option(metavar="B", help="Games at once (64; environments 8).")] = None,
    threads: Annotated[int | None, typer.Option(metavar="N", help="Threads that play; 0: one a core but one.")] = None,
    players: Annotated[int | None, typer.Option(metavar="P", help="Players of one game, 2 to 16.")] = None,
    size: Annotated[str | None, typer.Option(metavar="HxW", help="The board (20x20).")] = None,
    max_steps: Annotated[
        int | None, typer.Option(metavar="N", help="Steps until a game is truncated (500), an environment is cut.")
    ] = None,
    capacity: Annotated[
        int | None, typer.Option(metavar="N", help="Room in a Sequence or Graph of an environment (64 entries).")
    ] = None,
    ruleset: Annotated[str | None, typer.Option(metavar="NAME", help="generals.io or go-system.")] = None,
    seed: Annotated[
        int | None, typer.Option(metavar="S", help="Every game follows from it; random if left out.")
    ] = None,
    policy: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="hunter, expander, random or module:callable; one, or one per player."),
    ] = None,
    state: Annotated[bool | None, typer.Option("--state", help="Record the whole truth too, as state/...")] = None,
    representation: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="What is stored of a board: raw, planes, planes-float16, planes-uint8, flat, yours; with settings: "
            "planes(army_scale=255).",
        ),
    ] = None,
    pipeline: Annotated[
        str | None,
        typer.Option(metavar="LIST", help="Processors of rows, as YAML: [validate, {kind: redact, columns: [state]}]."),
    ] = None,
    reward: Reward = None,
    reward_column: RewardColumn = None,
    overflow: Annotated[
        str | None, typer.Option(metavar="POLICY", help="block, drop-oldest, drop-newest or spill.")
    ] = None,
    memory: Annotated[str | None, typer.Option(metavar="SIZE", help="All buffers together (512MiB).")] = None,
    flush_interval: Annotated[
        str | None, typer.Option(metavar="T", help="Rows are durable within this time (1s).")
    ] = None,
    sync: Annotated[
        str | None, typer.Option(metavar="none|interval|block", help="When the disk is waited for.")
    ] = None,
    shard_size: Annotated[str | None, typer.Option(metavar="SIZE", help="Close a shard at this size (256MiB).")] = None,
    shard_rows: Annotated[int | None, typer.Option(metavar="N", help="Close a shard at so many rows.")] = None,
    shard_age: Annotated[str | None, typer.Option(metavar="T", help="Close a shard at this age (1h).")] = None,
    level: Annotated[int | None, typer.Option(metavar="N", help="zstd level (1).")] = None,
    frame_rows: Annotated[
        int | None, typer.Option(metavar="N", help="Rows compressed together (512); 32 suit single rows at random.")
    ] = None,
    min_free: Annotated[
        str | None, typer.Option(metavar="SIZE", help="Stop before less is free on the disk (2GiB).")
    ] = None,
    max_total: Annotated[
        str | None, typer.Option(metavar="SIZE", help="Stop when this run and those beside it take so much.")
    ] = None,
    on_full: Annotated[
        str | None,
        typer.Option(metavar="stop|prune", help="When the disk guard says stop: stop, or prune the oldest episodes."),
    ] = None,
    force: Force = False,
    config: ConfigFile = None,
    json: Json = False,
) -> None:
    """Play live games and record every player's experience into a run."""
    flags: dict[str, Any] = {
        "source": source, "rows": rows, "episodes": episodes, "duration": duration, "forever": forever,
        "append": append,
        "num_envs": num_envs, "threads": threads, "players": players, "size": size, "max_steps": max_steps,
        "capacity": capacity,
        "ruleset": ruleset, "seed": seed, "policy": ",".join(policy) if policy else None, "state": state,
        "representation": representation, "pipeline": pipeline, "reward": reward,
        "reward_column": "; ".join(reward_column) if reward_column else None,
        "overflow": overflow, "memory": memory, "flush_interval": flush_interval,
        "sync": sync, "shard_size": shard_size, "shard_rows": shard_rows, "shard_age": shard_age, "level": level,
        "frame_rows": frame_rows,
        "min_free": min_free, "max_total": max_total, "on_full": on_full,
    }  # fmt: skip
    resolved = resolve_for("record", flags, config)
    settings = _going_on(resolved, run, force) if resolved.config.recording.append else _fitted(resolved)
    if run is None:
        name = settings.game.source.replace(":", "-").replace("/", "-")
        run = Path("runs") / f"{name}-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}"

    from expkit.collect.session import Session

    work = Session(settings, run, force=force)
    title = (
        f"recording {run} · {work.source.describe(work.game_config)} · {work.num_envs} at once · ^C finishes cleanly"
    )
    with finish_first() as request:
        request.left = lambda: _left(work)
        work.warm_up(output.note)
        unit = "rows" if settings.recording.rows or not settings.recording.episodes else "episodes"
        with Progress(title, unit) as progress:

            def show(now: session.Progress) -> None:
                if request.rotate_requested:
                    request.rotate_requested = False
                    work.rotate.set()
                _show(progress, now)

            result = work.run(should_stop=lambda: bool(request), on_progress=show)
    if json:
        output.write_json(_as_json(result))
    else:
        _summarise(result)
    if result.error is not None:
        failure = describe(result.error)
        print(f"expkit record: {one_line(failure.message)}", file=sys.stderr)
        raise typer.Exit(failure.exit_code)
    if any(_lost(result).values()):
        raise typer.Exit(3)
    if request:
        raise typer.Exit(request.exit_code)


def _left(work: session.Session) -> str:
    """What is lost to a second signal, which does not wait until all is written."""
    rows = work.unwritten()
    if not rows:
        return ""
    return f"up to {rows:,} rows are in no file; expkit recover {quoted(work.path)} closes the run and counts them"


def _fitted(resolved: Resolved) -> Config:
    from expkit.collect.game_settings import fitted_settings

    return fitted_settings(resolved, resolved.config)


def _going_on(resolved: Resolved, run: Path | None, force: bool) -> Config:
    """The settings with the game of the run that is there. Raises UsageError, SchemaError, CheckFailed."""
    from expkit.collect.continued import TAKEN_OVER, continued_settings
    from expkit.collect.game_settings import fitted_settings
    from expkit.runs.layout import read_run_info
    from expkit.runs.resume import is_begun

    if run is None:
        raise UsageError("--append needs to know the run to go on with; name it with -o RUN")
    if force:
        raise UsageError("--append goes on with a run and --force replaces it; use one of them")
    if not is_begun(run):
        return _fitted(resolved)
    return fitted_settings(resolved, continued_settings(resolved, run, read_run_info(run)), TAKEN_OVER)


def _show(progress: Progress, now: session.Progress) -> None:
    stats = now.stats
    fields = [f"durable {sum(stats.durable.values()):,}", f"dropped {_dropped(stats):,}"]
    fields += [f"ring {stats.utilization * 100:.0f}%", f"{format_size(now.bytes)}, {format_size(now.free)} free"]
    if now.unit == "s":
        left = max((now.total or 0) - now.done, 0)
        share = now.done / now.total if now.total else None
        progress.update(now.rows, None, fields, share=share, left=left)
    elif now.unit == "episodes":
        progress.update(int(now.done), int(now.total or 0), [f"{format_count(now.rows)} rows", *fields])
    else:
        progress.update(now.rows, None if now.total is None else int(now.total), fields)


def _dropped(stats: Any) -> int:
    return sum(sum(causes.values()) for causes in stats.dropped.values())


def _lost(result: session.Result) -> dict[int, int]:
    """Rows by player that were produced and neither written, dropped nor rejected."""
    stats = result.stats
    return {
        player: produced - stats.written[player] - sum(stats.dropped[player].values()) - stats.rejected[player]
        for player, produced in stats.produced.items()
    }


def _as_json(result: session.Result) -> dict[str, Any]:
    stats, lost = result.stats, _lost(result)
    players = {
        str(player): {
            "produced": stats.produced[player],
            "written": stats.written[player],
            "durable": stats.durable[player],
            "dropped": sum(stats.dropped[player].values()),
            "dropped_by_cause": stats.dropped[player],
            "rejected": stats.rejected[player],
            "lost": lost[player],
        }
        for player in stats.produced
    }
    return {
        "schema": "expkit.record/1",
        "run": str(result.run),
        "rows": result.rows,
        "steps": result.steps,
        "episodes": sum(result.episodes.values()),
        "episodes_by_end": result.episodes,
        "produced": sum(stats.produced.values()),
        "written": sum(stats.written.values()),
        "durable": sum(stats.durable.values()),
        "dropped": _dropped(stats),
        "rejected": sum(stats.rejected.values()),
        "lost": sum(lost.values()),
        "players": players,
        "seconds": result.seconds,
        "rows_per_second": result.rows / result.seconds if result.seconds else 0.0,
        "bytes": result.bytes,
        "bytes_per_row": result.bytes / result.rows if result.rows else 0.0,
        "shards": result.shards,
        "seed": output.wide_integer(result.seed),
        "writer": result.writer,
        "first_episode": output.wide_integer(result.first_episode),
        "stopped_by": result.stopped_by,
        "illegal_actions": result.illegal_actions,
        "pipeline": None if result.left_out is None else result.left_out.as_dict(),
    }


def _summarise(result: session.Result) -> None:
    stats, lost = result.stats, sum(_lost(result).values())
    rate = result.rows / result.seconds if result.seconds else 0.0
    took = f"{format_duration(result.seconds)}, {format_count(rate)} rows/s"
    output.line((f"{result.run}", "bold"), f": {result.rows:,} rows ({result.steps:,} steps), {took}")
    total = sum(result.episodes.values())
    names = {"terminated": result.terminated_word, "truncated": "truncated", "interrupted": "interrupted"}
    how = ", ".join(f"{result.episodes[key]:,} {name}" for key, name in names.items() if result.episodes.get(key))
    output.line(f"{total:,} episodes" + (f": {how}" if how else ""))
    produced, written, dropped = sum(stats.produced.values()), sum(stats.written.values()), _dropped(stats)
    ledger = f"produced {produced:,} = written {written:,} + dropped {dropped:,}"
    ledger += f" + rejected {sum(stats.rejected.values()):,}" if any(stats.rejected.values()) else ""
    output.line(ledger, (f" + lost {lost:,}", "red") if lost else "")
    for what, causes in () if result.left_out is None else result.left_out.as_dict().items():
        if isinstance(causes, dict) and causes:
            told = ", ".join(f"{rows:,} {cause}" for cause, rows in causes.items())
            output.line((f"{what}: {told}", "yellow"))
    if result.illegal_actions:
        output.line((f"{result.illegal_actions:,} illegal actions{result.illegal_word}", "yellow"))
    each = f", {result.bytes / result.rows:.1f} B/row" if result.rows else ""
    output.line(f"{format_size(result.bytes)}{each}, {format_number(result.shards, 'shard')}")
    if result.stopped_by == "demonstration":
        output.note("stopped after 5 s: no limit given, see --rows, --episodes, --duration, --forever", "yellow")
    cut = result.episodes.get("interrupted", 0)
    if cut and result.stopped_by in ("rows", "duration", "demonstration"):
        what = f"{format_number(cut, 'episode')} {'was' if cut == 1 else 'were'} cut when the limit was reached"
        output.note(f"{what}, interrupted at the last row; --episodes N records whole ones", "yellow")
    output.hint(f"expkit {'validate' if lost else 'replay'} {output.quoted(result.run)}")
