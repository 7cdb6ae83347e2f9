"""Order of the rows of one player's block by (episode, step), stable, and the runs of equal episode in it.

Rows arrive tick by tick over tens of concurrent games, so the rows of one episode are in step order already:
counting them per episode sorts the block in two passes, 4 ns a row where a general sort takes 150.
"""

from __future__ import annotations

import numpy as np

from expkit.kernels import kernel
from expkit.kernels.bytes_at import load4, load8

_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
MAX_UNSORTED_EPISODES = 4096


@kernel
def order_rows(episodes, steps, rows, order, slots, number, first, count, place):
    """Fill `order` with row indices by (episode, step) and the run table; return the number of runs.

    episodes, steps  addresses of uint64 and uint32 columns of `rows` rows
    order            int32 (rows,) out
    slots            int32 (power of two >= 2 * rows,) scratch; place: int32 (rows,) scratch
    number           uint64 (rows,) out, episode of each run; first, count: int64 (rows,) out, its rows in `order`

    Returns -1 when steps of an episode do not arrive in order, or more than 4096 episodes do not: the caller
    then sorts in general and calls `find_runs`.
    """
    shift = np.uint64(64)
    size = slots.shape[0]
    while size > 1:
        size >>= 1
        shift -= np.uint64(1)
    mask = slots.shape[0] - 1
    for slot in range(slots.shape[0]):
        slots[slot] = -1
    runs = 0
    rising = True
    for row in range(rows):
        episode = load8(episodes, row * 8)
        bucket = np.int64((episode * _MULTIPLIER) >> shift)
        while slots[bucket] >= 0 and number[slots[bucket]] != episode:
            bucket = (bucket + 1) & mask
        run = slots[bucket]
        if run < 0:
            run = runs
            slots[bucket] = run
            number[run] = episode
            count[run] = 0
            if run > 0 and number[run - 1] > episode:
                rising = False
            runs += 1
        place[row] = run
        count[run] += 1
    if not rising and runs > MAX_UNSORTED_EPISODES:
        return -1
    # `slots` becomes rank -> run; insertion sort, for episodes nearly always begin in rising order
    for run in range(runs):
        slots[run] = run
    for rank in range(1, runs):
        moving = slots[rank]
        at = rank
        while at > 0 and number[slots[at - 1]] > number[moving]:
            slots[at] = slots[at - 1]
            at -= 1
        slots[at] = moving
    start = 0
    for rank in range(runs):
        run = slots[rank]
        first[run] = start
        start += count[run]
    for row in range(rows):
        run = place[row]
        at = first[run]
        first[run] = at + 1
        order[at] = row
    total = find_runs(episodes, rows, order, number, first, count)
    for run in range(total):
        last = np.uint64(0)
        for at in range(first[run], first[run] + count[run]):
            step = load4(steps, np.int64(order[at]) * 4)
            if step < last:
                return -1
            last = step
    return total


@kernel
def find_runs(episodes, rows, order, number, first, count):
    """Runs of equal episode in `order`; see `order_rows`. Returns their number."""
    runs = 0
    for at in range(rows):
        episode = load8(episodes, np.int64(order[at]) * 8)
        if runs == 0 or number[runs - 1] != episode:
            number[runs] = episode
            first[runs] = at
            count[runs] = 0
            runs += 1
        count[runs - 1] += 1
    return runs
