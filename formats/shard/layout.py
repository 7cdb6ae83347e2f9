"""Magics, structures and limits of a shard file, as SPEC.md describes them. Nothing here does any I/O."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple
from zlib import crc32

import msgspec
import numpy as np
import zstandard

from expkit.errors import ShardError

VERSION = 1
FILE_MAGIC = b"\x89EXP\r\n\x1a\n"
RECORD_MAGIC = b"\xabEXPREC\n"
TRAILER_MAGIC = b"\x89EXPEND\n"

FILE_HEADER = struct.Struct("<8sHHII")  # magic, version, flags, JSON bytes, crc32 of the 16 bytes before and the JSON
ENVELOPE = struct.Struct("<8sHHIIQI")  # magic, kind, flags, head bytes, sequence, body bytes, crc32 of these 28 + head
BLOCK = struct.Struct("<HHIIHHQQIIIIqq")
CAUSE = struct.Struct("<QB")  # rows, bytes of the name that follows
RUN = np.dtype(
    [
        ("episode", "<u8"),
        ("first_row", "<u4"),
        ("rows", "<u4"),
        ("first_step", "<u4"),
        ("last_step", "<u4"),
        ("digest", "<u8"),
    ]
)
COLUMN = np.dtype(
    [
        ("filter", "u1"),
        ("compression", "u1"),
        ("flags", "u1"),
        ("zero", "u1"),
        ("frame_rows", "<u4"),
        ("frames", "<u4"),
        ("nulls", "<u4"),
        ("low", "<u8"),
        ("high", "<u8"),
    ]
)
FRAME = np.dtype([("size", "<u4"), ("crc", "<u4")])
TRAILER = struct.Struct("<QQI8s")  # footer offset, footer bytes, crc32 of these 16, magic

KIND_BLOCK, KIND_EPISODES, KIND_META, KIND_DROPS, KIND_FOOTER = 1, 2, 3, 4, 5
KIND_NAMES = {1: "block", 2: "episodes", 3: "meta", 4: "drops", 5: "footer"}
FLAG_ZSTD_HEAD = 1  # the head is one zstd frame

RAW, ZSTD = 0, 1
LOST = 6  # a filter beside those of expkit.kernels.bits: the column's values are gone, its rows are not
STATS, HAS_NAN = 1, 2

FRAME_ROWS = 512  # of a wide column that are compressed together, where nothing else is asked for

MAX_JSON = 16 << 20  # of the file header and of a record, before compression
MAX_FOOTER = 128 << 20
# JSON bytes for each byte of a compressed head: a small file shall not unfold to gigabytes of values. Records of
# episodes and footers come to 2 to 15.
MAX_JSON_RATIO = 32
MAX_HEAD = 128 << 20
MAX_BODY = 1 << 32
MAX_ROWS = 1 << 24  # of a block
MAX_BLOCK_BYTES = 1 << 31  # of a block's stored columns, before compression
MAX_FRAME_BYTES = 1 << 30

_HELD = 5 << 10  # zlib.crc32 lets go of the GIL for more
_WORTH_LETTING_GO = 256 << 10


def checksum(data: bytes | memoryview) -> int:
    """crc32 of a frame. Of frames of usual size without letting go of the GIL: beside a busy Python loop a thread
    that does has to wait 5 ms each time to get it back, and a block has some thirty frames of 10 KB."""
    if len(data) > _WORTH_LETTING_GO:
        return crc32(data)
    view, crc = memoryview(data), 0
    for at in range(0, len(data), _HELD):
        crc = crc32(view[at : at + _HELD], crc)
    return crc


Severity = Literal["error", "warning", "info"]


class Finding(NamedTuple):
    """Something wrong in a file. `block` is the place in `ShardReader.blocks`, `column` a stored column's name."""

    severity: Severity
    rule: str
    shard: str
    block: int | None
    column: str | None
    player: int | None
    message: str

    def __str__(self) -> str:
        where = [self.shard]
        if self.block is not None:
            where.append(f"block {self.block}")
        if self.player is not None:
            where.append(f"player {self.player}")
        if self.column is not None:
            where.append(self.column)
        return f"{self.severity.upper()} {self.rule} {' '.join(where)}: {self.message}"


class Envelope(NamedTuple):
    """The start of every record, checksum verified."""

    offset: int
    kind: int
    flags: int
    head_bytes: int
    sequence: int
    body_bytes: int

    @property
    def nbytes(self) -> int:
        return ENVELOPE.size + self.head_bytes + self.body_bytes


def pack_envelope(kind: int, flags: int, head: bytes, sequence: int, body_bytes: int) -> bytes:
    """The 32 bytes that stand before `head`."""
    fixed = ENVELOPE.pack(RECORD_MAGIC, kind, flags, len(head), sequence, body_bytes, 0)[:-4]
    return fixed + crc32(head, crc32(fixed)).to_bytes(4, "little")


def parse_envelope(data: bytes, offset: int) -> tuple[Envelope, int] | None:
    """The envelope in the 32 bytes `data`, which stand at `offset`, and its crc32; None when it cannot be one."""
    if len(data) < ENVELOPE.size:
        return None
    magic, kind, flags, head_bytes, sequence, body_bytes, crc = ENVELOPE.unpack(data)
    if magic != RECORD_MAGIC or head_bytes > MAX_HEAD or body_bytes > MAX_BODY:
        return None
    return Envelope(offset, kind, flags, head_bytes, sequence, body_bytes), crc


def pack_file_header(tree: Mapping[str, Any], version: int = VERSION) -> bytes:
    """The bytes a file begins with. Raises ShardError when `tree` is too large."""
    text = msgspec.json.encode(tree)
    if len(text) > MAX_JSON:
        raise ShardError(f"a file header of {len(text):,} bytes is above the limit of {MAX_JSON:,}; store less in it")
    fixed = FILE_HEADER.pack(FILE_MAGIC, version, 0, len(text), 0)[:-4]
    return fixed + crc32(text, crc32(fixed)).to_bytes(4, "little") + text


def pack_trailer(footer_offset: int, footer_bytes: int) -> bytes:
    """The last bytes of a closed file."""
    fixed = struct.pack("<QQ", footer_offset, footer_bytes)
    return TRAILER.pack(footer_offset, footer_bytes, crc32(fixed), TRAILER_MAGIC)


def pack_json(tree: Any, limit: int = MAX_JSON) -> tuple[int, bytes]:
    """(flags, head) of a JSON record; compressed where that pays. Raises ShardError above `limit` bytes."""
    text = msgspec.json.encode(tree)
    if len(text) > limit:
        raise ShardError(
            f"a record of {len(text):,} bytes of JSON is above the limit of {limit:,}; store less metadata"
        )
    packed = zstandard.ZstdCompressor(level=3).compress(text) if len(text) > 256 else text
    pays = len(packed) < len(text) <= len(packed) * MAX_JSON_RATIO
    return (FLAG_ZSTD_HEAD, packed) if pays else (0, text)


def unpack_json(flags: int, head: memoryview | bytes, what: str, limit: int = MAX_JSON) -> Any:
    """Inverse of `pack_json`. Raises ShardError for anything that is not a JSON object of at most `limit` bytes."""
    try:
        if flags & FLAG_ZSTD_HEAD:
            size, limit = zstandard.frame_content_size(head), min(limit, len(head) * MAX_JSON_RATIO)
            if not 0 <= size <= limit:
                raise ShardError(f"{what} claims {size:,} bytes of JSON, above the limit of {limit:,}")
            head = zstandard.ZstdDecompressor().decompress(head, max_output_size=limit)
        if len(head) > limit:
            raise ShardError(f"{what} has {len(head):,} bytes of JSON, above the limit of {limit:,}")
        tree = msgspec.json.decode(head)
    except (zstandard.ZstdError, msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise ShardError(f"{what} is not readable: {error}") from None
    if not isinstance(tree, dict):
        raise ShardError(f"{what} is not a JSON object")
    return tree
