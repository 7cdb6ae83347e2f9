"""Is a recorded observation of generals one that the rules of the game allow? Row by row, from stored columns.

Nearly every row is sound, so that is what is asked first, of a whole board at once and without branches: on boards laid
out with a border round them a tile's neighbours stand at fixed distances, and loops over bytes vectorise. Asked tile by
tile, as it still is of a row that is not sound, fog took 2.1 us a row of 20x20 and masks 1.0, now 0.35 each.
"""

from __future__ import annotations

import numpy as np

from expkit.kernels import inner, kernel
from expkit.kernels.generals_state import FOG, MOUNTAIN, OBSTACLE, UNKNOWN
from expkit.kernels.pointers import i8_at, i32_at, i64_at, u8_at, u8_in

# what is wrong with a tile, in `fog_faults`
VISION, TOLD, HIDDEN = range(3)

_BIT_OF_BYTE = np.uint64(0x0102040810204080)  # times eight bytes of 0 or 1: their bits, in the highest byte
_NIBBLES = np.uint64(0x00FF00FF00FF00FF)


@inner
def _see(owner, height, width, player, own, seen):
    """seen[tile]: 1 where a tile of the player is among the tile and its eight neighbours. `own`: scratch with a border
    of zeros, from which nothing is read afterwards."""
    line = width + 2
    for y in range(height):
        for x in range(width):
            own[(y + 1) * line + x + 1] = owner[y * width + x] == player
    # In place, from right to left: each byte becomes that of its row's three, which stand to its left.
    last = (height + 2) * line
    for at in range(last - 1, 1, -1):
        own[at] |= own[at - 1] | own[at - 2]
    for y in range(height):
        for x in range(width):
            at = y * line + x + 2
            seen[y * width + x] = own[at] | own[at + line] | own[at + 2 * line]


@inner
def _hides_and_tells(army, owner, terrain, visible, tiles, seen):
    """Whether all that is seen is told, and nothing else; see `fog_faults`."""
    wrong = np.uint8(0)
    for tile in range(tiles):
        unknown = np.uint8(owner[tile] == UNKNOWN)
        hidden = unknown | np.uint8(terrain[tile] > MOUNTAIN)
        told = (unknown ^ np.uint8(1)) | np.uint8(np.uint8(terrain[tile] - np.uint8(FOG)) > np.uint8(1))
        wrong |= (seen[tile] & hidden) | ((seen[tile] ^ np.uint8(1)) & told)
    armies = np.int32(0)
    for tile in range(tiles):
        armies |= army[tile] & (np.int32(seen[tile]) - np.int32(1))
    for byte in range((tiles + 7) >> 3):
        bits = (np.uint64(i64_at(seen, 8 * byte)[0]) * _BIT_OF_BYTE) >> np.uint64(56)
        told = np.uint64(visible[byte])
        if 8 * byte + 8 > tiles:
            told &= (np.uint64(1) << np.uint64(tiles & 7)) - np.uint64(1)
        wrong |= np.uint8(bits != told)
    return wrong == 0 and armies == 0


@kernel
def fog_faults(army, owner, terrain, visible, height, width, player, own, seen, out):
    """int64 (rows,) out: 4 * tile + fault of the first tile that is wrong in a row, -1 where none is.

    VISION  it is said to be visible and none of the player's tiles is in the 3x3 box round it, or the other way round
    TOLD    it is not visible, but there is an army, an owner, or terrain other than FOG and OBSTACLE
    HIDDEN  it is visible, but its owner is UNKNOWN, or its terrain is none that can be seen

    army int32, owner int8, terrain uint8 (rows, N); visible uint8 (rows, ceil(N / 8)), bits; all contiguous
    player     at most 127
    own, seen  scratch: uint8 ((height + 2) * (width + 2) + 8,), uint8 (N + 8,), seen all zero
    """
    tiles, bits = height * width, visible.shape[1]
    o, s, me = u8_in(own, 0), u8_in(seen, 0), np.int8(player)
    armies, owners, terrains, visibles = u8_in(army, 0), u8_in(owner, 0), u8_in(terrain, 0), u8_in(visible, 0)
    for row in range(army.shape[0]):
        a, w = i32_at(armies, 4 * row * tiles), i8_at(owners, row * tiles)
        t, v = u8_at(terrains, row * tiles), u8_at(visibles, row * bits)
        own[:] = 0
        _see(w, height, width, me, o, s)
        out[row] = -1
        if _hides_and_tells(a, w, t, v, tiles, s):
            continue
        for tile in range(tiles):
            told = a[tile] != 0 or w[tile] != UNKNOWN or not FOG <= t[tile] <= OBSTACLE
            if s[tile] != (v[tile >> 3] >> (tile & 7)) & 1:
                out[row] = 4 * tile + VISION
            elif s[tile] == 0 and told:
                out[row] = 4 * tile + TOLD
            elif s[tile] != 0 and (w[tile] == UNKNOWN or t[tile] > MOUNTAIN):
                out[row] = 4 * tile + HIDDEN
            else:
                continue
            break


@inner
def _moves(army, owner, terrain, height, width, player, opened, legal):
    """legal[tile]: bit d where a move in direction d is possible. `opened`: scratch with a border of zeros."""
    line = width + 2
    for y in range(height):
        for x in range(width):
            opened[(y + 1) * line + x + 1] = terrain[y * width + x] != MOUNTAIN
    for y in range(height):
        for x in range(width):
            tile, at = y * width + x, (y + 1) * line + x + 1
            able = np.uint8(owner[tile] == player) & np.uint8(army[tile] > 1)
            legal[tile] = (np.uint8(0) - able) & (
                opened[at - line] | opened[at + line] << 1 | opened[at - 1] << 2 | opened[at + 1] << 3
            )


@inner
def _wrong_move(army, owner, terrain, mask, height, width, player):
    """4 * tile + direction of the first move whose bit is wrong, -1 for none; see `mask_faults`."""
    tiles = height * width
    for tile in range(tiles):
        found = (mask[tile >> 1] >> ((tile & 1) << 2)) & 15
        legal, doubtful = 0, 0
        if owner[tile] == player and army[tile] > 1:
            x = tile % width
            for direction in range(4):
                if direction == 0:
                    target = tile - width
                elif direction == 1:
                    target = tile + width if tile + width < tiles else -1
                elif direction == 2:
                    target = tile - 1 if x > 0 else -1
                else:
                    target = tile + 1 if x + 1 < width else -1
                if target >= 0:
                    legal |= (terrain[target] != MOUNTAIN) << direction
                    doubtful |= (terrain[target] >= FOG) << direction
        wrong = (found ^ legal) & ~doubtful
        if wrong != 0:
            direction = 0
            while (wrong >> direction) & 1 == 0:
                direction += 1
            return 4 * tile + direction
    return -1


@kernel
def mask_faults(army, owner, terrain, mask, height, width, player, opened, legal, out):
    """int64 (rows,) out: 4 * tile + direction of the first move whose bit in the mask is wrong, -1 where none is.

    A move is legal from an own tile with at least 2 armies, to a tile of the board that is no mountain. Where a target
    is not visible, which never happens on a sound board, either is taken for right.

    army int32, owner int8, terrain uint8 (rows, N); mask uint8 (rows, ceil(4 N / 8)), bit 4 * tile + direction; all
    contiguous
    player         at most 127
    opened, legal  scratch, all zero: uint8 ((height + 2) * (width + 2),), uint8 (N + 8,)
    """
    tiles, bits = height * width, mask.shape[1]
    o, m, me = u8_in(opened, 0), u8_in(legal, 0), np.int8(player)
    armies, owners, terrains, masks = u8_in(army, 0), u8_in(owner, 0), u8_in(terrain, 0), u8_in(mask, 0)
    for row in range(army.shape[0]):
        a, w = i32_at(armies, 4 * row * tiles), i8_at(owners, row * tiles)
        t, k = u8_at(terrains, row * tiles), u8_at(masks, row * bits)
        _moves(a, w, t, height, width, me, o, m)
        wrong = np.uint64(0)
        for half in range(0, bits, 4):
            # Eight tiles of a nibble each become four bytes.
            word = np.uint64(i64_at(m, 2 * half)[0])
            word = (word | (word >> np.uint64(4))) & _NIBBLES
            for byte in range(min(4, bits - half)):
                wrong |= ((word >> np.uint64(16 * byte)) & np.uint64(255)) ^ np.uint64(k[half + byte])
        out[row] = -1 if wrong == 0 else _wrong_move(a, w, t, k, height, width, me)
