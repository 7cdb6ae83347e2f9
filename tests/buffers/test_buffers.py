"""One conformance suite for every ExperienceBuffer and overflow policy, then what each adds of its own."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from buffer_rows import SCHEMA, batch, check, row

from expkit.buffers.memory import MemoryBuffer
from expkit.buffers.protocol import Batch, ExperienceBuffer
from expkit.buffers.ring import BlockRing
from expkit.buffers.spill import SpillBuffer
from expkit.errors import BufferClosed, Busy, NotThere, SchemaError, UsageError, WriteFailed
from expkit.row.layout import BlockLayout
from expkit.row.schema import Field, Schema

LAYOUT = BlockLayout(SCHEMA, 8)
Make = Callable[[], Any]

KINDS = [
    *(f"ring-{policy}" for policy in ("block", "drop-oldest", "drop-newest", "spill")),
    *(f"memory-{policy}" for policy in ("unbounded", "block", "drop-oldest", "drop-newest")),
    "spill",
]


def make_buffer(kind: str, folder: Path, *, timeout: float = 0.05, generation: int = 2**63 - 3) -> Any:
    """A buffer of 32 rows, if it has a limit."""
    name, _, policy = kind.partition("-")
    if name == "spill":
        return SpillBuffer(LAYOUT, folder / "rows.spill", player=3, file_bytes=2000)
    if name == "memory":
        if policy == "unbounded":
            return MemoryBuffer(SCHEMA, player=3)
        return MemoryBuffer(SCHEMA, 32, overflow=policy, player=3, timeout=timeout)
    spill = SpillBuffer(LAYOUT, folder / "ring.spill", file_bytes=2000) if policy == "spill" else None
    return BlockRing(LAYOUT, 4, overflow=policy, player=3, timeout=timeout, spill=spill, generation=generation)


@pytest.fixture(params=KINDS)
def buffer(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    return make_buffer(request.param, tmp_path)


def balanced(buffer: Any) -> None:
    stats = buffer.stats()
    assert stats.added == stats.drained + sum(stats.dropped.values()) + stats.size
    assert stats.high_water >= stats.size >= 0


def drain_all(buffer: Any, max_rows: int | None = None) -> tuple[list[int], int]:
    """Numbers of all rows, checked, and how many rows the gaps in front of them tell of."""
    numbers, gaps = [], 0
    while (got := buffer.drain(max_rows)) is not None:
        assert got.rows > 0
        assert max_rows is None or got.rows <= max_rows
        assert got.player == buffer.player
        numbers += check(got.columns)
        gaps += sum(got.dropped_before.values())
    return numbers, gaps


def test_is_an_experience_buffer(buffer: Any) -> None:
    assert isinstance(buffer, ExperienceBuffer)
    assert buffer.schema == SCHEMA


def test_rows_come_back_in_order_and_whole(buffer: Any) -> None:
    for number in range(30):
        buffer.add(row(number))
    balanced(buffer)
    assert drain_all(buffer, 7)[0] == list(range(30))
    assert buffer.drain() is None
    assert buffer.stats().drained == 30
    assert buffer.stats().high_water == 30
    balanced(buffer)


def test_batches_and_rows_mix(buffer: Any) -> None:
    buffer.add_batch(batch(0, 11))
    buffer.add(row(11))
    buffer.add_batch(batch(12, 20))
    columns = buffer.drain().columns
    assert check(columns, set(range(20)) - {11}) == list(range(20))


def test_stored_form_is_taken_as_it_is(buffer: Any, tmp_path: Path) -> None:
    source = MemoryBuffer(SCHEMA)
    for number in range(20):
        source.add(row(number))
    assert buffer.load(iter([source.drain(13), source.drain()])) == 20
    assert drain_all(buffer)[0] == list(range(20))


def test_overflow_is_counted_and_told_where_it_happened(buffer: Any) -> None:
    """Far too many rows, drained now and then: whatever the policy, a gap stands exactly in front of what follows."""
    expected, refused = 0, 0
    for number in range(1, 400):
        try:
            buffer.add(row(number))
        except Busy:
            refused += 1
            assert drain_one(buffer, 8).rows == 8
            buffer.add(row(number))
        if number % 90 == 0:
            got = buffer.drain(20)
            numbers = check(got.columns)
            expected += sum(got.dropped_before.values()) + 1
            assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
        balanced(buffer)
    policy = getattr(buffer, "overflow", "")
    limited = getattr(buffer, "capacity", 1) is not None and not isinstance(buffer, SpillBuffer)
    assert (refused > 0) == (policy == "block" and limited)
    dropped = buffer.stats().dropped
    if policy.startswith("drop") and limited:
        assert {cause for cause, rows in dropped.items() if rows} == {policy}
    else:
        assert sum(dropped.values()) == 0


def drain_one(buffer: Any, rows: int) -> Batch:
    got = buffer.drain(rows)
    assert got is not None
    check(got.columns)
    return got


@pytest.mark.parametrize("kind", KINDS)
def test_gaps_account_for_every_number(kind: str, tmp_path: Path) -> None:
    buffer = make_buffer(kind, tmp_path)
    expected, rng = 0, np.random.default_rng(5)
    number = 0
    for _ in range(60):
        for _ in range(int(rng.integers(1, 30))):
            # A ring gives room back by whole blocks of 8 rows.
            if buffer.stats().size < 23 or "block" not in kind:
                buffer.add(row(number))
                number += 1
        got = buffer.drain(int(rng.integers(1, 20)))
        numbers = check(got.columns)
        expected += sum(got.dropped_before.values())
        assert numbers == list(range(expected, expected + got.rows))
        expected += got.rows
    while (got := buffer.drain()) is not None:
        expected += sum(got.dropped_before.values())
        assert check(got.columns) == list(range(expected, expected + got.rows))
        expected += got.rows
    # Rows refused since the last one taken are a gap that nothing follows.
    stats = buffer.stats()
    assert stats.drained + sum(stats.dropped.values()) == stats.added == number
    assert expected <= number


def test_latest_copies_the_newest_in_order(buffer: Any) -> None:
    assert buffer.latest(3).rows == 0
    for number in range(25):
        buffer.add(row(number))
    assert check(buffer.latest(5).columns) == [20, 21, 22, 23, 24]
    assert check(buffer.latest(100).columns) == list(range(25))
    buffer.drain(10)
    assert check(buffer.latest(100).columns) == list(range(10, 25))
    copy = buffer.latest(1)
    copy.columns["step"][:] = 99
    assert check(buffer.latest(1).columns) == [24]
    assert buffer.stats().size == 15


def test_drained_rows_stay_readable_until_overwritten(buffer: Any) -> None:
    for number in range(25):
        buffer.add(row(number))
    buffer.drain(20)
    seen = check(buffer.latest(100, include_drained=True).columns)
    assert seen == list(range(25 - len(seen), 25))
    assert len(seen) == (25 if isinstance(buffer, BlockRing) else 5)
    buffer.clear()
    assert buffer.latest(100, include_drained=True).rows == 0


def test_sample_is_uniform_over_what_is_held(buffer: Any) -> None:
    rng = np.random.default_rng(1)
    with pytest.raises(NotThere, match="empty"):
        buffer.sample(1, rng)
    for number in range(29):
        buffer.add(row(number))
    buffer.drain(9)
    drawn = np.bincount([n for _ in range(20) for n in check(buffer.sample(500, rng).columns)], minlength=29)
    assert drawn[:9].sum() == 0
    # 10,000 draws from 20 rows: chi-square with 19 degrees of freedom exceeds 60 once in 200,000 seeds.
    assert ((drawn[9:] - 500.0) ** 2 / 500).sum() < 60
    assert buffer.stats().size == 20


def test_clear_drops_and_counts(buffer: Any) -> None:
    for number in range(20):
        buffer.add(row(number))
    buffer.drain(3)
    buffer.clear()
    assert buffer.drain() is None
    assert buffer.stats().dropped["cleared"] == 17
    balanced(buffer)
    buffer.add(row(20))
    got = buffer.drain()
    assert got.dropped_before == {"cleared": 17}
    assert check(got.columns) == [20]


def test_close_refuses_rows_and_keeps_what_is_there(buffer: Any) -> None:
    for number in range(11):
        buffer.add(row(number))
    buffer.close()
    buffer.close()
    with pytest.raises(BufferClosed):
        buffer.add(row(11))
    with pytest.raises(BufferClosed):
        buffer.add_batch(batch(11, 14))
    assert drain_all(buffer, 4)[0] == list(range(11))
    assert buffer.drain() is None
    balanced(buffer)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"action": None}, "lacks action"),
        ({"action": 300}, "does not fit"),
        ({"action": 1.5}, "does not fit"),
        ({"mask": np.zeros(10, bool)}, "mask: shape"),
        ({"observation/board": np.zeros((2, 3), np.int16)}, "observation/board: shape"),
        ({"observation/board": np.full((3, 2), 1 << 20)}, "does not fit"),
        ({"reward": "much"}, "not numbers"),
        ({"colour": 1}, "no column 'colour'"),
        ({"step": -1}, "does not fit"),
    ],
)
def test_rows_that_do_not_fit_are_refused_whole(buffer: Any, change: dict[str, Any], words: str) -> None:
    buffer.add(row(1))
    with pytest.raises(SchemaError, match=words):
        buffer.add(row(2) | change)
    with pytest.raises(SchemaError, match=words):
        buffer.add_batch({k: v if v is None else np.asarray(v)[None] for k, v in (row(2) | change).items()})
    assert buffer.stats().added == 1
    for number in (3, 4, 7):
        buffer.add(row(number))
    assert drain_all(buffer)[0] == [1, 3, 4, 7]


def test_batches_of_different_lengths_are_refused(buffer: Any) -> None:
    with pytest.raises(SchemaError, match="differ in length"):
        buffer.add_batch(batch(0, 5) | {"action": np.zeros(4, np.uint8)})
    with pytest.raises(SchemaError, match="one entry per row"):
        buffer.add_batch(batch(0, 5) | {"action": 1})
    assert buffer.stats().added == 0


def test_numbers_of_other_types_are_converted(buffer: Any) -> None:
    given = row(1) | {
        "action": np.float64(1.0),
        "observation/board": row(1)["observation/board"].astype(np.float64),
        "mask": row(1)["mask"].astype(np.int32),
        "terminated": np.bool_(False),
        "step": np.int16(1),
        "value": np.float16(1),
    }
    buffer.add(given)
    assert drain_all(buffer)[0] == [1]


def test_none_is_null(buffer: Any) -> None:
    buffer.add(row(1) | {"value": 4.0})
    buffer.add(row(1) | {"value": None})
    columns = buffer.drain().columns
    assert columns["valid:value"].tolist() == [True, False]
    assert columns["value"].tolist() == [4.0, 0.0]


@pytest.mark.parametrize("kind", ["ring-block", "memory-block"])
def test_a_waiting_add_goes_on_when_somebody_drains_or_closes(kind: str, tmp_path: Path) -> None:
    buffer = make_buffer(kind, tmp_path, timeout=30)
    buffer.add_batch(batch(0, 32))
    done: list[str] = []

    def adding() -> None:
        buffer.add_batch(batch(32, 40))
        done.append("added")
        try:
            buffer.add_batch(batch(40, 80))
        except BufferClosed:
            done.append("closed")

    thread = threading.Thread(target=adding)
    thread.start()
    time.sleep(0.05)
    assert done == []
    assert buffer.drain(8).rows == 8
    wait_until(lambda: done == ["added"])
    buffer.close()
    thread.join(10)
    assert done == ["added", "closed"]
    balanced(buffer)


def wait_until(ready: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def test_bool_fields_of_one_element_and_expanded_masks() -> None:
    schema = Schema([Field("one", "bool", (1,)), Field("wide", "bool", (4,), expand=(2, 1))])
    ring = BlockRing(BlockLayout(schema, 4), 2, overflow="drop-oldest")
    done = {"reward": 0.0, "terminated": False, "truncated": False}
    wide = np.array([1, 0, 0, 1, 1, 0, 0, 1, 1], bool)
    ring.add({"one": np.array([True]), "wide": wide, **done})
    ring.add({"one": np.array([1], np.uint8), "wide": wide[:4], **done})
    ring.add({"one": np.array([0], np.uint8), "wide": np.array([0b1001], np.uint8), **done})
    columns = ring.drain().columns
    assert columns["one"].ravel().tolist() == [1, 1, 0]
    assert columns["wide"].ravel().tolist() == [9, 9, 9]
    np.testing.assert_array_equal(schema.unpack("wide", columns["wide"])[2], wide)


def test_wrong_arguments_say_so(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="overflow policy"):
        BlockRing(LAYOUT, 2, overflow="panic")
    with pytest.raises(UsageError, match="go together"):
        BlockRing(LAYOUT, 2, overflow="spill")
    with pytest.raises(UsageError, match="at least one block"):
        BlockRing(LAYOUT, 0)
    with pytest.raises(UsageError, match="do not fit the arena"):
        BlockRing(LAYOUT, 2, memory=np.zeros(LAYOUT.nbytes, np.uint8))
    with pytest.raises(UsageError, match="control words"):
        BlockRing(LAYOUT, 2, control=np.zeros(10, np.int64))
    with pytest.raises(UsageError, match="holds nothing"):
        MemoryBuffer(SCHEMA, 0)
    with pytest.raises(UsageError, match="overflow policy"):
        MemoryBuffer(SCHEMA, 5, overflow="spill")


def test_a_damaged_spill_file_costs_its_run_and_is_counted(tmp_path: Path) -> None:
    buffer = make_buffer("spill", tmp_path)
    for number in range(10):
        buffer.add(row(number))
    files = sorted(tmp_path.iterdir())
    raw = bytearray(files[0].read_bytes())
    raw[40] ^= 4
    files[0].write_bytes(raw)
    assert drain_all(buffer) == (list(range(1, 10)), 1)
    assert buffer.stats().dropped["spill-failed"] == 1
    balanced(buffer)


def test_sampling_a_damaged_spill_file_leaves_the_bad_rows_out(tmp_path: Path) -> None:
    buffer = make_buffer("ring-spill", tmp_path)
    for number in range(60):
        buffer.add(row(number))
    first = min(tmp_path.iterdir())
    raw = bytearray(first.read_bytes())
    raw[100] ^= 4
    first.write_bytes(raw)
    drawn = check(buffer.sample(400, np.random.default_rng(0)).columns)
    assert set(drawn) == set(range(8, 60))
    numbers, gaps = drain_all(buffer)
    assert (numbers, gaps) == (list(range(8, 60)), 8)
    balanced(buffer)


def test_spill_files_go_when_drained(tmp_path: Path) -> None:
    buffer = make_buffer("ring-spill", tmp_path)
    buffer.add_batch(batch(0, 500))
    assert len(list(tmp_path.iterdir())) > 3
    while buffer.drain(50) is not None:
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_under_spill_is_an_error_and_counted(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a directory")
    spill = SpillBuffer(LAYOUT, tmp_path / "file" / "rows.spill")
    ring = BlockRing(LAYOUT, 2, overflow="spill", spill=spill, timeout=0.05)
    ring.add_batch(batch(1, 17))
    with pytest.raises(WriteFailed, match="cannot spill 8 rows"):
        ring.add(row(17))
    balanced(ring)
    got = ring.drain()
    assert got.dropped_before == {"spill-failed": 8}
    assert check(got.columns, set(range(9, 17))) == list(range(9, 17))
