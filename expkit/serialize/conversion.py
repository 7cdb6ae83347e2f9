"""What turns stored rows of one schema into stored rows of another."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import numpy as np

from expkit.row.schema import Schema


class Conversion(Protocol):
    """Made for the rows of one schema; `convert` may run in several threads at once."""

    @property
    def schema(self) -> Schema:
        """Of the converted rows."""

    @property
    def reads(self) -> frozenset[str]:
        """Stored columns that it looks at; all others are passed on as they are."""

    def convert(self, columns: Mapping[str, np.ndarray], rows: int, player: int) -> dict[str, np.ndarray]:
        """The stored columns of the new schema, for `rows` rows of one player. A column that is missing and not among
        `reads` is missing afterwards."""
