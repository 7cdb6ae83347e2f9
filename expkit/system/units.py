"""Sizes, durations, rates and shares as people write them: `64MiB`, `90s`, `8h`, `2x`, `40%`."""

from __future__ import annotations

import math
import re

from expkit.errors import UsageError

_SIZE = {
    "": 1, "b": 1,
    "k": 1000, "kb": 1000, "m": 1000**2, "mb": 1000**2, "g": 1000**3, "gb": 1000**3, "t": 1000**4, "tb": 1000**4,
    "kib": 1024, "mib": 1024**2, "gib": 1024**3, "tib": 1024**4,
}  # fmt: skip
_TIME = {
    "ns": 1e-9,
    "us": 1e-6,
    "ms": 1e-3,
    "": 1.0,
    "s": 1.0,
    "m": 60.0,
    "min": 60.0,
    "h": 3600.0,
    "d": 86400.0,
}
_COUNT = {"": 1, "k": 1000, "m": 1000**2, "g": 1000**3}
_WHOLE = re.compile(r"[0-9](_?[0-9]){0,99}")
_NUMBER = re.compile(r"\s*([0-9][0-9_]*(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?|\.[0-9]+)\s*([a-zA-Z%]*)\s*")


def _split(text: str | int | float, kind: str, example: str) -> tuple[float, str]:
    match = _NUMBER.fullmatch(str(text))
    if match is None:
        raise UsageError(f"{kind} '{text}' is not understood; write it like {example}")
    number = float(match[1].replace("_", ""))
    if not math.isfinite(number * 1e12):  # the largest unit
        raise UsageError(f"{kind} '{text[:20] if isinstance(text, str) else text}' is too large")
    return number, match[2].lower()


def parse_size(text: str | int | float) -> int:
    """Bytes of `64MiB`, `1.5GB` or a plain number. Raises UsageError."""
    number, unit = _split(text, "size", "64MiB or 2GB")
    if unit not in _SIZE:
        raise UsageError(f"size '{text}' has an unknown unit '{unit}'; use B, KiB, MiB, GiB, TiB, kB, MB, GB or TB")
    return int(number * _SIZE[unit])


def parse_duration(text: str | int | float) -> float:
    """Seconds of `90s`, `250ms`, `8h` or a plain number of seconds. Raises UsageError."""
    number, unit = _split(text, "duration", "90s, 5m or 8h")
    if unit not in _TIME:
        raise UsageError(f"duration '{text}' has an unknown unit '{unit}'; use ms, s, m, h or d")
    return number * _TIME[unit]


def parse_rate(text: str | int | float) -> float:
    """The factor of `2x` or `0.5`. Raises UsageError for zero and for what is no number."""
    number, unit = _split(text, "rate", "2x or 0.5x")
    if unit not in ("", "x") or number <= 0:
        raise UsageError(f"rate '{text}' is not understood; write it like 2x or 0.5x")
    return number


def parse_count(text: str | int | float) -> int:
    """The whole number of `250000`, `250_000`, `1e8`, `20k` or `1.5M`. Raises UsageError."""
    if _WHOLE.fullmatch(str(text)):
        return int(text)  # all digits of a seed
    number, unit = _split(text, "number", "250000, 1e6 or 1M")
    count = number * _COUNT.get(unit, math.nan)
    if not count.is_integer():
        raise UsageError(f"'{text}' is no whole number; write it like 250000, 1e6 or 1M")
    return int(count)


def parse_share(text: str | int | float) -> float:
    """0..1 of `40%` or `0.4`, both ends left out. Raises UsageError."""
    number, unit = _split(text, "share", "40% or 0.4")
    share = number / 100 if unit == "%" else number
    if unit not in ("", "%") or not 0 < share < 1:
        raise UsageError(f"share '{text}' is not between 0 and 1; write it like 40% or 0.4")
    return share


def parse_board_size(text: str) -> tuple[int, int]:
    """(height, width) of `20x25`. Raises UsageError."""
    match = re.fullmatch(r"\s*(\d{1,4})\s*[xX]\s*(\d{1,4})\s*", str(text))
    if match is None:
        raise UsageError(f"board size '{text}' is not understood; write HEIGHTxWIDTH, like 20x20")
    return int(match[1]), int(match[2])


def format_size(count: int | float) -> str:
    """`95.8 MiB`; bytes below 1 KiB stay whole."""
    value = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(value) < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"


def format_duration(seconds: float) -> str:
    """`6.2 s`, `3:05`, `2:03:04`, `3 d 4 h`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60}:{whole % 60:02d}"
    if whole < 2 * 86400:
        return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"
    return f"{whole // 86400} d {whole // 3600 % 24} h"


def format_number(number: int, what: str) -> str:
    """`1 shard`, `2,096 rows`."""
    return f"{number:,} {what}{'s' * (number != 1)}"


def format_count(count: int | float) -> str:
    """`812k`, `2.41M`; exact below 10,000."""
    value = float(count)
    if abs(value) < 10_000:
        return f"{value:,.0f}"
    for limit, divisor, unit in ((1e6, 1e3, "k"), (1e9, 1e6, "M"), (1e12, 1e9, "G")):
        if abs(value) < limit:
            scaled = value / divisor
            return (
                f"{scaled:.2f}{unit}"
                if scaled < 10
                else f"{scaled:.1f}{unit}"
                if scaled < 100
                else f"{scaled:.0f}{unit}"
            )
    return f"{value / 1e12:.2f}T"
