"""Which rows of a stored column differ, and how one of them does, in words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from expkit.row.schema import Schema
from expkit.system.odd_floats import named


def align(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Rows of the same step: (places in a, places in b, steps only in a, steps only in b).

    a, b: steps of one (episode, player). The n-th row of a repeated step goes with the n-th of the other.
    """
    if np.array_equal(a, b) and (a[1:] > a[:-1]).all():
        return np.arange(len(a)), np.arange(len(b)), a[:0], b[:0]
    order_a, order_b = np.argsort(a, kind="stable"), np.argsort(b, kind="stable")
    keys_a, keys_b = _numbered(a[order_a]), _numbered(b[order_b])
    _, in_a, in_b = np.intersect1d(keys_a, keys_b, assume_unique=True, return_indices=True)
    only_a = np.delete(a[order_a], in_a)
    only_b = np.delete(b[order_b], in_b)
    return order_a[in_a], order_b[in_b], only_a, only_b


def _numbered(steps: np.ndarray) -> np.ndarray:
    """uint64: each of the sorted steps with its number among equal ones."""
    number = np.arange(len(steps)) - np.searchsorted(steps, steps, "left")
    return steps.astype(np.uint64) << np.uint64(32) | number.astype(np.uint64)


def differing(a: np.ndarray, b: np.ndarray, tolerance: float) -> np.ndarray:
    """Bool (rows,): true where a row of the stored arrays differs, floats by more than the tolerance."""
    unlike = _unlike(a, b, tolerance)
    return unlike if unlike.ndim == 1 else np.asarray(unlike.any(1))


def _unlike(a: np.ndarray, b: np.ndarray, tolerance: float) -> np.ndarray:
    unlike = np.asarray(a != b)
    if a.dtype.kind == "f":
        unlike &= ~(np.isnan(a) & np.isnan(b))
        if tolerance and unlike.any():
            with np.errstate(invalid="ignore", over="ignore"):  # infinities have no distance
                near = np.abs(a.astype(np.float64) - b.astype(np.float64)) <= tolerance
            unlike &= ~near
    return unlike


def first_value(
    schema: Schema, name: str, a: np.ndarray, b: np.ndarray, tolerance: float
) -> tuple[tuple[int, ...] | None, Any, Any, int]:
    """Of one row of a stored column, as logical values: (index, value in a, value in b, values that differ).

    a, b: stored arrays of one row. The index is None for a scalar.
    """
    left, right = schema.unpack(name, a)[0], schema.unpack(name, b)[0]
    if not np.ndim(left):
        return None, left.item(), right.item(), 1
    unlike = np.argwhere(_unlike(left, right, tolerance))
    at = tuple(int(i) for i in unlike[0])
    return at, left[at].item(), right[at].item(), len(unlike)


def whole_value(schema: Schema, name: str, stored: np.ndarray) -> Any:
    """The logical value of one row: a number, or lists of them."""
    return schema.unpack(name, stored)[0].tolist()


def show_value(value: Any, dtype: np.dtype[Any] | None = None) -> str:
    """`1`, `0.1`, `true`, `null`, `9 values`: short, and different for numbers that differ."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        # The shortest text that gives the same number in its own dtype: 0.1 of an f4, not 0.10000000149011612.
        shortest = str(dtype.type(value) if dtype is not None else value).removesuffix(".0")
        return shortest if np.isfinite(value) else str(named(value))
    return f"{np.size(value):,} values" if isinstance(value, list) and np.size(value) > 8 else str(value)


def show_index(index: Sequence[int] | None) -> str:
    """`[3, 4]` behind the name of an array field, nothing for a scalar."""
    return "" if index is None else f"[{', '.join(str(i) for i in index)}]"
