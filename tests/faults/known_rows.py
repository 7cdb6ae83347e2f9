"""A recorder every value of which follows from episode, player and step, so that any reader can tell a wrong one."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from recordings import PLAYERS, SCHEMA

from expkit import Recorder
from expkit.errors import BufferClosed
from expkit.rewrite.compact import compact
from expkit.system.files import Disk, using


def observations(episode: np.ndarray, player: np.ndarray, step: np.ndarray) -> np.ndarray:
    """f4 (rows, 3)."""
    low = np.asarray(episode, np.uint64) & np.uint64(0xFFFFF)
    return np.stack([low.astype(np.float32), player.astype(np.float32), step.astype(np.float32) + 0.25], 1)


def wrong_rows(batch: dict[str, np.ndarray]) -> int:
    """How many rows of a batch hold another value than they were given."""
    steps = np.where(batch["is_last"], 0, batch["step"] & 255)
    wrong = (batch["observation"] != observations(batch["episode"], batch["player"], batch["step"])).any(1)
    return int((wrong | (batch["action"] != steps)).sum())


def record_episodes(recorder: Recorder, rng: Random, episodes: int = 1) -> int:
    """Whole episodes of both players, one after another; returns their rows."""
    rows = 0
    for _ in range(episodes):
        episode, steps = recorder.new_episode(), rng.randrange(1, 60)
        numbers, step = np.full(steps, episode, np.uint64), np.arange(steps)
        for player in range(PLAYERS):
            recorder.add_batch(
                player=player, episode=numbers, step=step, action=step & 255, reward=np.zeros(steps),
                observation=observations(numbers, np.full(steps, player), step),
            )  # fmt: skip
        last = [observations(numbers[:1], np.array([p]), np.array([steps]))[0] for p in range(PLAYERS)]
        recorder.end(episode=episode, observation=np.stack(last))
        rows += PLAYERS * (steps + 1)
    return rows


def record_known(run: Path, episodes: int, seed: int = 1, **options: Any) -> int:
    """A run of so many episodes; returns its rows."""
    with Recorder(run, SCHEMA, players=PLAYERS, **{"min_free": 0, "memory": "64MiB"} | options) as recorder:
        return record_episodes(recorder, Random(seed), episodes)


class ShortWrites(Disk):
    """The real disk, which now and then takes a part of what it is given, and lets others look at that."""

    def __init__(self) -> None:
        self._random = Random(1)

    def write(self, handle: int, pieces: Sequence[bytes | memoryview]) -> int:
        data = b"".join(pieces)
        if len(data) < 2 or self._random.random() < 0.5:
            return super().write(handle, [data])
        # Of a block of few rows the last hundred bytes are the columns.
        least = 1 if self._random.random() < 0.5 else max(len(data) - 100, 1)
        done = super().write(handle, [data[: self._random.randrange(least, len(data))]])
        time.sleep(0.01)
        return done


def record_until_killed(run: str, shard_rows: str = "400", nap: str = "0.002") -> None:
    """Record on and on, flushed 50 times a second, on a disk of short writes. Ends cleanly when there is a file `stop`
    beside the run."""
    path, rng = Path(run), Random(run)
    options: dict[str, Any] = {"min_free": 0, "memory": "64MiB", "flush_interval": 0.02, "shard_rows": int(shard_rows)}
    mode = "a" if (path / "run.yaml").exists() else "x"
    with using(ShortWrites()), Recorder(path, SCHEMA, players=PLAYERS, mode=mode, **options) as recorder:
        while not path.with_name("stop").exists():
            try:
                record_episodes(recorder, rng)
            except BufferClosed:
                break
            time.sleep(float(nap))


def compact_to_many(run: str) -> None:
    """Compact to shards of 16 KiB, far below what the command line allows."""
    compact(Path(run), shard_size=16 << 10, proving=True)


class SlowDisk(Disk):
    """The real disk, 20 ms slower with every write of a block, and at a standstill until `go_on` says otherwise."""

    go_on: Callable[[], bool] = staticmethod(lambda: True)

    def write(self, handle: int, pieces: Sequence[bytes | memoryview]) -> int:
        time.sleep(0.02)
        while not self.go_on():
            time.sleep(0.001)
        return super().write(handle, pieces)


def record_overloaded(run: str, overflow: str, episodes: str, seed: str = "1") -> None:
    """More rows than a slow disk takes, through buffers of some hundred rows; where they may be dropped, some of each
    player are. Joins or goes on with a run."""
    path = Path(run)
    options: dict[str, Any] = {"min_free": 0, "memory": "128KiB", "overflow": overflow, "flush_interval": 0.05}
    mode = "a" if (path / "run.yaml").exists() else "x"
    recording = Recorder(path, SCHEMA, players=PLAYERS, mode=mode, shard_rows=700, **options)
    with using(SlowDisk()) as slow, recording as recorder:
        all_given = False
        if overflow.startswith("drop"):
            slow.go_on = lambda: all_given or all(recorder.collector.shards.dropped().values())
        try:
            record_episodes(recorder, Random(seed), int(episodes))
        finally:
            all_given = True
