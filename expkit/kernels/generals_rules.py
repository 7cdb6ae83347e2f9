"""Rules of generals: moves, combat, elimination, growth. What differs between rulesets stands in `rules`."""

from __future__ import annotations

import numpy as np

from expkit.kernels import inner
from expkit.kernels.generals_state import (
    ACTION,
    ALIVE,
    ALTERNATE_ORDER,
    CITY,
    DIED,
    GENERAL,
    GENERAL_TILE,
    GENERAL_TO_CITY,
    GROWTH_PERIOD,
    HALVE_ON_CAPTURE,
    LAND_EVERYWHERE,
    LAND_PERIOD,
    LIVING,
    PLAIN,
    PLAYER,
    PLAYERS,
    REGROW_BELOW,
    SITE_COUNT,
    TILES,
    TURN,
    WIDTH,
    target_of,
    touch,
)


@inner
def eliminate(g, loser, captor):
    """All tiles of `loser` pass to `captor` under the ruleset's halving, or to nobody (NEUTRAL) as they are."""
    halve = g.rules[HALVE_ON_CAPTURE] != 0 and captor >= 0
    for tile in range(g.rules[TILES]):
        if g.owner[tile] == loser:
            if halve:
                g.army[tile] = (g.army[tile] + 1) >> 1
            g.owner[tile] = captor
            if captor >= 0:
                g.total_army[captor] += g.army[tile]
                g.total_land[captor] += 1
            touch(g, tile)
    me = loser * PLAYER
    home = g.players[me + GENERAL_TILE]
    if captor < 0 and g.terrain[home] == GENERAL:
        g.terrain[home] = CITY
    g.total_army[loser] = 0
    g.total_land[loser] = 0
    g.players[me + ALIVE] = 0
    g.players[me + DIED] = 1
    g.one[LIVING] -= 1


@inner
def apply_move(g, player, action):
    """Carry out one action; returns False, with nothing changed, when it is neither a pass nor possible now."""
    moves = 4 * g.rules[TILES]
    if action >= 2 * moves:
        return action == 2 * moves
    half = action >= moves
    if half:
        action -= moves
    tile, direction = action >> 2, action & 3
    strength = np.int64(g.army[tile])
    if g.owner[tile] != player or strength < 2 or (g.exits[tile] >> direction) & 1 == 0:
        return False
    moved = strength >> 1 if half else strength - 1
    target = target_of(tile, direction, g.rules[WIDTH])
    g.army[tile] -= moved
    touch(g, tile)
    touch(g, target)
    defender, defence = np.int64(g.owner[target]), np.int64(g.army[target])
    if defender == player:
        g.army[target] += moved
        return True
    lost = min(moved, defence)
    g.total_army[player] -= lost
    if defender >= 0:
        g.total_army[defender] -= lost
    if moved <= defence:
        g.army[target] = defence - moved
        return True
    g.army[target] = moved - defence
    g.owner[target] = player
    g.total_land[player] += 1
    if defender >= 0:
        g.total_land[defender] -= 1
        if g.terrain[target] == GENERAL:
            if g.rules[GENERAL_TO_CITY] != 0:
                g.terrain[target] = CITY
            eliminate(g, defender, player)
    return True


@inner
def grow(g):
    """End the turn: count it, then growth by the new turn number."""
    g.one[TURN] += 1
    if g.one[TURN] % g.rules[GROWTH_PERIOD] == 0:
        for index in range(g.one[SITE_COUNT]):
            tile = np.int64(g.sites[index])
            owner = np.int64(g.owner[tile])
            if owner >= 0:
                g.total_army[owner] += 1
            elif g.army[tile] >= g.rules[REGROW_BELOW]:
                continue
            g.army[tile] += 1
            touch(g, tile)
    if g.one[TURN] % g.rules[LAND_PERIOD] == 0:
        for tile in range(g.rules[TILES]):
            owner = np.int64(g.owner[tile])
            if owner >= 0 and (g.rules[LAND_EVERYWHERE] != 0 or g.terrain[tile] == PLAIN):
                g.army[tile] += 1
                g.total_army[owner] += 1
                touch(g, tile)


@inner
def apply_all(g):
    """One tick: every living player's ACTION in the ruleset's order, then growth."""
    count = g.rules[PLAYERS]
    downwards = g.rules[ALTERNATE_ORDER] != 0 and g.one[TURN] & 1 == 1
    for index in range(count):
        player = count - 1 - index if downwards else index
        if g.players[player * PLAYER + ALIVE] != 0:
            apply_move(g, player, g.players[player * PLAYER + ACTION])
    grow(g)
