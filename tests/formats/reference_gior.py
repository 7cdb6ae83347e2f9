"""The rules of generals.io on one game, tile by tile, slow and obvious: what the engine's re-simulation is held to.

Written from the observed behaviour of real games: with it their files play through without one illegal move.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

PLAIN, CITY, GENERAL, MOUNTAIN, FOG, OBSTACLE = range(6)
NEUTRAL, UNKNOWN = -1, -2


@dataclass
class SlowGame:
    """`army`, `owner`, `terrain` are lists of width * height; `left` counts how often a player has left."""

    width: int
    height: int
    generals: Sequence[int]
    cities: dict[int, int] = field(default_factory=dict)
    mountains: Sequence[int] = ()
    neutrals: dict[int, int] = field(default_factory=dict)
    regrow_to: int = 0

    def __post_init__(self) -> None:
        tiles = self.width * self.height
        self.army, self.owner, self.terrain = [0] * tiles, [NEUTRAL] * tiles, [PLAIN] * tiles
        for tile, army in self.neutrals.items():
            self.army[tile] = army
        for tile, army in self.cities.items():
            self.army[tile], self.terrain[tile] = army, CITY
        for tile in self.mountains:
            self.terrain[tile] = MOUNTAIN
        for player, tile in enumerate(self.generals):
            self.army[tile], self.terrain[tile], self.owner[tile] = 1, GENERAL, player
        self.alive = [True] * len(self.generals)
        self.left = [0] * len(self.generals)
        self.tick = 0

    def play(self, moves: Iterable[tuple[int, int, int, bool]], leaving: Iterable[int] = ()) -> list[str]:
        """One tick: moves (player, start, end, half) in order, then those who leave, then growth. Returns what
        was illegal."""
        wrong = [reason for move in moves if (reason := self.move(*move))]
        for player in leaving:
            self.leave(player)
        self.grow()
        return wrong

    def move(self, player: int, start: int, end: int, half: bool) -> str:
        stays = (self.army[start] + 1) // 2 if half else 1
        distance = abs(start // self.width - end // self.width) + abs(start % self.width - end % self.width)
        if not self.alive[player]:
            return f"player {player} is dead"
        if self.owner[start] != player:
            return f"tile {start} is not of player {player}"
        if self.army[start] < 2:
            return f"tile {start} has army {self.army[start]}"
        if distance != 1 or self.terrain[end] == MOUNTAIN:
            return f"tile {end} cannot be entered from {start}"
        moved = self.army[start] - stays
        self.army[start] = stays
        if self.owner[end] == player:
            self.army[end] += moved
        elif moved <= self.army[end]:
            self.army[end] -= moved
        else:
            loser = self.owner[end]
            self.army[end] = moved - self.army[end]
            self.owner[end] = player
            if self.terrain[end] == GENERAL:
                self.terrain[end] = CITY
                self.alive[loser] = False
                for tile, owner in enumerate(self.owner):
                    if owner == loser:
                        self.owner[tile] = player
                        self.army[tile] = (self.army[tile] + 1) // 2
        return ""

    def leave(self, player: int) -> None:
        self.left[player] += 1
        if self.alive[player]:
            self.alive[player] = False
            return
        for tile, owner in enumerate(self.owner):
            if owner == player:
                self.owner[tile] = NEUTRAL
                if self.terrain[tile] == GENERAL:
                    self.terrain[tile] = CITY

    def grow(self) -> None:
        self.tick += 1
        for tile, owner in enumerate(self.owner):
            site = self.terrain[tile] in (CITY, GENERAL)
            if self.tick % 2 == 0 and site and (owner >= 0 or self.army[tile] < self.regrow_to):
                self.army[tile] += 1
            if self.tick % 50 == 0 and owner >= 0:
                self.army[tile] += 1

    def seen_by(self, player: int) -> dict[str, list[int]]:
        """The board in the fog of one player: army, owner, terrain, visible."""
        seen: dict[str, list[int]] = {"army": [], "owner": [], "terrain": [], "visible": []}
        for tile in range(self.width * self.height):
            y, x = divmod(tile, self.width)
            near = [
                self.owner[row * self.width + column] == player
                for row in range(max(0, y - 1), min(self.height, y + 2))
                for column in range(max(0, x - 1), min(self.width, x + 2))
            ]
            visible = any(near)
            hidden = OBSTACLE if self.terrain[tile] in (CITY, MOUNTAIN) else FOG
            seen["army"].append(self.army[tile] if visible else 0)
            seen["owner"].append(self.owner[tile] if visible else UNKNOWN)
            seen["terrain"].append(self.terrain[tile] if visible else hidden)
            seen["visible"].append(int(visible))
        return seen
