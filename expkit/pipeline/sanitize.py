"""Sanitizing: values that no trainer can use are replaced, or their rows left out, as is chosen for each fault."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

import msgspec
import numpy as np

from expkit.errors import ConfigError, SchemaError
from expkit.pipeline.faults import bounds, causes_of, checkable, faulty_rows, wrong_values
from expkit.pipeline.processor import ColumnBatch, Columns, Options, Outcome, field_names
from expkit.row.schema import DTYPES, Field, Schema

Action = Literal["repair", "reject", "quarantine", "keep"]


class Sanitize(Options, frozen=True, kw_only=True):
    """For each fault `repair` the value, `reject` the row, `quarantine` it (left out, kept elsewhere), or `keep`.

    nan       repaired to `fill`
    infinite  repaired to the bound of the field on that side, or to the largest number that its dtype holds
    range     of fields with bounds: repaired to the nearer bound
    dtype     {field: dtype} to store it as; values that do not fit (too large, a fraction for an integer) are
              repaired to the nearest that does, as `misfit` says. NaN does not fit an integer and becomes `fill`.
    columns   fields or groups to look at; all when left out

    A row that is left out counts once, under its first fault, field by field in the order of the schema and in the
    order above; a repaired row under each, as `nan in observation`.
    """

    columns: tuple[str, ...] | None = None
    nan: Action = "repair"
    infinite: Action = "repair"
    range: Action = "repair"
    dtype: Mapping[str, str] = msgspec.field(default_factory=dict)
    misfit: Literal["repair", "reject", "quarantine"] = "repair"
    fill: float = 0.0

    def __post_init__(self) -> None:
        if not math.isfinite(self.fill):
            raise ConfigError(f"fill is {self.fill}; it has to be a number that a trainer can use")
        for name, dtype in self.dtype.items():
            if dtype not in DTYPES or dtype == "bool":
                numbers = ", ".join(known for known in DTYPES if known != "bool")
                raise ConfigError(f"dtype {dtype!r} of {name} is not one of {numbers}")

    @property
    def leaves_out(self) -> bool:
        return not {self.nan, self.infinite, self.range, self.misfit} <= {"repair", "keep"}

    def declare(self, schema: Schema) -> Columns:
        names = self._names(schema)
        changed = [self._stored(schema[name]) for name in names]
        return Columns(reads=names, changes=changed)

    def _names(self, schema: Schema) -> list[str]:
        """Fields that may be changed or checked, in the order of the schema."""
        known = checkable(schema)
        wanted = known if self.columns is None else [n for n in field_names(schema, self.columns) if n in known]
        for name in self.dtype:
            if schema[name].dtype == "bool":
                raise SchemaError(f"sanitize: {name} is bool, which has no other dtype")
        return [field.name for field in schema.fields if field.name in {*wanted, *self.dtype}]

    def _stored(self, field: Field) -> Field:
        return msgspec.structs.replace(field, dtype=self.dtype.get(field.name, field.dtype))

    def process(self, rows: ColumnBatch) -> Outcome:
        bad, aside = np.zeros(len(rows), bool), np.zeros(len(rows), bool)
        counts: dict[str, dict[str, int]] = {"repair": {}, "reject": {}, "quarantine": {}}
        out = dict[str, np.ndarray]()
        for name in self._names(rows.schema):
            field, values = rows.schema[name], rows[name]
            target = self._stored(field)
            faults = faulty_rows(rows, name)
            if target.dtype != field.dtype:
                fits = np.all(_fits(values, target.numpy_dtype).reshape(len(rows), field.items), axis=1)
                if not fits[rows.given(name)].all():
                    faults["misfit"] = ~fits & rows.given(name)
            for cause, found in faults.items():
                action: Action = getattr(self, cause)
                if action in ("reject", "quarantine"):
                    found = found & ~bad
                    bad |= found
                    aside |= found & (action == "quarantine")
                if action != "keep" and found.any():
                    counts[action][f"{cause} in {name}"] = int(np.count_nonzero(found))
            out[name] = self._repaired(field, values, target, faults)
            if f"valid:{name}" in rows.columns:
                out[f"valid:{name}"] = rows[f"valid:{name}"]
        return Outcome(
            out,
            keep=~bad if bad.any() else None,
            rejected=counts["reject"],
            quarantined=counts["quarantine"],
            aside=aside if aside.any() else None,
            repaired=counts["repair"],
        )

    def _repaired(self, field: Field, values: np.ndarray, target: Field, faults: dict[str, np.ndarray]) -> np.ndarray:
        """The values as they go on; those of rows that are left out do not matter."""
        out, dtype = values, target.numpy_dtype
        for cause in (cause for cause in causes_of(field) if cause in faults and getattr(self, cause) == "repair"):
            wrong = wrong_values(field, out, cause)
            with np.errstate(over="ignore"):  # of a fill that the dtype cannot hold: it becomes the largest number
                better = _bounded(field, np.full(1, self.fill, out.dtype) if cause == "nan" else out[wrong])
            out = out.copy() if out is values else out
            out[wrong] = better
        if dtype == out.dtype:
            return out
        return _nearest(out, dtype, self.fill)


def _bounded(field: Field, values: np.ndarray) -> np.ndarray:
    """The nearest values of the field's dtype within its bounds, or within what the dtype can hold."""
    limits = np.finfo(values.dtype) if values.dtype.kind == "f" else np.iinfo(values.dtype)
    low, high = bounds(field)
    return np.clip(values, limits.min if low is None else low, limits.max if high is None else high)


def _fits(values: np.ndarray, dtype: np.dtype[Any]) -> np.ndarray:
    """bool, like `values`: those that `dtype` holds; a float may be rounded but not to infinity, NaN and infinities
    fit a float."""
    if dtype.kind == "f":
        with np.errstate(over="ignore"):
            return np.isfinite(values.astype(dtype)) | ~np.isfinite(values)
    limits = np.iinfo(dtype)
    if values.dtype.kind == "f":
        exact = values.astype(np.float64)
        return (exact == np.floor(exact)) & (exact >= float(limits.min)) & (exact < float(limits.max) + 1)
    return (values >= limits.min) & (values <= limits.max)


def _nearest(values: np.ndarray, dtype: np.dtype[Any], fill: float) -> np.ndarray:
    """Cast to the nearest value of `dtype`; what is no number becomes `fill`."""
    if dtype.kind == "f":
        with np.errstate(over="ignore"):
            cast = values.astype(dtype)
        overflown = np.isinf(cast) & np.isfinite(values)
        cast[overflown] = np.copysign(np.finfo(dtype).max, values[overflown])
        return cast
    limits = np.iinfo(dtype)
    if values.dtype.kind != "f":
        own = np.iinfo(values.dtype)
        return np.clip(values, max(limits.min, own.min), min(limits.max, own.max)).astype(dtype)
    exact = np.rint(np.where(np.isnan(values), fill, values.astype(np.float64)))
    # The number below 2^63, say, is the largest float that casts to an i8.
    return np.clip(exact, float(limits.min), np.nextafter(float(limits.max) + 1, 0.0)).astype(dtype)
