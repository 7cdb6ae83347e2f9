"""Small runs for tests of the command line and of validation, written by the real Recorder: a walk over a board in
the fields of generals, whose every value is known, and a run without boards."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from patience import together

from expkit import Field, Recorder, Schema

HEIGHT, WIDTH = 6, 7
TILES = HEIGHT * WIDTH
BOARD_SCHEMA = Schema(
    [
        Field("observation/army", "i4", (HEIGHT, WIDTH), "observation"),
        Field("observation/owner", "i1", (HEIGHT, WIDTH), "observation"),
        Field("observation/terrain", "u1", (HEIGHT, WIDTH), "observation", low=0, high=5),
        Field("observation/total_army", "i4", (2,), "observation"),
        Field("observation/total_land", "i4", (2,), "observation"),
        Field("action_mask", "bool", (4 * TILES,), "observation", expand=(2, 1)),
        Field("action", "u4", belongs="action", low=0, high=8 * TILES),
    ]
)
VECTOR_SCHEMA = Schema(
    [
        Field("observation", "f4", (3,), "observation", meaning="[red]position[/red]"),
        Field("action", "u1", belongs="action"),
        Field("value", "f4", belongs="action", nullable=True),
    ]
)


def board(player: int, step: int) -> dict[str, np.ndarray]:
    """What `player` sees at `step`: its general, the land it walked over, fog beyond the next column."""
    terrain = np.full((HEIGHT, WIDTH), 4, np.uint8)
    owner = np.full((HEIGHT, WIDTH), -2, np.int8)
    army = np.zeros((HEIGHT, WIDTH), np.int32)
    row, reach = (1, 4)[player], min(step, WIDTH - 1)
    near = slice(max(row - 1, 0), row + 2)
    terrain[near, : reach + 2], owner[near, : reach + 2] = 0, -1
    owner[row, : reach + 1] = player
    army[row, : reach + 1] = 1
    army[row, reach] = 10 + step
    terrain[row, 0] = 2
    terrain[row - 1, 0], terrain[row + 1, 0], army[row + 1, 0] = 3, 1, 44
    terrain[0 if player else 5, 6] = 5
    mask = np.zeros(8 * TILES + 1, bool)
    mask[[action_at(player, step), 8 * TILES]] = True
    mask[4 * TILES : 8 * TILES] = mask[: 4 * TILES]
    return {
        "observation/army": army,
        "observation/owner": owner,
        "observation/terrain": terrain,
        "observation/total_army": np.array([20 + step, 20 + step], np.int32),
        "observation/total_land": np.array([reach + 1, reach + 1], np.int32),
        "action_mask": mask,
    }


def action_at(player: int, step: int) -> int:
    """Right along its row, from where its army stands."""
    return ((1, 4)[player] * WIDTH + min(step, WIDTH - 1)) * 4 + 3


def write_boards(path: Path, episodes: int = 3, steps: int = 5, **options: Any) -> Path:
    """Two players, `episodes` games of `steps` actions, player 0 wins each."""
    with (
        Recorder(path, BOARD_SCHEMA, players=["left", "right"], min_free=0, mode="w", **options) as recorder,
        together(recorder),
    ):
        recorder.set_policy(0, "walker", version=3)
        recorder.set_policy(1, "[bold]evil[/bold] \x1b[31m", version=1)
        for episode in range(episodes):
            for step in range(steps):
                for player in (0, 1):
                    last = step == steps - 1
                    recorder.add(
                        player=player, episode=episode, step=step, action=action_at(player, step),
                        reward=(1.0 if player == 0 else -1.0) if last else 0.0, terminated=last, **board(player, step),
                    )  # fmt: skip
            for player in (0, 1):
                recorder.end(episode=episode, player=player, outcome=1 - 2 * player, **board(player, steps))
    return path


def write_vectors(path: Path, episodes: int = 4, steps: int = 6, **options: Any) -> Path:
    """One player, observations of three numbers, one nullable field."""
    with Recorder(path, VECTOR_SCHEMA, min_free=0, mode="w", **options) as recorder, together(recorder):
        for episode in range(episodes):
            for step in range(steps):
                observation = np.array([episode, step, 0.5], np.float32)
                extra = {"value": 0.25} if step % 2 else {}
                recorder.add(
                    episode=episode, step=step, action=step % 3, reward=1.0, observation=observation,
                    truncated=step == steps - 1, **extra,
                )  # fmt: skip
            recorder.end(episode=episode, player=0, observation=np.array([episode, steps, 0.5], np.float32))
    return path


def flip_bit(path: Path, offset: int, bit: int = 0) -> None:
    """Damage one bit of a file in place."""
    data = bytearray(path.read_bytes())
    data[offset] ^= 1 << bit
    path.write_bytes(data)
