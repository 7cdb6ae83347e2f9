"""Which built-in player decides: one entry point for all of them."""

from __future__ import annotations

from expkit.kernels import inner
from expkit.kernels.generals_expander import choose_expander
from expkit.kernels.generals_hunter import SEEN, choose_hunter
from expkit.kernels.generals_random import choose_random
from expkit.kernels.generals_state import draw

# kinds of players; USER: a Python callable chooses between the two halves of a tick
USER, RANDOM, EXPANDER, HUNTER = -1, 0, 1, 2


def note_words(tiles: int) -> int:
    """int32 words of memory that a built-in player has on a board of `tiles`."""
    return SEEN + 2 * -(-tiles // 64) + 2 * tiles


@inner
def choose(kind, rules, view, notes, scratch, key, turn, player):
    """The action of a built-in player. It gets its own view and its own memory, and nothing of the true board."""
    random = draw(key, turn, player)
    if kind == HUNTER:
        return choose_hunter(rules, view, notes, scratch, turn, player, random)
    if kind == EXPANDER:
        return choose_expander(rules, view, player, random)
    return choose_random(rules, view, random)
