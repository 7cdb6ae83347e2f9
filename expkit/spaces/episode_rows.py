"""One episode of an environment as rows: an action is held until what it caused is known, then both are a row.

That is the same for one player, for players who all move at once, and for players who take turns, whose rewards and
whose end may come in the turns of others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any, Protocol

import numpy as np

from expkit.errors import SchemaError
from expkit.row.episodes import Ended
from expkit.spaces.environment import EnvLayout, plain

BY_RESET = (
    "reset came before the end; a TimeLimit outside of the recorded environment is not seen: give expkit.wrap the "
    "environment with the limit around it"
)


class RowTarget(Protocol):
    """Where rows go: a `Recorder`, or another that takes them in its form."""

    def new_episode(
        self, *, seeds: Mapping[str, int] | None = None, number: int | None = None, **metadata: Any
    ) -> int: ...
    def add(self, *, player: int, episode: int, step: int, **fields: Any) -> None: ...
    def end(
        self,
        *,
        episode: int,
        player: int,
        outcome: float | None = None,
        ended: Ended | None = None,
        step: int | None = None,
        metadata: Mapping[str, Any] | None = None,
        **observation: Any,
    ) -> None: ...


class _Part:
    """A player's part of an episode: the action whose consequences are not all known, and the sums so far.

    early, late   rewards that came before its first action, and after its end: they belong to no row
    """

    __slots__ = ("acted", "early", "flags", "last", "late", "paid", "row", "rows", "step", "total")

    def __init__(self) -> None:
        self.acted = False
        self.row: dict[str, Any] | None = None
        self.rows = 0
        self.step = 0
        self.paid: Any = 0.0
        self.total: Any = 0.0
        self.early: Any = 0.0
        self.late: Any = 0.0
        self.flags: tuple[bool, bool] | None = None  # terminated, truncated, once it is over
        self.last: dict[str, Any] | None = None

    @property
    def counts(self) -> bool:
        """Whether there is something to tell of it, though it may never have acted."""
        return self.acted or self.flags is not None or bool(np.any(self.early))


class EpisodeRows:
    """Rows of one episode after the other. The episode begins on disk with its first row, so that none is empty.

    players  of the run
    turn     actions, or rounds of them, since the episode began
    episode  the number that the open episode is to have, None where the target allots it
    """

    def __init__(self, target: RowTarget, layout: EnvLayout, players: int = 1):
        self._target, self._layout, self._players = target, layout, players
        self._parts: dict[int, _Part] = {}
        self._acted = 0  # players who have
        self._number: int | None = None
        self._start: tuple[dict[str, int], dict[str, Any]] = ({}, {})
        self._illegal: list[dict[str, int]] = []
        self._notes: dict[str, Any] = {}
        self.turn = 0
        self.episode: int | None = None
        self.illegal_actions = 0

    def begin(self, seeds: Mapping[str, int], metadata: Mapping[str, Any]) -> None:
        """The next episode, after `finish`."""
        self._parts, self._number, self._illegal, self.turn = {}, None, [], 0
        self._acted, self._notes = 0, {}
        self.episode = None
        self._start = dict(seeds), dict(metadata)

    @property
    def is_open(self) -> bool:
        """Whether the episode has actions, and is not finished."""
        return self._acted > 0

    @property
    def owed(self) -> int:
        """Rows that are not written yet: held actions, and last rows of all players."""
        if not self._acted:
            return 0
        return self._players + sum(part.row is not None for part in self._parts.values())

    def rows_of_a_step(self, players: Sequence[int]) -> int:
        """Rows, written or owed, that are more once these players have acted."""
        return len(players) + (0 if self._acted else self._players)

    def has_left(self, player: int) -> bool:
        """Whether the player's part of the open episode is over."""
        part = self._parts.get(player)
        return part is not None and part.last is not None

    def note(self, **metadata: Any) -> None:
        """Say this at the end of the open episode."""
        self._notes.update(metadata)

    def act(self, player: int, seen: Mapping[str, Any], acted: Mapping[str, Any]) -> None:
        """The player acts on what it saw; columns of both, copies. The row is written by `settle`. Raises SchemaError
        for one whose part is over."""
        part = self._part(player)
        if part.last is not None:
            raise SchemaError(came_back(f"player {player}"))
        if not part.acted:
            part.acted = True
            self._acted += 1
            part.early, part.paid = part.paid, 0.0
        part.row = {**seen, **acted}
        part.step = self.turn
        if not self._layout.is_legal(seen, acted.get("action")):
            self.illegal_actions += 1
            self._illegal.append({"player": player, "step": self.turn})

    def step(
        self, player: int, seen: Mapping[str, Any], acted: Mapping[str, Any], reward: Any, over: tuple[bool, bool]
    ) -> None:
        """What `act`, `pay` and `settle` do for an action whose consequences are known at once."""
        part = self._parts.get(player)
        if part is None or not part.acted or self._number is None or self._layout.actions:
            self.act(player, seen, acted)
            self.pay(player, reward)
            self.settle(player, *over)
            return
        self._target.add(
            player=player,
            episode=self._number,
            step=self.turn,
            reward=reward,
            terminated=over[0],
            truncated=over[1],
            **seen,
            **acted,
        )
        part.rows += 1
        part.total += reward
        if over[0] or over[1]:
            part.flags = over

    def pay(self, player: int, reward: Any) -> None:
        """A reward that the player's last action caused, perhaps not the last one; see `_Part` for others."""
        part = self._part(player)
        part.total = part.total + reward
        if part.last is not None:
            part.late = part.late + reward
        else:
            part.paid = part.paid + reward
            if not part.acted:
                part.early = part.paid

    def settle(self, player: int, terminated: bool = False, truncated: bool = False) -> None:
        """What the player's last action caused is known: write its row."""
        part = self._parts.get(player)
        flags = terminated, truncated
        if part is None or part.row is None:
            if flags[0] or flags[1]:
                self._part(player).flags = flags
            return
        if self._number is None:
            self._number = self._target.new_episode(seeds=self._start[0], number=self.episode, **self._start[1])
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
        part.paid = 0.0
        if flags[0] or flags[1]:
            part.flags = flags

    def leave(self, player: int, seen: Mapping[str, Any]) -> None:
        """The player's part is over; what it saw last is written with that of the others, by `finish`."""
        part = self._part(player)
        if part.counts:
            part.last = dict(seen)
            part.step = self.turn

    def waits_for(self) -> list[int]:
        """Players of whom there is something to tell, and who have not left."""
        return [player for player, part in self._parts.items() if part.last is None and part.counts]

    def finish(self) -> None:
        """The episode is over, all of whom there is something to tell have left."""
        if self._number is not None:
            outcomes = self._outcomes()
            told = self._told()
            # Those who never acted first: the episode is over when the last one ends who has rows.
            for player, part in sorted(self._parts.items(), key=lambda one: (one[1].rows > 0, one[0])):
                if part.last is None and not part.rows:
                    continue
                last: dict[str, Any] = {"outcome": outcomes.get(player), **(part.last or {})}
                if told:
                    last["metadata"], told = told, {}
                if not part.rows:
                    last["ended"] = _how(part.flags)
                self._target.end(episode=self._number, player=player, step=part.step, **last)
        self._parts, self._number, self._acted = {}, None, 0

    def _told(self) -> dict[str, Any]:
        """What the end of the episode says beside the rows."""
        told: dict[str, Any] = dict(self._notes)
        if self._illegal:
            told["illegal_actions"] = self._illegal
        for name, what in (("reward_before_action", "early"), ("reward_after_end", "late")):
            sums = {str(p): plain_sum(getattr(part, what)) for p, part in sorted(self._parts.items())}
            if any(np.any(one) for one in sums.values()):
                told[name] = {player: one for player, one in sums.items() if np.any(one)}
        if self._players > 1:
            told["paid"] = {str(p): plain_sum(part.total) for p, part in sorted(self._parts.items()) if part.counts}
        return told

    def _part(self, player: int) -> _Part:
        part = self._parts.get(player)
        if part is None:
            part = self._parts[player] = _Part()
        return part

    def _outcomes(self) -> dict[int, float]:
        """The returns where they say who won: of a game of several players that ended by its rules, with a sum of
        zero. A game that an illegal action ended was not lost at play."""
        parts = {player: part for player, part in self._parts.items() if part.counts}
        ended = all(part.flags is not None and part.flags[0] for part in parts.values())
        if len(parts) < 2 or not ended or self._illegal or self._layout.rewards.shape:
            return {}
        totals = [float(part.total) for part in parts.values()]
        if not abs(sum(totals)) <= 1e-6 * max(map(abs, totals)):
            return {}
        return {player: float(part.total) for player, part in parts.items()}


def came_back(who: str) -> str:
    """Why a row of somebody whose part is over is none."""
    return (
        f"{who} acts again after its end; an episode has one life of each player: reset the environment, or give who "
        "comes back another name"
    )


def plain_sum(total: Any) -> Any:
    """A sum of rewards as JSON can hold it."""
    return total.tolist() if isinstance(total, np.ndarray) else float(total)


def _how(flags: tuple[bool, bool] | None) -> Ended:
    if flags is None:
        return "interrupted"
    return "terminated" if flags[0] else "truncated"


def episode_metadata(options: Any) -> dict[str, Any]:
    """What the episode is told of the options of its reset."""
    return {} if not options else {"options": plain(options)}


def raised(call: str, error: BaseException) -> str:
    """What an episode is told of an exception that ended it."""
    return f"{call} raised {type(error).__name__}"


def close_recorded(env: Any, recorder: Any, interrupt: Callable[[], None]) -> None:
    """End the open episode by `interrupt`, then close the run, then the environment, whichever of these fails."""
    with ExitStack() as closing:
        closing.callback(env.close)
        closing.callback(recorder.close)
        interrupt()
