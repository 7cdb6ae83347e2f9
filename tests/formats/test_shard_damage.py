"""Shard files that were mangled or forged: nothing is silent, nothing else is lost, only ShardError. Cuts and flipped
bits: tests/faults/test_damage.py."""

import struct
from zlib import crc32

import msgspec
import numpy as np
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from shard_rows import BOARD, GOLDEN, TINY, everything, rows_of, write_shard

from expkit.errors import ShardError
from expkit.formats.shard import BlockEncoder, ShardReader, ShardWriter, check_shard
from expkit.formats.shard.layout import (
    BLOCK,
    COLUMN,
    ENVELOPE,
    FILE_HEADER,
    KIND_BLOCK,
    KIND_EPISODES,
    RUN,
    TRAILER,
    pack_envelope,
    pack_file_header,
    pack_json,
    pack_trailer,
)
from expkit.formats.shard.seal import seal_shard
from expkit.row.schema import Field, Schema


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """(path, bytes, block infos, columns) of a small closed file."""
    path = write_shard(tmp_path_factory.mktemp("tiny") / "a.exp", TINY, blocks=2, rows=6)
    with ShardReader(path) as reader:
        return path, path.read_bytes(), list(reader.blocks), everything(reader)


def test_checksums_are_compared_without_decoding_too(tiny, tmp_path):
    _, data, blocks, _ = tiny
    path = tmp_path / "flipped.exp"
    for offset in range(blocks[0].body_offset, blocks[0].offset + blocks[0].nbytes, 7):
        path.write_bytes(data[:offset] + bytes([data[offset] ^ 4]) + data[offset + 1 :])
        assert [(f.rule, f.block) for f in check_shard(path, deep=False)] == [("file/checksum", 0)]


def test_a_killed_file_with_a_damaged_middle_loses_only_that(tmp_path):
    path = write_shard(tmp_path / "a.exp", BOARD, blocks=5, close=False)
    with ShardReader(path) as reader:
        blocks = list(reader.blocks)
        before = everything(reader)
    data = bytearray(path.read_bytes())
    start, stop = blocks[2].offset - 3, blocks[2].offset + 200
    data[start:stop] = bytes(stop - start)
    path.write_bytes(data)
    with ShardReader(path) as reader:
        assert [block.offset for block in reader.blocks] == [blocks[i].offset for i in (0, 1, 3, 4)]
        now = everything(reader)
        lost = {key for key, value in now.items() if value != before[key]}
        assert lost == {(blocks[1].offset, "truncated")}
        assert all(now[key] is None for key in lost)
        assert [finding.rule for finding in reader.findings] == ["file/record", "file/checksum"]
    assert {finding.rule for finding in check_shard(path)} == {"file/record", "file/sequence", "file/checksum"}


@pytest.mark.parametrize("which", [0, -1])
def test_a_record_that_stands_again_counts_once(tmp_path, which):
    path = write_shard(tmp_path / "a.exp", TINY, blocks=3, rows=6, close=False)
    with ShardReader(path) as reader:
        blocks, before, starts = list(reader.blocks), everything(reader), reader.episode_starts
    again = blocks[which]
    data = path.read_bytes()
    path.write_bytes(data + data[again.offset : again.offset + again.nbytes])
    with ShardReader(path) as reader:
        assert [block.offset for block in reader.blocks] == [block.offset for block in blocks]
        assert everything(reader) == before
        assert reader.episode_starts == starts
        assert [finding.rule for finding in reader.findings] == ["file/sequence"]
    assert [finding.rule for finding in check_shard(path)] == ["file/sequence"]
    with pytest.raises(ShardError, match="recover"):
        seal_shard(path)


def test_a_lost_header_is_replaced_by_the_footer_or_a_given_schema(tmp_path):
    for close in (True, False):
        path = write_shard(tmp_path / f"{close}.exp", TINY, close=close)
        with ShardReader(path) as reader:
            before = everything(reader)
        path.write_bytes(bytes(30) + path.read_bytes()[30:])
        if close:
            assert ShardReader(path).header["host"] == "golden"
        else:
            with pytest.raises(ShardError, match="schema"):
                ShardReader(path)
        with ShardReader(path, schema=TINY) as reader:
            assert everything(reader) == before
            assert [finding.rule for finding in reader.findings] == ["file/header"]


def test_newer_versions_are_refused_and_damage_is_not_taken_for_one(tmp_path):
    path = tmp_path / "a.exp"
    tree = {"schema": TINY.to_builtins()}
    path.write_bytes(pack_file_header(tree, version=2))
    with pytest.raises(ShardError, match="version 2.*update expkit"):
        ShardReader(path)
    hurt = bytearray(pack_file_header(tree))
    hurt[8] ^= 2
    path.write_bytes(hurt)
    with pytest.raises(ShardError, match="header is lost"):
        ShardReader(path)


def test_unknown_kinds_are_skipped(tmp_path):
    path = write_shard(tmp_path / "a.exp", TINY, close=False)
    with ShardReader(path) as reader:
        before = everything(reader)
        following = 1 + max(block.sequence for block in reader.blocks) + 2
    head, body = b"from the future", b"\xabEXPREC\n" * 3
    path.write_bytes(path.read_bytes() + pack_envelope(77, 0, head, following, len(body)) + head + body)
    with ShardReader(path) as reader:
        assert everything(reader) == before
        assert reader.tail_bytes == 0
    assert [(finding.severity, finding.rule) for finding in check_shard(path)] == [("info", "file/unknown-kind")]


def only_shard_errors(path, schema=None):
    """Read everything there is; whatever happens must be a ShardError."""
    findings = list(check_shard(path, schema=schema))
    try:
        reader = ShardReader(path, schema=schema)
    except ShardError:
        assert findings
        return
    with reader:
        everything(reader)
        for block in reader.blocks:
            try:
                reader.read_block(block.index)
                reader.read_rows(block.index, np.array([block.rows - 1, 0]))
                reader.statistics(block.index)
            except ShardError:
                assert findings
        _ = reader.episode_starts, reader.metas, reader.drops
        try:
            _ = reader.digests
        except ShardError:
            assert findings


LENIENT = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))


@LENIENT
@given(st.binary(max_size=300), st.sampled_from([b"", b"\x89EXP\r\n\x1a\n", b"\xabEXPREC\n"]), st.booleans())
def test_garbage_raises_shard_errors_only(tmp_path_factory, data, start, given_schema):
    path = tmp_path_factory.mktemp("garbage") / "a.exp"
    path.write_bytes(start + data)
    only_shard_errors(path, TINY if given_schema else None)


def forge(data, block, change):
    """`data` with the head and body of `block` passed through `change`, all checksums made right again."""
    head = bytearray(data[block.offset + ENVELOPE.size : block.body_offset])
    body = bytearray(data[block.body_offset : block.offset + block.nbytes])
    change(head, body)
    runs, columns = BLOCK.unpack_from(head)[3], BLOCK.unpack_from(head)[1]
    at, start = BLOCK.size + runs * RUN.itemsize + columns * COLUMN.itemsize, 0
    while at + 8 <= len(head):
        size = int.from_bytes(head[at : at + 4], "little")
        head[at + 4 : at + 8] = crc32(body[start : start + size]).to_bytes(4, "little")
        at, start = at + 8, start + size
    envelope = pack_envelope(KIND_BLOCK, 0, bytes(head), block.sequence, len(body))
    return data[: block.offset] + envelope + bytes(head) + bytes(body)


@LENIENT
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 1 << 16), st.integers(0, 255)), min_size=1, max_size=4))
def test_forged_blocks_with_right_checksums_raise_shard_errors_only(tmp_path_factory, edits):
    source = GOLDEN / "tiny.exp"
    with ShardReader(source) as reader:
        block = reader.blocks[0]

    def change(head, body):
        for in_head, place, value in edits:
            part = head if in_head else body
            part[place % len(part)] = value

    path = tmp_path_factory.mktemp("forged") / "a.exp"
    path.write_bytes(forge(source.read_bytes(), block, change))
    only_shard_errors(path)


@LENIENT
@given(
    st.recursive(
        st.none() | st.integers() | st.text() | st.floats(allow_nan=False),
        lambda inner: (
            st.lists(inner)
            | st.dictionaries(
                st.sampled_from(["blocks", "header", "episodes", "records", "rows", "schema", "fields", "starts"]),
                inner,
            )
        ),
    )
)
def test_forged_json_raises_shard_errors_only(tmp_path_factory, tree):
    path = tmp_path_factory.mktemp("forged") / "a.exp"
    data = pack_file_header({"schema": TINY.to_builtins()})
    text = msgspec.json.encode(tree)
    record = pack_envelope(KIND_EPISODES, 0, text, 0, 0) + text
    footer = pack_envelope(5, 0, text, 1, 0) + text
    path.write_bytes(data + record + footer + pack_trailer(len(data) + len(record), len(footer)))
    only_shard_errors(path)
    header = FILE_HEADER.pack(b"\x89EXP\r\n\x1a\n", 1, 0, len(text), 0)[:16]
    path.write_bytes(header + crc32(text, crc32(header)).to_bytes(4, "little") + text)
    only_shard_errors(path)
    only_shard_errors(path, TINY)


def test_deep_json_is_refused(tmp_path):
    path = tmp_path / "a.exp"
    flags, packed = 1, zstandard.compress(b'{"starts":' + b"[" * 1_000_000)
    path.write_bytes(pack_file_header({"schema": TINY.to_builtins()}) + pack_envelope(2, flags, packed, 0, 0) + packed)
    only_shard_errors(path)
    assert [finding.rule for finding in check_shard(path)] == ["file/record"]


def bomb(frame, schema, rows, filter_number=0):
    """A file of one block whose first wide column claims to be `frame` in one frame."""
    columns = rows_of(schema, np.random.default_rng(0), 4)
    block = BlockEncoder(schema, frame_rows=1 << 20).encode(0, columns, 4)
    head = bytearray(block.head)
    runs, count = BLOCK.unpack_from(head)[3], BLOCK.unpack_from(head)[1]
    struct.pack_into("<I", head, 4, rows)
    last = BLOCK.size + (runs - 1) * RUN.itemsize
    struct.pack_into("<I", head, last + 12, rows - 3)
    table = BLOCK.size + runs * RUN.itemsize
    frames = b""
    body = b""
    for place in range(count):
        at = table + place * COLUMN.itemsize
        column = schema.columns[place]
        wide = column.name == "wide"
        value = frame if wide else bytes(column.row_bytes)
        struct.pack_into("<BBBBIII", head, at, filter_number if wide else 4, wide, 0, 0, rows, 1, 0)
        frames += struct.pack("<II", len(value), crc32(value))
        body += value
    head[table + count * COLUMN.itemsize :] = frames
    start = pack_file_header({"schema": schema.to_builtins()})
    return start + pack_envelope(KIND_BLOCK, 0, bytes(head), 0, len(body)) + bytes(head) + body


@pytest.mark.parametrize("filter_number", [0, 5])
def test_a_zip_bomb_is_refused_before_it_is_unpacked(tmp_path, filter_number):
    import tracemalloc

    schema = Schema([Field("wide", "u1", (40,))])
    path = tmp_path / "bomb.exp"
    path.write_bytes(bomb(zstandard.ZstdCompressor().compress(bytes(256 << 20)), schema, 4, filter_number))
    tracemalloc.start()
    with ShardReader(path) as reader:
        assert reader.findings == []
        with pytest.raises(ShardError, match="wide: frame 0 claims 268,435,456 bytes"):
            reader.read_block(0)
    assert tracemalloc.get_traced_memory()[1] < 8 << 20
    tracemalloc.stop()
    path.write_bytes(bomb(b"x", schema, 1 << 24))
    with ShardReader(path) as reader, pytest.raises(ShardError):
        reader.read_block(0)


@pytest.mark.parametrize("field", range(5))
def test_lengths_beyond_the_file_cost_nothing(tmp_path, field):
    data = bytearray((GOLDEN / "tiny.exp").read_bytes())
    with ShardReader(GOLDEN / "tiny.exp") as reader:
        at = reader.blocks[0].offset
    if field == 0:
        struct.pack_into("<I", data, 12, 0xFFFFFFFF)
    elif field in (1, 2):
        struct.pack_into("<I", data, at + (12, 20)[field - 1], 0x7FFFFFFF)
    elif field == 3:
        data[-TRAILER.size :] = pack_trailer(1 << 62, 1 << 62)
    else:
        data[-TRAILER.size :] = pack_trailer(len(data) - TRAILER.size, 0)
    path = tmp_path / "a.exp"
    path.write_bytes(data)
    assert list(check_shard(path, schema=TINY))
    only_shard_errors(path, TINY)


def test_an_index_that_lies_is_found(tmp_path):
    source = (GOLDEN / "tiny.exp").read_bytes()
    with ShardReader(GOLDEN / "tiny.exp") as reader:
        footer = msgspec.to_builtins(reader._file.footer)
    start = TRAILER.unpack(source[-TRAILER.size :])[0]
    path = tmp_path / "a.exp"

    def rewritten(change):
        tree = msgspec.json.decode(msgspec.json.encode(footer))
        change(tree)
        flags, head = pack_json(tree)
        record = pack_envelope(5, flags, head, 6, 0) + head
        path.write_bytes(source[:start] + record + pack_trailer(start, len(record)))
        return [finding.rule for finding in check_shard(path)]

    assert rewritten(lambda tree: None) == []
    assert "file/index" in rewritten(lambda tree: tree["blocks"].pop())
    assert "file/index" in rewritten(lambda tree: tree["records"].pop())
    assert "file/index" in rewritten(lambda tree: tree["episodes"].pop())
    assert "file/index" in rewritten(lambda tree: tree.update(rows=1))
    assert "file/block" in rewritten(lambda tree: tree["blocks"][0].__setitem__(5, 9))
    assert "file/block" in rewritten(lambda tree: tree["blocks"][0].__setitem__(0, 1 << 50))


def test_rows_that_do_not_match_their_digest_or_statistics_are_found(tmp_path):
    path = tmp_path / "a.exp"
    columns = rows_of(TINY, np.random.default_rng(0), 24)
    with ShardWriter(path, TINY, {}) as writer:
        writer.append_block(BlockEncoder(TINY).encode(0, columns, 24))
    data = path.read_bytes()
    with ShardReader(path) as reader:
        block = reader.blocks[0]

    def other_digest(head, body):
        head[BLOCK.size + 24] ^= 1

    def other_low(head, body):
        runs = BLOCK.unpack_from(head)[3]
        action = [column.name for column in TINY.columns].index("action")
        head[BLOCK.size + runs * RUN.itemsize + action * COLUMN.itemsize + 16] ^= 1

    footer = data[block.offset + block.nbytes :]
    path.write_bytes(forge(data, block, other_digest) + footer)
    assert {finding.rule for finding in check_shard(path)} == {"file/digest", "file/index"}
    path.write_bytes(forge(data, block, other_low) + footer)
    assert [(finding.rule, finding.column) for finding in check_shard(path)] == [("file/statistics", "action")]
