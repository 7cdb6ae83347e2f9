"""Rules of generals: what a player may see and do on its board, and when it is out."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from expkit.kernels.generals_check import HIDDEN, TOLD, fog_faults, mask_faults
from expkit.row.schema import Schema
from expkit.rules.rows import Rows
from expkit.rules.rule import Violation, rule

BOARD = {"observation/army": "i4", "observation/owner": "i1", "observation/terrain": "u1"}
VISIBLE, MASK, LAND = "observation/visible", "action_mask", "observation/total_land"
MAX_PLAYER = 127  # what an owner can be
_DIRECTIONS = ("up", "down", "left", "right")
_FAULTS = {TOLD: "is not visible, and something is told of it", HIDDEN: "is visible, and what is there is not told"}


def _is_board(schema: Schema) -> bool:
    """Whether boards are stored raw, all parts of one shape (H, W)."""
    if any(name not in schema or schema[name].dtype != dtype for name, dtype in BOARD.items()):
        return False
    shapes = {schema[name].shape for name in BOARD}
    return len(shapes) == 1 and len(shapes.pop()) == 2


def _fog_columns(schema: Schema) -> list[str]:
    fits = (
        _is_board(schema)
        and VISIBLE in schema
        and (schema[VISIBLE].dtype, schema[VISIBLE].shape) == ("bool", schema["observation/army"].shape)
    )
    return [*BOARD, VISIBLE] if fits else []


def _mask_columns(schema: Schema) -> list[str]:
    fits = (
        _is_board(schema)
        and MASK in schema
        and (schema[MASK].dtype, schema[MASK].shape) == ("bool", (4 * schema["observation/army"].items,))
    )
    return [*BOARD, MASK] if fits else []


def _boards(rows: Rows) -> tuple[list[np.ndarray], int, int]:
    """Armies, owners and terrain (n, H * W), contiguous, and the sides of the board."""
    height, width = rows.schema["observation/army"].shape
    return [np.ascontiguousarray(rows.stored[name]) for name in BOARD], height, width


@rule("board/fog", over="rows", reads=_fog_columns, requires=("generals",))
def honoured_fog(rows: Rows) -> Iterator[Violation]:
    """An observation tells what its player can see, and nothing of what lies in fog.

    Visible are the player's own tiles and their eight neighbours. Elsewhere there are no armies, no owner, and terrain
    tells only open fog from an obstacle. An observation that tells more lets a policy learn from what it will not have
    when it plays.
    """
    if rows.player > MAX_PLAYER:
        return
    boards, height, width = _boards(rows)
    out = np.empty(len(rows), np.int64)
    own, seen = np.zeros((height + 2) * (width + 2) + 8, np.uint8), np.zeros(height * width + 8, np.uint8)
    visible = np.ascontiguousarray(rows.stored[VISIBLE])
    fog_faults(*boards, visible, height, width, rows.player, own, seen, out)
    bad = out >= 0
    if bad.any():
        tile, fault = divmod(int(out[bad][0]), 4)
        where = f"tile ({tile % width},{tile // width})"
        what = _FAULTS.get(fault)
        if what is None:
            at = int(bad.argmax())
            told = (int(visible[at, tile >> 3]) >> (tile & 7)) & 1
            what = "is called visible, and is not" if told else "is visible, and is called fog"
        yield Violation(f"{where} {what}", bad, VISIBLE)


@rule("board/mask", over="rows", reads=_mask_columns, requires=("generals",))
def mask_of_the_board(rows: Rows) -> Iterator[Violation]:
    """The mask allows the moves that are possible on the observed board, and no others.

    A move starts on an own tile of at least two armies and ends on a tile of the board that is no mountain. A mask of
    another step, of another player or of another order of directions passes for the right one until a policy trained
    on it plays.
    """
    if rows.player > MAX_PLAYER:
        return
    boards, height, width = _boards(rows)
    out = np.empty(len(rows), np.int64)
    mask = np.ascontiguousarray(rows.stored[MASK])
    opened, legal = np.zeros((height + 2) * (width + 2), np.uint8), np.zeros(height * width + 8, np.uint8)
    mask_faults(*boards, mask, height, width, rows.player, opened, legal, out)
    bad = out >= 0
    if bad.any():
        tile, direction = divmod(int(out[bad][0]), 4)
        bit = 4 * tile + direction
        at = int(bad.argmax())
        allows = (int(mask[at, bit >> 3]) >> (bit & 7)) & 1
        what = "allows a move that is not possible" if allows else "forbids a move that is possible"
        yield Violation(f"it {what}: ({tile % width},{tile // width}) {_DIRECTIONS[direction]}", bad, MASK)


@rule("board/dead", over="rows", reads=(LAND,), requires=("generals",))
def silent_dead(rows: Rows) -> Iterator[Violation]:
    """A player without land does not act.

    Who lost the general owns nothing and is out of the game; the last row shows that. Rows of a player behind it are
    of a game that goes on without it.
    """
    land = rows.stored[LAND].reshape(len(rows), -1)
    if rows.player >= land.shape[1]:
        return
    bad = rows.acts & rows.given(LAND) & (land[:, rows.player] == 0)
    if bad.any():
        yield Violation("acts, and has no land any more", bad, LAND)
