"""Transitions of recorded episodes, with what stood before and after each, as rewards look at them.

What a run stores is read; what it does not store, the game tells when it is played again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from expkit.errors import GameError, UsageError
from expkit.games import find_source
from expkit.games.protocol import Resimulator
from expkit.reading.run import Run
from expkit.resimulation.recorded_games import RecordedGames
from expkit.resimulation.states_again import Table, states_again
from expkit.rewards.columns import REWARD, is_the_games
from expkit.rewards.protocol import NEXT
from expkit.row.episodes import Episode

_ALWAYS = ("episode", "step", "action", "terminated", "truncated")
_STATE = "state/"
STORED = "stored:"


class TransitionReader:
    """Reads transitions of `run`'s episodes with what `needs` names: fields, and fields with `next_` before them.

    extra  stored fields of the rows that are wanted in the batches besides, with STORED before their names
    again  take the truth, and the game's own reward, from the game played again even where they are stored

    Raises UsageError for a field that can have no next value.
    """

    def __init__(self, run: Run, needs: Sequence[str], *, extra: Sequence[str] = (), again: bool = False):
        self._run = run
        schema = run.schema
        self._own_reward = REWARD in needs
        self._paid = self._own_reward and (again or not is_the_games(run.info.metadata))
        needs = [name for name in needs if name != REWARD]
        before = [name for name in needs if name in schema or not name.startswith(NEXT)]
        after = [name.removeprefix(NEXT) for name in needs if name not in before]
        for name in after:
            if name in schema and schema[name].belongs != "observation":
                raise UsageError(f"{NEXT}{name}: {name} does not belong to the observation, so it has no next value")
        played = {n for n in (*before, *after) if n not in schema or (again and n.startswith(_STATE))}
        self._played = sorted(played)
        self._played_before, self._played_after = _divided(before, played)[0], _divided(after, played)[0]
        self._stored_before, self._stored_after = _divided(before, played)[1], _divided(after, played)[1]
        self._extra = list(extra)
        self._games = RecordedGames(run)
        self._reward_is_the_games = _reward_is_the_games(run)

    @property
    def plays_again(self) -> bool:
        """Whether games are played again for it."""
        return self._paid or bool(self._played)

    def episode(self, episode: Episode) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
        """All transitions of an episode as (player, batch), in batches as `expkit.rewards.RewardFunction` wants them;
        those of one player in the order of steps.

        Raises ShardError; UsageError for what is neither stored nor told by a game that can be played again; GameError
        for an episode that has to be played again and lacks rows, or plays out differently.
        """
        tables = {player: self._table(episode.number, player) for player in sorted(episode.rows)}
        if not self.plays_again:
            for player, table in tables.items():
                rows = np.flatnonzero(~table["is_last"])
                yield player, self._batch(episode, player, table, rows)
            return
        self._require_all_rows(episode, tables)
        where = f"{self._run.path} episode {episode.number}"
        for states in states_again(where, self._game(episode), tables, self._played):
            for player, table in tables.items():
                step = table["step"].astype(np.int64) - states.first
                rows = np.flatnonzero((step >= 0) & (step < states.steps - 1) & ~table["is_last"])
                batch, told, at = self._batch(episode, player, table, rows), states.of(player), step[rows]
                batch |= {name: told[name][at] for name in self._played_before}
                batch |= {NEXT + name: told[name][at + 1] for name in self._played_after}
                batch["has_next"] = np.ones(len(rows), bool)
                if self._paid:
                    batch[REWARD] = states.paid[player][at]
                yield player, batch

    def _game(self, episode: Episode) -> Resimulator:
        try:
            return self._games.resimulator(episode)
        except UsageError as error:
            names = [*self._played, *(["the game's own reward"] if self._paid else [])]
            raise UsageError(f"{', '.join(names)}: looked at and not stored; {error}") from None

    def _table(self, number: int, player: int) -> Table:
        """All rows of a player's episode. Rewards that damage took are NaN: others may be computed all the same."""
        run = self._run
        names = dict.fromkeys([*_ALWAYS, REWARD, *self._stored_before, *self._stored_after, *self._extra])
        places = run.index.find(number, player).tolist()
        readers = {(int(run.index.shard[s]), int(run.index.block[s])) for s in places}
        lost = {name for shard, block in readers for name in run.reader(shard).lost_columns(block)}
        gone = [name for name in names if name in lost and name.partition("/")[0] == REWARD]
        table = run.rows(number, player, [name for name in names if name not in gone])
        return table | {name: np.full(len(table["step"]), np.nan, np.float32) for name in gone}

    def _batch(self, episode: Episode, player: int, table: Table, rows: np.ndarray) -> dict[str, np.ndarray]:
        """What is stored, and what is always there."""
        has_next = _has_next(episode, player, table)[rows]
        following = np.where(has_next, rows + 1, rows)
        batch = {name: table[name][rows] for name in (*_ALWAYS, *self._stored_before)}
        batch |= {STORED + name: table[name][rows] for name in self._extra}
        batch |= {NEXT + name: table[name][following] for name in self._stored_after}
        if self._own_reward:
            batch[REWARD] = table[REWARD][rows]
        ends = batch["terminated"] | batch["truncated"]
        outcome = episode.outcome.get(player)
        # A killed recorder wrote no outcome; the reward of one of our games, 1 or -1 where it is over, tells it too.
        known = table[REWARD][rows] if self._reward_is_the_games else np.nan
        outcomes = np.where(ends, known if outcome is None else outcome, np.nan).astype(np.float32)
        return batch | {"player": np.full(len(rows), player, np.uint16), "outcome": outcomes, "has_next": has_next}

    def _require_all_rows(self, episode: Episode, tables: Mapping[int, Table]) -> None:
        for player, table in tables.items():
            there = len(table["step"])
            produced = there if episode.end is None else episode.end.rows.get(str(player), there)
            if produced != there:
                raise GameError(
                    f"{self._run.path} episode {episode.number}: {there:,} of {produced:,} rows of player {player} are "
                    f"there, so it cannot be played again; leave it out by --where 'episode != {episode.number}'"
                )


def _divided(names: Sequence[str], played: set[str]) -> tuple[list[str], list[str]]:
    """Those of `names` that are played again, and the others; each once."""
    unique = dict.fromkeys(names)
    return [name for name in unique if name in played], [name for name in unique if name not in played]


def _has_next(episode: Episode, player: int, table: Table) -> np.ndarray:
    """bool, by row: the row that follows is that of the player's next turn. Where rows are missing, or may be, only one
    that is a step later is known to be."""
    steps = table["step"].astype(np.int64)
    produced = None if episode.end is None else episode.end.rows.get(str(player))
    follows = np.diff(steps) == 1
    if produced == len(steps):
        follows[:] = True
    return np.append(follows, False)[: len(steps)]


def _reward_is_the_games(run: Run) -> bool:
    """Whether the column `reward` is as one of our games gave it."""
    if not is_the_games(run.info.metadata):
        return False
    try:
        find_source(run.info.source)
    except UsageError:
        return False
    return True
