"""Reads a shard file from SPEC.md alone: no expkit, no NumPy. Slow, and held against the golden files."""

import json
import struct
import zlib
from itertools import accumulate
from math import prod

import zstandard

KEYS = "episode:u8 step:u4 policy:u2 policy_version:u4 time_ns:i8 is_first:bool is_last:bool"
LETTERS = dict(zip("bool i1 i2 i4 i8 u1 u2 u4 u8 f2 f4 f8".split(), "?bhiqBHIQefd", strict=True))  # noqa: SIM905


def columns(schema):
    yield from ((*key.split(":"), 1) for key in KEYS.split())
    for field in schema["fields"]:
        name, dtype, items = field["name"], field["dtype"], prod(field.get("shape", []))
        yield (name, "u1", (items + 7) // 8) if dtype == "bool" and field.get("shape") else (name, dtype, items)
        if field.get("nullable"):
            yield "valid:" + name, "bool", 1


def unfilter(kind, data, rows, items, size):
    if kind in (0, 3, 4):
        return data * rows if kind == 4 else bytes(data[i // 8] >> i % 8 & 1 for i in range(rows)) if kind else data
    count, gaps = struct.unpack_from("<II", data) if kind == 5 else (rows * items, 0)
    planes = data[8 + gaps :] if kind == 5 else data
    values = [int.from_bytes(planes[i::count][:size], "little") for i in range(count)]
    if kind == 5:
        ends, elements, row = accumulate(b + (b < 255) for b in data[8 : 8 + gaps]), [], [0] * items
        new = dict(zip((e - 1 for e, b in zip(ends, data[8:]) if b < 255), values, strict=True))  # noqa: B905
        for first in range(0, rows * items, items):
            row = [new.get(first + i, row[i]) for i in range(items)]
            elements += row
        values = elements
    for i in range(items, rows * items if kind == 2 else 0):
        values[i] += values[i - items]
    return b"".join((value % (1 << 8 * size)).to_bytes(size, "little") for value in values)


def read_block(head, body, schema):
    """(player, {column: its elements})"""
    player, count, rows, runs, causes, _ = struct.unpack_from("<HHIIHH", head)
    at, out, start = 64, {}, 0
    for _ in range(causes):
        at += 9 + head[at + 8]
    entries = list(struct.iter_unpack("<4B3I16x", head[at + runs * 32 : at + (runs + count) * 32]))
    frames = struct.iter_unpack("<II", head[at + (runs + count) * 32 :])
    for (name, dtype, items), (kind, packed, _, _, frame_rows, n, _) in zip(columns(schema), entries, strict=True):
        raw, form = b"", LETTERS[dtype]
        for left in range(rows, rows - n * frame_rows, -frame_rows):
            size, crc = next(frames)
            piece, start = body[start : start + size], start + size
            assert zlib.crc32(piece) == crc
            piece = zstandard.decompress(piece) if packed else piece
            raw += unfilter(kind, piece, min(frame_rows, left), items, struct.calcsize("<" + form))
        out[name] = struct.unpack(f"<{rows * items}{form}", raw) if n else None  # None: lost
    return player, out


def read(data):
    """Of a file's bytes (header, [(kind, JSON or what read_block gives)])"""
    version, flags, size, crc = struct.unpack_from("<8xHHII", data)
    assert (crc, version, flags) == (zlib.crc32(data[20 : 20 + size], zlib.crc32(data[:16])), 1, 0)
    header, at, records = json.loads(data[20 : 20 + size]), 20 + size, []
    while data[at : at + 8] == b"\xabEXPREC\n":
        kind, flags, size, _, body, crc = struct.unpack_from("<HHIIQI", data, at + 8)
        head, fixed, at = data[at + 32 : at + 32 + size], data[at : at + 28], at + 32 + size + body
        assert crc == zlib.crc32(head, zlib.crc32(fixed))
        head = zstandard.decompress(head) if flags & 1 else head
        block = data[at - body : at]
        records.append((kind, read_block(head, block, header["schema"]) if kind == 1 else json.loads(head)))
    return header, records
