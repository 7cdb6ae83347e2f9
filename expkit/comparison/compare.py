"""Are two runs the same, and if not, where do they differ first? Independent of blocks, shards, generations and order.

Compared are the schema (how values are stored, not what is said of them), the players' names, which episodes, players
and steps there are, every value of every row, and how each episode ended. Not compared is what describes a recording:
run id, host, configuration, seeds, policies that no row names, time stamps of records.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from math import isnan
from typing import Any

import numpy as np

from expkit.comparison.rows import Difference, RowComparer
from expkit.comparison.sides import Side, Unreadable
from expkit.comparison.values import show_value
from expkit.errors import UsageError, did_you_mean
from expkit.reading.run import Run
from expkit.row.episodes import Episode
from expkit.row.schema import KEY_NAMES, Schema
from expkit.row.schema_differences import SchemaDifference, schema_differences

_ADDRESS = ("episode", "player", "step")


@dataclass(slots=True)
class Comparison:
    """What came of comparing two runs. `first_difference` is None when they are equal.

    episodes                     numbers in either run;  episodes_differing: of them
    rows                         rows with the same (episode, player, step) in both
    rows_differing               of `rows`, those with a value that differs or cannot be read
    rows_only_in_a, rows_only_in_b
    rows_decoded                 of `rows`, those whose values were read; for the others digests are the proof
    columns                      {column: rows in which it differs}, only those that do
    schema_differences           when there are some, nothing else was compared
    unreadable                   what of the two runs cannot be read
    """

    first_difference: Difference | None = None
    episodes: int = 0
    episodes_differing: int = 0
    rows: int = 0
    rows_differing: int = 0
    rows_only_in_a: int = 0
    rows_only_in_b: int = 0
    rows_decoded: int = 0
    columns: dict[str, int] = field(default_factory=dict)
    schema_differences: list[SchemaDifference] = field(default_factory=list)
    unreadable: list[Unreadable] = field(default_factory=list)

    @property
    def equal(self) -> bool:
        return self.first_difference is None


def compare_runs(
    a: Run,
    b: Run,
    tolerance: float = 0.0,
    columns: Sequence[str] | None = None,
    *,
    ignore: Sequence[str] = (),
    full: bool = False,
    on_episode: Callable[[int, int, Comparison], None] | None = None,
) -> Comparison:
    """Compare two runs, an episode at a time, to the end.

    tolerance    float fields are equal within `abs(a - b) <= tolerance`; NaN equals NaN, null equals null only
    columns      fields, groups or keys to compare; all when left out. `ignore` takes some away
    on_episode   called with (episodes done, of how many, the comparison so far)

    Rows of one (episode, player) whose digests agree are equal without being decoded, and this proves: the digests in
    the blocks' heads were made from the same rows when they were written (but for a chance of 2^-64), and the stored
    bytes of all their blocks pass their checksums, so nothing has been damaged since. It does not prove that those
    bytes decode to what was digested; `full` decodes all rows. What cannot be read counts as different.

    `policy` is compared by the name in each run's table. Raises UsageError for a name that neither schema has,
    CheckFailed and NotThere when a run has no readable description.
    """
    if not tolerance >= 0:
        raise UsageError(f"a tolerance of {tolerance} is not possible; it is a number from 0 up")
    names = _wanted(a.schema, b.schema, columns, ignore)
    left_out = {f.name for schema in (a.schema, b.schema) for f in schema.fields} - set(names)
    out = Comparison(schema_differences=schema_differences(a.schema, b.schema, left_out))
    if out.schema_differences:
        first = out.schema_differences[0]
        said = first.describe(str(a.path), str(b.path))
        out.first_difference = Difference(None, None, None, "schema", None, first.a, first.b, said)
        return out
    return _Comparing(Side("a", a), Side("b", b), names, tolerance, full, out).run(on_episode)


def _wanted(a: Schema, b: Schema, columns: Sequence[str] | None, ignore: Sequence[str]) -> list[str]:
    """Names to compare in their order: keys, fields, and time stamps last, as the least telling."""
    fields = dict.fromkeys([f.name for f in a.fields] + [f.name for f in b.fields])
    keys = [name for name in KEY_NAMES if name not in (*_ADDRESS, "time_ns")]
    known = [*keys, *fields, "time_ns"]
    for name in ignore:
        if name in _ADDRESS:
            raise UsageError(f"{name} cannot be ignored: rows are found by episode, player and step")
    wanted = set(known) if columns is None else set(_expand(columns, known))
    wanted -= set(_expand(ignore, known))
    return [name for name in known if name in wanted]


def _expand(names: Iterable[str], known: list[str]) -> Iterator[str]:
    """Names, groups taken apart; those of the address, which are always compared, are left out."""
    for name in names:
        if name in _ADDRESS:
            continue
        hits = [one for one in known if one == name or one.startswith(f"{name}/")]
        if not hits:
            hint = did_you_mean(name, known, f"there are {', '.join(known)}")
            raise UsageError(f"neither run has a column '{name}'; {hint}")
        yield from hits


class _Comparing:
    """The work of one comparison."""

    def __init__(self, a: Side, b: Side, names: list[str], tolerance: float, full: bool, out: Comparison):
        self.a, self.b, self.out = a, b, out
        self.tolerance = tolerance
        self.rows = RowComparer(a, b, names, tolerance)
        # A digest is over indices into the policy table, so it tells nothing where these stand for other names.
        self.use_digests = not full and ("policy" not in names or self.rows.same_policies)

    def run(self, on_episode: Callable[[int, int, Comparison], None] | None) -> Comparison:
        a, b, out = self.a, self.b, self.out
        named, others = a.run.info.players, b.run.info.players
        if named != others:
            said = f"players: {', '.join(named)} vs {', '.join(others)}"
            self._found(Difference(None, None, None, "players", None, named, others, said))
        numbers = sorted(a.episodes.keys() | b.episodes.keys())
        out.episodes = len(numbers)
        for done, number in enumerate(numbers, 1):
            out.episodes_differing += self._compare_episode(number)
            if on_episode is not None:
                on_episode(done, len(numbers), out)
        out.unreadable = [*a.unreadable, *b.unreadable]
        if out.unreadable:  # even where the rows that are left agree
            self._found(Difference(None, None, None, "rows", None, None, None, str(out.unreadable[0])))
        return out

    def _found(self, difference: Difference) -> None:
        if self.out.first_difference is None:
            self.out.first_difference = difference

    def _compare_episode(self, number: int) -> bool:
        """Whether the episode differs."""
        a, b = self.a.episodes.get(number), self.b.episodes.get(number)
        if a is None or b is None:
            there, lacking = (self.a, self.b) if b is None else (self.b, self.a)
            self._count_only(there, number, sorted(there.episodes[number].rows))
            said = f"episode {number}: only in {there.label}{lacking.excuse}"
            self._found(Difference(number, None, None, "episode", None, a and a.length, b and b.length, said))
            return True
        differs = False
        for player in sorted(a.rows.keys() | b.rows.keys()):
            differs |= self._compare_player(number, player, a, b)
        return self._compare_ends(a, b) or differs

    def _count_only(self, side: Side, number: int, players: Iterable[int]) -> None:
        rows = sum(side.episodes[number].rows[player] for player in players)
        if side is self.a:
            self.out.rows_only_in_a += rows
        else:
            self.out.rows_only_in_b += rows

    def _compare_player(self, number: int, player: int, a: Episode, b: Episode) -> bool:
        if player not in a.rows or player not in b.rows:
            there, lacking = (self.a, self.b) if player in a.rows else (self.b, self.a)
            self._count_only(there, number, [player])
            said = f"episode {number} player {player}: rows only in {there.label}{lacking.excuse}"
            counts = a.rows.get(player), b.rows.get(player)
            self._found(Difference(number, player, None, "rows", None, *counts, said))
            return True
        in_a, in_b = self.a.run.index.find(number, player), self.b.run.index.find(number, player)
        if self._are_proven_equal(in_a, in_b):
            self.out.rows += self.a.digest(in_a)[0]
            return False
        found, out = self.rows.compare(number, player, in_a, in_b), self.out
        out.rows += found.rows
        out.rows_decoded += found.rows
        out.rows_differing += found.differing
        out.rows_only_in_a += found.only_in_a
        out.rows_only_in_b += found.only_in_b
        for name, count in found.columns.items():
            out.columns[name] = out.columns.get(name, 0) + count
        if found.first is not None:
            self._found(found.first)
        return found.first is not None

    def _are_proven_equal(self, in_a: np.ndarray, in_b: np.ndarray) -> bool:
        if not self.use_digests or self.a.digest(in_a) != self.b.digest(in_b):
            return False
        return self.a.is_sound(in_a) and self.b.is_sound(in_b)

    def _compare_ends(self, a: Episode, b: Episode) -> bool:
        """How the episode ended; `length` only where both have an end record, for else it counts rows."""
        said: list[tuple[int | None, str, Any, Any]] = []
        if a.ended != b.ended:
            said.append((None, "ended", a.ended, b.ended))
        if a.end is not None and b.end is not None and a.length != b.length:
            said.append((None, "length", a.length, b.length))
        for player in sorted(a.outcome.keys() | b.outcome.keys()):
            left, right = a.outcome.get(player), b.outcome.get(player)
            if not _near(left, right, self.tolerance):
                said.append((player, "outcome", left, right))
        if said:
            whose, name, *values = said[0]
            where = f"episode {a.number}" + ("" if whose is None else f" player {whose}")
            message = f"{where} {name}: {show_value(values[0])} vs {show_value(values[1])}"
            self._found(Difference(a.number, whose, None, name, None, values[0], values[1], message))
        return bool(said)


def _near(a: float | None, b: float | None, tolerance: float) -> bool:
    if a is None or b is None:
        return a is b
    return a == b or abs(a - b) <= tolerance or (isnan(a) and isnan(b))
