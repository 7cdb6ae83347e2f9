"""Whether all shards of a run are there.

The manifest says which there were, the ledger how many rows. Either may be behind: a shard is listed some time after it
was published, and a manifest may be missing or old without harm. So what is listed and gone is missed unless the ledger
finds all rows without it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from expkit.errors import CheckFailed, quoted
from expkit.reading.known_run import KnownRun
from expkit.reading.summary import balance
from expkit.runs.counters import WriterLedger, read_ledger
from expkit.runs.layout import published_file
from expkit.runs.manifest import read_manifest
from expkit.system.units import format_number

_SHOWN = 5


def gone_shards(run: KnownRun) -> dict[str, int]:
    """Shards that the manifest lists and that are not there, with the rows it tells of."""
    # Whoever deletes a shard takes it off the manifest first: what is still listed then was not deleted by expkit.
    found = _gone(run)
    if found:
        again = read_manifest(run.path)
        found = {name: rows for name, rows in found.items() if name in again}
    return found


def missing_shards(run: KnownRun) -> dict[str, int]:
    """Those of `gone_shards` that are missed: a manifest that is only old does not make them so."""
    found = gone_shards(run)
    if any(_told_by_rows(name, rows) for name, rows in found.items()) and _all_rows_are_there(run):
        found = {name: rows for name, rows in found.items() if not _told_by_rows(name, rows)}
    return found


def check_whole(run: KnownRun) -> None:
    """Raises CheckFailed where shards of the run are missing, or rows that were durable; ShardError where some cannot
    be read."""
    advice = f"run expkit recover {quoted(run.path)}, or go on with what is there (--partial)"
    missing = missing_shards(run)
    if missing:
        told = [f"{name} ({rows:,} rows)" for name, rows in list(missing.items())[:_SHOWN]]
        more = ", …" if len(missing) > _SHOWN else ""
        shards = format_number(len(missing), "shard")
        raise CheckFailed(f"{run.path}: {shards} missing: {', '.join(told)}{more}; {advice}")
    whole = run if run.part is None else _opened_anew(run)
    try:
        for position in range(len(whole.shard_paths)):
            whole.reader(position)
        rows = _rows_missed(whole)
        if rows:
            for block in whole.blocks():  # what cannot be read is told as that
                block.reader.runs(block.info.index)
            raise CheckFailed(f"{run.path}: {rows:,} rows that were durable are in no shard; {advice}")
    finally:
        if whole is not run:
            whole.close()


def _gone(run: KnownRun) -> dict[str, int]:
    there = {shard.name for shard in run.shard_paths if not shard.active}
    return {
        name: entry["rows"]
        for name, entry in read_manifest(run.path).items()
        if name not in there and name not in run.superseding.retired and not published_file(run.path, name).exists()
    }


def _told_by_rows(name: str, rows: int) -> bool:
    """Whether the ledger would tell that a shard is missing. Of one that was rewritten it tells nothing: without it
    the rows that it replaces count again."""
    return name.startswith("w") and rows > 0


def _opened_anew(run: KnownRun) -> KnownRun:
    """All of the run, whatever part of it is read."""
    return type(run)(run.path)


def _sections(path: Path) -> Sequence[WriterLedger]:
    """The ledger by writer, empty where it tells nothing."""
    try:
        sections = read_ledger(path) or []
    except CheckFailed:
        return []
    return [] if any(section.damaged for section in sections) else sections


def _all_rows_are_there(run: KnownRun) -> bool:
    """Whether the shards hold all rows that the ledger says are written."""
    sections = _sections(run.path)  # before the files: what is written later is in them, too
    if not sections:
        return False
    now = _opened_anew(run)
    try:
        stored = {player.player: player.stored for player in balance(now) or []}
    finally:
        now.close()
    return all(
        stored.get(player, 0) >= sum(section.players[player].written for section in sections)
        for player in range(len(sections[0].players))
    )


def _rows_missed(run: KnownRun) -> int:
    """Rows that were durable and that the shards do not hold. A run that is recorded is not asked: its ledger goes
    on."""
    if run.live_writers or not _sections(run.path):
        return 0
    missed = sum(max(player.durable - player.stored, 0) for player in balance(run) or [])
    if not missed:
        return 0
    now = _opened_anew(run)  # a recorder may have begun since, or a prune have ended
    try:
        return 0 if now.live_writers else sum(max(p.durable - p.stored, 0) for p in balance(now) or [])
    finally:
        now.close()
