"""What rules look at: rows of a block, an episode of all its players, and what is known of a whole run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from expkit.kernels.same_rows import keep_unchanged
from expkit.row.episodes import EpisodeEnd, EpisodeStart
from expkit.row.schema import KEY_NAMES, Schema


class Rows:
    """n rows of one player, sorted by episode and step. Columns that are not needed by a rule, or whose values are
    lost, are not there.

    stored    the columns as the file has them: bits packed, see `expkit.row.schema`
    complete  no row of this player is known to be missing from the run
    sums      uint64 (n,): equal in two rows where the columns `summed`, which were not decoded, are equal
    """

    def __init__(
        self,
        schema: Schema,
        player: int,
        stored: Mapping[str, np.ndarray],
        *,
        complete: bool = True,
        sums: np.ndarray | None = None,
        summed: Sequence[str] = (),
    ):
        self.schema = schema
        self.player = player
        self.stored = stored
        self.complete = complete
        self.sums = sums
        self.summed = frozenset(summed)

    def __len__(self) -> int:
        return len(self.stored["episode"])

    def __contains__(self, name: str) -> bool:
        """Whether a column is there, and, where values may be left out, which of them were."""
        nullable = name not in KEY_NAMES and self.schema[name].nullable
        return name in self.stored and (not nullable or f"valid:{name}" in self.stored)

    def __getitem__(self, name: str) -> np.ndarray:
        """A column as a reader gets it, (n, …). Raises KeyError where it is not there."""
        return self.schema.unpack(name, self.stored[name])

    @cached_property
    def acts(self) -> np.ndarray:
        """bool (n,): rows with an action; the others are last rows, in which it, the reward and the like are absent."""
        return ~self.stored["is_last"].astype(bool)

    @cached_property
    def follows(self) -> np.ndarray:
        """bool (n - 1,): row i + 1 is of the episode that row i is of."""
        episode = self.stored["episode"]
        return episode[1:] == episode[:-1]

    def given(self, name: str) -> np.ndarray:
        """bool (n,): rows in which the field has a value: what belongs to the observation in all, unless it was left
        out, the others where there is an action."""
        everywhere = name in KEY_NAMES or self.schema[name].belongs == "observation"
        given = np.ones(len(self), bool) if everywhere else self.acts
        valid = self.stored.get(f"valid:{name}")
        return given if valid is None else given & valid.astype(bool)

    @cached_property
    def unchanged(self) -> np.ndarray:
        """bool (n - 1,): row i + 1 is of the episode that row i is of, and every field of its observation is the same;
        all false where a field of it is not there."""
        fields = [field for field in self.schema.fields if field.belongs == "observation"]
        if not fields or not self.summed.union(self.stored).issuperset(field.name for field in fields):
            return np.zeros(len(self.follows), bool)
        same = self.follows.copy()
        if self.sums is not None and self.summed:
            same &= self.sums[1:] == self.sums[:-1]
        # Narrow ones first: where they differ, the others are not looked at.
        for name in sorted((f.name for f in fields if f.name in self.stored), key=self._row_bytes):
            column = np.ascontiguousarray(self.stored[name])
            if len(same):
                keep_unchanged(column.ctypes.data, column.nbytes // len(column), same)
        return same

    def _row_bytes(self, name: str) -> int:
        return self.schema.column(name).row_bytes


@dataclass(frozen=True, slots=True)
class EpisodeRows:
    """One episode that has ended and of which no row is missing.

    players  rows by player, in the order of their steps, with the columns that rules over episodes read
    replay   plays it again: the rewards that the game gives for the recorded actions, float32 by player, one for each
             row with an action; None where that cannot be done
    """

    number: int
    start: EpisodeStart
    end: EpisodeEnd
    players: Mapping[int, Rows]
    replay: Callable[[], Mapping[int, np.ndarray] | None]


@dataclass(slots=True)
class PlayerFacts:
    """The rows of one player in one episode, in a few numbers.

    whole             begins with a first row and ends with a last one, and its steps rise
    last_step, rows   of the latest row; how many there are
    flags, reward     of the latest action: 1 terminated, 2 truncated; NaN where there is no scalar reward
    played_by         policy, version and time_ns of the first row, None where that is not known
    content           equal for two players of two episodes whose rows are, but for the episode's number and the times;
                      None where that is not known
    """

    last_step: int = 0
    rows: int = 0
    flags: int = 0
    reward: float = float("nan")
    whole: bool = True
    content: int | None = 0
    played_by: tuple[int, int, int] | None = None


@dataclass(frozen=True, slots=True)
class EpisodeFacts:
    """An episode in a few numbers. `complete`: it has ended, and no row of it is missing."""

    number: int
    end: EpisodeEnd | None
    players: Mapping[int, PlayerFacts]
    complete: bool

    @property
    def length(self) -> int:
        """Steps of the longest player."""
        return self.end.length if self.end is not None else max((one.rows for one in self.players.values()), default=0)


@dataclass(slots=True)
class RunFacts:
    """What was seen of a whole run.

    traits    what is so of it, see `expkit.rules.rule.TRAITS`
    rows      that were read
    episodes  by number
    constant  columns that had one value in every row that was read, with that value as text
    counts    of the values of integer scalars that rules over the run read: {column: {value: rows}}
    """

    schema: Schema
    traits: frozenset[str] = frozenset()
    rows: int = 0
    episodes: list[EpisodeFacts] = field(default_factory=list)
    constant: dict[str, str] = field(default_factory=dict)
    counts: dict[str, dict[int, int]] = field(default_factory=dict)
