"""What a representation is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

import numpy as np

from expkit.row.schema import Schema

OBSERVATION = "observation"


@runtime_checkable
class Representation(Protocol):
    """Frozen and cheap to make; `convert` may run in several threads at once."""

    @property
    def name(self) -> str: ...

    def schema(self, from_schema: Schema) -> Schema:
        """The schema of the converted rows. Raises SchemaError when `from_schema` lacks what is needed."""

    def channels(self) -> tuple[str, ...]:
        """Names of the planes of the observation, or of the numbers of a flat one, in order; empty when it has none,
        or when they follow from the schema."""

    def convert(
        self, columns: Mapping[str, np.ndarray], rows: int, player: int, out: np.ndarray | None = None
    ) -> dict[str, np.ndarray]:
        """The stored columns of the new schema from those of the old one, for `rows` rows of one player.

        Columns that do not change are passed on without a copy. `out`, the stored form of the new observation,
        is filled and returned under its name when given; else fresh memory is.
        """
