"""One episode of an environment as rows: an action is held until what it caused is known, then both are a row.

That is the same for one player, for players who all move at once, and for players who take turns, whose rewards and
whose end may come in the turns of others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any, Protocol

from expkit.spaces.environment import EnvLayout, plain


class RowTarget(Protocol):
    """Where rows go: a `Recorder`, or another that takes them in its form."""

    def new_episode(
        self, *, seeds: Mapping[str, int] | None = None, number: int | None = None, **metadata: Any
    ) -> int: ...
    def add(self, *, player: int, episode: int, step: int, **fields: Any) -> None: ...
    def end(
        self, *, episode: int, player: int, outcome: float | None = None, step: int | None = None, **observation: Any
    ) -> None: ...
    def annotate(self, episode: int, **metadata: Any) -> None: ...


class _Part:
    """A player's part of an episode: the action whose consequences are not all known, and the sums so far."""

    __slots__ = ("flags", "last", "paid", "row", "rows", "step", "total")

    def __init__(self) -> None:
        self.row: dict[str, Any] | None = None
        self.rows = 0
        self.step = 0
        self.paid = 0.0
        self.total = 0.0
        self.flags: tuple[bool, bool] | None = None  # terminated, truncated, once it is over
        self.last: dict[str, Any] | None = None


class EpisodeRows:
    """Rows of one episode after the other. The episode begins on disk with its first row, so that none is empty.

    turn     actions, or rounds of them, since the episode began
    episode  the number that the open episode is to have, None where the target allots it
    """

    def __init__(self, target: RowTarget, layout: EnvLayout):
        self._target, self._layout = target, layout
        self._parts: dict[int, _Part] = {}
        self._number: int | None = None
        self._start: tuple[dict[str, int], dict[str, Any]] = ({}, {})
        self._illegal: list[dict[str, int]] = []
        self.turn = 0
        self.episode: int | None = None
        self.illegal_actions = 0

    def begin(self, seeds: Mapping[str, int], metadata: Mapping[str, Any]) -> None:
        """The next episode, after `finish`."""
        self._parts, self._number, self._illegal, self.turn = {}, None, [], 0
        self.episode = None
        self._start = dict(seeds), dict(metadata)

    @property
    def is_open(self) -> bool:
        """Whether the episode has actions, and is not finished."""
        return bool(self._parts)

    @property
    def owed(self) -> int:
        """Rows that are not written yet: held actions, and last rows of those who have others."""
        return sum((part.row is not None) + 1 for part in self._parts.values())

    def rows_of_a_step(self, players: Sequence[int]) -> int:
        """Rows, written or owed, that are more once these players have acted."""
        return sum(1 + (player not in self._parts) for player in players)

    def act(self, player: int, seen: Mapping[str, Any], acted: Mapping[str, Any]) -> None:
        """The player acts on what it saw; columns of both, copies. The row is written by `settle`."""
        part = self._parts.get(player)
        if part is None:
            part = self._parts[player] = _Part()
        part.row = {**seen, **acted}
        part.step = self.turn
        if not self._layout.is_legal(seen, acted.get("action")):
            self.illegal_actions += 1
            self._illegal.append({"player": player, "step": self.turn})

    def step(
        self, player: int, seen: Mapping[str, Any], acted: Mapping[str, Any], reward: Any, over: tuple[Any, Any]
    ) -> None:
        """What `act`, `pay` and `settle` do for an action whose consequences are known at once."""
        part = self._parts.get(player)
        if part is None or self._number is None or self._layout.actions:
            self.act(player, seen, acted)
            self.pay(player, reward)
            self.settle(player, *over)
            return
        terminated, truncated = bool(over[0]), bool(over[1])
        paid = float(reward)
        self._target.add(
            player=player,
            episode=self._number,
            step=self.turn,
            reward=paid,
            terminated=terminated,
            truncated=truncated,
            **seen,
            **acted,
        )
        part.rows += 1
        part.total += paid
        if terminated or truncated:
            part.flags = terminated, truncated

    def pay(self, player: int, reward: Any) -> None:
        """A reward that the player's last action caused, perhaps not the last one."""
        part = self._parts.get(player)
        if part is not None:
            part.paid += float(reward)

    def settle(self, player: int, terminated: Any = False, truncated: Any = False) -> None:
        """What the player's last action caused is known: write its row."""
        part = self._parts.get(player)
        if part is None or part.row is None:
            return
        if self._number is None:
            self._number = self._target.new_episode(seeds=self._start[0], number=self.episode, **self._start[1])
        flags = bool(terminated), bool(truncated)
        row, part.row = part.row, None
        self._target.add(
            player=player,
            episode=self._number,
            step=part.step,
            reward=part.paid,
            terminated=flags[0],
            truncated=flags[1],
            **row,
        )
        part.rows += 1
        part.total += part.paid
        part.paid = 0.0
        if flags[0] or flags[1]:
            part.flags = flags

    def leave(self, player: int, seen: Mapping[str, Any]) -> None:
        """The player's part is over; what it saw last is written with that of the others, by `finish`."""
        part = self._parts.get(player)
        if part is not None:
            part.last = dict(seen)
            part.step = self.turn

    def waits_for(self) -> list[int]:
        """Players with rows who have not left."""
        return [player for player, part in self._parts.items() if part.last is None]

    def finish(self) -> None:
        """The episode is over, all who have rows have left."""
        if self._number is not None:
            outcomes = self._outcomes()
            if self._illegal:
                self._target.annotate(self._number, illegal_actions=self._illegal)
            for player, part in sorted(self._parts.items()):
                if part.rows:
                    last = {"outcome": outcomes.get(player), "step": part.step, **(part.last or {})}
                    self._target.end(episode=self._number, player=player, **last)
        self._parts, self._number = {}, None

    def _outcomes(self) -> dict[int, float]:
        """The returns where they say who won: of a game of several players that ended by its rules, with a sum of
        zero. A game that an illegal action ended was not lost at play."""
        parts = self._parts.values()
        ended = all(part.flags is not None and part.flags[0] for part in parts)
        totals = [part.total for part in parts]
        if len(totals) < 2 or not ended or self._illegal or abs(sum(totals)) > 1e-6 * max(map(abs, totals), default=0):
            return {}
        return {player: part.total for player, part in self._parts.items()}


def episode_metadata(options: Any) -> dict[str, Any]:
    """What the episode is told of the options of its reset."""
    return {} if not options else {"options": plain(options)}


def close_recorded(env: Any, recorder: Any, interrupt: Callable[[], None]) -> None:
    """End the open episode by `interrupt`, then close the run, then the environment, whichever of these fails."""
    with ExitStack() as closing:
        closing.callback(env.close)
        closing.callback(recorder.close)
        interrupt()
