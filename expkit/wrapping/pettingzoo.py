"""`expkit.wrap` for PettingZoo's environments, AEC and Parallel."""

from __future__ import annotations

from functools import partial
from typing import Any

from expkit.spaces.agent_rows import AECRows, Agents, ParallelRows, agents_seeds
from expkit.spaces.environment import EnvLayout
from expkit.spaces.episode_rows import BY_RESET, close_recorded, episode_metadata, raised
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
        told = episode_metadata(options)  # before the reset: environments take things out of it
        self._rows.interrupt(self.env, interrupted_by=BY_RESET)
        try:
            self.env.reset(seed=seed, options=options)
        except BaseException as error:
            self._rows.failed(self.env, raised("reset", error))
            raise
        self._rows.reset(agents_seeds(self.env, self._rows.agents, seed), told)

    def observe(self, agent: Any) -> Any:
        observation = self.env.observe(agent)
        infos = getattr(self.env, "infos", None)
        self._rows.look(agent, observation, infos.get(agent) if isinstance(infos, dict) else None)
        return observation

    def last(self, observe: bool = True) -> Any:
        result = self.env.last(observe)
        agent = self.env.agent_selection
        if observe:
            self._rows.look(agent, result[0], result[4])
        else:
            self._rows.tell(agent, result[4])
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
        told = episode_metadata(options)
        self._rows.interrupt(interrupted_by=BY_RESET)
        try:
            result = self.env.reset(seed=seed, options=options)
        except BaseException as error:
            self._rows.failed(raised("reset", error))
            raise
        self._rows.reset(self.env, result, agents_seeds(self.env, self._rows.agents, seed), told)
        return result

    def step(self, actions: dict[Any, Any]) -> Any:
        acted = self._rows.acted(actions)
        try:
            result = self.env.step(actions)
        except BaseException as error:
            self._rows.failed(raised("step", error))
            raise
        self._rows.step(self.env, acted, result)
        return result

    def close(self) -> None:
        close_recorded(self.env, self.recorder, self._rows.interrupt)
