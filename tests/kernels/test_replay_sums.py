"""Rows that are hashed from their changes, against rows that are decoded and hashed: by kernel and by column."""

import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shard_rows import BOARD, rows_of, same_bits
from test_shard_kernels import payload_of, python_nh

from expkit import Field, Schema
from expkit.formats.shard import BlockEncoder, RowHasher, ShardReader, ShardWriter
from expkit.formats.shard.check import check_block
from expkit.formats.shard.digest import sum_by_run
from expkit.kernels.bits import CHANGES, CONSTANT
from expkit.kernels.changes import replay_frames
from expkit.kernels.digest import key_stream
from expkit.kernels.replay_sums import extremes_of, order_of, sum_frames

FAST = settings(max_examples=150, deadline=None)
DTYPES = ["i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8"]
GUARD = 32


def extremes_by_numpy(values):
    """The slow twin of `extremes_of`: in the bits that a zero of either sign has, which compare equal."""
    numbers = values[values == values]
    return ([numbers.min(), numbers.max()] if numbers.size else []) + [np.nan] * (numbers.size < values.size)


class Sums:
    """`sum_frames` with a margin around all that it writes to."""

    def __init__(self, payloads, counts, dtype, width):
        self._raw = [np.frombuffer(payload, np.uint8) for payload in payloads]
        first = np.cumsum([0, *counts])
        frames = [(raw.ctypes.data, len(raw), n, at) for raw, n, at in zip(self._raw, counts, first, strict=False)]
        words = -(-width // 8)
        scratch = np.full(8 * words + 2 * GUARD, 0xAA, np.uint8)
        sums = np.zeros(first[-1] + 2 * GUARD, np.uint64)
        keys, order = key_stream("wide", width), order_of(dtype)
        table = np.array(frames, np.int64).reshape(-1, 4)
        table[:, 3] += GUARD
        at = scratch.ctypes.data + GUARD
        self.bad = sum_frames(table, width, dtype.itemsize, keys.ctypes.data, at, sums, order)
        self.sums = sums[GUARD:-GUARD].tolist()
        self.extremes = extremes_of(order, dtype)
        assert (scratch[:GUARD] == 0xAA).all()
        assert (scratch[-GUARD:] == 0xAA).all()
        assert not sums[:GUARD].any()
        assert not sums[-GUARD:].any()


def changing(rng, count, items, dtype):
    """Rows in which few elements change, to values of all bits: NaN and infinities among those of floats."""
    fresh = rng.integers(0, 256, (count, items * dtype.itemsize), np.uint8).view(dtype)
    if rng.random() < 0.5:
        small = [0, 1, 2, 100] if dtype.kind == "u" else [0, 1, -1, -100]
        fresh = rng.choice(np.array(small, dtype), (count, items))
    if dtype.kind == "f":
        odd = rng.random((count, items)) < 0.05
        fresh[odd] = rng.choice(np.array([np.nan, -np.nan, np.inf, -np.inf, -0.0], dtype), odd.sum())
    rows = np.zeros((count, items), dtype)
    for row in range(count):
        rows[row] = np.where(rng.random(items) < rng.choice([0, 0.02, 1]), fresh[row], rows[row - 1] if row else 0)
    return rows


@FAST
@given(
    st.sampled_from(DTYPES),
    st.lists(st.integers(1, 7), min_size=1, max_size=4),
    st.integers(1, 40) | st.integers(250, 800),
    st.integers(0, 2**32 - 1),
)
def test_sums_and_extremes_are_those_of_the_rows(dtype, counts, items, seed):
    """Several frames; rows whose bytes are no multiple of 8; rows all equal, and gaps of more than 255."""
    dtype, rng = np.dtype(f"<{dtype}"), np.random.default_rng(seed)
    rows = changing(rng, sum(counts), items, dtype)
    width, unsigned = items * dtype.itemsize, np.dtype(f"<u{dtype.itemsize}")
    payloads = [payload_of(part.view(unsigned)) for part in np.split(rows, np.cumsum(counts)[:-1])]
    found = Sums(payloads, counts, dtype, width)
    assert found.bad == -1
    keys = key_stream("wide", width)
    assert found.sums == [python_nh(row.tobytes(), keys) for row in rows]
    assert found.extremes.dtype == dtype
    np.testing.assert_array_equal(found.extremes, np.array(extremes_by_numpy(rows), dtype))


@pytest.mark.parametrize("dtype", DTYPES)
def test_zero_is_among_the_values_only_where_a_row_has_it(dtype):
    dtype = np.dtype(f"<{dtype}")
    unsigned = f"<u{dtype.itemsize}"
    rows = np.array([[5, 6, 7], [5, 6, 8]], dtype)
    assert Sums([payload_of(rows.view(unsigned))], [2], dtype, 3 * dtype.itemsize).extremes.tolist() == [5, 8]
    rows[0, 1] = rows[1, 1] = 0
    assert Sums([payload_of(rows.view(unsigned))], [2], dtype, 3 * dtype.itemsize).extremes.tolist() == [0, 8]
    one = rows[:, :1].copy()
    # The second frame is of a row that was never set, the first has none such.
    frames = [payload_of(one.view(unsigned)), payload_of(np.zeros((1, 1), unsigned))]
    assert Sums(frames, [2, 1], dtype, dtype.itemsize).extremes.tolist() == [0, 5]
    if dtype.kind == "f":
        for nan in (np.nan, -np.nan):
            only = np.full((2, 3), nan, dtype)
            (found,) = Sums([payload_of(only.view(unsigned))], [2], dtype, 3 * dtype.itemsize).extremes
            assert np.isnan(found)


def verdict_of_replay(payload, count, itemsize, width):
    """What decoding all rows says of a payload: the twin for what is malformed."""
    out = np.zeros(count * width, np.uint8)
    raw, every = np.frombuffer(payload, np.uint8), np.arange(count)
    table = np.array([[raw.ctypes.data, len(raw), count, 0, count]])
    return replay_frames(table, width, itemsize, every, every, out.ctypes.data, 0)


@FAST
@given(st.sampled_from([1, 2, 4, 8]), st.binary(max_size=60), st.integers(0, 8), st.integers(0, 20), st.integers(1, 4))
def test_hostile_payloads_are_judged_as_decoding_judges_them(itemsize, body, changes, gaps, items):
    payload = changes.to_bytes(4, "little") + gaps.to_bytes(4, "little") + body
    found = Sums([payload], [3], np.dtype(f"<u{itemsize}"), items * itemsize)
    assert found.bad == verdict_of_replay(payload, 3, itemsize, items * itemsize)


def malformed():
    """Payloads of three rows of five u2, with one thing wrong each."""
    rows = np.array([[1, 0, 0, 0, 2], [1, 0, 3, 0, 2], [1, 4, 3, 0, 0]], np.uint16)
    good = payload_of(rows)
    gaps = good[8:13]
    assert good[:8] == struct.pack("<II", 5, 5)

    def made(changes, gap_bytes, values=None):
        return struct.pack("<II", changes, len(gap_bytes)) + gap_bytes + (good[13:] if values is None else values)

    yield "nothing", b""
    yield "a head that is cut", good[:7]
    yield "a byte short", good[:-1]
    yield "a byte more", good + b"x"
    yield "changes without end", struct.pack("<II", 0xFFFFFFFF, 5) + good[8:]
    yield "gaps without end", struct.pack("<II", 5, 0xFFFFFFFF) + good[8:]
    yield "a change more than gaps", made(6, gaps, bytes(12))
    yield "a gap more than changes", made(5, gaps + b"\0")
    yield "a gap that does not end", made(5, gaps[:-1] + b"\xff")
    yield "a gap beyond the last row", made(5, gaps[:-1] + b"\xfe")
    yield "a long gap beyond the last row", made(5, gaps[:-1] + b"\xff" * 400 + b"\0")
    yield "an element too far", made(5, bytes([*gaps[:-1], gaps[-1] + 1]))
    yield "gaps and no changes", made(0, gaps, b"")


@pytest.mark.parametrize(("what", "payload"), [pytest.param(*each, id=each[0]) for each in malformed()])
def test_every_kind_of_malformed_payload_is_refused(what, payload):
    good = payload_of(np.zeros((3, 5), np.uint16))
    assert verdict_of_replay(payload, 3, 2, 10) == 0
    assert Sums([payload], [3], np.dtype("<u2"), 10).bad == 0
    assert Sums([good, payload, good], [3, 3, 3], np.dtype("<u2"), 10).bad == 1
    assert Sums([good, good], [3, 3], np.dtype("<u2"), 10).bad == -1


# ---- columns and blocks ----------------------------------------------------------------------------------------------


def shard_of(path, schema, columns, rows, **options):
    with ShardWriter(path, schema, {}) as writer:
        writer.append_block(BlockEncoder(schema, **options).encode(2, columns, rows))
    return path


@pytest.mark.parametrize("frame_rows", [3, 512])
def test_columns_add_up_to_the_digest(tmp_path, frame_rows):
    """Those that are summed are those stored as changes, or constant; with the others they give the rows' hashes."""
    columns = rows_of(BOARD, np.random.default_rng(1), 200, games=2)
    columns["observation/pair"][:] = (-3.5, 7)
    path = shard_of(tmp_path / "a.exp", BOARD, columns, 200, frame_rows=frame_rows)
    hasher = RowHasher(BOARD)
    with ShardReader(path) as reader:
        whole = reader.read_block(0)
        sums = np.zeros(200, np.uint64)
        wide = [column.name for column in BOARD.columns if column.items]
        extremes = reader.sum_columns(0, wide, hasher.keys, sums)
        filters = dict(zip(reader.names, (entry.filter for entry in reader.head(0).columns), strict=True))
        assert extremes.keys() == {name for name in wide if filters[name] in (CHANGES, CONSTANT)}
        assert {"observation/board", "observation/pixels", "observation/pair"} <= extremes.keys()
        assert "observation/noise" not in extremes
        for name, pair in extremes.items():
            assert same_bits(pair, np.array([whole[name].min(), whole[name].max()]))
        rest = {name: values for name, values in whole.items() if name not in extremes}
        hashes = hasher.rows(rest, 2, sums, extremes)
        assert hashes.tolist() == hasher.rows(whole, 2).tolist()
        runs = reader.runs(0)
        assert np.array_equal(sum_by_run(hashes, runs["first_row"], runs["rows"]), runs["digest"])
        assert check_block(reader, reader.blocks[0], hasher)[0] == []
        findings, decoded = check_block(reader, reader.blocks[0], hasher, wanted=["observation/pixels"])
        assert findings == []
        assert decoded.keys() == {*rest, "observation/pixels"}


@pytest.mark.parametrize("values", [[np.nan] * 9, [np.nan, 1, 2, 3, 4, 5, 6, 7, -8.5], [0.0] * 9])
def test_the_extremes_of_a_constant_column(tmp_path, values):
    schema = Schema([Field("wide", "f4", (9,))])
    columns = rows_of(schema, np.random.default_rng(1), 60)
    columns["wide"][:] = values
    with ShardReader(shard_of(tmp_path / "a.exp", schema, columns, 60)) as reader:
        sums = np.zeros(60, np.uint64)
        found = reader.sum_columns(0, ["wide"], RowHasher(schema).keys, sums)
        assert reader.head(0).columns[reader.names.index("wide")].filter == CONSTANT
    np.testing.assert_array_equal(found["wide"], extremes_by_numpy(columns["wide"]))
    assert set(sums.tolist()) == {python_nh(columns["wide"][0].tobytes(), key_stream("wide", 36))}
