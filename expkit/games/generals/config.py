"""Settings of generals: the board, the rules and how maps are drawn. A ruleset names a whole set of them."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import numpy as np

from expkit.errors import ConfigError
from expkit.kernels import generals_state as k
from expkit.kernels.generals_policy import note_words

MIN_SIDE, MAX_SIDE = 5, 64
MAX_PLAYERS = 16
TILES_PER_PLAYER = 9

RULESETS: dict[str, dict[str, Any]] = {
    # As played on generals.io.
    "generals.io": {
        "growth_period": 2,
        "land_growth_period": 50,
        "land_growth_everywhere": True,
        "halve_on_capture": True,
        "general_becomes_city": True,
        "alternate_order": True,
        "neutral_cities_regrow_to": 0,
        "general_army": 1,
        "city_army_min": 40,
        "city_army_max": 50,
        "mountain_density": 0.2,
        "vein_density": 0.0,
        "city_density": 0.03,
    },
    # The variants of an older system written in Go, for comparing with data it left.
    "go-system": {
        "growth_period": 1,
        "land_growth_period": 25,
        "land_growth_everywhere": False,
        "halve_on_capture": False,
        "general_becomes_city": False,
        "alternate_order": False,
        "neutral_cities_regrow_to": 0,
        "general_army": 2,
        "city_army_min": 40,
        "city_army_max": 40,
        "mountain_density": 0.0,
        "vein_density": 0.02,
        "city_density": 0.05,
    },
}


class GeneralsConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything an episode depends on besides its seed, its number and its players' actions.

    What is None when given is filled in from the ruleset, so that a config always reads complete.

    players                   2 to 16
    height, width             of the board in tiles, 5 to 64 each
    max_steps                 turns after which an episode is truncated
    state                     also record the true board, as state/army, state/owner and state/terrain
    growth_period             turns between +1 on every general and owned city
    land_growth_period        turns between +1 on every owned tile
    land_growth_everywhere    that growth counts on generals and cities too
    halve_on_capture          an eliminated player's armies pass over halved, rounded up
    general_becomes_city      a captured general turns into a city
    alternate_order           players move in ascending order on even turns and descending on odd ones, else ascending
    neutral_cities_regrow_to  neutral cities below this army grow as owned ones do; 0 for never
    general_army              at turn 0
    general_spacing           least Manhattan distance between generals; less where the map leaves no room
    city_army_min, _max       of neutral cities, drawn evenly
    mountain_density          mountains scattered singly, as a share of all tiles
    vein_density              random walks of mountains, of 3 to a quarter of the width, per tile
    city_density              cities as a share of all tiles

    Raises ConfigError.
    """

    players: int = 2
    height: int = 20
    width: int = 20
    max_steps: int = 500
    ruleset: str = "generals.io"
    state: bool = False
    growth_period: int | None = None
    land_growth_period: int | None = None
    land_growth_everywhere: bool | None = None
    halve_on_capture: bool | None = None
    general_becomes_city: bool | None = None
    alternate_order: bool | None = None
    neutral_cities_regrow_to: int | None = None
    general_army: int | None = None
    general_spacing: int | None = None
    city_army_min: int | None = None
    city_army_max: int | None = None
    mountain_density: float | None = None
    vein_density: float | None = None
    city_density: float | None = None

    def __post_init__(self) -> None:
        preset = RULESETS.get(self.ruleset)
        if preset is None:
            raise ConfigError(f"ruleset {self.ruleset!r} is unknown; use {' or '.join(RULESETS)}")
        self._require("players", 2, MAX_PLAYERS)
        self._require("height", MIN_SIDE, MAX_SIDE)
        self._require("width", MIN_SIDE, MAX_SIDE)
        self._require("max_steps", 1, 1_000_000)
        needed = TILES_PER_PLAYER * self.players
        if self.tiles < needed:
            side = math.isqrt(needed - 1) + 1
            raise ConfigError(
                f"a board of {self.height}x{self.width} is too small for {self.players} players: they need "
                f"{needed} tiles; use {max(side, MIN_SIDE)}x{max(side, MIN_SIDE)} or more"
            )
        default_spacing = (
            min(5, self.width // 2 + self.height // 2)
            if self.ruleset == "go-system"
            else math.isqrt(self.tiles // self.players)
        )
        for name, value in (*preset.items(), ("general_spacing", default_spacing)):
            if getattr(self, name) is None:
                msgspec.structs.force_setattr(self, name, value)
        self._require("growth_period", 1, 1_000_000)
        self._require("land_growth_period", 1, 1_000_000)
        self._require("neutral_cities_regrow_to", 0, 1_000_000)
        self._require("general_army", 1, 1_000_000)
        self._require("general_spacing", 1, self.height + self.width - 2)
        self._require("city_army_min", 0, 1_000_000)
        self._require("city_army_max", self.city_army_min or 0, 1_000_000)
        self._require("mountain_density", 0, 0.5)
        self._require("vein_density", 0, 0.1)
        self._require("city_density", 0, 0.25)
        cities = self._count("city_density")
        most = self.tiles * (self.max_steps // (self.land_growth_period or 1) + 1)
        most += (cities + self.players) * (self.max_steps // (self.growth_period or 1) + 1)
        most += cities * (self.city_army_max or 0) + self.players * (self.general_army or 0)
        if most >= 1 << 31:
            raise ConfigError(
                f"armies could reach {most:,} in {self.max_steps:,} steps, above what int32 holds; lower max_steps"
            )

    def _require(self, name: str, low: float, high: float) -> None:
        value = getattr(self, name)
        if not low <= value <= high:
            raise ConfigError(f"{name} is {value}; it must be {low:,} to {high:,}")

    def _count(self, density: str) -> int:
        return round(self.tiles * getattr(self, density))

    @property
    def tiles(self) -> int:
        """Tiles of the board, H * W."""
        return self.height * self.width

    @property
    def actions(self) -> int:
        """Size of the action space, 8 H W + 1: full moves, half moves, the pass."""
        return 8 * self.tiles + 1


_AS_GIVEN = {
    k.PLAYERS: "players",
    k.HEIGHT: "height",
    k.WIDTH: "width",
    k.MAX_STEPS: "max_steps",
    k.GROWTH_PERIOD: "growth_period",
    k.LAND_PERIOD: "land_growth_period",
    k.LAND_EVERYWHERE: "land_growth_everywhere",
    k.HALVE_ON_CAPTURE: "halve_on_capture",
    k.GENERAL_TO_CITY: "general_becomes_city",
    k.ALTERNATE_ORDER: "alternate_order",
    k.REGROW_BELOW: "neutral_cities_regrow_to",
    k.GENERAL_ARMY: "general_army",
    k.GENERAL_SPACING: "general_spacing",
    k.CITY_LEAST: "city_army_min",
    k.CITY_MOST: "city_army_max",
}


def rules_array(config: GeneralsConfig, seed: int = 0) -> np.ndarray:
    """int64: the settings as kernels read them, and where everything stands in a game's bytes."""
    rules = np.zeros(k.RULES, np.int64)
    tiles, players = config.tiles, config.players
    for index, name in _AS_GIVEN.items():
        rules[index] = getattr(config, name)
    rules[k.TILES] = tiles
    rules[k.MOUNTAINS] = config._count("mountain_density")
    rules[k.VEINS] = math.floor(tiles * (config.vein_density or 0))
    rules[k.VEIN_LONGEST] = config.width // 4
    rules[k.CITIES] = config._count("city_density")
    rules[k.SEED] = np.uint64(seed % (1 << 64)).view(np.int64)
    rules[k.NOTES] = note_words(tiles)
    rules[k.VIEW] = _lay_out(
        rules,
        4 * tiles,
        (k.SEES_OWNER, tiles),
        (k.SEES_TERRAIN, tiles),
        (k.SEES_VISIBLE, -(-tiles // 8)),
        (k.SEES_MASK, -(-tiles // 2)),
        (k.SEES_NEAR, tiles),
    )
    rules[k.GAME_BYTES] = _lay_out(
        rules,
        8 * k.ONE,
        (k.AT_PLAYERS, 8 * k.PLAYER * players),
        (k.AT_TOTAL_ARMY, 4 * players),
        (k.AT_TOTAL_LAND, 4 * players),
        (k.AT_ARMY, 4 * tiles),
        (k.AT_CHANGED, 4 * tiles),
        (k.AT_SITES, 4 * tiles),
        (k.AT_OWNER, tiles),
        (k.AT_TERRAIN, tiles),
        (k.AT_EXITS, tiles),
        (k.AT_TOUCHED, tiles),
        (k.AT_SHOWN, tiles),
        (k.AT_NOTES, 4 * int(rules[k.NOTES]) * players),
        (k.AT_VIEWS, int(rules[k.VIEW]) * players),
    )
    return rules


def _lay_out(rules: np.ndarray, at: int, *parts: tuple[int, int]) -> int:
    """Offsets of parts behind `at` bytes, each on a multiple of 8; returns the whole size, a multiple of 64."""
    for index, size in parts:
        at = -(-at // 8) * 8
        rules[index] = at
        at += size
    return -(-at // 64) * 64
