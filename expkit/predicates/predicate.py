"""`parse` and what it gives: a predicate as written, and one bound to a schema, ready to be asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from expkit.errors import UsageError
from expkit.formats.shard.blocks import BlockInfo, Statistics
from expkit.predicates.binding import Binder, sources
from expkit.predicates.bounds import Known
from expkit.predicates.episodes import EPISODE_NAMES, EpisodeTable
from expkit.predicates.evaluate import Rows
from expkit.predicates.syntax import parse_tree
from expkit.predicates.tree import Node
from expkit.row.episodes import PolicyInfo
from expkit.row.schema import Schema


def parse(text: str, option: str = "--where") -> Predicate:
    """Read a predicate; `option` is what errors call it. Raises UsageError, one line that shows where."""
    return Predicate(parse_tree(text, option), option)


@dataclass(frozen=True, slots=True)
class Predicate:
    """A condition on rows. `str` gives its normal form, which parses to an equal predicate."""

    tree: Node
    option: str = field(default="--where", compare=False)

    def __str__(self) -> str:
        return str(self.tree)

    def bind(self, schema: Schema, policies: Sequence[PolicyInfo] = ()) -> BoundPredicate:
        """Look up every name. Raises UsageError for a name, a type, an index or a policy that does not fit."""
        return BoundPredicate(Binder(self.option, schema, policies).condition(self.tree), schema)


class BoundPredicate:
    """A condition on the rows of one schema.

    columns        names of the stored columns needed, in the order of the schema, with `valid:` columns; at least
                   one, so that there is a number of rows
    episode_names  those of EPISODE_NAMES that are asked for; if any, an EpisodeTable is needed
    by_episode     all rows of one (episode, player) have the same answer
    """

    def __init__(self, condition: Node, schema: Schema):
        self._condition = condition
        found = sources(condition)
        needed = set[str]().union(*(source.columns for source in found)) or {"is_last"}
        asked = {source.name for source in found if source.of_episode}
        self.columns: tuple[str, ...] = tuple(c.name for c in schema.columns if c.name in needed)
        self.episode_names: tuple[str, ...] = tuple(name for name in EPISODE_NAMES if name in asked)
        self.by_episode: bool = all(source.column is None or source.name == "episode" for source in found)

    def _check(self, episodes: EpisodeTable | None) -> None:
        if self.episode_names and episodes is None:
            names = " and ".join(self.episode_names)
            raise UsageError(f"the condition asks for {names} of the episode; pass EpisodeTable(run.episodes())")

    def evaluate(
        self, columns: Mapping[str, np.ndarray], player: int, episodes: EpisodeTable | None = None
    ) -> np.ndarray:
        """bool (rows,): the rows of `player` for which the condition is true, neither false nor unknown.

        `columns` holds at least `self.columns`, stored as `ShardReader.read_block` gives them or logical as `Run`
        does. Raises UsageError when `episodes` is needed and missing.
        """
        self._check(episodes)
        return Rows(columns, player, episodes).select(self._condition)

    def may_match(
        self, statistics: Mapping[str, Statistics], info: BlockInfo, episodes: EpisodeTable | None = None
    ) -> bool:
        """Whether any row of a block can match: False only when none does, however little is known.

        statistics  as `ShardReader.statistics` gives them; with an empty mapping only what the shard's index says of
                    the block is used, which costs no reading
        episodes    narrows down episode-level names, where given
        """
        return Known(statistics, info, episodes).answer(self._condition).yes
