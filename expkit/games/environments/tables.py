"""An environment at play, whichever its kind: who acts now, on what, and the step with everybody's action."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

from expkit.spaces.agent_rows import AECRows, Agents, ParallelRows
from expkit.spaces.env_rows import EnvRows, require_parts
from expkit.spaces.environment import EnvLayout, is_multi_agent, is_turn_based
from expkit.spaces.episode_rows import EpisodeRows, RowTarget


class Turn(NamedTuple):
    """A player who acts now: what it sees, as columns, and the space of its actions."""

    player: int
    seen: Mapping[str, Any]
    space: Any


class Table(Protocol):
    """One environment, whose rows go to a target while it is played.

    rows         of the episode that is open; `is_over` without one
    most_acting  players who act in one step
    """

    rows: EpisodeRows
    most_acting: int

    @property
    def is_over(self) -> bool: ...

    def reset(self, seed: int, action_seeds: Mapping[int, int]) -> None:
        """The next episode; action spaces are seeded by player."""
        ...

    def turns(self) -> list[Turn]:
        """Who acts now."""
        ...

    def step(self, actions: Mapping[int, Any]) -> None:
        """With an action of each of them."""
        ...

    def interrupt(self) -> None:
        """End the episode where it stands."""
        ...

    def close(self) -> None: ...


def table_of(env: Any, target: RowTarget, layout: EnvLayout, players: int) -> Table:
    """The table of an environment of any kind but a vector one."""
    if not is_multi_agent(env):
        return _Single(env, target, layout)
    return (_Turns if is_turn_based(env) else _AtOnce)(env, target, layout, players)


def _seeds(env_seed: int, action_seeds: Mapping[int, int]) -> dict[str, int]:
    named = {"action_space" if len(action_seeds) == 1 else f"action_space/{p}": s for p, s in action_seeds.items()}
    return {"env": env_seed, **named}


class _Single:
    def __init__(self, env: Any, target: RowTarget, layout: EnvLayout):
        self._env, self._layout = env, layout
        self._rows = EnvRows(target, layout)
        self.most_acting = 1
        self.rows = self._rows.rows
        self.is_over = True

    def reset(self, seed: int, action_seeds: Mapping[int, int]) -> None:
        self._env.action_space.seed(action_seeds[0])
        observation, info = require_parts("reset", self._env.reset(seed=seed))
        self._rows.reset(observation, info, _seeds(seed, action_seeds), {})
        self.is_over = False

    def turns(self) -> list[Turn]:
        return [Turn(0, self._rows.seen, self._env.action_space)]

    def step(self, actions: Mapping[int, Any]) -> None:
        acted = self._layout.acted(actions[0])
        result = self._env.step(actions[0])
        self._rows.step(acted, result)
        self.is_over = bool(result[2] or result[3])

    def interrupt(self) -> None:
        self._rows.interrupt()
        self.is_over = True

    def close(self) -> None:
        self._env.close()


class _Turns:
    """An AEC environment; the turns of agents that are out are taken at once."""

    def __init__(self, env: Any, target: RowTarget, layout: EnvLayout, players: int):
        self._env = env
        self._rows = AECRows(target, layout, Agents(env, players))
        self.most_acting = 1
        self.rows = self._rows.rows
        self.is_over = True

    def reset(self, seed: int, action_seeds: Mapping[int, int]) -> None:
        env = self._env
        env.reset(seed=seed)
        for agent, player in self._rows.agents:
            env.action_space(agent).seed(action_seeds[player])
        self._rows.reset(_seeds(seed, action_seeds), {})
        self._pass_the_dead()

    def turns(self) -> list[Turn]:
        env, agent = self._env, self._env.agent_selection
        observation, _, _, _, info = env.last()
        self._rows.look(agent, observation, info)
        return [Turn(self._rows.agents.player(agent), self._rows.seen(env, agent), env.action_space(agent))]

    def step(self, actions: Mapping[int, Any]) -> None:
        (action,) = actions.values()
        self._rows.step(self._env, action)
        self._pass_the_dead()

    def _pass_the_dead(self) -> None:
        env = self._env
        while env.agents and (env.terminations[env.agent_selection] or env.truncations[env.agent_selection]):
            agent = env.agent_selection
            observation, _, _, _, info = env.last()
            self._rows.look(agent, observation, info)
            self._rows.step(env, None)
        self.is_over = not env.agents

    def interrupt(self) -> None:
        self._rows.interrupt(self._env)
        self.is_over = True

    def close(self) -> None:
        self._env.close()


class _AtOnce:
    """A Parallel environment."""

    def __init__(self, env: Any, target: RowTarget, layout: EnvLayout, players: int):
        self._env = env
        self._rows = ParallelRows(target, layout, Agents(env, players), all_act=True)
        self.most_acting = players
        self.rows = self._rows.rows
        self.is_over = True

    def reset(self, seed: int, action_seeds: Mapping[int, int]) -> None:
        result = self._env.reset(seed=seed)
        for agent, player in self._rows.agents:
            self._env.action_space(agent).seed(action_seeds[player])
        self._rows.reset(self._env, result, _seeds(seed, action_seeds), {})
        self.is_over = not self._rows.live

    def turns(self) -> list[Turn]:
        player, space = self._rows.agents.player, self._env.action_space
        return [Turn(player(agent), seen, space(agent)) for agent, seen in self._rows.live.items()]

    def step(self, actions: Mapping[int, Any]) -> None:
        given = {agent: actions[self._rows.agents.player(agent)] for agent in self._rows.live}
        if len(given) < len(self._env.agents):  # those whose turn it is not: anything will do, and has no row
            given |= {agent: next(iter(given.values())) for agent in self._env.agents if agent not in given}
        acted = self._rows.acted(given)
        result = self._env.step(given)
        self._rows.step(self._env, acted, result)
        self.is_over = not self._rows.live

    def interrupt(self) -> None:
        self._rows.interrupt()
        self.is_over = True

    def close(self) -> None:
        self._env.close()
