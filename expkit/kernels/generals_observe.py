"""What each player sees, kept up to date tile by tile in the very bytes that a row stores.

A player's view is uint8 (VIEW,): armies int32 (N,) from byte 0, then owner, terrain, visible bits, mask bits (each
from a multiple of 8, at rules[AT_…]) and last, not stored in rows, how many of the player's tiles lie in the 3x3
box round each tile. A tick changes a handful of tiles, so refreshing costs some 0.1 us a game where drawing every
board anew cost 0.5 us, and writing a row is five memcpys.
"""

from __future__ import annotations

import numpy as np

from expkit.kernels import kernel
from expkit.kernels.generals_rules import (
    ARMY,
    AT_MASK,
    AT_NEAR,
    AT_OWNER,
    AT_TERRAIN,
    AT_VISIBLE,
    CHANGED,
    CHANGES,
    CITY,
    EXITS,
    FOG,
    HEIGHT,
    MOUNTAIN,
    OBSTACLE,
    OWNER,
    PLAYERS,
    SHOWN,
    TERRAIN,
    TILES,
    TOUCHED,
    UNKNOWN,
    WIDTH,
)


@kernel
def _hide(rules, board, view, view_army, tile):
    terrain = board[TERRAIN, tile]
    view_army[tile] = 0
    view[rules[AT_OWNER] + tile] = UNKNOWN & 0xFF
    view[rules[AT_TERRAIN] + tile] = OBSTACLE if terrain in (CITY, MOUNTAIN) else FOG
    view[rules[AT_VISIBLE] + (tile >> 3)] &= ~(1 << (tile & 7)) & 0xFF


@kernel
def _show(rules, army, board, view, view_army, tile):
    view_army[tile] = army[ARMY, tile]
    view[rules[AT_OWNER] + tile] = board[OWNER, tile] & 0xFF
    view[rules[AT_TERRAIN] + tile] = board[TERRAIN, tile]
    view[rules[AT_VISIBLE] + (tile >> 3)] |= 1 << (tile & 7)


@kernel
def _look(rules, army, board, view, view_army, tile, gained):
    """The player gained or lost `tile`: count it in the 3x3 box, show what came into view, hide what left."""
    width, near = rules[WIDTH], rules[AT_NEAR]
    y, x = tile // width, tile % width
    for row in range(max(0, y - 1), min(rules[HEIGHT], y + 2)):
        for other in range(row * width + max(0, x - 1), row * width + min(width, x + 2)):
            if gained:
                if view[near + other] == 0:
                    _show(rules, army, board, view, view_army, other)
                view[near + other] += 1
            else:
                view[near + other] -= 1
                if view[near + other] == 0:
                    _hide(rules, board, view, view_army, other)


@kernel
def _set_moves(rules, view, tile, exits):
    """Four mask bits of a tile: bit 4 * tile + direction."""
    shift = (tile & 1) << 2
    at = rules[AT_MASK] + (tile >> 1)
    view[at] = (view[at] & (0xF0 >> shift)) | (exits << shift)


@kernel
def show_changes(rules, game, army, board, view, view_army):
    """Bring all views up to date with the tiles in CHANGED, and empty that list.

    view uint8 (P, VIEW), view_army the same memory as int32 (P, VIEW / 4).
    """
    for index in range(game[CHANGES]):
        tile = army[CHANGED, index]
        owner, shown = np.int64(board[OWNER, tile]), np.int64(board[SHOWN, tile])
        board[TOUCHED, tile] = 0
        if owner != shown:
            if shown >= 0:
                _look(rules, army, board, view[shown], view_army[shown], tile, False)
                _set_moves(rules, view[shown], tile, 0)
            if owner >= 0:
                _look(rules, army, board, view[owner], view_army[owner], tile, True)
            board[SHOWN, tile] = owner
        if owner >= 0:
            _set_moves(rules, view[owner], tile, board[EXITS, tile] if army[ARMY, tile] > 1 else 0)
        for player in range(rules[PLAYERS]):
            if view[player, rules[AT_NEAR] + tile] > 0:
                _show(rules, army, board, view[player], view_army[player], tile)
            elif board[TERRAIN, tile] == CITY:  # a general that was captured in the fog
                view[player, rules[AT_TERRAIN] + tile] = OBSTACLE
    game[CHANGES] = 0


@kernel
def fog_all(rules, game, army, board, view, view_army):
    """Views of turn 0: everything hidden, then what the generals see."""
    for player in range(rules[PLAYERS]):
        for at in range(view.shape[1]):
            view[player, at] = 0
        for tile in range(rules[TILES]):
            _hide(rules, board, view[player], view_army[player], tile)
    show_changes(rules, game, army, board, view, view_army)
