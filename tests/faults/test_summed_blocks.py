"""Blocks and runs whose wide columns are checked without being decoded: the findings are those of decoded rows, word
for word, whatever is wrong."""

import struct
import tracemalloc
from random import Random

import numpy as np
import pytest
import zstandard
from fuzz_shards import mutate, put_together, take_apart
from hypothesis import given, settings
from hypothesis import strategies as st
from shard_rows import GOLDEN, rows_of
from test_replay_sums import DTYPES, shard_of
from test_validate import hide

import expkit.validation.file_checks as file_checks
from expkit import Field, Schema, open_run
from expkit.errors import ShardError
from expkit.formats.shard import BlockEncoder, RowHasher, ShardReader, ShardWriter, copy_block
from expkit.formats.shard.check import check_block
from expkit.formats.shard.layout import FRAME, KIND_BLOCK
from expkit.kernels.bits import CHANGES, CONSTANT
from expkit.row.episodes import EpisodeEnd, EpisodeStart, PolicyInfo
from expkit.runs.layout import RunInfo
from expkit.runs.write import RunWriter, create_run
from expkit.validation.validate import validate_run, validate_shard


def both_ways(path, schema=None):
    """(findings when all columns are decoded, findings when none is that need not be), of every block."""
    with ShardReader(path, schema=schema) as reader:
        hasher = RowHasher(reader.schema)
        decoded = [check_block(reader, block, hasher)[0] for block in reader.blocks]
        summed = [check_block(reader, block, hasher, wanted=())[0] for block in reader.blocks]
    return decoded, summed


@pytest.fixture(scope="module")
def board_file(tmp_path_factory):
    """Wide columns of every item size, in several frames; one of them constant, one lost."""
    schema = Schema([Field(f"wide/{dtype}", dtype, (37,)) for dtype in DTYPES] + [Field("flags", "bool", (300,))])
    rng, rows = np.random.default_rng(5), 120
    columns = rows_of(schema, rng, rows, games=1)
    for column in schema.columns:
        if column.items:
            values = columns[column.name]
            values[:] = 0
            values[rng.integers(0, rows) :, 7] = 3
            values[11:, 36] = 9
            values[30, :5] = 1
    columns["wide/u1"][:] = 8
    folder = tmp_path_factory.mktemp("boards")
    path = shard_of(folder / "a.exp", schema, columns, rows, frame_rows=4)
    with ShardReader(path) as reader, ShardWriter(folder / "b.exp", schema, {}) as writer:
        writer.append_block(copy_block(reader, 0, ["wide/i8"]))
        entries = dict(zip(reader.names, reader.head(0).columns, strict=True))
    assert entries["wide/u1"].filter == CONSTANT
    assert all(entries[f"wide/{dtype}"].filter == CHANGES for dtype in DTYPES if dtype != "u1")
    assert entries["wide/f8"].frames > 2
    return folder / "b.exp"


def test_a_block_is_judged_alike_both_ways_whatever_bit_is_flipped(board_file, tmp_path):
    data, path = board_file.read_bytes(), tmp_path / "a.exp"
    with ShardReader(board_file) as reader:
        block = reader.blocks[0]
        assert [found.rule for found in check_block(reader, block, RowHasher(reader.schema), wanted=())[0]] == [
            "file/lost-values"
        ]
    for place in range(block.body_offset, block.body_offset + block.body_bytes, 7):
        flipped = bytearray(data)
        flipped[place] ^= 1 << place % 8
        path.write_bytes(flipped)
        decoded, summed = both_ways(path)
        assert decoded == summed
        assert any(found.rule == "file/checksum" for found in summed[0])


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(0, 2))
def test_a_block_with_right_checksums_is_judged_alike_both_ways(board_file, tmp_path_factory, seed, source):
    """Heads, frames and what the frames unfold to, changed at random: the same findings in the same words."""
    path = tmp_path_factory.mktemp("forged") / "a.exp"
    data = [board_file, GOLDEN / "tiny.exp", GOLDEN / "board.exp"][source].read_bytes()
    path.write_bytes(mutate(data, Random(seed)))
    try:
        decoded, summed = both_ways(path)
    except ShardError:
        return
    assert decoded == summed


def forge_frame(path, column, change):
    """Pass what the last frame of a column holds before compression through `change`; all checksums are right after."""
    with ShardReader(path) as reader:
        head, place = reader.head(0), reader.names.index(column)
        frames = [bytes(frame) for name in reader.names for frame in reader.stored_frames(0, name)]
    assert head.columns[place].filter == CHANGES
    last, compressed = head.first_frame[place + 1] - 1, head.columns[place].compression
    payload = zstandard.decompress(frames[last]) if compressed else frames[last]
    frames[last] = zstandard.compress(change(payload)) if compressed else change(payload)
    parts = take_apart(path.read_bytes())
    record = next(record for record in parts.records if record.kind == KIND_BLOCK)
    record.body = bytearray(b"".join(frames))
    at = len(record.head) + (last - len(frames)) * FRAME.itemsize
    struct.pack_into("<I", record.head, at, len(frames[last]))
    path.write_bytes(put_together(parts))


# ---- runs ------------------------------------------------------------------------------------------------------------

ROWS, HALF, FIRST = 240, 120, 140  # of all, of an episode, of the first of two blocks
WIDE = Schema(
    [
        Field("observation", "f4", (9, 5), "observation", low=0, high=1),
        Field("counts", "i2", (40,), "observation", low=1),
        Field("choice", "u1", (40,), "action", high=9, nullable=True),
        Field("reward", "f4", (40,), high=5),
        Field("action_mask", "bool", (300,), "observation"),
        Field("action", "u2", belongs="action"),
    ]
)


def wide_columns():
    """Two sound episodes, whose wide columns are stored as changes."""
    arrays = {column.name: np.zeros(column.shape(ROWS), column.dtype) for column in WIDE.columns}
    arrays["episode"][:] = np.repeat([7, 8], HALF)
    arrays["step"][:] = np.tile(np.arange(HALF), 2)
    arrays["is_first"][::HALF] = arrays["is_last"][HALF - 1 :: HALF] = arrays["terminated"][HALF - 2 :: HALF] = True
    for row in range(ROWS):
        arrays["observation"][row:, row % 45] = 0.25 + row % 60 / 100
        arrays["counts"][row:, row % 40] = row
        arrays["choice"][row:, row % 40] = row % 10
        arrays["reward"][row:, row % 40] = row % 6
    arrays["counts"] += 1
    arrays["valid:choice"][:] = ~arrays["is_last"]
    arrays["action_mask"][:, 0] = 1
    return arrays


def wide_run(path, changes=(), cuts=(ROWS,), frame_rows=16):
    """A closed run of `wide_columns` with `changes`: (column, place, value)."""
    arrays = wide_columns()
    for name, place, value in changes:
        arrays[name][place] = value
    create_run(path, RunInfo(id="x", source="test", schema=WIDE, players=["p"], policies=[PolicyInfo("only")]))
    writer, encoder = RunWriter(path, WIDE, 1), BlockEncoder(WIDE, frame_rows=frame_rows)
    starts, begin = [EpisodeStart(episode, 1, [0], "test") for episode in (7, 8)], 0
    for cut in cuts:
        part = {name: np.ascontiguousarray(values[begin:cut]) for name, values in arrays.items()}
        writer.ledger.produced[0] += cut - begin
        writer.append(encoder.encode(0, part, cut - begin), starts=starts if not begin else [])
        begin = cut
    writer.append_episodes([], [EpisodeEnd(e, 2, "terminated", HALF - 1, {"0": 1.0}, {"0": HALF}) for e in (7, 8)])
    writer.close()
    with ShardReader(path / "shards/w0/000000.exp") as reader:
        filters = dict(zip(reader.names, (entry.filter for entry in reader.head(0).columns), strict=True))
    assert all(filters[name] == CHANGES for name in ("observation", "counts", "choice", "reward"))
    return path


def findings(path):
    with open_run(path) as run:
        # A forged file has another size than the manifest says.
        return [finding for finding in validate_run(run, threads=1) if finding.rule != "run/manifest"]


@pytest.fixture
def decodes(monkeypatch):
    """Columns that validation decodes, as they come."""
    seen = []
    original = ShardReader.read_block

    def read_block(self, index, columns=None, rows=None):
        seen.extend(self.names if columns is None else columns)
        return original(self, index, columns, rows)

    monkeypatch.setattr(ShardReader, "read_block", read_block)
    return seen


def test_a_sound_run_is_validated_without_decoding_its_wide_columns(tmp_path, decodes):
    assert findings(wide_run(tmp_path / "run")) == []
    narrow = {column.name for column in WIDE.columns if not column.items}
    assert {*decodes} == narrow | {"action_mask", "reward"}
    # As the least of the column's values is 1 or more, that no zero is among the changes has to be known for certain.
    decodes.clear()
    assert validate_shard(tmp_path / "run/shards/w0/000000.exp")[0] == []
    assert {*decodes} == narrow


ABOVE = ("observation", (37, 4), 1.5)
BROKEN = {
    "above": ([ABOVE], "observation", 37, "1.5 is above 1"),
    "below": ([("observation", (37, 4), -2)], "observation", 37, "-2.0 is below 0"),
    "infinite": ([("observation", (37, 4), np.inf)], "observation", 37, "inf is above 1"),
    "rows": ([("observation", (slice(20, 25), 3), 4)], "observation", 20, "4.0 is above 1, and 4 rows more"),
    "zero": ([("counts", (12, 3), 0)], "counts", 12, "0 is below 1"),
    "unset": ([("counts", (slice(0, FIRST), 3), 0)], "counts", 0, f"0 is below 1, and {FIRST - 1} rows more"),
    "action": ([("choice", (12, 3), 10)], "choice", 12, "10 is above 9"),
    "reward": ([("reward", (12, 0), np.nan)], "reward", 12, "reward nan is no number"),
    "last": ([("choice", (HALF - 1, 3), 10)], None, 0, ""),
    "absent": ([("choice", (12, 3), 10), ("valid:choice", 12, False)], None, 0, ""),
    "NaN": ([("observation", (37, 4), np.nan)], "observation", 37, "holds NaN"),
    "beside NaN": ([ABOVE, ("observation", (37, 0), np.nan)], "observation", 37, "holds NaN", "1.5 is above 1"),
}


@pytest.mark.parametrize("cuts", [(ROWS,), (FIRST, ROWS)], ids=["one block", "two blocks"])
@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_bound_is_found_as_in_decoded_rows(tmp_path, monkeypatch, case, cuts):
    changes, column, at, *messages = BROKEN[case]
    path = wide_run(tmp_path / "run", changes, cuts)
    found = findings(path)
    assert [(f.column, f.message, f.episode, f.step, f.block) for f in found] == (
        [] if column is None else [(column, message, 7 + at // HALF, at % HALF, 0) for message in messages]
    )
    assert {f.rule for f in found} <= {"value/bounds", "value/nan", "value/reward"}
    monkeypatch.setattr(file_checks, "check_block", lambda *arguments: check_block(*arguments[:3]))
    assert found == findings(path)


def test_bounds_are_judged_by_the_rows_that_count(tmp_path):
    """Episode 7 is pruned: what is wrong in it is nothing any more."""
    path = wide_run(tmp_path / "bad", [("observation", (3, 4), 1.5)])
    assert [finding.episode for finding in findings(path)] == [7]
    hide(path, 7, 7, HALF)
    assert {finding.rule for finding in findings(path)} == {"run/superseded"}
    path = wide_run(tmp_path / "beside", [("observation", (3, 4), np.nan), ("observation", (150, 2), 7)])
    assert [(f.rule, f.episode) for f in findings(path)] == [("value/nan", 7), ("value/bounds", 8)]
    hide(path, 7, 7, HALF)
    assert [(f.rule, f.episode, f.step) for f in findings(path)][1:] == [("value/bounds", 8, 30)]


def test_a_doubtful_column_that_can_be_read_no_more_is_said(tmp_path, monkeypatch):
    """The file was changed between two reads of the same block."""
    path = wide_run(tmp_path / "run", [ABOVE])
    original = ShardReader.read_block

    def read_block(self, index, columns=None, rows=None):
        if list(columns or []) == ["observation"]:
            raise ShardError("the disk is gone")
        return original(self, index, columns, rows)

    monkeypatch.setattr(ShardReader, "read_block", read_block)
    assert [(f.severity, f.rule, f.message) for f in findings(path)] == [
        ("error", "file/unreadable", "the disk is gone")
    ]


@pytest.mark.parametrize("column", ["observation", "counts", "action_mask"])
def test_a_stored_value_that_is_another_is_noticed_by_the_digest(tmp_path, column):
    """One byte of the last new value of a frame, within its bounds and with right checksums."""
    path = wide_run(tmp_path / "run", [("action_mask", (slice(150, None), 3), 4)])
    shard = path / "shards/w0/000000.exp"
    forge_frame(shard, column, lambda payload: payload)
    assert findings(path) == []
    forge_frame(shard, column, lambda payload: payload[:-1] + bytes([payload[-1] ^ 1]))
    for found in (findings(path), validate_shard(shard)[0]):
        assert ("file/digest", "the digest of the rows is not the one stored") in {(f.rule, f.message) for f in found}


def test_a_malformed_frame_is_said_as_decoding_says_it(tmp_path):
    path = wide_run(tmp_path / "run")
    shard = path / "shards/w0/000000.exp"
    with ShardReader(shard) as reader:
        last = reader.head(0).columns[reader.names.index("counts")].frames - 1
    forge_frame(shard, "counts", lambda payload: payload[:-1])
    with ShardReader(shard) as reader:
        with pytest.raises(ShardError) as decoding:
            reader.read_block(0, ["counts"])
        with pytest.raises(ShardError) as summing:
            reader.sum_columns(0, ["counts"], RowHasher(WIDE).keys, np.zeros(ROWS, np.uint64))
    assert str(summing.value) == str(decoding.value)
    assert [(f.rule, f.column, f.message) for f in findings(path)] == [
        ("file/column", "counts", f"frame {last} is malformed")
    ]


def test_validating_holds_no_decoded_block(tmp_path):
    """1,000 rows of 14,400 bytes in one block: 14 MB that never are in memory."""
    schema = Schema([Field("observation", "f4", (9, 400), "observation", low=0, high=1)])
    columns = rows_of(schema, np.random.default_rng(1), 1000, games=1)
    columns["observation"][:] = 0
    for row in range(1000):
        columns["observation"][row:, row * 3 % 3600] = row % 7 / 7
    path = shard_of(tmp_path / "a.exp", schema, columns, 1000)
    assert validate_shard(path, threads=1)[0] == []
    tracemalloc.start()
    try:
        assert validate_shard(path, threads=1)[0] == []
        assert tracemalloc.get_traced_memory()[1] < 2 << 20
    finally:
        tracemalloc.stop()
