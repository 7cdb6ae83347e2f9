"""Which fields of a schema are boards, and which number moves on them: what turning and padding a board work on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from expkit.errors import SchemaError
from expkit.row.schema import Field, Schema

MOVES = 8  # full and half moves in four directions from each tile, then one pass
FLAGS = 4  # stored mask bits of a tile


@dataclass(frozen=True, slots=True)
class BoardFields:
    """The parts of rows that go by the tiles of a board of `height` x `width`, tile = y * W + x.

    boards   names of fields (…, H, W)
    masks    of masks over actions: logical (8 H W + 1,), stored (4 H W,)
    actions  of actions: tile * 4 + direction (up, down, left, right), + 4 H W by half; 8 H W is the pass

    `of` finds them in a schema. Derived columns of the same kinds may be added with `dataclasses.replace`.
    """

    height: int
    width: int
    boards: tuple[str, ...]
    masks: tuple[str, ...] = ()
    actions: tuple[str, ...] = ()

    @property
    def tiles(self) -> int:
        return self.height * self.width

    @classmethod
    def of(cls, schema: Schema, size: tuple[int, int] | None = None) -> BoardFields:
        """Fields of the observation whose last two sides are a board's, bool vectors that expand as generals' masks
        do, and `action`. `size` is (H, W) where no field tells it, as under `flat`.

        Raises SchemaError where there is no board, or where masks and actions are numbered by something else.
        """
        seen = [field for field in schema.fields if field.belongs == "observation"]
        masks = [field for field in seen if field.expand == (2, 1)]
        actions = [field for field in schema.fields if field.name == "action"]
        sizes = dict.fromkeys(field.shape[-2:] for field in seen if len(field.shape) >= 2)
        for found in [size] if size is not None else list(sizes):
            height, width = found
            if all(_counts(field, height * width) for field in (*masks, *actions)):
                return cls(
                    height,
                    width,
                    tuple(field.name for field in seen if len(field.shape) >= 2 and field.shape[-2:] == found),
                    tuple(field.name for field in masks),
                    tuple(field.name for field in actions),
                )
        told = ", ".join(f"{height}x{width}" for height, width in sizes) if size is None else f"{size[0]}x{size[1]}"
        raise SchemaError(
            f"the schema has no board whose moves its actions number (boards: {told or 'none'}); "
            "boards are turned and padded only as generals stores them"
        )


def padded_actions(board: tuple[int, int], larger: tuple[int, int]) -> np.ndarray:
    """int64 (8 H W + 1,): what each action of a board (H, W) is called when the board lies in the upper left corner of
    a larger one."""
    y, x = np.divmod(np.arange(board[0] * board[1]), board[1])
    full = ((y * larger[1] + x)[:, None] * FLAGS + np.arange(FLAGS)).reshape(-1)
    tiles = larger[0] * larger[1]
    return np.concatenate([full, full + FLAGS * tiles, [MOVES * tiles]])


def _counts(field: Field, tiles: int) -> bool:
    """Whether a mask or an action is of the moves on so many tiles."""
    if field.expand is not None:
        return field.items == FLAGS * tiles
    return not field.shape and field.dtype[0] in "iu" and field.high in (None, MOVES * tiles)
