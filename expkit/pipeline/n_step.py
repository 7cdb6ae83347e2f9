"""n-step returns: Sutton and Barto, Reinforcement Learning, 2nd edition, eq. 7.1, cut at the ends of episodes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import numpy as np
from msgspec import Meta

from expkit.pipeline.gae import Fraction
from expkit.pipeline.processor import ColumnBatch, Columns, Options, field_names, plain
from expkit.pipeline.values import acted, nullable, over, stretch_of
from expkit.row.schema import Field, Schema
from expkit.row.stretches import has_next

NEXT = "next/"


class NStep(Options, frozen=True, kw_only=True):
    """For each row the rewards of up to n actions from its own on, and where to bootstrap from after them.

    n_step_return    f4, r_t + gamma r_(t+1) + … over m actions: n, fewer where the episode ends or a gap comes before
    n_step_discount  f4, what the value of the state after them counts: gamma^m, 0 after a termination
    n_step_length    u4, m; the state after them is that of the row m rows on
    next/NAME        of the fields or groups in `next`, which belong to the observation: their values in that state,
                     absent after a termination whose final row is missing

    A row whose next state is missing (before a gap, or cut off) has none of them.
    """

    n: Annotated[int, Meta(ge=1, le=65535)] = 3
    gamma: Fraction = 0.99
    next: tuple[str, ...] = ()

    @property
    def whole_episodes(self) -> bool:
        return True

    def declare(self, schema: Schema) -> Columns:
        names = field_names(schema, self.next)
        made = [
            Field("n_step_return", "f4", meaning=f"rewards of up to {self.n} actions, discounted by {self.gamma:g}"),
            Field("n_step_discount", "f4", meaning="what the value of the state after them counts"),
            Field("n_step_length", "u4", meaning="number of actions"),
            *(plain(schema[name], name=NEXT + name) for name in names),
        ]
        made = [plain(field, belongs="action", nullable=True) for field in made]
        return Columns(reads=["reward", "terminated", "truncated", *names], makes=made)

    def process(self, rows: ColumnBatch) -> Mapping[str, np.ndarray]:
        count, follows = len(rows), has_next(stretch_of(rows))
        usable = acted(rows) & (rows["terminated"] | follows)
        stops = over(rows) | ~follows
        rewards = rows["reward"].astype(np.float64)
        total, length, over_by_rule = np.zeros(count), np.zeros(count, np.int64), np.zeros(count, bool)
        open_rows = np.arange(count)
        for ahead in range(self.n):
            open_rows = open_rows[usable[open_rows + ahead]]
            at = open_rows + ahead
            with np.errstate(over="ignore", invalid="ignore"):
                total[open_rows] += self.gamma**ahead * rewards[at]
            length[open_rows] += 1
            over_by_rule[open_rows] = rows["terminated"][at]
            open_rows = open_rows[~stops[at]]
            if not len(open_rows):
                break
        valid = length > 0
        discount = np.where(over_by_rule, 0.0, self.gamma**length)
        out = nullable("n_step_return", total, valid) | nullable("n_step_discount", discount, valid)
        out |= {"n_step_length": length.astype(np.uint32), "valid:n_step_length": valid}
        for name in field_names(rows.schema, self.next):
            out |= self._next(rows, name, valid, length, stretch_of(rows))
        return out

    def _next(
        self, rows: ColumnBatch, name: str, valid: np.ndarray, length: np.ndarray, stretch: np.ndarray
    ) -> dict[str, np.ndarray]:
        """The field in the state after a row's actions, and where it is given."""
        after = np.arange(len(rows)) + length
        at = np.minimum(after, max(len(rows) - 1, 0))
        there = valid & (after == at) & (stretch[at] == stretch) & rows.given(name)[at]
        values = rows[name][at]
        values[~there] = 0
        return {NEXT + name: values, f"valid:{NEXT}{name}": there}
