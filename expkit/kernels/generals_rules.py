"""Rules of generals on the arrays of one game: moves, combat, elimination, growth.

State of one game (a slot); N tiles row by row, tile = y * W + x, P players:

    rules    int64 (RULES,)      the same for all games, indexed by the constants below
    game     int64 (GAME,)       what there is one of
    players  int64 (P, PLAYER)   what each player has one of
    army     int32 (3, N)        ARMY armies, CHANGED the tiles touched since the last `show_changes`, SITES the
                                 tiles of cities and generals, fixed for the game, so that growth visits only them
    board    int8  (5, N)        OWNER (-1 neutral), TERRAIN, EXITS (bit d: a move in direction d is possible),
                                 TOUCHED (tile is in CHANGED), SHOWN (owner at the last `show_changes`)

Rules that differ between rulesets stand in `rules`; nothing here knows a ruleset by name.
"""

from __future__ import annotations

import numpy as np

from expkit.kernels import kernel

# rules
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
    AT_OWNER,
    AT_TERRAIN,
    AT_VISIBLE,
    AT_MASK,
    AT_NEAR,
) = range(26)
RULES = 26

# game
EPISODE, TURN, KEY, OPEN, ACTIVE, LIVING, CHANGES, SITE_COUNT = range(8)
GAME = 8

# players; DIED: in this tick; ROW: index of the row that waits for its action
ALIVE, DIED, TOTAL_ARMY, TOTAL_LAND, GENERAL_TILE, ROWS, ROW, ACTION = range(8)
PLAYER = 8

ARMY, CHANGED, SITES = range(3)
OWNER, TERRAIN, EXITS, TOUCHED, SHOWN = range(5)

# terrain; the last two only in what a player observes
PLAIN, CITY, GENERAL, MOUNTAIN, FOG, OBSTACLE = range(6)
NEUTRAL, UNKNOWN = -1, -2

UP, DOWN, LEFT, RIGHT = range(4)

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1, _MIX_2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_S27, _S30, _S31, _S32 = np.uint64(27), np.uint64(30), np.uint64(31), np.uint64(32)


@kernel
def mix(value):
    """The finaliser of splitmix64 (Steele, Lea, Flood 2014): uint64 to uint64, every bit depends on every bit."""
    value = (value ^ (value >> _S30)) * _MIX_1
    value = (value ^ (value >> _S27)) * _MIX_2
    return value ^ (value >> _S31)


@kernel
def episode_key(seed, episode):
    """The uint64 that all randomness of an episode comes from, as int64 bits."""
    return np.int64(mix(mix(np.uint64(seed) + _GOLDEN) ^ (np.uint64(episode) * _GOLDEN)))


@kernel
def draw(key, turn, player):
    """A random uint64 for one decision: of the episode's key, the turn and the player, of nothing else."""
    return mix(np.uint64(key) + _GOLDEN * (np.uint64(turn) * np.uint64(64) + np.uint64(player + 1)))


@kernel
def below(random, limit):
    """An int64 in [0, limit) from the upper half of a uint64; the bias for limits below 2^16 is under 2^-16."""
    return np.int64(((random >> _S32) * np.uint64(limit)) >> _S32)


@kernel
def next_below(random, limit):
    """As `below`, advancing the generator state `random`, uint64 (1,)."""
    random[0] += _GOLDEN
    return below(mix(random[0]), limit)


@kernel
def target_of(tile, direction, width):
    """The neighbouring tile; the caller knows that it is on the board."""
    if direction < LEFT:
        return tile - width if direction == UP else tile + width
    return tile - 1 if direction == LEFT else tile + 1


@kernel
def touch(game, army, board, tile):
    """Note that what players may see of this tile has changed."""
    if board[TOUCHED, tile] == 0:
        board[TOUCHED, tile] = 1
        army[CHANGED, game[CHANGES]] = tile
        game[CHANGES] += 1


@kernel
def eliminate(rules, game, players, army, board, loser, captor):
    """All tiles of `loser` pass to `captor` (NEUTRAL: to nobody) under the ruleset's halving."""
    halve = rules[HALVE_ON_CAPTURE] and captor >= 0
    for tile in range(rules[TILES]):
        if board[OWNER, tile] == loser:
            before = army[ARMY, tile]
            after = (before + 1) // 2 if halve else before
            army[ARMY, tile] = after
            board[OWNER, tile] = captor
            if captor >= 0:
                players[captor, TOTAL_ARMY] += after
                players[captor, TOTAL_LAND] += 1
            touch(game, army, board, tile)
    home = players[loser, GENERAL_TILE]
    if captor < 0 and board[TERRAIN, home] == GENERAL:
        board[TERRAIN, home] = CITY
    players[loser, TOTAL_ARMY] = 0
    players[loser, TOTAL_LAND] = 0
    players[loser, ALIVE] = 0
    players[loser, DIED] = 1
    game[LIVING] -= 1


@kernel
def apply_move(rules, game, players, army, board, player, action):
    """Carry out one action; returns False, with nothing changed, when it is neither a pass nor possible now."""
    moves = 4 * rules[TILES]
    if action >= 2 * moves:
        return action == 2 * moves
    half = action >= moves
    if half:
        action -= moves
    tile, direction = action >> 2, action & 3
    strength = np.int64(army[ARMY, tile])
    if board[OWNER, tile] != player or strength < 2 or not (board[EXITS, tile] >> direction) & 1:
        return False
    moved = strength >> 1 if half else strength - 1
    target = target_of(tile, direction, rules[WIDTH])
    army[ARMY, tile] -= moved
    touch(game, army, board, tile)
    touch(game, army, board, target)
    defender, defence = board[OWNER, target], np.int64(army[ARMY, target])
    if defender == player:
        army[ARMY, target] += moved
        return True
    lost = min(moved, defence)
    players[player, TOTAL_ARMY] -= lost
    if defender >= 0:
        players[defender, TOTAL_ARMY] -= lost
    if moved <= defence:
        army[ARMY, target] = defence - moved
        return True
    army[ARMY, target] = moved - defence
    board[OWNER, target] = player
    players[player, TOTAL_LAND] += 1
    if defender >= 0:
        players[defender, TOTAL_LAND] -= 1
        if board[TERRAIN, target] == GENERAL:
            if rules[GENERAL_TO_CITY]:
                board[TERRAIN, target] = CITY
            eliminate(rules, game, players, army, board, np.int64(defender), player)
    return True


@kernel
def grow(rules, game, players, army, board):
    """End the turn: count it, then growth by the new turn number."""
    game[TURN] += 1
    turn = game[TURN]
    if turn % rules[GROWTH_PERIOD] == 0:
        for index in range(game[SITE_COUNT]):
            tile = army[SITES, index]
            owner = board[OWNER, tile]
            if owner >= 0:
                players[owner, TOTAL_ARMY] += 1
            elif army[ARMY, tile] >= rules[REGROW_BELOW]:
                continue
            army[ARMY, tile] += 1
            touch(game, army, board, tile)
    if turn % rules[LAND_PERIOD] == 0:
        for tile in range(rules[TILES]):
            owner = board[OWNER, tile]
            if owner >= 0 and (rules[LAND_EVERYWHERE] or board[TERRAIN, tile] == PLAIN):
                army[ARMY, tile] += 1
                players[owner, TOTAL_ARMY] += 1
                touch(game, army, board, tile)


@kernel
def apply_all(rules, game, players, army, board):
    """One tick: every living player's ACTION in the ruleset's order, then growth."""
    count = rules[PLAYERS]
    downwards = rules[ALTERNATE_ORDER] and game[TURN] & 1
    for index in range(count):
        player = count - 1 - index if downwards else index
        if players[player, ALIVE]:
            apply_move(rules, game, players, army, board, player, players[player, ACTION])
    grow(rules, game, players, army, board)
