"""The built-in player `hunter`: expands, explores, gathers its armies along one path and takes generals.

It sees what any player sees. What it remembers is in `notes`, int32: the words below, a bit for each tile it has
ever seen, and from rules[NOTES] - N on the direction in which to leave each tile on the way to the current target.
That field of directions is searched only when a plan ends, once in some ten turns; the turns between follow it.
"""

from __future__ import annotations

import numpy as np

from expkit.kernels import inner
from expkit.kernels.generals_expander import find_capture
from expkit.kernels.generals_random import choose_random
from expkit.kernels.generals_state import (
    CITY,
    FOG,
    GENERAL,
    HEIGHT,
    LAND_PERIOD,
    NOTES,
    PLAIN,
    PLAYERS,
    SEES_OWNER,
    SEES_TERRAIN,
    SEES_VISIBLE,
    TILES,
    WIDTH,
    mix,
    target_of,
)
from expkit.kernels.pointers import i32_at, load_u64, lowest_one, store_u64

# notes; tiles are stored plus one, so that zero is none
HOME, MOVER, TARGET, CURSOR, QUIET, REST, FOCUS = range(7)
FOUND = 8  # a general of each player
SEEN = 24  # first word of the seen bits

_ONE = np.uint64(1)
# Walls, neutral cities and what looks like them are walked round.
_CLOSED, _OPEN = -2, -1


@inner
def _look_around(rules, view, notes, player):
    """Mark what is visible as seen; returns whether a general was found among what is new."""
    found = False
    for word in range((rules[TILES] + 63) // 64):
        visible, at = load_u64(view, rules[SEES_VISIBLE] + 8 * word), 4 * SEEN + 8 * word
        seen = load_u64(notes, at)
        new = visible & ~seen
        if new == 0:
            continue
        store_u64(notes, at, seen | visible)
        while new != 0:
            tile = 64 * word + lowest_one(new)
            new &= new - _ONE
            if view[rules[SEES_TERRAIN] + tile] == GENERAL:
                owner = np.int64(view[rules[SEES_OWNER] + tile])
                if owner == player:
                    notes[HOME] = tile + 1
                else:
                    notes[FOUND + owner] = tile + 1
                    found = True
    return found


@inner
def _has_seen(notes, tile):
    return (notes[SEEN + (tile >> 5)] >> (tile & 31)) & 1 != 0


@inner
def _known_general(rules, view, notes, player):
    """Tile of a general to take, -1 if none is known. One that is seen to be no enemy's any more is forgotten."""
    for other in range(rules[PLAYERS]):
        tile = np.int64(notes[FOUND + other]) - 1
        if tile >= 0 and other != player:
            terrain, owner = view[rules[SEES_TERRAIN] + tile], view[rules[SEES_OWNER] + tile]
            if terrain == FOG or (terrain == GENERAL and owner != player):
                return tile
            notes[FOUND + other] = 0
    return -1


@inner
def _pick_target(rules, view, notes, player, random):
    """Where to go: a known general, else unseen ground near where enemies are, else far from home."""
    known = _known_general(rules, view, notes, player)
    if known >= 0:
        return known
    width = rules[WIDTH]
    home = np.int64(notes[HOME]) - 1
    home_y, home_x = home // width, home % width
    # The enemy tile in view that is farthest from home points to where its owner came from.
    best, farthest, tile = -1, -1, 0
    for y in range(rules[HEIGHT]):
        for x in range(width):
            owner = view[rules[SEES_OWNER] + tile]
            if owner < 16 and owner != player:
                away = abs(y - home_y) + abs(x - home_x)
                if away > farthest:
                    best, farthest = tile, away
            tile += 1
    if best >= 0:
        notes[FOCUS] = best + 1
    focus = np.int64(notes[FOCUS]) - 1
    focus_y, focus_x = focus // width, focus % width
    best, highest, tile = -1, -1000, 0
    for y in range(rules[HEIGHT]):
        for x in range(width):
            if view[rules[SEES_TERRAIN] + tile] == FOG and not _has_seen(notes, tile):
                score = np.int64((random >> np.uint64(tile & 31)) & np.uint64(7))
                if focus >= 0:
                    score -= 4 * (abs(y - focus_y) + abs(x - focus_x))
                score += 3 * (abs(y - home_y) + abs(x - home_x))
                if score > highest:
                    best, highest = tile, score
            tile += 1
    return best if best >= 0 else focus


@inner
def _draw_field(rules, view, notes, scratch, player, target):
    """Directions towards `target` from everywhere; returns the own tile from which most arrives, -1 for none.

    Breadth first from the target. Of equally short ways the one on which most armies are picked up is kept:
    `value` is what would arrive of a column that starts there, own tiles adding army - 1, others costing army + 1.
    """
    tiles, width = rules[TILES], rules[WIDTH]
    army, owner, terrain = i32_at(view, 0), rules[SEES_OWNER], rules[SEES_TERRAIN]
    field = i32_at(notes, 4 * (rules[NOTES] - tiles))
    distance, queue, value = i32_at(scratch, 0), i32_at(scratch, 4 * tiles), i32_at(scratch, 8 * tiles)
    for tile in range(tiles):
        kind = view[terrain + tile]
        walkable = kind in (PLAIN, FOG, GENERAL) or (kind == CITY and view[owner + tile] < 255)
        distance[tile] = _OPEN if walkable else _CLOSED
    distance[target] = 0
    value[target] = -army[target] - 1
    queue[0] = target << 6 | target % width
    head, tail = 0, 1
    best, highest = -1, -100000
    while head < tail:
        tile, x = np.int64(queue[head]) >> 6, np.int64(queue[head]) & 63
        head += 1
        steps, carried = distance[tile] + 1, value[tile]
        if view[owner + tile] == player and army[tile] > 1:
            score = carried - 2 * steps
            if score > highest and tile != target:
                best, highest = tile, score
        for direction in range(4):
            # the way back from `near` to `tile` is the opposite of the way out
            if direction == 0:
                if tile < width:
                    continue
                near, column = tile - width, x
            elif direction == 1:
                if tile + width >= tiles:
                    continue
                near, column = tile + width, x
            elif direction == 2:
                if x == 0:
                    continue
                near, column = tile - 1, x - 1
            else:
                if x == width - 1:
                    continue
                near, column = tile + 1, x + 1
            there = distance[near]
            if there in (_OPEN, steps):
                gain = army[near] - 1 if view[owner + near] == player else -army[near] - 1
                if there == _OPEN:
                    distance[near] = steps
                    queue[tail] = near << 6 | column
                    tail += 1
                elif carried + gain <= value[near]:
                    continue
                value[near] = carried + gain
                field[near] = direction ^ 1
    return best


@inner
def _next_step(rules, view, notes, player):
    """The move of the current column; -1 when it has arrived, was lost, or cannot take the next tile."""
    mover, target = np.int64(notes[MOVER]) - 1, np.int64(notes[TARGET]) - 1
    if mover < 0 or mover == target or view[rules[SEES_OWNER] + mover] != player:
        return -1
    if view[rules[SEES_TERRAIN] + target] not in (GENERAL, FOG):
        return -1
    army = i32_at(view, 0)
    direction = np.int64(notes[rules[NOTES] - rules[TILES] + mover])
    near = target_of(mover, direction, rules[WIDTH])
    strength = army[mover] - 1
    if strength < 1 or (view[rules[SEES_OWNER] + near] != player and army[near] >= strength):
        return -1
    kind = view[rules[SEES_TERRAIN] + near]
    if kind != PLAIN and kind != GENERAL and view[rules[SEES_OWNER] + near] == 255:
        return -1
    notes[MOVER] = near + 1
    return 4 * mover + direction


@inner
def choose_hunter(rules, view, notes, scratch, turn, player, random):
    """Expand in the first half of each period of land growth, hunt in the second, or always once a general is known."""
    sighted = _look_around(rules, view, notes, player)
    period = rules[LAND_PERIOD]
    if sighted:
        notes[MOVER] = 0
        notes[REST] = 0
    move = -1
    if (turn < period or turn % period < period // 4) and _known_general(rules, view, notes, player) < 0:
        move = _expand(rules, view, notes, player, turn)
        if move >= 0:
            return move
    move = _next_step(rules, view, notes, player)
    if move < 0 and turn >= notes[REST]:
        target = _pick_target(rules, view, notes, player, mix(random))
        if target >= 0:
            notes[TARGET] = target + 1
            notes[MOVER] = _draw_field(rules, view, notes, scratch, player, target) + 1
            if notes[MOVER] == 0:  # out of reach: not a place to look at again
                notes[SEEN + (target >> 5)] |= np.int32(1) << np.int32(target & 31)
            move = _next_step(rules, view, notes, player)
        if move < 0:
            notes[MOVER] = 0
            notes[REST] = turn + 4
    if move < 0:
        move = _expand(rules, view, notes, player, turn)
    return move if move >= 0 else choose_random(rules, view, random)


@inner
def _expand(rules, view, notes, player, turn):
    """A capture near the last one; after a search in vain none is made for some turns."""
    if turn < notes[QUIET]:
        return -1
    move = find_capture(rules, view, player, np.int64(notes[CURSOR]))
    if move >= 0:
        notes[CURSOR] = move >> 6
    else:
        notes[QUIET] = turn + 3
    return move
