"""The arrays that hold games between kernel calls, for any number of games side by side."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from expkit.games.generals.config import GeneralsConfig, rules_array, view_bytes
from expkit.kernels import generals_policy as policy
from expkit.kernels import generals_rules as r
from expkit.layout import aligned_empty

SCRATCH_PLANES = 6


@dataclass(slots=True, frozen=True)
class GeneralsArrays:
    """State of `slots` games; what each array holds is told in `expkit.kernels.generals_rules`.

    view_army is view seen as int32. scratch and random are shared by the slots, for use within one call.
    """

    rules: np.ndarray
    game: np.ndarray
    players: np.ndarray
    army: np.ndarray
    board: np.ndarray
    view: np.ndarray
    view_army: np.ndarray
    notes: np.ndarray
    scratch: np.ndarray
    random: np.ndarray

    @classmethod
    def empty(cls, config: GeneralsConfig, slots: int, seed: int) -> GeneralsArrays:
        """No game in any slot."""
        players, tiles, seen = config.players, config.tiles, view_bytes(config)
        view = aligned_empty(slots * players * seen).reshape(slots, players, seen)
        view[:] = 0
        return cls(
            rules=rules_array(config, seed),
            game=np.zeros((slots, r.GAME), np.int64),
            players=np.zeros((slots, players, r.PLAYER), np.int64),
            army=np.zeros((slots, 3, tiles), np.int32),
            board=np.zeros((slots, 5, tiles), np.int8),
            view=view,
            view_army=view.view(np.int32),
            notes=np.zeros((slots, players, policy.NOTES + tiles), np.int32),
            scratch=np.zeros((SCRATCH_PLANES, tiles), np.int32),
            random=np.zeros(1, np.uint64),
        )

    @property
    def nbytes(self) -> int:
        """Memory of all arrays."""
        return sum(getattr(self, name).nbytes for name in self.__slots__ if name != "view_army")


def observation(
    arrays: GeneralsArrays, config: GeneralsConfig, slots: np.ndarray, player: int
) -> dict[str, np.ndarray]:
    """What `player` sees in `slots` (int64 (n,)): logical arrays (n, …) by the schema's names, as copies.

    `action_mask` is expanded, (n, 8 H W + 1).
    """
    rules, tiles, board = arrays.rules, config.tiles, (config.height, config.width)
    view = arrays.view[slots, player]
    count = len(view)

    def part(at: int, size: int) -> np.ndarray:
        return np.ascontiguousarray(view[:, rules[at] : rules[at] + size])

    visible = np.unpackbits(part(r.AT_VISIBLE, -(-tiles // 8)), axis=1, count=tiles, bitorder="little")
    moves = np.unpackbits(part(r.AT_MASK, -(-tiles // 2)), axis=1, count=4 * tiles, bitorder="little")
    return {
        "observation/army": np.ascontiguousarray(view[:, : 4 * tiles]).view(np.int32).reshape(count, *board),
        "observation/owner": part(r.AT_OWNER, tiles).view(np.int8).reshape(count, *board),
        "observation/terrain": part(r.AT_TERRAIN, tiles).reshape(count, *board),
        "observation/visible": visible.view(bool).reshape(count, *board),
        "observation/total_army": arrays.players[slots, :, r.TOTAL_ARMY].astype(np.int32),
        "observation/total_land": arrays.players[slots, :, r.TOTAL_LAND].astype(np.int32),
        "action_mask": np.concatenate([moves, moves, np.ones((count, 1), np.uint8)], axis=1).view(bool),
    }
