"""What batches are made of: blocks of rows, one run's or those of many, and what is known of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Literal

import numpy as np

from expkit.batches.selection import Selection
from expkit.formats.shard.read import ShardReader
from expkit.predicates import BoundPredicate, EpisodeTable, Predicate, parse
from expkit.row.episodes import Episode, PolicyInfo
from expkit.row.schema import Schema
from expkit.runs.index import RunIndex
from expkit.runs.superseding import VisibleBlock


class BatchSource(ABC):
    """Blocks of shards, of one run or of several that are read as one."""

    @property
    @abstractmethod
    def label(self) -> str:
        """What errors call it."""

    @property
    @abstractmethod
    def schema(self) -> Schema:
        """Of all its rows."""

    @property
    @abstractmethod
    def run_ids(self) -> list[str]:
        """The id of each run that is read, no two alike."""

    @property
    @abstractmethod
    def steps(self) -> int:
        """Rows that are transitions."""

    @property
    @abstractmethod
    def index(self) -> RunIndex:
        """The table of segments over all readable shards."""

    @abstractmethod
    def blocks(self, *, unreadable: Literal["raise", "skip"] = "raise") -> Iterator[VisibleBlock]:
        """Every block with rows that count, shard after shard. `skip` leaves out shards that cannot be opened at
        all, instead of raising ShardError."""

    @abstractmethod
    def visible(self, position: int, index: int) -> VisibleBlock:
        """A block by the position of its shard and its own in that. Raises NotThere when no row of it counts,
        ShardError."""

    @abstractmethod
    def reader(self, shard: int) -> ShardReader:
        """The reader of the shard at that position. Raises NotThere, ShardError."""

    @abstractmethod
    def lacks_rows(self, run: int, episode: int, player: int, rows: int) -> bool:
        """Whether a player's episode of a run, of which there are `rows` and whose steps do not all follow each other,
        may be missing any."""

    @property
    @abstractmethod
    def policies(self) -> list[PolicyInfo]:
        """The table that the column `policy` is an index into."""

    @abstractmethod
    def episodes(self) -> list[Episode]:
        """All episodes."""

    @abstractmethod
    def bind(self, where: Predicate) -> list[tuple[BoundPredicate, EpisodeTable | None]]:
        """For each run the condition on its rows, with its episodes if they are asked for. Raises UsageError."""

    @property
    def policy_places(self) -> list[np.ndarray] | None:
        """For each of several runs, the place of each of its policies (u2) in the table of all; None for one run."""
        return None

    @property
    def run_labels(self) -> list[str] | None:
        """For each of several runs what errors and tables call it; None for one run."""
        return None

    def selection(self, where: str | Predicate) -> Selection:
        """The rows for which a condition holds. Raises UsageError for what is no condition on these rows."""
        return Selection(self.bind(parse(where, "where") if isinstance(where, str) else where))
