"""The fields of a generals row."""

from __future__ import annotations

from expkit.games.generals.config import GeneralsConfig
from expkit.row.schema import Field, Schema

OWNER_MEANING = "player id, -1 neutral (mountains too), -2 unknown, in fog"
TERRAIN_CODES = ("plain", "city", "general", "mountain", "fog", "obstacle")
TERRAIN_MEANING = (
    "0 plain, 1 city, 2 general, 3 mountain; not visible: 4 fog (plain or general), 5 obstacle (city or mountain)"
)
DIRECTIONS = ("up", "down", "left", "right")


def generals_schema(config: GeneralsConfig) -> Schema:
    """Fields of a row of a game under `config`: what the player sees, and with `config.state` the truth.

    An eliminated player owns nothing, so its last observation is all fog; the totals of all players stay known.
    """
    board, players, top = (config.height, config.width), config.players, float((1 << 31) - 1)
    fields = [
        Field(
            "observation/army", "i4", board, "observation", unit="armies", low=0, high=top,
            meaning="armies on visible tiles, 0 elsewhere",
        ),
        Field("observation/owner", "i1", board, "observation", low=-2, high=players - 1, meaning=OWNER_MEANING),
        Field("observation/terrain", "u1", board, "observation", low=0, high=5, meaning=TERRAIN_MEANING),
        Field(
            "observation/visible", "bool", board, "observation",
            meaning="one of the player's tiles is among this tile and its 8 neighbours",
        ),
        Field(
            "observation/total_army", "i4", (players,), "observation", unit="armies", low=0, high=top,
            meaning="armies of every player on the whole board, as the scoreboard shows them",
        ),
        Field(
            "observation/total_land", "i4", (players,), "observation", unit="tiles", low=0, high=config.tiles,
            meaning="tiles of every player on the whole board, 0 for an eliminated one",
        ),
    ]  # fmt: skip
    if config.state:
        fields += [
            Field("state/army", "i4", board, "observation", unit="armies", low=0, high=top, meaning="armies, no fog"),
            Field(
                "state/owner", "i1", board, "observation", low=-1, high=players - 1,
                meaning="player id, -1 neutral (mountains too), no fog",
            ),
            Field(
                "state/terrain", "u1", board, "observation", low=0, high=3,
                meaning="0 plain, 1 city, 2 general, 3 mountain, no fog",
            ),
        ]  # fmt: skip
    fields += [
        Field(
            "action_mask", "bool", (4 * config.tiles,), "observation", expand=(2, 1),
            meaning="legal actions: full moves, the same by half, the pass",
        ),
        Field(
            "action", "u4", (), "action", low=0, high=8 * config.tiles,
            meaning="(y * W + x) * 4 + direction (0 up, 1 down, 2 left, 3 right); + 4 H W by half; 8 H W is the pass",
        ),
    ]  # fmt: skip
    return Schema(fields)
