"""The weighted sum of what a step changed on the board of generals, after the rewards of an older system in Go.

Computed from the truth, not from what the player sees. Every weight is a setting, those that the Go system declared
and never used too; its defaults are the defaults here.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from expkit.errors import UsageError
from expkit.kernels import compiling
from expkit.kernels.board_changes import COUNTS, board_changes
from expkit.rewards.boards import ARMY, CITY, GENERAL, OWNER, TERRAIN, advantage, flat
from expkit.rewards.protocol import NEXT, Batch
from expkit.rewards.strategies import require_finite

# The scale that the Go system's protocol file describes and its code never used.
DOCUMENTED: dict[str, Any] = {
    "win_game": 500.0,
    "lose_game": -500.0,
    "territory_gained": 1.0,
    "territory_lost": -1.0,
    "army_gained": 0.1,
    "army_lost": -0.1,
    "capture_city": 10.0,
    "lose_city": -10.0,
    "capture_general": 100.0,
    "lose_general": -100.0,
    "army_advantage": 0.0,
}


class BoardChanges(NamedTuple):
    """What a step changed for the player, each int64 (n,), in the order of the kernel's counts.

    land, army            tiles and armies after less those before
    own, others           armies after it: the player's, and those of all other players
    cities_taken, _lost   tiles with a city before the step that became, or ceased to be, the player's
    generals_taken        tiles with a general before the step that came from another player; `generals_lost`
    """

    land: np.ndarray
    army: np.ndarray
    own: np.ndarray
    others: np.ndarray
    cities_taken: np.ndarray
    cities_lost: np.ndarray
    generals_taken: np.ndarray
    generals_lost: np.ndarray

    @classmethod
    def of(cls, batch: Batch) -> BoardChanges:
        """`batch` holds the truth before and after: army i4, owner i1, terrain u1, each (n, H, W). Raises UsageError
        for boards of different shapes."""
        names = (ARMY, NEXT + ARMY, OWNER, NEXT + OWNER, TERRAIN)
        boards = [np.ascontiguousarray(flat(batch[name])) for name in names]
        if any(board.shape != (len(batch["player"]), boards[0].shape[1]) for board in boards):
            raise UsageError(f"{', '.join(names)} are not boards of one shape; this reward is for games of generals")
        _compile()
        counts = np.empty((len(batch["player"]), COUNTS), np.int64)
        board_changes(batch["player"].astype(np.int64), *boards, counts)
        return cls(*counts.T)


@cache
def _compile() -> None:
    """Once a process: what is compiled already is loaded."""
    army, tiles = np.zeros((1, 1), np.int32), np.zeros((1, 1), np.int8)
    with compiling("rewards"):
        board_changes(
            np.zeros(1, np.int64), army, army, tiles, tiles, tiles.view(np.uint8), np.empty((1, COUNTS), np.int64)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightedReward:
    """Weights times changes, as the Go system adds them up.

    win_game, lose_game          the player's game ends with this action, by its outcome; without one, nothing
    territory_gained, _lost      times the tiles gained, or lost, in all
    army_gained, _lost           times the armies gained, or lost, in all
    capture_city, lose_city      for every city that becomes, or ceases to be, the player's
    capture_general, lose_general  for every general taken from another player, or lost
    army_advantage               times (own - others) / (own + others) armies after the step, 0 without any
    step                         for every action
    end_alone                    an action that wins or loses the game is paid that alone, as the Go system did; False
                                 adds it to the rest, without which a general captured in a game of two pays nothing

    A player who is eliminated while others play on has lost: that is paid here, where the Go system forgot it.
    """

    win_game: float = 1.0
    lose_game: float = -1.0
    territory_gained: float = 0.01
    territory_lost: float = -0.01
    army_gained: float = 0.001
    army_lost: float = -0.001
    capture_city: float = 0.1
    lose_city: float = -0.1
    capture_general: float = 0.5
    lose_general: float = -0.5
    army_advantage: float = 0.05
    step: float = 0.0
    end_alone: bool = True

    def __post_init__(self) -> None:
        weights = {part.name: getattr(self, part.name) for part in fields(self) if part.name != "end_alone"}
        require_finite("weighted", **weights)

    @property
    def needs(self) -> tuple[str, ...]:
        return (ARMY, OWNER, TERRAIN, NEXT + ARMY, NEXT + OWNER)

    def __call__(self, batch: Batch) -> np.ndarray:
        changes, outcome = BoardChanges.of(batch), batch["outcome"]
        end = np.select([outcome > 0, outcome < 0], [self.win_game, self.lose_game], 0.0)
        parts = (
            self.territory_gained * np.maximum(changes.land, 0)
            + self.territory_lost * np.maximum(-changes.land, 0)
            + self.army_gained * np.maximum(changes.army, 0)
            + self.army_lost * np.maximum(-changes.army, 0)
            + self.capture_city * changes.cities_taken
            + self.lose_city * changes.cities_lost
            + self.capture_general * changes.generals_taken
            + self.lose_general * changes.generals_lost
            + self.army_advantage * advantage(changes.own, changes.others)
            + self.step
        )
        if not self.end_alone:
            return parts + end
        decided = (outcome > 0) | (outcome < 0)
        return np.where(decided, end, parts)


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetReward:
    """What the tile that the action moves to would be worth, taken or not: the Go system's potential of a target.

    `city` for a city and `territory` for any tile that are not the player's, `general` for a general of another player;
    0 for a pass and for a move that leads off the board.
    """

    city: float = 0.1
    general: float = 0.5
    territory: float = 0.01

    def __post_init__(self) -> None:
        require_finite("target", city=self.city, general=self.general, territory=self.territory)

    @property
    def needs(self) -> tuple[str, ...]:
        return (OWNER, TERRAIN)

    def __call__(self, batch: Batch) -> np.ndarray:
        owner, terrain = batch[OWNER], batch[TERRAIN]
        rows, height, width = owner.shape
        action = batch["action"].astype(np.int64)
        is_move = (action >= 0) & (action < 8 * height * width)
        tile, direction = np.divmod(action % (4 * height * width), 4)
        y = tile // width + np.array([-1, 1, 0, 0])[direction]
        x = tile % width + np.array([0, 0, -1, 1])[direction]
        on_board = is_move & (y >= 0) & (y < height) & (x >= 0) & (x < width)
        place = np.arange(rows), np.where(on_board, y, 0), np.where(on_board, x, 0)
        holder, kind = owner[place], terrain[place]
        foreign = holder != batch["player"].astype(owner.dtype)
        worth = (
            self.city * (foreign & (kind == CITY))
            + self.general * (foreign & (kind == GENERAL) & (holder >= 0))
            + self.territory * foreign
        )
        return np.where(on_board, worth, 0.0)
