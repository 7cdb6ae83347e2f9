"""What can be wrong with the values of a field, found for all rows at once: `nan`, `infinite`, `range`.

A value that is not there is not wrong: fields of an action have none on last rows, and a writer may leave out a
nullable one.
"""

from __future__ import annotations

import math

import numpy as np

from expkit.pipeline.processor import ColumnBatch
from expkit.row.schema import Field, Schema

CAUSES = ("nan", "infinite", "range")


def causes_of(field: Field) -> tuple[str, ...]:
    """The faults that values of the field can have: of NaN and infinities floats, of range what has bounds."""
    floats = ("nan", "infinite") if field.numpy_dtype.kind == "f" else ()
    bounds = ("range",) if field.dtype != "bool" and (field.low is not None or field.high is not None) else ()
    return floats + bounds


def checkable(schema: Schema) -> list[str]:
    """Fields in which anything can be found."""
    return [field.name for field in schema.fields if causes_of(field)]


def bounds(field: Field) -> tuple[np.generic | None, np.generic | None]:
    """The field's low and high as numbers of its dtype, rounded to it as a value of a row is; None where there is no
    bound that a value could be beyond."""
    dtype, out = field.numpy_dtype, list[np.generic | None]()
    for bound, towards in ((field.low, math.ceil), (field.high, math.floor)):
        if bound is None or not math.isfinite(bound):
            out.append(None)
        elif dtype.kind == "f":
            with np.errstate(over="ignore"):
                rounded = dtype.type(bound)
            out.append(rounded if np.isfinite(rounded) else None)
        else:
            limits = np.iinfo(dtype)
            out.append(dtype.type(min(max(towards(bound), limits.min), limits.max)))
    return out[0], out[1]


def wrong_values(field: Field, values: np.ndarray, cause: str) -> np.ndarray:
    """bool, like `values` (rows, …): those with that fault. An infinity is out of no range, NaN neither."""
    if cause == "nan":
        return np.isnan(values)
    if cause == "infinite":
        return np.isinf(values)
    bad = np.zeros(values.shape, bool)
    low, high = bounds(field)
    if low is not None:
        bad |= values < low
    if high is not None:
        bad |= values > high
    return bad & np.isfinite(values) if values.dtype.kind == "f" else bad


def clean(field: Field, values: np.ndarray) -> bool:
    """Whether no value can have any fault, told from the smallest and the largest alone: what is wrong is rare."""
    if not values.size:
        return True
    least, most = values.min(), values.max()
    if values.dtype.kind == "f" and not (np.isfinite(least) and np.isfinite(most)):
        return False  # NaN comes through min and max
    low, high = bounds(field)
    return (low is None or bool(least >= low)) and (high is None or bool(most <= high))


def faulty_rows(rows: ColumnBatch, name: str) -> dict[str, np.ndarray]:
    """{cause: bool (rows,)} of the faults that there are in that field."""
    field, values = rows.schema[name], rows[name]
    if clean(field, values):
        return {}
    given, out = rows.given(name), {}
    for cause in causes_of(field):
        bad = wrong_values(field, values, cause)
        found = (bad.reshape(len(bad), -1).any(axis=1) if bad.ndim > 1 else bad) & given
        if found.any():
            out[cause] = found
    return out
