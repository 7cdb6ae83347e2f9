"""Rows of environments of several agents, which take turns or act at once. A player is an agent, by its place among all
that there may be; never by the order in which agents come."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from expkit.errors import SchemaError, UsageError
from expkit.spaces.environment import EnvLayout, agents_of, space_seed
from expkit.spaces.episode_rows import EpisodeRows, RowTarget, episode_metadata


class Agents:
    """Which player an agent is. Where an environment does not tell its agents, they are numbered as they come."""

    def __init__(self, env: Any, players: int):
        self._env, self._players = env, players
        self._numbers = {agent: number for number, agent in enumerate(agents_of(env))}

    def player(self, agent: Any) -> int:
        """Raises SchemaError for one agent more than there are players."""
        number = self._numbers.setdefault(agent, len(self._numbers))
        if number >= self._players:
            raise SchemaError(
                f"{self._env}: agent {agent} is number {number + 1}, and the run has {self._players} players; "
                "give players= more"
            )
        return number

    def __iter__(self) -> Any:
        return iter(self._numbers.items())


class AECRows:
    """Rows of an environment in which agents take turns.

    The reward of `last()` is what came since the agent's last turn, so it is of its last action; an agent that is out
    gets one more turn, in which nothing is done, and which ends its part.
    """

    def __init__(self, target: RowTarget, layout: EnvLayout, agents: Agents):
        self.rows = EpisodeRows(target, layout)
        self._layout, self.agents = layout, agents
        self._looked: tuple[Any, Any] | None = None  # agent and observation of the newest look
        self._begun = False

    def reset(self, env: Any, seed: int | None, options: Any) -> None:
        """After `interrupt` and the environment's own reset."""
        self._looked, self._begun = None, True
        self.rows.begin(agents_seeds(env, self.agents, seed), episode_metadata(options))

    def look(self, agent: Any, observation: Any) -> None:
        """What `last()` gave the agent, from which it chooses its action."""
        self._looked = agent, observation

    def step(self, env: Any, action: Any) -> None:
        """Take the step and record it. Raises UsageError before `reset`, SchemaError for an environment that does not
        keep to the API, and whatever the environment raises."""
        agent = env.agent_selection
        if not self._begun:
            raise UsageError("step: no episode has begun; call reset")
        player = self.agents.player(agent)
        _, reward, terminated, truncated, info = env.last(observe=False)
        _require_flags(env, terminated, truncated)
        seen = self._seen(env, agent, info)
        acted = None if terminated or truncated else self._layout.acted(action)
        self._looked = None
        env.step(action)
        rows = self.rows
        rows.pay(player, reward)
        rows.settle(player, terminated, truncated)
        if acted is None:
            rows.leave(player, seen)
        else:
            rows.act(player, seen, acted)
            rows.turn += 1
        if not env.agents:
            self.interrupt(env)

    def interrupt(self, env: Any) -> None:
        """Finish the open episode; players who are not out yet end where they stand."""
        if not self.rows.is_open:
            return
        waiting = self.rows.waits_for()
        for agent, player in self.agents:
            if player in waiting:
                self.rows.pay(player, env._cumulative_rewards.get(agent, 0))
                self.rows.settle(player, env.terminations.get(agent, False), env.truncations.get(agent, False))
                self.rows.leave(player, self._seen(env, agent, env.infos.get(agent)))
        self.rows.finish()
        self._begun = bool(env.agents)

    def _seen(self, env: Any, agent: Any, info: Any) -> dict[str, Any]:
        if self._looked is not None and self._looked[0] == agent:
            observation = self._looked[1]
        else:
            observation = env.observe(agent)
        return self._layout.seen(observation, info, f"agent {agent}")


class ParallelRows:
    """Rows of an environment in which all agents act in every step; of one that only looks so, because agents take
    turns within, those of the agent whose turn it was (`infos[agent]["active_agent"]`)."""

    def __init__(self, target: RowTarget, layout: EnvLayout, agents: Agents):
        self.rows = EpisodeRows(target, layout)
        self._layout, self.agents = layout, agents
        self._seen: dict[Any, dict[str, Any]] = {}  # by agent that is in the game
        self._active: Any = None

    @property
    def live(self) -> dict[Any, dict[str, Any]]:
        """Columns of what each agent sees that may act now."""
        if self._active is not None:
            return {agent: seen for agent, seen in self._seen.items() if agent == self._active}
        return self._seen

    def reset(self, env: Any, result: Any, seed: int | None, options: Any) -> None:
        """With what the environment's reset returned, after `interrupt`."""
        observations, infos = _require_parts(env, "reset", result, ("observations", "infos"))
        self._seen = {agent: self._look(agent, seen, infos) for agent, seen in observations.items()}
        within = takes_turns_within(env)
        self._active = None if within is None else within.aec_env.agent_selection
        self.rows.begin(agents_seeds(env, self.agents, seed), episode_metadata(options))

    def acted(self, actions: Mapping[Any, Any]) -> dict[Any, dict[str, Any]]:
        """Columns of the actions of those who may act, by agent; to be taken before the environment has them."""
        return {agent: self._layout.acted(actions[agent]) for agent in self.live if agent in actions}

    def step(self, env: Any, acted: Mapping[Any, dict[str, Any]], result: Any) -> None:
        """With what the environment's step returned. Raises SchemaError, UsageError."""
        names = ("observations", "rewards", "terminations", "truncations", "infos")
        observations, rewards, terminations, truncations, infos = _require_parts(env, "step", result, names)
        if not self._seen:
            raise UsageError("step: the episode is over, or none has begun; call reset, for such rows belong to none")
        self._active = _active(infos)
        for agent, columns in acted.items():
            player = self.agents.player(agent)
            self.rows.settle(player)
            self.rows.act(player, self._seen[agent], columns)
        self.rows.turn += 1
        for agent in list(self._seen):
            player = self.agents.player(agent)
            self.rows.pay(player, rewards.get(agent, 0))
            over = [flags.get(agent, False) for flags in (terminations, truncations)]
            _require_flags(env, *over)
            if agent in observations:
                self._seen[agent] = self._look(agent, observations[agent], infos)
            if any(over):
                self.rows.settle(player, *over)
                self.rows.leave(player, self._seen.pop(agent))
            elif self._active in (None, agent):
                self.rows.settle(player)
        for agent in observations:
            if agent not in self._seen and agent in env.agents:
                self._seen[agent] = self._look(agent, observations[agent], infos)
        if not env.agents or not self._seen:
            self.interrupt()

    def interrupt(self) -> None:
        """Finish the open episode; players who are not out yet end where they stand."""
        if self.rows.is_open:
            waiting = self.rows.waits_for()
            for agent, seen in self._seen.items():
                if (player := self.agents.player(agent)) in waiting:
                    self.rows.settle(player)
                    self.rows.leave(player, seen)
            self.rows.finish()
        self._seen = {}

    def _look(self, agent: Any, observation: Any, infos: Mapping[Any, Any]) -> dict[str, Any]:
        return self._layout.seen(observation, infos.get(agent), f"agent {agent}")


def agents_seeds(env: Any, agents: Agents, seed: int | None) -> dict[str, int]:
    """Seeds of the episode that a reset with `seed` begins; an agent's action space has one of its own."""
    found: dict[str, int | None] = {"env": seed}
    for agent, player in agents:
        try:
            found[f"action_space/{player}"] = space_seed(env.action_space(agent))
        except (AttributeError, KeyError):
            continue
    return {use: int(value) for use, value in found.items() if value is not None}


def takes_turns_within(env: Any) -> Any:
    """PettingZoo's conversion of an AEC environment to a Parallel one in which every agent gets a row in every turn, if
    it is among the wrappers."""
    while env is not None and type(env).__name__ != "turn_based_aec_to_parallel_wrapper":
        env = getattr(env, "__dict__", {}).get("env")
    return env


def _active(infos: Mapping[Any, Any]) -> Any:
    """Whose turn it is, None where all act."""
    return next(
        (info["active_agent"] for info in infos.values() if isinstance(info, Mapping) and "active_agent" in info), None
    )


def _require_parts(env: Any, call: str, result: Any, names: tuple[str, ...]) -> tuple[Any, ...]:
    """The parts of what a Parallel environment returned, each a mapping by agent. Raises SchemaError."""
    if not isinstance(result, tuple) or len(result) != len(names):
        what = f"{len(result)} values" if isinstance(result, tuple) else f"a {type(result).__name__}"
        raise SchemaError(f"{env}: {call} returned {what}; PettingZoo's Parallel API has {', '.join(names)}")
    for name, part in zip(names, result, strict=True):
        if not isinstance(part, Mapping):
            raise SchemaError(
                f"{env}: {call} returned {name} as {type(part).__name__}; PettingZoo's Parallel API has them by agent"
            )
    return result


def _require_flags(env: Any, terminated: Any, truncated: Any) -> None:
    for name, flag in (("termination", terminated), ("truncation", truncated)):
        if isinstance(flag, Mapping) or np.ndim(flag):
            raise SchemaError(f"{env}: the {name} of an agent is a {type(flag).__name__}, not one truth value")
