"""Where everything of one game of generals stands in its block of bytes, and the draws of random numbers.

A game is one row of a uint8 array. `Game` holds typed pointers into it; N tiles row by row, tile = y * W + x,
P players:

    rules       int64   the same for all games: settings and byte offsets, indexed by the constants below
    one         int64   what there is one of: EPISODE, TURN, …
    players     int64   (P, PLAYER) what each player has one of
    total_army, total_land   int32 (P,), of every player, for the scoreboard
    army        int32 (N,)
    changed     int32 (N,)  the tiles touched since the views were last brought up to date
    sites       int32 (N,)  tiles of cities and generals, fixed for the game, so that growth visits only them
    notes       int32 (P, rules[NOTES]) memory of the built-in players
    owner       int8 (N,)   player, or NEUTRAL
    terrain     int8 (N,)   PLAIN to MOUNTAIN
    exits       int8 (N,)   bit d: a move in direction d is possible
    touched     int8 (N,)   the tile is in `changed`
    shown       int8 (N,)   owner as the views have it
    views       uint8 (P, rules[VIEW])  what each player sees, see generals_observe
    scratch     int32 (planes, (H + 2) (W + 2))  not part of the game, free for use within one call
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from expkit.kernels import inner
from expkit.kernels.pointers import i8_at, i32_at, i64_at, u8_at

# rules: settings
(
    PLAYERS,
    HEIGHT,
    WIDTH,
    TILES,
    MAX_STEPS,
    GROWTH_PERIOD,
    LAND_PERIOD,
    LAND_EVERYWHERE,
    HALVE_ON_CAPTURE,
    GENERAL_TO_CITY,
    ALTERNATE_ORDER,
    REGROW_BELOW,
    GENERAL_ARMY,
    GENERAL_SPACING,
    MOUNTAINS,
    VEINS,
    VEIN_LONGEST,
    CITIES,
    CITY_LEAST,
    CITY_MOST,
    SEED,
) = range(21)
# rules: sizes, offsets within the game's bytes, offsets within a view
(
    VIEW,
    NOTES,
    AT_PLAYERS,
    AT_TOTAL_ARMY,
    AT_TOTAL_LAND,
    AT_ARMY,
    AT_CHANGED,
    AT_SITES,
    AT_NOTES,
    AT_OWNER,
    AT_TERRAIN,
    AT_EXITS,
    AT_TOUCHED,
    AT_SHOWN,
    AT_VIEWS,
    GAME_BYTES,
    SEES_OWNER,
    SEES_TERRAIN,
    SEES_VISIBLE,
    SEES_MASK,
    SEES_NEAR,
) = range(21, 42)
RULES = 42

# one
EPISODE, TURN, KEY, OPEN, ACTIVE, LIVING, CHANGES, SITE_COUNT = range(8)
ONE = 8

# players; DIED: in this tick; ROW: index of the row that waits for its action, -1 for none
ALIVE, DIED, GENERAL_TILE, ROWS, ROW, ACTION = range(6)
PLAYER = 8

# terrain; the last two only in what a player observes
PLAIN, CITY, GENERAL, MOUNTAIN, FOG, OBSTACLE = range(6)
NEUTRAL, UNKNOWN = -1, -2

UP, DOWN, LEFT, RIGHT = range(4)

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1, _MIX_2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_S27, _S30, _S31, _S32 = np.uint64(27), np.uint64(30), np.uint64(31), np.uint64(32)


class Game(NamedTuple):
    """Pointers to the parts of one game; see the head of this module."""

    rules: Any
    one: Any
    players: Any
    total_army: Any
    total_land: Any
    army: Any
    changed: Any
    sites: Any
    notes: Any
    owner: Any
    terrain: Any
    exits: Any
    touched: Any
    shown: Any
    views: Any
    scratch: Any


@inner
def game_at(rules, start, scratch):
    """The Game whose bytes begin at the uint8 pointer `start`."""
    return Game(
        rules,
        i64_at(start, 0),
        i64_at(start, rules[AT_PLAYERS]),
        i32_at(start, rules[AT_TOTAL_ARMY]),
        i32_at(start, rules[AT_TOTAL_LAND]),
        i32_at(start, rules[AT_ARMY]),
        i32_at(start, rules[AT_CHANGED]),
        i32_at(start, rules[AT_SITES]),
        i32_at(start, rules[AT_NOTES]),
        i8_at(start, rules[AT_OWNER]),
        i8_at(start, rules[AT_TERRAIN]),
        i8_at(start, rules[AT_EXITS]),
        i8_at(start, rules[AT_TOUCHED]),
        i8_at(start, rules[AT_SHOWN]),
        u8_at(start, rules[AT_VIEWS]),
        scratch,
    )


@inner
def view_of(g, player):
    """Pointer to what `player` sees."""
    return u8_at(g.views, player * g.rules[VIEW])


@inner
def mix(value):
    """The finaliser of splitmix64 (Steele, Lea, Flood 2014): uint64 to uint64, every bit depends on every bit."""
    value = (value ^ (value >> _S30)) * _MIX_1
    value = (value ^ (value >> _S27)) * _MIX_2
    return value ^ (value >> _S31)


@inner
def draw(key, turn, player):
    """A random uint64 for one decision: of the episode's key, the turn and the player, of nothing else."""
    return mix(np.uint64(key) + _GOLDEN * (np.uint64(turn) * np.uint64(64) + np.uint64(player + 1)))


@inner
def below(random, limit):
    """An int64 in [0, limit) from the upper half of a uint64; the bias for limits below 2^16 is under 2^-16."""
    return np.int64(((random >> _S32) * np.uint64(limit)) >> _S32)


@inner
def start_draws(g):
    """Set KEY, from which all randomness of the episode comes: of the seed and the whole episode number."""
    seed, episode = np.uint64(g.rules[SEED]), np.uint64(g.one[EPISODE])
    g.one[KEY] = np.int64(mix(mix(seed + _GOLDEN) ^ (episode * _GOLDEN)))


@inner
def next_below(g, limit):
    """A random int64 in [0, limit) while the map is drawn; it advances TURN, which counts the draws till then."""
    g.one[TURN] += 1
    return below(draw(g.one[KEY], g.one[TURN], np.int64(40)), limit)


@inner
def target_of(tile, direction, width):
    """The neighbouring tile; the caller knows that it is on the board. All int64."""
    if direction < LEFT:
        return tile - width if direction == UP else tile + width
    return tile - 1 if direction == LEFT else tile + 1


@inner
def touch(g, tile):
    """Note that what players may see of this tile has changed."""
    if g.touched[tile] == 0:
        g.touched[tile] = 1
        g.changed[g.one[CHANGES]] = tile
        g.one[CHANGES] += 1
