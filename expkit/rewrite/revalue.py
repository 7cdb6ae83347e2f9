"""Rewards computed anew for the rows of a rewrite, and what they change."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np

from expkit.reading.summary import Distribution, distribution
from expkit.resimulation.rewards import PlayerRewards, RewardReader
from expkit.rewards.columns import RewardColumns
from expkit.rewrite.sources import Sources
from expkit.row.episodes import Episode

EXAMPLES = 10


class Revaluation:
    """The rewards `columns` for rows of the runs of `sources`. For one thread at a time.

    unknown  transitions so far whose following row is not there: what changed in them is not paid

    Raises UsageError for rewards that need what a run can never tell.
    """

    def __init__(self, sources: Sources, columns: RewardColumns):
        self.columns = columns
        self.unknown = 0
        self._runs = sources.runs
        self._readers = [RewardReader(run, columns) for run in sources.runs]
        self._reading = 0
        self._known: dict[tuple[int, int], dict[int, PlayerRewards]] = {}

    @property
    def names(self) -> list[str]:
        """The columns that it makes."""
        return list(self.columns.functions)

    @property
    def plays_again(self) -> bool:
        """Whether games are played again for it."""
        return any(reader.plays_again for reader in self._readers)

    def episode(self, run: int, episode: Episode) -> dict[int, PlayerRewards]:
        """All of one episode, by player. Raises as `RewardReader.episode` does."""
        if run != self._reading:  # of many runs not all can be open
            self._runs[self._reading].close_readers()
            self._reading = run
        found = self._readers[run].episode(episode)
        self.unknown += sum(mine.unknown for mine in found.values())
        return found

    def forget(self) -> None:
        """No more rows will be asked for of the episodes so far."""
        self._known.clear()

    def fill(self, run: int, player: int, rows: Mapping[str, np.ndarray]) -> None:
        """Write the rewards into the columns for them in `rows`: stored columns, with the numbers that episodes have in
        that run. Rows without an action get 0."""
        for number in np.unique(rows["episode"]).tolist():
            mine = rows["episode"] == number
            known = self._known.get((run, number))
            if known is None:
                found = self.episode(run, self._runs[run].find_episode(number))
                known = {one: rewards._replace(stored={}) for one, rewards in found.items()}
                self._known[run, number] = known
            rewards = known[player]
            acted = mine & ~rows["is_last"]
            at = np.searchsorted(rewards.step, rows["step"][acted])
            for name, values in rewards.values.items():
                rows[name][mine] = 0
                rows[name][acted] = values[at]


def unknown_note(count: int) -> str:
    """What to say of transitions whose following row is not there."""
    return f"{count:,} rewards are without what the row after the action would tell: it is not there"


class ChangedRow(NamedTuple):
    """One row whose reward becomes another; the episode as it is numbered in the run. `old` is None where damage took
    it, and for a column that is not there yet."""

    run: str
    episode: int
    player: int
    step: int
    old: float | None
    new: float


class ColumnChange(NamedTuple):
    """What becomes of one column of rewards over `rows` transitions. `old` is None where there is no such column yet,
    `changed` then all of them; `examples` are the largest changes, of a new column the largest values."""

    column: str
    text: str
    rows: int
    changed: int
    old: Distribution | None
    new: Distribution | None
    examples: list[ChangedRow]


def _by_size(row: ChangedRow) -> float:
    return -abs(row.new - (row.old or 0.0))


def changes(revaluation: Revaluation, sources: Sources, taken: Iterable[tuple[int, Episode]]) -> list[ColumnChange]:
    """What the rewards would change in the episodes (run, episode) taken, whole ones whatever rows a condition selects.
    Raises as `Revaluation.episode` does."""
    texts = revaluation.columns.texts
    old: dict[str, list[np.ndarray]] = {name: [] for name in texts}
    new: dict[str, list[np.ndarray]] = {name: [] for name in texts}
    examples: dict[str, list[ChangedRow]] = {name: [] for name in texts}
    changed = dict.fromkeys(texts, 0)
    for run, episode in taken:
        path = str(sources.runs[run].path)
        for player, rewards in revaluation.episode(run, episode).items():
            for name, values in rewards.values.items():
                stored = rewards.stored.get(name)
                before = np.zeros_like(values) if stored is None else stored
                new[name].append(values)
                if stored is not None:
                    old[name].append(stored)
                differs = np.flatnonzero((before != values) | (stored is None))
                changed[name] += len(differs)
                size = np.abs(values[differs] - np.nan_to_num(before[differs]))
                for at in differs[np.argsort(-size, kind="stable")[:EXAMPLES]].tolist():
                    where = path, episode.number, player, int(rewards.step[at])
                    was = None if stored is None or np.isnan(stored[at]) else float(stored[at])
                    examples[name].append(ChangedRow(*where, was, float(values[at])))
                examples[name] = sorted(examples[name], key=_by_size)[:EXAMPLES]
    return [
        ColumnChange(
            name,
            text,
            sum(len(part) for part in new[name]),
            changed[name],
            distribution("old", np.concatenate(old[name])) if old[name] else None,
            distribution("new", np.concatenate(new[name])) if new[name] else None,
            examples[name],
        )
        for name, text in texts.items()
    ]
