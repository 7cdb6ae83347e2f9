"""What a bound predicate can come to where only bounds of the values are known: whether a block may be skipped.

Everything here errs on one side: a value, a NaN, a null or an answer that is possible is never ruled out. Operations
on f64 round monotonically, so the ends of a range, computed as the rows are, bound what the rows give.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce
from typing import NamedTuple

import numpy as np

from expkit.formats.shard.blocks import BlockInfo, Statistics
from expkit.predicates.arithmetic import COMPARE, EXACTLY, as_float
from expkit.predicates.binding import Source
from expkit.predicates.episodes import EpisodeTable
from expkit.predicates.tree import (
    Absolute,
    All,
    Any,
    Arithmetic,
    Compare,
    Is,
    Negate,
    Node,
    Not,
    Number,
    Truth,
    Within,
)

_SWAPPED = {">": "<", ">=": "<="}


@dataclass(frozen=True, slots=True)
class Bounds:
    """Values from `low` to `high` (above it: there are none); what else there may be. Integer ends: integers only."""

    low: int | float
    high: int | float
    nan: bool = False
    null: bool = False

    @property
    def some(self) -> bool:
        return self.low <= self.high

    @property
    def finite(self) -> bool:
        return math.isfinite(as_float(self.low)) and math.isfinite(as_float(self.high))

    @property
    def whole(self) -> bool:
        return isinstance(self.low, int) and isinstance(self.high, int)


class Possible(NamedTuple):
    """Which answers a condition may have."""

    yes: bool
    no: bool
    unknown: bool


_NOTHING = (1, 0)
_ANYTHING = Bounds(-math.inf, math.inf, nan=True, null=True)


def _any_float(null: bool) -> Bounds:
    return Bounds(-math.inf, math.inf, True, null)


class Known:
    """What is known of the rows of a block.

    statistics  of its scalar columns, as far as they are known
    episodes    the table of episodes, None where it is not known
    """

    def __init__(self, statistics: Mapping[str, Statistics], info: BlockInfo, episodes: EpisodeTable | None):
        self._player = info.player
        self._statistics = statistics
        self._ranges = {
            "episode": (info.episode_min, info.episode_max),
            "step": (info.step_min, info.step_max),
            "policy_version": (info.policy_version_min, info.policy_version_max),
            "time_ns": (info.time_ns_min, info.time_ns_max),
        }
        self._episodes = episodes

    def answer(self, node: Node) -> Possible:
        match node:
            case Truth(value):
                return Possible(value, not value, False)
            case Not(inner):
                found = self.answer(inner)
                return Possible(found.no, found.yes, found.unknown)
            case All(parts):
                return reduce(_both, map(self.answer, parts))
            case Any(parts):
                turned = [Possible(a.no, a.yes, a.unknown) for a in map(self.answer, parts)]
                found = reduce(_both, turned)
                return Possible(found.no, found.yes, found.unknown)
            case Compare(first, ((op, second),)):
                return _compare(op, self.values(first), self.values(second))
            case Within(inner, items):
                found_values = self.values(inner)
                low, high = found_values.low, found_values.high
                hit = any(low <= item.value <= high for item in items)  # type: ignore[operator]
                return Possible(
                    hit, (found_values.some and not (hit and low == high)) or found_values.nan, found_values.null
                )
            case Is(inner, what, negated):
                values = self.values(inner)
                yes, no = values.null, values.some or values.nan
                if what == "nan":
                    yes, no = values.nan, values.some
                return (
                    Possible(no, yes, what == "nan" and values.null)
                    if negated
                    else Possible(yes, no, what == "nan" and values.null)
                )
        found_values = self.values(node)
        return _compare("!=", found_values, Bounds(0, 0))

    def values(self, node: Node) -> Bounds:
        match node:
            case Number(value):
                return Bounds(value, value)
            case Source():
                return self._source(node)
            case Negate(inner):
                a = self.values(inner)
                return Bounds(-a.high, -a.low, a.nan, a.null)
            case Absolute(inner):
                a = self.values(inner)
                if not a.some or a.low >= 0:
                    return a
                return Bounds(max(a.low, -a.high, 0), max(-a.low, a.high), a.nan, a.null)
            case Arithmetic(sign, left, right):
                return _calculate(sign, self.values(left), self.values(right))
        found = self.answer(node)
        ends = [*([0] if found.no else []), *([1] if found.yes else [])]
        low, high = (ends[0], ends[-1]) if ends else _NOTHING
        return Bounds(low, high, False, found.unknown)

    def _source(self, source: Source) -> Bounds:
        if source.of_episode:
            return self._of_episode(source)
        if source.column is None:
            return Bounds(self._player, self._player)
        null = False
        if source.validity:
            some, none = self._flags(source.validity)
            null = none
            if not some:
                return Bounds(*_NOTHING, null=True)
        if not source.everywhere:
            last, other = self._flags("is_last")
            null = null or last
            if not other:
                return Bounds(*_NOTHING, null=True)
        low, high, nan = self._column(source)
        return Bounds(low, high, nan, null)

    def _flags(self, name: str) -> tuple[bool, bool]:
        """Whether a bool column may be true somewhere, and false somewhere."""
        found = self._statistics.get(name)
        if found is None or found.low is None or found.high is None:
            return True, True
        return bool(found.high), not found.low

    def _column(self, source: Source) -> tuple[int | float, int | float, bool]:
        """(low, high, whether there may be NaN) of the stored values."""
        assert source.column is not None
        kind = source.column.dtype
        if source.element is None:
            found = self._statistics.get(source.column.name)
            # A column without bounds may hold nothing but NaN, or have lost what is known of it.
            if found is not None and found.low is not None and found.high is not None:
                return found.low, found.high, found.has_nan
            if source.column.name in self._ranges:
                return *self._ranges[source.column.name], False
        if source.truth:
            return (1, 1, False) if source.element == -1 else (0, 1, False)
        if kind.kind == "f":
            return -math.inf, math.inf, True
        limits = np.iinfo(kind)
        return int(limits.min), int(limits.max), False

    def _of_episode(self, source: Source) -> Bounds:
        """The range over all episodes between the block's first and last: one may be missing from the table."""
        if self._episodes is None or "episode" not in self._ranges:
            return _ANYTHING
        low, high = self._ranges["episode"]
        values, known = self._episodes.values(source.name, self._player)
        numbers = self._episodes.numbers
        part = slice(
            int(np.searchsorted(numbers, np.uint64(low))), int(np.searchsorted(numbers, np.uint64(high), "right"))
        )
        values, known = values[part], known[part]
        one = low == high and len(values) == 1
        null = not (one and bool(known[0]))
        values = values[known]
        nan = values.dtype.kind == "f" and bool(np.isnan(values).any())
        values = values[values == values].tolist()
        low, high = (min(values), max(values)) if values else _NOTHING
        if source.truth:
            low, high = int(low), int(high)
        return Bounds(low, high, nan, null)


def _both(a: Possible, b: Possible) -> Possible:
    unknown = (a.unknown and (b.unknown or b.yes)) or (b.unknown and a.yes)
    return Possible(a.yes and b.yes, (a.no and any(b)) or (b.no and any(a)), unknown)


def _compare(op: str, a: Bounds, b: Bounds) -> Possible:
    if op in _SWAPPED:
        op, a, b = _SWAPPED[op], b, a
    unknown = (a.null and (b.null or b.nan or b.some)) or (b.null and (a.nan or a.some))
    yes = no = False
    if a.some and b.some:
        if op in ("==", "!="):
            yes = a.low <= b.high and b.low <= a.high
            no = not a.low == a.high == b.low == b.high
            yes, no = (yes, no) if op == "==" else (no, yes)
        else:
            yes, no = COMPARE[op](a.low, b.high), not COMPARE[op](a.high, b.low)
    if (a.nan and (b.nan or b.some)) or (b.nan and a.some):
        yes, no = (True, no) if op == "!=" else (yes, True)
    return Possible(yes, no, unknown)


def _calculate(sign: str, a: Bounds, b: Bounds) -> Bounds:
    null, nan = a.null or b.null, a.nan or b.nan
    if not (a.some and b.some):
        return _any_float(True) if nan else Bounds(*_NOTHING, null=True)
    if sign in "/%" and b.low <= 0 <= b.high:
        return _any_float(True)
    corners = [(x, y) for x in (a.low, a.high) for y in (b.low, b.high)]
    if a.whole and b.whole and sign != "/":
        if sign == "%" and not (a.low == a.high and b.low == b.high):
            return Bounds(min(b.low + 1, 0), max(b.high - 1, 0), null=null)
        exact = [EXACTLY[sign](x, y) for x, y in corners]
        return Bounds(min(exact), max(exact), null=null)
    if not (a.finite and b.finite):
        return _any_float(null)
    if sign == "%":
        return Bounds(min(as_float(b.low), 0.0), max(as_float(b.high), 0.0), nan, null)
    floats = [EXACTLY[sign](as_float(x), as_float(y)) for x, y in corners]
    return Bounds(min(floats), max(floats), nan, null)
