"""`expkit.wrap` for a Gymnasium environment: it behaves as before, and its episodes are recorded."""

from __future__ import annotations

from typing import Any

from expkit.spaces.env_rows import EnvRows, require_parts
from expkit.spaces.environment import EnvLayout, space_seed
from expkit.spaces.episode_rows import close_recorded, episode_metadata, raised
from expkit.system.extras import require

gymnasium = require("gymnasium", "gym", "recording a Gymnasium environment")

_Wrapper: Any = gymnasium.Wrapper


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
        told = episode_metadata(options)  # before the reset: environments take things out of it
        try:
            observation, info = require_parts("reset", self.env.reset(seed=seed, options=options))
        except BaseException as error:
            self._rows.failed(raised("reset", error))
            raise
        self._rows.reset(observation, info, episode_seeds(self.env, seed), told)
        return observation, info

    def step(self, action: Any) -> Any:
        acted = self._layout.acted(action)
        try:
            result = self.env.step(action)
        except BaseException as error:
            self._rows.failed(raised("step", error))
            raise
        self._rows.step(acted, result)
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
