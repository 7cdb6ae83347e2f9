"""Rows as they are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from expkit.row.schema import Schema


@dataclass(frozen=True, slots=True)
class RawRepresentation:
    """Rows as the game gives them."""

    name: str = field(default="raw", init=False)

    def schema(self, from_schema: Schema) -> Schema:
        return from_schema

    def channels(self) -> tuple[str, ...]:
        return ()

    def convert(
        self, columns: Mapping[str, np.ndarray], rows: int, player: int, out: np.ndarray | None = None
    ) -> dict[str, np.ndarray]:
        return dict(columns)
