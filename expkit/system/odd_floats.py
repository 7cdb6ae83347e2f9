"""NaN and the infinities in text. JSON has no numbers for them, so they stand as the strings "NaN", "Infinity" and
"-Infinity", as in protobuf's JSON, in everything that is printed or exported; null says that there is no value."""

from __future__ import annotations

import math
from typing import Any

import msgspec

ODD_FLOATS = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


def named(value: float) -> float | str:
    """A float as JSON can hold it: a finite one as it is, others by name."""
    if math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def named_within(value: Any) -> Any:
    """Lists and dicts of what JSON holds, and what is in them, with each float as `named` gives it."""
    if isinstance(value, float):
        return named(value)
    if isinstance(value, list | tuple):
        return [named_within(item) for item in value]
    if isinstance(value, dict):
        return {name: named_within(item) for name, item in value.items()}
    return value


def json_text(value: Any) -> str:
    """Lists and dicts as JSON text; what JSON has no form for as `str` gives it."""
    encoded = msgspec.json.encode(value, enc_hook=str)
    if b"null" in encoded:  # which is what the library makes of such floats
        encoded = msgspec.json.encode(named_within(value), enc_hook=str)
    return encoded.decode()
