"""The eight symmetries of a board as augmentation on reading: observations, masks and actions turned alike.

    for batch in augmented(run.scan(batch_size=4096), run.schema, seed=epoch):
        ...

A game that is turned is a game: the rules know no direction. (Only the built-in map generator and policies could prefer
one, by the order in which they look.) Of a board that is not square four keep the shape, and only those are used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from enum import IntEnum
from functools import lru_cache

import numpy as np

from expkit.errors import UsageError
from expkit.kernels.generals_state import DOWN, LEFT, RIGHT, UP
from expkit.row.schema import Schema
from expkit.serialize.board_fields import FLAGS, MOVES, BoardFields
from expkit.system.mixing import GOLDEN, mixed

Batch = dict[str, np.ndarray]
_Turn = Callable[[np.ndarray, int], np.ndarray]


class Symmetry(IntEnum):
    """The elements of the dihedral group D4, those first that keep the shape of every board. Rotations are
    counter-clockwise, as `numpy.rot90`; MIRROR_X swaps left and right, MIRROR_Y up and down."""

    IDENTITY = 0
    ROTATE_180 = 1
    MIRROR_X = 2
    MIRROR_Y = 3
    ROTATE_90 = 4
    ROTATE_270 = 5
    TRANSPOSE = 6
    ANTI_TRANSPOSE = 7


SHAPE_KEEPING = 4  # as many of them keep the shape of a board that is not square

# (transpose, then flip rows, then flip columns)
_PARTS = (
    (False, False, False),
    (False, True, True),
    (False, False, True),
    (False, True, False),
    (True, True, False),
    (True, False, True),
    (True, False, False),
    (True, True, True),
)
_STEPS = {UP: (-1, 0), DOWN: (1, 0), LEFT: (0, -1), RIGHT: (0, 1)}  # (y, x) of each direction


def _matrix(symmetry: int) -> tuple[int, int, int, int]:
    """What it does to (y, x) seen from the middle of the board: a 2x2 matrix, row by row."""
    transpose, rows, columns = _PARTS[symmetry]
    y, x = (-1 if rows else 1), (-1 if columns else 1)
    return (0, y, x, 0) if transpose else (y, 0, 0, x)


def _product(a: tuple[int, int, int, int], b: tuple[int, int, int, int]) -> tuple[int, int, int, int]:
    return (
        a[0] * b[0] + a[1] * b[2],
        a[0] * b[1] + a[1] * b[3],
        a[2] * b[0] + a[3] * b[2],
        a[2] * b[1] + a[3] * b[3],
    )


_OF_MATRIX = {_matrix(symmetry): symmetry for symmetry in Symmetry}


def composed(first: int, then: int) -> Symmetry:
    """The symmetry that is `first`, followed by `then`."""
    return _OF_MATRIX[_product(_matrix(then), _matrix(first))]


def inverse(symmetry: int) -> Symmetry:
    """The symmetry that undoes it."""
    return next(other for other in Symmetry if composed(symmetry, other) is Symmetry.IDENTITY)


@lru_cache(maxsize=64)
def action_table(symmetry: int, height: int, width: int) -> np.ndarray:
    """int64 (8 H W + 1,), read-only: what each action of a board is called on the turned one."""
    transpose, rows, columns = _PARTS[symmetry]
    y, x = np.divmod(np.arange(height * width), width)
    new_height, new_width = (width, height) if transpose else (height, width)
    new_y, new_x = (x, y) if transpose else (y, x)
    new_y = new_height - 1 - new_y if rows else new_y
    new_x = new_width - 1 - new_x if columns else new_x
    moves = (new_y * new_width + new_x)[:, None] * FLAGS + _directions(symmetry)
    full = moves.reshape(-1)
    table = np.concatenate([full, full + FLAGS * height * width, [MOVES * height * width]])
    table.flags.writeable = False
    return table


@lru_cache(maxsize=8)
def _action_tables(height: int, width: int) -> np.ndarray:
    """int64 (8, 8 H W + 1): the tables of all symmetries."""
    return np.stack([action_table(symmetry, height, width) for symmetry in Symmetry])


def _directions(symmetry: int) -> np.ndarray:
    """int64 (4,): what each direction is called on the turned board."""
    a, b, c, d = _matrix(symmetry)
    found = {step: direction for direction, step in _STEPS.items()}
    turned = [found[a * y + b * x, c * y + d * x] for y, x in (_STEPS[direction] for direction in range(4))]
    return np.array(turned, np.int64)


def draw_symmetries(episodes: np.ndarray, seed: int, fields: BoardFields) -> np.ndarray:
    """uint8, like `episodes` (u64): one of the symmetries that keep the board's shape for each, evenly drawn. It
    follows from (seed, whole episode number) alone: all rows and players of an episode are turned alike, in whatever
    batch they come."""
    with np.errstate(over="ignore"):
        key = mixed(np.array([seed % (1 << 64)], np.uint64) + GOLDEN)
        random = mixed(mixed(key ^ (episodes.astype(np.uint64) * GOLDEN)))
    return (random >> np.uint64(61 if fields.height == fields.width else 62)).astype(np.uint8)


def turned(batch: Mapping[str, np.ndarray], fields: BoardFields, symmetry: int | np.ndarray) -> Batch:
    """The batch with boards, masks and actions turned; other columns are passed on, nothing is changed in place.

    batch     logical arrays that lead with the rows, as `Run.scan` gives them; columns that are not there are not
              missed. The T actions beside T+1 observations of `Run.episode` are understood too
    symmetry  one for all rows, or uint8 (rows,), one for each

    Actions of last rows (`is_last`), which stand for none, and numbers that are no action stay as they are. Raises
    UsageError for a symmetry that swaps the sides of a board that is not square, or that is none.
    """
    which = np.asarray(symmetry)
    if which.size and not 0 <= which.min() <= which.max() < len(Symmetry):
        raise UsageError(f"symmetry {int(which.min())} to {int(which.max())} is none; they are 0 to 7")
    if which.size and fields.height != fields.width and which.max() >= SHAPE_KEEPING:
        raise UsageError(
            f"{Symmetry(int(which.max())).name.lower()} would turn a board of {fields.height}x{fields.width} into "
            f"{fields.width}x{fields.height}; only symmetries 0 to 3 keep its shape"
        )
    out = dict(batch)
    for name in fields.boards:
        if name in batch:
            out[name] = _by_group(batch[name], which, _turn_boards)
    for name in fields.masks:
        if name in batch:
            out[name] = _by_group(batch[name], which, lambda values, one: _turn_mask(values, one, fields))
    for name in fields.actions:
        if name in batch:
            out[name] = _turn_actions(batch[name], which, batch.get("is_last"), fields)
    return out


def augmented(batches: Iterable[Batch], schema: Schema | BoardFields, seed: int = 0) -> Iterator[Batch]:
    """The batches of `Run.scan`, `Run.shuffled` and the like, each episode turned as `draw_symmetries` says. Another
    seed, like the epoch's number, turns each in another way. Raises SchemaError for rows without boards."""
    fields = schema if isinstance(schema, BoardFields) else BoardFields.of(schema)
    for batch in batches:
        yield turned(batch, fields, draw_symmetries(batch["episode"], seed, fields))


def _by_group(values: np.ndarray, which: np.ndarray, turn: _Turn) -> np.ndarray:
    """`turn` applied to the rows of each symmetry together."""
    if which.ndim == 0:
        return np.ascontiguousarray(turn(values, int(which)))
    out = np.empty(values.shape, values.dtype)
    which = which[: len(values)]
    for one in np.unique(which).tolist():
        rows = np.flatnonzero(which == one)
        out[rows] = turn(values[rows], one)
    return out


def _turn_boards(values: np.ndarray, symmetry: int) -> np.ndarray:
    """A view of (rows, …, H, W)."""
    transpose, rows, columns = _PARTS[symmetry]
    values = values.swapaxes(-1, -2) if transpose else values
    return values[..., :: -1 if rows else 1, :: -1 if columns else 1]


def _turn_mask(values: np.ndarray, symmetry: int, fields: BoardFields) -> np.ndarray:
    """(rows, 8 H W + 1), or the stored (rows, 4 H W): an entry goes where its action goes."""
    comes_from = action_table(inverse(symmetry), fields.height, fields.width)[: values.shape[1]]
    return values.take(comes_from, axis=1)


def _turn_actions(values: np.ndarray, which: np.ndarray, is_last: np.ndarray | None, fields: BoardFields) -> np.ndarray:
    which = np.broadcast_to(which, len(values)) if which.ndim == 0 else which[: len(values)]
    moves = (values >= 0) & (values <= MOVES * fields.tiles)
    if is_last is not None:
        moves &= ~is_last[: len(values)]
    out = values.copy()
    out[moves] = _action_tables(fields.height, fields.width)[which[moves], values[moves].astype(np.int64)]
    return out
