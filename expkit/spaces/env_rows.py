"""Rows of a single environment: what its `reset` and `step` return."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from expkit.errors import SchemaError, UsageError
from expkit.spaces.environment import EnvLayout
from expkit.spaces.episode_rows import BY_RESET, EpisodeRows, RowTarget, raised
from expkit.spaces.told import as_flag


class EnvRows:
    """What `reset` and `step` of a single environment return, as rows of player 0.

    resets_itself   the step after the end of an episode is a reset, as with Gymnasium's wrapper Autoreset

    Where an exception comes out of the environment, or what it returned cannot be a row, the episode ends as
    interrupted: what the player saw does not belong to its next action any more. Rows go on with the next observation,
    in an episode that says so.
    """

    def __init__(self, target: RowTarget, layout: EnvLayout, resets_itself: bool = False):
        self.rows = EpisodeRows(target, layout)
        self._layout, self._resets_itself = layout, resets_itself
        self._seen: dict[str, Any] | None = None
        self._over = False
        self._failed: str | None = None

    @property
    def seen(self) -> dict[str, Any]:
        """Columns of what is seen now."""
        assert self._seen is not None
        return self._seen

    def reset(self, observation: Any, info: Any, seeds: Mapping[str, int], metadata: Mapping[str, Any]) -> None:
        """Raises SchemaError for an observation that has no place in a row."""
        self.interrupt(interrupted_by=BY_RESET)
        self._seen, self._over, self._failed = None, False, "reset gave no observation that has a place in a row"
        self._seen = self._layout.seen(observation, info)
        self._failed = None
        self.rows.begin(seeds, metadata)

    def step(self, acted: dict[str, Any], result: Any) -> None:
        """With the columns of the action, and what the environment's step returned. Raises UsageError for a step of an
        episode that is over, SchemaError."""
        try:
            observation, reward, terminated, truncated, info = require_parts("step", result)
        except SchemaError:
            self.failed("step returned no five values")
            raise
        if self._seen is None or self._over:
            if self._over and self._resets_itself:
                self.reset(observation, info, {}, {})
                return
            if self._failed is None or self._over:
                raise UsageError(
                    "step: the episode is over, or none has begun; call reset, for such rows belong to none"
                )
        try:
            after = self._layout.seen(observation, info)
            paid = self._layout.rewards.take("reward", reward)
            over = as_flag("terminated", terminated), as_flag("truncated", truncated)
            if self._seen is None:
                self._go_on(after, paid, over)
                return
            rows = self.rows
            rows.step(0, self._seen, acted, paid, over)
        except Exception as error:
            self.failed(raised("recording", error))
            raise
        rows.turn += 1
        self._seen = after
        if over[0] or over[1]:
            self._over = True
            rows.leave(0, after)
            rows.finish()

    def failed(self, why: str) -> None:
        """The episode ends here, for what the player saw is not what the environment was in."""
        if self._over and not why.startswith("reset"):
            return
        self.interrupt(interrupted_by=why)
        self._seen, self._over, self._failed = None, False, why

    def interrupt(self, **note: Any) -> None:
        """End the open episode, if there is one, where it stands."""
        if self.rows.is_open and self._seen is not None:
            self.rows.note(**note)
            self.rows.leave(0, self._seen)
            self.rows.finish()

    def _go_on(self, after: dict[str, Any], paid: Any, over: tuple[bool, bool]) -> None:
        """An episode from here on, after one that was broken off."""
        self.rows.begin({}, {"goes_on_after": self._failed})
        self._seen, self._failed, self._over = after, None, over[0] or over[1]
        if not self._over:
            self.rows.pay(0, paid)


_PARTS = {"reset": ("observation", "info"), "step": ("observation", "reward", "terminated", "truncated", "info")}


def require_parts(call: str, result: Any) -> Any:
    """The result of a call. Raises SchemaError for what no `reset` or `step` of Gymnasium returns: an old environment's
    reset has only the observation, which must not be taken apart for an observation and an info."""
    parts = _PARTS[call]
    if isinstance(result, tuple | list) and len(result) == len(parts):
        if call == "step" or isinstance(result[1], Mapping | list | tuple):
            return result
        what = f"a {type(result[1]).__name__} for its info"
    else:
        what = f"{len(result)} values" if isinstance(result, tuple | list) else f"a {type(result).__name__}"
    raise SchemaError(
        f"{call} returned {what}; Gymnasium's has {', '.join(parts)}: for an environment of the old gym see "
        "gymnasium.make('GymV21Environment-v0', env=…) of shimmy"
    )
