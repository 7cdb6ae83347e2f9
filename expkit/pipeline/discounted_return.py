"""Discounted returns: Sutton and Barto, Reinforcement Learning, 2nd edition, eq. 3.8."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from expkit.kernels.backward import sum_backwards
from expkit.pipeline.gae import Fraction
from expkit.pipeline.processor import ColumnBatch, Columns, Options
from expkit.pipeline.values import acted, goes_on, next_values, nullable, number_field, over
from expkit.row.schema import Field, Schema


class DiscountedReturn(Options, frozen=True, kw_only=True):
    """G_t = r_t + gamma G_(t+1) to the end of the episode.

    Without `value`, a truncation counts as an end like a termination: the return within the limit. With it, a
    truncation or an interruption is followed by gamma times the value of the final row. Rows whose episode does not
    reach such an end (interrupted, or a gap comes before it) have no return.

    value  field with V(s_t), if any;  gamma: discount;  into: name of the field, f4
    """

    gamma: Fraction = 0.99
    value: str | None = None
    into: str = "discounted_return"

    @property
    def whole_episodes(self) -> bool:
        return True

    def declare(self, schema: Schema) -> Columns:
        values = [] if self.value is None else [number_field(schema, self.value, "discounted_return")]
        meaning = f"sum of rewards to come, discounted by {self.gamma:g} a step"
        made = Field(self.into, "f4", belongs="action", nullable=True, meaning=meaning)
        return Columns(reads=["reward", "terminated", "truncated", *values], makes=[made])

    def process(self, rows: ColumnBatch) -> Mapping[str, np.ndarray]:
        carries, rewards = goes_on(rows), rows["reward"].astype(np.float64)
        if self.value is None:
            complete = acted(rows) & over(rows)
        else:
            following, known = next_values(rows, self.value)
            complete = known & ~carries
            with np.errstate(over="ignore", invalid="ignore"):
                rewards[complete] += self.gamma * following[complete]
        total, reaches = np.empty(len(rows)), np.empty(len(rows))
        sum_backwards(np.where(acted(rows), rewards, 0.0), np.where(carries, self.gamma, 0.0), total)
        sum_backwards(complete.astype(np.float64), carries.astype(np.float64), reaches)
        return nullable(self.into, total, reaches > 0)
