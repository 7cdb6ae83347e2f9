"""Rules of a run's folder: its description, its manifest, writers that did not finish, and what is left over."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from expkit.errors import CheckFailed, NotThere, ShardError
from expkit.formats.shard.read import ShardReader
from expkit.reading.run import Run
from expkit.reading.whole import gone_shards, missing_shards
from expkit.runs.layout import (
    ACTIVE_SUFFIX,
    SHARD_SUFFIX,
    SHARDS_DIR,
    ShardPath,
    list_shards,
    read_run_info,
    strange_entries,
)
from expkit.runs.manifest import is_damaged
from expkit.system.units import format_number, format_size
from expkit.validation.finding import Finding

_TEMPORARY = re.compile(r"\..+\.(\d+)\.tmp")
_KNOWN_FOLDER = re.compile(r"w(0|[1-9]\d{0,8})|g[1-9]\d{0,8}")


def check_folder(run: Run) -> Iterator[Finding]:
    """Findings outside the shard files; reads none of them."""
    try:
        read_run_info(run.path)
    except (NotThere, CheckFailed) as error:
        yield Finding(severity="error", rule="run/description", message=f"{error}; the shards' headers have a copy")
    for line in strange_entries(run.path):
        yield Finding(severity="error", rule="run/no-file", message=line)
    yield from _check_manifest(run)
    if run.state == "killed":
        unclosed = [shard.name for shard in run.shard_paths if shard.active]
        yield Finding(
            severity="warn",
            rule="run/unclosed",
            shard=unclosed[0] if unclosed else None,
            message="the recorder ended without closing it",
        )
    yield from _check_strays(run.path)


def _check_manifest(run: Run) -> Iterator[Finding]:
    listed = run.manifest
    if not listed and is_damaged(run.path):
        yield Finding(severity="warn", rule="run/manifest", message="manifest.json does not pass its own checksum")
    places = {shard.name: place for place, shard in enumerate(run.shard_paths) if not shard.active}
    for name, entry in listed.items():
        place = places.get(name)
        if place is not None and run.listed[place] is None:
            with suppress(OSError):  # gone since, which those who open it say
                size = os.stat(run.shard_paths[place].path).st_size
                message = f"listed with {entry['bytes']:,} bytes, the file has {size:,}"
                yield Finding(severity="warn", rule="run/manifest", shard=name, message=message)
    gone = gone_shards(run)
    missing = missing_shards(run) if gone else {}
    for name in gone:
        if name in missing:
            yield Finding(severity="error", rule="run/shard-missing", shard=name, message="listed, but not there")
        else:
            message = "listed, but not there; by the ledger no rows are missing"
            yield Finding(severity="warn", rule="run/manifest", shard=name, message=message)


def _check_strays(run: Path) -> Iterator[Finding]:
    """Folders of shards that belong to nobody, files of a rewrite that was not finished, temporary files."""
    folders = [run]
    try:
        entries = sorted(os.scandir(run / SHARDS_DIR), key=lambda entry: entry.name)
    except OSError:
        entries = []
    for entry in entries:
        if not entry.is_dir():
            continue
        folders.append(Path(entry.path))
        if not _KNOWN_FOLDER.fullmatch(entry.name):
            held = sum(name.endswith((SHARD_SUFFIX, ACTIVE_SUFFIX)) for name in os.listdir(entry.path))
            message = f"{SHARDS_DIR}/{entry.name} is no folder of a writer (wN) or a generation (gN); nobody reads "
            message += f"the {held:,} shard files in it" if held else "it"
            yield Finding(severity="warn" if held else "info", rule="run/unknown-folder", message=message)
    unfinished = [shard for shard in list_shards(run, unfinished=True, writers=False) if shard.active]
    if unfinished:
        message = f"{_files([shard.path for shard in unfinished])} of a rewrite that did not finish; nothing counts"
        yield Finding(severity="info", rule="run/unfinished", shard=unfinished[0].name, message=message)
    left = [Path(folder, name) for folder in [*folders, run / SHARDS_DIR] for name in _left_over(folder)]
    if left:
        message = f"{_files(left)} that a killed process left behind, such as {left[0].relative_to(run)}"
        yield Finding(severity="info", rule="run/temporary", message=message)


def _left_over(folder: Path) -> list[str]:
    """Names of temporary files whose process is gone."""
    try:
        found = [_TEMPORARY.fullmatch(name) for name in sorted(os.listdir(folder))]
    except OSError:
        return []
    return [match[0] for match in found if match is not None and not os.path.exists(f"/proc/{match[1]}")]


def _files(paths: list[Path]) -> str:
    size = 0
    for path in paths:
        try:
            size += os.stat(path).st_size
        except OSError:
            continue  # gone since
    return f"{len(paths):,} {'file' if len(paths) == 1 else 'files'} of {format_size(size)}"


def retired_files(run: Run) -> list[ShardPath]:
    """Files that were rewritten and not yet deleted: nothing in them counts."""
    return [shard for shard in list_shards(run.path) if shard.name in run.superseding.retired]


def check_superseded(run: Run, retired: list[ShardPath], *, partly: bool) -> Iterator[Finding]:
    """How much is on disk that no longer counts; `partly` also looks for rows in shards that hold others that do."""
    if not run.superseding:
        return
    rows, shards, size = 0, 0, 0
    for shard in retired:
        try:
            with ShardReader(shard.path) as reader:
                rows += reader.rows
                size += reader.nbytes
                shards += 1
        except (ShardError, NotThere):
            continue
    if partly:
        for position in range(len(run.shard_paths)):
            reader_or_none = run.reader_or_none(position)
            hidden = 0 if reader_or_none is None else reader_or_none.rows - run.shards[position].rows
            rows, shards = rows + hidden, shards + bool(hidden)
    if shards:
        where = format_number(shards, "shard")
        message = f"{rows:,} rows in {where} were pruned or rewritten; compact frees what they take"
        if retired:
            message += f"; {len(retired):,} of these files ({format_size(size)}) can go whole"
        yield Finding(severity="info", rule="run/superseded", message=message)
