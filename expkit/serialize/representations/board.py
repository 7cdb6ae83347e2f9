"""One field `observation` in place of the board that generals stores: what planes, features and your own share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar

import numpy as np

from expkit.errors import SchemaError, UsageError
from expkit.row.schema import Field, Schema
from expkit.serialize.representations.protocol import OBSERVATION

BOARD = {
    "observation/army": "i4",
    "observation/owner": "i1",
    "observation/terrain": "u1",
    "observation/visible": "bool",
}


class BoardRepresentation(ABC):
    """A Representation of the board. What derives from it says what the field is and fills it; fields that it does
    not replace stay as they are.

    dtype     of the field
    replaces  the fields that it needs and takes the place of, with their dtypes: at least those of BOARD
    """

    __slots__ = ()
    dtype: str
    replaces: ClassVar[Mapping[str, str]] = BOARD
    name: str

    @abstractmethod
    def new_field(self, from_schema: Schema) -> Field:
        """The field `observation`, of `dtype`. `from_schema` has all that it needs."""

    @abstractmethod
    def items(self, columns: Mapping[str, np.ndarray]) -> int:
        """Elements of the field in one row, of these stored columns."""

    @abstractmethod
    def fill(self, columns: Mapping[str, np.ndarray], rows: int, player: int, out: np.ndarray) -> None:
        """Write the stored form of the field: `out` (rows, items), contiguous, of `dtype`."""

    def channels(self) -> tuple[str, ...]:
        return ()

    def schema(self, from_schema: Schema) -> Schema:
        missing = [
            name for name, dtype in self.replaces.items() if name not in from_schema or from_schema[name].dtype != dtype
        ]
        if missing:
            raise SchemaError(
                f"representation {self.name} needs {', '.join(missing)} as generals stores it; "
                "use --representation raw for this run"
            )
        shape = from_schema["observation/army"].shape
        if len(shape) != 2 or any(from_schema[name].shape != shape for name in BOARD):
            raise SchemaError(f"representation {self.name} needs boards of one shape (H, W), not {shape}; use raw")
        fields: list[Field] = []
        for given in from_schema.fields:
            if given.name == "observation/army":
                fields.append(self.new_field(from_schema))
            elif given.name not in self.replaces:
                fields.append(given)
        return Schema(fields)

    def convert(
        self, columns: Mapping[str, np.ndarray], rows: int, player: int, out: np.ndarray | None = None
    ) -> dict[str, np.ndarray]:
        """See `Representation.convert`. Raises UsageError for an `out` of another shape or dtype."""
        shape, dtype = (rows, self.items(columns)), np.dtype(self.dtype)
        if out is None:
            out = np.empty(shape, dtype)
        elif out.shape != shape or out.dtype != dtype or not out.flags.carray:
            raise UsageError(f"out is {out.dtype} {out.shape}; it must be contiguous {dtype} {shape}")
        self.fill(columns, rows, player, out)
        converted: dict[str, np.ndarray] = {}
        for name, column in columns.items():
            if name == "observation/army":
                converted[OBSERVATION] = out
            elif name not in self.replaces:
                converted[name] = column
        return converted


def board_tiles(columns: Mapping[str, np.ndarray], rows: int) -> dict[str, np.ndarray]:
    """army, owner, terrain and visible (bool) of stored columns, each (rows, H * W), tile = y * W + x."""
    out = {name.rpartition("/")[2]: columns[name][:rows] for name in BOARD}
    tiles = out["army"].shape[1]
    out["visible"] = np.unpackbits(out["visible"], axis=1, count=tiles, bitorder="little").view(bool)
    return out
