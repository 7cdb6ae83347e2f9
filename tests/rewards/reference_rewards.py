"""Slow, obvious twins of the rewards: plain Python over one transition, tile by tile. No NumPy arithmetic."""

from __future__ import annotations

import math
from typing import Any

CITY, GENERAL = 1, 2
STEPS = ((-1, 0), (1, 0), (0, -1), (0, 1))  # up, down, left, right

GO_WEIGHTS = {
    "win_game": 1.0,
    "lose_game": -1.0,
    "territory_gained": 0.01,
    "territory_lost": -0.01,
    "army_gained": 0.001,
    "army_lost": -0.001,
    "capture_city": 0.1,
    "lose_city": -0.1,
    "capture_general": 0.5,
    "lose_general": -0.5,
    "army_advantage": 0.05,
    "step": 0.0,
}


def one(batch: dict[str, Any], at: int) -> dict[str, Any]:
    """Transition number `at` as plain values; boards as dicts by (y, x)."""
    out: dict[str, Any] = {}
    for name, values in batch.items():
        value = values[at].tolist()
        if isinstance(value, list):
            value = {(y, x): tile for y, row in enumerate(value) for x, tile in enumerate(row)}
        out[name] = value
    return out


def sparse(row: dict[str, Any], win: float = 1.0, loss: float = -1.0, draw: float = 0.0) -> float:
    if math.isnan(row["outcome"]):
        return 0.0
    return win if row["outcome"] > 0 else loss if row["outcome"] < 0 else draw


def weighted(row: dict[str, Any], end_alone: bool = True, **weights: float) -> float:
    w, me = GO_WEIGHTS | weights, row["player"]
    army, owner, terrain = row["state/army"], row["state/owner"], row["state/terrain"]
    next_army, next_owner = row["next_state/army"], row["next_state/owner"]
    end = 0.0
    if row["outcome"] > 0:
        end = w["win_game"]
    elif row["outcome"] < 0:
        end = w["lose_game"]
    if end_alone and row["outcome"] != 0 and not math.isnan(row["outcome"]):
        return end
    total = end + w["step"]
    land = sum(o == me for o in next_owner.values()) - sum(o == me for o in owner.values())
    total += w["territory_gained"] * land if land > 0 else w["territory_lost"] * -land
    armies = 0
    own = others = 0
    for tile in army:
        armies += next_army[tile] if next_owner[tile] == me else 0
        armies -= army[tile] if owner[tile] == me else 0
        own += next_army[tile] if next_owner[tile] == me else 0
        others += next_army[tile] if next_owner[tile] not in (me, -1) else 0
        came, went = owner[tile] != me == next_owner[tile], owner[tile] == me != next_owner[tile]
        if terrain[tile] == CITY:
            total += w["capture_city"] * came + w["lose_city"] * went
        if terrain[tile] == GENERAL:
            total += w["capture_general"] * (came and owner[tile] != -1) + w["lose_general"] * went
    total += w["army_gained"] * armies if armies > 0 else w["army_lost"] * -armies
    if own + others:
        total += w["army_advantage"] * (own - others) / (own + others)
    return total


def target(row: dict[str, Any], city: float = 0.1, general: float = 0.5, territory: float = 0.01) -> float:
    owner, terrain = row["state/owner"], row["state/terrain"]
    height, width = max(y for y, _ in owner) + 1, max(x for _, x in owner) + 1
    if row["action"] >= 8 * height * width:
        return 0.0
    tile, direction = divmod(row["action"] % (4 * height * width), 4)
    place = (tile // width + STEPS[direction][0], tile % width + STEPS[direction][1])
    if place not in owner or owner[place] == row["player"]:
        return 0.0
    worth = territory
    if terrain[place] == CITY:
        worth += city
    if terrain[place] == GENERAL and owner[place] != -1:
        worth += general
    return worth


def phi(of: str, owner: dict[Any, int], army: dict[Any, int], terrain: dict[Any, int], me: int) -> float:
    if of == "cities":
        sites = [tile for tile in owner if terrain[tile] in (CITY, GENERAL)]
        return sum(owner[tile] == me for tile in sites) / len(sites) if sites else 0.0
    size = army if of == "army" else dict.fromkeys(owner, 1)
    own = sum(size[tile] for tile in owner if owner[tile] == me)
    others = sum(size[tile] for tile in owner if owner[tile] not in (me, -1))
    return (own - others) / (own + others) if own + others else 0.0


def potential(row: dict[str, Any], of: str = "army", gamma: float = 0.99) -> float:
    before = phi(of, row["state/owner"], row["state/army"], row["state/terrain"], row["player"])
    if row["terminated"]:
        return -before
    if not row["has_next"]:
        return 0.0
    after = phi(of, row["next_state/owner"], row["next_state/army"], row["next_state/terrain"], row["player"])
    return gamma * after - before
