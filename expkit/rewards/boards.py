"""The true boards of generals in a batch, and counts of their tiles and armies."""

from __future__ import annotations

import math

import numpy as np

from expkit.kernels.generals_state import CITY, GENERAL

ARMY, OWNER, TERRAIN = "state/army", "state/owner", "state/terrain"

__all__ = ["ARMY", "CITY", "GENERAL", "OWNER", "TERRAIN", "advantage", "count", "flat", "sum_where"]


def flat(boards: np.ndarray) -> np.ndarray:
    """(n, H, W) as (n, H * W), for n = 0 too."""
    return boards.reshape(len(boards), math.prod(boards.shape[1:]))


def count(tiles: np.ndarray) -> np.ndarray:
    """int64 (n,): how many of bool (n, tiles) are true."""
    return np.count_nonzero(tiles, axis=1).astype(np.int64)


def sum_where(values: np.ndarray, tiles: np.ndarray) -> np.ndarray:
    """int64 (n,): the sum of the values (n, tiles) where bool (n, tiles) is true."""
    # A sixth of the time of np.where and sum: no array as large as the boards is made.
    return np.einsum("nt,nt->n", values, tiles, dtype=np.int64, casting="unsafe")


def advantage(own: np.ndarray, others: np.ndarray) -> np.ndarray:
    """(own - others) / (own + others) as f8 in [-1, 1], and 0 where nobody has any."""
    return (own - others) / np.maximum(own + others, 1)
