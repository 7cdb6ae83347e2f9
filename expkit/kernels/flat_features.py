"""Counts of tiles and armies of observed boards."""

from __future__ import annotations

import numpy as np

from expkit.kernels import kernel
from expkit.kernels.generals_state import CITY, GENERAL, MOUNTAIN, OBSTACLE

# Of each player, the one who is looking first, then the others by id; behind them those of the board.
LAND, ARMY, SEEN_LAND, SEEN_ARMY, SEEN_SITES, LARGEST_ARMY = range(6)
OF_A_PLAYER = 6
MOVABLE, NEUTRAL_LAND, NEUTRAL_CITIES, NEUTRAL_ARMY, MOUNTAINS, VISIBLE, OBSTACLES = range(7)
OF_THE_BOARD = 7


@kernel
def flat_of_rows(army, owner, terrain, visible, total_army, total_land, player, out):
    """Write float32 (rows, 6 P + 7) to `out`; armies add up in 64 bits.

    army                    int32 (rows, tiles)
    owner                   int8 (rows, tiles), negative for nobody or unknown; those from P on count as nobody's
    terrain                 uint8 (rows, tiles), the codes of `generals_state`
    visible                 uint8 (rows, ceil(tiles / 8)), bits, lowest first
    total_army, total_land  int32 (rows, P)
    player                  who is looking
    """
    rows, tiles = army.shape
    players = total_army.shape[1]
    board = OF_A_PLAYER * players
    counts = np.empty(board + OF_THE_BOARD, np.int64)
    for row in range(rows):
        counts[:] = 0
        for one in range(players):
            at = OF_A_PLAYER * (0 if one == player else one + 1 if one < player else one)
            counts[at + LAND], counts[at + ARMY] = total_land[row, one], total_army[row, one]
        for tile in range(tiles):
            what = terrain[row, tile]
            if (visible[row, tile >> 3] >> (tile & 7)) & 1 == 0:
                counts[board + OBSTACLES] += what == OBSTACLE
                continue
            armies, one = np.int64(army[row, tile]), np.int64(owner[row, tile])
            site = what in (CITY, GENERAL)
            counts[board + VISIBLE] += 1
            counts[board + MOUNTAINS] += what == MOUNTAIN
            if one < 0:
                counts[board + NEUTRAL_LAND] += what != MOUNTAIN
                counts[board + NEUTRAL_CITIES] += site
                counts[board + NEUTRAL_ARMY] += armies
            elif one < players:
                at = OF_A_PLAYER * (0 if one == player else one + 1 if one < player else one)
                counts[at + SEEN_LAND] += 1
                counts[at + SEEN_ARMY] += armies
                counts[at + SEEN_SITES] += site
                counts[at + LARGEST_ARMY] = max(counts[at + LARGEST_ARMY], armies)
                counts[board + MOVABLE] += one == player and armies > 1
        for place in range(len(counts)):
            out[row, place] = counts[place]
