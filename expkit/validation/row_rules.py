"""Rules about rows, applied to one block after another: blocks can be judged in any order and by several threads."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from expkit.formats.shard.blocks import BlockInfo
from expkit.formats.shard.digest import RowHasher, sum_by_run
from expkit.row.schema import KEY_NAMES, Schema
from expkit.rules.registry import ActiveRule, RuleChoice
from expkit.rules.rows import Rows
from expkit.rules.rule import Violation
from expkit.validation.episode_rules import Segments, segments_of
from expkit.validation.finding import Finding

_NEEDED = {"episode", "step", "is_first", "is_last"}
_KEYS = ("episode", "step", "is_last")
_FLAGS = ("terminated", "truncated")
MAX_COUNTED = 1 << 16  # different values of one column: more are no classes


@dataclass(frozen=True, slots=True)
class Columns:
    """What could be read of a block.

    decoded   stored columns
    extremes  of columns that were not decoded: the smallest and the largest value, NaN behind them
    sums      uint64 (rows,): what those columns add to the sum of each row
    """

    decoded: dict[str, np.ndarray]
    extremes: dict[str, np.ndarray] = field(default_factory=dict)
    sums: np.ndarray | None = None


@dataclass(slots=True)
class Verdict:
    """What came of judging the rows of a block that count.

    segments  None where the keys cannot be read
    edges     the first and the last row of each segment, one behind the other, of what rules over `steps` read
    whole     of what rules over episodes read, all rows; None where one of these columns cannot be read
    counts    the different values of columns that rules over the run count, and how many rows have each
    judged    rows looked at, by rule
    """

    findings: list[Finding]
    segments: Segments | None = None
    edges: dict[str, np.ndarray] = field(default_factory=dict)
    whole: dict[str, np.ndarray] | None = None
    counts: dict[str, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)
    judged: dict[str, int] = field(default_factory=dict)


class RowRules:
    """What the rows of a run are judged by.

    policies    length of the run's table
    traits      what is so of the run, see `expkit.rules.rule.TRAITS`
    incomplete  players of whom rows are known to be missing before any block is read
    wanted      columns that have to be decoded; of the others that rules are about, the extremes nearly always do
    """

    def __init__(
        self,
        schema: Schema,
        policies: int,
        choice: RuleChoice,
        traits: frozenset[str] = frozenset(),
        incomplete: Collection[int] = (),
    ):
        self.schema = schema
        self._incomplete = frozenset(incomplete)
        self._policies = policies
        applied = {id: active for id, active in choice.active.items() if active.rule.requires <= traits}
        reads = {id: active.rule.columns(schema) for id, active in applied.items()}
        self.applied = {id: active for id, active in applied.items() if reads[id] is not None}
        self._reads = {id: names for id, names in reads.items() if names is not None}
        self._plain = self._over("rows")
        self._steps = self._over("steps")
        self.episode_columns = self._read_by("episode", [*_KEYS])
        self._edge_columns = self._read_by("steps", [*_KEYS])
        self._counted = [name for id in self._over("run") for name in self._reads[id] if ":" not in name]
        self._content = "episode/duplicate" in self.applied
        self.constants = ConstantColumns(schema) if "value/constant" in self.applied else None
        reads_all = [id for id in [*self._plain, *self._steps, *self._over("episode")] if not self._extremes_of(id)]
        needed = {name for id in reads_all for name in self._reads[id]}
        others = {name for id in [*self._plain, *self._steps] for name in self._reads[id]} - needed
        wide = {column.name for column in schema.columns if column.items}
        self._doubtful = sorted(others & wide)
        self.wanted = {*KEY_NAMES, *_FLAGS, *self._counted, *needed, *(others - wide)}

    def _extremes_of(self, id: str) -> Callable[[Schema, str, np.ndarray], bool] | None:
        return self.applied[id].rule.extremes

    def _over(self, *over: str) -> list[str]:
        return [id for id, active in self.applied.items() if active.rule.over in over]

    def _read_by(self, over: str, keys: list[str]) -> list[str]:
        """Columns that rules over that read, with the keys; empty where there is no such rule."""
        names = [name for id in self._over(over) for name in self._reads[id]]
        return list(dict.fromkeys([*keys, *names])) if self._over(over) else []

    def doubtful(self, extremes: Mapping[str, np.ndarray]) -> list[str]:
        """Columns whose extremes leave open that a rule is broken, so that their rows have to be judged."""
        asked = [(self._reads[id], doubt) for id in self._plain if (doubt := self._extremes_of(id)) is not None]
        return [
            name
            for name in self._doubtful
            if name in extremes
            and any(name in names and doubt(self.schema, name, extremes[name]) for names, doubt in asked)
        ]

    def judge(
        self, shard: str, block: BlockInfo, columns: Columns, keep: np.ndarray | None, hasher: RowHasher | None = None
    ) -> Verdict:
        """Of the rows `keep` (None: all) of a block."""
        if not columns.decoded.keys() >= _NEEDED:
            return Verdict([])
        stored, sums = columns.decoded, columns.sums
        if keep is not None:
            stored = {name: values[keep] for name, values in stored.items()}
            sums = None if sums is None else sums[keep]
        segments = segments_of(shard, block.index, block.player, stored, self._policies)
        verdict = Verdict(list(segments.findings), segments)
        rows = Rows(
            self.schema,
            block.player,
            stored,
            complete=block.player not in self._incomplete,
            sums=sums,
            summed=tuple(columns.extremes.keys() - stored.keys()),
        )
        for id in [*self._plain, *self._steps]:
            if self._can_judge(id, stored):
                verdict.findings += self._findings(self.applied[id], rows, [(shard, block.index)])
                verdict.judged[id] = len(rows)
        at = np.array(segments.first_row, np.int64)
        ends = np.stack([at, at + np.array(segments.rows, np.int64) - 1], axis=1).ravel()
        verdict.edges = {name: stored[name][ends] for name in self._edge_columns if name in stored}
        if self.episode_columns and stored.keys() >= set(self.episode_columns):
            verdict.whole = {name: stored[name] for name in self.episode_columns}
        for name in self._counted:
            if name in stored:
                verdict.counts[name] = np.unique(stored[name][rows.given(name)], return_counts=True)
        if self.constants is not None:
            self.constants.see(rows, columns.extremes)
        if self._content and hasher is not None:
            contents = _contents(hasher, rows, segments, columns.extremes)
            if contents is not None:
                verdict.segments = replace(segments, contents=contents)
        return verdict

    def judge_seam(self, rows: Rows, places: Sequence[tuple[str, int]]) -> Iterator[Finding]:
        """Rows that stand in different blocks, two by two: findings of rules over `steps`. `places`: shard and block
        of each row."""
        for id in self._steps:
            if self._can_judge(id, rows.stored):
                yield from self._findings(self.applied[id], rows, places)

    def _can_judge(self, id: str, stored: Mapping[str, np.ndarray]) -> bool:
        """Whether what the rule reads is there. One that goes by the extremes looks itself at what is."""
        return self._extremes_of(id) is not None or all(name in stored for name in self._reads[id])

    def _findings(self, active: ActiveRule, rows: Rows, places: Sequence[tuple[str, int]]) -> Iterator[Finding]:
        """Of one rule: each tells the first row concerned, and how many there are. `places`: shard and block of each
        row, or of all."""
        for violation in active.rule(rows, **active.options):
            if violation.rows is None or not violation.rows.any():
                continue
            at, count = int(violation.rows.argmax()), int(np.count_nonzero(violation.rows))
            shard, block = places[at if len(places) > 1 else 0]
            more = f", and {count - 1:,} rows more" if count > 1 else ""
            yield finding_of(
                active,
                replace(violation, message=violation.message + more),
                shard=shard,
                block=block,
                episode=int(rows.stored["episode"][at]),
                player=rows.player,
                step=int(rows.stored["step"][at]),
            )


def finding_of(active: ActiveRule, violation: Violation, **where: Any) -> Finding:
    """A violation of a rule as a finding; `where` adds to what it says of its place itself."""
    place = {"episode": violation.episode, "player": violation.player, "step": violation.step, **where}
    return Finding(
        severity=active.rule.severity,
        rule=active.rule.id,
        message=violation.message,
        column=violation.column,
        **place,
    )


def _contents(hasher: RowHasher, rows: Rows, segments: Segments, summed: Collection[str]) -> list[int] | None:
    """Of each segment a sum that is equal where all its rows are, but for episode and times; None where a column is
    missing."""
    names = {column.name for column in rows.schema.columns}
    summed = [name for name in summed if name not in rows.stored or rows.sums is not None]
    if not names <= {*rows.stored, *summed}:
        return None
    stored = {name: rows.stored[name] for name in names if name not in summed}
    stored |= {"episode": np.zeros(len(rows), np.uint64), "time_ns": np.zeros(len(rows), np.int64)}
    hashes = hasher.rows(stored, rows.player, rows.sums, summed)
    return sum_by_run(hashes, np.array(segments.first_row), np.array(segments.rows)).tolist()


class ConstantColumns:
    """Which columns have had one value so far. Safe to share between threads."""

    def __init__(self, schema: Schema):
        self._schema = schema
        self._lock = threading.Lock()
        self._first: dict[str, np.ndarray | None] = dict.fromkeys(field.name for field in schema.fields)
        self._varies: set[str] = set()

    def see(self, rows: Rows, extremes: Mapping[str, np.ndarray]) -> None:
        """Rows of a block, with the extremes of columns that were not decoded."""
        for name in self._first.keys() - self._varies:
            if name in rows:
                self._look(name, rows)
            elif name in extremes:
                low = extremes[name][:1]
                self._note(name, low if len(extremes[name]) == 2 and low[0] == extremes[name][1] else None)
            else:
                self._note(name, None)

    def _look(self, name: str, rows: Rows) -> None:
        values, where = rows.stored[name], np.flatnonzero(rows.given(name))
        if not len(where):
            return
        first = values[where[0]]
        one = bool((values[where[-1]] == first).all()) and bool((values[where] == first).all())
        self._note(name, first if one else None)

    def _note(self, name: str, value: np.ndarray | None) -> None:
        """`value` stands in all rows of a block, or, where it is one, in all elements of all rows. None: it varies."""
        with self._lock:
            known = self._first[name]
            if value is None or (known is not None and not _same(known, value)):
                self._varies.add(name)
            else:
                self._first[name] = value

    def found(self) -> dict[str, str]:
        """The columns that had one value, with it."""
        out = {}
        for name, value in self._first.items():
            if value is not None and name not in self._varies:
                shown = np.unique(value).tolist()
                field = self._schema[name]
                if field.dtype == "bool" and field.shape:
                    out[name] = "the same bits" if shown != [0] else "no bit"
                else:
                    out[name] = str(shown[0]) if len(shown) == 1 else "the same array"
        return out


def _same(known: np.ndarray, value: np.ndarray) -> bool:
    """Whether two values of a column are the same, where one may be told by the element that all of it is."""
    if known.shape == value.shape:
        return bool(np.array_equal(known, value))
    return bool((known == value.ravel()[:1]).all()) and bool((value == known.ravel()[:1]).all())
