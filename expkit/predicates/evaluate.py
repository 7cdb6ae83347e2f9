"""Evaluating a bound predicate on the rows of a block, all at once."""

from __future__ import annotations

from collections.abc import Mapping
from functools import reduce
from typing import NamedTuple

import numpy as np

from expkit.errors import UsageError
from expkit.predicates.arithmetic import absolute, among, calculate, compare, constant, negate, normal
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


class _Values(NamedTuple):
    """Numbers, (rows,) or (1,); `null` says where there are none, None for nowhere."""

    numbers: np.ndarray
    null: np.ndarray | None


class _Answer(NamedTuple):
    """Where a condition is true, and where it is false: neither where it is unknown. (rows,) or (1,), bool."""

    yes: np.ndarray
    no: np.ndarray


def _union(left: np.ndarray | None, right: np.ndarray | None) -> np.ndarray | None:
    if left is None or right is None:
        return right if left is None else left
    return left | right


def _answer(good: np.ndarray, null: np.ndarray | None) -> _Answer:
    return _Answer(good, ~good) if null is None else _Answer(good & ~null, ~good & ~null)


class Rows:
    """Some rows of one player: `columns` as stored or as readers give them, at least those that are asked for."""

    def __init__(self, columns: Mapping[str, np.ndarray], player: int, episodes: EpisodeTable | None):
        self._columns = columns
        self._player = player
        self._episodes = episodes
        self._places: tuple[np.ndarray, np.ndarray] | None = None
        self._known: dict[Source, _Values] = {}

    def select(self, node: Node) -> np.ndarray:
        """bool (rows,): where the bound condition `node` is true."""
        rows = len(next(iter(self._columns.values())))
        if rows == 0:
            return np.zeros(0, bool)
        yes = self.answer(node).yes
        return yes if len(yes) == rows else np.full(rows, yes[0])

    def answer(self, node: Node) -> _Answer:
        match node:
            case Truth(value):
                return _Answer(np.array([value]), np.array([not value]))
            case Not(inner):
                found = self.answer(inner)
                return _Answer(found.no, found.yes)
            case All(parts):
                return reduce(lambda a, b: _Answer(a.yes & b.yes, a.no | b.no), map(self.answer, parts))
            case Any(parts):
                return reduce(lambda a, b: _Answer(a.yes | b.yes, a.no & b.no), map(self.answer, parts))
            case Compare(first, ((op, second),)):
                left, right = self.values(first), self.values(second)
                return _answer(compare(op, left.numbers, right.numbers), _union(left.null, right.null))
            case Within(inner, items):
                left = self.values(inner)
                return _answer(among(left.numbers, [item.value for item in items]), left.null)  # type: ignore[misc]
            case Is(inner, what, negated):
                return self._is(self.values(inner), what, negated)
        truth = self.values(node)
        return _answer(truth.numbers != 0, truth.null)

    def _is(self, values: _Values, what: str, negated: bool) -> _Answer:
        null = np.zeros(1, bool) if values.null is None else values.null
        if what == "null":
            return _Answer(null ^ negated, ~null ^ negated)
        return _answer((values.numbers != values.numbers) ^ negated, null)

    def values(self, node: Node) -> _Values:
        match node:
            case Number(value):
                return _Values(constant(value), None)
            case Source():
                found = self._known.get(node)
                if found is None:
                    found = self._known[node] = self._read(node)
                return found
            case Negate(inner):
                left = self.values(inner)
                return _Values(negate(left.numbers), left.null)
            case Absolute(inner):
                left = self.values(inner)
                return _Values(absolute(left.numbers), left.null)
            case Arithmetic(sign, first, second):
                left, right = self.values(first), self.values(second)
                numbers, none = calculate(sign, left.numbers, right.numbers)
                return _Values(numbers, _union(_union(left.null, right.null), none))
        answer = self.answer(node)
        return _Values(answer.yes.astype(np.int64), ~(answer.yes | answer.no))

    def _read(self, source: Source) -> _Values:
        if source.of_episode:
            return self._of_episode(source)
        if source.column is None:
            return _Values(constant(self._player), None)
        null = None
        if source.validity:
            null = ~self._columns[source.validity]
        if not source.everywhere:
            null = _union(null, self._columns["is_last"])
        return _Values(normal(self._element(source, self._columns[source.column.name])), null)

    def _element(self, source: Source, stored: np.ndarray) -> np.ndarray:
        """The column's value, or the wanted element of it, by row."""
        if source.element is None:
            return stored
        if source.element < 0:
            return np.ones(1, bool)
        flat = stored.reshape(len(stored), -1)
        assert source.column is not None
        if source.column.packed and stored.dtype != bool:
            return flat[:, source.element // 8] >> (source.element % 8) & 1
        return flat[:, source.element]

    def _of_episode(self, source: Source) -> _Values:
        if self._episodes is None:
            raise UsageError(f"'{source.name}' is asked for, but no table of episodes is given; pass an EpisodeTable")
        if not len(self._episodes.numbers):
            return _Values(np.zeros(1, np.int64), np.ones(1, bool))
        if self._places is None:
            numbers = self._columns["episode"]
            places = np.searchsorted(self._episodes.numbers, numbers).clip(max=len(self._episodes.numbers) - 1)
            self._places = places, self._episodes.numbers[places] == numbers
        places, found = self._places
        values, known = self._episodes.values(source.name, self._player)
        return _Values(normal(values[places]), ~(known[places] & found))
