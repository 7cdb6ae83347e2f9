"""Is a recorded observation of generals one that the rules of the game allow? Row by row, from stored columns."""

from __future__ import annotations

import numpy as np

from expkit.kernels import kernel
from expkit.kernels.generals_state import FOG, MOUNTAIN, OBSTACLE, UNKNOWN

# what is wrong with a tile, in `fog_faults`
VISION, TOLD, HIDDEN = range(3)


@kernel
def fog_faults(army, owner, terrain, visible, height, width, player, near, seen, out):
    """int64 (rows,) out: 4 * tile + fault of the first tile that is wrong in a row, -1 where none is.

    VISION  it is said to be visible and none of the player's tiles is in the 3x3 box round it, or the other way round
    TOLD    it is not visible, but there is an army, an owner, or terrain other than FOG and OBSTACLE
    HIDDEN  it is visible, but its owner is UNKNOWN, or its terrain is none that can be seen

    army int32, owner int8, terrain uint8 (rows, N); visible uint8 (rows, ceil(N / 8)), bits
    near, seen  scratch: uint8 ((height + 2) * (width + 2)), all zero; uint8 (N,)
    """
    tiles, line = height * width, width + 2
    for row in range(army.shape[0]):
        for y in range(height):
            for x in range(width):
                near[(y + 1) * line + x + 1] = owner[row, y * width + x] == player
        # Two passes of three, and sums instead of branches: both vectorise.
        wrong = 0
        for y in range(height):
            at, tile = y * line, y * width
            for x in range(width):
                seen[tile + x] = (
                    near[at + x] | near[at + x + 1] | near[at + x + 2]
                    | near[at + line + x] | near[at + line + x + 1] | near[at + line + x + 2]
                    | near[at + 2 * line + x] | near[at + 2 * line + x + 1] | near[at + 2 * line + x + 2]
                )  # fmt: skip
        for tile in range(tiles):
            told = (army[row, tile] != 0) | (owner[row, tile] != UNKNOWN) | (np.uint8(terrain[row, tile] - FOG) > 1)
            hidden = (owner[row, tile] == UNKNOWN) | (terrain[row, tile] > MOUNTAIN)
            wrong |= hidden if seen[tile] else told
        for tile in range(tiles):
            wrong |= seen[tile] ^ ((visible[row, tile >> 3] >> (tile & 7)) & 1)
        out[row] = -1
        if wrong == 0:
            continue
        for tile in range(tiles):
            told = army[row, tile] != 0 or owner[row, tile] != UNKNOWN or not FOG <= terrain[row, tile] <= OBSTACLE
            hidden = owner[row, tile] == UNKNOWN or terrain[row, tile] > MOUNTAIN
            if seen[tile] != (visible[row, tile >> 3] >> (tile & 7)) & 1:
                out[row] = 4 * tile + VISION
            elif seen[tile] == 0 and told:
                out[row] = 4 * tile + TOLD
            elif seen[tile] != 0 and hidden:
                out[row] = 4 * tile + HIDDEN
            else:
                continue
            break


@kernel
def mask_faults(army, owner, terrain, mask, height, width, player, out):
    """int64 (rows,) out: 4 * tile + direction of the first move whose bit in the mask is wrong, -1 where none is.

    A move is legal from an own tile with at least 2 armies, to a tile of the board that is no mountain. Where a target
    is not visible, which never happens on a sound board, either is taken for right.

    army int32, owner int8, terrain uint8 (rows, N); mask uint8 (rows, ceil(4 N / 8)), bit 4 * tile + direction
    """
    tiles = height * width
    for row in range(army.shape[0]):
        out[row] = -1
        for tile in range(tiles):
            found = (mask[row, tile >> 1] >> ((tile & 1) << 2)) & 15
            legal, doubtful = 0, 0
            if owner[row, tile] == player and army[row, tile] > 1:
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
                    if target < 0:
                        continue
                    what = terrain[row, target]
                    legal |= (what != MOUNTAIN) << direction
                    doubtful |= (what >= FOG) << direction
            wrong = (found ^ legal) & ~doubtful
            if wrong != 0:
                direction = 0
                while (wrong >> direction) & 1 == 0:
                    direction += 1
                out[row] = 4 * tile + direction
                break
