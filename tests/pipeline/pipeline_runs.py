"""Small runs for tests of pipelines, and their rows in one piece."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from pipeline_rows import SCHEMA

from expkit import Recorder

WHOLE = ["gae", "discounted_return", {"kind": "n_step", "next": ["observation"]}, {"kind": "frame_stack", "frames": 3}]


def write(path: Path, *, pipeline=None, seed=3, episodes=9) -> Path:
    """Episodes of two players, the second of whom acts at every other step, interleaved in many small blocks of three
    shards; every tenth value of an observation is NaN or beyond its bounds."""
    rng = np.random.default_rng(seed)
    lengths = [int(n) for n in rng.integers(3, 40, episodes)]
    with Recorder(path, SCHEMA, players=2, min_free=0, pipeline=pipeline) as recorder:
        for step in range(max(lengths)):
            for episode, length in enumerate(lengths):
                for player in (0, 1):
                    turns = length if player == 0 else (length + 1) // 2
                    if step >= turns:
                        continue
                    board = rng.normal(size=(2, 3))
                    if rng.random() < 0.1:
                        board[0, 0] = rng.choice([np.nan, np.inf, 200.0])
                    last = step == turns - 1
                    seen = {"observation/board": board, "observation/seen": rng.random(5) < 0.5,
                            "mask": rng.random(7) < 0.5, "value": rng.normal()}  # fmt: skip
                    recorder.add(
                        player=player, episode=episode, step=step * (player + 1) + player, action=int(rng.integers(9)),
                        reward=rng.normal(), guess=rng.normal() if rng.random() < 0.8 else None,
                        terminated=last and episode % 3 == 0, truncated=last and episode % 3 == 1, **seen,
                    )  # fmt: skip
                    if last and episode % 4 != 3:  # every fourth is cut off
                        recorder.end(episode=episode, player=player, **seen)
            if step % 3 == 2:
                recorder.flush()
            if step % 12 == 11:
                recorder.collector.writer.rotate()
    return path


def joined(parts: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def by_key(rows: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    order = np.lexsort((rows["step"], rows["player"], rows["episode"]))
    return {name: values[order] for name, values in rows.items()}
