"""The rows of one (episode, player) in two runs, value by value."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from expkit.comparison.sides import Part, Side
from expkit.comparison.values import align, differing, first_value, show_index, show_value, whole_value
from expkit.row.schema import Column

_PART_BYTES = 128 << 20  # of the columns of one (episode, player) that are read at a time, from each run


@dataclass(frozen=True, slots=True)
class Difference:
    """One place where two runs differ.

    episode, player, step   None where it lies above: a schema, a whole episode, how it ended
    field                   a column, or `schema`, `players`, `episode`, `rows`, `ended`, `length`, `outcome`
    index                   inside an array field
    a, b                    the two values; None for null, and for what a run does not have or cannot be read
    """

    episode: int | None
    player: int | None
    step: int | None
    field: str
    index: tuple[int, ...] | None
    a: Any
    b: Any
    message: str

    def __str__(self) -> str:
        return self.message


@dataclass(slots=True)
class RowsCompared:
    """Counts as in `Comparison`, of one (episode, player); `first` is its first difference."""

    first: Difference | None = None
    rows: int = 0
    only_in_a: int = 0
    only_in_b: int = 0
    differing: int = 0
    columns: dict[str, int] = field(default_factory=dict)


class _Read(NamedTuple):
    """One run's share of a group of columns, and its rows that have a partner in the other run, in their order."""

    side: Side
    part: Part
    at: np.ndarray

    def values(self, name: str) -> np.ndarray:
        return self.part.columns[name][self.at]

    def given(self, name: str) -> np.ndarray | None:
        """Bool by row: not null. None for a column that cannot be."""
        valid = f"valid:{name}"
        return self.values(valid) if valid in self.part.columns else None

    def unreadable(self, name: str, row: int) -> str | None:
        """Why `name` cannot be read in a row, None where it can be."""
        row = int(self.at[row])
        for one in (name, f"valid:{name}"):
            for rows, why in self.part.failed.get(one, ()):
                if rows.start <= row < rows.stop:
                    return str(self.side.unreadable[why])
        return None


class RowComparer:
    """Compares the columns `names` of two sides whose schemas store them alike.

    The first difference is the one of the lowest step, there of the row itself, then of the first of `names`.
    """

    def __init__(self, a: Side, b: Side, names: Sequence[str], tolerance: float):
        self.sides = (a, b)
        self.names = list(names)
        self.schema = a.run.schema
        self.tolerance = tolerance
        tables = [[policy.name for policy in side.run.policies] for side in self.sides]
        union = list(dict.fromkeys(name for table in tables for name in table))
        self._policy_names = tables
        self._policy_numbers = [np.array([union.index(name) for name in table], np.int64) for table in tables]

    @property
    def same_policies(self) -> bool:
        """Whether an index stands for the same policy in both runs."""
        return self._policy_names[0] == self._policy_names[1]

    def compare(self, episode: int, player: int, in_a: np.ndarray, in_b: np.ndarray) -> RowsCompared:
        """in_a, in_b: the segments of (episode, player) in the index of each run."""
        out = RowsCompared()
        address = (episode, player)
        # The number of the episode is in the index, too, but a column that cannot be read is no equal one.
        keys = [*self._stored("step"), *self._stored("episode")]
        heads = [side.read(mine, keys) for side, mine in zip(self.sides, (in_a, in_b), strict=True)]
        for side, part, mine in zip(self.sides, heads, (in_a, in_b), strict=True):
            if part.failed:
                out.first = self._without_keys(address, side, part, mine)
                return out
        at_a, at_b, only_a, only_b = align(heads[0].columns["step"], heads[1].columns["step"])
        steps = heads[0].columns["step"][at_a]
        out.rows, out.only_in_a, out.only_in_b = len(at_a), len(only_a), len(only_b)
        best = (1 << 32, 0)
        for there, lacking, only in ((*self.sides, only_a), (*self.sides[::-1], only_b)):
            if len(only) and int(only[0]) < best[0]:
                best = int(only[0]), -1
                values = (best[0], None) if there is self.sides[0] else (None, best[0])
                said = f"only in {there.label}{lacking.excuse}"
                message = f"{_where(*address, best[0])}: {said}"
                out.first = Difference(*address, best[0], "rows", None, values[0], values[1], message)
        unlike_rows = np.zeros(len(at_a), bool)
        for names in self._groups(max(len(part.columns["step"]) for part in heads)):
            stored = [column for name in names for column in self._stored(name)]
            left = _Read(self.sides[0], self.sides[0].read(in_a, stored), at_a)
            right = _Read(self.sides[1], self.sides[1].read(in_b, stored), at_b)
            for name in names:
                unlike = self._unlike(name, left, right)
                if not unlike.any():
                    continue
                unlike_rows |= unlike
                out.columns[name] = int(np.count_nonzero(unlike))
                row = int(np.argmax(unlike))
                rank = int(steps[row]), self.names.index(name)
                if rank < best:
                    best, out.first = rank, self._tell((*address, rank[0]), name, left, right, row)
        out.differing = int(np.count_nonzero(unlike_rows))
        return out

    def _without_keys(self, address: tuple[int, int], side: Side, part: Part, segments: np.ndarray) -> Difference:
        """For rows that cannot be told apart, because their steps or the number of their episode cannot be read."""
        name = next(iter(part.failed))
        rows, why = part.failed[name][0]
        at = int(np.searchsorted(np.cumsum(side.run.index.rows[segments]), rows.start, "right"))
        step = int(side.run.index.first_step[segments[at]])
        said = f"{_where(*address, step)} {name}: {side.unreadable[why]}"
        return Difference(*address, step, name, None, None, None, said)

    def _stored(self, name: str) -> list[Column]:
        """The stored column of a field or key, with its validity."""
        nullable = name in self.schema and self.schema[name].nullable
        return [self.schema.column(one) for one in ([name, f"valid:{name}"] if nullable else [name])]

    def _groups(self, rows: int) -> Iterator[list[str]]:
        """Names of columns that together stay below the memory meant for them."""
        group: list[str] = []
        size = 0
        for name in self.names:
            need = rows * sum(column.row_bytes for column in self._stored(name))
            if group and size + need > _PART_BYTES:
                yield group
                group, size = [], 0
            group.append(name)
            size += need
        if group:
            yield group

    def _unlike(self, name: str, left: _Read, right: _Read) -> np.ndarray:
        """Bool by row: `name` differs, or cannot be read on one side."""
        a, b = left.values(name), right.values(name)
        if name == "policy":
            a, b = self._policies(0, a), self._policies(1, b)
        unlike = differing(a, b, self.tolerance)
        given_a, given_b = left.given(name), right.given(name)
        if given_a is not None and given_b is not None:
            unlike = np.where(given_a & given_b, unlike, given_a != given_b)
        for read in (left, right):
            for one in (name, f"valid:{name}"):
                if one in read.part.failed:
                    unlike = unlike | read.part.bad_rows(one)[read.at]
        return unlike

    def _policies(self, side: int, stored: np.ndarray) -> np.ndarray:
        """Numbers that are equal where the names are; below zero for an index that stands in no table."""
        table = self._policy_numbers[side]
        out = -1 - stored.astype(np.int64)
        known = stored < len(table)
        out[known] = table[stored[known]]
        return out

    def _tell(self, address: tuple[int, int, int], name: str, left: _Read, right: _Read, row: int) -> Difference:
        """How one row differs in one column."""
        where = f"{_where(*address)} {name}"
        for read in (left, right):
            why = read.unreadable(name, row)
            if why is not None:
                return Difference(*address, name, None, None, None, f"{where}: {why}")
        stored = [read.values(name)[row : row + 1] for read in (left, right)]
        index: tuple[int, ...] | None = None
        values: list[Any]
        count = 1
        given = [True if (valid := read.given(name)) is None else bool(valid[row]) for read in (left, right)]
        if name == "policy":
            tables = self._policy_names
            values = [
                table[at] if (at := int(one[0])) < len(table) else f"policy {at}"
                for table, one in zip(tables, stored, strict=True)
            ]
        elif all(given):
            index, *values, count = first_value(self.schema, name, stored[0], stored[1], self.tolerance)
        else:
            values = [
                whole_value(self.schema, name, one) if ok else None for ok, one in zip(given, stored, strict=True)
            ]
        dtype = self.schema.column(name).dtype
        shown = " vs ".join(show_value(value, dtype) for value in values)
        more = f", and {count - 1:,} more of its values" if count > 1 else ""
        return Difference(*address, name, index, values[0], values[1], f"{where}{show_index(index)}: {shown}{more}")


def _where(episode: int, player: int, step: int) -> str:
    return f"episode {episode} player {player} step {step}"
