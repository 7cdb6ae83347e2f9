"""What a game, a policy and a re-simulation are to the rest of expkit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

import numpy as np

from expkit.row.episodes import EpisodeEnd, EpisodeStart
from expkit.row.layout import RowSink
from expkit.row.schema import Schema

SIMULTANEOUS = "simultaneous_moves"  # in a run's metadata, where its source does not say it for all runs


class Policy(Protocol):
    """Chooses actions for a batch of players whose turn it is, n of them.

    observation  name without `observation/` to an array (n, …)
    action_mask  bool (n, actions)
    episode      uint64 (n,), the whole numbers
    step         uint32 (n,), the game's own turns
    player       uint16 (n,)

    Returns n integers, one action each.
    """

    def __call__(
        self,
        observation: dict[str, np.ndarray],
        action_mask: np.ndarray,
        episode: np.ndarray,
        step: np.ndarray,
        player: np.ndarray,
    ) -> np.ndarray: ...


@runtime_checkable
class Game(Protocol):
    """Several games of one kind side by side, played by one thread, which write their own rows."""

    schema: Schema
    players: int
    num_envs: int

    @property
    def illegal_actions(self) -> int:
        """Actions so far that the rules did not allow and that were played as a pass."""
        ...

    @property
    def idle(self) -> bool:
        """No episode is open and none is left to start."""
        ...

    @property
    def committed_rows(self) -> int:
        """Rows of all players written so far, and the last rows that open games still need."""
        ...

    def play(self, sink: RowSink, max_ticks: int, row_budget: int = -1) -> int:
        """Advance by up to `max_ticks` ticks; returns how many. Fewer when a block is nearly full."""
        ...

    def finish(self, sink: RowSink) -> bool:
        """Write the last rows of open episodes; False when a block lacked room: call again with another."""
        ...

    def take_events(self) -> tuple[list[EpisodeStart], list[EpisodeEnd]]:
        """Episodes that started and that ended since the last call."""
        ...


@runtime_checkable
class Resimulator(Protocol):
    """One game stepped from Python, to play a recorded episode again."""

    players: int

    @property
    def step_number(self) -> int:
        """Turns played."""
        ...

    def step(self, actions: Mapping[int, int]) -> None:
        """One tick; players without an entry pass. Raises GameError for an action that is not legal."""
        ...

    def observation(self, player: int) -> dict[str, np.ndarray]:
        """What the player sees now, by the schema's names, `action_mask` with it."""
        ...

    def state(self) -> dict[str, np.ndarray]:
        """The truth now, whether it is recorded or not: copies by the schema's names, `state/…`."""
        ...

    def alive(self, player: int) -> bool: ...

    def rewards(self) -> dict[int, float]:
        """Rewards of the last step."""
        ...
