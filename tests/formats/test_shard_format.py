"""The shard file: what goes in comes out, by the reader and by one written from SPEC.md alone."""

import hashlib
import json
import os
import resource
import struct
from pathlib import Path

import independent_reader
import msgspec
import numpy as np
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from shard_rows import BOARD, CARTPOLE, GOLDEN, GOLDEN_FILES, TINY, rows_of, same_bits, write_shard

from expkit.errors import NoSpace, NotThere, OutputExists, SchemaError, ShardError, WriteFailed
from expkit.formats.shard import BlockEncoder, ShardReader, ShardWriter, check_shard
from expkit.formats.shard.pool import ArrayPool
from expkit.row.episodes import EpisodeEnd, EpisodeStart
from expkit.row.schema import DTYPES, Field, Schema


@st.composite
def blocks(draw):
    """(schema, rows in arrival order, rows of wide and narrow frames) with every kind of column and of change."""
    shape = st.lists(st.integers(1, 12), max_size=2).map(tuple)
    fields = [
        Field(f"f{place}" + ("noise" if noisy else ""), dtype, sides, nullable=nullable)
        for place, (dtype, sides, nullable, noisy) in enumerate(
            draw(st.lists(st.tuples(st.sampled_from(DTYPES), shape, st.booleans(), st.booleans()), max_size=5))
        )
    ]
    schema = Schema(fields)
    rows = draw(st.integers(1, 150))
    rng = np.random.default_rng(draw(st.integers(0, 1 << 32)))
    columns = rows_of(schema, rng, rows, draw(st.integers(1, 9)))
    if draw(st.booleans()):
        order = rng.permutation(rows)
        columns = {name: values[order] for name, values in columns.items()}
    if draw(st.booleans()):
        columns["step"][:] = rng.integers(0, 3, rows)
        columns["episode"][:] = rng.integers(0, 1 << 63, rows, dtype=np.uint64) * np.uint64(2)
    return schema, columns, draw(st.sampled_from([1, 2, 16, 128])), draw(st.sampled_from([0, 1, 7, 64]))


def in_order(columns):
    order = np.lexsort((columns["step"], columns["episode"]))
    return {name: values[order] for name, values in columns.items()}


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(blocks(), st.data())
def test_round_trip(tmp_path_factory, block, data):
    schema, columns, frame_rows, narrow_rows = block
    rows = len(columns["step"])
    path = tmp_path_factory.mktemp("shard") / "a.exp"
    with ShardWriter(path, schema, {}) as writer:
        writer.append_block(BlockEncoder(schema, 1, frame_rows, narrow_rows).encode(3, columns, rows))
    expected = in_order(columns)
    with ShardReader(path) as reader:
        assert list(check_shard(path)) == []
        found = reader.read_block(0)
        assert list(found) == [column.name for column in schema.columns]
        assert all(same_bits(found[name], expected[name]) for name in expected)
        start, stop = sorted((data.draw(st.integers(0, rows)), data.draw(st.integers(0, rows))))
        part = reader.read_block(0, rows=slice(start, stop))
        assert all(same_bits(part[name], expected[name][start:stop]) for name in expected)
        wanted = np.array(data.draw(st.lists(st.integers(0, rows - 1), max_size=8)), np.int64)
        few = reader.read_rows(0, wanted)
        assert all(same_bits(few[name], expected[name][wanted]) for name in expected)


def test_digest_does_not_depend_on_blocks_or_order(tmp_path):
    rng = np.random.default_rng(1)
    columns = rows_of(BOARD, rng, 300)
    sums = []
    for cuts in ([300], [1, 7, 120, 300], [299, 300]):
        path = tmp_path / f"{len(sums)}.exp"
        with ShardWriter(path, BOARD, {}) as writer:
            start = 0
            for stop in cuts:
                part = rng.permutation(np.arange(start, stop))
                encoder = BlockEncoder(BOARD, frame_rows=8 * len(cuts))
                writer.append_block(encoder.encode(1, {n: v[part] for n, v in columns.items()}, len(part)))
                start = stop
        sums.append(ShardReader(path).digests)
    assert sums[0] == sums[1] == sums[2]
    assert set(sums[0]) == {((1 << 48) + game, 1) for game in range(4)}


@pytest.mark.parametrize("name", [column.name for column in BOARD.columns])
def test_digest_sees_one_changed_bit_in_any_column(name):
    columns = rows_of(BOARD, np.random.default_rng(2), 20)
    encoder = BlockEncoder(BOARD)

    def total(player=0):
        sums = encoder.encode(player, columns, 20).episodes.values()
        return sum(digest for _, digest in sums) % 2**64

    before = total()
    assert total() == before != total(player=1)
    raw = columns[name].view(np.uint8).reshape(20, -1)
    raw[7, -1] ^= 1
    assert total() != before


def python_digest(schema, columns, row, player):
    """SPEC.md, "Digest", word by word."""
    from zlib import crc32

    def mix(z):
        z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 % 2**64
        z = (z ^ z >> 27) * 0x94D049BB133111EB % 2**64
        return z ^ z >> 31

    total = 0
    data = [(column.name, columns[column.name][row].tobytes()) for column in schema.columns]
    for name, raw in [*data, ("player", struct.pack("<Q", player))]:
        raw += bytes(-len(raw) % 8)
        for i, word in enumerate(struct.unpack(f"<{len(raw) // 8}Q", raw)):
            v = word ^ mix(((crc32(name.encode()) << 32) + (i + 1) * 0x9E3779B97F4A7C15) % 2**64)
            total += (v % 2**32) * (v >> 32)
    return mix(total % 2**64)


def test_digest_is_the_one_of_the_specification():
    columns = rows_of(BOARD, np.random.default_rng(3), 30, games=3)
    block = BlockEncoder(BOARD).encode(5, columns, 30)
    for episode, (rows, digest) in block.episodes.items():
        members = np.flatnonzero(columns["episode"] == np.uint64(episode))
        assert rows == len(members)
        assert digest == sum(python_digest(BOARD, columns, row, 5) for row in members) % 2**64


def sha(values):
    return hashlib.sha256(values).hexdigest()[:16]


def seen_by_expkit(path):
    """All that is in a file: header, blocks with a hash of each column's stored bytes, the other records."""
    with ShardReader(path) as reader:
        blocks = []
        for block in reader.blocks:
            columns = dict.fromkeys(reader.names)
            for name in columns.keys() - set(reader.lost_columns(block.index)):
                columns[name] = sha(reader.read_block(block.index, [name])[name].tobytes())
            blocks.append([block.player, columns])
        return {
            "header": reader.header,
            "blocks": blocks,
            "starts": msgspec.to_builtins(reader.episode_starts),
            "ends": msgspec.to_builtins(reader.episode_ends),
            "metas": reader.metas,
        }


def seen_by_the_independent_reader(path):
    """The same, without expkit."""
    header, records = independent_reader.read(path.read_bytes())
    dtypes = {name: dtype for name, dtype, _ in independent_reader.columns(header["schema"])}
    blocks = []
    for player, columns in (content for kind, content in records if kind == 1):
        hashes = {}
        for name, values in columns.items():
            form = independent_reader.LETTERS[dtypes[name]]
            hashes[name] = None if values is None else sha(struct.pack(f"<{len(values)}{form}", *values))
        blocks.append([player, hashes])
    episodes = [tree for kind, tree in records if kind == 2]
    return {
        "header": header,
        "blocks": blocks,
        "starts": [start for tree in episodes for start in tree["starts"]],
        "ends": [end for tree in episodes for end in tree["ends"]],
        "metas": [tree for kind, tree in records if kind == 3],
    }


@pytest.mark.parametrize("look", [seen_by_expkit, seen_by_the_independent_reader])
@pytest.mark.parametrize("name", GOLDEN_FILES)
def test_golden_files_of_version_1_hold_what_they_always_held(name, look):
    """Every version of expkit has to read these files, which are not to be written anew, to these values."""
    assert look(GOLDEN / name) == json.loads((GOLDEN / "expected.json").read_text())[name]


@pytest.mark.parametrize("name", GOLDEN_FILES)
def test_golden_files_are_sound(name):
    assert struct.unpack_from("<HH", (GOLDEN / name).read_bytes(), 8) == (1, 0)
    assert {finding.rule for finding in check_shard(GOLDEN / name)} <= {"file/lost-values"}


@pytest.mark.parametrize("name", GOLDEN_FILES)
def test_golden_files_are_written_byte_for_byte(name, tmp_path):
    written = GOLDEN_FILES[name](tmp_path / name).read_bytes()
    golden = (GOLDEN / name).read_bytes()
    if zstandard.ZSTD_VERSION == (1, 5, 7):
        assert written == golden
    else:  # another zstd may compress to other bytes; the rows are the same
        assert ShardReader(tmp_path / name).digests == ShardReader(GOLDEN / name).digests


def test_every_filter_occurs_in_the_golden_files():
    seen = set()
    for name in GOLDEN_FILES:
        with ShardReader(GOLDEN / name) as reader:
            for block in reader.blocks:
                seen |= {(e.filter, e.compression) for e in reader.head(block.index).columns}
    assert {chosen for chosen, _ in seen} == set(range(7))
    assert {compression for _, compression in seen} == {0, 1}


def test_independent_reader_is_short():
    lines = (Path(__file__).parent / "independent_reader.py").read_text().splitlines()
    assert sum(bool(line.strip()) and not line.lstrip().startswith(('"""', "#")) for line in lines) <= 60


def test_statistics_runs_and_drops():
    with ShardReader(GOLDEN / "board.exp") as reader:
        for block in reader.blocks:
            stored, rows = reader.statistics(block.index), reader.read_block(block.index)
            for name, entry in stored.items():
                assert (entry.low, entry.high) == (rows[name].min(), rows[name].max())
            assert stored["valid:value"].nulls == np.count_nonzero(~rows["valid:value"])
            assert (block.step_min, block.step_max) == (0, 14)
            assert block.time_ns_min == rows["time_ns"].min()
            for run in reader.runs(block.index):
                part = slice(run["first_row"], run["first_row"] + run["rows"])
                assert (rows["episode"][part] == run["episode"]).all()
                assert rows["step"][part][0] == run["first_step"]
        assert reader.drops == {1: {"overflow-newest": 7, "overflow-oldest": 2, "überlauf": 1}}
        assert reader.blocks[1].dropped == {"overflow-oldest": 2, "überlauf": 1}


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
def test_statistics_leave_nan_out_and_say_so(tmp_path, dtype):
    schema = Schema([Field("x", dtype), Field("nothing", dtype)])
    columns = rows_of(schema, np.random.default_rng(0), 20)
    columns["x"][3] = np.nan
    columns["nothing"][:] = np.nan
    with ShardWriter(tmp_path / "a.exp", schema, {}) as writer:
        writer.append_block(BlockEncoder(schema).encode(0, columns, 20))
    with ShardReader(tmp_path / "a.exp") as reader:
        stored = reader.statistics(0)
        assert (stored["x"].low, stored["x"].high) == (np.nanmin(columns["x"]), np.nanmax(columns["x"]))
        assert stored["x"].has_nan
        assert (stored["nothing"].low, stored["nothing"].has_nan) == (None, True)
        assert not stored["reward"].has_nan
    assert list(check_shard(tmp_path / "a.exp")) == []


def test_reads_while_it_is_written(tmp_path):
    path = tmp_path / "a.exp"
    writer = ShardWriter(path, TINY, {"run": "r"})
    encoder, rng = BlockEncoder(TINY), np.random.default_rng(0)
    with ShardReader(path) as reader:
        assert (reader.blocks, reader.closed, reader.header["run"]) == ([], False, "r")
        for block in range(3):
            writer.append_episodes([EpisodeStart(block, 0, [0], "g")])
            writer.append_block(encoder.encode(0, rows_of(TINY, rng, 10), 10))
            assert reader.refresh() == 1
            assert reader.refresh() == 0
            assert len(reader.episode_starts) == block + 1
            assert reader.read_block(block)["step"].tolist() == [0, 1, 2, 0, 1, 2, 0, 1, 0, 1]
        assert not reader.closed
        digests = reader.digests
        path.unlink()
        writer.close()
        assert reader.refresh() == 0
        assert reader.closed
        assert reader.digests == digests == writer.digests
        assert len(reader.read_block(2)["board"]) == 10
        assert reader.findings == []


def test_half_a_record_is_read_once_it_is_whole(tmp_path):
    whole = write_shard(tmp_path / "whole.exp", TINY, blocks=2, rows=24).read_bytes()
    path = tmp_path / "part.exp"
    with ShardReader(tmp_path / "whole.exp") as closed:
        second = closed.blocks[1].offset
    path.write_bytes(whole[: second + 50])
    with ShardReader(path) as reader:
        assert (len(reader.blocks), reader.tail_bytes) == (1, 50)
        path.write_bytes(whole)
        assert reader.refresh() == 1
        assert (reader.closed, reader.tail_bytes, reader.findings) == (True, 0, [])


def test_writer_refuses_what_is_in_the_way(tmp_path):
    path = tmp_path / "a.exp"
    path.write_bytes(b"x")
    with pytest.raises(OutputExists):
        ShardWriter(path, TINY, {})
    assert path.read_bytes() == b"x"
    descriptor = os.open(path, os.O_RDWR)
    with pytest.raises(OutputExists):
        ShardWriter(descriptor, TINY, {})
    os.close(descriptor)


def test_encoder_refuses_arrays_that_do_not_fit():
    encoder, columns = BlockEncoder(TINY), rows_of(TINY, np.random.default_rng(0), 10)
    with pytest.raises(SchemaError, match="board"):
        encoder.encode(0, {**columns, "board": columns["board"][:, :5]}, 10)
    with pytest.raises(SchemaError, match="action"):
        encoder.encode(0, {**columns, "action": columns["action"].astype("i4")}, 10)
    with pytest.raises(SchemaError, match="no column 'board'"):
        encoder.encode(0, {name: v for name, v in columns.items() if name != "board"}, 10)
    for rows in (0, 11):
        with pytest.raises(SchemaError):
            encoder.encode(0, columns, rows)


def test_a_full_disk_costs_only_the_record_that_did_not_fit(tmp_path):
    path = tmp_path / "a.exp"
    encoder = BlockEncoder(CARTPOLE)
    block = encoder.encode(0, rows_of(CARTPOLE, np.random.default_rng(0), 500), 500)
    writer = ShardWriter(path, CARTPOLE, {})
    writer.append_block(block)
    before = writer.nbytes
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (before + block.nbytes // 2, limits[1]))
    try:
        with pytest.raises(WriteFailed, match="intact"):
            writer.append_block(block)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.stat().st_size == before == writer.nbytes
    writer.append_block(block)
    writer.close()
    with ShardReader(path) as reader:
        assert [entry.rows for entry in reader.blocks] == [500, 500]
    assert list(check_shard(path)) == []


def test_no_space_is_told_as_such():
    descriptor = os.open("/dev/full", os.O_WRONLY)
    with pytest.raises(NoSpace):
        ShardWriter(descriptor, TINY, {})
    os.close(descriptor)


def test_rows_and_blocks_that_do_not_exist():
    with ShardReader(GOLDEN / "tiny.exp") as reader:
        with pytest.raises(NotThere):
            reader.read_block(2)
        with pytest.raises(NotThere):
            reader.read_rows(0, np.array([24]))
        with pytest.raises(NotThere):
            reader.read_rows(0, np.array([-1]))
    with pytest.raises(NotThere):
        ShardReader(GOLDEN / "none.exp")


def test_closed_writer_refuses_and_many_episodes_are_split(tmp_path):
    path = tmp_path / "a.exp"
    with ShardWriter(path, TINY, {}) as writer:
        writer.append_episodes([EpisodeStart(e, 0, [0], "g", metadata={"m": "x" * 50}) for e in range(2500)])
        writer.append_episodes(ends=[EpisodeEnd(e, 1, "truncated", 2) for e in range(2500)])
        with pytest.raises(ShardError, match="limit"):
            writer.append_meta({"note": "x" * (17 << 20)})
    with pytest.raises(WriteFailed):
        writer.append_meta({})
    with ShardReader(path) as reader:
        assert [start.episode for start in reader.episode_starts] == list(range(2500))
        assert reader.episode_ends[-1].ended == "truncated"
    assert list(check_shard(path)) == []


def test_decoded_memory_is_used_again_only_when_nobody_holds_it():
    pool, shape, dtype = ArrayPool(kept=9 << 20), (1 << 18,), np.dtype("f8")
    first = pool.empty(shape, dtype)
    first[:] = 1
    part = first[5:7].view("u1")
    second = pool.empty(shape, dtype)
    second[:] = 2
    assert not np.shares_memory(first, second)
    address = first.ctypes.data
    del first
    third = pool.empty(shape, dtype)
    assert third.ctypes.data != address
    assert part.view("f8").tolist() == [1, 1]
    del part
    fourth = pool.empty(shape, dtype)
    assert fourth.ctypes.data == address
    held = [pool.empty(shape, dtype) for _ in range(9)]
    assert len({array.ctypes.data for array in [second, third, fourth, *held]}) == 12
    assert sum(map(len, pool._buffers)) <= 9 << 20
