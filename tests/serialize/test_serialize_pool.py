"""Array pools: reuse, and above all no reuse of memory that a stored record still refers to."""

from __future__ import annotations

import gc
import random
import threading

import numpy as np
import pytest

from expkit.errors import UsageError
from expkit.serialize.pool import ArrayPool, MaskPool, TensorPool


def test_a_released_array_is_used_again() -> None:
    pool = TensorPool((9, 20, 20))
    with pool.acquire() as first:
        first[:] = 1.0
        place = first.ctypes.data
    del first
    for _ in range(100):
        with pool.acquire() as tensor:
            assert tensor.ctypes.data == place
            assert tensor.shape == (9, 20, 20)
            assert tensor.dtype == np.float32
            assert place % 64 == 0
        del tensor
    stats = pool.stats()
    assert (stats.hits, stats.misses, stats.outstanding, stats.pooled) == (100, 1, 0, 1)


def test_a_stored_record_is_never_overwritten() -> None:
    """The fault of the predecessor: tensors went back to the pool while the stored record still aliased them."""
    pool = TensorPool((9, 4, 4), size=4)
    record = []
    for value in range(20):
        with pool.acquire() as tensor:
            tensor[:] = value
            record.append({"observation": tensor})  # stored without a copy
    for value, row in enumerate(record):
        assert np.all(row["observation"] == value)
    assert pool.stats().misses == 20
    assert pool.stats().held == 4
    del tensor, row
    record.clear()
    lease = pool.acquire()
    assert pool.stats().hits == 1
    lease.release()


@pytest.mark.parametrize(
    "view",
    [
        lambda tensor: tensor[3],
        lambda tensor: tensor.reshape(-1)[::2],
        lambda tensor: tensor.view(np.uint32)[1:, 1:].T,
        memoryview,
        lambda tensor: np.frombuffer(tensor, np.uint8),
        lambda tensor: iter(tensor),
    ],
)
def test_any_kind_of_view_keeps_the_memory(view) -> None:
    pool = TensorPool((9, 4, 4), size=2)
    lease = pool.acquire()
    lease.array[:] = 7.0
    place = lease.array.ctypes.data
    kept = view(lease.array)
    lease.release()
    assert pool.stats().held == 1
    with pool.acquire() as other:
        assert other.ctypes.data != place
    del other, kept
    gc.collect()
    assert pool.stats().held == 0


def test_an_exhausted_pool_allocates_and_counts() -> None:
    pool = MaskPool(3201, size=3)
    leases = [pool.acquire() for _ in range(5)]
    places = {lease.array.ctypes.data for lease in leases}
    assert len(places) == 5
    stats = pool.stats()
    assert (stats.hits, stats.misses, stats.outstanding, stats.pooled) == (0, 5, 5, 3)
    for lease in leases:
        lease.release()
        lease.release()  # twice does no harm
    stats = pool.stats()
    assert (stats.outstanding, stats.pooled, stats.held) == (0, 3, 0)
    again = [pool.acquire() for _ in range(4)]
    assert pool.stats().hits == 3
    assert pool.stats().misses == 6
    assert all(lease.array.dtype == bool and lease.array.shape == (3201,) for lease in again)


def test_a_released_lease_shows_nothing() -> None:
    lease = TensorPool((2, 2)).acquire()
    lease.release()
    assert lease.array.size == 0


def test_a_forgotten_lease_comes_back() -> None:
    pool = TensorPool((2, 2))
    pool.acquire()
    assert pool.stats().outstanding == 0
    pool.acquire()
    assert pool.stats().hits == 1


def test_a_pool_of_nothing_is_refused() -> None:
    with pytest.raises(UsageError, match="at least 1"):
        ArrayPool((2,), np.float32, 0)


def test_threads_never_share_an_array() -> None:
    pool = ArrayPool((64,), np.int64, size=4)
    wrong: list[int] = []

    def work(me: int) -> None:
        choose = random.Random(me)
        kept: list[tuple[int, np.ndarray]] = []
        for turn in range(400):
            value = me * 1000 + turn
            with pool.acquire() as array:
                array[:] = value
                if choose.random() < 0.3:
                    kept.append((value, array[8:24]))
                if np.any(array != value):
                    wrong.append(value)
            del array
            if len(kept) > 3:
                kept.pop(choose.randrange(len(kept)))
            wrong.extend(value for value, view in kept if np.any(view != value))

    threads = [threading.Thread(target=work, args=(me,)) for me in range(1, 7)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    stats = pool.stats()
    assert stats.hits + stats.misses == 2400
    assert stats.outstanding == 0
    assert stats.pooled == 4
