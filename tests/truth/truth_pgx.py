"""Games of pgx, whose states are values of JAX, as AEC environments of PettingZoo."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import pgx
from gymnasium import spaces
from pettingzoo import AECEnv

# Those that JAX compiles in seconds.
NAMES = ("connect_four", "hex", "kuhn_poker", "leduc_holdem", "minatar-breakout", "tic_tac_toe")


class Pgx(AECEnv):
    def __init__(self, name: str):
        super().__init__()
        self.metadata, self.render_mode = {"name": name}, None
        self._game = pgx.make(name)
        self._init, self._step = jax.jit(self._game.init), jax.jit(self._game.step)
        self.possible_agents = [f"player_{number}" for number in range(self._game.num_players)]
        shape = tuple(self._game.observation_shape)
        self._seen = spaces.Dict(
            observation=spaces.Box(-np.inf, np.inf, shape, np.float32),
            action_mask=spaces.Box(0, 1, (self._game.num_actions,), np.int8),
        )
        self._acts = spaces.Discrete(self._game.num_actions)

    def observation_space(self, agent: Any) -> Any:
        return self._seen

    def action_space(self, agent: Any) -> Any:
        return self._acts

    def reset(self, seed: int | None = None, options: Any = None) -> None:
        self.agents = list(self.possible_agents)
        self._key = jax.random.PRNGKey(seed or 0)
        self._state = self._init(self._key)
        self.rewards = dict.fromkeys(self.agents, 0.0)
        self._cumulative_rewards = dict.fromkeys(self.agents, 0.0)
        self.terminations, self.truncations = dict.fromkeys(self.agents, False), dict.fromkeys(self.agents, False)
        self.infos: dict[Any, Any] = {agent: {} for agent in self.agents}
        self._skip_agent_selection = None
        self.agent_selection = self._turn()

    def _turn(self) -> str:
        return self.possible_agents[int(self._state.current_player)]

    def observe(self, agent: Any) -> Any:
        seen = self._game.observe(self._state, self.possible_agents.index(agent))
        mask = np.array(self._state.legal_action_mask, np.int8)
        return {"observation": seen, "action_mask": mask if agent == self._turn() else np.zeros_like(mask)}

    def step(self, action: Any) -> None:
        agent = self.agent_selection
        if self.terminations[agent] or self.truncations[agent]:
            self._was_dead_step(action)
            return
        self._cumulative_rewards[agent] = 0.0
        self._key, key = jax.random.split(self._key)
        self._state = self._step(self._state, int(action), key)
        self.rewards = dict(zip(self.possible_agents, np.asarray(self._state.rewards).tolist(), strict=True))
        self._accumulate_rewards()
        if bool(self._state.terminated):
            self.terminations = dict.fromkeys(self.agents, True)
        self.truncations = dict.fromkeys(self.agents, bool(self._state.truncated))
        self.agent_selection = self._turn()
        self._deads_step_first()
