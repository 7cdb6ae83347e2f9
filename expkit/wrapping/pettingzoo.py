"""`expkit.wrap` for PettingZoo's environments, AEC and Parallel."""

from __future__ import annotations

from functools import partial
from typing import Any

from expkit.spaces.agent_rows import AECRows, Agents, ParallelRows
from expkit.spaces.environment import EnvLayout
from expkit.spaces.episode_rows import close_recorded
from expkit.system.extras import require

utils = require("pettingzoo.utils", "zoo", "recording a PettingZoo environment")

_AECWrapper: Any = utils.BaseWrapper
_ParallelWrapper: Any = utils.BaseParallelWrapper


class RecordedAEC(_AECWrapper):
    """An AEC environment whose episodes are recorded. `close` closes the recorder, too.

    recorder   of the run: `env.recorder.set_policy(0, "ppo", version=3)`, `env.recorder.flush()`
    """

    def __init__(self, env: Any, recorder: Any, layout: EnvLayout):
        super().__init__(env)
        self.recorder = recorder
        self._rows = AECRows(recorder, layout, Agents(env, len(recorder.players)))

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> None:
        self._rows.interrupt(self.env)
        self.env.reset(seed=seed, options=options)
        self._rows.reset(self.env, seed, options)

    def last(self, observe: bool = True) -> Any:
        result = self.env.last(observe)
        if observe:
            self._rows.look(self.env.agent_selection, result[0])
        return result

    def step(self, action: Any) -> None:
        self._rows.step(self.env, action)

    def close(self) -> None:
        close_recorded(self.env, self.recorder, partial(self._rows.interrupt, self.env))


class RecordedParallel(_ParallelWrapper):
    """A Parallel environment whose episodes are recorded; the rest as for `RecordedAEC`."""

    def __init__(self, env: Any, recorder: Any, layout: EnvLayout):
        super().__init__(env)
        self.recorder = recorder
        self._rows = ParallelRows(recorder, layout, Agents(env, len(recorder.players)))

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        self._rows.interrupt()
        result = self.env.reset(seed=seed, options=options)
        self._rows.reset(self.env, result, seed, options)
        return result

    def step(self, actions: dict[Any, Any]) -> Any:
        acted = self._rows.acted(actions)
        result = self.env.step(actions)
        self._rows.step(self.env, acted, result)
        return result

    def close(self) -> None:
        close_recorded(self.env, self.recorder, self._rows.interrupt)
