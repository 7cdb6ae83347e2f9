"""Small recordings for the fault suite, every row of which is known."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from expkit import Field, Recorder, Schema

SCHEMA = Schema([Field("observation", "f4", (3,), "observation"), Field("action", "u1", belongs="action")])
PLAYERS = 2
Key = tuple[int, int, int]  # episode, player, step


def observation(episode: int, player: int, step: int) -> np.ndarray:
    return np.array([episode, player, step], np.float32) + np.float32(0.25)


def record_parts(
    run: Path,
    promise: Callable[[Sequence[Key]], None],
    *,
    parts: int = 10,
    steps: int = 6,
    **options: Any,
) -> list[Key]:
    """An episode of two players in each part, every third one left open until the next part is over; a flush after
    each part, and `promise` of every row given until then. Returns all rows given."""
    given: list[Key] = []
    options = {"shard_rows": 4 * PLAYERS * steps, "flush_interval": "1h", "min_free": 0, "memory": "64MiB"} | options
    with Recorder(run, SCHEMA, players=PLAYERS, **options) as recorder:
        recorder.set_policy(0, "walker", version=1)
        open_episodes: list[int] = []
        for _ in range(parts):
            episode = recorder.new_episode(note="of a part")
            for step in range(steps):
                for player in range(PLAYERS):
                    recorder.add(
                        player=player, episode=episode, step=step, action=step, reward=step / 8,
                        observation=observation(episode, player, step),
                    )  # fmt: skip
                    given.append((episode, player, step))
            open_episodes.append(episode)
            if len(open_episodes) % 3:
                for number in open_episodes:
                    recorder.end(
                        episode=number,
                        observation=np.stack([observation(number, player, steps) for player in range(PLAYERS)]),
                    )
                    given += [(number, player, steps) for player in range(PLAYERS)]
                open_episodes = []
            recorder.flush()
            promise(list(given))
    promise(list(given))
    return given


def record_on(run: Path) -> None:
    """Join a run that was left and record one more episode."""
    with Recorder(run, SCHEMA, players=PLAYERS, mode="a", min_free=0, memory="64MiB") as recorder:
        episode = recorder.new_episode()
        for player in range(PLAYERS):
            recorder.add(
                player=player, episode=episode, step=0, action=0, reward=0, observation=observation(episode, player, 0)
            )
