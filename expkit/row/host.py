"""Arrays in the host's memory: what callers give, as NumPy arrays, and a clear word for tensors that live elsewhere.

A tensor on a device is never fetched silently: that waits for the device, in the middle of somebody's training step.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from expkit.errors import SchemaError

_PLAIN = (int, float, bool, list, tuple, np.generic)


def host_array(name: str, value: Any) -> np.ndarray:
    """`value` as an array, without a copy where it is one; tensors of other libraries too, as long as they are on the
    CPU and need no gradient. Raises SchemaError, naming the field and what to call."""
    if isinstance(value, np.ndarray):
        return value
    if not isinstance(value, _PLAIN):
        _refuse_elsewhere(name, value)
    try:
        return np.asarray(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise SchemaError(f"{name}: {type(value).__name__} is no array of numbers ({_line(error)})") from None


def _refuse_elsewhere(name: str, value: Any) -> None:
    kind = type(value).__name__
    if getattr(value, "requires_grad", False):
        raise SchemaError(f"{name}: {kind} requires a gradient; give {name}.detach().cpu().numpy()")
    device = getattr(value, "device", "cpu")
    # PyTorch calls it type, JAX platform; NumPy's own is the text "cpu".
    where = getattr(device, "type", None) or getattr(device, "platform", None) or str(device)
    if where != "cpu" or hasattr(value, "__cuda_array_interface__"):
        where = "cuda" if where == "cpu" else where
        raise SchemaError(f"{name}: {kind} is on device {where}; give {name}.detach().cpu().numpy()")


def _line(error: Exception) -> str:
    return str(error).split("\n")[0][:200]
