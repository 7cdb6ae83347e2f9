"""A recorded game of generals played again, one tick at a time, from its start and its actions."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any, NamedTuple

import msgspec
import numpy as np

from expkit.errors import GameError
from expkit.games.generals.arrays import GeneralsArrays
from expkit.games.generals.config import GeneralsConfig
from expkit.kernels import compiling
from expkit.kernels import generals_replay as kernel
from expkit.kernels import generals_state as k
from expkit.row.episodes import EpisodeStart
from expkit.serialize.board_fields import padded_actions

_FIRST_SLOT = np.zeros(1, np.int64)
_GIVEN = (
    "map",
    "leaves",
    "order",
    "padded",
)  # in an episode's metadata: it does not follow from seed and actions alone


class TrueBoard(NamedTuple):
    """The whole board, each part (H, W) and a copy: army int32, owner int8, terrain uint8."""

    army: np.ndarray
    owner: np.ndarray
    terrain: np.ndarray


class GeneralsReplay:
    """One game; see `expkit.games.protocol.Resimulator`.

    The map is drawn from (seed, episode number), unless the episode's metadata holds what an imported game needs:

    map     {"generals": tiles by player, "cities": [[tile, army], …], "mountains": tiles, "neutrals": as cities}
    leaves  [[player, tick], …]: players who leave after the moves of that tick; at the first time they are out and
            their land stays, at the second it turns neutral
    order   {tick: [[player, action], …]} for ticks whose moves were played in another order than the ruleset's, or
            more than one by a player; they replace that tick's actions
    padded  [H, W] of the board on which the game is laid out, in its upper left corner, mountains around it; actions
            are given, and observations shown, as on that board. The order of moves is as the game was played

    Raises GameError for metadata that describes no game.
    """

    def __init__(self, config: GeneralsConfig, start: EpisodeStart, seed: int):
        if "padded" in start.metadata:
            config, start = _laid_out(config, start, seed)
        self.config = config
        self.players = config.players
        self.fizzled: list[int] = []
        self._arrays = GeneralsArrays(config, 1, seed)
        self._rewards = dict.fromkeys(range(config.players), 0.0)
        metadata = start.metadata
        try:
            self._leaves = [(int(player), int(tick)) for player, tick in metadata.get("leaves", [])]
            self._order = {
                int(tick): [(int(player), int(action)) for player, action in moves]
                for tick, moves in metadata.get("order", {}).items()
            }
            if any(not 0 <= player < self.players for player, _ in self._leaves):
                raise ValueError("a player who leaves is none of the game's")
            played = [move for moves in self._order.values() for move in moves]
            if not all(0 <= player < self.players and self._is_action(action) for player, action in played):
                raise ValueError("a move in the order of moves is none of the game's")
            if "map" in metadata:
                self._lay_out(metadata["map"])
        except (TypeError, ValueError, KeyError, IndexError, AttributeError) as error:
            raise GameError(f"episode {start.episode}: its metadata describes no game of generals: {error}") from None
        self._arrays.one[0, k.EPISODE] = np.uint64(start.episode).astype(np.int64)
        self._run(kernel.TAKE_MAP if "map" in metadata else kernel.DRAW_MAP)

    def _lay_out(self, given: Mapping[str, Any]) -> None:
        arrays, tiles = self._arrays, self.config.tiles
        generals = [int(tile) for tile in given["generals"]]
        cities = {int(tile): int(army) for tile, army in given["cities"]}
        neutrals = {int(tile): int(army) for tile, army in given["neutrals"]}
        mountains = [int(tile) for tile in given["mountains"]]
        places = [*generals, *cities, *neutrals, *mountains]
        if len(generals) != self.players or len(set(places)) < len(places):
            raise ValueError("two things stand on one tile, or generals are missing")
        if not all(0 <= tile < tiles for tile in places):
            raise ValueError(f"a tile is not on the board of {tiles}")
        if not all(0 <= army < 1 << 31 for army in (*cities.values(), *neutrals.values())):
            raise ValueError("an army is not one that int32 holds")
        arrays.players[0, :, k.GENERAL_TILE] = generals
        arrays.terrain[0, mountains] = k.MOUNTAIN
        for tile, army in (cities | neutrals).items():
            arrays.army[0, tile] = army
        arrays.terrain[0, list(cities)] = k.CITY

    def _is_action(self, action: int) -> bool:
        return 0 <= action < self.config.actions

    def _run(self, phase: int, moves: list[tuple[int, int]] | None = None, checked: int = 0) -> np.ndarray:
        arrays = self._arrays
        played = np.array(moves or [], np.int64).reshape(-1, 2)
        leaving = [player for player, tick in self._leaves if phase == kernel.STEP and tick == self.step_number]
        result = np.zeros(len(played), np.int64)
        # Compiled by the first phase of any game; to look whether it is costs as much as a step.
        with compiling("generals-replay") if phase != kernel.STEP else nullcontext():
            kernel.replay(
                arrays.rules,
                arrays.games,
                arrays.scratch,
                phase,
                played,
                checked,
                np.array(leaving, np.int64),
                result,
            )
        return result

    @property
    def step_number(self) -> int:
        return int(self._arrays.one[0, k.TURN])

    @property
    def over(self) -> bool:
        """At most one player is left."""
        return int(self._arrays.one[0, k.LIVING]) <= 1

    def step(self, actions: Mapping[int, int]) -> None:
        """One tick; players without an entry pass. Raises GameError for an action that is not legal; one that is no
        longer possible when its turn comes does nothing and stands in `fizzled`, its player that is, until the
        next step."""
        for player in actions:
            if not 0 <= player < self.players or not self.alive(player):
                raise GameError(f"step {self.step_number}: player {player} acts, but is not in the game")
            if not self._is_action(actions[player]):
                raise GameError(f"step {self.step_number}: action {actions[player]} of player {player} is not legal")
        before = [self.alive(player) for player in range(self.players)]
        downwards = bool(self.config.alternate_order) and self.step_number % 2 == 1
        moves = sorted(((player, int(action)) for player, action in actions.items()), reverse=downwards)
        order = self._order.get(self.step_number)
        result = self._run(kernel.STEP, order or moves, 0 if order else len(moves))
        for (player, action), what in zip(order or moves, result.tolist(), strict=True):
            if what == kernel.ILLEGAL:
                raise GameError(f"step {self.step_number}: action {action} of player {player} is not legal")
        self.fizzled = [
            player for (player, _), what in zip(order or moves, result.tolist(), strict=True) if what == kernel.FIZZLED
        ]
        for player, was in enumerate(before):
            alive = self.alive(player)
            self._rewards[player] = -1.0 if was and not alive else 1.0 if was and self.over else 0.0

    def observation(self, player: int) -> dict[str, np.ndarray]:
        """What the player sees now, by the schema's names, `action_mask` expanded; with `config.state` the truth."""
        seen = {name: values[0] for name, values in self._arrays.observation(_FIRST_SLOT, player).items()}
        if self.config.state:
            seen |= self.state()
        return seen

    def state(self) -> dict[str, np.ndarray]:
        """The whole board by the schema's names, as copies."""
        return {f"state/{name}": part for name, part in self.board()._asdict().items()}

    def board(self) -> TrueBoard:
        """The whole board, without fog."""
        shape, arrays = (self.config.height, self.config.width), self._arrays
        return TrueBoard(
            arrays.army[0].reshape(shape).copy(),
            arrays.owner[0].reshape(shape).copy(),
            arrays.terrain[0].reshape(shape).astype(np.uint8),
        )

    def alive(self, player: int) -> bool:
        return bool(self._arrays.players[0, player, k.ALIVE])

    def rewards(self) -> dict[int, float]:
        """Of the last step: -1 for who went out, 1 for who is left alone, else 0."""
        return dict(self._rewards)


def replay_rewards(config: GeneralsConfig, start: EpisodeStart, seed: int, actions: np.ndarray) -> np.ndarray:
    """Rewards of a whole game played again: float32 (T, P), for int64 `actions` of that shape, -1 for a player who has
    no row. An action that the mask did not allow was played as a pass.

    Raises GameError for metadata that describes no game, for another number of players, and for an action that is none
    of the game's.
    """
    if actions.ndim != 2 or actions.shape[1] != config.players:
        raise GameError(f"episode {start.episode}: rows of {actions.shape[1:]} players, the game has {config.players}")
    game = None if start.metadata.keys().isdisjoint(_GIVEN) else GeneralsReplay(config, start, seed)
    known = (config if game is None else game.config).actions
    if actions.size and not -1 <= int(actions.min()) <= int(actions.max()) < known:
        raise GameError(f"episode {start.episode}: action {int(actions.max())} is none of {known:,}")
    rewards = np.zeros(actions.shape, np.float32)
    if game is None:
        arrays = GeneralsArrays(config, 1, seed)
        arrays.one[0, k.EPISODE] = np.uint64(start.episode).astype(np.int64)
        played = np.where(actions < 0, config.actions - 1, actions)
        with compiling("generals-replay"):
            kernel.replay_rewards(arrays.rules, arrays.games, arrays.scratch, played, rewards)
        return rewards
    for step, row in enumerate(actions.tolist()):
        game.step({player: action for player, action in enumerate(row) if action >= 0 and game.alive(player)})
        rewards[step] = [game.rewards()[player] for player in range(config.players)]
    return rewards


def _laid_out(config: GeneralsConfig, start: EpisodeStart, seed: int) -> tuple[GeneralsConfig, EpisodeStart]:
    """The same game on the larger board that `padded` in its metadata names. Raises GameError."""
    metadata = {name: value for name, value in start.metadata.items() if name != "padded"}
    board = GeneralsReplay(config, msgspec.structs.replace(start, metadata=metadata), seed).board()
    try:
        height, width = (int(side) for side in start.metadata["padded"])
        if height < config.height or width < config.width:
            raise ValueError(f"a board of {config.height}x{config.width} does not fit into {height}x{width}")
        larger = msgspec.structs.replace(config, height=height, width=width)
        moved = padded_actions((config.height, config.width), (height, width))
        if "order" in metadata:
            metadata["order"] = {
                tick: [[player, int(moved[int(action)])] for player, action in moves]
                for tick, moves in metadata["order"].items()
            }
    except (TypeError, ValueError, IndexError) as error:
        raise GameError(f"episode {start.episode}: it cannot be laid out on a larger board: {error}") from None
    army, owner, terrain = (
        np.pad(part, ((0, height - config.height), (0, width - config.width)), constant_values=outside).ravel()
        for part, outside in zip(board, (0, k.NEUTRAL, k.MOUNTAIN), strict=True)
    )

    def tiles_with_armies(these: np.ndarray) -> list[list[int]]:
        return [[tile, int(army[tile])] for tile in np.flatnonzero(these).tolist()]

    metadata["map"] = {
        "generals": [int(np.flatnonzero(owner == player)[0]) for player in range(config.players)],
        "cities": tiles_with_armies((owner < 0) & (terrain == k.CITY)),
        "neutrals": tiles_with_armies((owner < 0) & (terrain == k.PLAIN) & (army > 0)),
        "mountains": np.flatnonzero(terrain == k.MOUNTAIN).tolist(),
    }
    return larger, msgspec.structs.replace(start, metadata=metadata)
