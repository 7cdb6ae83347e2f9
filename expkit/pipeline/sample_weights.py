"""Weights of rows, for sampling in proportion to them or for weighting a loss."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

import numpy as np
from msgspec import Meta

from expkit.errors import ConfigError
from expkit.pipeline.processor import ColumnBatch, Columns, Options
from expkit.pipeline.values import nullable, number_field
from expkit.row.schema import Field, Schema
from expkit.row.stretches import boundaries

Positive = Annotated[float, Meta(gt=0, le=1e9)]


class SampleWeights(Options, frozen=True, kw_only=True):
    """A field `into`, f4, on rows of an action.

    by     `priority`   (|column| + epsilon)^alpha: Schaul et al. 2016, Prioritized Experience Replay, eq. 1
           `staleness`  1/2 for every `half_life` policy versions that the row's is behind `newest`
           `episode`    1 / (actions that there are of the player's episode): each episode counts alike
    """

    by: Literal["priority", "staleness", "episode"]
    column: str | None = None
    alpha: Annotated[float, Meta(ge=0, le=100)] = 0.6
    epsilon: Positive = 1e-6
    newest: Annotated[int, Meta(ge=0, le=(1 << 32) - 1)] | None = None
    half_life: Positive = 1.0
    into: str = "sample_weight"

    def __post_init__(self) -> None:
        if self.by == "priority" and self.column is None:
            raise ConfigError("by priority it needs the column that has it, like column: advantage")
        if self.by == "staleness" and self.newest is None:
            raise ConfigError("by staleness it needs the newest policy version, like newest: 120")

    @property
    def whole_episodes(self) -> bool:
        return self.by == "episode"

    def declare(self, schema: Schema) -> Columns:
        reads = [number_field(schema, self.column, "sample_weights")] if self.column is not None else []
        made = Field(self.into, "f4", belongs="action", nullable=True, meaning=f"weight of the row by {self.by}")
        return Columns(reads=reads, makes=[made])

    def process(self, rows: ColumnBatch) -> Mapping[str, np.ndarray]:
        valid = ~rows["is_last"]
        if self.by == "episode":
            group = np.cumsum(boundaries(rows["episode"], rows["player"])) - 1
            weight = 1.0 / np.maximum(np.bincount(group[valid], minlength=len(rows)), 1)[group]
        elif self.by == "staleness":
            assert self.newest is not None
            behind = self.newest - rows["policy_version"].astype(np.int64)
            weight = 0.5 ** (np.maximum(behind, 0) / self.half_life)
        else:
            assert self.column is not None
            valid = valid & rows.given(self.column)
            with np.errstate(over="ignore"):
                weight = (np.abs(rows[self.column].astype(np.float64)) + self.epsilon) ** self.alpha
        return nullable(self.into, weight, valid)
