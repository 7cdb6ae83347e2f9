"""Work on many things at once, with results in the order of the things."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def cores() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0))


def in_order(function: Callable[[Item], Result], items: Iterable[Item], threads: int) -> Generator[Result, None, None]:
    """`function` of each item, computed by `threads` threads, in the order of `items` whatever finishes first.

    Items are taken in the caller's thread, 2 * threads ahead of the result that is wanted: so many are in memory. What
    `function` or `items` raise is raised here. With one job nothing leaves the caller's thread.
    """
    if threads <= 1:
        yield from map(function, items)
        return
    waiting: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(threads, "expkit-work") as pool:
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) > 2 * threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def ahead(items: Iterator[Item], count: int) -> Generator[Item, None, None]:
    """`items`, of which up to `count` are made in a thread before they are asked for. What they raise is raised here;
    left early, the iterator is closed."""
    done = object()
    waiting: deque[Future[Item | object]] = deque()
    pool = ThreadPoolExecutor(1, "expkit-ahead")
    try:
        waiting.extend(pool.submit(next, items, done) for _ in range(count))
        while waiting:
            item = waiting.popleft().result()
            if item is done:
                return
            waiting.append(pool.submit(next, items, done))
            yield item  # type: ignore[misc]
    finally:
        pool.shutdown(cancel_futures=True)
        close = getattr(items, "close", None)
        if close is not None:
            close()
