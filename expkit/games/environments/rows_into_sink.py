"""Rows of environments into the open blocks of a session, and the episodes that they are of."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from expkit.errors import SchemaError
from expkit.row.episodes import Ended, EpisodeEnd, EpisodeStart, how_it_ended
from expkit.row.factory import RowFactory
from expkit.row.layout import RowSink
from expkit.row.schema import Schema


class SinkTarget:
    """A `RowTarget` over a RowSink: whoever calls sees to it that there is room.

    game, config_digest   what the start of each episode tells
    written   rows so far
    """

    def __init__(self, schema: Schema, players: int, game: str, config_digest: str):
        self.written = 0
        self._factory = RowFactory(schema, players)
        self._players, self._game, self._config_digest = players, game, config_digest
        self._sink: RowSink | None = None
        self._views: dict[tuple[int, int], dict[str, Any]] = {}
        self._ended: dict[int, dict[int, tuple[int, Ended, float | None]]] = {}  # rows, how, outcome by player
        self._told: dict[int, dict[str, Any]] = {}
        self._starts: list[EpisodeStart] = []
        self._ends: list[EpisodeEnd] = []

    def use(self, sink: RowSink) -> None:
        """Rows go there from now on."""
        if sink is not self._sink:
            self._sink, self._views = sink, {}
        self._factory.policy[:] = sink.policy

    def new_episode(self, *, seeds: Mapping[str, int] | None = None, number: int | None = None, **metadata: Any) -> int:
        assert number is not None
        players = list(range(self._players))
        start = EpisodeStart(
            number, time.time_ns(), players, self._game, self._config_digest, dict(seeds or {}), dict(metadata)
        )
        self._starts.append(start)
        return number

    def add(self, *, player: int, episode: int, step: int, **fields: Any) -> None:
        views, at = self._place(player)
        self._factory.transition(views, at, player, episode, step, fields)
        self._wrote(player)

    def end(
        self,
        *,
        episode: int,
        player: int,
        outcome: float | None = None,
        ended: Ended | None = None,
        step: int | None = None,
        metadata: Mapping[str, Any] | None = None,
        **observation: Any,
    ) -> None:
        views, at = self._place(player)
        never_acted = ended is not None
        progress = self._factory.final(views, at, player, episode, observation, step, alone=never_acted)
        self._wrote(player)
        parts = self._ended.setdefault(episode, {})
        how: Ended = "terminated" if progress.terminated else "truncated" if progress.truncated else "interrupted"
        parts[player] = progress.rows, ended or how, outcome
        self._told.setdefault(episode, {}).update(metadata or {})
        if self._factory.open_players(episode):
            return
        del self._ended[episode]
        self._ends.append(
            EpisodeEnd(
                episode,
                time.time_ns(),
                how_it_ended({how for _, how, _ in parts.values()}),
                max(rows - 1 for rows, _, _ in parts.values()),
                {str(player): value for player, (_, _, value) in parts.items()},
                {str(player): rows for player, (rows, _, _) in parts.items()},
                self._told.pop(episode, {}),
            )
        )

    def cut_off(self) -> None:
        """End the episodes that are open still, without last rows: their environment cannot say what it is at."""
        begun = {episode: self._ended.pop(episode, {}) for episode, _ in self._factory.open_episodes()}
        for episode, parts in begun.items():
            rows = {player: count for player, (count, _, _) in parts.items()}
            steps = [count - 1 for count in rows.values()]
            for player in self._factory.open_players(episode):
                rows[player] = self._factory.forget(episode, player).rows
                steps.append(rows[player])
            told = {str(player): count for player, count in sorted(rows.items())}
            metadata = self._told.pop(episode, {})
            end = EpisodeEnd(episode, time.time_ns(), "interrupted", max(steps), rows=told, metadata=metadata, cut=True)
            self._ends.append(end)

    def take_events(self) -> tuple[list[EpisodeStart], list[EpisodeEnd]]:
        """Starts and ends of episodes since the last call."""
        events = self._starts, self._ends
        self._starts, self._ends = [], []
        return events

    def _place(self, player: int) -> tuple[dict[str, Any], int]:
        sink = self._sink
        if sink is None or sink.position[player] >= sink.capacity[player]:
            raise SchemaError(f"player {player} has more rows in one step than there is room for")
        key = player, int(sink.base[player, 0])
        views = self._views.get(key)
        if views is None or len(views["step"]) < sink.capacity[player]:
            views = self._views[key] = sink.views(player)
        return views, int(sink.position[player])

    def _wrote(self, player: int) -> None:
        assert self._sink is not None
        self._sink.position[player] += 1
        self.written += 1
