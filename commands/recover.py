"""`expkit recover`: make a damaged or unfinished run valid again, and say exactly what was saved and what was lost."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from expkit.commands import output, session
from expkit.commands.options import DryRun, Force, Json, RunPath, is_shard, near
from expkit.errors import NotThere, UsageError
from expkit.system.units import format_number, format_size

if TYPE_CHECKING:
    from expkit.recovery.report import RecoveryReport
    from expkit.runs.superseding import Ranges

EXAMPLES = (
    ("expkit recover sample_data/run", "a run that is sound: nothing to do"),
    ("expkit recover sample_data/damaged --dry-run", "what would be saved and lost; nothing is written"),
    ("expkit recover sample_data/run -o runs/sound", "into a new run; the first one is only read"),
    ("expkit recover sample_data/damaged --dry-run --json", "losses by player, column and episode, for a script"),
)
_SHOWN = 6


def recover(
    run: RunPath,
    out: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="OUT", help="Write the result there.  [default: in place]"),
    ] = None,
    force: Force = False,
    dry_run: DryRun = False,
    json: Json = False,
) -> None:
    """Make a damaged or unfinished run valid again, and say what was lost."""
    from expkit.commands.progress import PATIENCE, Progress
    from expkit.recovery.recover import check_target, plan_recovery, recover, recover_into
    from expkit.runs.layout import is_run

    path = Path(run)
    if not path.exists():
        raise NotThere(f"there is no {path}{near(run)}")
    if is_shard(path) or not is_run(path):
        raise UsageError(f"{path} is not a run; name the folder that holds run.yaml or shards/")
    seen = 0
    with Progress(f"recovering {path}", after=PATIENCE) as progress:

        def show(rows: int) -> None:
            nonlocal seen
            seen += rows
            progress.update(seen)

        if dry_run:
            if out is not None:
                check_target(path, out, force=force)
            report = plan_recovery(path, copied=out is not None, progress=show)
        elif out is None:
            report = recover(path, force=force, progress=show)
        else:
            report = recover_into(path, out, force=force, progress=show)
    # A dry run has done what it was asked for, whatever it found.
    code = 0 if dry_run else report.exit_code
    if json:
        output.write_json(_as_json(report, dry_run, code))
    else:
        _print(report, dry_run, code)
    raise typer.Exit(code)


def _print(report: RecoveryReport, dry_run: bool, code: int) -> None:
    for finding in report.findings[:_SHOWN]:
        output.line(("ERROR ", "bold red"), f"{finding.rule} ", (finding.where, "bold"), f": {finding.message}")
    if report.recording:
        writers = ", ".join(f"w{writer}" for writer in report.recording)
        output.line((str(report.path), "bold"), f": recording ({writers}); what follows is of the rest, as it is now")
    elif not report.anything_done and not report.findings:
        output.line((str(report.path), "bold"), f": {report.rows_kept:,} rows, sound and closed; ", "nothing to do")
        return
    output.line(" · ".join([_rows(report, dry_run), *_values(report)]))
    told = [*_records(report), *_work(report, dry_run)]
    if dry_run:
        told.append(f"would write {format_size(report.write_bytes)}")
        told.append(f"{format_size(report.peak_bytes)} of temporary disk at most")
    elif report.findings:
        told.append(f"revalidated: {len(report.findings):,} errors are left")
    else:
        told.append("revalidated: ok")
    output.line(" · ".join(told), *([(f"   [exit {code}]", "dim")] if code else []))
    if report.findings and not session.current().quiet:
        output.hint(f"expkit validate {output.quoted(report.path)}")


def _rows(report: RecoveryReport, dry_run: bool) -> str:
    parts = [f"rows {report.rows_kept:,} {'can be kept' if dry_run else 'kept'}"]
    players = report.players.items()
    given_up = sum(player.given_up for _, player in players)
    if given_up:
        where = [_where(number, player.episodes) for number, player in players if player.given_up]
        parts.append(f"{given_up:,} lost in damaged blocks ({'; '.join(where)})")
    missing = sum(player.missing for _, player in players)
    where = [*report.missing_shards[:_SHOWN], *(["…"] if len(report.missing_shards) > _SHOWN else [])]
    if report.unknown_stretches:
        one = report.unknown_stretches == 1
        where.append(f"{report.unknown_stretches:,} damaged stretch{'' if one else 'es'} of unknown content")
    if missing or where:
        rows = f"{missing:,}" if missing else "an unknown number"
        parts.append(f"{rows} lost with {', '.join(where) or 'shards that are gone'}")
    unseen = sum(player.never_durable for _, player in players)
    if unseen:
        parts.append(f"{unseen:,} produced but never durable")
    return ", ".join(parts)


def _values(report: RecoveryReport) -> list[str]:
    told = [
        f"{lost.values:,} {lost.column} values lost ({_where(lost.player, lost.episodes)})"
        for lost in report.values[:_SHOWN]
    ]
    more = sum(lost.values for lost in report.values[_SHOWN:])
    if more:
        told.append(f"{more:,} values of other columns lost")
    if report.values_rebuilt:
        told.append(f"{report.values_rebuilt:,} damaged values rebuilt")
    return told


def _where(player: int, episodes: Ranges) -> str:
    return f"player {player}" + (f", {_episodes(episodes)}" if episodes else "")


def _episodes(ranges: Ranges) -> str:
    told = [str(first) if first == last else f"{first}-{last}" for first, last in ranges[:_SHOWN]]
    if len(ranges) > _SHOWN:
        told.append(f"… {ranges[-1][1]}")
    return f"episode{'' if len(ranges) == 1 and ranges[0][0] == ranges[0][1] else 's'} {', '.join(told)}"


def _records(report: RecoveryReport) -> list[str]:
    told = []
    kinds = sorted({record.kind for record in report.records})
    if kinds:
        told.append(f"{len(report.records):,} records lost ({', '.join(kinds)})")
    if report.starts_made:
        told.append(f"{format_number(report.starts_made, 'lost start record')} made anew")
    if report.interrupted:
        told.append(f"{format_number(report.interrupted, 'open episode')} marked interrupted")
    if report.ended_by_rows:
        told.append(f"{format_number(report.ended_by_rows, 'lost end record')} told by the rows")
    return told


def _work(report: RecoveryReport, dry_run: bool) -> list[str]:
    told = [f"{name} {'to be rebuilt' if dry_run else 'rebuilt'}: {why}" for name, why in report.rebuilt.items()]
    if report.unaccountable:
        told.append("rows that never reached a file cannot be told any more")
    aside = "to be left out" if dry_run else "left out" if report.output is not None else "set aside in quarantine/"
    told += [f"{name} {aside}: {why}" for name, why in report.strangers.items()]
    if report.sealed:
        done = "to be published" if dry_run else "published"
        told.append(f"{format_number(len(report.sealed), 'unfinished shard')} {done}")
    if report.repaired:
        told.append(f"{format_number(len(report.repaired), 'shard')} {'to be repaired' if dry_run else 'repaired'}")
    if report.blocks_quarantined:
        told.append(f"{format_number(report.blocks_quarantined, 'block')} in quarantine/")
    if report.swept:
        told.append(f"{format_number(report.swept, 'retired file')} deleted")
    if report.left_alone:
        told.append(f"{', '.join(report.left_alone)} left to the recorder that writes it")
    if report.output is not None:
        told.append(f"result in {report.output}")
    return told


def _ranges(ranges: Ranges) -> list[list[str]]:
    return [[output.wide_integer(first), output.wide_integer(last)] for first, last in ranges]


def _as_json(report: RecoveryReport, dry_run: bool, code: int) -> dict[str, Any]:
    import msgspec

    def finding(one: Any) -> dict[str, Any]:
        body = msgspec.to_builtins(one)
        if one.episode is not None:
            body["episode"] = output.wide_integer(one.episode)
        return dict(body)

    return {
        "schema": "expkit.recover/1",
        "run": report.path,
        "output": report.path if report.output is None else report.output,
        "dry_run": dry_run,
        "ok": not report.findings,
        "exit_code": code,
        "recording": report.recording,
        "nothing_to_do": not report.anything_done,
        "rows_kept": report.rows_kept,
        "rows_lost": report.rows_lost,
        "values_lost": report.values_lost,
        "values_rebuilt": report.values_rebuilt,
        "blocks_quarantined": report.blocks_quarantined,
        "unknown_stretches": report.unknown_stretches,
        "players": {
            str(number): {
                "rows_kept": player.kept,
                "rows_lost": player.lost,
                "in_quarantine": player.given_up,
                "never_durable": player.never_durable,
                "missing": player.missing,
                "episodes": _ranges(player.episodes),
            }
            for number, player in report.players.items()
        },
        "values": [
            {"player": one.player, "column": one.column, "values": one.values, "episodes": _ranges(one.episodes)}
            for one in report.values
        ],
        "records_lost": [
            {"shard": one.shard, "kind": one.kind, "offset": one.offset, "reason": one.reason} for one in report.records
        ],
        "episodes_interrupted": report.interrupted,
        "episodes_ended_by_rows": report.ended_by_rows,
        "starts_made": report.starts_made,
        "shards_repaired": report.repaired,
        "shards_published": report.sealed,
        "shards_set_aside": report.strangers,
        "shards_missing": report.missing_shards,
        "left_alone": report.left_alone,
        "rebuilt": report.rebuilt,
        "produced_unknown": report.unaccountable,
        "files_deleted": report.swept,
        "bytes_to_write": report.write_bytes,
        "peak_temporary_bytes": report.peak_bytes,
        "findings": [finding(one) for one in report.findings],
    }
