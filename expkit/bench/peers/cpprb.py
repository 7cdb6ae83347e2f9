"""cpprb: replay buffers in C++ and Cython."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from expkit.bench.peers.adapter import MemoryPeer, Rows


class CpprbBuffer(MemoryPeer):
    """Its plain ReplayBuffer; any fields."""

    name = "cpprb"
    distribution = "cpprb"

    def __init__(self, rows: Rows, capacity: int, at_once: int, folder: Path):
        from cpprb import ReplayBuffer

        super().__init__(rows, capacity, at_once, folder)
        fields = {name: {"shape": values.shape[1:] or 1, "dtype": values.dtype} for name, values in rows.items()}
        self.buffer = ReplayBuffer(capacity, fields)

    def adding(self, first: int, count: int) -> Callable[[], None]:
        add = self.buffer.add
        # A single row without the axis of rows: cpprb finds out by itself how many there are.
        given = [
            {name: values[at : at + self.at_once] if self.at_once > 1 else values[at]
             for name, values in self.given.items()}
            for at in range(first, first + count, self.at_once)
        ]  # fmt: skip

        def run() -> None:
            for rows in given:
                add(**rows)

        return run

    def sample(self, count: int) -> dict[str, np.ndarray]:
        return self.buffer.sample(count)

    def arrays(self, sample: Any) -> dict[str, np.ndarray]:
        # Scalars come as (count, 1).
        return {name: values.reshape(-1, *self.given[name].shape[1:]) for name, values in sample.items()}

    def close(self) -> None:
        del self.buffer
