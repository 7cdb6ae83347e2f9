"""Frame stacking: what a player saw at its last few rows, as one array."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

import numpy as np
from msgspec import Meta

from expkit.errors import SchemaError
from expkit.pipeline.processor import ColumnBatch, Columns, Options, field_names, plain
from expkit.pipeline.values import stretch_of
from expkit.row.schema import Schema
from expkit.row.stretches import first_rows


class FrameStack(Options, frozen=True, kw_only=True):
    """Fields of the observation become (frames, …): the values of the last rows of the episode, the oldest first.

    frames   how many, the row's own among them
    columns  fields or groups
    padding  what stands for rows before the first one, of the episode or after a gap: that `first` row again, as in
             Gymnasium's FrameStackObservation after a reset, or `zero`
    """

    frames: Annotated[int, Meta(ge=1, le=256)] = 4
    columns: tuple[str, ...] = ("observation",)
    padding: Literal["first", "zero"] = "first"

    @property
    def whole_episodes(self) -> bool:
        return True

    def declare(self, schema: Schema) -> Columns:
        names = field_names(schema, self.columns)
        for name in names:
            if schema[name].belongs != "observation":
                raise SchemaError(f"frame_stack: {name} belongs to the {schema[name].belongs}, not to the observation")
        changed = [plain(schema[name], shape=(self.frames, *schema[name].logical_shape), channels=()) for name in names]
        return Columns(reads=names, changes=changed)

    def process(self, rows: ColumnBatch) -> Mapping[str, np.ndarray]:
        first = first_rows(stretch_of(rows))[:, None]
        wanted = np.arange(len(rows))[:, None] + np.arange(1 - self.frames, 1)
        before = wanted < first
        wanted = np.maximum(wanted, first)
        out = {}
        for name in field_names(rows.schema, self.columns):
            out[name] = rows[name][wanted]
            if self.padding == "zero":
                out[name][before] = 0
            if f"valid:{name}" in rows.columns:
                out[f"valid:{name}"] = rows.given(name)
        return out
