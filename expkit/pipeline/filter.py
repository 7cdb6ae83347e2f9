"""Filtering: rows that match a condition."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from expkit.errors import UsageError
from expkit.pipeline.processor import ColumnBatch, Columns, Options, Outcome
from expkit.predicates import BoundPredicate, parse
from expkit.row.schema import Schema


class Filter(Options, frozen=True, kw_only=True):
    """Keep the rows for which `where` is true; see `expkit.predicates`. A row that is left out leaves a gap.

    On last rows fields that do not belong to the observation are absent, so a condition on them keeps no last row; add
    `or is_last` to keep them. Policies are compared by their number in the run's table. What is known only when an
    episode is over (length, ended, outcome, won) cannot be asked for.
    """

    where: str

    @property
    def leaves_out(self) -> bool:
        return True

    def declare(self, schema: Schema) -> Columns:
        return Columns(reads=[name for name in _bound(self.where, schema).columns if not name.startswith("valid:")])

    def process(self, rows: ColumnBatch) -> Outcome:
        predicate = _bound(self.where, rows.schema)
        keep = np.zeros(len(rows), bool)
        for player in np.unique(rows["player"]).tolist():
            mine = rows["player"] == player
            keep[mine] = predicate.evaluate({name: rows[name][mine] for name in predicate.columns}, player)
        return Outcome(keep=keep)


@lru_cache(maxsize=64)
def _bound(where: str, schema: Schema) -> BoundPredicate:
    """Raises UsageError for what is no condition on rows of that schema."""
    predicate = parse(where, "filter where").bind(schema)
    if predicate.episode_names:
        raise UsageError(
            f"filter where: {predicate.episode_names[0]} is known only when an episode is over; ask for rows alone, "
            "or use expkit rewrite --where on the run"
        )
    return predicate
