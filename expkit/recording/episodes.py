"""The book of a recorder's episodes: their numbers, which are open, how each player's part of them ended."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import msgspec

from expkit.errors import SchemaError
from expkit.row.episodes import WRITER_BITS, Ended, EpisodeEnd, EpisodeStart, episode_number, how_it_ended
from expkit.row.factory import Progress
from expkit.system.odd_floats import named_within

COUNTER = (1 << WRITER_BITS) - 1  # of an episode's number, what its writer counts


class OpenEpisode:
    """An episode that is being recorded: each player's part, and how those that are over ended; what its end tells."""

    __slots__ = ("ended", "outcome", "parts", "told")

    def __init__(self) -> None:
        self.parts: dict[int, Progress] = {}
        self.ended: dict[int, Ended] = {}
        self.outcome: dict[str, float | None] = {}
        self.told: dict[str, Any] = {}


class _Finished:
    """The set of finished episode numbers; numbers that follow one another cost one integer altogether. The `before`
    numbers from `first` on count as finished."""

    def __init__(self, first: int, before: int = 0):
        self._floor = first + before
        self._above: set[int] = set()
        self._first = first

    def add(self, number: int) -> None:
        self._above.add(number)
        while self._floor in self._above:
            self._above.remove(self._floor)
            self._floor += 1

    def __contains__(self, number: int) -> bool:
        return self._first <= number < self._floor or number in self._above


class EpisodeBook:
    """Episodes of one recorder, by their whole numbers. Its caller holds a lock or is alone.

    writer         whose number stands in front of what it counts
    before         as many episodes it began earlier
    game, players, config_digest   what the start of each episode tells
    """

    def __init__(self, writer: int, before: int, game: str, players: int, config_digest: str):
        self.open: dict[int, OpenEpisode] = {}
        self._writer = writer
        self._counter = before
        self._finished = _Finished(episode_number(writer, 0), before)
        self._held: set[int] = set()
        self._game, self._config_digest = game, config_digest
        self._everybody = list(range(players))

    def allot(self) -> int:
        """The number of the next episode that nobody chose a number for."""
        number = episode_number(self._writer, self._counter)
        while self.has_begun(number):
            self._counter += 1
            number = episode_number(self._writer, self._counter)
        self._counter += 1
        return number

    def whole(self, episode: int) -> int:
        """The whole number of an episode: what a writer counts by itself gets the writer put in front. Raises
        SchemaError."""
        writer, counter = int(episode) >> WRITER_BITS, int(episode)
        if counter < 0 or writer not in (0, self._writer):
            raise SchemaError(f"episode {episode} is out of range; writer w{self._writer} counts from 0 to 2**48 - 1")
        return counter if writer else episode_number(self._writer, counter)

    def has_begun(self, number: int) -> bool:
        """Whether it is open or over."""
        return self.is_open(number) or number in self._finished

    def is_open(self, number: int) -> bool:
        """Whether it may get more rows."""
        return number in self.open or number in self._held

    def hold(self, number: int) -> None:
        """The episode is open, and nobody adds single rows to it."""
        self._held.add(number)

    def begin(self, number: int, seeds: Mapping[str, int], metadata: Mapping[str, Any]) -> EpisodeStart:
        """Open an episode. Raises SchemaError for metadata that no file can hold."""
        told = as_json(f"episode {number}: metadata", dict(metadata))
        start = self.start_record(number, dict(seeds), told, time.time_ns())
        self.open[number] = OpenEpisode()
        return start

    def start_record(self, number: int, seeds: dict[str, int], metadata: dict[str, Any], now: int) -> EpisodeStart:
        """What is written of an episode before its rows; it keeps what it is given."""
        return EpisodeStart(number, now, self._everybody, self._game, self._config_digest, seeds, metadata)

    def refuse_ended(self, number: int, player: int) -> None:
        """Raises SchemaError when the player's part of the episode is complete, or its rows come another way."""
        if number in self._held:
            raise SchemaError(f"episode {number} is recorded by reset and step; add rows to another one")
        known = self.open.get(number)
        if number in self._finished or (known is not None and player in known.ended):
            raise SchemaError(f"episode {number} player {player} has ended; its rows are complete")

    def end_player(
        self, number: int, player: int, progress: Progress, outcome: Any, ended: Ended | None
    ) -> EpisodeEnd | None:
        """The player's part is complete; with the last one the episode is over, and its end is returned."""
        known = self.open[number]
        how: Ended = "terminated" if progress.terminated else "truncated" if progress.truncated else "interrupted"
        known.ended[player] = ended or how
        known.outcome[str(player)] = None if outcome is None else float(outcome)
        if len(known.ended) < len(known.parts):
            return None
        del self.open[number]
        self._finished.add(number)
        return _end_record(number, known, how_it_ended(set(known.ended.values())))

    def finish(self, number: int) -> None:
        """An episode that was held is over."""
        self._held.discard(number)
        self._finished.add(number)

    def cut_off(self) -> list[EpisodeEnd]:
        """Ends of all that is open and will get no more rows."""
        return [
            msgspec.structs.replace(_end_record(number, known, "interrupted"), cut=True)
            for number, known in self.open.items()
        ]


def as_json(what: str, value: Any) -> Any:
    """The value as a file holds it, NaN and infinities by name, of which JSON would make nulls. Raises SchemaError for
    what no file can hold: here, not in a drain thread."""
    try:
        msgspec.json.encode(value)
    except (TypeError, ValueError) as error:
        raise SchemaError(f"{what} has to be JSON values: {error}") from None
    return named_within(value)


def _end_record(number: int, known: OpenEpisode, ended: Ended) -> EpisodeEnd:
    rows = {str(player): part.rows for player, part in known.parts.items()}
    steps = [part.rows - (player in known.ended) for player, part in known.parts.items()]
    return EpisodeEnd(number, time.time_ns(), ended, max(steps, default=0), known.outcome, rows, known.told)
