"""Real games of generals.io played again by the rules of the engine, as rows.

`read_gior` (expkit.formats.gior) gives the map and the moves; here they become a configuration, an episode start
that holds all that is needed to play the game again from its recorded actions, and rows tick by tick. A move that
the rules do not allow raises GameError: real games are the outside test of the engine.

What real files say about the rules: a move of tick t is played before the t+1st growth; players who leave do so
after the moves of that tick and before its growth; whoever has left keeps his land, which goes on growing, until he
is captured or leaves a second time, when it turns neutral and his general a city. Neutral cities below 40 armies
grow in files of version 5 and no longer do in version 11.
"""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from expkit.errors import ConfigError, GameError
from expkit.formats.gior import GiorMove, GiorReplay, read_gior
from expkit.games.generals.config import GeneralsConfig
from expkit.games.generals.resimulate import GeneralsReplay
from expkit.games.generals.schema import generals_schema
from expkit.row.episodes import EpisodeStart
from expkit.row.schema import Schema

LAST_VERSION_WITH_REGROWTH = 5
REGROW_TO = 40
_STEPS = ((-1, 0), (1, 0), (0, -1), (0, 1))  # up, down, left, right, as the schema counts them


@dataclass(frozen=True, slots=True)
class Tick:
    """The rows of one tick.

    rows     by player still in the game before it: what he saw, `action`, `reward`, `terminated`, `truncated`, by
             the names of the schema; `action_mask` is the expanded one
    last     by player whose game ends with this tick: what he sees after it
    outcome  by player in `last`: 1 won, -1 lost, None where the file ends before the game
    """

    step: int
    rows: dict[int, dict[str, Any]]
    last: dict[int, dict[str, np.ndarray]] = field(default_factory=dict)
    outcome: dict[int, float | None] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class GiorGame:
    """A file made ready to be played.

    config       of the run that the game is recorded into
    metadata     of its episode: with the recorded actions enough for `GeneralsReplay`
    moves        by tick, as (player, action), in the order of the file
    ticks        how many there are to play
    extra_moves  second and further moves of a player in one tick: they are played, and stand in the metadata, but
                 a row holds one action, the first
    """

    config: GeneralsConfig
    metadata: dict[str, Any]
    moves: dict[int, list[tuple[int, int]]]
    ticks: int
    extra_moves: int

    @property
    def schema(self) -> Schema:
        return generals_schema(self.config)

    def start(self, episode: int) -> EpisodeStart:
        """What is written before the rows of the game, under that episode number."""
        players = list(range(self.config.players))
        return EpisodeStart(episode, time.time_ns(), players, "generals", metadata=self.metadata)

    def play(self, episode: int = 0) -> Iterator[Tick]:
        """Play the game tick by tick, up to its end or that of the file. Raises GameError, naming tick and player,
        for a move that the rules do not allow."""
        game = GeneralsReplay(self.config, self.start(episode), 0)
        nothing = 8 * self.config.tiles
        seen = {player: game.observation(player) for player in range(game.players)}
        for step in range(self.ticks):
            self._refuse_the_dead(step, seen)
            first = dict(reversed(self.moves.get(step, [])))
            actions = {player: first.get(player, nothing) for player in seen}
            game.step(actions)
            if game.fizzled:
                raise GameError(f"step {step}: the move of player {game.fizzled[0]} was no longer possible in its turn")
            rewards = game.rewards()
            rows = {
                player: board
                | {
                    "action": actions[player],
                    "reward": rewards[player],
                    "terminated": game.over or not game.alive(player),
                    "truncated": False,
                }
                for player, board in seen.items()
            }
            after = {player: game.observation(player) for player in seen}
            done = game.over or step == self.ticks - 1
            last = {player: board for player, board in after.items() if done or not game.alive(player)}
            yield Tick(
                step,
                rows,
                last,
                {player: rewards[player] if rows[player]["terminated"] else None for player in last},
            )
            seen = {player: board for player, board in after.items() if player not in last}
            if game.over:
                self._refuse_more(step)
                return

    def _refuse_the_dead(self, step: int, playing: Collection[int]) -> None:
        for player, _ in self.moves.get(step, []):
            if player not in playing:
                raise GameError(f"step {step}: player {player} moves, but is out of the game")

    def _refuse_more(self, step: int) -> None:
        later = [tick for tick in self.moves if tick > step]
        if later:
            raise GameError(f"step {min(later)}: a move after the game was over at step {step}")


def import_gior(path: str | os.PathLike[str], *, state: bool = False) -> GiorGame:
    """The game in the file at `path`, ready to be played; with `state` rows hold the truth too. Raises NotThere,
    ShardError for what is no .gior file, GameError for a game that the rules here do not cover."""
    replay = read_gior(path)
    try:
        return prepare(replay, state=state)
    except GameError as error:
        raise GameError(f"{path}: {error}") from None


def prepare(replay: GiorReplay, *, state: bool = False) -> GiorGame:
    """Configuration, episode metadata and actions of a decoded game. Raises GameError."""
    ticks = 1 + max([*(move.tick for move in replay.moves), *(leave.tick for leave in replay.leaves)], default=0)
    try:
        config = GeneralsConfig(
            players=replay.players,
            height=replay.height,
            width=replay.width,
            # One more than is played: where a file ends early, the recording stops and the rules do not.
            max_steps=ticks + 1,
            state=state,
            neutral_cities_regrow_to=REGROW_TO if replay.version <= LAST_VERSION_WITH_REGROWTH else 0,
        )
    except ConfigError as error:
        raise GameError(f"the game cannot be played here: {error}") from None
    moves: dict[int, list[tuple[int, int]]] = {}
    for index, move in enumerate(replay.moves):
        moves.setdefault(move.tick, []).append((move.player, _action(index, move, config)))
    metadata: dict[str, Any] = {
        "source": {"format": "gior", "version": replay.version},
        "map": {
            "generals": list(replay.generals),
            "cities": [list(pair) for pair in zip(replay.cities, replay.city_armies, strict=True)],
            "mountains": list(replay.mountains),
            "neutrals": [list(pair) for pair in zip(replay.neutrals, replay.neutral_armies, strict=True)],
        },
        "leaves": [[leave.player, leave.tick] for leave in replay.leaves],
    }
    # Only what differs from the rule (ascending on even ticks, descending on odd ones): in the real files nothing.
    odd = {tick: played for tick, played in moves.items() if not _in_order(tick, [player for player, _ in played])}
    if odd:
        metadata["order"] = {str(tick): [list(one) for one in played] for tick, played in odd.items()}
    extra = sum(len(played) - len({player for player, _ in played}) for played in moves.values())
    return GiorGame(config, metadata, moves, ticks, extra)


def _in_order(tick: int, players: list[int]) -> bool:
    return players == sorted(set(players), reverse=tick % 2 == 1)


def _action(index: int, move: GiorMove, config: GeneralsConfig) -> int:
    """The move as the integer of the schema. Raises GameError when the tiles are not neighbours."""
    from_y, from_x = divmod(move.start, config.width)
    to_y, to_x = divmod(move.end, config.width)
    step = (to_y - from_y, to_x - from_x)
    if step not in _STEPS:
        raise GameError(f"move {index} of tick {move.tick} goes from tile {move.start} to {move.end}, no neighbour")
    return 4 * move.start + _STEPS.index(step) + (4 * config.tiles if move.half else 0)
