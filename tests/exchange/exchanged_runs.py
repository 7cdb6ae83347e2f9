"""Runs that are hard to hand over, for tests of exports and imports, written by the real Recorder."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from expkit import Field, Recorder, Schema

NAN, INF = float("nan"), float("inf")
EXTREMES = {
    "i1": (-128, 127),
    "i2": (-(1 << 15), (1 << 15) - 1),
    "i4": (-(1 << 31), (1 << 31) - 1),
    "i8": (-(1 << 63), (1 << 63) - 1),
    "u1": (0, 255),
    "u2": (0, (1 << 16) - 1),
    "u4": (0, (1 << 32) - 1),
    "u8": (0, (1 << 64) - 1),
    "f2": (6.1e-5, 65504.0),
    "f4": (1e-45, 3.4028235e38),
    "f8": (5e-324, 1.7976931348623157e308),
}
HARD_SCHEMA = Schema(
    [
        Field(
            "observation/image",
            "u1",
            (2, 3, 4),
            "observation",
            channels=("near", "far"),
            meaning="[red]what[/red] | is",
        ),
        Field("observation/bits", "bool", (11,), "observation"),
        Field("observation/odd", "f4", (3,), "observation", unit="m/s"),
        Field("action_mask", "bool", (4,), "observation", expand=(2, 1)),
        Field("action", "u4", belongs="action", low=0, high=8),
        *(Field(f"extreme/{dtype}", dtype, (2,)) for dtype in EXTREMES),
        *(Field(f"scalar/{dtype}", dtype) for dtype in ("u8", "i8", "f8", "f2", "bool")),
        Field("value", "f4", belongs="action", nullable=True),
        Field("hint", "i2", (2,), belongs="observation", nullable=True),
        Field("flag", "bool", nullable=True),
        Field("reward/shaped", "f8"),
        Field("observation/text/length", "u2", (), "observation"),
        Field("observation/text", "u1", (6,), "observation", ragged="observation/text/length"),
        Field("count", "u1"),
        Field("pairs", "i2", (3, 2), ragged="count"),
    ]
)


def values_at(rng: np.random.Generator, step: int) -> dict[str, object]:
    """Of one transition; what is nullable is there every other time."""
    seen = observed_at(rng, step)
    out: dict[str, object] = {
        "action": int(rng.integers(0, 9)),
        "reward": [0.0, -0.0, 0.1, NAN][step % 4],
        "reward/shaped": [1e-300, INF, -INF, NAN][step % 4],
        "count": step % 4,
        "pairs": np.arange(6, dtype=np.int16).reshape(3, 2) * (np.arange(3) < step % 4)[:, None].astype(np.int16),
        "scalar/u8": (1 << 64) - 1 - step,
        "scalar/i8": -(1 << 63) + step,
        "scalar/f8": 0.1 + step,
        "scalar/f2": [0.1, INF, NAN, -0.0][step % 4],
        "scalar/bool": step % 3 == 0,
        **{f"extreme/{dtype}": np.array(ends, np.dtype(dtype)) for dtype, ends in EXTREMES.items()},
    }
    if step % 2:
        out |= {"value": NAN if step % 4 == 1 else 0.5, "flag": step % 3 == 0}
    return seen | out


def observed_at(rng: np.random.Generator, step: int) -> dict[str, object]:
    out: dict[str, object] = {
        "observation/image": rng.integers(0, 256, (2, 3, 4), np.uint8),
        "observation/bits": rng.integers(0, 2, 11).astype(bool),
        "observation/odd": np.array([NAN, INF, -0.0], np.float32) * (1 if step % 2 else -1),
        "action_mask": rng.integers(0, 2, 4).astype(bool),
        "observation/text/length": step % 7,
        "observation/text": np.frombuffer((b"abcdef"[: step % 7]).ljust(6, b"\0"), np.uint8),
    }
    return out | ({"hint": np.array([step, -step], np.int16)} if step % 3 else {})


def write_hard(path: Path) -> Path:
    """Three players of whom one is often away, turns that are not contiguous, policies that change, annotations, and
    episodes that terminate, are truncated, are interrupted with a final observation and without one."""
    rng = np.random.default_rng(3)
    with Recorder(path, HARD_SCHEMA, players=["left", "right [b]", "naïve"], min_free=0, seed=9) as recorder:
        recorder.set_policy(0, "net", version=1, checkpoint="a.pt", digest="ff")
        recorder.set_policy(1, "[bold]rival[/bold]", version=7)
        for number in range(9):
            how = ("terminated", "truncated", "interrupted", "cut")[number % 4]
            episode = recorder.new_episode(seeds={"env": number, "policy": (1 << 60) + number}, map=f"m{number}")
            players = [0, 1, 2] if number % 3 else [0, 2]
            length = 3 + 5 * number
            for step in range(length):
                if step == 4:
                    recorder.set_policy(0, "net", version=number)
                for player in players:
                    last = step == length - 1
                    ends = {name: last and how == name for name in ("terminated", "truncated")}
                    recorder.add(player=player, episode=episode, step=2 * step + player, **values_at(rng, step), **ends)
            if how != "cut":
                for player in players:
                    outcome = None if number == 2 else float(player == 0)
                    recorder.end(episode=episode, player=player, outcome=outcome, **observed_at(rng, length))
            if number % 2:
                recorder.annotate(episode, comment='a, "quoted"\nline', score=number / 3)
    return path


PLAIN_SCHEMA = Schema([Field("observation", "f4", (4,), "observation"), Field("action", "i8", belongs="action")])


def write_plain(path: Path, episodes: int = 20, length: int = 50, **options: object) -> Path:
    """One player, everything of one kind: what D4RL and Minari are made for."""
    rng = np.random.default_rng(1)
    with Recorder(path, PLAIN_SCHEMA, min_free=0, **options) as recorder:  # type: ignore[arg-type]
        for episode in range(episodes):
            steps = length + episode % 7
            seen = rng.standard_normal((steps + 1, 4)).astype(np.float32)
            over = np.arange(steps) == steps - 1
            recorder.add_batch(
                episode=episode, step=np.arange(steps), observation=seen[:-1], action=rng.integers(0, 2, steps),
                reward=rng.standard_normal(steps).astype(np.float32), terminated=over & (episode % 2 == 0),
                truncated=over & (episode % 2 == 1),
            )  # fmt: skip
            recorder.end(episode=episode, player=0, observation=seen[-1], outcome=1.0)
    return path
