"""Several environments of one kind side by side, played by one thread."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from expkit.games.environments.policies import Decision, Policy, ask, random_action, resolve
from expkit.games.environments.rows_into_sink import SinkTarget
from expkit.games.environments.tables import Table, Turn, table_of
from expkit.row.episodes import EpisodeEnd, EpisodeStart, episode_number
from expkit.row.layout import RowSink
from expkit.row.schema import Schema
from expkit.spaces.environment import EnvLayout


class Counter:
    """Gives out a writer's episode numbers from `first` on, up to `limit` of them, each once."""

    def __init__(self, writer: int, limit: int | None, first: int):
        self._writer, self._next = writer, first
        self._stop = None if limit is None else first + limit
        self._lock = threading.Lock()

    @property
    def is_exhausted(self) -> bool:
        return self._stop is not None and self._next >= self._stop

    def claim(self) -> int | None:
        """The next number, None when there is none left."""
        with self._lock:
            if self.is_exhausted:
                return None
            self._next += 1
            return episode_number(self._writer, self._next - 1)


def seeds_of(seed: int, episode: int, players: int) -> tuple[int, dict[int, int]]:
    """Seeds of an episode's environment and of each player's action space: of 31 bits, which all environments take."""
    drawn = np.random.SeedSequence((seed, episode)).generate_state(1 + players, np.uint32) >> 1
    return int(drawn[0]), {player: int(drawn[1 + player]) for player in range(players)}


class EnvironmentGame:
    """See `expkit.games.protocol.Game`. An episode follows from (seed, its whole number), and the policies.

    max_steps   after which an episode is cut, by us, so it is interrupted and not truncated; None for never
    """

    def __init__(
        self,
        make: Callable[[], Any],
        layout: EnvLayout,
        *,
        source: str,
        config_digest: str,
        players: int,
        num_envs: int,
        seed: int,
        max_steps: int | None,
        policies: Sequence[str | Callable[..., Any]],
        counter: Counter,
    ):
        self.schema: Schema = layout.schema
        self.players, self.num_envs, self.seed = players, num_envs, seed
        self._layout, self._max_steps, self._counter = layout, max_steps, counter
        self._policies: list[Policy] = resolve(policies, players)
        self._target = SinkTarget(layout.schema, players, source, config_digest)
        self._make = make
        self._tables: list[Table] = []
        self._episode = [0] * num_envs

    @property
    def illegal_actions(self) -> int:
        return sum(table.rows.illegal_actions for table in self._tables)

    @property
    def idle(self) -> bool:
        return self._counter.is_exhausted and all(table.is_over for table in self._tables)

    @property
    def committed_rows(self) -> int:
        return self._target.written + sum(table.rows.owed for table in self._tables)

    def play(self, sink: RowSink, max_ticks: int, row_budget: int = -1) -> int:
        self._target.use(sink)
        while len(self._tables) < self.num_envs:
            self._tables.append(table_of(self._make(), self._target, self._layout, self.players))
        played = 0
        while played < max_ticks and (sink.position + 2 * self.num_envs <= sink.capacity).all():
            if not self._tick(row_budget):
                break
            played += 1
        return played

    def finish(self, sink: RowSink) -> bool:
        self._target.use(sink)
        tables, self._tables = self._tables, []
        failed: Exception | None = None
        for table in tables:
            # One that fails is asked for its last observation and to close; that may fail, too, and is its own matter.
            for doing in (table.interrupt, table.close):
                try:
                    doing()
                except Exception as error:
                    failed = failed or error
        self._target.cut_off()
        if failed is not None:
            raise failed
        return True

    def take_events(self) -> tuple[list[EpisodeStart], list[EpisodeEnd]]:
        return self._target.take_events()

    def _tick(self, row_budget: int) -> bool:
        """A step of every environment that the budget allows one; False when that is none."""
        left = None if row_budget < 0 else row_budget - self.committed_rows
        playing: list[tuple[int, Table, list[Turn]]] = []
        for place, table in enumerate(self._tables):
            if table.is_over:
                if left is not None and left < 2 * table.most_acting:
                    continue
                if not self._begin(place, table):
                    continue
            turns = table.turns()
            if left is not None:
                rows = table.rows.rows_of_a_step([turn.player for turn in turns])
                if rows > left:
                    continue
                left -= rows
            playing.append((place, table, turns))
        self._step(playing)
        return bool(playing)

    def _begin(self, place: int, table: Table) -> bool:
        number = self._counter.claim()
        if number is None:
            return False
        self._episode[place] = number
        table.reset(*seeds_of(self.seed, number, self.players))
        table.rows.episode = number
        return not table.is_over

    def _step(self, playing: Sequence[tuple[int, Table, list[Turn]]]) -> None:
        asked: dict[int, list[tuple[int, Decision]]] = {}
        chosen: list[dict[int, Any]] = [{} for _ in playing]
        for at, (place, table, turns) in enumerate(playing):
            for turn in turns:
                policy = self._policies[turn.player]
                if policy is None:
                    chosen[at][turn.player] = random_action(turn)
                else:
                    asked.setdefault(id(policy), []).append((at, (self._episode[place], table.rows.turn, turn)))
        for policy in {id(one): one for one in self._policies if one is not None}.values():
            cases = asked.get(id(policy), [])
            if cases:
                actions = ask(policy, self._layout, [decision for _, decision in cases])
                for (at, (*_, turn)), action in zip(cases, actions, strict=True):
                    chosen[at][turn.player] = action
        for at, (_, table, _) in enumerate(playing):
            table.step(chosen[at])
            if not table.is_over and self._max_steps is not None and table.rows.turn >= self._max_steps:
                table.interrupt()
