"""Kernels of the shard file against slow, obvious twins."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from expkit.kernels.bits import delta_pays, from_planes, gather_scalar, gather_vector, pack_flags, to_bits, to_planes
from expkit.kernels.bytes_at import copy_bytes, differ8, differ64, load1, load2, load4, load8, store1, store8
from expkit.kernels.changes import replay_frames
from expkit.kernels.digest import hash_rows, key_stream, mix, nh_row, sum_runs
from expkit.kernels.sort import MAX_UNSORTED_EPISODES, find_runs, order_rows

FAST = settings(max_examples=60, deadline=None)


def python_nh(raw, keys):
    """The NH sum of SPEC.md, word by word."""
    raw += bytes(-len(raw) % 8)
    total = 0
    for place, key in enumerate(keys):
        v = int.from_bytes(raw[place * 8 : place * 8 + 8], "little") ^ int(key)
        total += (v % 2**32) * (v >> 32)
    return total % 2**64


@FAST
@given(st.binary(min_size=1, max_size=90))
def test_nh_row(raw):
    keys = key_stream("column", len(raw))
    data = np.frombuffer(raw, np.uint8)
    assert nh_row(data.ctypes.data, len(raw), keys.ctypes.data) == python_nh(raw, keys)


def test_hash_rows_sums_columns_and_mixes():
    rng = np.random.default_rng(0)
    columns = [rng.integers(0, 256, (11, width), np.uint8) for width in (1, 8, 13, 200)]
    keys = [key_stream(f"c{place}", values.shape[1]) for place, values in enumerate(columns)]
    table = np.array([(c.ctypes.data, c.shape[1], k.ctypes.data) for c, k in zip(columns, keys, strict=True)])
    out = np.full(11, 77, np.uint64)
    hash_rows(table, 11, out)
    for row in range(11):
        total = 77 + sum(python_nh(c[row].tobytes(), k) for c, k in zip(columns, keys, strict=True))
        assert out[row] == mix(np.uint64(total % 2**64))
    sums = np.empty(2, np.uint64)
    sum_runs(out, np.array([0, 4]), np.array([4, 7]), 2, sums)
    assert sums.tolist() == [sum(out[:4].tolist()) % 2**64, sum(out[4:].tolist()) % 2**64]


@FAST
@given(arrays(np.uint8, st.integers(1, 300), elements=st.sampled_from([0, 0, 1, 2, 128, 255])))
def test_pack_flags(raw):
    """As np.packbits, also of bytes that are no proper bools; what lies behind stays."""
    out = np.full((len(raw) + 7) // 8 + 1, 0xAA, np.uint8)
    pack_flags(raw.view(bool), len(raw), out.ctypes.data)
    assert out[:-1].tobytes() == np.packbits(raw != 0, bitorder="little").tobytes()
    assert out[-1] == 0xAA


def ordered(episodes, steps):
    rows = len(episodes)
    order, place = np.empty(rows, np.int32), np.empty(rows, np.int32)
    slots = np.empty(1 << (2 * rows).bit_length(), np.int32)
    number, first, count = np.empty(rows, np.uint64), np.empty(rows, np.int64), np.empty(rows, np.int64)
    at = episodes.ctypes.data
    runs = order_rows(at, steps.ctypes.data, rows, order, slots, number, first, count, place)
    if runs < 0:
        order[:] = np.lexsort((steps, episodes))
        found = find_runs(at, rows, order, number, first, count)
        return False, order, number[:found], first[:found], count[:found]
    return True, order, number[:runs], first[:runs], count[:runs]


def check_order(episodes, steps):
    fast, order, number, first, count = ordered(episodes, steps)
    assert order.tolist() == np.lexsort((steps, episodes)).tolist()
    expected, begin, size = np.unique(episodes[order], return_index=True, return_counts=True)
    assert (number.tolist(), first.tolist(), count.tolist()) == (expected.tolist(), begin.tolist(), size.tolist())
    return fast


@FAST
@given(arrays(np.uint64, st.integers(1, 60), elements=st.sampled_from([0, 3, 1 << 48, 2**64 - 1])), st.data())
def test_order_of_any_rows(episodes, data):
    steps = data.draw(arrays(np.uint32, len(episodes), elements=st.integers(0, 5)))
    check_order(episodes, steps)


def test_order_of_rows_that_arrive_tick_by_tick_needs_no_general_sort():
    game = np.tile(np.arange(64, dtype=np.uint64)[::-1], 40)
    assert check_order(game * np.uint64(7919), np.repeat(np.arange(40, dtype=np.uint32), 64))


def test_order_of_very_many_episodes_out_of_order():
    rng = np.random.default_rng(0)
    episodes = rng.permutation(2 * MAX_UNSORTED_EPISODES).astype(np.uint64)
    assert not check_order(episodes, np.zeros(len(episodes), np.uint32))
    assert check_order(np.sort(episodes), np.zeros(len(episodes), np.uint32))


@pytest.mark.parametrize("itemsize", [1, 2, 4, 8])
@pytest.mark.parametrize("stride", [0, 1, 3])
def test_planes_are_transposed_bytes(itemsize, stride):
    values = np.random.default_rng(0).integers(0, 256, 39 * itemsize + 8, np.uint8)
    numbers = values[: 39 * itemsize].view(f"u{itemsize}")
    out, back = np.empty(39 * itemsize, np.uint8), np.empty(39 * itemsize + 8, np.uint8)
    to_planes(values.ctypes.data, 39, itemsize, stride, out.ctypes.data)
    plain = numbers.reshape(-1, stride or 1)
    if stride:
        plain = np.diff(plain, axis=0, prepend=np.zeros((1, stride), numbers.dtype))
    assert out.tobytes() == np.ascontiguousarray(plain.reshape(-1, 1).view(np.uint8).T).tobytes()
    from_planes(out.ctypes.data, 39, itemsize, stride, back.ctypes.data)
    assert back[:-8].tobytes() == numbers.tobytes()


@pytest.mark.parametrize("dtype", ["i1", "u2", "i4", "i8"])
def test_delta_pays_where_differences_are_smaller(dtype):
    rng = np.random.default_rng(0)
    rising = np.append(np.arange(60, 120), [0] * 8).astype(dtype)
    noise = np.append(rng.integers(0, 100, 60), [0] * 8).astype(dtype)
    itemsize = rising.itemsize
    assert delta_pays(rising.ctypes.data, 60, itemsize, 1)
    assert not delta_pays(noise.ctypes.data, 60, itemsize, 1)
    two = np.append(np.stack([np.arange(60, 90), 127 - np.arange(30)], 1).reshape(-1), [0] * 8).astype(dtype)
    assert delta_pays(two.ctypes.data, 60, itemsize, 2)


@pytest.mark.parametrize("rows", [1, 7, 8, 9, 64])
def test_bits_are_packed_lowest_first(rows):
    flags = np.random.default_rng(rows).integers(0, 2, rows).astype(np.uint8)
    out = np.empty((rows + 7) // 8, np.uint8)
    to_bits(flags.ctypes.data, rows, out.ctypes.data)
    assert out.tolist() == np.packbits(flags, bitorder="little").tolist()


@pytest.mark.parametrize("width", [1, 2, 4, 8, 12])
@pytest.mark.parametrize("equal", [False, True])
def test_gather_copies_in_order_and_adds_to_the_hashes(width, equal):
    rng = np.random.default_rng(width)
    values = np.tile(rng.integers(0, 256, (1, width), np.uint8), (20, 1))
    if not equal:
        values[5, width - 1] ^= 1
    order = rng.permutation(20).astype(np.int32)
    keys, hashes = key_stream("c", width), np.arange(20, dtype=np.uint64)
    target = np.empty(20 * width + 8, np.uint8)
    arguments = (keys.ctypes.data, order, 20, hashes, target.ctypes.data)
    if width == 12:
        same = gather_vector(values.ctypes.data, width, *arguments)
    else:
        same = gather_scalar(values.ctypes.data, width, False, *arguments)
    assert same == equal
    assert target[: 20 * width].tobytes() == values[order].tobytes()
    expected = [(row + python_nh(values[order[row]].tobytes(), keys)) % 2**64 for row in range(20)]
    assert hashes.tolist() == expected


def test_gathered_bools_become_zero_or_one():
    values, target = np.array([0, 2, 255, 1], np.uint8), np.empty(16, np.uint8)
    keys, hashes = key_stream("c", 1), np.zeros(4, np.uint64)
    order = np.arange(4, dtype=np.int32)
    assert not gather_scalar(values.ctypes.data, 1, True, keys.ctypes.data, order, 4, hashes, target.ctypes.data)
    assert target[:4].tolist() == [0, 1, 1, 1]
    assert hashes[1] == hashes[2] == hashes[3] != hashes[0]


def payload_of(rows):
    """The payload of a frame of changes, element by element. `rows`: (n, items) of unsigned integers."""
    above, positions, values = [0] * rows.shape[1], [], []
    for r, row in enumerate(rows.tolist()):
        for i, value in enumerate(row):
            if value != above[i]:
                positions.append(r * rows.shape[1] + i)
                values.append(value)
        above = row
    gaps, last = b"", -1
    for position in positions:
        many, rest = divmod(position - last - 1, 255)
        gaps += b"\xff" * many + bytes([rest])
        last = position
    planes = np.array(values, rows.dtype).view(np.uint8).reshape(len(values), rows.itemsize).T.tobytes()
    return len(positions).to_bytes(4, "little") + len(gaps).to_bytes(4, "little") + gaps + planes


@FAST
@given(st.sampled_from(["u1", "u2", "u4", "u8"]), st.integers(1, 9), st.integers(1, 400), st.data())
def test_replay_gives_the_rows_asked_for(dtype, count, items, data):
    rng = np.random.default_rng(data.draw(st.integers(0, 1000)))
    rows = np.cumsum(rng.random((count, items)) < 0.02, axis=0).astype(dtype)
    payload = np.frombuffer(payload_of(rows), np.uint8)
    wanted = np.array(sorted(data.draw(st.sets(st.integers(0, count - 1)))), np.int64)
    out = np.zeros((len(wanted), items), dtype)
    frame = np.array([[payload.ctypes.data, len(payload), count, 0, len(wanted)]])
    places = np.arange(len(wanted))
    assert replay_frames(frame, items * rows.itemsize, rows.itemsize, wanted, places, out.ctypes.data, 0) == -1
    assert np.array_equal(out, rows[wanted])


@FAST
@given(st.binary(max_size=40), st.integers(0, 6), st.integers(0, 12))
def test_replay_of_hostile_payloads_stays_inside(body, changes, gaps):
    payload = np.frombuffer(changes.to_bytes(4, "little") + gaps.to_bytes(4, "little") + body, np.uint8)
    out = np.full(3 * 16 + 32, 7, np.uint8)
    frame = np.array([[payload.ctypes.data, len(payload), 3, 0, 3]])
    assert replay_frames(frame, 16, 2, np.arange(3), np.arange(3), out.ctypes.data + 16, 0) in (-1, 0)
    assert (out[:16] == 7).all()
    assert (out[-16:] == 7).all()


def test_bytes_at_addresses():
    data = np.arange(100, 200, dtype=np.uint8)
    at = data.ctypes.data
    raw = data.tobytes()
    for load, size in ((load1, 1), (load2, 2), (load4, 4), (load8, 8)):
        assert _call_load(load, at, 3) == int.from_bytes(raw[3 : 3 + size], "little")
    other = data.copy()
    other[[5, 63]] ^= 1
    assert _call_differ(differ64, at, other.ctypes.data) == 1 << 5 | 1 << 63
    assert _call_differ(differ8, at, other.ctypes.data) == 1 << 5
    _call_stores(other.ctypes.data, at)
    assert other[:8].tolist() == [255, 1, 2, 3, 4, 5, 6, 7]
    assert other[10:20].tolist() == data[:10].tolist()


def _jit(body):
    import numba

    return numba.njit(body)


def _call_load(load, address, offset):
    return _jit(lambda a, o: load(a, o))(address, offset)


def _call_differ(differ, left, right):
    return _jit(lambda a, b: differ(a, b, 0))(left, right)


def _call_stores(target, source):
    def body(target, source):
        store8(target, 0, np.uint64(0x0706050403020100))
        store1(target, 0, np.uint64(0x1FF))
        copy_bytes(target + 10, source, 10)

    _jit(body)(target, source)
