"""Which built-in player decides: one entry point for all of them."""

from __future__ import annotations

from expkit.kernels import kernel
from expkit.kernels.generals_random import choose_random
from expkit.kernels.generals_rules import draw

# kinds of players; USER: a Python callable chooses between the two halves of a tick
USER, RANDOM, EXPANDER, HUNTER = -1, 0, 1, 2

# int32 words of memory a player has, besides one int32 per tile
NOTES = 64


@kernel
def choose(kind, rules, view, view_army, memory, scratch, key, turn, player):
    """The action of a built-in player. It reads its own view and its own memory, nothing of the true board.

    view uint8 (VIEW,), view_army the same as int32, memory int32 (NOTES + N,), scratch int32 (SCRATCH, N)
    """
    random = draw(key, turn, player)
    return choose_random(rules, view, random)
