"""Which rows and episodes a rewrite takes, and which of its outputs an episode goes to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from expkit.errors import UsageError
from expkit.predicates import BoundPredicate, EpisodeTable, parse
from expkit.reading.run import Run
from expkit.reading.split import check_split
from expkit.row.schema import KEY_NAMES, STANDARD_FIELDS, Schema


@dataclass(frozen=True, slots=True)
class Where:
    """A predicate, bound to one run; see `expkit.rewrite.gather.Condition`."""

    predicate: BoundPredicate
    episodes: EpisodeTable | None

    @classmethod
    def of(cls, text: str, run: Run) -> Where:
        """Raises UsageError for what is no predicate on the run's rows."""
        predicate = parse(text).bind(run.schema, run.policies)
        return cls(predicate, EpisodeTable(run.episodes()) if predicate.episode_names else None)

    @property
    def columns(self) -> Sequence[str]:
        return self.predicate.columns

    def __call__(self, rows: Mapping[str, np.ndarray], player: int) -> np.ndarray:
        return self.predicate.evaluate(rows, player, self.episodes)

    def selects(self, episodes: np.ndarray, players: np.ndarray) -> np.ndarray:
        """bool, like `episodes` (u64) and `players`: whether that player's rows of that episode are wanted, for a
        predicate that asks for nothing else."""
        out = np.zeros(len(episodes), bool)
        for player in np.unique(players).tolist():
            mine = players == player
            rows = {"episode": episodes[mine], "is_last": np.zeros(int(mine.sum()), bool)}
            out[mine] = self.predicate.evaluate(rows, player, self.episodes)
        return out


def narrowed(schema: Schema, columns: Sequence[str] | None) -> Schema:
    """The schema with the fields or groups named, in its order; keys, reward, terminated and truncated always stay.
    Raises UsageError for a name that is nothing."""
    if columns is None:
        return schema
    if not columns:
        raise UsageError("--columns names nothing; give fields or groups, like observation,action")
    wanted = {*schema.expand_names(columns), *(field.name for field in STANDARD_FIELDS)} - {*KEY_NAMES, "player"}
    return Schema([field for field in schema.fields if field.name in wanted])


def parse_split(text: str) -> dict[str, float]:
    """`train=.95,val=.05` as {name: fraction}. Raises UsageError."""
    out: dict[str, float] = {}
    for part in text.split(","):
        name, _, number = (word.strip() for word in part.partition("="))
        try:
            fraction = float(number)
        except ValueError:
            fraction = -1.0
        if not name or not name.replace("-", "").replace("_", "").isalnum() or not 0 < fraction <= 1:
            raise UsageError(f"--split '{part}' is not understood; write it like train=.95,val=.05")
        if name in out:
            raise UsageError(f"--split names {name} twice")
        out[name] = fraction
    check_split(out, "--split")
    return out
