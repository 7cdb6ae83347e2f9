"""An episode laid out to be watched: one frame per step, all players side by side, and the moments worth a look."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from expkit.predicates import parse
from expkit.reading.run import Run
from expkit.row.episodes import Episode

# A loss of this share of a player's armies within one step is a moment.
ARMY_LOSS = 0.25
_LEAST_ARMY = 10
_NOT_SHOWN = ("action_mask",)


class Moment(NamedTuple):
    """Something happened at this step: `terminated`, `player 1 is out`, `reward 1`, …"""

    step: int
    what: str


@dataclass(frozen=True, slots=True)
class Frame:
    """The rows of one step by player; a player who is out, or whose row was dropped, is not among them."""

    step: int
    rows: dict[int, dict[str, Any]]


def matches(run: Run, where: str) -> dict[int, list[Moment]]:
    """By episode that has any, a moment for every row for which the condition holds, in order of steps and players.
    Raises UsageError for what is no condition on these rows, ShardError."""
    found: dict[int, list[tuple[int, int]]] = {}
    for batch in run.scan(["step"], rows="all", where=parse(where)):
        told = (batch[name].tolist() for name in ("episode", "step", "player"))
        for episode, step, player in zip(*told, strict=True):
            found.setdefault(episode, []).append((step, player))
    return {
        number: [Moment(step, f"player {player} matches") for step, player in sorted(found[number])]
        for number in sorted(found)
    }


class Playback:
    """Episode `number` of a run, in memory without its masks; with `moments` of one's own where they are given. Raises
    NotThere, ShardError."""

    def __init__(self, run: Run, number: int, moments: list[Moment] | None = None):
        self._given = moments
        self.episode: Episode = run.find_episode(number)
        columns = [field.name for field in run.schema.fields if field.name not in _NOT_SHOWN]
        self._tables = {player: run.rows(number, player, columns) for player in sorted(self.episode.rows)}
        self.players = list(self._tables)
        steps = [table["step"] for table in self._tables.values()]
        self.steps: list[int] = np.unique(np.concatenate(steps)).tolist() if steps else []
        self._places = {
            player: {int(step): at for at, step in enumerate(table["step"].tolist())}
            for player, table in self._tables.items()
        }

    def __len__(self) -> int:
        return len(self.steps)

    def frame(self, index: int) -> Frame:
        """The frame of the `index`-th step."""
        step = self.steps[index]
        rows = {
            player: {name: values[at] for name, values in self._tables[player].items()}
            for player, places in self._places.items()
            if (at := places.get(step)) is not None
        }
        return Frame(step, rows)

    def index_of(self, step: int) -> int | None:
        """The place of the frame of `step`, None when no player has a row there."""
        place = int(np.searchsorted(self.steps, step))
        return place if place < len(self.steps) and self.steps[place] == step else None

    @cached_property
    def moments(self) -> list[Moment]:
        """Ends, rewards, players who are out, and large losses of armies, in order of steps."""
        if self._given is not None:
            return self._given
        found: set[Moment] = set()
        for player, table in self._tables.items():
            steps, acted = table["step"].tolist(), ~table["is_last"]
            for name in ("terminated", "truncated"):
                found.update(Moment(int(s), name) for s in table["step"][acted & table[name]].tolist())
            paid = np.flatnonzero(acted & (table["reward"] != 0))
            if len(paid) * 10 <= len(steps):  # a reward at every step is no moment
                found.update(Moment(steps[at], f"player {player}: reward {table['reward'][at]:g}") for at in paid)
            found.update(_losses(table))
        return sorted(found)


def _losses(table: dict[str, np.ndarray]) -> set[Moment]:
    """From the scoreboard, where the game records one: (T, players) armies and land."""
    found: set[Moment] = set()
    army, land = table.get("observation/total_army"), table.get("observation/total_land")
    if army is None or land is None:
        return found
    for player in range(army.shape[1]):
        before, after = army[:-1, player].astype(np.int64), army[1:, player].astype(np.int64)
        lost = (before >= _LEAST_ARMY) & (after < before * (1 - ARMY_LOSS))
        out = (land[:-1, player] > 0) & (land[1:, player] == 0)
        for at in np.flatnonzero(out | lost).tolist():
            what = f"player {player} is out" if out[at] else f"player {player} loses {before[at] - after[at]:,} armies"
            found.add(Moment(int(table["step"][at + 1]), what))
    return found
