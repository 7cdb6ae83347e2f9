"""Kernels of the ring against slow twins, and the fast path of producers and consumers block by block."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from buffer_rows import SCHEMA, batch, check, row
from patience import PATIENCE

from expkit.buffers import snapshot
from expkit.buffers.budget import Plan, plan_blocks
from expkit.buffers.group import PlayerBuffers
from expkit.buffers.memory import MemoryBuffer
from expkit.buffers.ring import BlockRing
from expkit.errors import BufferClosed, MemoryBudget, NotThere, UsageError
from expkit.kernels import kernel
from expkit.kernels import ring as words
from expkit.kernels.atomics import atomic_add, compare_and_swap, load_acquire, store_release
from expkit.kernels.gather import gather_rows
from expkit.kernels.ring_add import REFUSED, put, ring_add, ring_add_rows, ring_publish, ring_row
from expkit.row.layout import BlockLayout
from expkit.row.schema import Field, Schema

LAYOUT = BlockLayout(SCHEMA, 8)


@kernel(cache=False)
def _count_up(shared, turns):
    for _ in range(turns):
        atomic_add(shared, 0, 1)
        while not compare_and_swap(shared, 8, 0, 1):
            pass
        shared[16] += 1
        store_release(shared, 8, 0)


@kernel(cache=False)
def _follow(shared, last):
    """Spin until word 0 reaches `last`; returns how often word 8 lagged behind word 0, which is written after it."""
    lagged = 0
    seen = 0
    while seen < last:
        seen = load_acquire(shared, 0)
        if load_acquire(shared, 8) < seen:
            lagged += 1
    return lagged


@kernel(cache=False)
def _lead(shared, last):
    for value in range(1, last + 1):
        shared[8] = value
        store_release(shared, 0, value)


def run_together(*calls) -> None:
    errors: list[BaseException] = []

    def guarded(call) -> None:
        try:
            call()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(call,)) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
        assert not thread.is_alive()
    if errors:
        raise errors[0]


def test_atomics_lose_no_update() -> None:
    shared = np.zeros(24, np.int64)
    _count_up(shared, 1)
    run_together(*[lambda: _count_up(shared, 20_000)] * 4)
    assert shared[0] == shared[16] == 80_001


def test_release_and_acquire_keep_the_order_of_writes() -> None:
    shared = np.zeros(16, np.int64)
    _lead(shared, 0)
    _follow(shared, 0)
    lagged = []
    run_together(lambda: lagged.append(_follow(shared, 300_000)), lambda: _lead(shared, 300_000))
    assert lagged == [0]


def test_atomic_add_wraps() -> None:
    shared = np.array([2**63 - 1], np.int64)

    @kernel(cache=False)
    def bump(shared):
        return atomic_add(shared, 0, 1)

    assert bump(shared) == 2**63 - 1
    assert shared[0] == -(2**63)


@kernel(cache=False)
def _add_all(ctl, memory, producer, rows, codes):
    for i in range(len(rows)):
        codes[i] = ring_add(ctl, memory, producer, rows[i])


def packed_rows(columns: dict[str, np.ndarray], rows: int) -> np.ndarray:
    """The slow twin of `ring_add`: stored columns side by side, (rows, row_bytes)."""
    parts = [np.ascontiguousarray(columns[c.name]).reshape(rows, -1).view(np.uint8) for c in SCHEMA.columns]
    return np.ascontiguousarray(np.concatenate(parts, axis=1))


def stored(start: int, stop: int) -> dict[str, np.ndarray]:
    memory = MemoryBuffer(SCHEMA)
    for number in range(start, stop):
        memory.add(row(number))
    return memory.drain().columns


@pytest.mark.parametrize("overflow", ["block", "drop-oldest", "drop-newest"])
@pytest.mark.parametrize("generation", [0, 2**63 - 3])
def test_rows_added_in_kernels_are_the_rows_given(overflow: str, generation: int) -> None:
    ring = BlockRing(LAYOUT, 3, overflow=overflow, generation=generation)
    producer = ring.producer()
    rows = packed_rows(stored(0, 40), 40)
    assert rows.shape[1] == SCHEMA.row_bytes
    codes = np.zeros(40, np.int64)
    _add_all(ring.control, ring.memory, producer.state, rows, codes)
    kept = {"block": range(24), "drop-newest": range(24), "drop-oldest": range(16, 40)}[overflow]
    first = ring.drain()
    assert check(first.columns) == list(kept)
    assert first.dropped_before == ({"drop-oldest": 16} if overflow == "drop-oldest" else {})
    late = {"block": words.WAIT, "drop-oldest": words.DONE, "drop-newest": words.NO_ROOM}[overflow]
    assert codes.tolist() == [words.DONE] * 24 + [late] * 16
    _add_all(ring.control, ring.memory, producer.state, rows[:2], codes)
    assert ring.drain().dropped_before == ({"drop-newest": 16} if overflow == "drop-newest" else {})
    ring.close()
    _add_all(ring.control, ring.memory, producer.state, rows[:2], codes)
    assert codes[:2].tolist() == [words.RING_CLOSED] * 2


@kernel(cache=False, _nrt=False)
def _put_all(ctl, memory, producer, numbers, codes):
    for i in range(len(numbers)):
        row = ring_row(ctl, producer)
        codes[i] = row
        if row >= 0:
            put(memory, producer, 0, row, 0, np.uint64(numbers[i]))
            put(memory, producer, 7, row, 0, np.float32(numbers[i] / 2))
            put(memory, producer, 7, row, 1, np.float32(-1))
            put(memory, producer, 8, row, 0, np.int16(-numbers[i]))
            put(memory, producer, 9, row, 0, numbers[i] % 2 == 0)
            ring_publish(ctl, producer, row)


def test_rows_put_column_by_column() -> None:
    schema = Schema([Field("pair", "f4", (2,)), Field("short", "i2"), Field("even", "bool")])
    ring = BlockRing(BlockLayout(schema, 4), 2, overflow="drop-newest")
    producer, codes = ring.producer(), np.zeros(10, np.int64)
    _put_all(ring.control, ring.memory, producer.state, np.arange(10), codes)
    assert codes.tolist() == [0, 1, 2, 3, 0, 1, 2, 3, REFUSED, REFUSED]
    columns = ring.drain().columns
    assert columns["episode"].tolist() == list(range(8))
    assert columns["pair"].tolist() == [[n / 2, -1] for n in range(8)]
    assert columns["short"].tolist() == [-n for n in range(8)]
    assert columns["even"].tolist() == [n % 2 == 0 for n in range(8)]
    _put_all(ring.control, ring.memory, producer.state, np.arange(2), codes)
    ring.close()
    _put_all(ring.control, ring.memory, producer.state, np.arange(2), codes)
    assert codes[:2].tolist() == [words.RING_CLOSED] * 2
    last = ring.drain()
    assert (last.rows, last.dropped_before) == (2, {"drop-newest": 2})


def test_wide_columns_are_copied_in_kernels() -> None:
    schema = Schema([Field("planes", "f4", (9, 5, 5)), Field("odd", "u1", (13,)), Field("edge", "u1", (64,))])
    layout = BlockLayout(schema, 4)
    ring = BlockRing(layout, 2)
    rng = np.random.default_rng(0)
    rows = rng.integers(0, 256, (7, schema.row_bytes), np.uint8)
    codes = np.zeros(7, np.int64)
    _add_all(ring.control, ring.memory, ring.producer().state, rows, codes)
    columns, at = ring.drain().columns, 0
    for column in schema.columns:
        got = np.ascontiguousarray(columns[column.name]).reshape(7, -1).view(np.uint8)
        np.testing.assert_array_equal(got, rows[:, at : at + column.row_bytes])
        at += column.row_bytes


def test_blocks_of_columns_are_added_in_kernels() -> None:
    ring = BlockRing(LAYOUT, 3, overflow="drop-newest")
    producer = ring.producer()
    source = BlockRing(BlockLayout(SCHEMA, 64), 1)
    for number in range(50):
        source.add(row(number))
    with source.claim(partial=True) as claim:
        args = (ring.control, ring.memory, producer.state, claim.memory, claim.offset + claim.layout.offsets)
        assert ring_add_rows(*args, 3, 13) == 10
        assert ring_add_rows(*args, 13, 20) == 7
        assert check(ring.drain().columns) == list(range(3, 20))
        assert ring_add_rows(*args, 20, 50) == 30
        assert ring.stats().dropped["drop-newest"] == 50 - 3 - check(ring.drain().columns)[-1] - 1 + 3
        ring.close()
        assert ring_add_rows(*args, 0, 5) == 0


def test_gather_is_fancy_indexing() -> None:
    schema = Schema([Field(f"c{width}", "u1", (width,)) for width in (1, 2, 3, 4, 8, 15, 16, 17, 64, 300)])
    layout, blocks, first = BlockLayout(schema, 16), 3, 128
    rng = np.random.default_rng(0)
    memory = rng.integers(0, 2, first + layout.nbytes * blocks, np.uint8)  # what a bool may be
    ctl = np.zeros(words.HEADER, np.int64)
    ctl[words.ARENA], ctl[words.BLOCK_BYTES] = first, layout.nbytes
    # Readable: rows 3..15 of block 2, all of block 0, rows 5 and 6 of block 1.
    ranges = np.array([[2, 0, 3, 16, -2, 13], [0, 0, 0, 16, -1, 29], [1, 0, 5, 7, 1, 31]])
    listed = [(2, row) for row in range(3, 16)] + [(0, row) for row in range(16)] + [(1, 5), (1, 6)]
    chosen = np.concatenate([np.arange(31), rng.integers(31, size=19)])
    target = BlockLayout(schema, 50)
    out = np.zeros(target.nbytes, np.uint8)
    tables = np.stack([layout.offsets, layout.widths, target.offsets])
    gather_rows(ctl, memory, ranges, chosen, np.zeros((2, 50), np.int64), tables, out)
    views = [layout.views(memory[first + i * layout.nbytes :][: layout.nbytes]) for i in range(blocks)]
    for name, got in target.views(out).items():
        want = np.stack([views[block][name][row] for block, row in (listed[i] for i in chosen)])
        np.testing.assert_array_equal(got.view(np.uint8), want.view(np.uint8), err_msg=name)


def write(ring: BlockRing, producer, block, number: int) -> None:
    """Write one row in place, as a game does."""
    for name, array in stored(number, number + 1).items():
        ring.views(block.block)[name][block.position] = array[0]


def test_a_game_writes_in_place_and_a_flush_sees_what_is_published() -> None:
    ring = BlockRing(LAYOUT, 3, overflow="block", player=5)
    producer = ring.producer()
    for number in range(5):
        block = producer.open(2)
        write(ring, producer, block, number)
        if number != 4:
            producer.publish(block.position + 1)
    assert ring.claim() is None
    assert check(ring.latest(9).columns) == [0, 1, 2, 3]
    with ring.claim(partial=True) as flushed:
        assert (flushed.player, flushed.start, flushed.rows, flushed.whole) == (5, 0, 4, False)
        assert check(flushed.columns) == [0, 1, 2, 3]
        producer.publish(5)
        assert producer.hand_over() == 5
        with ring.claim() as rest:
            assert (rest.start, rest.rows, rest.whole) == (4, 1, True)
            assert rest.sequence == flushed.sequence + 1
        # The flush still reads the block, so it is not free: two others are.
        assert sum(ring.control[words.HEADER + words.STATE :: words.BLOCK_WORDS][:3] == words.FREE) == 2
    assert sum(ring.control[words.HEADER + words.STATE :: words.BLOCK_WORDS][:3] == words.FREE) == 3
    flushed.release()
    assert producer.hand_over() == 0


def test_open_hands_over_when_room_is_short_and_says_when_there_is_none() -> None:
    ring = BlockRing(LAYOUT, 2, overflow="block")
    producer = ring.producer()
    with pytest.raises(UsageError, match="9 rows do not fit a block of 8"):
        producer.open(9)
    first = producer.open(6)
    assert (first.position, first.capacity) == (0, 8)
    producer.publish(3)
    assert producer.open(5).block == first.block
    second = producer.open(6)
    assert second.block != first.block
    assert second.offset == LAYOUT.nbytes * second.block
    producer.publish(8)
    assert producer.open(1, timeout=0.01) is None
    assert ring.wait_full(0)
    assert [ring.claim().rows, ring.claim().rows, ring.claim()] == [3, 8, None]
    assert not ring.wait_full(0.01)
    ring.close()
    with pytest.raises(BufferClosed):
        producer.open(1)


def test_drop_oldest_skips_what_is_being_read_and_tells_the_gap() -> None:
    ring = BlockRing(LAYOUT, 2, overflow="drop-oldest")
    ring.add_batch(batch(0, 16))
    claims = [ring.claim(), ring.claim(partial=True)]
    ring.add_batch(batch(16, 20))
    assert ring.stats().dropped["drop-newest"] == 4
    claims[0].release()
    claims[1].release()
    ring.add_batch(batch(20, 28))
    flushed = ring.claim(partial=True, max_rows=3)
    assert (flushed.rows, flushed.dropped_before) == (3, {"drop-newest": 4})
    ring.add_batch(batch(28, 44))
    # The block that is being read lost its last five rows; it comes free only when it is given back.
    assert check(flushed.columns, set(range(50))) == [20, 21, 22]
    flushed.release()
    ring.add_batch(batch(44, 46))
    expected = 23
    while (got := ring.drain()) is not None:
        expected += sum(got.dropped_before.values())
        assert check(got.columns, set(range(50))) == list(range(expected, expected + got.rows))
        expected += got.rows
    stats = ring.stats()
    assert stats.added == 46 == stats.drained + sum(stats.dropped.values())


def test_a_ring_overwritten_all_the_while_is_copied_locked(monkeypatch: pytest.MonkeyPatch) -> None:
    ring = BlockRing(LAYOUT, 3, overflow="drop-oldest")
    ring.add_batch(batch(0, 20))
    monkeypatch.setattr(snapshot, "COPY_TRIES", 0)
    assert check(ring.latest(4, include_drained=True).columns, set(range(20))) == [16, 17, 18, 19]
    ring.add_batch(batch(20, 40))
    assert ring.drain().rows > 0


def test_a_copy_of_a_block_that_is_opened_anew_is_repeated() -> None:
    ring = BlockRing(LAYOUT, 2, overflow="drop-oldest")
    ring.add_batch(batch(0, 16))
    asked = []

    def choose(held: int) -> np.ndarray:
        if not asked:
            ring.add_batch(batch(16, 24))  # overwrites what was just listed
        asked.append(held)
        return np.arange(held)

    columns = snapshot.copy_rows(ring, choose, include_drained=False)
    assert check(columns, set(range(24))) == list(range(8, 24))
    assert len(asked) == 2


def test_players_share_an_arena_and_can_leave() -> None:
    buffers = PlayerBuffers(LAYOUT, players=3, blocks=2, overflow="block")
    assert len(buffers.arena) == 7 * LAYOUT.nbytes
    for player in (2, 0):
        buffers.ring(player).add_batch(batch(player, player + 10))
    assert buffers.active == [0, 2]
    assert buffers.wait_full(0)
    claimed = buffers.claim()
    view = claimed.layout.views(buffers.arena[claimed.offset :][: LAYOUT.nbytes], 0, 8)
    assert check(view, set(range(20))) == list(range(claimed.player, claimed.player + 8))
    claimed.release()
    assert buffers.claim().rows == 8
    assert not buffers.wait_full(0.01)
    assert [buffers.claim(partial=True).rows, buffers.claim(partial=True).rows] == [2, 2]
    buffers.ring(1).add_batch(batch(0, 5))
    assert buffers.remove_player(1).dropped["cleared"] == 5
    with pytest.raises(NotThere):
        buffers.remove_player(1)
    with pytest.raises(NotThere):
        buffers.ring(3)
    assert {player: stats.drained for player, stats in buffers.stats().items()} == {0: 10, 2: 10}
    buffers.ring(1).add(row(1))
    buffers.close()
    buffers.close()
    assert check(buffers.ring(1).drain().columns) == [1]
    with pytest.raises(BufferClosed):
        buffers.ring(1).add(row(2))


def board_schema(side: int) -> Schema:
    return Schema(
        [
            Field("observation/army", "i4", (side, side), belongs="observation"),
            Field("observation/owner", "i1", (side, side), belongs="observation"),
            Field("mask", "bool", (4 * side * side,), belongs="observation"),
        ]
    )


@pytest.mark.parametrize(
    ("side", "players", "envs", "memory", "threads"),
    [(20, 2, 64, 512 << 20, 1), (20, 2, 64, 64 << 20, 1), (64, 16, 32, 512 << 20, 2), (5, 4, 1, 8 << 20, 1)],
)
def test_plans_keep_the_budget(side: int, players: int, envs: int, memory: int, threads: int) -> None:
    schema = board_schema(side)
    plan = plan_blocks(schema, players, envs, memory, threads)
    nbytes = BlockLayout(schema, plan.block_rows).nbytes
    assert plan.arena == nbytes * players * plan.blocks_per_player
    assert plan.total == plan.arena + plan.scratch <= memory
    assert plan.scratch >= 2 * threads * nbytes
    assert plan.blocks_per_player >= 3
    assert plan.block_rows >= 2 * envs


def test_a_plan_gets_what_it_wants_when_there_is_memory() -> None:
    assert plan_blocks(board_schema(20), 2, 64, 4 << 30).block_rows == 128 * 64
    assert plan_blocks(board_schema(5), 2, 1, 1 << 30) == plan_blocks(board_schema(5), 2, 1, 4 << 30)
    assert plan_blocks(board_schema(5), 2, 4, 1 << 30, producers=4).blocks_per_player >= 6


def test_a_budget_too_small_names_the_one_that_works() -> None:
    with pytest.raises(MemoryBudget, match=r"need .* \(([\d,]+) bytes\)") as caught:
        plan_blocks(board_schema(64), 16, 64, 16 << 20)
    needed = int(str(caught.value).split("(")[1].split(" bytes")[0].replace(",", ""))
    plan = plan_blocks(board_schema(64), 16, 64, needed)
    assert isinstance(plan, Plan)
    assert (plan.blocks_per_player, plan.block_rows) == (1, 128)
    with pytest.raises(MemoryBudget):
        plan_blocks(board_schema(64), 16, 64, needed - 1)
