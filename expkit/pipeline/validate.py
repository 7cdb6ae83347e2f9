"""Validation of rows: what is wrong goes no further, and is counted."""

from __future__ import annotations

from typing import Literal

import numpy as np

from expkit.pipeline.faults import checkable, faulty_rows
from expkit.pipeline.processor import ColumnBatch, Columns, Options, Outcome, field_names
from expkit.row.schema import Schema


class Validate(Options, frozen=True, kw_only=True):
    """Leave out rows with NaN, an infinity, a value outside its field's bounds, or keys that contradict each other.

    columns  fields or groups to look at; all when left out
    wrong    `reject` the rows, or `quarantine` them: they are kept elsewhere

    A row counts once, under the first fault that is found: of its keys, then field by field in the order of the
    schema, as `nan in reward`.
    """

    columns: tuple[str, ...] | None = None
    wrong: Literal["reject", "quarantine"] = "reject"

    @property
    def leaves_out(self) -> bool:
        return True

    def declare(self, schema: Schema) -> Columns:
        return Columns(reads=[*self._names(schema), "terminated", "truncated"])

    def _names(self, schema: Schema) -> list[str]:
        known = checkable(schema)
        return known if self.columns is None else [n for n in field_names(schema, self.columns) if n in known]

    def process(self, rows: ColumnBatch) -> Outcome:
        bad, counts = np.zeros(len(rows), bool), dict[str, int]()

        def note(cause: str, found: np.ndarray) -> None:
            fresh = int(np.count_nonzero(found & ~bad))
            if fresh:
                counts[cause] = fresh
                np.logical_or(bad, found, out=bad)

        # A last row has no action, so nothing that an action could have caused.
        note("action on a last row", rows["is_last"] & (rows["terminated"] | rows["truncated"]))
        for name in self._names(rows.schema):
            for cause, found in faulty_rows(rows, name).items():
                note(f"{cause} in {name}", found)
        if not counts:
            return Outcome()
        if self.wrong == "quarantine":
            return Outcome(keep=~bad, quarantined=counts, aside=bad)
        return Outcome(keep=~bad, rejected=counts)
