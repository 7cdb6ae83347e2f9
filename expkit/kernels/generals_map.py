"""Seeded maps: mountains, cities, and generals that all reach each other over plain tiles."""

from __future__ import annotations

import numpy as np

from expkit.kernels import inner
from expkit.kernels.generals_state import (
    ALIVE,
    CHANGES,
    CITIES,
    CITY,
    CITY_LEAST,
    CITY_MOST,
    DIED,
    DOWN,
    GENERAL,
    GENERAL_ARMY,
    GENERAL_SPACING,
    GENERAL_TILE,
    LEFT,
    LIVING,
    MOUNTAIN,
    MOUNTAINS,
    NEUTRAL,
    PLAIN,
    PLAYER,
    PLAYERS,
    RIGHT,
    ROWS,
    SITE_COUNT,
    TILES,
    TURN,
    UP,
    VEIN_LONGEST,
    VEINS,
    WIDTH,
    next_below,
    target_of,
    touch,
)

# How often a map is tried, each time with an eighth less of mountains, cities and spacing. The last one is an empty
# board with spacing 1, where generals always fit.
ATTEMPTS = 9


@inner
def directions_inside(g, tile):
    """Bits of the directions that stay on the board."""
    width = g.rules[WIDTH]
    x = tile % width
    bits = 0 if tile < width else 1 << UP
    bits |= 0 if tile + width >= g.rules[TILES] else 1 << DOWN
    bits |= 0 if x == 0 else 1 << LEFT
    return bits | (0 if x == width - 1 else 1 << RIGHT)


@inner
def _raise_vein(g):
    """One random walk of mountains over plain tiles; ends early where it is stuck."""
    tile, tries = next_below(g, g.rules[TILES]), 0
    while g.terrain[tile] != PLAIN and tries < 100:
        tile = next_below(g, g.rules[TILES])
        tries += 1
    length = 3 + next_below(g, max(np.int64(1), g.rules[VEIN_LONGEST] - 2))
    while length > 0 and g.terrain[tile] == PLAIN:
        g.terrain[tile] = MOUNTAIN
        length -= 1
        bits = directions_inside(g, tile)
        first = next_below(g, np.int64(4))
        for turn in range(4):
            direction = (first + turn) & 3
            if (bits >> direction) & 1:
                near = target_of(tile, direction, g.rules[WIDTH])
                if g.terrain[near] == PLAIN:
                    tile = near
                    break


@inner
def _largest_region(g):
    """Number the connected regions of plain tiles in scratch plane 0; returns the number of the largest."""
    tiles = g.rules[TILES]
    region, queue = g.scratch, tiles
    for tile in range(tiles):
        region[tile] = -1
    best, best_size, number = 0, 0, 0
    for start in range(tiles):
        if g.terrain[start] != PLAIN or region[start] >= 0:
            continue
        region[start] = number
        g.scratch[queue] = start
        head, tail = 0, 1
        while head < tail:
            tile = np.int64(g.scratch[queue + head])
            head += 1
            bits = directions_inside(g, tile)
            for direction in range(4):
                if (bits >> direction) & 1:
                    near = target_of(tile, direction, g.rules[WIDTH])
                    if g.terrain[near] == PLAIN and region[near] < 0:
                        region[near] = number
                        g.scratch[queue + tail] = near
                        tail += 1
        if tail > best_size:
            best, best_size = number, tail
        number += 1
    return best


@inner
def _place_generals(g, wanted, spacing):
    """Set GENERAL_TILE of all players in region `wanted`, pairwise `spacing` apart (Manhattan); False if none fit."""
    width, tiles = g.rules[WIDTH], g.rules[TILES]
    for player in range(g.rules[PLAYERS]):
        tile, found = 0, False
        for trial in range(32 + tiles):
            # 32 random tries, then every tile in turn, from the last of them on
            tile = next_below(g, tiles) if trial < 32 else (tile + 1) % tiles
            found = g.scratch[tile] == wanted
            for other in range(player):
                there = g.players[other * PLAYER + GENERAL_TILE]
                apart = abs(tile // width - there // width) + abs(tile % width - there % width)
                found = found and apart >= spacing
            if found:
                break
        if not found:
            return False
        g.players[player * PLAYER + GENERAL_TILE] = tile
    return True


@inner
def make_map(g):
    """Draw terrain, city armies and general tiles."""
    g.one[TURN] = 0
    tiles = g.rules[TILES]
    for attempt in range(ATTEMPTS):
        part = ATTEMPTS - 1 - attempt
        for tile in range(tiles):
            g.terrain[tile] = PLAIN
            g.army[tile] = 0
        for _ in range(g.rules[MOUNTAINS] * part // (ATTEMPTS - 1)):
            g.terrain[next_below(g, tiles)] = MOUNTAIN
        for _ in range(g.rules[VEINS] * part // (ATTEMPTS - 1)):
            _raise_vein(g)
        cities = g.rules[CITIES] * part // (ATTEMPTS - 1)
        tries = 20 * cities
        while cities > 0 and tries > 0:
            tries -= 1
            place = next_below(g, tiles)
            if g.terrain[place] == PLAIN:
                g.terrain[place] = CITY
                g.army[place] = g.rules[CITY_LEAST] + next_below(g, g.rules[CITY_MOST] - g.rules[CITY_LEAST] + 1)
                cities -= 1
        spacing = max(np.int64(1), g.rules[GENERAL_SPACING] * part // (ATTEMPTS - 1))
        if _place_generals(g, _largest_region(g), spacing):
            break


@inner
def set_up(g):
    """Turn 0 on the terrain, armies and general tiles that are given: owners, exits, growth sites, totals."""
    tiles = g.rules[TILES]
    g.one[TURN] = 0
    g.one[CHANGES] = 0
    g.one[SITE_COUNT] = 0
    g.one[LIVING] = g.rules[PLAYERS]
    for tile in range(tiles):
        g.owner[tile] = NEUTRAL
        g.shown[tile] = NEUTRAL
        g.touched[tile] = 0
    for player in range(g.rules[PLAYERS]):
        me = player * PLAYER
        home = g.players[me + GENERAL_TILE]
        g.terrain[home] = GENERAL
        g.owner[home] = player
        g.army[home] = g.rules[GENERAL_ARMY]
        g.total_army[player] = g.rules[GENERAL_ARMY]
        g.total_land[player] = 1
        g.players[me + ALIVE] = 1
        g.players[me + DIED] = 0
        g.players[me + ROWS] = 0
        touch(g, home)
    for tile in range(tiles):
        exits = 0
        bits = directions_inside(g, tile) if g.terrain[tile] != MOUNTAIN else 0
        for direction in range(4):
            if (bits >> direction) & 1 and g.terrain[target_of(tile, direction, g.rules[WIDTH])] != MOUNTAIN:
                exits |= 1 << direction
        g.exits[tile] = exits
        if g.terrain[tile] == CITY or g.terrain[tile] == GENERAL:
            g.sites[g.one[SITE_COUNT]] = tile
            g.one[SITE_COUNT] += 1
