"""Generalised advantage estimation: Schulman et al. 2016, High-Dimensional Continuous Control Using GAE, eq. 16."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import numpy as np
from msgspec import Meta

from expkit.kernels.backward import sum_backwards
from expkit.pipeline.processor import ColumnBatch, Columns, Options
from expkit.pipeline.values import acted, goes_on, next_values, nullable, number_field
from expkit.row.schema import Field, Schema

Fraction = Annotated[float, Meta(ge=0, le=1)]


class Gae(Options, frozen=True, kw_only=True):
    """Advantages A_t = sum over l of (gamma lambda)^l delta_(t+l), delta_t = r_t + gamma V(s_(t+1)) - V(s_t), and the
    targets of the value function, A_t + V(s_t).

    A termination bootstraps with 0; a truncation or an interruption with the value of the final row, which is there if
    the field `value` belongs to the observation. Where the value of the next state is not known (a final row without
    one, a gap) the row has no advantage and the sum of those before it ends there, at that row's own value.

    value  field with V(s_t);  gamma: discount;  lam: lambda;  into, targets: names of the two fields, f4
    """

    value: str = "value"
    gamma: Fraction = 0.99
    lam: Fraction = 0.95
    into: str = "advantage"
    targets: str = "value_target"

    @property
    def whole_episodes(self) -> bool:
        return True

    def declare(self, schema: Schema) -> Columns:
        value = number_field(schema, self.value, "gae")
        made = [
            Field(self.into, "f4", belongs="action", nullable=True, meaning=f"advantage by GAE of {value}"),
            Field(self.targets, "f4", belongs="action", nullable=True, meaning=f"advantage plus {value}"),
        ]
        return Columns(reads=[value, "reward", "terminated", "truncated"], makes=made)

    def process(self, rows: ColumnBatch) -> Mapping[str, np.ndarray]:
        value = rows[self.value].astype(np.float64)
        following, known = next_values(rows, self.value)
        known &= acted(rows) & rows.given(self.value)
        carries = goes_on(rows) & known
        carries[:-1] &= known[1:]
        with np.errstate(over="ignore", invalid="ignore"):  # infinite rewards or values: sanitize is a link of its own
            delta = np.where(known, rows["reward"] + self.gamma * following - value, 0.0)
        advantage = np.empty(len(rows))
        sum_backwards(delta, np.where(carries, self.gamma * self.lam, 0.0), advantage)
        with np.errstate(over="ignore", invalid="ignore"):
            targets = advantage + value
        return nullable(self.into, advantage, known) | nullable(self.targets, targets, known)
