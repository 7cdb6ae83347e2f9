"""What a player sees, computed once per game, turn and player, and the fog drawn over a board from it.

The observation, the mask and the tensor of one turn all ask for the same visibility. The cache key names the game:
without it two games in the same turn would show each other's fog.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import NamedTuple

import numpy as np

from expkit.errors import UsageError
from expkit.kernels.generals_state import CITY, FOG, MOUNTAIN, OBSTACLE, UNKNOWN

DEFAULT_ENTRIES = 1024


class Board(NamedTuple):
    """One board, each part (H, W): army int32, owner int8, terrain uint8, visible bool."""

    army: np.ndarray
    owner: np.ndarray
    terrain: np.ndarray
    visible: np.ndarray


def visible_tiles(owner: np.ndarray, player: int, radius: int = 1) -> np.ndarray:
    """bool (H, W): the tiles within `radius` steps, diagonals included, of a tile of `player`.

    owner  (H, W), ids of players, negative for nobody
    """
    if radius < 0:
        raise UsageError(f"vision of radius {radius} is not possible; use 0 or more")
    height, width = owner.shape
    seen = owner == player
    for axis, side in ((0, height), (1, width)):
        # A square box is the box along one axis, then along the other.
        line = seen.copy()
        for shift in range(1, min(radius, side - 1) + 1):
            if axis == 0:
                line[shift:] |= seen[:-shift]
                line[:-shift] |= seen[shift:]
            else:
                line[:, shift:] |= seen[:, :-shift]
                line[:, :-shift] |= seen[:, shift:]
        seen = line
    return seen


def under_fog(army: np.ndarray, owner: np.ndarray, terrain: np.ndarray, visible: np.ndarray) -> Board:
    """The board as seen by one who sees `visible` of it: elsewhere no armies, owner unknown, and terrain that tells
    only an obstacle (city or mountain) from open fog. Arguments (H, W), returned as copies."""
    hidden = ~visible
    obstacle = hidden & ((terrain == CITY) | (terrain == MOUNTAIN))
    shown = np.where(obstacle, OBSTACLE, np.where(hidden, FOG, terrain))
    return Board(
        army=np.where(hidden, 0, army).astype(np.int32),
        owner=np.where(hidden, UNKNOWN, owner).astype(np.int8),
        terrain=shown.astype(np.uint8),
        visible=visible.copy(),
    )


class VisibilityCache:
    """Visibility by (episode, step, player), at most `entries` of them, the least recently used go first.

    Arrays are handed out read-only, so that no caller changes what another sees. Safe to use from several threads.
    """

    def __init__(self, entries: int = DEFAULT_ENTRIES, radius: int = 1):
        if entries < 1:
            raise UsageError(f"a visibility cache of {entries} entries holds none; give it at least 1")
        self.entries = entries
        self.radius = radius
        self.hits = 0
        self.misses = 0
        self._lock = threading.Lock()
        self._seen: OrderedDict[tuple[int, int, int], np.ndarray] = OrderedDict()

    def __len__(self) -> int:
        return len(self._seen)

    def visible(self, episode: int, step: int, player: int, owner: np.ndarray) -> np.ndarray:
        """bool (H, W), read-only: what `player` sees at `step` of `episode`, where `owner` (H, W) tells who owns each
        tile. `owner` is looked at on a miss only."""
        key = (episode, step, player)
        with self._lock:
            known = self._seen.get(key)
            if known is not None:
                self._seen.move_to_end(key)
                self.hits += 1
                return known
            self.misses += 1
        fresh = visible_tiles(owner, player, self.radius)
        fresh.flags.writeable = False
        with self._lock:
            known = self._seen.setdefault(key, fresh)
            self._seen.move_to_end(key)
            while len(self._seen) > self.entries:
                self._seen.popitem(last=False)
        return known

    def forget(self, episode: int) -> None:
        """Drop what is known of an episode that has ended or starts again under the same number."""
        with self._lock:
            for key in [key for key in self._seen if key[0] == episode]:
                del self._seen[key]
