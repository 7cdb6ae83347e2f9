"""`expkit.wrap` for Gymnasium's vector environments, in all three ways to reset."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np

from expkit.errors import UsageError
from expkit.recording.autoreset import Autoreset
from expkit.row.host import host_array
from expkit.spaces.env_rows import require_parts
from expkit.spaces.environment import EnvLayout, space_seed
from expkit.spaces.episode_rows import episode_metadata, raised
from expkit.system.extras import require

gymnasium = require("gymnasium", "gym", "recording a Gymnasium environment")

_OVERWRITTEN = (
    "the last observation is the first one of the next episode: the environment seems to write into one buffer, which "
    "its reset overwrites before final_obs is read; return a copy from its step"
)
_Wrapper: Any = gymnasium.vector.VectorWrapper


class RecordedVectorEnv(_Wrapper):
    """A vector of environments whose episodes are recorded; the rows in which one only resets itself are none.

    recorder   of the run, as of a single environment
    """

    def __init__(self, env: Any, recorder: Any, layout: EnvLayout, autoreset: Autoreset):
        super().__init__(env)
        self.recorder = recorder
        self._layout, self._autoreset = layout, autoreset
        self._failed: str | None = None  # what went wrong since the last reset of all
        self._shown: tuple[str, np.ndarray] | None = None  # a column of what was shown last
        self._warned = False

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> Any:
        given = dict(options or {})  # before the reset: environments take the mask out of it
        mask = given.pop("reset_mask", None)
        mask = None if mask is None else np.array(mask)
        if self._failed is not None and mask is not None and not mask.all():
            raise UsageError(f"reset: {self._failed}; reset all environments, without reset_mask")
        told = episode_metadata(given)
        try:
            result = self.env.reset(seed=seed, options=options)
            observation, info = require_parts("reset", result)
            self._layout.check_vector(observation, self.env.observation_space, info)
            seeds = space_seed(self.env.action_space)
            self.recorder.reset(
                mask=mask,
                seed=seed,
                seeds={} if seeds is None else {"action_space": seeds},
                metadata=told,
                **self._layout.seen_batch(observation, self.num_envs, info),
            )
        except BaseException as error:
            self._failed = raised("reset", error)
            raise
        self._failed, self._shown = None, None
        return result

    def step(self, actions: Any) -> Any:
        """Raises UsageError after an exception, until all environments are reset: some of them have moved, and what
        was seen before does not belong to what they do now."""
        if self._failed is not None:
            raise UsageError(f"step: {self._failed}, and some environments may have moved; reset all of them")
        # Before the step: an environment may write into what it was given.
        taken = {name: np.array(values) for name, values in self._layout.action.columns(actions, self.num_envs).items()}
        try:
            result = self.env.step(actions)
            self._record(taken, *require_parts("step", result))
        except BaseException as error:
            self._failed = raised("step", error)
            raise
        return result

    def _record(
        self, taken: dict[str, Any], observation: Any, reward: Any, terminated: Any, truncated: Any, info: Any
    ) -> None:
        final, suspect = None, []
        seen = self._layout.seen_batch(observation, self.num_envs, info)
        over = host_array("terminated", terminated) | host_array("truncated", truncated)  # may be tensors
        if self._autoreset == "same_step" and over.any():
            final = self._final(info)
            suspect = self._overwritten(final, seen, over)
        numbers = self.recorder.step(
            reward=reward, terminated=terminated, truncated=truncated, final=final, **taken, **seen
        )
        if suspect:
            self.recorder.annotate_batch([int(numbers[env]) for env in suspect], final_observation=_OVERWRITTEN)
            if not self._warned:
                self._warned = True
                warnings.warn(f"environment {suspect[0]}: {_OVERWRITTEN}", stacklevel=3)
        if self._autoreset == "same_step":
            self._shown = _first_column(seen)

    def _overwritten(self, final: dict[str, Any] | None, seen: Mapping[str, Any], over: np.ndarray) -> list[int]:
        """Environments whose last observation is the first one of the next episode, and not what was shown before:
        they write into one buffer, and the reset has overwritten it (Gymnasium #1132)."""
        if not final or self._shown is None:
            return []
        name, before = self._shown
        if name not in final:
            return []
        last, first = np.asarray(final[name]), np.asarray(seen[name])
        return [
            env
            for env in np.flatnonzero(over).tolist()
            if np.array_equal(last[env], first[env]) and not np.array_equal(last[env], before[env])
        ]

    def close(self, **options: Any) -> None:
        try:
            self.recorder.close()
        finally:
            self.env.close(**options)

    def _final(self, info: Any) -> dict[str, Any] | None:
        """Columns of what was seen last where an episode ended, zero elsewhere; None where the info does not say."""
        each = self._finals(info)
        if not each:
            return None
        envs = list(each)
        rows = [self._layout.seen(*each[env]) for env in envs]
        out: dict[str, Any] = {}
        for field in self._layout.schema.fields:
            values = [row[field.name] for row in rows if row.get(field.name) is not None]
            if len(values) == len(rows) and rows:
                out[field.name] = np.zeros((self.num_envs, *field.shape), np.asarray(values[0]).dtype)
                out[field.name][envs] = values
        return out

    def _finals(self, info: Any) -> dict[int, tuple[Any, dict[str, Any]]]:
        """Last observations and their masks by environment, of an info as Gymnasium's vectors give it, or of one for
        each environment, as its wrapper DictInfoToList has them. Vectors from before Gymnasium 1.0 say
        `final_observation`."""
        if not isinstance(info, Mapping):
            each = {env: _either(one) for env, one in enumerate(info)}
            return {env: (final, info[env].get("final_info") or {}) for env, final in each.items() if final is not None}
        given, told, there = _either(info), info.get("final_info"), _either(info, "_")
        if given is None:
            return {}
        key = self._layout.mask_key
        return {
            env: (given[env], _mask_of(told, key, env))
            for env in range(self.num_envs)
            if given[env] is not None and (there is None or bool(there[env]))
        }


def _either(info: Mapping[str, Any], before: str = "") -> Any:
    """What an info has as the last observation, by the name of today or of old."""
    today = info.get(f"{before}final_obs")
    return info.get(f"{before}final_observation") if today is None else today


def _mask_of(info: Any, key: str, env: int) -> dict[str, Any]:
    """One environment's mask in a vector environment's info, by its name; nothing where it has none."""
    if not isinstance(info, Mapping) or key not in info or not (f"_{key}" not in info or info[f"_{key}"][env]):
        return {}
    return {key: info[key][env]}


def _first_column(columns: Mapping[str, Any]) -> tuple[str, np.ndarray] | None:
    """A copy of the widest column of an observation, with its name."""
    arrays = {name: one for name, one in columns.items() if isinstance(one, np.ndarray)}
    if not arrays:
        return None
    name = max(arrays, key=lambda one: arrays[one].nbytes)
    return name, arrays[name].copy()
