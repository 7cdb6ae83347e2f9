"""The built-in player `hunter`: expands, explores, gathers its armies along one path and takes generals.

It sees what any player sees. What it remembers is in `notes`, int32: the words below, a bit for each tile it has
ever seen, and the field: the direction in which to leave each tile on the way to the current target, and the tiles
in the order of their distance to it. A field is searched once in some 25 turns; the turns between follow it.
"""

from __future__ import annotations

import numpy as np

from expkit.kernels import inner
from expkit.kernels.bytes_at import trailing_zeros
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
from expkit.kernels.pointers import i32_at, load_u64, store_u64

# notes; tiles are stored plus one, so that zero is none
HOME, MOVER, TARGET, CURSOR, QUIET, REST, FOCUS = range(7)
DRAWN, REACHED = 7, 24  # turn at which the field was drawn, plus one; tiles in it

FOUND = 8  # a general of each player
SEEN = 26  # first word of the seen bits

_ONE = np.uint64(1)
FIELD_LASTS = 24
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
            tile = 64 * word + trailing_zeros(new)
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
    """Where to go: a known general, else unseen ground near where enemies are and far from home; -1 for nowhere."""
    known = _known_general(rules, view, notes, player)
    if known >= 0:
        return known
    width, words = rules[WIDTH], (rules[TILES] + 63) // 64
    home = np.int64(notes[HOME]) - 1
    home_y, home_x = home // width, home % width
    # The enemy tile in view that is farthest from home points to where its owner came from.
    farthest = -1
    for word in range(words):
        bits = load_u64(view, rules[SEES_VISIBLE] + 8 * word)
        while bits != 0:
            tile = 64 * word + trailing_zeros(bits)
            bits &= bits - _ONE
            owner = view[rules[SEES_OWNER] + tile]
            if owner < 16 and owner != player:
                away = abs(tile // width - home_y) + abs(tile % width - home_x)
                if away > farthest:
                    notes[FOCUS] = tile + 1
                    farthest = away
    focus = np.int64(notes[FOCUS]) - 1
    focus_y, focus_x = focus // width, focus % width
    best, highest = focus, -1000
    for word in range(words):
        bits = ~load_u64(notes, 4 * SEEN + 8 * word)
        while bits != 0:
            tile = 64 * word + trailing_zeros(bits)
            bits &= bits - _ONE
            if tile < rules[TILES] and view[rules[SEES_TERRAIN] + tile] == FOG:
                y, x = tile // width, tile % width
                score = np.int64((random >> np.uint64(tile & 31)) & np.uint64(7))
                score += 3 * (abs(y - home_y) + abs(x - home_x))
                if focus >= 0:
                    score -= 4 * (abs(y - focus_y) + abs(x - focus_x))
                if score > highest:
                    best, highest = tile, score
    return best


@inner
def _draw_field(rules, view, notes, scratch, player, target):
    """Directions towards `target` from everywhere; returns the own tile where the best column starts, -1 for none.

    Breadth first from the target, on a board with a closed border, so that no step needs a test for the edge. Of
    equally short ways the one on which most armies are picked up is kept: `value` is what would arrive of a column
    that starts there, own tiles adding army - 1, others costing army + 1. A column is the better the more arrives
    and, twice as much, the sooner.
    """
    width, tiles = rules[WIDTH], rules[TILES]
    stride = width + 2
    size = stride * (rules[HEIGHT] + 2)
    army = i32_at(view, 0)
    field, order = i32_at(notes, 4 * (rules[NOTES] - tiles)), i32_at(notes, 4 * (rules[NOTES] - 2 * tiles))
    distance, gain = i32_at(scratch, 0), i32_at(scratch, 4 * size)
    value, queue = i32_at(scratch, 8 * size), i32_at(scratch, 12 * size)
    for place in range(size):
        distance[place] = _CLOSED
    tile = 0
    for y in range(rules[HEIGHT]):
        for place in range((y + 1) * stride + 1, (y + 1) * stride + 1 + width):
            kind, owner = view[rules[SEES_TERRAIN] + tile], view[rules[SEES_OWNER] + tile]
            if kind in (PLAIN, FOG, GENERAL) or (kind == CITY and owner < 16):
                distance[place] = _OPEN
                gain[place] = army[tile] - 1 if owner == player else -army[tile] - 1
            tile += 1
    start = target + stride + 1 + 2 * (target // width)
    distance[start] = 0
    value[start] = -army[target] - 1
    queue[0] = start << 13 | target
    head, tail = 0, 1
    best, highest = -1, -1 << 40
    while head < tail:
        place, tile = np.int64(queue[head]) >> 13, np.int64(queue[head]) & 0x1FFF
        order[head] = tile
        head += 1
        steps, carried = distance[place] + 1, value[place]
        score = carried - 2 * steps
        if score > highest and gain[place] > 0 and tile != target and view[rules[SEES_OWNER] + tile] == player:
            best, highest = tile, score
        for direction in range(4):
            near = target_of(place, direction, stride)
            there = distance[near]
            if there == _OPEN:
                distance[near] = steps
                value[near] = carried + gain[near]
                beside = target_of(tile, direction, width)
                field[beside] = direction ^ 1  # the way back
                queue[tail] = near << 13 | beside
                tail += 1
            elif there == steps and carried + gain[near] > value[near]:
                value[near] = carried + gain[near]
                field[target_of(tile, direction, width)] = direction ^ 1
    notes[REACHED] = tail
    return best


@inner
def _best_column(rules, view, notes, scratch, player, target):
    """As `_draw_field`, on the field as it is: a fifth of the work."""
    width, tiles = rules[WIDTH], rules[TILES]
    army = i32_at(view, 0)
    field, order = i32_at(notes, 4 * (rules[NOTES] - tiles)), i32_at(notes, 4 * (rules[NOTES] - 2 * tiles))
    value = i32_at(scratch, 0)  # less what the steps cost
    value[target] = -army[target] - 1
    best, highest = -1, -1 << 40
    for index in range(1, notes[REACHED]):
        tile = np.int64(order[index])
        before = value[target_of(tile, np.int64(field[tile]), width)] - 2
        if view[rules[SEES_OWNER] + tile] == player:
            before += army[tile] - 1
            if before > highest and army[tile] > 1:
                best, highest = tile, before
        else:
            before -= army[tile] + 1
        value[tile] = before
    return best


@inner
def _next_step(rules, view, notes, player):
    """The move of the current column; -1 when it has arrived, was lost, or cannot take the next tile."""
    mover, target = np.int64(notes[MOVER]) - 1, np.int64(notes[TARGET]) - 1
    if mover < 0 or mover == target or view[rules[SEES_OWNER] + mover] != player:
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
def _new_column(rules, view, notes, scratch, turn, player, random):
    """Send out the best column to the target, a new one where it is needed; its first move, -1 after none was found."""
    target, drawn = np.int64(notes[TARGET]) - 1, np.int64(notes[DRAWN])
    keep = drawn > 0 and turn < drawn + FIELD_LASTS and view[rules[SEES_TERRAIN] + target] in (FOG, GENERAL)
    if keep:
        notes[MOVER] = _best_column(rules, view, notes, scratch, player, target) + 1
    else:
        target = _pick_target(rules, view, notes, player, mix(random))
        if target < 0:
            return -1
        notes[TARGET] = target + 1
        notes[DRAWN] = turn + 1
        notes[MOVER] = _draw_field(rules, view, notes, scratch, player, target) + 1
        if notes[MOVER] == 0:  # out of reach: not a place to look at again
            notes[SEEN + (target >> 5)] |= np.int32(1) << np.int32(target & 31)
    move = _next_step(rules, view, notes, player)
    if move < 0:
        notes[MOVER] = 0
        notes[REST] = turn + 4
    return move


@inner
def choose_hunter(rules, view, notes, scratch, turn, player, random):
    """Expand in the first half of each period of land growth, hunt in the second, or always once a general is known."""
    sighted = _look_around(rules, view, notes, player)
    period = rules[LAND_PERIOD]
    if sighted:
        notes[MOVER] = 0
        notes[DRAWN] = 0
        notes[REST] = 0
    move = -1
    if (turn < period or turn % period < period // 4) and _known_general(rules, view, notes, player) < 0:
        move = _expand(rules, view, notes, player, turn)
        if move >= 0:
            return move
    move = _next_step(rules, view, notes, player)
    if move < 0 and turn >= notes[REST]:
        move = _new_column(rules, view, notes, scratch, turn, player, random)
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
        notes[QUIET] = turn + (3 if turn < rules[LAND_PERIOD] else 8)
    return move
