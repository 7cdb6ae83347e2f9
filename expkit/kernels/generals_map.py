"""Seeded maps: mountains, cities, generals that all reach each other over plain tiles."""

from __future__ import annotations

from expkit.kernels import kernel
from expkit.kernels.generals_rules import (
    ALIVE,
    ARMY,
    CHANGES,
    CITIES,
    CITY,
    CITY_LEAST,
    CITY_MOST,
    DIED,
    DOWN,
    EXITS,
    GENERAL,
    GENERAL_ARMY,
    GENERAL_SPACING,
    GENERAL_TILE,
    LEFT,
    LIVING,
    MOUNTAIN,
    MOUNTAINS,
    NEUTRAL,
    OWNER,
    PLAIN,
    PLAYERS,
    RIGHT,
    ROWS,
    SHOWN,
    SITE_COUNT,
    SITES,
    TERRAIN,
    TILES,
    TOTAL_ARMY,
    TOTAL_LAND,
    TOUCHED,
    TURN,
    UP,
    VEIN_LONGEST,
    VEINS,
    WIDTH,
    next_below,
    target_of,
    touch,
)

# How often the map is tried, each time with an eighth less of mountains, cities and spacing; the last one is an
# empty board with spacing 1, where generals always fit.
ATTEMPTS = 9


@kernel
def _directions(tile, width, tiles):
    """Bits of the directions that stay on the board."""
    bits = 0
    if tile >= width:
        bits |= 1 << UP
    if tile + width < tiles:
        bits |= 1 << DOWN
    if tile % width > 0:
        bits |= 1 << LEFT
    if tile % width < width - 1:
        bits |= 1 << RIGHT
    return bits


@kernel
def _raise_vein(terrain, width, tiles, longest, random):
    """One random walk of mountains over plain tiles; ends early where it is stuck."""
    tile = -1
    for _ in range(100):
        guess = next_below(random, tiles)
        if terrain[guess] == PLAIN:
            tile = guess
            break
    if tile < 0:
        return
    length = 3 + next_below(random, longest - 2) if longest > 3 else 3
    terrain[tile] = MOUNTAIN
    for _ in range(length - 1):
        bits = _directions(tile, width, tiles)
        first = next_below(random, 4)
        found = -1
        for turn in range(4):
            direction = (first + turn) & 3
            if (bits >> direction) & 1:
                near = target_of(tile, direction, width)
                if terrain[near] == PLAIN:
                    found = near
                    break
        if found < 0:
            return
        tile = found
        terrain[tile] = MOUNTAIN


@kernel
def _largest_region(terrain, width, tiles, region, queue):
    """Number the connected regions of plain tiles in `region`; returns the number of the largest."""
    for tile in range(tiles):
        region[tile] = -1
    best, best_size, number = -1, 0, 0
    for start in range(tiles):
        if terrain[start] != PLAIN or region[start] >= 0:
            continue
        region[start] = number
        queue[0] = start
        head, tail = 0, 1
        while head < tail:
            tile = queue[head]
            head += 1
            bits = _directions(tile, width, tiles)
            for direction in range(4):
                if (bits >> direction) & 1:
                    near = target_of(tile, direction, width)
                    if terrain[near] == PLAIN and region[near] < 0:
                        region[near] = number
                        queue[tail] = near
                        tail += 1
        if tail > best_size:
            best, best_size = number, tail
        number += 1
    return best


@kernel
def _place_generals(rules, players, region, wanted, spacing, random):
    """GENERAL_TILE of all players in region `wanted`, pairwise `spacing` apart (Manhattan); False if none fit."""
    width, tiles = rules[WIDTH], rules[TILES]
    for player in range(rules[PLAYERS]):
        found, start = -1, 0
        for trial in range(32 + tiles):
            # 32 random tries, then every tile in turn, from the last of them on
            tile = next_below(random, tiles) if trial < 32 else (start + trial - 31) % tiles
            start = tile if trial < 32 else start
            if region[tile] != wanted:
                continue
            free = True
            for other in range(player):
                there = players[other, GENERAL_TILE]
                apart = abs(tile // width - there // width) + abs(tile % width - there % width)
                free = free and apart >= spacing
            if free:
                found = tile
                break
        if found < 0:
            return False
        players[player, GENERAL_TILE] = found
    return True


@kernel
def make_map(rules, players, army, board, random, scratch):
    """Draw terrain, city armies and general tiles. `random` uint64 (1,), `scratch` int32 (>= 2, N)."""
    width, tiles = rules[WIDTH], rules[TILES]
    terrain = board[TERRAIN]
    for attempt in range(ATTEMPTS):
        part = ATTEMPTS - 1 - attempt
        for tile in range(tiles):
            terrain[tile] = PLAIN
            army[ARMY, tile] = 0
        for _ in range(rules[MOUNTAINS] * part // (ATTEMPTS - 1)):
            terrain[next_below(random, tiles)] = MOUNTAIN
        for _ in range(rules[VEINS] * part // (ATTEMPTS - 1)):
            _raise_vein(terrain, width, tiles, rules[VEIN_LONGEST], random)
        cities = rules[CITIES] * part // (ATTEMPTS - 1)
        for _ in range(20 * cities):
            if cities == 0:
                break
            tile = next_below(random, tiles)
            if terrain[tile] == PLAIN:
                terrain[tile] = CITY
                spread = rules[CITY_MOST] - rules[CITY_LEAST] + 1
                army[ARMY, tile] = rules[CITY_LEAST] + next_below(random, spread)
                cities -= 1
        largest = _largest_region(terrain, width, tiles, scratch[0], scratch[1])
        spacing = max(1, rules[GENERAL_SPACING] * part // (ATTEMPTS - 1))
        if _place_generals(rules, players, scratch[0], largest, spacing, random):
            break


@kernel
def set_up(rules, game, players, army, board):
    """Turn 0 on the terrain, armies and general tiles that are given: owners, exits, growth sites, totals."""
    width, tiles = rules[WIDTH], rules[TILES]
    game[TURN] = 0
    game[CHANGES] = 0
    game[SITE_COUNT] = 0
    game[LIVING] = rules[PLAYERS]
    for tile in range(tiles):
        board[OWNER, tile] = NEUTRAL
        board[SHOWN, tile] = NEUTRAL
        board[TOUCHED, tile] = 0
    for player in range(rules[PLAYERS]):
        tile = players[player, GENERAL_TILE]
        board[TERRAIN, tile] = GENERAL
        board[OWNER, tile] = player
        army[ARMY, tile] = rules[GENERAL_ARMY]
        players[player, ALIVE] = 1
        players[player, DIED] = 0
        players[player, TOTAL_ARMY] = rules[GENERAL_ARMY]
        players[player, TOTAL_LAND] = 1
        players[player, ROWS] = 0
        touch(game, army, board, tile)
    for tile in range(tiles):
        exits = 0
        if board[TERRAIN, tile] != MOUNTAIN:
            bits = _directions(tile, width, tiles)
            for direction in range(4):
                if (bits >> direction) & 1 and board[TERRAIN, target_of(tile, direction, width)] != MOUNTAIN:
                    exits |= 1 << direction
        board[EXITS, tile] = exits
        if board[TERRAIN, tile] == CITY or board[TERRAIN, tile] == GENERAL:
            army[SITES, game[SITE_COUNT]] = tile
            game[SITE_COUNT] += 1
