"""The bytes that hold games between kernel calls, and NumPy views of their parts."""

from __future__ import annotations

from functools import cached_property

import numpy as np

from expkit.games.generals.config import GeneralsConfig, rules_array
from expkit.kernels import generals_state as k
from expkit.kernels.generals_rows import FROM_GAME, FROM_VIEW
from expkit.row.layout import aligned_empty

SCRATCH_PLANES = 4


class GeneralsArrays:
    """State of `slots` games, none of them begun; `expkit.kernels.generals_state` tells what each part is.

    games is uint8 (slots, bytes of a game); scratch int32 (planes, (H + 2) (W + 2)) is shared, for use within one call.
    """

    def __init__(self, config: GeneralsConfig, slots: int, seed: int):
        self.config = config
        self.rules = rules_array(config, seed)
        self.games = aligned_empty(slots * int(self.rules[k.GAME_BYTES])).reshape(slots, -1)
        self.games[:] = 0
        self.scratch = np.zeros((SCRATCH_PLANES, (config.height + 2) * (config.width + 2)), np.int32)

    @property
    def nbytes(self) -> int:
        """Memory of all games."""
        return self.games.nbytes + self.scratch.nbytes

    def _part(self, at: int, dtype: type, *shape: int) -> np.ndarray:
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        return self.games[:, at : at + size].view(dtype).reshape(len(self.games), *shape)

    @cached_property
    def one(self) -> np.ndarray:
        """int64 (slots, ONE)."""
        return self._part(0, np.int64, k.ONE)

    @cached_property
    def players(self) -> np.ndarray:
        """int64 (slots, P, PLAYER)."""
        return self._part(int(self.rules[k.AT_PLAYERS]), np.int64, self.config.players, k.PLAYER)

    @cached_property
    def army(self) -> np.ndarray:
        """int32 (slots, N), the truth."""
        return self._part(int(self.rules[k.AT_ARMY]), np.int32, self.config.tiles)

    @cached_property
    def owner(self) -> np.ndarray:
        """int8 (slots, N), the truth."""
        return self._part(int(self.rules[k.AT_OWNER]), np.int8, self.config.tiles)

    @cached_property
    def terrain(self) -> np.ndarray:
        """int8 (slots, N), the truth."""
        return self._part(int(self.rules[k.AT_TERRAIN]), np.int8, self.config.tiles)

    def sources(self) -> dict[str, tuple[int, int, int]]:
        """Where rows copy each field from: (FROM_VIEW or FROM_GAME, byte offset, bytes)."""
        rules, tiles, players = self.rules.tolist(), self.config.tiles, self.config.players
        return {
            "observation/army": (FROM_VIEW, 0, 4 * tiles),
            "observation/owner": (FROM_VIEW, rules[k.SEES_OWNER], tiles),
            "observation/terrain": (FROM_VIEW, rules[k.SEES_TERRAIN], tiles),
            "observation/visible": (FROM_VIEW, rules[k.SEES_VISIBLE], -(-tiles // 8)),
            "observation/total_army": (FROM_GAME, rules[k.AT_TOTAL_ARMY], 4 * players),
            "observation/total_land": (FROM_GAME, rules[k.AT_TOTAL_LAND], 4 * players),
            "state/army": (FROM_GAME, rules[k.AT_ARMY], 4 * tiles),
            "state/owner": (FROM_GAME, rules[k.AT_OWNER], tiles),
            "state/terrain": (FROM_GAME, rules[k.AT_TERRAIN], tiles),
            "action_mask": (FROM_VIEW, rules[k.SEES_MASK], -(-tiles // 2)),
        }

    def observation(self, slots: np.ndarray, player: int) -> dict[str, np.ndarray]:
        """What `player` sees in `slots` (int64 (n,)): logical arrays (n, …) by the schema's names, as copies.

        `action_mask` is expanded, (n, 8 H W + 1).
        """
        tiles, board, count = self.config.tiles, (self.config.height, self.config.width), len(slots)
        start = int(self.rules[k.AT_VIEWS] + player * self.rules[k.VIEW])
        part = {}
        for name, (source, at, size) in self.sources().items():
            at += start if source == FROM_VIEW else 0
            part[name] = np.ascontiguousarray(self.games[slots, at : at + size])
        visible = np.unpackbits(part["observation/visible"], axis=1, count=tiles, bitorder="little")
        moves = np.unpackbits(part["action_mask"], axis=1, count=4 * tiles, bitorder="little")
        return {
            "observation/army": part["observation/army"].view(np.int32).reshape(count, *board),
            "observation/owner": part["observation/owner"].view(np.int8).reshape(count, *board),
            "observation/terrain": part["observation/terrain"].reshape(count, *board),
            "observation/visible": visible.view(bool).reshape(count, *board),
            "observation/total_army": part["observation/total_army"].view(np.int32),
            "observation/total_land": part["observation/total_land"].view(np.int32),
            "action_mask": np.concatenate([moves, moves, np.ones((count, 1), np.uint8)], axis=1).view(bool),
        }
