"""A slow, obvious twin of the rules of generals, of what players see, and of their masks. Plain Python, no kernels."""

from __future__ import annotations

from dataclasses import dataclass, field

PLAIN, CITY, GENERAL, MOUNTAIN, FOG, OBSTACLE = range(6)
NEUTRAL, UNKNOWN = -1, -2
STEPS = ((-1, 0), (1, 0), (0, -1), (0, 1))  # up, down, left, right


@dataclass(slots=True)
class Rules:
    growth: int = 2
    land_growth: int = 50
    everywhere: bool = True
    halve: bool = True
    becomes_city: bool = True
    alternate: bool = True
    regrow_to: int = 0


@dataclass(slots=True)
class SlowGenerals:
    """army, owner, terrain by (y, x); a player is alive while it is in `alive`."""

    height: int
    width: int
    players: int
    army: dict[tuple[int, int], int]
    owner: dict[tuple[int, int], int]
    terrain: dict[tuple[int, int], int]
    rules: Rules
    turn: int = 0
    alive: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.alive = set(range(self.players))

    @property
    def tiles(self) -> list[tuple[int, int]]:
        return [(y, x) for y in range(self.height) for x in range(self.width)]

    def move(self, player: int, action: int) -> None:
        half_from, nothing = 4 * self.height * self.width, 8 * self.height * self.width
        if action == nothing:
            return
        half, action = action >= half_from, action % half_from
        tile, (down, right) = divmod(action // 4, self.width), STEPS[action % 4]
        target = (tile[0] + down, tile[1] + right)
        if self.owner[tile] != player or self.army[tile] < 2:
            return
        if target not in self.terrain or self.terrain[target] == MOUNTAIN:
            return
        moved = self.army[tile] // 2 if half else self.army[tile] - 1
        self.army[tile] -= moved
        if self.owner[target] == player:
            self.army[target] += moved
        elif moved > self.army[target]:
            loser = self.owner[target]
            self.army[target] = moved - self.army[target]
            self.owner[target] = player
            if self.terrain[target] == GENERAL and loser != NEUTRAL:
                if self.rules.becomes_city:
                    self.terrain[target] = CITY
                self.alive.discard(loser)
                for other in self.tiles:
                    if self.owner[other] == loser:
                        self.owner[other] = player
                        if self.rules.halve:
                            self.army[other] = -(-self.army[other] // 2)
        else:
            self.army[target] -= moved

    def step(self, actions: dict[int, int]) -> None:
        order = sorted(actions, reverse=self.rules.alternate and self.turn % 2 == 1)
        for player in order:
            if player in self.alive:
                self.move(player, actions[player])
        self.turn += 1
        for tile in self.tiles:
            special = self.terrain[tile] in (CITY, GENERAL)
            owned = self.owner[tile] != NEUTRAL
            if self.turn % self.rules.growth == 0 and special and (owned or self.army[tile] < self.rules.regrow_to):
                self.army[tile] += 1
            if self.turn % self.rules.land_growth == 0 and owned and (self.rules.everywhere or not special):
                self.army[tile] += 1

    def visible(self, player: int, tile: tuple[int, int]) -> bool:
        y, x = tile
        return any(self.owner.get((y + down, x + right)) == player for down in (-1, 0, 1) for right in (-1, 0, 1))

    def sees(self, player: int, tile: tuple[int, int]) -> tuple[int, int, int]:
        """army, owner, terrain of a tile as the player sees it."""
        if self.visible(player, tile):
            return self.army[tile], self.owner[tile], self.terrain[tile]
        return 0, UNKNOWN, OBSTACLE if self.terrain[tile] in (CITY, MOUNTAIN) else FOG

    def mask(self, player: int) -> list[bool]:
        full = [
            self.owner[tile] == player
            and self.army[tile] >= 2
            and self.terrain.get((tile[0] + down, tile[1] + right), MOUNTAIN) != MOUNTAIN
            for tile in self.tiles
            for down, right in STEPS
        ]
        return [*full, *full, True]

    def totals(self) -> tuple[list[int], list[int]]:
        """Armies and tiles of each player."""
        armies = [sum(self.army[t] for t in self.tiles if self.owner[t] == p) for p in range(self.players)]
        return armies, [sum(self.owner[t] == p for t in self.tiles) for p in range(self.players)]
