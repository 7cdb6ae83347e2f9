"""The planes and the mask expansion, tile by tile, as the predecessor's channel table words them."""

from __future__ import annotations

import numpy as np

CITY, GENERAL, MOUNTAIN = 1, 2, 3


def planes(
    army: np.ndarray, owner: np.ndarray, terrain: np.ndarray, visible: np.ndarray, player: int, scale: int
) -> np.ndarray:
    """float32 (9, H, W) of one board, parts (H, W)."""
    out = np.zeros((9, *army.shape), np.float32)
    for y, x in np.ndindex(army.shape):
        if not visible[y, x]:
            out[8, y, x] = 1
            continue
        out[7, y, x] = 1
        share = min(np.float32(max(army[y, x], 0)) / np.float32(scale), np.float32(1))
        if owner[y, x] == player:
            out[0, y, x] = share
            out[2, y, x] = 1
        elif owner[y, x] >= 0:
            out[1, y, x] = share
            out[3, y, x] = 1
        elif terrain[y, x] != MOUNTAIN:
            out[4, y, x] = 1
        if terrain[y, x] in (CITY, GENERAL):
            out[5, y, x] = 1
        if terrain[y, x] == MOUNTAIN:
            out[6, y, x] = 1
    return out


def expanded(bits: np.ndarray, items: int, repeat: int, ones: int) -> np.ndarray:
    """bool (rows, repeat * items + ones)."""
    rows = []
    for row in bits:
        flags = [bool(row[item // 8] >> (item % 8) & 1) for item in range(items)]
        rows.append(flags * repeat + [True] * ones)
    return np.array(rows, bool).reshape(len(bits), repeat * items + ones)


def visible_tiles(owner: np.ndarray, player: int, radius: int) -> np.ndarray:
    """bool (H, W): some tile of the player lies in the square of that radius round the tile."""
    height, width = owner.shape
    out = np.zeros(owner.shape, bool)
    for y, x in np.ndindex(owner.shape):
        for other_y in range(max(0, y - radius), min(height, y + radius + 1)):
            for other_x in range(max(0, x - radius), min(width, x + radius + 1)):
                out[y, x] |= owner[other_y, other_x] == player
    return out
