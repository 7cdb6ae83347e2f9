"""Rows that are stored already in another representation, where they hold what it needs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from expkit.errors import ConfigError, SchemaError
from expkit.row.schema import Field, Schema
from expkit.serialize.conversion import Conversion
from expkit.serialize.representations.board import BOARD, BoardRepresentation
from expkit.serialize.representations.planes import (
    ARMY_CHANNELS,
    BytePlanesRepresentation,
    HalfPlanesRepresentation,
    PlanesRepresentation,
)
from expkit.serialize.representations.protocol import OBSERVATION, Representation
from expkit.serialize.representations.registry import checked_convert


def find_conversion(schema: Schema, target: Representation) -> Conversion:
    """What turns stored rows of `schema` into `target`. Boards as generals stores them become anything; planes become
    planes of another kind, as long as they tell armies apart as far as those do. Raises SchemaError, in one line,
    where the rows do not hold what is needed."""
    source = stored_planes(schema)
    if source is None and all(name in schema for name in BOARD):
        return _FromBoards(schema, target, target.schema(schema))
    if source is not None and isinstance(target, PlanesRepresentation):
        return PlanesToPlanes(schema, source, target)
    if source is not None:
        raise SchemaError(
            f"{target.name} cannot be had from planes: they tell neither neutral armies, nor a general from a city, "
            "nor one rival from another, nor obstacles in fog; convert the raw run, or record the games again"
        )
    raise SchemaError(
        f"{target.name} cannot be had from rows without boards: {', '.join(BOARD)} are not among their fields"
    )


def stored_planes(schema: Schema) -> PlanesRepresentation | None:
    """The planes that the field `observation` holds, with their channels and scale, None when it holds none."""
    if OBSERVATION not in schema:
        return None
    field = schema[OBSERVATION]
    if len(field.shape) != 3 or not field.channels:
        return None
    # The field says its scale in words. Whether they were understood is seen from the field that they make.
    scales = [int(word) for word in field.meaning.split() if word.isdigit()]
    try:
        known: list[PlanesRepresentation] = [BytePlanesRepresentation(field.channels)]
        for kind in (PlanesRepresentation, HalfPlanesRepresentation):
            known += [kind(field.channels, scale) for scale in scales]
    except ConfigError:
        return None
    return next((planes for planes in known if planes.field_of(field.shape[1:]) == field), None)


@dataclass(frozen=True)
class _FromBoards:
    """A Conversion by the representation's own `convert`."""

    source: Schema
    target: Representation
    schema: Schema

    @cached_property
    def reads(self) -> frozenset[str]:
        if self.schema == self.source:
            return frozenset()
        if isinstance(self.target, BoardRepresentation):
            return frozenset(self.target.replaces)
        return frozenset(column.name for column in self.source.columns)

    @cached_property
    def _checked(self) -> Callable[[Mapping[str, np.ndarray], int, int], dict[str, np.ndarray]]:
        return checked_convert(self.target, self.source)

    def convert(self, columns: Mapping[str, np.ndarray], rows: int, player: int) -> dict[str, np.ndarray]:
        return self._checked(columns, rows, player)


@dataclass(frozen=True)
class PlanesToPlanes:
    """A Conversion of planes into those of another dtype, scale or choice of channels. It gives what the boards would
    have given: raises SchemaError where that is not known."""

    source_schema: Schema
    source: PlanesRepresentation
    target: PlanesRepresentation

    def __post_init__(self) -> None:
        missing = [channel for channel in self.target.selected if channel not in self.source.selected]
        if missing:
            raise SchemaError(
                f"{self.target.name} cannot be had from these planes: they have no {', '.join(missing)}; "
                "convert the raw run, or record the games again"
            )
        armies = any(channel in ARMY_CHANNELS for channel in self.target.selected)
        known = self.source.army_scale if self.source.army_scale <= self.source.exact_scale else 0
        if armies and self.target.army_scale > known and self.target != self.source:
            raise SchemaError(
                f"{self.target.name} cannot be had from these planes: they tell armies apart up to {known:,}, and "
                f"{self.target.army_scale:,} is asked for; convert the raw run, or record the games again"
            )

    @cached_property
    def field(self) -> Field:
        return self.target.field_of(self.source_schema[OBSERVATION].shape[1:])

    @cached_property
    def schema(self) -> Schema:
        fields = self.source_schema.fields
        return Schema([self.field if field.name == OBSERVATION else field for field in fields])

    @property
    def reads(self) -> frozenset[str]:
        return frozenset((OBSERVATION,))

    def convert(self, columns: Mapping[str, np.ndarray], rows: int, player: int) -> dict[str, np.ndarray]:
        if self.target == self.source:
            return dict(columns)
        planes = columns[OBSERVATION][:rows].reshape(rows, len(self.source.selected), -1)
        out = np.empty((rows, len(self.target.selected), planes.shape[2]), self.field.numpy_dtype)
        for place, channel in enumerate(self.target.selected):
            given = planes[:, self.source.selected.index(channel)]
            self.target.store(channel, self._shares(channel, given), out[:, place])
        return {**columns, OBSERVATION: out.reshape(rows, -1)}

    def _shares(self, channel: str, given: np.ndarray) -> np.ndarray:
        """float32 in [0, 1], as the kernel makes them of the boards for the target's scale."""
        if channel not in ARMY_CHANNELS:
            return given.astype(np.float32)
        armies = self.source.armies(given)
        return np.minimum(armies, self.target.army_scale).astype(np.float32) / np.float32(self.target.army_scale)
