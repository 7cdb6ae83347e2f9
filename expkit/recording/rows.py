"""Rows that somebody else has numbered: single ones, batches, and the last rows of players."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from expkit.collect.protocol import Feed
from expkit.collect.row_lane import RowLane
from expkit.collect.sharded import ShardedFeed
from expkit.errors import SchemaError
from expkit.recording.by_entry import by_entry
from expkit.recording.episodes import COUNTER, EpisodeBook, as_json
from expkit.row.episodes import Ended
from expkit.row.factory import Progress, RowFactory
from expkit.row.host import host_array


class RowRecording:
    """Rows by (player, episode, step). Its caller holds a lock or is alone.

    feed, factory, book   of the recorder;  block_rows: the most rows that can be reserved at once
    lanes   by player, for the short way of single rows; empty where the feed has none
    open    how far a player has come, by player and episode as it was given to add; empty where there are no lanes
    """

    def __init__(self, feed: Feed, factory: RowFactory, book: EpisodeBook, block_rows: int):
        self._feed, self._factory, self._book = feed, factory, book
        self._block_rows = block_rows
        self.lanes: list[RowLane] = []
        if isinstance(feed, ShardedFeed):
            self.lanes = [RowLane(feed, factory, player) for player in range(factory.players)]
        self.open: dict[tuple[int, int], Progress] = {}

    def set_policy(self, player: int, index: int, version: int) -> None:
        """Policy table row and version to stamp on the player's rows."""
        self._factory.set_policy(player, index, version)
        if self.lanes:
            self.lanes[player].set_policy(index, version)

    def add(self, player: int, episode: int, step: int, fields: Mapping[str, Any]) -> None:
        """See `Recorder.add`."""
        self._factory.check_player(player)
        number = self._book.whole(episode)
        self._book.refuse_ended(number, player)
        views, index = self._feed.reserve(player, 1)
        self._factory.transition(views, index, player, number, step, fields)
        progress = self._note_part(number, player)
        if self.lanes:
            self.open[player, episode] = progress
        self._feed.sink.position[player] += 1
        self._feed.commit()

    def add_batch(self, player: int, episode: Any, step: Any, fields: Mapping[str, Any]) -> None:
        """See `Recorder.add_batch`."""
        steps = np.asarray(step)
        if steps.ndim != 1 or steps.dtype.kind not in "iu":
            raise SchemaError(f"step: a batch needs a vector of whole numbers, not {steps.dtype} {steps.shape}")
        given, fields = np.broadcast_to(np.asarray(episode), steps.shape), self._factory.resolve(fields)
        self._factory.check_player(player)
        unique, places = np.unique(given, return_inverse=True)
        numbers = np.array([self._book.whole(one) for one in unique.tolist()], np.uint64)[places]
        for number in numbers[np.sort(np.unique(places, return_index=True)[1])].tolist():
            self._book.refuse_ended(number, player)
        for at in range(0, len(steps), self._block_rows):
            part = slice(at, at + self._block_rows)
            rows = len(steps[part])
            views, start = self._feed.reserve(player, rows)
            sliced = {name: _part(name, value, part) for name, value in fields.items()}
            self._factory.batch(views, start, player, numbers[part], steps[part], sliced)
            for number in np.unique(numbers[part]).tolist():
                self._note_part(number, player)
            self._feed.sink.position[player] += rows
            self._feed.commit()

    def end(
        self,
        episode: int,
        player: int | None,
        outcome: float | Sequence[float | None] | None,
        ended: Ended | None,
        step: int | None,
        observation: Mapping[str, Any],
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        """See `Recorder.end`."""
        number = self._book.whole(episode)
        if metadata:
            told = as_json(f"episode {number}: metadata", dict(metadata))
            if number in self._book.open:
                self._book.open[number].told.update(told)
        if player is not None:
            self._end_player(number, player, outcome, ended, step, observation)
            return
        if self._factory.players == 1:
            one_outcome = outcome[0] if isinstance(outcome, Sequence | np.ndarray) else outcome
            self._end_player(number, 0, one_outcome, ended, step, self._without_players(observation))
            return
        players = self._factory.open_players(number)
        if not players:
            raise SchemaError(f"episode {number} has no open rows to end")
        observation = self._factory.resolve(observation)
        for index, one in enumerate(players):
            mine = {name: _part(name, value, index) for name, value in observation.items()}
            theirs = outcome[index] if isinstance(outcome, Sequence | np.ndarray) else outcome
            self._end_player(number, one, theirs, ended, step, mine)

    def end_batch(
        self,
        episode: Sequence[int],
        player: int | None,
        outcome: Any,
        ended: Any,
        step: Any,
        observation: Mapping[str, Any],
        metadata: Any = None,
    ) -> None:
        """See `Recorder.end_batch`."""
        count = len(episode)
        outcomes, how = by_entry("outcome", outcome, count, "episode"), by_entry("ended", ended, count, "episode")
        steps, told = by_entry("step", step, count, "episode"), by_entry("metadata", metadata, count, "episode")
        observation = self._factory.resolve(observation)
        for index, number in enumerate(episode):
            mine = {name: _part(name, value, index) for name, value in observation.items()}
            self.end(number, player, outcomes[index], how[index], steps[index], mine, told[index])

    def _without_players(self, observation: Mapping[str, Any]) -> dict[str, Any]:
        """Values of the only player, which may come with the axis of players and without."""
        schema = self._factory.schema
        out = {}
        for name, value in self._factory.resolve(observation).items():
            array = host_array(name, value)
            out[name] = array[0] if array.ndim > len(schema[name].shape) and len(array) == 1 else array
        return out

    def _note_part(self, number: int, player: int) -> Progress:
        """The player's part of an episode, to which rows were written; the episode begins if it is new."""
        known = self._book.open.get(number)
        if known is None:
            self._feed.commit((self._book.begin(number, {}, {}),))
            known = self._book.open[number]
        progress = known.parts.get(player)
        if progress is None:
            progress = known.parts[player] = self._factory.progress(number, player)  # type: ignore[assignment]
        assert progress is not None
        return progress

    def _end_player(
        self,
        episode: int,
        player: int,
        outcome: Any,
        ended: Ended | None,
        step: int | None,
        observation: Mapping[str, Any],
    ) -> None:
        self._book.refuse_ended(episode, player)
        alone = ended is not None and episode in self._book.open
        views, index = self._feed.reserve(player, 1)
        progress = self._factory.final(views, index, player, episode, observation, step, alone=alone)
        self._book.open[episode].parts.setdefault(player, progress)
        self._feed.sink.position[player] += 1
        for given in (episode, episode & COUNTER):
            self.open.pop((player, given), None)
        end = self._book.end_player(episode, player, progress, outcome, ended)
        self._feed.commit((), () if end is None else (end,))


def _part(name: str, value: Any, index: Any) -> Any:
    """An entry of a field's values, or some of them. Raises SchemaError."""
    if value is None:
        return None
    array = host_array(name, value)
    if not array.ndim:
        raise SchemaError(f"{name}: a single value where there should be one for each row or player")
    return array[index]
