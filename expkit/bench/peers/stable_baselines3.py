"""stable-baselines3: the buffer of its off-policy learners."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from expkit.bench.peers.adapter import MemoryPeer, Rows


class Sb3Buffer(MemoryPeer):
    """ReplayBuffer with an environment for each row added at once, the leanest it can be: the next observation is
    found at the next row, time limits are not told apart."""

    name = "stable-baselines3"
    distribution = "stable-baselines3"
    note = "no mask, no keys; takes and gives the next observation too"

    def __init__(self, rows: Rows, capacity: int, at_once: int, folder: Path):
        import torch
        from gymnasium import spaces
        from stable_baselines3.common.buffers import ReplayBuffer

        super().__init__(rows, capacity, at_once, folder)
        self._threads = torch.get_num_threads()
        torch.set_num_threads(1)
        observations = rows["observation"]
        self._actions = rows["action"].astype(np.int64)
        self._done = rows["terminated"] | rows["truncated"]
        self.buffer = ReplayBuffer(
            capacity,
            spaces.Box(-np.inf, np.inf, observations.shape[1:], np.float32),
            spaces.Discrete(int(self._actions.max()) + 1),
            device="cpu",
            n_envs=at_once,
            optimize_memory_usage=True,
            handle_timeout_termination=False,
        )

    def adding(self, first: int, count: int) -> Callable[[], None]:
        add = self.buffer.add
        observations = self.given["observation"]
        given = []
        for at in range(first, first + count, self.at_once):
            here, after = slice(at, at + self.at_once), slice(at + 1, at + 1 + self.at_once)
            if after.stop > len(observations):
                after = here
            infos: list[dict[str, Any]] = [{}] * self.at_once
            given.append((
                observations[here], observations[after], self._actions[here], self.given["reward"][here],
                self._done[here], infos,
            ))  # fmt: skip

        def run() -> None:
            for rows in given:
                add(*rows)

        return run

    def sample(self, count: int) -> Any:
        return self.buffer.sample(count)

    def arrays(self, sample: Any) -> dict[str, np.ndarray]:
        return {
            "observation": sample.observations.numpy(),
            "action": sample.actions.numpy()[:, 0],
            "reward": sample.rewards.numpy()[:, 0],
            "done": sample.dones.numpy()[:, 0],
        }

    def close(self) -> None:
        import torch

        torch.set_num_threads(self._threads)
