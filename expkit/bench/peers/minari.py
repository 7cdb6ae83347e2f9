"""Minari: datasets of episodes for offline learning, in HDF5."""

from __future__ import annotations

import os
import shutil
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from expkit.bench.peers.adapter import DiskPeer, EnvironmentPeer, Rows, row_count, sync_file
from expkit.bench.stages.environments import make_environment, play

DATASET = "expkit-bench-v0"
_ROOT = "MINARI_DATASETS_PATH"
_STEPS = {"action": "actions", "reward": "rewards", "terminated": "terminations", "truncated": "truncations"}


class MinariDataset(DiskPeer):
    """A dataset made of EpisodeBuffers that are ready before the clock starts, which is its fastest way. A row is read
    with the whole of its episode."""

    name = "minari"
    distribution = "minari"
    note = "not compressed; no checksum; no keys"
    most_rows = 8192
    _dataset: Any = None

    def __init__(self, rows: Rows, path: Path):
        super().__init__(rows, path)
        from minari.data_collector import EpisodeBuffer

        # Minari nests by dictionaries, and HDF5 would by slashes.
        self.parts = {name.rpartition("/")[2]: name for name in rows if name.startswith(("observation", "action_mask"))}
        self.starts = np.flatnonzero(np.diff(rows["episode"], prepend=rows["episode"][0] + 1))
        self.buffers = []
        for number, (begin, end) in enumerate(zip(self.starts, [*self.starts[1:], row_count(rows)], strict=True)):
            # T actions want T + 1 observations: the last one twice.
            seen = {part: np.concatenate([rows[name][begin:end], rows[name][end - 1 : end]])
                    for part, name in self.parts.items()}  # fmt: skip
            steps = {theirs: rows[ours][begin:end] for ours, theirs in _STEPS.items()}
            self.buffers.append(EpisodeBuffer(id=number, observations=seen, **steps))

    def write(self) -> None:
        import minari
        from gymnasium import spaces

        boxes = {}
        for part, name in self.parts.items():
            kind, shape = self.given[name].dtype, self.given[name].shape[1:]
            boxes[part] = (
                spaces.MultiBinary(shape) if kind.kind == "b" else spaces.Box(*_bounds(kind), shape, kind.type)
            )
        with _datasets_in(self.path):
            minari.create_dataset_from_buffers(
                DATASET,
                self.buffers,
                observation_space=spaces.Dict(boxes),
                action_space=spaces.Discrete(int(self.given["action"].max()) + 1),
                data_format="hdf5",
                jpeg_encoding=False,
            )
        for file in self.path.rglob("*"):
            if file.is_file():
                sync_file(file)

    def open(self) -> None:
        import minari

        with _datasets_in(self.path):
            self._dataset = minari.load_dataset(DATASET)

    def scan(self) -> Iterator[dict[str, np.ndarray]]:
        for episode in self._dataset.iterate_episodes():
            yield self._fields(episode)

    def read_rows(self, wanted: Sequence[int]) -> Iterator[dict[str, Any]]:
        episodes = np.searchsorted(self.starts, wanted, "right") - 1
        for number, episode in zip(wanted, episodes.tolist(), strict=True):
            step = number - self.starts[episode]
            yield {name: values[step] for name, values in self._fields(self._dataset[episode]).items()}

    def _fields(self, episode: Any) -> dict[str, np.ndarray]:
        out = {name: episode.observations[part][:-1] for part, name in self.parts.items()}
        return out | {ours: getattr(episode, theirs) for ours, theirs in _STEPS.items()}

    def close(self) -> None:
        # It opens its files for each call, and closes them.
        self._dataset = None

    def remove(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)


class MinariCollector(EnvironmentPeer):
    """Its DataCollector around the environment, and a dataset made of what it collected."""

    name = "minari-collector"
    distribution = "minari"
    note = "not compressed; no checksum; no keys"

    def record(self, steps: int) -> float:
        from minari import DataCollector

        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        with _datasets_in(self.folder.resolve()):
            env = DataCollector(make_environment(), data_format="hdf5")
            begun = time.perf_counter()
            play(env, steps)
            env.create_dataset(DATASET)
            for file in (self.folder / DATASET).rglob("*"):
                if file.is_file():
                    sync_file(file)
            seconds = time.perf_counter() - begun
            env.close()
            del env  # and the folder it would have collected more in
        return seconds

    def close(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)


def _bounds(kind: np.dtype) -> tuple[float, float]:
    if kind.kind == "f":
        return -np.inf, np.inf
    return float(np.iinfo(kind).min), float(np.iinfo(kind).max)


@contextmanager
def _datasets_in(folder: Path) -> Iterator[None]:
    """Minari looks for its datasets where a variable of the environment says; it warns of authors and scores that are
    not told."""
    before = os.environ.get(_ROOT)
    os.environ[_ROOT] = str(folder)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        if before is None:
            del os.environ[_ROOT]
        else:
            os.environ[_ROOT] = before
