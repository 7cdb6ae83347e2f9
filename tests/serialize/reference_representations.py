"""The compact planes and the flat features of one board, tile by tile."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import reference_planes

CITY, GENERAL, MOUNTAIN, OBSTACLE = 1, 2, 3, 5


def byte_planes(
    army: np.ndarray, owner: np.ndarray, terrain: np.ndarray, visible: np.ndarray, player: int
) -> np.ndarray:
    """uint8 (9, H, W) of one board, parts (H, W)."""
    out = reference_planes.planes(army, owner, terrain, visible, player, 255).astype(np.uint8)
    for y, x in np.ndindex(army.shape):
        whole = min(max(int(army[y, x]), 0), 255)
        out[0, y, x] = whole if visible[y, x] and owner[y, x] == player else 0
        out[1, y, x] = whole if visible[y, x] and owner[y, x] not in (player, -1, -2) else 0
    return out


def flat(board: Sequence[np.ndarray], total_army: np.ndarray, total_land: np.ndarray, player: int) -> dict[str, int]:
    """The features by name; `board` is army, owner, terrain, visible, each (H, W)."""
    tiles = [tuple(int(part[at]) for part in board) for at in np.ndindex(board[0].shape)]
    out: dict[str, int] = {}
    others = [one for one in range(len(total_army)) if one != player]
    for name, one in zip(["own", *(f"rival{n + 1}" for n in range(len(others)))], [player, *others], strict=True):
        seen = [(army, terrain) for army, owner, terrain, visible in tiles if visible and owner == one]
        out[f"{name}_land"], out[f"{name}_army"] = int(total_land[one]), int(total_army[one])
        out[f"{name}_seen_land"], out[f"{name}_seen_army"] = len(seen), sum(army for army, _ in seen)
        out[f"{name}_seen_sites"] = sum(terrain in (CITY, GENERAL) for _, terrain in seen)
        out[f"{name}_largest_army"] = max((army for army, _ in seen), default=0)
    nobody = [(army, terrain) for army, owner, terrain, visible in tiles if visible and owner < 0]
    out["movable"] = sum(visible and owner == player and army > 1 for army, owner, _, visible in tiles)
    out["neutral_land"] = sum(terrain != MOUNTAIN for _, terrain in nobody)
    out["neutral_cities"] = sum(terrain in (CITY, GENERAL) for _, terrain in nobody)
    out["neutral_army"] = sum(army for army, _ in nobody)
    out["mountains"] = sum(bool(visible) and terrain == MOUNTAIN for _, _, terrain, visible in tiles)
    out["visible"] = sum(visible for _, _, _, visible in tiles)
    out["obstacles"] = sum(not visible and terrain == OBSTACLE for _, _, terrain, visible in tiles)
    return out
