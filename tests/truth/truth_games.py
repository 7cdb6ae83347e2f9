"""Environments and players that misbehave: buffers that are reused, containers of every type, agents that join, leave,
skip and die together, rewards early and late, exceptions at any call. Each keeps a log of what it paid to whom."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from pettingzoo import AECEnv, ParallelEnv

CONTAINERS = ("array", "list", "tuple", "tensor", "subclass", "memmap", "dict", "pair")
SPACES: dict[str, Any] = {
    "dict": spaces.Dict(a=spaces.Box(-1e6, 1e6, (3,)), b=spaces.Discrete(9000)),
    "pair": spaces.Tuple([spaces.Box(-1e6, 1e6, (3,)), spaces.Box(-1e6, 1e6, (1,))]),
}


class Sub(np.ndarray):
    """Not exactly an array."""


class Buffer:
    """Observations (tag, count, noise) in a container of some kind, one and the same every time if it is `reused`."""

    def __init__(self, kind: str, reused: bool, folder: Any = None):
        self.kind, self.reused, self._folder = kind, reused, folder
        self._made: Any = None
        self._parts: list[Any] = []

    def fill(self, *values: float) -> Any:
        if self._made is None or not self.reused:
            self._made = self._make()
        for place, value in enumerate(values):
            for part in self._parts:
                if place < len(part):
                    part[place] = value
        if self.kind == "tuple":
            return tuple(np.float32(value) for value in values)
        if self.kind == "dict":
            self._made["b"] = int(values[1])
        return self._made

    def _make(self) -> Any:
        array = np.zeros(3, np.float32)
        self._parts = [array]
        if self.kind == "list":
            self._parts = [[0.0, 0.0, 0.0]]
            return self._parts[0]
        if self.kind == "tensor":
            import torch

            return torch.from_numpy(array)
        if self.kind == "subclass":
            return array.view(Sub)
        if self.kind == "memmap":
            self._parts = [np.memmap(self._folder / "buffer", np.float32, "w+", shape=(3,))]
            return self._parts[0]
        if self.kind == "dict":
            return {"a": array, "b": 0}
        if self.kind == "pair":
            self._parts = [array, np.zeros(1, np.float32).view(Sub)]
            return tuple(self._parts)
        return array


def spoil(value: Any) -> None:
    """A player scribbles over what it was shown, or over what it did."""
    if isinstance(value, dict):
        for inner in value.values():
            spoil(inner)
    elif isinstance(value, tuple):
        for inner in value:
            spoil(inner)
    elif isinstance(value, list):
        value[:] = [-7.0] * len(value)
    elif hasattr(value, "shape") and len(value.shape):
        value[...] = 1 if isinstance(value, np.ndarray) and value.dtype == np.int8 else -7


class Refused(Exception):
    """What environments raise here."""


class Alone(gym.Env):
    """One player. `fails` says at which calls of step it raises, before or after it has moved."""

    def __init__(self, kind: str, reused: bool, seed: int, folder: Any, fails: dict[int, bool] | None = None):
        self.observation_space = SPACES.get(kind, spaces.Box(-1e6, 1e6, (3,)))
        self.action_space = spaces.MultiDiscrete([9, 9])
        self._buffer, self._draw = Buffer(kind, reused, folder), np.random.default_rng(seed)
        self._fails, self.calls, self.count, self.tag = fails or {}, 0, 0, -1

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.count, self.tag = 0, self.tag + 1
        if options:
            options.clear()
        return self._buffer.fill(self.tag, 0, self._draw.integers(99)), {}

    def step(self, action: Any) -> Any:
        self.calls += 1
        late = self._fails.get(self.calls)
        if late is False:
            raise Refused
        self.count += 1
        spoil(action)
        if late:
            raise Refused
        end = self._draw.random()
        seen = self._buffer.fill(self.tag, self.count, self._draw.integers(99))
        return seen, float(self._draw.integers(-3, 4)), bool(end < 0.15), bool(end > 0.9), {}


class Paying:
    """What agents were paid, by how many actions they had taken: the truth about rewards."""

    def __init__(self, players: int):
        self.acted = [0] * players
        self.out: list[tuple[bool, bool]] = [(False, False)] * players
        self.log: list[tuple[int, int, float]] = []
        self.late = [0.0] * players

    def pay(self, player: int, value: float) -> None:
        self.log.append((player, self.acted[player], value))

    def early(self, player: int) -> float:
        return sum(value for who, acted, value in self.log if who == player and acted == 0)

    def rewards(self, player: int) -> list[float]:
        out = [0.0] * self.acted[player]
        for who, acted, value in self.log:
            if who == player and acted:
                out[acted - 1] += value
        return out


class Turns(AECEnv):
    """Agents take turns. Everybody may be paid, and may die, in anybody's turn; `observe` draws, and may share one
    buffer. `zero`: what one is paid another one pays."""

    def __init__(self, players: int, kind: str, reused: bool, seed: int, folder: Any, zero: bool = True):
        super().__init__()
        self.metadata = {"name": "turns", "is_parallelizable": False}
        self.render_mode = None
        self.possible_agents = [f"a{i}" for i in range(players)]
        self._inner = Buffer(kind, reused, folder)
        inner = SPACES.get(kind, spaces.Box(-1e6, 1e6, (3,)))
        self._space = spaces.Dict(observation=inner, action_mask=spaces.Box(0, 1, (4,), np.int8))
        self._mask, self._reused = np.zeros(4, np.int8), reused
        self._draw, self._zero = np.random.default_rng(seed), zero
        self.noise, self.tag, self.looks = np.random.default_rng(seed + 1), -1, 0

    def observation_space(self, agent: Any) -> Any:
        return self._space

    def action_space(self, agent: Any) -> Any:
        return spaces.Discrete(4)

    def reset(self, seed: int | None = None, options: Any = None) -> None:
        self.agents = list(self.possible_agents)
        self.count, self.tag = 0, self.tag + 1
        self.truth = Paying(len(self.agents))
        self.rewards = dict.fromkeys(self.agents, 0.0)
        self._cumulative_rewards = dict.fromkeys(self.agents, 0.0)
        self.terminations, self.truncations = dict.fromkeys(self.agents, False), dict.fromkeys(self.agents, False)
        self.infos: dict[Any, Any] = {agent: {} for agent in self.agents}
        self._skip_agent_selection = None
        self.agent_selection = self.agents[int(self._draw.integers(len(self.agents)))]

    def observe(self, agent: Any) -> Any:
        self.looks += 1
        mask = self._mask if self._reused else np.zeros(4, np.int8)
        mask[:] = 0
        if agent == self.agent_selection:
            mask[self.count % 4] = mask[(self.count + 1) % 4] = 1
        seen = self._inner.fill(self.possible_agents.index(agent), self.count, float(self.noise.integers(1000)))
        return {"observation": seen, "action_mask": mask}

    def step(self, action: Any) -> None:
        agent = self.agent_selection
        player = self.possible_agents.index(agent)
        if self.terminations[agent] or self.truncations[agent]:
            self._was_dead_step(action)
            return
        self._cumulative_rewards[agent] = 0
        self.count += 1
        self.truth.acted[player] += 1
        self._clear_rewards()
        living = [one for one in self.agents if not (self.terminations[one] or self.truncations[one])]
        for one in self.agents:
            if self._draw.random() < 0.5:
                self.rewards[one] += float(self._draw.integers(-3, 4))
        if self._zero and len(self.agents) > 1:
            self.rewards[self.agents[0]] -= sum(self.rewards.values())
        for one in self.agents:
            self.truth.pay(self.possible_agents.index(one), self.rewards[one])
        if self._draw.random() < 0.2:
            for one in living:
                if self._draw.random() < 0.6:
                    cut = bool(self._draw.random() < 0.2)
                    self.terminations[one], self.truncations[one] = not cut, cut
                    self.truth.out[self.possible_agents.index(one)] = (not cut, cut)
        living = [one for one in self.agents if not (self.terminations[one] or self.truncations[one])]
        if living:
            self.agent_selection = living[int(self._draw.integers(len(living)))]
        self._accumulate_rewards()
        self._deads_step_first()


class AtOnce(ParallelEnv):
    """Agents act at once, those that are asked to. They join, leave, die together, and are paid at any time."""

    def __init__(self, players: int, kind: str, reused: bool, seed: int, folder: Any):
        self.metadata = {"name": "at-once"}
        self.render_mode = None
        self.possible_agents = [f"a{i}" for i in range(players)]
        self._space = SPACES.get(kind, spaces.Box(-1e6, 1e6, (3,)))
        shared = Buffer(kind, reused, folder)
        self._buffers = {agent: shared if kind == "memmap" else Buffer(kind, reused, folder)
                         for agent in self.possible_agents}  # fmt: skip
        self._draw, self.tag = np.random.default_rng(seed), -1

    def observation_space(self, agent: Any) -> Any:
        return self._space

    def action_space(self, agent: Any) -> Any:
        return spaces.MultiDiscrete([9, 9])

    def look(self, agent: Any) -> Any:
        return self._buffers[agent].fill(self.possible_agents.index(agent), self.count, self._draw.integers(999))

    def reset(self, seed: int | None = None, options: Any = None) -> Any:
        count = 1 + int(self._draw.integers(len(self.possible_agents)))
        self.agents, self._coming = self.possible_agents[:count], self.possible_agents[count:]
        self.count, self.tag = 0, self.tag + 1
        self.truth = Paying(len(self.possible_agents))
        return {agent: self.look(agent) for agent in self.agents}, {agent: {} for agent in self.agents}

    def step(self, actions: Any) -> Any:
        self.count += 1
        before = list(self.agents)
        for agent in before:
            self.truth.acted[self.possible_agents.index(agent)] += agent in actions
        for action in actions.values():
            spoil(action)
        rewards = {agent: float(self._draw.integers(-3, 4)) for agent in before}
        gone = [a for a in self.possible_agents if a not in before and a not in self._coming]
        if gone and self._draw.random() < 0.3:
            late = float(self._draw.integers(1, 4))
            rewards[gone[0]] = late
            self.truth.late[self.possible_agents.index(gone[0])] += late
        for agent in before:
            self.truth.pay(self.possible_agents.index(agent), rewards[agent])
        over, cut = dict.fromkeys(before, False), dict.fromkeys(before, False)
        if self._draw.random() < 0.25:
            for agent in before:
                if self._draw.random() < 0.7:
                    (cut if self._draw.random() < 0.3 else over)[agent] = True
                    self.truth.out[self.possible_agents.index(agent)] = over[agent], cut[agent]
        self.agents = [agent for agent in before if not (over[agent] or cut[agent])]
        if self._coming and self._draw.random() < 0.3:
            self.agents.append(self._coming.pop(0))
        seen = {agent: self.look(agent) for agent in dict.fromkeys([*before, *self.agents])}
        return seen, rewards, over, cut, {agent: {} for agent in seen}
