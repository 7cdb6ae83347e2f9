"""Boards, moves and masks turned one by one, by walking there."""

from __future__ import annotations

import numpy as np

# Where tile (y, x) of a board of H x W stands afterwards.
PLACES = {
    "IDENTITY": lambda y, x, h, w: (y, x),
    "ROTATE_180": lambda y, x, h, w: (h - 1 - y, w - 1 - x),
    "MIRROR_X": lambda y, x, h, w: (y, w - 1 - x),
    "MIRROR_Y": lambda y, x, h, w: (h - 1 - y, x),
    "ROTATE_90": lambda y, x, h, w: (w - 1 - x, y),
    "ROTATE_270": lambda y, x, h, w: (x, h - 1 - y),
    "TRANSPOSE": lambda y, x, h, w: (x, y),
    "ANTI_TRANSPOSE": lambda y, x, h, w: (w - 1 - x, h - 1 - y),
}
SWAPS = ("ROTATE_90", "ROTATE_270", "TRANSPOSE", "ANTI_TRANSPOSE")
STEPS = [(-1, 0), (1, 0), (0, -1), (0, 1)]


def board(values: np.ndarray, name: str) -> np.ndarray:
    """Of (H, W)."""
    height, width = values.shape
    out = np.empty((width, height) if name in SWAPS else (height, width), values.dtype)
    for y, x in np.ndindex(values.shape):
        out[PLACES[name](y, x, height, width)] = values[y, x]
    return out


def action(number: int, name: str, height: int, width: int) -> int:
    """The same move, named by the tile it starts from and the tile beside it that it goes to."""
    tiles = height * width
    if number == 8 * tiles:
        return number
    half, move = divmod(number, 4 * tiles)
    tile, direction = divmod(move, 4)
    y, x = divmod(tile, width)
    start = PLACES[name](y, x, height, width)
    target = PLACES[name](y + STEPS[direction][0], x + STEPS[direction][1], height, width)
    turned = STEPS.index((target[0] - start[0], target[1] - start[1]))
    new_width = height if name in SWAPS else width
    return half * 4 * tiles + (start[0] * new_width + start[1]) * 4 + turned


def mask(flags: np.ndarray, name: str, height: int, width: int) -> np.ndarray:
    """Of (8 H W + 1,)."""
    out = np.zeros_like(flags)
    for number in np.flatnonzero(flags).tolist():
        out[action(number, name, height, width)] = True
    return out
