"""RecordFile: the file header, the records and the footer of one file, each checksum verified; no block decoding.

Reads with pread, so a file that is cut, replaced or unlinked under way gives an error and never a bus fault. Every
length is compared with the file and the limits before anything is allocated.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from os import PathLike
from typing import Any
from zlib import crc32

import msgspec

from expkit.errors import NotThere, SchemaError, ShardError
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
from expkit.schema import Schema

_WINDOW = 1 << 20
_EFFORT = 256 << 20  # bytes of heads checked in vain while looking for the next record of a damaged file


class Footer(msgspec.Struct, frozen=True):
    """The index of a closed file, as ShardWriter.close writes it."""

    header: dict[str, Any]
    blocks: list[tuple[int, int, int, int, int, int, int, int, int, int, int, int, int, int, dict[str, int]]]
    records: list[tuple[int, int]]
    episodes: list[tuple[int, int, int, int]]
    rows: int


class RecordFile:
    """One open shard file. `findings` lists what was found damaged so far.

    Raises NotThere when there is no such file, ShardError when it is not a shard or cannot be read without a schema.
    """

    def __init__(self, path: str | PathLike[str], schema: Schema | None = None):
        self.path = os.fspath(path)
        self.findings: list[Finding] = []
        self.header: dict[str, Any] = {}
        self.footer: Footer | None = None
        self.walked = 0  # end of the last whole record that was met
        try:
            self._fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            raise NotThere(f"there is no shard {self.path}") from None
        except OSError as error:
            raise ShardError(f"{self.path} cannot be opened: {error.strerror}") from None
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
        if self._fd >= 0:
            os.close(self._fd)
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
        if finding not in self.findings:
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
            raise ShardError(f"{self.path} cannot be read: {error.strerror}") from None
        return data

    def _read_header(self) -> bool:
        """Read the file header; False when it is damaged. Raises ShardError for foreign files and newer versions."""
        fixed = self.read(0, min(FILE_HEADER.size, self.size))
        if len(fixed) == FILE_HEADER.size:
            magic, version, flags, length, crc = FILE_HEADER.unpack(fixed)
            end = FILE_HEADER.size + length
            if magic == FILE_MAGIC and length <= MAX_JSON and end <= self.size:
                text = self.read(FILE_HEADER.size, length)
                if crc32(text, crc32(fixed[:-4])) == crc:
                    if version != VERSION or flags:
                        raise ShardError(
                            f"{self.path} is of format version {version} (flags {flags}), newer than the version "
                            f"{VERSION} this program reads; update expkit"
                        )
                    self.header = unpack_json(0, text, f"{self.path}: the file header")
                    self.walked = end
                    return True
        if (
            fixed[:8] != FILE_MAGIC
            and self.trailer() is None
            and RECORD_MAGIC not in self.read(0, min(self.size, _WINDOW))
        ):
            raise ShardError(f"{self.path} is not an expkit shard, or nothing of it is left")
        self.note("file/header", "the file header is damaged; the copy in the footer or a given schema is needed")
        return False

    def trailer(self) -> tuple[int, int] | None:
        """(offset, bytes) of the footer by a sound trailer."""
        if self.size < TRAILER.size:
            return None
        offset, count, crc, magic = TRAILER.unpack(self.read(self.size - TRAILER.size, TRAILER.size))
        sound = magic == TRAILER_MAGIC and crc == crc32(self.read(self.size - TRAILER.size, 16))
        return (offset, count) if sound and offset + count + TRAILER.size == self.size else None

    def read_footer(self) -> None:
        """Look for trailer and footer; a footer that is there but damaged is a finding."""
        place = self.trailer()
        if place is None:
            if self.size > TRAILER.size and TRAILER_MAGIC[:-1] in self.read(self.size - 16, 16):
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
                return Schema.from_builtins(tree)
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
        fixed = self.read(offset, ENVELOPE.size)
        parsed = parse_envelope(fixed, offset)
        if parsed is None or offset + parsed[0].nbytes > self.size:
            return None
        head = self.read(offset + ENVELOPE.size, parsed[0].head_bytes)
        if crc32(head, crc32(fixed[:-4])) != parsed[1]:
            self._effort -= len(head)
            return None
        return parsed[0], head

    def _next_record(self, offset: int) -> int | None:
        """Offset of the first sound record at or after `offset`."""
        while offset < self.size and self._effort > 0:
            window = self.read(offset, min(_WINDOW, self.size - offset))
            self._effort -= len(window) // 16
            at = window.find(RECORD_MAGIC)
            while at >= 0 and self._effort > 0:
                self._effort -= ENVELOPE.size
                if self.record(offset + at) is not None:
                    return offset + at
                at = window.find(RECORD_MAGIC, at + 1)
            if len(window) < len(RECORD_MAGIC):
                break
            offset += len(window) - len(RECORD_MAGIC) + 1
        return None

    def walk(self) -> Iterator[tuple[Envelope, bytes]]:
        """All sound records from `walked` on, which moves along; stretches of damage become findings.

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
