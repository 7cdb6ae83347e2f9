"""What each player sees, kept up to date tile by tile in the very bytes that a row stores.

A view is armies int32 (N,) from byte 0, then owner, terrain, visible bits and mask bits from rules[SEES_…] on (each a
multiple of 8), and last, not stored in rows, how many of the player's tiles lie in the 3x3 box round each tile.
A tick changes a handful of tiles, so this is far cheaper than drawing every board anew, and writing a row is a few
memcpys.
"""

from __future__ import annotations

import numpy as np

from expkit.kernels import inner
from expkit.kernels.generals_state import (
    CHANGES,
    CITY,
    FOG,
    HEIGHT,
    OBSTACLE,
    PLAYERS,
    SEES_MASK,
    SEES_NEAR,
    SEES_OWNER,
    SEES_TERRAIN,
    SEES_VISIBLE,
    TILES,
    UNKNOWN,
    VIEW,
    WIDTH,
    view_of,
)
from expkit.kernels.pointers import clear_at, i32_at


@inner
def _draw_tile(g, view, tile, visible):
    """Write one tile of a view, as it is or as fog."""
    terrain = g.terrain[tile]
    at = g.rules[SEES_VISIBLE] + (tile >> 3)
    bit = 1 << (tile & 7)
    if visible:
        i32_at(view, 4 * tile)[0] = g.army[tile]
        view[g.rules[SEES_OWNER] + tile] = g.owner[tile]
        view[g.rules[SEES_TERRAIN] + tile] = terrain
        view[at] |= bit
    else:
        i32_at(view, 4 * tile)[0] = 0
        view[g.rules[SEES_OWNER] + tile] = UNKNOWN
        view[g.rules[SEES_TERRAIN] + tile] = OBSTACLE if terrain & CITY else FOG
        view[at] &= 255 - bit


@inner
def _look(g, player, tile, change):
    """The player gained (`change` 1) or lost (-1) a tile: count it in the 3x3 box, draw what came or went."""
    view, width = view_of(g, player), g.rules[WIDTH]
    y, x = tile // width, tile % width
    for row in range(max(np.int64(0), y - 1), min(g.rules[HEIGHT], y + 2)):
        for other in range(row * width + max(np.int64(0), x - 1), row * width + min(width, x + 2)):
            near = view[g.rules[SEES_NEAR] + other] + change
            view[g.rules[SEES_NEAR] + other] = near
            if near == (change + 1) >> 1:
                _draw_tile(g, view, other, change > 0)


@inner
def _set_moves(g, player, tile, exits):
    """Four mask bits of a tile: bit 4 * tile + direction."""
    view, at = view_of(g, player), g.rules[SEES_MASK] + (tile >> 1)
    shift = (tile & 1) << 2
    view[at] = (view[at] & (0xF0 >> shift)) | (exits << shift)


@inner
def show_changes(g):
    """Bring all views up to date with the tiles in `changed`, and empty that list."""
    for index in range(g.one[CHANGES]):
        tile = np.int64(g.changed[index])
        owner, shown = np.int64(g.owner[tile]), np.int64(g.shown[tile])
        g.touched[tile] = 0
        if owner != shown:
            g.shown[tile] = owner
            if shown >= 0:
                _look(g, shown, tile, np.int64(-1))
                _set_moves(g, shown, tile, np.int64(0))
            if owner >= 0:
                _look(g, owner, tile, np.int64(1))
        if owner >= 0:
            _set_moves(g, owner, tile, np.int64(g.exits[tile]) if g.army[tile] > 1 else np.int64(0))
        for player in range(g.rules[PLAYERS]):
            view = view_of(g, player)
            _draw_tile(g, view, tile, view[g.rules[SEES_NEAR] + tile] != 0)
    g.one[CHANGES] = 0


@inner
def fog_all(g):
    """Views of turn 0: everything hidden, then what the generals see."""
    for player in range(g.rules[PLAYERS]):
        view = view_of(g, player)
        clear_at(view, 0, g.rules[VIEW])
        for tile in range(g.rules[TILES]):
            _draw_tile(g, view, tile, False)
    show_changes(g)
