"""Stretches of an episode: rows of one player that follow each other with none missing in between.

Steps rise, but a player's need not be contiguous where players take turns, so that a jump alone tells nothing; rows of
which none is missing can have no gap, and between two steps that follow each other nothing can be missing. Hence: a gap
is a jump of more than one step in a player's episode of which any row is missing. Where players take turns this may see
more gaps than there are in such an episode, never fewer; so it does where it is not known whether any row is missing.
"""

from __future__ import annotations

import numpy as np


def boundaries(episode: np.ndarray, player: np.ndarray) -> np.ndarray:
    """bool (rows,): where another player's episode begins, in rows of which each one's lie together."""
    first = np.ones(len(episode), bool)
    first[1:] = (episode[1:] != episode[:-1]) | (player[1:] != player[:-1])
    return first


def jumps(step: np.ndarray) -> np.ndarray:
    """bool (rows,): where the step is not the one after that of the row before."""
    jump = np.zeros(len(step), bool)
    jump[1:] = step[1:].astype(np.int64) - step[:-1].astype(np.int64) > 1
    return jump


def stretches(episode: np.ndarray, player: np.ndarray, step: np.ndarray, missing: np.ndarray) -> np.ndarray:
    """int64 (rows,): the number of each row's stretch, rising from 0.

    episode, player, step  of rows sorted such that those of a player's episode lie together, in the order of steps
    missing                bool (rows,): whether any row of that player's episode is missing
    """
    return np.cumsum(boundaries(episode, player) | (jumps(step) & missing)) - 1


def without(
    stretch: np.ndarray, episode: np.ndarray, player: np.ndarray, step: np.ndarray, keep: np.ndarray
) -> np.ndarray:
    """int64 (kept rows,): the stretches of the rows that `keep` (bool, rows) leaves; all arrays are those before."""
    group = np.cumsum(boundaries(episode, player)) - 1
    shortened = np.zeros(group[-1] + 1 if len(group) else 0, bool)
    shortened[group[~keep]] = True
    broken = jumps(step[keep]) & shortened[group[keep]]
    old = stretch[keep]
    broken[1:] |= old[1:] != old[:-1]
    if len(broken):
        broken[0] = True
    return np.cumsum(broken) - 1


def has_next(stretch: np.ndarray) -> np.ndarray:
    """bool (rows,): whether the row after it is of the same stretch."""
    out = np.zeros(len(stretch), bool)
    out[:-1] = stretch[1:] == stretch[:-1]
    return out


def first_rows(stretch: np.ndarray) -> np.ndarray:
    """int64 (rows,): the place of the first row of each row's stretch."""
    starts = np.flatnonzero(np.diff(stretch, prepend=-1))
    return np.repeat(starts, np.diff(np.append(starts, len(stretch))))
