"""Redaction: columns that must not be there, or whose values must not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np

from expkit.errors import SchemaError
from expkit.pipeline.processor import ColumnBatch, Columns, Options, field_names, plain
from expkit.row.schema import STANDARD_FIELDS, Schema

_ALWAYS_THERE = {field.name for field in STANDARD_FIELDS}


class Redact(Options, frozen=True, kw_only=True):
    """Take fields out, or their values.

    columns  fields or groups
    how      `remove` the columns, or `zero` their values, which are then absent where the field is nullable
    """

    columns: tuple[str, ...]
    how: Literal["remove", "zero"] = "remove"

    def declare(self, schema: Schema) -> Columns:
        names = field_names(schema, self.columns)
        if self.how == "zero":
            return Columns(changes=[plain(schema[name]) for name in names])
        kept = [name for name in names if name in _ALWAYS_THERE]
        if kept:
            raise SchemaError(f"redact: every row has {kept[0]}; set it to zero with how: zero")
        return Columns(removes=names)

    def process(self, rows: ColumnBatch) -> Mapping[str, np.ndarray]:
        if self.how == "remove":
            return {}
        out = {}
        for name in field_names(rows.schema, self.columns):
            known = rows.schema[name]
            out[name] = np.zeros((len(rows), *known.logical_shape), known.numpy_dtype)
            if known.nullable:
                out[f"valid:{name}"] = np.zeros(len(rows), bool)
        return out
