"""Work on several threads gives what a loop gives, in its order, and takes no more than it may ahead of time."""

import random
import threading
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from patience import PATIENCE

from expkit.system.parallel import cores, in_order


@given(st.lists(st.integers(0, 5), max_size=60), st.integers(1, 5))
@settings(max_examples=30, deadline=None)
def test_results_come_in_the_order_of_the_items(items, threads):
    def work(item):
        time.sleep(random.random() / 1000)
        return item * 3

    assert list(in_order(work, items, threads)) == [work(item) for item in items]


@pytest.mark.parametrize("threads", [1, 2, 4])
def test_items_are_taken_as_they_are_needed(threads):
    taken = []

    def items():
        for item in range(100):
            taken.append(item)
            yield item

    results = in_order(lambda item: item, items(), threads)
    for done in range(20):
        assert next(results) == done
        assert len(taken) <= done + 1 + 2 * threads
    results.close()
    assert len(taken) <= 20 + 2 * threads


def test_several_threads_work_and_none_is_left():
    both = threading.Barrier(2, timeout=PATIENCE)
    assert list(in_order(lambda item: both.wait() >= 0, range(4), 2)) == [True] * 4
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("expkit-work")]


@pytest.mark.parametrize("threads", [1, 3])
def test_an_error_is_raised_in_its_turn(threads):
    results = in_order(lambda item: 1 // item, [1, 1, 0, 1], threads)
    assert [next(results), next(results)] == [1, 1]
    with pytest.raises(ZeroDivisionError):
        next(results)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("expkit-work")]


def test_cores_are_at_least_one():
    assert cores() >= 1
