"""What every buffer of experience can do, whatever it is made of.

A buffer holds rows of one player in the order they were added. Draining removes them in that order; `latest` and
`sample` copy without removing. Nothing is lost silently: at any moment added = drained + dropped + held.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, get_args, runtime_checkable

import numpy as np

from expkit.row.schema import Schema

Overflow = Literal["block", "drop-oldest", "drop-newest", "spill"]
OVERFLOWS: tuple[str, ...] = get_args(Overflow)


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows of one player, in order, copied out of a buffer.

    columns         stored arrays by column name, `rows` long, as in Schema.columns
    dropped_before  rows dropped between the batch before and this one, by cause; only causes that happened
    """

    player: int
    rows: int
    columns: dict[str, np.ndarray]
    dropped_before: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class BufferStats:
    """Counts of rows. `size` are held now, `high_water` is the most ever held, `capacity` is 0 when unbounded.

    added = drained + sum(dropped.values()) + size
    """

    size: int
    capacity: int
    high_water: int
    added: int
    drained: int
    dropped: dict[str, int]


@runtime_checkable
class ExperienceBuffer(Protocol):
    """A first-in, first-out buffer of one player's rows. All methods may be called from several threads.

    Rows are mappings from field and key names to logical values (see Schema.pack) or to values in their stored form.
    Keys that are left out are zero, nullable fields null; on a row with `is_last` only observations are required.
    """

    schema: Schema
    player: int

    def add(self, row: Mapping[str, Any]) -> None:
        """Add one row. Raises SchemaError, BufferClosed, and Busy when a full buffer was not drained in time."""

    def add_batch(self, columns: Mapping[str, Any]) -> None:
        """Add the rows of arrays of equal length, in order. Raises what `add` does; on SchemaError none is added."""

    def drain(self, max_rows: int | None = None) -> Batch | None:
        """Remove the oldest rows, up to `max_rows`, stopping at a gap; None when nothing is held. Works after
        close until empty."""

    def latest(self, rows: int, *, include_drained: bool = False) -> Batch:
        """Copies of the newest `rows` rows held (fewer when fewer are), oldest first. `include_drained` also
        finds drained rows that are still in memory (while nothing is spilled to disk)."""

    def sample(self, count: int, rng: np.random.Generator, *, include_drained: bool = False) -> Batch:
        """Copies of `count` rows drawn uniformly, with replacement, from those held. Raises NotThere when none is."""

    def load(self, batches: Iterable[Batch]) -> int:
        """Add all rows of `batches`; returns how many. Raises what `add_batch` does."""
        rows = 0
        for batch in batches:
            self.add_batch(batch.columns)
            rows += batch.rows
        return rows

    def clear(self) -> None:
        """Drop everything held, counted as `cleared`."""

    def close(self) -> None:
        """Refuse further rows and wake whoever waits. Closing twice is fine."""

    def stats(self) -> BufferStats:
        """Counts as of now."""
