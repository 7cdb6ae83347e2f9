"""ShardWriter: appends records to one shard file, never seeks, and closes it with an index."""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping, Sequence
from os import PathLike
from typing import Any

import msgspec

from expkit.errors import NoSpace, OutputExists, ShardError, WriteFailed
from expkit.formats.shard.blocks import parse_head
from expkit.formats.shard.encode import EncodedBlock
from expkit.formats.shard.layout import (
    ENVELOPE,
    KIND_BLOCK,
    KIND_DROPS,
    KIND_EPISODES,
    KIND_FOOTER,
    KIND_META,
    KIND_NAMES,
    MAX_FOOTER,
    Envelope,
    pack_envelope,
    pack_file_header,
    pack_json,
    pack_trailer,
    unpack_json,
)
from expkit.formats.shard.read import DropsRecord, EpisodesRecord
from expkit.formats.shard.records import RecordFile
from expkit.row.episodes import EpisodeEnd, EpisodeStart
from expkit.row.schema import Schema
from expkit.system.files import disk, write_all

_EPISODES_PER_RECORD = 1024


def _failed(error: OSError, doing: str, name: str) -> NoSpace | WriteFailed:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return NoSpace(f"{name}: the disk is full, cannot {doing}; what was durable is intact, make room and go on")
    return WriteFailed(f"{name}: cannot {doing}: {error.strerror}; what was durable is intact")


class ShardWriter:
    """Appends to a new file at a path, or to a descriptor the caller opened (and closes).

    header  what the file says of itself: writer version, host, argv, config digest, run, writer, shard, policies,
            created …; the schema is added. JSON values only.

    Each append is one write call, so a kill leaves whole records and at most one torn one at the end. When a write
    fails (a full disk) the file is cut back to the last whole record and OSError is raised: NoSpace for a full disk,
    WriteFailed else; what was written before stays good and the writer may go on once there is space.
    Not to be shared between threads.
    """

    def __init__(self, target: str | PathLike[str] | int, schema: Schema, header: Mapping[str, Any]):
        owned = not isinstance(target, int)
        if isinstance(target, int):
            name, handle = f"descriptor {target}", target
            if os.fstat(target).st_size:
                raise OutputExists(f"{name} is not empty; a shard begins at the first byte of its file")
        else:
            name = os.fspath(target)
            try:
                handle = disk().create(target)
            except FileExistsError:
                raise OutputExists(f"{name} exists already; a shard is never appended to once it is left") from None
            except OSError as error:
                raise _failed(error, "make the shard", name) from None
        self._begin(name, handle, owned, schema, {**header, "schema": schema.to_builtins()})
        try:
            self._write([pack_file_header(self.header)])
        except BaseException:
            self.abandon()
            raise

    @classmethod
    def resume(cls, path: str | PathLike[str], end: int | None = None) -> ShardWriter:
        """Go on with a file that was not closed, as if its writer had not stopped: what follows its last whole
        record, or the record that begins at `end`, is cut off first.

        Only heads are read; see `check_block` for the columns. Raises NotThere, ShardError for a file that is damaged
        before that or has a footer before it, NoSpace and WriteFailed.
        """
        file = RecordFile(path)
        try:
            writer = cls.__new__(cls)
            writer._begin(file.path, -1, True, file.schema, file.header)
            writer._recount(file, file.size if end is None else end)
        finally:
            file.close()
        try:
            writer._fd = disk().open_existing(path)
            if os.fstat(writer._fd).st_size > writer.nbytes:
                disk().truncate(writer._fd, writer.nbytes)
            os.lseek(writer._fd, writer.nbytes, os.SEEK_SET)
        except OSError as error:
            writer.abandon()
            raise _failed(error, "go on with the shard", writer.name) from None
        return writer

    def _begin(self, name: str, handle: int, owned: bool, schema: Schema, header: dict[str, Any]) -> None:
        """Count from zero."""
        self.name = name
        self.schema = schema
        self.header = header
        self._fd = handle
        self._owned = owned
        self.nbytes = 0
        self.rows = 0
        self.blocks = 0
        self.episodes_started = 0
        self.rows_by_player: dict[int, int] = {}
        self.dropped: dict[int, dict[str, int]] = {}
        self.closed = False
        self._distrusted = False
        self._sequence = 0
        self._index: list[list[Any]] = []
        self._records: list[list[int]] = []
        self._episodes: dict[tuple[int, int], list[int]] = {}

    def _recount(self, file: RecordFile, end: int) -> None:
        """Count what is in a file before `end`. Raises ShardError unless it is whole, record after record."""
        self.nbytes = file.walked
        whole = bool(self.nbytes)
        for envelope, head in file.walk():
            if envelope.offset >= end:
                break
            whole &= (envelope.offset, envelope.sequence) == (self.nbytes, self._sequence)
            whole &= envelope.kind != KIND_FOOTER
            if not whole:
                break
            self.nbytes += envelope.nbytes
            self._sequence += 1
            if envelope.kind == KIND_BLOCK:
                parsed = parse_head(head, envelope.body_bytes, self.schema)
                episodes = {run[0]: (run[2], run[5]) for run in parsed.runs.tolist()}
                block = EncodedBlock(parsed.player, parsed.rows, head, (), episodes, parsed.ranges, parsed.dropped)
                self._count_block(block, envelope.offset, envelope.sequence, envelope.body_bytes)
                continue
            self._records.append([envelope.offset, envelope.kind])
            if envelope.kind in (KIND_EPISODES, KIND_DROPS):
                self._count_record(envelope, head)
        if not whole:
            raise ShardError(f"{self.name} is damaged or closed at {self.nbytes:,}; nothing can be appended to it")

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(self, *exc: object) -> None:
        if exc[0] is None:
            self.close()
        else:
            self.abandon()

    def _write(self, pieces: Sequence[bytes | memoryview]) -> None:
        """Append whole `pieces` with one call where the system allows it."""
        if self.closed:
            raise WriteFailed(f"{self.name} is closed; nothing more can be written to it")
        total = sum(map(len, pieces))
        try:
            write_all(self._fd, pieces)
        except OSError as error:
            try:
                disk().truncate(self._fd, self.nbytes)
                os.lseek(self._fd, self.nbytes, os.SEEK_SET)
            except OSError:
                self.closed = True
            raise _failed(error, "append to the shard", self.name) from None
        self.nbytes += total

    def _append(self, kind: int, flags: int, head: bytes, body: Sequence[bytes | memoryview] = ()) -> int:
        """Write a record; returns the offset it begins at."""
        offset = self.nbytes
        envelope = pack_envelope(kind, flags, head, self._sequence, sum(map(len, body)))
        self._write([envelope, head, *body])
        if kind != KIND_BLOCK:
            self._records.append([offset, kind])
        self._sequence += 1
        return offset

    def _count_record(self, envelope: Envelope, head: bytes) -> None:
        what = f"{self.name}: {KIND_NAMES[envelope.kind]} record at {envelope.offset:,}"
        tree = unpack_json(envelope.flags, head, what)
        try:
            if envelope.kind == KIND_EPISODES:
                starts = msgspec.convert(tree, EpisodesRecord).starts
                self.episodes_started += sum(not start.repeated for start in starts)
            else:
                drops = msgspec.convert(tree, DropsRecord)
                self._count_drops(drops.player, drops.causes)
        except msgspec.ValidationError as error:
            raise ShardError(f"{what} is malformed: {error}") from None

    def append_episodes(self, starts: Sequence[EpisodeStart] = (), ends: Sequence[EpisodeEnd] = ()) -> None:
        """Records of episodes that began or ended. A start is to be written, and made durable, before its rows."""
        for at in range(0, max(len(starts), len(ends)), _EPISODES_PER_RECORD):
            part = slice(at, at + _EPISODES_PER_RECORD)
            self._append(KIND_EPISODES, *pack_json({"starts": starts[part], "ends": ends[part]}))
        self.episodes_started += sum(not start.repeated for start in starts)

    def append_meta(self, tree: Mapping[str, Any]) -> None:
        """A record of anything else: additions to the policy table, notes."""
        self._append(KIND_META, *pack_json(tree))

    def append_drops(self, player: int, causes: Mapping[str, int]) -> None:
        """Rows of a player dropped since its last block, by cause, when no later block will carry them."""
        self._append(KIND_DROPS, *pack_json({"player": player, "causes": causes}))
        self._count_drops(player, causes)

    def append_block(self, block: EncodedBlock) -> int:
        """Append an encoded block; returns its offset in the file."""
        offset = self._append(KIND_BLOCK, 0, block.head, block.pieces)
        self._count_block(block, offset, self._sequence - 1, block.body_bytes)
        return offset

    def _count_block(self, block: EncodedBlock, offset: int, sequence: int, body_bytes: int) -> None:
        self._index.append(
            [offset, len(block.head), body_bytes, sequence, block.player, block.rows, *block.index, block.dropped]
        )
        self.rows += block.rows
        self.blocks += 1
        self.rows_by_player[block.player] = self.rows_by_player.get(block.player, 0) + block.rows
        self._count_drops(block.player, block.dropped)
        for episode, (rows, digest) in block.episodes.items():
            known = self._episodes.setdefault((episode, block.player), [0, 0])
            known[0] += rows
            known[1] = (known[1] + digest) & 0xFFFFFFFFFFFFFFFF

    def _count_drops(self, player: int, causes: Mapping[str, int]) -> None:
        known = self.dropped.setdefault(player, {}) if causes else {}
        for cause, rows in causes.items():
            known[cause] = known.get(cause, 0) + rows

    def sync(self) -> None:
        """Make everything appended durable (fdatasync). Raises NoSpace, WriteFailed, and after it failed once always
        WriteFailed."""
        self.check_trusted()
        try:
            disk().sync(self._fd, data_only=True)
        except OSError as error:
            self.distrust()
            raise _failed(error, "make the shard durable", self.name) from None

    def distrust(self) -> None:
        """A sync of the file failed. The system takes the pages it could not write for clean and a later sync would
        report nothing, so none is tried."""
        self._distrusted = True

    def check_trusted(self) -> None:
        """Raises WriteFailed after a sync of the file has failed."""
        if self._distrusted:
            raise WriteFailed(
                f"{self.name}: an earlier sync failed, what was written before it may be gone; "
                "check the disk, then see expkit recover"
            )

    @property
    def digests(self) -> dict[tuple[int, int], tuple[int, int]]:
        """By (episode, player): rows and digest of what this file holds."""
        return {key: (rows, digest) for key, (rows, digest) in self._episodes.items()}

    def close(self) -> None:
        """Write footer and trailer, make the file durable and close it. A second call does nothing. Raises NoSpace
        and may then be called again, or WriteFailed."""
        if self.closed and not self._distrusted:
            return
        self.check_trusted()
        # A power cut may keep later bytes and lose earlier ones: a footer that is there has its blocks.
        self.sync()
        footer = {
            "header": self.header,
            "blocks": self._index,
            "records": self._records,
            "episodes": [[*key, *value] for key, value in self._episodes.items()],
            "rows": self.rows,
        }
        flags, head = pack_json(footer, MAX_FOOTER)
        envelope = pack_envelope(KIND_FOOTER, flags, head, self._sequence, 0)
        self._write([envelope, head, pack_trailer(self.nbytes, ENVELOPE.size + len(head))])
        self.sync()
        self.abandon()

    def abandon(self) -> None:
        """Stop without footer; readers then walk the blocks."""
        if self._owned and self._fd >= 0:
            os.close(self._fd)
        self._fd = -1
        self.closed = True
