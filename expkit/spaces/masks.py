"""Which actions are legal: a mask in the observation or in the info, or a list of legal actions, as one bool vector.

A mask belongs to the observation it came with, that is to the next action."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from expkit.errors import SchemaError
from expkit.spaces.told import as_bits

MASK = "action_mask"
# What environments call a list of legal actions, in place of a mask.
LISTS = ("legal_moves", "legal_actions")


def as_mask(key: str, value: Any, size: int, start: int = 0, shape: tuple[int, ...] | None = None) -> np.ndarray:
    """bool (size,), a copy, of a mask of that shape, or of the numbers of legal actions, which begin at `start`. Raises
    SchemaError."""
    if key in LISTS and shape is None:
        numbers = np.asarray(list(value), np.int64) - start
        if len(numbers) and (numbers.min() < 0 or numbers.max() >= size):
            raise SchemaError(f"{key}: action {numbers.max() + start} is none of the {size} actions")
        mask = np.zeros(size, bool)
        mask[numbers] = True
        return mask
    bits = as_bits(key, value)
    if bits.shape != (shape or (size,)):
        raise SchemaError(f"{key}: shape {bits.shape} does not fit the {size} actions")
    return bits.reshape(-1)


def mask_key_in(info: Any) -> str | None:
    """What an info calls its mask, if it has one."""
    if not isinstance(info, Mapping):
        return None
    return next((key for key in (MASK, *LISTS) if info.get(key) is not None), None)


def is_legal(mask: Any, action: Any, start: int = 0) -> bool:
    """Whether a mask allows an action; true where there is none, and for actions that are no single number."""
    if mask is None or action is None or np.ndim(action):
        return True
    number = int(action) - start
    return 0 <= number < len(mask) and bool(mask[number])
