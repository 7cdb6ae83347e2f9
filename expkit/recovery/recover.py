"""Makes a damaged or unfinished run valid again, and says exactly what was saved and what was lost.

In place, each damaged shard is replaced under its own name by a sound file of what could be kept, after a second name
of the damaged one was put into `quarantine/`. Then what killed writers left is closed, and ledger, manifest and
`run.yaml` are made to say what the files hold. Every step may be the last one before a kill: done again, a recovery
goes on from what it finds, and of a sound run it changes nothing. Or the result goes into a new folder, and the run
is only read.

A recovery succeeds when `validate` finds no error in its result, and not before.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from expkit.errors import Busy, CheckFailed, NotThere, OutputExists
from expkit.formats.shard.check import check_shard
from expkit.formats.shard.read import ShardReader
from expkit.formats.shard.write import ShardWriter
from expkit.reading.opening import open_run
from expkit.recovery.ledger import restore_ledger, settle_writer
from expkit.recovery.plan import REPAIR_SUFFIX, RunSurvey, known_writers, made_end, players_of, survey_run
from expkit.recovery.quarantine import copy_file, quarantine_file, write_reasons
from expkit.recovery.report import RecoveryReport, report_of
from expkit.recovery.salvage import ShardSurvey
from expkit.recovery.salvage_file import salvage
from expkit.rewrite.generation import carried, sweep
from expkit.row.episodes import WRITER_BITS, EpisodeEnd
from expkit.runs.layout import (
    COUNTERS_FILE,
    EVENTS_FILE,
    LOCKS_DIR,
    MANIFEST_FILE,
    RUN_FILE,
    SHARDS_DIR,
    is_run,
    list_shards,
    log_event,
    refuse_strange_entries,
    shard_file,
    write_run_info,
)
from expkit.runs.locks import READERS_LOCK, ReaderLock, live_writers, lock_writer, maintenance
from expkit.runs.manifest import entry, is_damaged, read_manifest, rebuild_manifest, update_manifest
from expkit.runs.resume import close_dead_writer
from expkit.runs.superseding import next_shard_number
from expkit.runs.write import shard_header
from expkit.system.files import DiskErrors, disk, make_folder, publish, remove_tree, unlink_quietly
from expkit.validation.finding import Finding
from expkit.validation.validate import validate_run

Progress = Callable[[int], None]


def plan_recovery(
    path: Path, *, copied: bool = False, threads: int = 0, progress: Progress | None = None
) -> RecoveryReport:
    """What `recover`, or with `copied` `recover_into`, would do now. Reads every byte and writes nothing. Raises as
    `survey_run`."""
    return report_of(survey_run(path, threads=threads, progress=progress), copied=copied)


def recover(path: Path, *, force: bool = False, threads: int = 0, progress: Progress | None = None) -> RecoveryReport:
    """Recover the run at `path` in place; with `force` also beside writers that live, which are left alone,
    and giving up bytes that the disk does not give back.

    `report.findings` are the errors that validation finds in the result: none after a success.

    Raises Busy while the run is recorded and when other maintenance is at work, NotThere where there is no run,
    CheckFailed when nothing says what the run is, NewerFormat, ReadFailed, ShardError for a shard that fails under way,
    NoSpace, WriteFailed. What was whole before is then still there.
    """
    if not is_run(path):
        raise NotThere(f"{path}: no run here (neither {RUN_FILE} nor {SHARDS_DIR}/); see expkit list")
    with maintenance(path), _dead_writers(path) as live:
        if live and not force:
            names = ", ".join(f"w{writer}" for writer in live)
            raise Busy(
                f"{path} is being recorded ({names}); stop that recorder, or recover what is not of it with --force"
            )
        survey = survey_run(path, threads=threads, progress=progress, live=live, force=force)
        report = report_of(survey)
        _sweep_repairs(path)
        if survey.info_damage:
            quarantine_file(path, path / RUN_FILE)
            write_run_info(path, survey.info)
        for shard in survey.strangers:
            _set_aside(survey, shard)
        for shard in survey.to_repair:
            _repair(survey, shard)
        _close(path, survey)
        report.swept = sweep(path)[0] if survey.waiting else 0
        _list_shards(path)
        report.findings = _errors(path, threads)
        if report.anything_done:
            log_event(path, "recovered", rows_lost=report.rows_lost, values_lost=report.values_lost)
        return report


def recover_into(
    path: Path, target: Path, *, force: bool = False, threads: int = 0, progress: Progress | None = None
) -> RecoveryReport:
    """Make a sound copy of the run at `path` at `target`, which is not there until it is complete and validates. The
    run itself is only read. Raises as `recover`, OutputExists, Busy while the run is recorded."""
    check_target(path, target, force=force)
    refuse_strange_entries(path)
    readers = ReaderLock(path)
    readers.renew()
    hidden = target.with_name(f".{target.name}.recover")
    try:
        survey = survey_run(path, threads=threads, progress=progress, force=force)
        if survey.live:
            raise Busy(f"{path} is being recorded; stop that recorder, or recover in place, which leaves it alone")
        report = report_of(survey, copied=True)
        report.output = target
        with DiskErrors(target, "make it"):
            if hidden.exists():
                remove_tree(hidden)
            make_folder(hidden)
        _copy_run(survey, hidden)
        with maintenance(hidden):
            _close(hidden, survey)
            _list_shards(hidden)
            report.findings = _errors(hidden, threads)
            log_event(hidden, "recovered", rows_lost=report.rows_lost, values_lost=report.values_lost)
        if not report.findings:
            _put_in_place(hidden, target)
        return report
    finally:
        readers.release()
        with suppress(OSError):
            remove_tree(hidden)


def check_target(path: Path, target: Path, *, force: bool = False) -> None:
    """Whether the result may go to `target`. Raises OutputExists."""
    if target.exists() and not force:
        raise OutputExists(f"{target} exists already; use --force to replace it, or choose another -o")
    if target.exists() and not (is_run(target) or not any(target.iterdir())):
        raise OutputExists(f"{target} exists already and is no run; choose another -o")
    if target.resolve() == path.resolve():
        raise OutputExists(f"{target} is the run itself; leave out -o to recover it in place")


def _put_in_place(hidden: Path, target: Path) -> None:
    with DiskErrors(target, "put it in place"):
        before = target.with_name(f".{target.name}.before")
        if target.exists():
            disk().rename(target, before)
        disk().rename(hidden, target)
        disk().sync_folder(target.parent)
        if before.exists():
            remove_tree(before)


@contextmanager
def _dead_writers(path: Path) -> Iterator[list[int]]:
    """Holds the locks of all writers that are not alive, so that none begins meanwhile; gives those that are."""
    live = live_writers(path)
    with ExitStack() as held:
        for writer in sorted(known_writers(path, list_shards(path)) - set(live)):
            try:
                held.enter_context(lock_writer(path, writer)[1])
            except Busy:
                live.append(writer)
        yield sorted(live)


def _sweep_repairs(path: Path) -> None:
    """Files that a recovery was writing when it was killed."""
    for folder in (path / SHARDS_DIR).glob("*"):
        for left in folder.glob(f"*{REPAIR_SUFFIX}"):
            unlink_quietly(left)


def _header(survey: RunSurvey, shard: ShardSurvey) -> dict[str, Any]:
    """The header of a repaired shard: its own, its footer's copy, or what another shard of the run would say, with
    the account of the rows that are given up."""
    header = {name: value for name, value in shard.header.items() if name != "schema"}
    if not header:
        place = shard.shard
        header = shard_header(survey.info, place.number, writer=place.writer or 0)
        if place.generation:
            del header["writer"]
            listed = read_manifest(survey.path).get(place.name, {})
            header |= {"generation": place.generation, "removed": listed.get("removed", [])}
    new = [[writer, player, 0, rows] for (writer, player), rows in survey.quarantined(shard).items()]
    if new:
        header["removed"] = carried([header, {"removed": new}])
    return header


def _write_repaired(survey: RunSurvey, shard: ShardSurvey, target: Path) -> None:
    """The sound file in place of a damaged shard, durable and checked. Raises CheckFailed."""
    unlink_quietly(target)
    starts, ends = survey.starts.get(shard.name, ()), survey.ends.get(shard.name, ())
    try:
        salvage(shard, target, _header(survey, shard), survey.info.schema, starts=starts, ends=ends)
        for found in check_shard(target):
            if found.severity == "error":
                raise CheckFailed(f"{shard.shard.path}: what was saved of it does not pass its checks ({found})")
    except BaseException:
        unlink_quietly(target)
        raise


def _repair(survey: RunSurvey, shard: ShardSurvey) -> None:
    """Replace a damaged shard; from the rename on what is given up is accounted for."""
    place = shard.shard.path
    repaired = place.with_suffix(REPAIR_SUFFIX)
    _write_repaired(survey, shard, repaired)
    _keep_what_was(survey, shard)
    with DiskErrors(place, "put the repaired shard in its place"):
        disk().rename(repaired, place)
        disk().sync_folder(place.parent)


def _set_aside(survey: RunSurvey, shard: ShardSurvey) -> None:
    """Take a shard that does not belong to the run out of it."""
    _keep_what_was(survey, shard)
    with DiskErrors(shard.shard.path, "set it aside"):
        disk().unlink(shard.shard.path)
        disk().sync_folder(shard.shard.path.parent)


def _keep_what_was(survey: RunSurvey, shard: ShardSurvey) -> None:
    """The file as it was in `quarantine/`, and why it is there."""
    kept = quarantine_file(survey.path, shard.shard.path, f"{shard.name.replace('/', '-')}{shard.shard.path.suffix}")
    write_reasons(shard, kept.with_name(f"{kept.name}.json"))


def _copy_run(survey: RunSurvey, target: Path) -> None:
    """The run as it will be, but for what `_close` does: sound shards copied, damaged ones salvaged."""
    source = survey.path
    with DiskErrors(target, "copy the run"):
        for folder in (SHARDS_DIR, LOCKS_DIR):
            make_folder(target / folder)
        os.close(disk().open_or_create(target / LOCKS_DIR / READERS_LOCK))
        for name in (EVENTS_FILE, COUNTERS_FILE):
            if (source / name).is_file():
                copy_file(source / name, target / name)
        for shard in survey.shards:
            place = target / shard.shard.path.relative_to(source)
            make_folder(place.parent)
            if not survey.needs_repair(shard):
                copy_file(shard.shard.path, place)
                disk().sync_folder(place.parent)
    write_run_info(target, survey.info)
    for shard in survey.to_repair:
        place = target / shard.shard.path.relative_to(source)
        _write_repaired(survey, shard, place)
        with DiskErrors(place, "write it"):
            disk().sync_folder(place.parent)


def _close(path: Path, survey: RunSurvey) -> None:
    """Bring what dead writers left to what a clean stop leaves, and the ledger to what the files hold."""
    restore_ledger(path, survey)
    for writer in survey.writers:
        close_dead_writer(path, writer)
    _end_the_rest(path, survey)
    for writer in sorted({writer for writer, _ in survey.settled}):
        settle_writer(path, survey, writer)


def _end_the_rest(path: Path, survey: RunSurvey) -> None:
    """End records of episodes that no repaired shard and no writer's last shard could take: a shard of their own."""
    if not survey.open_episodes:
        return
    with open_run(path) as run:
        left = [e.number for e in run.episodes() if e.end is None and e.number >> WRITER_BITS not in survey.live]
        if not left:
            return
        kept = survey.kept()
    by_writer: dict[int, list[EpisodeEnd]] = {}
    known = players_of(kept, left)
    now = survey.surveyed_ns
    for episode in left:
        end = made_end(episode, known[episode], now, len(survey.info.players))
        by_writer.setdefault(episode >> WRITER_BITS, []).append(end)
    for writer, ends in by_writer.items():
        number = next_shard_number(path, writer)
        place = shard_file(path, writer, number, active=True)
        with DiskErrors(path, "end the episodes that were open"):
            make_folder(place.parent)
            unlink_quietly(place)
            with ShardWriter(place, survey.info.schema, shard_header(survey.info, number, writer=writer)) as shard:
                shard.append_episodes((), ends)
            publish(place, shard_file(path, writer, number))
            disk().sync_folder(place.parent)


def _list_shards(path: Path) -> None:
    """Make the manifest say what is there; a writer that lives may add to it meanwhile."""
    readers: dict[str, ShardReader] = {}
    listed = {} if is_damaged(path) else read_manifest(path)
    with ExitStack() as opened:
        for shard in list_shards(path):
            if not shard.active:
                reader = opened.enter_context(ShardReader(shard.path))
                if listed.get(shard.name) != entry(reader):
                    readers[shard.name] = reader
                else:
                    reader.close()
                listed.pop(shard.name, None)
        if is_damaged(path) or not (path / MANIFEST_FILE).exists():
            rebuild_manifest(path, readers)
        elif readers or listed:
            update_manifest(path, {**readers, **dict.fromkeys(listed)})


def _errors(path: Path, threads: int) -> list[Finding]:
    """Errors that validation finds."""
    with open_run(path) as run:
        return [finding for finding in validate_run(run, "full", threads) if finding.severity == "error"]
