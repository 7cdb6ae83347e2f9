"""The built-in player `random`: uniform over its legal moves, a quarter of them by half, one turn in 16 a pass."""

from __future__ import annotations

import numpy as np

from expkit.kernels import kernel
from expkit.kernels.generals_rules import AT_MASK, TILES, below, mix
from expkit.kernels.memory import count_ones, load_u64, lowest_one

_ONE = np.uint64(1)


@kernel
def nth_move(rules, view, index):
    """The `index`-th legal full move of a view, in ascending order; -1 when there are not so many."""
    start = rules[AT_MASK]
    for word in range((rules[TILES] + 15) // 16):
        bits = load_u64(view, start + 8 * word)
        here = count_ones(bits)
        if index < here:
            for _ in range(index):
                bits &= bits - _ONE
            return 64 * word + lowest_one(bits)
        index -= here
    return -1


@kernel
def count_moves(rules, view):
    """Number of legal full moves of a view."""
    start, total = rules[AT_MASK], 0
    for word in range((rules[TILES] + 15) // 16):
        total += count_ones(load_u64(view, start + 8 * word))
    return total


@kernel
def choose_random(rules, view, random):
    """An action from the mask in `view`; `random` is a uint64 drawn for this decision."""
    legal = count_moves(rules, view)
    chance = np.int64(random & np.uint64(0xFFF))
    if legal == 0 or chance < 256:
        return 8 * rules[TILES]
    move = nth_move(rules, view, below(mix(random), legal))
    return move + 4 * rules[TILES] if chance < 256 + 960 else move
