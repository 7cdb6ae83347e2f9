"""The built-in player `random`: uniform over its legal moves, a quarter of them by half, one turn in 16 a pass."""

from __future__ import annotations

import numpy as np

from expkit.kernels import inner
from expkit.kernels.bytes_at import trailing_zeros
from expkit.kernels.generals_state import SEES_MASK, TILES, below, mix
from expkit.kernels.pointers import count_ones, load_u64

_ONE = np.uint64(1)


@inner
def choose_random(rules, view, random):
    """An action from the mask in `view`; `random` is a uint64 drawn for this decision."""
    tiles, legal = rules[TILES], 0
    words = (tiles + 15) // 16
    for word in range(words):
        legal += count_ones(load_u64(view, rules[SEES_MASK] + 8 * word))
    chance = np.int64(random & np.uint64(0xFFF))
    if legal == 0 or chance < 256:
        return 8 * tiles
    index = below(mix(random), legal)
    word = 0
    bits = load_u64(view, rules[SEES_MASK])
    while index >= count_ones(bits):
        index -= count_ones(bits)
        word += 1
        bits = load_u64(view, rules[SEES_MASK] + 8 * word)
    for _ in range(index):
        bits &= bits - _ONE
    move = 64 * word + trailing_zeros(bits)
    return move + 4 * tiles if chance < 256 + 960 else move
