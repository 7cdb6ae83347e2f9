"""Rows of a single environment: what its `reset` and `step` return."""

from __future__ import annotations

from typing import Any

from expkit.errors import UsageError
from expkit.spaces.environment import EnvLayout
from expkit.spaces.episode_rows import EpisodeRows, RowTarget


class EnvRows:
    """What `reset` and `step` of a single environment return, as rows of player 0.

    resets_itself   the step after the end of an episode is a reset, as with Gymnasium's wrapper Autoreset
    """

    def __init__(self, target: RowTarget, layout: EnvLayout, resets_itself: bool = False):
        self.rows = EpisodeRows(target, layout)
        self._layout, self._resets_itself = layout, resets_itself
        self._seen: dict[str, Any] | None = None
        self._over = False

    @property
    def seen(self) -> dict[str, Any]:
        """Columns of what is seen now."""
        assert self._seen is not None
        return self._seen

    def reset(self, observation: Any, info: Any, seeds: dict[str, int], metadata: dict[str, Any]) -> None:
        self.interrupt()
        self._seen = self._layout.seen(observation, info)
        self._over = False
        self.rows.begin(seeds, metadata)

    def step(
        self, acted: dict[str, Any], observation: Any, reward: Any, terminated: Any, truncated: Any, info: Any
    ) -> None:
        """With the columns of the action. Raises UsageError for a step of an episode that is over, SchemaError."""
        if self._seen is None or self._over:
            if self._over and self._resets_itself:
                self.reset(observation, info, {}, {})
                return
            raise UsageError("step: the episode is over, or none has begun; call reset, for such rows belong to none")
        after = self._layout.seen(observation, info)
        rows = self.rows
        rows.step(0, self._seen, acted, reward, (terminated, truncated))
        rows.turn += 1
        self._seen = after
        if terminated or truncated:
            self._over = True
            rows.leave(0, after)
            rows.finish()

    def interrupt(self) -> None:
        """End the open episode, if there is one, where it stands."""
        if self.rows.is_open and self._seen is not None:
            self.rows.leave(0, self._seen)
            self.rows.finish()
