"""Rows of environments of several agents, which take turns or act at once. A player is an agent, by its place among all
that there may be; never by the order in which agents come."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from expkit.errors import SchemaError, UsageError
from expkit.spaces.environment import EnvLayout, agents_of, space_seed
from expkit.spaces.episode_rows import EpisodeRows, RowTarget, came_back, raised
from expkit.spaces.told import as_flag
from expkit.spaces.undisturbed import observe_undisturbed


class Agents:
    """Which player an agent is. Where an environment does not tell its agents, they are numbered as they come."""

    def __init__(self, env: Any, players: int):
        self._env, self.players = env, players
        self._numbers = {agent: number for number, agent in enumerate(agents_of(env))}

    def player(self, agent: Any) -> int:
        """Raises SchemaError for one agent more than there are players."""
        number = self._numbers.setdefault(agent, len(self._numbers))
        if number >= self.players:
            raise SchemaError(
                f"{self._env}: agent {agent} is number {number + 1}, and the run has {self.players} players; "
                "give players= more"
            )
        return number

    def __iter__(self) -> Any:
        return iter(self._numbers.items())


class AECRows:
    """Rows of an environment in which agents take turns.

    The reward of `last()` is what came since the agent's last turn, so it is of its last action; an agent that is out
    gets one more turn, in which nothing is done, and which ends its part. What an agent acts on is what it was shown
    last, by `last` or `observe`, copied at that moment. The environment is asked for an observation only where nobody
    looked at all, and then its random streams are put back.
    """

    def __init__(self, target: RowTarget, layout: EnvLayout, agents: Agents):
        self.rows = EpisodeRows(target, layout, agents.players)
        self._layout, self.agents = layout, agents
        self._looked: dict[Any, dict[str, Any] | SchemaError] = {}  # by agent, since its last action
        self._fresh: set[Any] = set()  # agents that looked since anybody's last action
        self._told: dict[Any, dict[str, Any]] = {}  # masks of infos, by agent, since its last action
        self._paid: dict[Any, float] = {}  # of what the environment still holds, what is recorded already
        self._begun = False

    def reset(self, seeds: dict[str, int], metadata: dict[str, Any]) -> None:
        """After `interrupt` and the environment's own reset."""
        self._forget()
        self._begun = True
        self.rows.begin(seeds, metadata)

    def look(self, agent: Any, observation: Any, info: Any = None) -> None:
        """What an agent is shown by `last` or `observe`. One that has no place in a row is refused when it would be
        needed."""
        if info is not None:
            self.tell(agent, info)
        try:
            self._looked[agent] = self._layout.seen(observation, self._told.get(agent), f"agent {agent}")
        except SchemaError as error:
            self._looked[agent] = error
        self._fresh.add(agent)

    def tell(self, agent: Any, info: Any) -> None:
        """What `last` says beside the observation."""
        if self._layout.mask_told:
            self._told[agent] = {self._layout.mask_key: self._layout.copy_of_mask(info)}

    def seen(self, env: Any, agent: Any) -> dict[str, Any]:
        """Columns of what the agent acts on now. Raises SchemaError."""
        return self._seen(env, agent, False)

    def step(self, env: Any, action: Any) -> None:
        """Take the step and record it. Raises UsageError before `reset`, SchemaError for an environment that does not
        keep to the API, and whatever the environment raises."""
        agent = env.agent_selection
        if not self._begun:
            raise UsageError("step: no episode has begun; call reset")
        player = self.agents.player(agent)
        _, reward, terminated, truncated, info = env.last(observe=False)
        paid = self._layout.rewards.take(f"{env}: the reward of agent {agent}", reward) - self._paid.get(agent, 0.0)
        over = _flags(env, agent, terminated, truncated)
        out = over[0] or over[1]
        if not out and self.rows.has_left(player):
            raise SchemaError(came_back(f"{env}: agent {agent}"))
        if agent not in self._told:
            self.tell(agent, info)
        seen = self._seen(env, agent, out)
        acted = None if out else self._layout.acted(action)
        try:
            env.step(action)
        except BaseException as error:
            self._break_off(env, agent, seen, paid, over, raised("step", error))
            raise
        self._looked.pop(agent, None)
        self._told.pop(agent, None)
        self._paid.pop(agent, None)
        self._fresh.clear()
        rows = self.rows
        try:
            rows.pay(player, paid)
            rows.settle(player, *over)
            if acted is None:
                rows.leave(player, seen)
            else:
                rows.act(player, seen, acted)
                rows.turn += 1
        except Exception as error:
            self._break_off(env, None, seen, 0.0, over, raised("recording", error))
            raise
        if not env.agents:
            self.interrupt(env)

    def failed(self, env: Any, why: str) -> None:
        """An exception came out of the environment's reset: what is known of the open episode is written already."""
        self._forget()
        self._begun = False

    def interrupt(self, env: Any, **note: Any) -> None:
        """Finish the open episode; players who are not out yet end where they stand."""
        if not self.rows.is_open:
            return
        if env.agents:
            self.rows.note(**note)
        for agent, player in self.agents:
            if self.rows.has_left(player):
                continue
            held = env._cumulative_rewards.get(agent)
            if held is not None:
                held = self._layout.rewards.take(f"{env}: the reward of agent {agent}", held)
                self.rows.pay(player, held - self._paid.get(agent, 0.0))
                self._paid[agent] = held
            over = _flags(env, agent, env.terminations.get(agent, False), env.truncations.get(agent, False))
            self.rows.settle(player, *over)
            if player in self.rows.waits_for():
                self.rows.leave(player, self._seen(env, agent, True))
        self.rows.finish()
        self._begun = bool(env.agents)

    def _break_off(
        self, env: Any, agent: Any, seen: dict[str, Any], paid: Any, over: tuple[bool, bool], why: str
    ) -> None:
        """The episode ends where the environment failed in the turn of an agent, and goes on as another one."""
        if agent is not None:
            player = self.agents.player(agent)
            self.rows.pay(player, paid)
            self.rows.settle(player, *over)
            self.rows.leave(player, seen)
            self._paid[agent] = env._cumulative_rewards.get(agent, 0.0)
        try:
            self.interrupt(env, interrupted_by=why)
        finally:
            self.rows.begin({}, {"goes_on_after": why})
            self._begun = True

    def _forget(self) -> None:
        self._looked, self._told, self._paid = {}, {}, {}
        self._fresh.clear()

    def _seen(self, env: Any, agent: Any, last: bool) -> dict[str, Any]:
        """What the agent was shown; as its last observation only what is so still."""
        looked = self._looked.get(agent)
        if looked is None or (last and agent not in self._fresh):
            told = self._told.get(agent) or env.infos.get(agent)
            return self._layout.seen(observe_undisturbed(env, agent), told, f"agent {agent}")
        if isinstance(looked, SchemaError):
            raise looked
        return looked


class ParallelRows:
    """Rows of an environment in which all agents act in every step; of one that only looks so, because agents take
    turns within, those of the agent whose turn it was (`infos[agent]["active_agent"]`).

    all_act   nobody leaves a live agent out of the actions: a row is written with its step. Else it waits until its
              player acts again or is out, for a reward may come to it while the others act
    """

    def __init__(self, target: RowTarget, layout: EnvLayout, agents: Agents, all_act: bool = False):
        self.rows = EpisodeRows(target, layout, agents.players)
        self._layout, self.agents, self._all_act = layout, agents, all_act
        self._seen: dict[Any, dict[str, Any]] = {}  # by agent that is in the game
        self._active: Any = None
        self._failed: str | None = None

    @property
    def live(self) -> dict[Any, dict[str, Any]]:
        """Columns of what each agent sees that may act now."""
        if self._active is not None:
            return {agent: seen for agent, seen in self._seen.items() if agent == self._active}
        return self._seen

    def reset(self, env: Any, result: Any, seeds: dict[str, int], metadata: dict[str, Any]) -> None:
        """With what the environment's reset returned, after `interrupt`."""
        self._seen, self._failed = {}, "reset gave no observations that have a place in rows"
        observations, infos = _require_parts(env, "reset", result, ("observations", "infos"))
        self._seen = {agent: self._look(agent, seen, infos) for agent, seen in observations.items()}
        self._failed = None
        for agent in self._seen:
            self.agents.player(agent)  # numbered in this order where the environment does not tell its agents
        within = takes_turns_within(env)
        self._active = None if within is None else within.aec_env.agent_selection
        self.rows.begin(seeds, metadata)

    def acted(self, actions: Mapping[Any, Any]) -> dict[Any, dict[str, Any]]:
        """Columns of the actions of those who may act, by agent; to be taken before the environment has them."""
        return {agent: self._layout.acted(actions[agent]) for agent in self.live if agent in actions}

    def step(self, env: Any, acted: Mapping[Any, dict[str, Any]], result: Any) -> None:
        """With what the environment's step returned. Raises SchemaError, UsageError."""
        if not self._seen and self._failed is None:
            raise UsageError("step: the episode is over, or none has begun; call reset, for such rows belong to none")
        try:
            self._step(env, acted, result)
        except Exception as error:
            self.failed(raised("recording", error))
            raise

    def failed(self, why: str) -> None:
        """The episode ends here, for what agents saw is not what the environment was in; it goes on as another one."""
        if self._seen or why.startswith("reset"):
            self.interrupt(interrupted_by=why)
            self._failed = why

    def interrupt(self, **note: Any) -> None:
        """Finish the open episode; players who are not out yet end where they stand."""
        if self.rows.is_open:
            if self._seen:
                self.rows.note(**note)
            waiting = self.rows.waits_for()
            for agent, seen in self._seen.items():
                if (player := self.agents.player(agent)) in waiting:
                    self.rows.settle(player)
                    self.rows.leave(player, seen)
            self.rows.finish()
        self._seen = {}

    def _step(self, env: Any, acted: Mapping[Any, dict[str, Any]], result: Any) -> None:
        names = ("observations", "rewards", "terminations", "truncations", "infos")
        observations, rewards, terminations, truncations, infos = _require_parts(env, "step", result, names)
        told = dict.fromkeys([*self._seen, *rewards, *terminations, *truncations])
        paid, over = {}, {}
        for agent in told:  # all of it is looked at before anything is recorded
            paid[agent] = self._layout.rewards.take(f"{env}: the reward of agent {agent}", rewards.get(agent, 0.0))
            over[agent] = _flags(env, agent, terminations.get(agent, False), truncations.get(agent, False))
        seen = {
            agent: self._look(agent, one, infos)
            for agent, one in observations.items()
            if agent in self._seen or agent in env.agents or any(over.get(agent, ()))
        }
        rows, player = self.rows, self.agents.player
        if self._failed is not None:  # nobody's action before is known
            rows.begin({}, {"goes_on_after": self._failed})
            self._failed = None
        self._active = _active(infos)
        for agent in seen:
            if rows.has_left(player(agent)) and agent not in self._seen and agent in env.agents:
                raise SchemaError(came_back(f"{env}: agent {agent}"))
        for agent, columns in acted.items():
            if agent in self._seen:
                rows.settle(player(agent))
                rows.act(player(agent), self._seen[agent], columns)
        rows.turn += bool(acted) or not rows.is_open
        for agent in told:
            if agent in self._seen or np.any(paid[agent]):
                rows.pay(player(agent), paid[agent])
        self._seen |= {agent: one for agent, one in seen.items() if agent in self._seen or agent in env.agents}
        for agent in told:
            if not any(over[agent]) or rows.has_left(player(agent)):
                if self._all_act and self._active is None and agent in self._seen:
                    rows.settle(player(agent))
                continue
            rows.settle(player(agent), *over[agent])
            last = self._seen.pop(agent, None) or seen.get(agent)
            if last is not None:
                rows.leave(player(agent), last)
        if not env.agents or not self._seen:
            self.interrupt()

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


def _flags(env: Any, agent: Any, terminated: Any, truncated: Any) -> tuple[bool, bool]:
    if type(terminated) is bool and type(truncated) is bool:
        return terminated, truncated
    return (
        as_flag(f"{env}: the termination of agent {agent}", terminated),
        as_flag(f"{env}: the truncation of agent {agent}", truncated),
    )
