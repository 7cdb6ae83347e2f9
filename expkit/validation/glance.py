"""A look at a closed shard file that costs three reads: do its header and its footer pass their checksums?

Some 40 us a file, so that `expkit validate --quick` looks at thousands of shards in a second. A file that does not
pass is not judged here: the full check says what is wrong with it.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any
from zlib import crc32

import msgspec

from expkit.errors import ShardError
from expkit.formats.shard.layout import (
    ENVELOPE,
    FILE_HEADER,
    FILE_MAGIC,
    KIND_FOOTER,
    MAX_FOOTER,
    MAX_JSON,
    TRAILER,
    TRAILER_MAGIC,
    VERSION,
    parse_envelope,
)
from expkit.formats.shard.records import open_shard

_FIRST_READ = 8192  # a header with the schema of generals has 2 to 4 KiB


def header_at_a_glance(path: Path) -> dict[str, Any] | None:
    """The header of a file that begins with one and ends with a footer, both whole. None, too, for a file that is not
    closed or cannot be read."""
    try:
        handle = open_shard(path)
    except (OSError, ShardError):
        return None
    try:
        text = _header(handle)
        if text is None or not _has_footer(handle, os.fstat(handle).st_size):
            return None
        return msgspec.json.decode(text, type=dict[str, Any])
    except (OSError, msgspec.DecodeError, RecursionError):
        return None
    finally:
        os.close(handle)


def _header(handle: int) -> bytes | None:
    """Its JSON."""
    data = os.pread(handle, _FIRST_READ, 0)
    if len(data) < FILE_HEADER.size:
        return None
    magic, version, flags, json_bytes, crc = FILE_HEADER.unpack_from(data)
    if magic != FILE_MAGIC or version != VERSION or flags or json_bytes > MAX_JSON:
        return None
    end = FILE_HEADER.size + json_bytes
    if end > len(data):
        data = os.pread(handle, end, 0)
    text = data[FILE_HEADER.size : end]
    return text if len(text) == json_bytes and crc32(text, crc32(data[: FILE_HEADER.size - 4])) == crc else None


def _has_footer(handle: int, size: int) -> bool:
    if size < TRAILER.size:
        return False
    data = os.pread(handle, TRAILER.size, size - TRAILER.size)
    offset, footer_bytes, crc, magic = TRAILER.unpack(data)
    if magic != TRAILER_MAGIC or crc32(data[:16]) != crc or footer_bytes > MAX_FOOTER:
        return False
    if offset + footer_bytes + TRAILER.size != size:
        return False
    record = os.pread(handle, footer_bytes, offset)
    found = parse_envelope(record[: ENVELOPE.size], offset)
    if found is None or found[0].kind != KIND_FOOTER or found[0].nbytes != footer_bytes:
        return False
    return crc32(record[ENVELOPE.size :], crc32(record[: ENVELOPE.size - 4])) == found[1]
