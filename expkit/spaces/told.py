"""What an environment says beside observations: rewards and flags, taken as what they mean or refused in words."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from expkit.errors import SchemaError
from expkit.row.host import host_array

_SINGLE = float(np.finfo(np.float32).max)
_TINY = float(np.finfo(np.float32).tiny)
_WHOLE = 1 << 24  # float32 holds every integer up to it


def as_flag(what: str, value: Any) -> bool:
    """One truth value: a bool, 0 or 1, also as an array or tensor of one element. Raises SchemaError."""
    if type(value) is bool or type(value) is np.bool_:
        return bool(value)
    if value is not None and not isinstance(value, str | bytes | dict):
        array = host_array(what, value)
        if array.size == 1 and array.dtype.kind in "biuf" and array.reshape(()) in (0, 1):
            return bool(array.reshape(()))
    raise SchemaError(f"{what} is {_short(value)}, not one truth value; give True or False")


class Rewards:
    """Rewards of environments as they are stored.

    shape   of one reward, () for a number, (n,) for an environment of n objectives
    dtype   that they are stored as; a value that it cannot hold is warned of once
    """

    def __init__(self, shape: tuple[int, ...] = (), dtype: str = "f4"):
        self.shape, self._single, self._warned = shape, dtype == "f4", False
        self._dtype = np.dtype(f"<{dtype}")

    def take(self, what: str, value: Any) -> Any:
        """A float, or float64 of `shape`. Raises SchemaError for what is no such number."""
        if not self.shape:
            if type(value) is not float:
                value = self._number(what, value)
            size = value if value >= 0 else -value
            if (size > _WHOLE or 0 < size < _TINY) and not self._warned:
                self._look(what, value)
            return value
        array = None if value is None or isinstance(value, str | bytes | dict) else host_array(what, value)
        if array is None or array.shape != self.shape or array.dtype.kind not in "biuf":
            raise SchemaError(f"{what} is {_short(value)}; the environment's reward_space has shape {self.shape}")
        out = array.astype(np.float64)  # a copy
        if not self._warned:
            for one in out.ravel().tolist():
                self._look(what, one)
        return out

    def _number(self, what: str, value: Any) -> float:
        if value is not None and not isinstance(value, str | bytes | dict):
            array = host_array(what, value)
            if array.size == 1 and array.dtype.kind in "biuf":
                return float(array.reshape(()))
        raise SchemaError(
            f"{what} is {_short(value)}, not one number; give a float, or, of several objectives, say so by a "
            "reward_space of the environment"
        )

    def _look(self, what: str, value: float) -> None:
        if self._warned or not np.isfinite(value):
            return
        with np.errstate(over="ignore", under="ignore"):
            held = float(self._dtype.type(value))
        if held != value and (float(value).is_integer() or not abs(held - value) <= 1e-6 * abs(value)):
            self._warned = True
            wider = '; give reward_dtype="f8"' if self._dtype.itemsize < 8 else ""
            warnings.warn(f"{what} is {value!r}, which is stored as {held!r}{wider}", stacklevel=5)


def as_bits(what: str, value: Any) -> np.ndarray:
    """bool of an array of truth values, a copy. Raises SchemaError for what is neither 0 nor 1."""
    array = host_array(what, value)
    if array.dtype == bool:
        return np.array(array, subok=False)
    if array.dtype.kind not in "iuf":
        raise SchemaError(f"{what}: values of type {array.dtype} are not truth values")
    bits = array == 1
    if not np.array_equal(bits, array):
        wrong = array[(array != 0) & ~bits].reshape(-1)[0]
        raise SchemaError(f"{what}: {wrong} is neither 0 nor 1")
    return np.asarray(bits)


def _short(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"an array {value.dtype} {value.shape}"
    text = repr(value)
    return text if len(text) <= 60 else f"a {type(value).__name__}"
