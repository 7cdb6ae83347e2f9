"""The built-in player `expander`: takes whatever it can, wherever it first finds it."""

from __future__ import annotations

import numpy as np

from expkit.kernels import inner
from expkit.kernels.bytes_at import trailing_zeros
from expkit.kernels.generals_random import choose_random
from expkit.kernels.generals_state import SEES_MASK, SEES_OWNER, TILES, WIDTH, below, target_of
from expkit.kernels.pointers import i32_at, load_u64

_ONE = np.uint64(1)


@inner
def find_capture(rules, view, player, cursor):
    """The first legal full move, in words of 16 tiles from `cursor` on, that captures a tile; -1 if none does."""
    words, army = (rules[TILES] + 15) // 16, i32_at(view, 0)
    word = cursor
    for _ in range(words):
        bits = load_u64(view, rules[SEES_MASK] + 8 * word)
        while bits != 0:
            move = 64 * word + trailing_zeros(bits)
            bits &= bits - _ONE
            tile = move >> 2
            target = target_of(tile, move & 3, rules[WIDTH])
            if view[rules[SEES_OWNER] + target] != player and army[target] < army[tile] - 1:
                return move
        word = word + 1 if word + 1 < words else 0
    return -1


@inner
def choose_expander(rules, view, player, random):
    """A capture, searched for from a random place on, or else a random move."""
    move = find_capture(rules, view, player, below(random, (rules[TILES] + 15) // 16))
    return move if move >= 0 else choose_random(rules, view, random)
