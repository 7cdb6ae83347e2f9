"""torchrl: replay buffers of TensorDicts, in memory and in mapped files."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from expkit.bench.peers.adapter import MemoryPeer, Rows

# Torch gathers hardly anything from unsigned integers of more than a byte: the same bits as signed ones.
_SIGNED = {np.dtype("u2"): "i2", np.dtype("u4"): "i4", np.dtype("u8"): "i8"}


class TorchrlTensor(MemoryPeer):
    """Storage in tensors, the random sampler, no prefetching."""

    name = "torchrl-tensor"
    distribution = "torchrl"
    note = "takes TensorDicts, made beforehand"

    def __init__(self, rows: Rows, capacity: int, at_once: int, folder: Path):
        import torch
        from torchrl.data import ReplayBuffer

        super().__init__(rows, capacity, at_once, folder)
        self._threads = torch.get_num_threads()
        torch.set_num_threads(1)
        # It tells on the terminal that a storage was made.
        logging.getLogger("torchrl").setLevel(logging.WARNING)
        self._tensors = {
            name: torch.from_numpy(values.view(_SIGNED.get(values.dtype, values.dtype)))
            for name, values in rows.items()
        }
        self.buffer = ReplayBuffer(storage=self._storage())

    def _storage(self) -> Any:
        from torchrl.data import LazyTensorStorage

        return LazyTensorStorage(self.capacity, device="cpu")

    def adding(self, first: int, count: int) -> Callable[[], None]:
        from tensordict import TensorDict

        starts = range(first, first + count, self.at_once)
        if self.at_once == 1:
            call = self.buffer.add
            given = [TensorDict({name: v[at] for name, v in self._tensors.items()}, []) for at in starts]
        else:
            call = self.buffer.extend
            given = [
                TensorDict({name: v[at : at + self.at_once] for name, v in self._tensors.items()}, [self.at_once])
                for at in starts
            ]

        def run() -> None:
            for rows in given:
                call(rows)

        return run

    def sample(self, count: int) -> Any:
        return self.buffer.sample(count)

    def arrays(self, sample: Any) -> dict[str, np.ndarray]:
        return {name: sample[name].numpy().view(values.dtype) for name, values in self.given.items()}

    def close(self) -> None:
        import torch

        torch.set_num_threads(self._threads)


class TorchrlMemmap(TorchrlTensor):
    """Storage in files that are mapped."""

    name = "torchrl-memmap"

    def _storage(self) -> Any:
        from torchrl.data import LazyMemmapStorage

        self.folder.mkdir()
        return LazyMemmapStorage(self.capacity, scratch_dir=str(self.folder))
