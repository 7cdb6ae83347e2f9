"""What readers know of a run besides its rows: shard files, annotations, its own facts from a shard's header."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from expkit.errors import SchemaError, ShardError
from expkit.formats.shard.read import ShardReader
from expkit.row.episodes import PolicyInfo
from expkit.runs.layout import RunInfo, ShardPath, moment


@dataclass(frozen=True, slots=True)
class ShardEntry:
    """One shard file of a run; `rows` is what its blocks hold."""

    name: str
    path: Path
    rows: int
    bytes: int
    closed: bool


def annotation(meta: Mapping[str, Any]) -> tuple[int, dict[str, Any]] | None:
    """(episode, metadata) of a meta record that annotates an episode, None for one that says something else."""
    note = meta.get("annotate")
    if not isinstance(note, dict) or not isinstance(note.get("metadata"), dict):
        return None
    number = str(note.get("episode"))
    return (int(number), note["metadata"]) if number.isdecimal() and len(number) < 20 else None


def stranger(header: Mapping[str, Any], shard: ShardPath, run: str) -> str:
    """What a shard's header says against its place in the run of that id, where that is known: it was copied from
    another run, or is a double of another shard. "" where nothing does; files of other programs need not have these
    keys."""
    if run and isinstance(header.get("run"), str) and header["run"] != run:
        return f"it belongs to the run {header['run'][:40]}, and this is {run[:40]}"
    number, folder = header.get("shard"), header.get("writer" if shard.generation == 0 else "generation")
    other = header.get("generation" if shard.generation == 0 else "writer")
    if type(number) is not int:
        return ""
    if type(folder) is int and (folder, number) != (shard.generation or shard.writer, shard.number):
        return f"it is {'g' if shard.generation else 'w'}{folder}/{number:06d} under another name"
    if folder is None and type(other) is int:
        return f"it is {'w' if shard.generation else 'g'}{other}/{number:06d} under another name"
    return ""


def info_from_header(reader: ShardReader) -> RunInfo:
    """What `run.yaml` says, from the header of a shard. Raises ShardError."""
    header = reader.header
    try:
        return RunInfo(
            id=str(header["run"]),
            source=str(header["source"]),
            schema=reader.schema,
            players=[str(name) for name in header["players"]],
            policies=msgspec.convert(header["policies"], list[PolicyInfo]),
            config=dict(header.get("config") or {}),
            config_digest=str(header.get("config_digest", "")),
            seed=None if header.get("seed") is None else int(header["seed"]),
            created_ns=moment(header["created_ns"]),
            metadata=dict(header.get("metadata") or {}),
            host=str(header.get("host", "")),
            argv=[str(word) for word in header.get("argv") or []],
            version=str(header.get("expkit", "")),
        )
    except (KeyError, TypeError, ValueError, OverflowError, SchemaError) as error:
        raise ShardError(f"{reader.path}: header does not describe a run ({error})") from None
