"""RecordFile: the file header, the records and the footer of one file, each checksum verified; no block decoding.

Reads with pread, so a file that is cut, replaced or unlinked under way gives an error and never a bus fault. Every
length is compared with the file and the limits before anything is allocated.
"""

from __future__ import annotations

import os
import re
import weakref
from collections.abc import Iterator
from functools import lru_cache
from os import PathLike
from typing import Annotated, Any
from zlib import crc32

import msgspec
from msgspec import Meta

from expkit.errors import CheckFailed, NewerFormat, NotThere, SchemaError, ShardError
from expkit.formats.shard.layout import (
    ENVELOPE,
    FILE_HEADER,
    FILE_MAGIC,
    KIND_FOOTER,
    MAX_FOOTER,
    MAX_JSON,
    RECORD_MAGIC,
    TRAILER,
    TRAILER_MAGIC,
    VERSION,
    Envelope,
    Finding,
    Severity,
    parse_envelope,
    unpack_json,
)
from expkit.row.schema import Schema
from expkit.system.files import next_data, open_to_read
from expkit.system.version import __version__

_WINDOW = 1 << 20
_SHARDS = "shards"  # the folder of a run in which its shard files stand, each in one of their writer's
_PROGRAM_VERSION = re.compile(r"[0-9][0-9A-Za-z.+-]{0,31}")  # nothing else of an unknown file is repeated
_PAGE = 4096  # what a disk that fails gives back or not
_EFFORT = 256 << 20  # bytes of heads checked in vain while looking for the next record of a damaged file


_MAX = (1 << 64) - 1
_U16 = Annotated[int, Meta(ge=0, le=(1 << 16) - 1)]
_U32 = Annotated[int, Meta(ge=0, le=(1 << 32) - 1)]
_U64 = Annotated[int, Meta(ge=0)]
_I64 = Annotated[int, Meta(ge=-(1 << 63), le=(1 << 63) - 1)]


class Unreadable(ShardError):
    """The disk does not give back bytes that the file has."""


class _Written(msgspec.Struct):
    """What a header says of the program that wrote it."""

    expkit: str = ""


class Footer(msgspec.Struct, frozen=True):
    """The index of a closed file, as ShardWriter.close writes it."""

    header: dict[str, Any]
    blocks: list[
        tuple[_U64, _U64, _U64, _U64, _U16, _U32, _U64, _U64, _U32, _U32, _U32, _U32, _I64, _I64, dict[str, _U64]]
    ]
    records: list[tuple[_U64, _U16]]
    episodes: list[tuple[_U64, _U16, _U64, _U64]]
    rows: _U64

    def __post_init__(self) -> None:
        # 64 bits without a sign are more than a bound of msgspec can say.
        if any(max(row[:14]) > _MAX for row in self.blocks) or any(max(row) > _MAX for row in self.episodes):
            raise ValueError("a number has more than 64 bits")


@lru_cache(maxsize=16)
def _schema_of(text: bytes) -> Schema:
    """The files of a run have one schema, and to make it takes a third of the time to open one."""
    return Schema.from_json(text)


def open_shard(path: str | PathLike[str]) -> int:
    """A descriptor of a shard file, for reading. One that lies in a run is not looked for outside of it. Raises
    ShardError for what is no file, OSError."""
    folder = os.path.dirname(os.path.dirname(path))
    run = (os.path.dirname(folder) or os.curdir) if os.path.basename(folder) == _SHARDS else None
    try:
        return open_to_read(path, run)
    except CheckFailed as error:
        raise ShardError(str(error)) from None


class RecordFile:
    """One open shard file. `findings` lists what was found damaged so far.

    Raises NotThere when there is no such file, ShardError when it is not a shard or cannot be read without a schema,
    NewerFormat for one that only a later expkit can read.
    """

    def __init__(self, path: str | PathLike[str], schema: Schema | None = None):
        self.path = os.fspath(path)
        self.findings: list[Finding] = []
        self._noted: set[Finding] = set()
        self.header: dict[str, Any] = {}
        self.footer: Footer | None = None
        self.walked = 0  # end of the last whole record that was met
        self._following = 0  # the number that the next record has
        try:
            self._fd = open_shard(self.path)
        except FileNotFoundError:
            raise NotThere(f"there is no shard {self.path}") from None
        except OSError as error:
            raise ShardError(f"{self.path} cannot be opened: {error.strerror}") from None
        # Closed with the last reader of the file, which may still be at work when it has left the run's list.
        self._closing = weakref.finalize(self, os.close, self._fd)
        try:
            self.size = os.fstat(self._fd).st_size
            self._effort = _EFFORT + self.size
            header_good = self._read_header()
            self.read_footer()
            if not header_good and self.footer is not None:
                self.header = self.footer.header
            self.schema = self._find_schema(schema)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self._closing()
        self._fd = -1

    def note(
        self,
        rule: str,
        message: str,
        severity: Severity = "error",
        block: int | None = None,
        column: str | None = None,
        player: int | None = None,
    ) -> Finding:
        """Add a finding about this file, once."""
        finding = Finding(severity, rule, self.path, block, column, player, message)
        if finding not in self._noted:
            self._noted.add(finding)
            self.findings.append(finding)
        return finding

    def read(self, offset: int, count: int) -> bytes:
        """`count` bytes at `offset`. Raises ShardError when the file does not have them."""
        if self._fd < 0:
            raise ShardError(f"{self.path} is closed")
        if offset < 0 or count < 0 or offset + count > self.size:
            raise ShardError(f"{self.path}: {count:,} bytes at {offset:,} are beyond the end of the file")
        try:
            data = os.pread(self._fd, count, offset)
            while len(data) < count:  # Linux gives at most 2 GiB a call
                more = os.pread(self._fd, count - len(data), offset + len(data))
                if not more:
                    raise ShardError(f"{self.path}: the file became shorter while it was read")
                data += more
        except OSError as error:
            where = f"{count:,} bytes at {offset:,}"
            raise Unreadable(f"{self.path} cannot be read: {where}: {error.strerror}") from None
        return data

    def _read_header(self) -> bool:
        """Read the file header; False when it is damaged. Raises ShardError for foreign files, NewerFormat."""
        try:
            fixed = self.read(0, min(FILE_HEADER.size, self.size))
            if self._parse_header(fixed):
                return True
        except Unreadable as error:
            self.note("file/header", f"the file header cannot be read: {error}")
            return False
        if fixed[:8] != FILE_MAGIC and self.trailer() is None and RECORD_MAGIC not in self._window(0)[0]:
            raise ShardError(f"{self.path} is not an expkit shard, or nothing of it is left")
        self.note("file/header", "the file header is damaged; the copy in the footer or a given schema is needed")
        return False

    def _parse_header(self, fixed: bytes) -> bool:
        if len(fixed) == FILE_HEADER.size:
            magic, version, flags, length, crc = FILE_HEADER.unpack(fixed)
            end = FILE_HEADER.size + length
            if magic == FILE_MAGIC and length <= MAX_JSON and end <= self.size:
                text = self.read(FILE_HEADER.size, length)
                if crc32(text, crc32(fixed[:-4])) == crc:
                    if version != VERSION or flags:
                        raise NewerFormat(self._too_new(version, flags, text))
                    self.header = unpack_json(0, text, f"{self.path}: the file header")
                    self.walked = end
                    return True
        return False

    def _too_new(self, version: int, flags: int, text: bytes) -> str:
        """What to say of a file in a format of the future; only the first 20 bytes of it are sure to be as today."""
        try:
            told = msgspec.json.decode(text, type=_Written).expkit
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            told = ""
        known = _PROGRAM_VERSION.fullmatch(told)
        form = f"format version {version}" + (f" with flags {flags:#x}" if flags else "")
        return (
            f"{self.path} is in {form}, written by {f'expkit {told}' if known else 'a newer expkit'}; this is expkit "
            f"{__version__}, which reads version {VERSION}: update expkit{f' to {told} or later' if known else ''}"
        )

    def trailer(self) -> tuple[int, int] | None:
        """(offset, bytes) of the footer by a sound trailer."""
        if self.size < TRAILER.size:
            return None
        try:
            last = self.read(self.size - TRAILER.size, TRAILER.size)
        except Unreadable:
            return None
        offset, count, crc, magic = TRAILER.unpack(last)
        sound = magic == TRAILER_MAGIC and crc == crc32(last[:16])
        return (offset, count) if sound and offset + count + TRAILER.size == self.size else None

    def read_footer(self) -> None:
        """Look for trailer and footer; a footer that is there but damaged is a finding."""
        place = self.trailer()
        if place is None:
            try:
                half = self.size > TRAILER.size and TRAILER_MAGIC[:-1] in self.read(self.size - 16, 16)
            except Unreadable:
                half = True
            if half:
                self.note("file/trailer", "the trailer is damaged; blocks are found by walking the file")
            return
        record = self.record(place[0])
        if record is None or record[0].kind != KIND_FOOTER:
            self.note("file/footer", "the footer is damaged; blocks are found by walking the file")
            return
        try:
            tree = unpack_json(record[0].flags, record[1], f"{self.path}: the footer", MAX_FOOTER)
            self.footer = msgspec.convert(tree, Footer)
        except (ShardError, msgspec.ValidationError) as error:
            self.note("file/footer", f"the footer does not read as an index: {error}")

    def _find_schema(self, given: Schema | None) -> Schema:
        tree = self.header.get("schema")
        if tree is not None:
            try:
                return _schema_of(msgspec.json.encode(tree))
            except (SchemaError, RecursionError) as error:
                if given is None:
                    raise ShardError(f"{self.path}: the schema in the file is not usable: {error}") from None
                self.note("file/schema", f"the schema in the file is not usable: {error}")
        if given is None:
            raise ShardError(f"{self.path}: the file header is lost and there is no footer; give the run's schema")
        return given

    def record(self, offset: int) -> tuple[Envelope, bytes] | None:
        """The whole, undamaged record at `offset` and its head, or None."""
        if offset < 0 or offset + ENVELOPE.size > self.size:
            return None
        try:
            fixed = self.read(offset, ENVELOPE.size)
            parsed = parse_envelope(fixed, offset)
            if parsed is None or offset + parsed[0].nbytes > self.size:
                return None
            head = self.read(offset + ENVELOPE.size, parsed[0].head_bytes)
        except Unreadable:
            return None
        if crc32(head, crc32(fixed[:-4])) != parsed[1]:
            self._effort -= len(head)
            return None
        return parsed[0], head

    def _next_record(self, offset: int) -> int | None:
        """Offset of the first sound record at or after `offset`."""
        while offset < self.size and self._effort > 0:
            written = next_data(self._fd, offset)
            if written is None or written >= self.size:
                return None
            offset = max(offset, written)
            window, following = self._window(offset)
            self._effort -= max(len(window) // 16, 1)
            at = window.find(RECORD_MAGIC)
            while at >= 0 and self._effort > 0:
                self._effort -= ENVELOPE.size
                if self.record(offset + at) is not None:
                    return offset + at
                at = window.find(RECORD_MAGIC, at + 1)
            offset = following
        return None

    def _window(self, offset: int) -> tuple[bytes, int]:
        """Bytes from `offset` on, and where to go on such that no magic is missed; less than a page, or nothing,
        around bytes that the disk does not give back."""
        over = len(RECORD_MAGIC) - 1
        page = (offset // _PAGE + 1) * _PAGE
        for end, following in ((offset + _WINDOW, offset + _WINDOW - over), (page + over, page), (page, page)):
            try:
                return self.read(offset, min(end, self.size) - offset), following
            except Unreadable:
                continue
        return b"", page

    def walk(self) -> Iterator[tuple[Envelope, bytes]]:
        """All sound records from `walked` on, which moves along; stretches of damage become findings, and so do records
        that stand again: their numbers are not above all before them.

        What follows the last whole record is no damage but a record never finished, or not finished yet; a later
        call begins there again.
        """
        while True:
            at: int | None = self.walked
            record = self.record(self.walked)
            if record is None:
                at = self._next_record(self.walked + 1 if self.walked else 0)
                record = None if at is None else self.record(at)
                if record is None or at is None:
                    return
                if self.walked:
                    self.note(
                        "file/record", f"{at - self.walked:,} damaged bytes at {self.walked:,} hold no whole record"
                    )
            self.walked = record[0].offset + record[0].nbytes
            if record[0].sequence < self._following:
                self.note("file/sequence", f"record {record[0].sequence} stands again at {record[0].offset:,}")
                continue
            self._following = record[0].sequence + 1
            yield record

    @property
    def tail_bytes(self) -> int:
        """Bytes after the last whole record, once walked."""
        return self.size - self.walked

    def grown(self) -> bool:
        """Look at the file's size again; True when it changed."""
        size = os.fstat(self._fd).st_size
        if size < self.walked:
            raise ShardError(f"{self.path}: the file became shorter while it was read")
        changed, self.size = size != self.size, size
        return changed
