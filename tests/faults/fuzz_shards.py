"""Shard files that are wrong and whose checksums are right: taken apart, changed, and sealed again.

A fuzzer that flips bytes is stopped by the first checksum; what is behind it would never be tried.
"""

from __future__ import annotations

import struct
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import accumulate
from random import Random
from typing import Any
from zlib import crc32

import msgspec
import zstandard

from expkit.errors import ShardError
from expkit.formats.shard.layout import (
    BLOCK,
    CAUSE,
    COLUMN,
    ENVELOPE,
    FILE_HEADER,
    FILE_MAGIC,
    FLAG_ZSTD_HEAD,
    FRAME,
    KIND_BLOCK,
    KIND_FOOTER,
    RECORD_MAGIC,
    RUN,
    TRAILER,
    TRAILER_MAGIC,
    pack_envelope,
    pack_trailer,
    unpack_json,
)

# Numbers at which arithmetic, limits and types end.
EDGES = (0, 1, 2, 5, 6, 7, 15, 16, 127, 255, 256, 65535, 65536, 1 << 24, (1 << 24) + 1, (1 << 31) - 1, 1 << 31)
EDGES += ((1 << 32) - 1, 1 << 32, 1 << 48, (1 << 63) - 1, 1 << 63, (1 << 64) - 1)
ODD: tuple[Any, ...] = (
    *EDGES, -1, -(1 << 63), 1 << 64, 10**30, 0.5, 1e308, -0.0, True, None, "", "0", "x" * 300, "\x1b[31m", "ü\ud7ff",
    [], {}, [[]], [0], [1, 2], [[0, (1 << 64) - 1]], [[3, 1]], ["w0/000000"], ["w0/000000", "g1/000000"], {"a": {}},
    {"0": 1}, [[0, 0, 1 << 40, 0]], {"episode": -1, "metadata": {}}, {"episode": "x"},
    {"player": 70000, "causes": {"x": -5}},
)  # fmt: skip
_FIELDS = {"B": 1, "H": 2, "I": 4, "Q": 8, "q": 8}
_LONGEST = 1 << 20
NO_JSON = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


@dataclass(slots=True)
class Record:
    kind: int
    flags: int
    head: bytearray
    sequence: int
    body: bytearray


@dataclass(slots=True)
class Parts:
    """`text` is the JSON of the header; `closed` says whether a trailer follows the last record."""

    version: int = 1
    flags: int = 0
    text: bytes = b"{}"
    records: list[Record] = field(default_factory=list)
    closed: bool = False
    rest: bytes = b""


def take_apart(data: bytes) -> Parts:
    """By the lengths it gives, believing no checksum; JSON that is compressed is taken out of its frame."""
    parts = Parts()
    at = 0
    if data.startswith(FILE_MAGIC) and len(data) >= FILE_HEADER.size:
        _, parts.version, parts.flags, length, _ = FILE_HEADER.unpack_from(data)
        parts.text = data[FILE_HEADER.size : FILE_HEADER.size + length]
        at = FILE_HEADER.size + len(parts.text)
    while data.startswith(RECORD_MAGIC, at) and at + ENVELOPE.size <= len(data):
        _, kind, flags, head_bytes, sequence, body_bytes, _ = ENVELOPE.unpack_from(data, at)
        middle = at + ENVELOPE.size + head_bytes
        head, body = data[at + ENVELOPE.size : middle], data[middle : middle + body_bytes]
        if kind != KIND_BLOCK and flags & FLAG_ZSTD_HEAD:
            with suppress(ShardError):
                head, flags = msgspec.json.encode(unpack_json(flags, head, "", _LONGEST)), flags & ~FLAG_ZSTD_HEAD
        parts.records.append(Record(kind, flags, bytearray(head), sequence, bytearray(body)))
        at = min(middle + body_bytes, len(data))
    parts.rest = data[at:]
    parts.closed = parts.rest.endswith(TRAILER_MAGIC)
    if parts.closed:
        parts.rest = parts.rest[: -TRAILER.size]
    return parts


def put_together(parts: Parts, *, mend: bool = True) -> bytes:
    """The file again, every length and checksum right; `mend` also makes the index point to where the blocks are."""
    fixed = FILE_HEADER.pack(FILE_MAGIC, parts.version, parts.flags, len(parts.text), 0)[:-4]
    out = bytearray(fixed + crc32(parts.text, crc32(fixed)).to_bytes(4, "little") + parts.text)
    blocks: list[list[int]] = []
    others: list[list[int]] = []
    footer = (len(out), 0)
    for record in parts.records:
        if record.kind == KIND_BLOCK:
            mend_frames(record)
            blocks.append([len(out), len(record.head), len(record.body), record.sequence])
        elif record.kind == KIND_FOOTER:
            if mend:
                mend_footer(record, blocks, others)
            footer = (len(out), ENVELOPE.size + len(record.head) + len(record.body))
        else:
            others.append([len(out), record.kind])
        head = bytes(record.head)
        out += pack_envelope(record.kind, record.flags, head, record.sequence, len(record.body)) + head + record.body
    out += parts.rest
    return bytes(out) + (pack_trailer(*footer) if parts.closed else b"")


def reseal(data: bytes) -> bytes:
    return put_together(take_apart(data))


def mend_footer(record: Record, blocks: list[list[int]], others: list[list[int]]) -> None:
    """Let the index name the places of the blocks; whatever is odd in it stays."""
    with suppress(*NO_JSON, TypeError, KeyError, AttributeError):
        tree = msgspec.json.decode(bytes(record.head))
        for entry, place in zip(tree["blocks"], blocks, strict=False):
            entry[:4] = place
        if len(tree["records"]) == len(others):
            tree["records"] = others
        record.head = bytearray(msgspec.json.encode(tree))


def tables(head: bytes | bytearray) -> tuple[int, int, int, int] | None:
    """Where in a block's head runs, columns and frames begin, and the number of frames; None for one cut short."""
    if len(head) < BLOCK.size:
        return None
    _, columns, _, runs, causes, *_ = BLOCK.unpack_from(head)
    at = BLOCK.size
    for _ in range(causes):
        if at + CAUSE.size > len(head):
            return None
        at += CAUSE.size + head[at + CAUSE.size - 1]
    frames = at + runs * RUN.itemsize + columns * COLUMN.itemsize
    if frames > len(head):
        return None
    return at, at + runs * RUN.itemsize, frames, (len(head) - frames) // FRAME.itemsize


def frame_sizes(record: Record, begin: int, count: int) -> list[int]:
    return [struct.unpack_from("<I", record.head, begin + i * FRAME.itemsize)[0] for i in range(count)]


def mend_frames(record: Record) -> None:
    """Let the frames fill the body: the last one takes what the others leave. And their checksums."""
    found = tables(record.head)
    if found is None or not found[3]:
        return
    *_, begin, count = found
    sizes = frame_sizes(record, begin, count)
    missing = len(record.body) - sum(sizes)
    if missing and 0 <= sizes[-1] + missing < 1 << 32:
        sizes[-1] += missing
    ends = list(accumulate(sizes))
    for place, (size, end) in enumerate(zip(sizes, ends, strict=True)):
        crc = crc32(record.body[end - size : end])
        struct.pack_into("<II", record.head, begin + place * FRAME.itemsize, size, crc)


def mutate(data: bytes, rng: Random) -> bytes:
    """A changed file, in one to three places, nearly always with right checksums."""
    parts = take_apart(data)
    for _ in range(rng.randint(1, 3)):
        choose = rng.random()
        blocks = [record for record in parts.records if record.kind == KIND_BLOCK]
        others = [record for record in parts.records if record.kind != KIND_BLOCK]
        if choose < 0.12:
            parts.text = mutate_json(parts.text, rng)
        elif choose < 0.35 and others:
            record = rng.choice(others)
            record.head = bytearray(mutate_json(bytes(record.head), rng))
        elif choose < 0.6 and blocks:
            mutate_head(rng.choice(blocks), rng)
        elif choose < 0.85 and blocks:
            mutate_frame(rng.choice(blocks), rng)
        elif choose < 0.95 and parts.records:
            mutate_records(parts, rng)
        else:
            parts.closed = not parts.closed
    out = put_together(parts, mend=rng.random() < 0.8)
    return mutate_bytes(out, rng) if rng.random() < 0.05 else out


def mutate_json(text: bytes, rng: Random) -> bytes:
    """One value of the tree replaced, removed or repeated; text that is no JSON is changed as bytes."""
    try:
        tree = msgspec.json.decode(text)
    except NO_JSON:
        return mutate_bytes(text, rng)
    places: list[tuple[Any, Any]] = []
    stack = [tree]
    while stack:
        node = stack.pop()
        keys = list(node) if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ()
        places += [(node, key) for key in keys]
        stack += [node[key] for key in keys]
    if not places or rng.random() < 0.02:
        return msgspec.json.encode(rng.choice(ODD))
    node, key = rng.choice(places)
    choose = rng.random()
    if choose < 0.15:
        del node[key]
    elif choose < 0.25:
        other, place = rng.choice(places)
        if len(msgspec.json.encode(tree)) < _LONGEST // 4:
            node[key] = msgspec.json.decode(msgspec.json.encode(other[place])) if place in other else 0
    elif choose < 0.35 and isinstance(node, list):
        node += [node[key]] * rng.choice((1, 2, 40))
    elif choose < 0.4 and isinstance(node, dict):
        node[rng.choice(("removed", "supersedes", "retires", "sealed", "annotate", "policies", "zzz"))] = rng.choice(
            ODD
        )
    elif choose < 0.7 and type(node[key]) is int:
        node[key] += rng.choice((-1, 1, 2, 1 << 16))
    else:
        node[key] = rng.choice(ODD)
    return msgspec.json.encode(tree)


def mutate_head(record: Record, rng: Random) -> None:
    """A field of a block's head, of one of its runs, columns or frames."""
    found = tables(record.head)
    if found is None:
        record.head = bytearray(mutate_bytes(bytes(record.head), rng))
        return
    runs, columns, frames, count = found
    tables_at = [(0, 1, "HHIIHHQQIIIIqq"), (runs, (columns - runs) // RUN.itemsize, "QIIIIQ")]
    tables_at += [(columns, (frames - columns) // COLUMN.itemsize, "BBBBIIIQQ"), (frames, count, "II")]
    begin, rows, fields = rng.choice([table for table in tables_at if table[1]])
    place = rng.randrange(len(fields))
    at = begin + rng.randrange(rows) * struct.calcsize("<" + fields) + struct.calcsize("<" + fields[:place])
    size = _FIELDS[fields[place]]
    now = int.from_bytes(record.head[at : at + size], "little")
    changed = rng.choice((*EDGES, now + 1, now - 1, now * 2, rng.getrandbits(size * 8))) % (1 << size * 8)
    record.head[at : at + size] = changed.to_bytes(size, "little")
    if rng.random() < 0.1:  # one frame more, or one less
        record.head = record.head + bytes(FRAME.itemsize) if rng.random() < 0.5 else record.head[: -FRAME.itemsize]


def mutate_frame(record: Record, rng: Random) -> None:
    """What a frame holds before compression, or the frame itself."""
    found = tables(record.head)
    if found is None or not found[3]:
        record.body = bytearray(mutate_bytes(bytes(record.body), rng))
        return
    *_, begin, count = found
    sizes = frame_sizes(record, begin, count)
    place = rng.randrange(count)
    at = sum(sizes[:place])
    if at + sizes[place] > len(record.body):
        return
    payload = bytes(record.body[at : at + sizes[place]])
    try:
        plain = zstandard.ZstdDecompressor().decompress(payload, max_output_size=_LONGEST)
    except zstandard.ZstdError:
        payload = mutate_bytes(payload, rng)
    else:
        inside = mutate_bytes(plain, rng)
        keeps = rng.random() < 0.9
        payload = zstandard.compress(inside) if keeps else mutate_bytes(payload, rng)
    struct.pack_into("<I", record.head, begin + place * FRAME.itemsize, len(payload))
    record.body[at : at + sizes[place]] = payload


def mutate_records(parts: Parts, rng: Random) -> None:
    """Records lost, doubled, exchanged, of another kind or number."""
    place = rng.randrange(len(parts.records))
    record = parts.records[place]
    choose = rng.randrange(6)
    if choose == 0:
        del parts.records[place]
    elif choose == 1 and len(parts.records) < 200:
        parts.records.insert(rng.randrange(len(parts.records) + 1), record)
    elif choose == 2:
        other = rng.randrange(len(parts.records))
        parts.records[place], parts.records[other] = parts.records[other], record
    elif choose == 3:
        record.kind = rng.choice((0, 1, 2, 3, 4, 5, 6, 65535))
    elif choose == 4:
        record.sequence = rng.choice((0, (record.sequence + 1) % (1 << 32), (1 << 32) - 1))
    else:
        record.flags = rng.choice((0, 1, 2, 65535))


def mutate_bytes(data: bytes, rng: Random) -> bytes:
    """A byte changed, some removed, some added, an edge number written over, or the end cut."""
    out = bytearray(data)
    at = rng.randrange(len(out) + 1)
    choose = rng.randrange(6)
    if choose == 0 and at < len(out):
        out[at] ^= 1 << rng.randrange(8)
    elif choose == 1:
        del out[at : at + rng.choice((1, 2, 8, 64))]
    elif choose == 2:
        out[at:at] = bytes([rng.choice((0, 1, 0x7F, 0xFF))]) * rng.choice((1, 4, 8, 200))
    elif choose == 3:
        size = rng.choice((1, 2, 4, 8))
        out[at : at + size] = (rng.choice(EDGES) % (1 << size * 8)).to_bytes(size, "little")
    elif choose == 4:
        del out[at:]
    else:
        source = rng.randrange(len(out) + 1)
        out[at:at] = out[source : source + rng.randrange(1, 32)]
    return bytes(out)
