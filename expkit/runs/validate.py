"""Is a run what it claims to be? Bytes first, then the structure of its episodes, then the meaning of its values.

    file/…      bytes of a shard: magic, checksums, records (rules of `expkit.formats.shard`)
    run/…       the folder: description, manifest, unclosed writers
    ledger/…    produced = written + dropped + rejected + lost, by player
    episode/…   each (episode, player): steps rise, one first and one last row, records agree with rows
    value/…     actions legal under the stored mask, values within their declared bounds, no NaN in rewards

`quick` looks at headers, footers, manifest and ledger only; `full` reads every row.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Literal

import numpy as np

from expkit.errors import CheckFailed, NotThere, ShardError
from expkit.formats.shard.check import check_shard
from expkit.formats.shard.read import ShardReader
from expkit.runs.episode_rules import EpisodeRules
from expkit.runs.finding import Finding, Severity
from expkit.runs.glance import is_sound_at_a_glance
from expkit.runs.layout import SHARD_SUFFIX, read_run_info
from expkit.runs.manifest import is_damaged, read_manifest
from expkit.runs.read import Run
from expkit.runs.summary import Balance, balance, listed_rows
from expkit.runs.value_rules import check_values, columns_for_values
from expkit.schema import KEY_NAMES

Level = Literal["quick", "full"]


def validate_shard(path: Path, level: Level = "full") -> tuple[list[Finding], int]:
    """Findings in one shard file by itself, and its rows (0 when it cannot be opened)."""
    findings = list(_check_file(path, f"{path.resolve().parent.name}/{path.stem}", level))
    try:
        with ShardReader(path) as reader:
            return findings, reader.rows
    except ShardError:
        return findings, 0


def _check_file(path: Path, shard: str, level: Level) -> Iterator[Finding]:
    """Bytes of one file. `quick` is content with a header, a footer and an index that pass their checksums."""
    if level == "quick" and is_sound_at_a_glance(path):
        return
    published = path.suffix == SHARD_SUFFIX
    tail = False
    try:
        for found in check_shard(path, deep=level == "full"):
            severity: Severity = "warn" if found.severity == "warning" else found.severity
            if found.rule == "file/tail" and published:
                severity, tail = "error", True
            yield Finding(
                severity=severity,
                rule=found.rule,
                message=found.message,
                shard=shard,
                block=found.block,
                column=found.column,
                player=found.player,
            )
        if published and not tail:
            with ShardReader(path) as reader:
                closed = reader.closed
            if not closed:
                message = "published, but its footer is gone: the file was cut short or damaged at its end"
                yield Finding(severity="error", rule="file/footer", shard=shard, message=message)
    except ShardError:
        return  # check_shard has told why the file cannot be opened
    except (NotThere, OSError) as error:
        yield Finding(severity="error", rule="file/unreadable", shard=shard, message=str(error))


def validate_run(run: Run, level: Level = "full") -> Iterator[Finding]:
    """Every finding, as it is found. Nothing in the run is changed, and nothing in it makes this raise."""
    yield from _check_folder(run)
    for position, shard in enumerate(run.shard_paths):
        yield from _check_file(run.current_path(position), shard.name, level)
    yield from _check_ledger(run, level)
    if level == "full":
        yield from _check_rows(run)


def _check_folder(run: Run) -> Iterator[Finding]:
    try:
        read_run_info(run.path)
    except (NotThere, CheckFailed) as error:
        yield Finding(severity="error", rule="run/description", message=f"{error}; the shards' headers have a copy")
    if is_damaged(run.path):
        yield Finding(severity="warn", rule="run/manifest", message="manifest.json does not pass its own checksum")
    sizes = {shard.name: shard for shard in run.shard_paths if not shard.active}
    for name, entry in read_manifest(run.path).items():
        shard = sizes.get(name)
        if shard is None:
            yield Finding(severity="error", rule="run/shard-missing", shard=name, message="listed, but not there")
        elif entry.get("bytes") != shard.path.stat().st_size:
            size = shard.path.stat().st_size
            yield Finding(
                severity="warn",
                rule="run/manifest",
                shard=name,
                message=f"listed with {entry.get('bytes'):,} bytes, the file has {size:,}",
            )
    if run.state == "killed":
        unclosed = [shard.name for shard in run.shard_paths if shard.active]
        yield Finding(
            severity="warn",
            rule="run/unclosed",
            shard=unclosed[0] if unclosed else None,
            message="the recorder ended without closing it",
        )


def _check_ledger(run: Run, level: Level) -> Iterator[Finding]:
    try:
        writers = run.counters
    except CheckFailed as error:
        yield Finding(severity="error", rule="ledger/damaged", message=str(error))
        return
    if writers is None:
        yield Finding(severity="warn", rule="ledger/missing", message="no ledger: losses cannot be told")
        return
    for writer in writers:
        if writer.damaged:
            yield Finding(severity="error", rule="ledger/damaged", message=f"section of writer w{writer.writer}")
    for player in balance(run, listed_rows(run) if level == "quick" else None) or []:
        yield from _check_balance(run, player)


def _check_balance(run: Run, player: Balance) -> Iterator[Finding]:
    if run.live_writers:
        return
    if player.present < player.durable:
        missing = player.durable - player.present
        message = f"{missing:,} rows that were durable are not in the files"
        yield Finding(severity="error", rule="ledger/durable", player=player.player, message=message)
    elif player.lost > 0 and run.state == "closed":
        message = f"{player.lost:,} rows are in no file and accounted for nowhere"
        yield Finding(severity="error", rule="ledger/balance", player=player.player, message=message)
    elif player.lost > 0:
        message = f"{player.lost:,} rows were produced but never durable"
        yield Finding(severity="warn", rule="ledger/lost", player=player.player, message=message)
    elif player.lost < 0:
        message = f"the files hold {-player.lost:,} rows more than were produced"
        yield Finding(severity="error", rule="ledger/balance", player=player.player, message=message)


def _check_rows(run: Run) -> Iterator[Finding]:
    rules = EpisodeRules(run)
    value_columns = columns_for_values(run.schema)
    for position, shard in enumerate(run.shard_paths):
        try:
            reader = run.reader(position)
        except ShardError:
            continue
        for block, info in enumerate(reader.blocks):
            rows = _read(reader, block, [*KEY_NAMES, "terminated", "truncated", *value_columns])
            if not rows.keys() >= {"episode", "step", "is_first", "is_last"}:
                rules.skip(info.player)
                continue
            yield from rules.check_block(shard.name, block, info.player, rows)
            yield from check_values(run.schema, shard.name, block, info.player, rows)
    yield from rules.finish()


def _read(reader: ShardReader, block: int, names: Sequence[str]) -> dict[str, np.ndarray]:
    """The stored columns that can be read; the checksum findings have named the others."""
    try:
        return reader.read_block(block, list(names))
    except ShardError:
        out = {}
        for name in names:
            with suppress(ShardError):
                out.update(reader.read_block(block, [name]))
        return out
