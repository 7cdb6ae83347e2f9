"""The kernel that writes rows of a table into open blocks, against loops over bytes."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from expkit.kernels.table_rows import append_rows


def append_slowly(memory, base, position, table, columns, entries, num_envs):
    for entry in entries:
        player = entry // num_envs
        for column, (offset, width) in enumerate(columns.T):
            for byte in range(width):
                value = 0 if offset < 0 else table[offset + entry * width + byte]
                memory[base[player, column] + position[player] * width + byte] = value
        position[player] += 1


@settings(max_examples=80, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    players=st.integers(1, 3),
    envs=st.integers(1, 5),
    widths=st.lists(st.sampled_from([1, 2, 3, 4, 8, 12, 70]), min_size=1, max_size=5),
)
def test_rows_land_behind_those_that_are_there(seed, players, envs, widths):
    rng = np.random.default_rng(seed)
    rows, room = players * envs, envs + 3
    table = rng.integers(0, 256, rows * sum(widths)).astype(np.uint8)
    starts = np.cumsum([0, *widths[:-1]]) * rows
    offsets = np.where(rng.random(len(widths)) < 0.2, -1, starts)
    columns = np.ascontiguousarray(np.stack([offsets, widths]).astype(np.int64))
    base = np.zeros((players, len(widths)), np.int64)
    for player in range(players):
        base[player] = player * room * sum(widths) + np.cumsum([0, *widths[:-1]]) * room
    position = rng.integers(0, 4, players)
    entries = np.flatnonzero(rng.random(rows) < 0.6)
    before = rng.integers(0, 256, players * room * sum(widths)).astype(np.uint8)
    results = []
    for append in (append_rows, append_slowly):
        memory, at = before.copy(), position.copy()
        append(memory, base, at, table, columns, entries, envs)
        results.append((memory, at))
    for mine, theirs in zip(*results, strict=True):
        np.testing.assert_array_equal(mine, theirs)
