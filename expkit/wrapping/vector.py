"""`expkit.wrap` for Gymnasium's vector environments, in all three ways to reset."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from expkit.recording.autoreset import Autoreset
from expkit.spaces.environment import EnvLayout, space_seed
from expkit.spaces.episode_rows import episode_metadata
from expkit.system.extras import require

gymnasium = require("gymnasium", "gym", "recording a Gymnasium environment")

_Wrapper: Any = gymnasium.vector.VectorWrapper


class RecordedVectorEnv(_Wrapper):
    """A vector of environments whose episodes are recorded; the rows in which one only resets itself are none.

    recorder   of the run, as of a single environment
    """

    def __init__(self, env: Any, recorder: Any, layout: EnvLayout, autoreset: Autoreset):
        super().__init__(env)
        self.recorder = recorder
        self._layout, self._autoreset = layout, autoreset

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> Any:
        given = dict(options or {})  # before the reset: environments take the mask out of it
        mask = given.pop("reset_mask", None)
        result = self.env.reset(seed=seed, options=options)
        observation, info = result
        self._layout.check_vector(observation, self.env.observation_space, info)
        seeds = space_seed(self.env.action_space)
        self.recorder.reset(
            mask=mask,
            seed=seed,
            seeds={} if seeds is None else {"action_space": seeds},
            metadata=episode_metadata(given),
            **self._layout.seen_batch(observation, self.num_envs, info),
        )
        return result

    def step(self, actions: Any) -> Any:
        # Before the step: an environment may write into what it was given.
        taken = {name: np.array(values) for name, values in self._layout.action.columns(actions, self.num_envs).items()}
        result = self.env.step(actions)
        observation, reward, terminated, truncated, info = result
        final = None
        if self._autoreset == "same_step" and (np.any(terminated) or np.any(truncated)):
            final = self._final(info)
        self.recorder.step(
            reward=reward,
            terminated=terminated,
            truncated=truncated,
            final=final,
            **taken,
            **self._layout.seen_batch(observation, self.num_envs, info),
        )
        return result

    def close(self, **options: Any) -> None:
        try:
            self.recorder.close()
        finally:
            self.env.close(**options)

    def _final(self, info: Mapping[str, Any]) -> dict[str, Any] | None:
        """Columns of what was seen last where an episode ended, zero elsewhere; None where the info does not say."""
        given = info.get("final_obs")
        if given is None:
            return None
        told = info.get("final_info")
        envs = [env for env in range(self.num_envs) if given[env] is not None]
        rows = [self._layout.seen(given[env], _of(told, env)) for env in envs]
        out: dict[str, Any] = {}
        for field in self._layout.schema.fields:
            values = [row[field.name] for row in rows if row.get(field.name) is not None]
            if len(values) == len(rows) and rows:
                out[field.name] = np.zeros((self.num_envs, *field.shape), np.asarray(values[0]).dtype)
                out[field.name][envs] = values
        return out


def _of(info: Any, env: int) -> dict[str, Any]:
    """One environment's part of a vector environment's info."""
    if not isinstance(info, Mapping):
        return {}
    return {
        key: values[env]
        for key, values in info.items()
        if not key.startswith("_") and (f"_{key}" not in info or info[f"_{key}"][env])
    }
