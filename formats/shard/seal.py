"""Closing, in place, the file that a killed writer left: the torn end goes, what is known of it is added, and footer
and trailer follow. No block is written again.

Everything added stands behind a meta record `{"sealed": {"cut_bytes": n}}`. So a seal that was killed itself is cut
off at that record and begun anew, and nothing is added twice, drops and other sums included.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from os import PathLike
from typing import Any, BinaryIO
from zlib import crc32

from expkit.errors import NotThere, ShardError
from expkit.formats.shard.check import check_block, check_records
from expkit.formats.shard.layout import (
    FILE_HEADER,
    FILE_MAGIC,
    KIND_BLOCK,
    KIND_EPISODES,
    KIND_FOOTER,
    KIND_META,
    MAX_JSON,
    RECORD_MAGIC,
    unpack_json,
)
from expkit.formats.shard.read import ShardReader
from expkit.formats.shard.records import RecordFile, open_shard
from expkit.formats.shard.write import ShardWriter
from expkit.row.episodes import EpisodeEnd
from expkit.system.files import DiskErrors, disk, only_zeros

SEALED = "sealed"
_HEALED = ("file/trailer", "file/footer")  # damage of what sealing writes anew
_ADVICE = "expkit recover saves what is whole"


@dataclass(frozen=True, slots=True)
class Sealed:
    """A file as `seal_shard` left it.

    empty      nothing is in it: no record, and perhaps no header. It was left as it was, for the caller to remove.
    changed    false where the file had been closed before
    cut_bytes  of a record, or of a footer, that was never finished
    ends       episode ends that were added now
    """

    empty: bool = False
    changed: bool = False
    nbytes: int = 0
    rows: int = 0
    blocks: int = 0
    rows_by_player: dict[int, int] = field(default_factory=dict)
    cut_bytes: int = 0
    ends: int = 0


def seal_shard(
    path: str | PathLike[str],
    *,
    ends: Iterable[EpisodeEnd] = (),
    metas: Iterable[Mapping[str, Any]] = (),
    drops: Iterable[tuple[int, Mapping[str, int]]] = (),
) -> Sealed:
    """Close the file of a writer that was killed; the caller holds the writer's lock, and renames the file after.

    ends   of episodes; one that has an end in the file keeps that
    metas  other records, as `ShardWriter.append_meta` takes them
    drops  (player, {cause: rows}): rows lost that no block will carry

    The file is durable when this returns. Killed anywhere and called again, it finishes; on a file that was sealed it
    does nothing. A file that its own writer closed is opened again only for an addition.

    Raises NotThere, NoSpace and WriteFailed; ShardError, and changes nothing, for a file that is damaged before its
    end, also in the bytes of a column.
    """
    notes = list(metas)
    lost = [(player, causes) for player, causes in drops if any(causes.values())]
    if _is_torn_header(path):
        return Sealed(empty=True, nbytes=os.path.getsize(path))
    with ShardReader(path) as reader:
        _refuse_damage(reader)
        survey = _survey(reader)
        missing = {end.episode: end for end in ends if end.episode not in survey.ended}
        wanted = bool(missing or notes or lost)
        if reader.closed and (survey.cut_bytes is not None or not wanted):
            _make_durable(path)
            return _as_found(reader, survey)
        if survey.is_empty and not wanted:
            return _as_found(reader, survey)
        torn = 0 if reader.closed else reader.nbytes - survey.whole
    cut = torn if survey.cut_bytes is None else survey.cut_bytes
    with ShardWriter.resume(path, survey.end) as writer:
        writer.append_meta({SEALED: {"cut_bytes": cut}})
        writer.append_episodes(ends=list(missing.values()))
        for player, causes in lost:
            writer.append_drops(player, causes)
        for note in notes:
            writer.append_meta(note)
        writer.close()
        return Sealed(
            changed=True,
            nbytes=writer.nbytes,
            rows=writer.rows,
            blocks=writer.blocks,
            rows_by_player=writer.rows_by_player,
            cut_bytes=cut,
            ends=len(missing),
        )


@dataclass(slots=True)
class _Survey:
    """records    of the writer itself, whose last ends at `end`;  ended: episodes that they end
    whole      end of the last whole record, of a seal that did not finish or of a footer
    cut_bytes  as such a seal noted it, None without one
    """

    end: int
    whole: int
    records: int = 0
    ended: set[int] = field(default_factory=set)
    cut_bytes: int | None = None

    @property
    def is_empty(self) -> bool:
        return not self.records and self.cut_bytes is None


def _survey(reader: ShardReader) -> _Survey:
    """What is in the file, up to what sealing takes off. Raises ShardError for damage before a footer."""
    file = RecordFile(reader.path, reader.schema)
    try:
        found = _Survey(file.walked, file.walked)
        passed = False
        for envelope, head in file.walk():
            found.whole = file.walked
            if envelope.kind == KIND_FOOTER:
                passed = True
            elif envelope.kind in (KIND_EPISODES, KIND_META) and not passed:
                tree = unpack_json(envelope.flags, head, f"{reader.path}: record at {envelope.offset:,}")
                note = tree.get(SEALED)
                if envelope.kind == KIND_EPISODES:
                    found.ended.update(end["episode"] for end in tree.get("ends", ()))
                elif isinstance(note, dict) and isinstance(note.get("cut_bytes"), int):
                    passed, found.cut_bytes = True, note["cut_bytes"]
            elif envelope.kind == KIND_BLOCK and passed:
                raise ShardError(f"{reader.path}: rows follow the end of the file, at {envelope.offset:,}; {_ADVICE}")
            if not passed:
                found.end = file.walked
                found.records += 1
        trailer = file.trailer()
        if trailer is not None and trailer[0] > found.whole:
            raise ShardError(f"{reader.path} is damaged at {found.whole:,}, before its footer; {_ADVICE}")
        return found
    finally:
        file.close()


def _refuse_damage(reader: ShardReader) -> None:
    """Raise ShardError for damage of anything but what sealing takes off or writes anew: heads, records, columns."""
    findings = [f for f in check_records(reader) if f.severity == "error" and f.rule not in _HEALED]
    for block in reader.blocks:
        findings += [] if findings else [f for f in check_block(reader, block, None)[0] if f.severity == "error"]
    if findings:
        found = findings[0]
        raise ShardError(f"{reader.path} is damaged before its end ({found.rule}: {found.message}); {_ADVICE}")


def _as_found(reader: ShardReader, survey: _Survey) -> Sealed:
    by_player: dict[int, int] = {}
    for block in reader.blocks:
        by_player[block.player] = by_player.get(block.player, 0) + block.rows
    return Sealed(
        empty=survey.is_empty,
        nbytes=reader.nbytes,
        rows=reader.rows,
        blocks=len(reader.blocks),
        rows_by_player=by_player,
        cut_bytes=survey.cut_bytes or 0,
    )


def _is_torn_header(path: str | PathLike[str]) -> bool:
    """Whether the file holds less than a sound header, and nothing else but zeros: its writer was killed, or the
    machine went down, as it began. Raises NotThere, ShardError when it cannot be opened."""
    try:
        with open(open_shard(path), "rb") as file:
            return _begins_only(file)
    except FileNotFoundError:
        raise NotThere(f"there is no shard {os.fspath(path)}") from None
    except OSError as error:
        raise ShardError(f"{os.fspath(path)} cannot be read: {error.strerror or error}") from None


def _begins_only(file: BinaryIO) -> bool:
    start = file.read(FILE_HEADER.size)
    if len(start) == FILE_HEADER.size and start.startswith(FILE_MAGIC):
        *_, length, crc = FILE_HEADER.unpack(start)
        if length > MAX_JSON:
            return False
        text = file.read(length)
        if len(text) == length and crc32(text, crc32(start[:-4])) == crc:
            return False
        start += text
    elif not start.startswith(FILE_MAGIC) and not FILE_MAGIC.startswith(start.rstrip(b"\0")):
        return False
    if RECORD_MAGIC in start:
        return False
    return only_zeros(file.fileno(), file.tell())


def _make_durable(path: str | PathLike[str]) -> None:
    """What a killed process wrote may be in memory only."""
    with DiskErrors(path, "make the shard durable"):
        handle = disk().open_existing(path)
        try:
            disk().sync(handle, data_only=True)
        finally:
            os.close(handle)
