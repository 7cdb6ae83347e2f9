"""`expkit.wrap` for a Gymnasium environment: it behaves as before, and its episodes are recorded."""

from __future__ import annotations

from typing import Any

from expkit.errors import UsageError
from expkit.spaces.environment import EnvLayout, plain, space_seed
from expkit.spaces.episode_rows import EpisodeRows, RowTarget, close_recorded
from expkit.system.extras import require

gymnasium = require("gymnasium", "gym", "recording a Gymnasium environment")

_Wrapper: Any = gymnasium.Wrapper


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


class RecordedEnv(_Wrapper):
    """A Gymnasium environment whose episodes are recorded. `close` closes the recorder, too.

    recorder   of the run: `env.recorder.set_policy(0, "ppo", version=3)`, `env.recorder.flush()`
    """

    def __init__(self, env: Any, recorder: Any, layout: EnvLayout):
        super().__init__(env)
        self.recorder = recorder
        self._layout = layout
        self._rows = EnvRows(recorder, layout, resets_itself(env))

    @property
    def spec(self) -> Any:
        """That of the environment: one that is made from it anew is not recorded."""
        return self.env.spec

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        observation, info = self.env.reset(seed=seed, options=options)
        self._rows.reset(observation, info, episode_seeds(self.env, seed), episode_metadata(options))
        return observation, info

    def step(self, action: Any) -> Any:
        acted = self._layout.acted(action)
        result = self.env.step(action)
        self._rows.step(acted, *result)
        return result

    def close(self) -> None:
        close_recorded(self.env, self.recorder, self._rows.interrupt)


def resets_itself(env: Any) -> bool:
    """Whether Gymnasium's wrapper Autoreset is around the environment."""
    while isinstance(env, gymnasium.Wrapper):
        if isinstance(env, gymnasium.wrappers.Autoreset):
            return True
        env = env.env
    return False


def episode_seeds(env: Any, seed: int | None) -> dict[str, int]:
    """Seeds of the episode that a reset with `seed` begins. Without one the environment's generator goes on, and an
    action space has what it was seeded with by itself: `reset(seed=...)` does not seed it."""
    found = {"env": seed, "action_space": space_seed(env.action_space)}
    return {use: int(value) for use, value in found.items() if value is not None}


def episode_metadata(options: Any) -> dict[str, Any]:
    return {} if not options else {"options": plain(options)}
