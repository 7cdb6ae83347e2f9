"""Boards laid out on a larger one, so that runs of two sizes have one schema: observations, masks and actions alike.

The board keeps its place, in the upper left corner; what is added to the right and below are mountains. A row becomes
what its player would have seen had the game been played on the larger board: mountains beside its own tiles are seen,
the others are obstacles in fog. So every rule of the game holds for padded rows, too, and no move leads out of the
old board.

    observation/army, owner, terrain, visible    0, -1, 3 (mountain), true beside own tiles; else 0, -2, 5, false
    state/army, owner, terrain                   0, -1, 3
    planes                                       mountains and visible beside own tiles, else fog
    action_mask                                  no move from what is added
    action                                       the same move; the pass stays the pass
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import msgspec
import numpy as np

from expkit.errors import SchemaError, UsageError
from expkit.kernels.generals_state import MOUNTAIN, NEUTRAL, OBSTACLE, UNKNOWN
from expkit.row.schema import Field, Schema
from expkit.serialize.board_fields import FLAGS, MOVES, BoardFields, padded_actions
from expkit.serialize.representations import CHANNELS, OBSERVATION

_OWNER = "observation/owner"
# (value where the player sees what is added, value where it does not)
_ADDED = {
    "observation/army": (0, 0),
    _OWNER: (NEUTRAL, UNKNOWN),
    "observation/terrain": (MOUNTAIN, OBSTACLE),
    "observation/visible": (1, 0),
    "state/army": (0, 0),
    "state/owner": (NEUTRAL, NEUTRAL),
    "state/terrain": (MOUNTAIN, MOUNTAIN),
}
_ADDED_PLANES = {"mountains": (1, 0), "visible": (1, 0), "fog": (0, 1)}
_OWN_LAND = "own_territory"


@dataclass(frozen=True)
class Padding:
    """A Conversion of rows with the schema `source` to boards of `height` x `width`.

    Raises SchemaError for rows without boards, with boards of which nobody knows what they show outside, or with
    actions that are too small a number, UsageError for boards that are larger already.
    """

    source: Schema
    height: int
    width: int

    def __post_init__(self) -> None:
        fields = self.fields
        if fields.height > self.height or fields.width > self.width:
            raise UsageError(
                f"boards of {fields.height}x{fields.width} do not fit into {self.height}x{self.width}; pad to a "
                "board that is as large as every one of them"
            )
        for name in fields.boards:
            self._check(self.source[name])
        for name in fields.actions:
            dtype, last = self.source[name].numpy_dtype, MOVES * self.height * self.width
            if np.iinfo(dtype).max < last:
                raise SchemaError(
                    f"{name} is {self.source[name].dtype}, which cannot number the {last + 1:,} actions of a board of "
                    f"{self.height}x{self.width}; pad to a smaller one"
                )

    @cached_property
    def fields(self) -> BoardFields:
        """Of the rows as they are."""
        return BoardFields.of(self.source)

    @cached_property
    def reads(self) -> frozenset[str]:
        return frozenset((*self.fields.boards, *self.fields.masks, *self.fields.actions))

    @cached_property
    def schema(self) -> Schema:
        fields, tiles = [], self.height * self.width
        for field in self.source.fields:
            if field.name in self.fields.boards:
                field = msgspec.structs.replace(field, shape=(*field.shape[:-2], self.height, self.width))
            elif field.name in self.fields.masks:
                field = msgspec.structs.replace(field, shape=(FLAGS * tiles,))
            elif field.name in self.fields.actions:
                field = msgspec.structs.replace(field, high=MOVES * tiles)
            fields.append(field)
        return Schema(fields)

    @cached_property
    def action_table(self) -> np.ndarray:
        """See `padded_actions`."""
        return padded_actions((self.fields.height, self.fields.width), (self.height, self.width))

    def convert(self, columns: Mapping[str, np.ndarray], rows: int, player: int) -> dict[str, np.ndarray]:
        out = {name: values[:rows] for name, values in columns.items()}
        seen = self._seen_outside(out, rows, player)
        for name in self.fields.boards:
            out[name] = self._pad_field(self.source[name], out[name], seen)
        for name in self.fields.masks:
            bits = _unpacked(out[name], FLAGS * self.fields.tiles)
            moves = np.zeros((rows, self.height, self.width, FLAGS), np.uint8)
            moves[:, : self.fields.height, : self.fields.width] = bits.reshape(
                rows, self.fields.height, self.fields.width, FLAGS
            )
            out[name] = np.packbits(moves.reshape(rows, -1), axis=1, bitorder="little")
        for name in self.fields.actions:
            out[name] = self._pad_actions(out[name])
        return out

    def _check(self, field: Field) -> None:
        """Whether it is known what stands in a field outside the old board."""
        planes = field.name == OBSERVATION and bool(field.channels) and set(field.channels) <= set(CHANNELS)
        if not planes and field.name not in _ADDED:
            raise SchemaError(
                f"nobody knows what {field.name} shows outside of the board, so it cannot be padded; "
                "leave it out first, by expkit rewrite --columns"
            )
        if planes:
            depends, known = not set(field.channels).isdisjoint(_ADDED_PLANES), _OWN_LAND in field.channels
        else:
            shown, hidden = _ADDED[field.name]
            depends, known = shown != hidden, _OWNER in self.fields.boards
        if depends and not known:
            needed = _OWN_LAND if planes else _OWNER
            raise SchemaError(
                f"without {needed} it is not known which of the added tiles {field.name} shows; pad a run that has it"
            )

    def _seen_outside(self, columns: Mapping[str, np.ndarray], rows: int, player: int) -> np.ndarray:
        """bool (rows, H', W'): the added tiles that have one of the player's own among their neighbours; false in the
        old board."""
        height, width = self.fields.height, self.fields.width
        seen = np.zeros((rows, self.height, self.width), bool)
        if _OWNER in self.fields.boards:
            own = columns[_OWNER].reshape(rows, height, width) == player
        elif OBSERVATION in self.fields.boards and _OWN_LAND in self.source[OBSERVATION].channels:
            place = self.source[OBSERVATION].channels.index(_OWN_LAND)
            own = columns[OBSERVATION].reshape(rows, -1, height, width)[:, place] > 0
        else:
            return seen
        if self.height > height:
            seen[:, height] = _with_neighbours(own[:, -1], self.width)
        if self.width > width:
            seen[:, :, width] |= _with_neighbours(own[:, :, -1], self.height)
        seen[:, :height, :width] = False
        return seen

    def _pad_field(self, field: Field, stored: np.ndarray, seen: np.ndarray) -> np.ndarray:
        """The stored column of a field on the larger board."""
        rows, flags = len(stored), field.dtype == "bool"
        values = _unpacked(stored, field.items) if flags else stored
        kinds = [_ADDED_PLANES.get(c, (0, 0)) for c in field.channels] if field.channels else [_ADDED[field.name]]
        inside = values.reshape(rows, len(kinds), self.fields.height, self.fields.width)
        out = np.empty((rows, len(kinds), self.height, self.width), values.dtype)
        for place, (shown, hidden) in enumerate(kinds):
            out[:, place] = np.where(seen, values.dtype.type(shown), values.dtype.type(hidden))
        out[:, :, : self.fields.height, : self.fields.width] = inside
        out = out.reshape(rows, -1)
        return np.packbits(out, axis=1, bitorder="little") if flags else out

    def _pad_actions(self, actions: np.ndarray) -> np.ndarray:
        """Numbers that are no action stay as far beyond the last one as they are."""
        last = MOVES * self.fields.tiles
        moves = (actions >= 0) & (actions <= last)
        beyond = actions.astype(np.int64) + (MOVES * self.height * self.width - last)
        moved = self.action_table[np.where(moves, actions, 0).astype(np.int64)]
        return np.where(moves, moved, beyond).astype(actions.dtype)


def _with_neighbours(line: np.ndarray, length: int) -> np.ndarray:
    """bool (rows, length): where a tile of `line` (rows, at most `length`) is, and one tile to either side."""
    wide = np.zeros((len(line), length + 2), bool)
    wide[:, 1 : line.shape[1] + 1] = line
    return wide[:, :-2] | wide[:, 1:-1] | wide[:, 2:]


def _unpacked(bits: np.ndarray, items: int) -> np.ndarray:
    """uint8 (rows, items) of 0 and 1."""
    return np.unpackbits(bits, axis=1, count=items, bitorder="little")
