"""A representation of your own out of one function."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from expkit.errors import ConfigError
from expkit.row.schema import Field, Schema
from expkit.serialize.representations.board import BoardRepresentation, board_tiles
from expkit.serialize.representations.protocol import OBSERVATION

Compute = Callable[[dict[str, np.ndarray], int], Any]
_BOARD_SIDES = ("H", "W")


@dataclass(frozen=True, slots=True)
class ComputedRepresentation(BoardRepresentation):
    """What one function computes of the board; see `computed`."""

    name: str
    compute: Compute
    dtype: str
    shape: tuple[int | str, ...]
    names: tuple[str, ...] = ()
    meaning: str = ""

    def channels(self) -> tuple[str, ...]:
        return self.names

    def new_field(self, from_schema: Schema) -> Field:
        sides = dict(zip(_BOARD_SIDES, from_schema["observation/army"].shape, strict=True))
        shape = tuple(side if isinstance(side, int) else sides[side] for side in self.shape)
        return Field(OBSERVATION, self.dtype, shape, "observation", meaning=self.meaning, channels=self.names)

    def items(self, columns: Mapping[str, np.ndarray]) -> int:
        fixed = [side for side in self.shape if isinstance(side, int)]
        boards = len(fixed) < len(self.shape)
        return int(np.prod(fixed, dtype=np.int64)) * (columns["observation/army"].shape[1] if boards else 1)

    def fill(self, columns: Mapping[str, np.ndarray], rows: int, player: int, out: np.ndarray) -> None:
        try:
            values = np.asarray(self.compute(board_tiles(columns, rows), player))
        except Exception as error:
            raise ConfigError(f"representation {self.name} failed: {type(error).__name__}: {error}") from error
        if values.size != out.size or values.shape[:1] != (rows,):
            raise ConfigError(
                f"representation {self.name} returned an array {values.shape} for {rows} rows; "
                f"it has to be (rows, …) of {out.shape[1]} values a row"
            )
        values = values.reshape(out.shape)
        with np.errstate(invalid="ignore", over="ignore"):
            out[...] = values
        if out.dtype.kind != "f" and not np.array_equal(out, values):
            raise ConfigError(f"representation {self.name} returned a value that {out.dtype} does not hold")


def computed(
    dtype: str, shape: Sequence[int | str], *, channels: Sequence[str] = (), meaning: str = ""
) -> Callable[[Compute], Callable[[], ComputedRepresentation]]:
    """Makes a function a representation, to be named as `module:function`:

        @computed("f4", (2,), channels=("land", "seen"))
        def small(board, player):
            return np.stack([(board["owner"] == player).sum(1), board["visible"].sum(1)], 1)

    The function gets `board`, army int32, owner int8, terrain uint8 and visible bool, each (rows, H * W) with
    tile = y * W + x, and who is looking, and returns (rows, *shape). It takes the place of the board as a field
    `observation`, and may be called in several threads at once.

    dtype     a number's, of `expkit.row.schema.DTYPES`
    shape     of one row's value; "H", "W" side by side stand for the sides of the board
    channels  names of the values along the first side, where they have some

    Raises ConfigError for a shape or dtype that no such field has.
    """
    sides = tuple(shape)
    words = tuple(side for side in sides if isinstance(side, str))
    if words and (words != _BOARD_SIDES or sides.index("W") != sides.index("H") + 1):
        raise ConfigError(f"shape {sides} is not understood; give numbers, and 'H', 'W' side by side for the board")
    if not sides or dtype == "bool":
        raise ConfigError("a computed representation has a shape and is of numbers; use u1 for flags")

    def make(compute: Compute) -> Callable[[], ComputedRepresentation]:
        name = getattr(compute, "__name__", "computed")
        made = ComputedRepresentation(name, compute, dtype, sides, tuple(channels), meaning)
        return lambda: made

    return make
