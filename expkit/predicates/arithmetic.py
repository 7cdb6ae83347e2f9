"""Numbers as predicates count: integers exactly, however large, and f64 where a fraction is on one side.

Arrays are int64, or uint64 where int64 is too small, or Python's integers (`object`) where 64 bits are, or float64.
All of this holds for single Python numbers just so (tests compare the two):
- + - * % of two integers are exact; with a float, or under /, both sides are rounded to f64 first;
- an integer beyond the largest f64 counts as that;
- % has the sign of its right side; x / 0 and x % 0 have no value;
- comparing an integer with a float is exact, nothing is rounded.
"""

from __future__ import annotations

import operator
import sys
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

_LARGEST = sys.float_info.max
_EXACT = 2.0**53  # integers up to here are exact in f64
_I64, _U64 = (-(1 << 63), (1 << 63) - 1), (0, (1 << 64) - 1)

COMPARE: dict[str, Callable[[Any, Any], Any]] = {
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_FLOAT = {"+": np.add, "-": np.subtract, "*": np.multiply, "/": np.divide, "%": np.mod}
EXACTLY: dict[str, Callable[[Any, Any], Any]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
    "%": operator.mod,
}


def as_float(value: int | float) -> float:
    """f64 of one number, never overflowing."""
    try:
        return float(value)
    except OverflowError:
        return _LARGEST if value > 0 else -_LARGEST


def normal(values: np.ndarray) -> np.ndarray:
    """Stored numbers, bools too, in one of the kinds of arrays above."""
    if values.dtype.kind == "f":
        return values.astype(np.float64, copy=False)
    if values.dtype == np.uint64 and len(values) and int(values.max()) > _I64[1]:
        return values.astype(np.uint64, copy=False)
    return values.astype(np.int64, copy=False)


def constant(value: int | float) -> np.ndarray:
    """One number as an array of one, to be broadcast."""
    if isinstance(value, float):
        return np.array([value])
    return np.array([value], _kind([value]))


def _kind(numbers: Iterable[int]) -> Any:
    """The narrowest kind of array that holds all integers from the smallest to the largest of `numbers`."""
    listed = list(numbers)
    low, high = min(listed), max(listed)
    if _I64[0] <= low and high <= _I64[1]:
        return np.int64
    return np.uint64 if low >= 0 and high <= _U64[1] else object


def _range(values: np.ndarray) -> tuple[int, int]:
    return int(values.min()), int(values.max())


def _floats(values: np.ndarray) -> np.ndarray:
    if values.dtype == object:
        return np.array([as_float(value) for value in values.tolist()])
    return values.astype(np.float64, copy=False)


def calculate(sign: str, left: np.ndarray, right: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """(values, where there are none) of `left sign right`, neither of them empty."""
    none = None
    if sign in "/%":
        none = right == 0
        right = np.where(none, np.ones(1, right.dtype), right)
    if sign == "/" or left.dtype.kind == "f" or right.dtype.kind == "f":
        with np.errstate(all="ignore"):
            return _FLOAT[sign](_floats(left), _floats(right)), none
    ends = [*_range(left), *_range(right)]
    if sign == "%":
        kind = _kind(ends)
        return np.mod(left.astype(kind, copy=False), right.astype(kind, copy=False)), none
    operation = EXACTLY[sign]
    kind = _kind([*ends, *(operation(a, b) for a in ends[:2] for b in ends[2:])])
    return operation(left.astype(kind, copy=False), right.astype(kind, copy=False)), none


def negate(values: np.ndarray) -> np.ndarray:
    if values.dtype.kind == "f":
        return -values
    low, high = _range(values)
    return -values.astype(_kind([low, high, -low, -high]), copy=False)


def absolute(values: np.ndarray) -> np.ndarray:
    if values.dtype.kind == "f":
        return np.abs(values)
    low, high = _range(values)
    return np.abs(values.astype(_kind([low, high, -low, -high]), copy=False))


def compare(op: str, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """bool, (rows,) or (1,): `left op right`. False with NaN, but for `!=`."""
    compared = COMPARE[op]
    kinds = left.dtype, right.dtype
    if kinds[0] == kinds[1]:
        return compared(left, right)
    if np.float64 in kinds:
        return _against_floats(op, left, right)
    if object in kinds:
        return compared(left.astype(object), right.astype(object))
    # One is int64, one uint64. NumPy 1.26 would round both to f64.
    negative = left < 0 if kinds[0] == np.int64 else right < 0
    below = compared(-1, 0) if kinds[0] == np.int64 else compared(0, -1)
    left, right = left.astype(np.uint64), right.astype(np.uint64)
    return np.where(negative, below, compared(left, right))


def _against_floats(op: str, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Compare integers with floats. Rounding keeps the order, so only equal large values have to be looked at again."""
    one, other = _floats(left), _floats(right)
    out = COMPARE[op](one, other)
    doubtful = (one == other) & (np.abs(one) >= _EXACT)
    if doubtful.any():
        places = np.flatnonzero(doubtful)
        a, b = np.broadcast_to(left, out.shape)[places], np.broadcast_to(right, out.shape)[places]
        out[places] = [COMPARE[op](x, y) for x, y in zip(a.tolist(), b.tolist(), strict=True)]
    return out


def among(values: np.ndarray, wanted: Iterable[int | float]) -> np.ndarray:
    """bool, like `values`: whether each is equal to one of `wanted`."""
    numbers = list(wanted)
    if values.dtype == object:
        known = set(numbers)
        return np.array([value in known for value in values.tolist()], bool)
    if values.dtype.kind == "f":
        return np.isin(values, [as_float(number) for number in numbers if as_float(number) == number])
    whole = {int(number) for number in numbers if abs(number) <= _U64[1] and int(number) == number}
    limits = _U64 if values.dtype == np.uint64 else _I64
    return np.isin(values, np.array([number for number in whole if limits[0] <= number <= limits[1]], values.dtype))
