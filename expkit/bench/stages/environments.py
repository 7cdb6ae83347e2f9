"""An environment of Gymnasium, recorded by the wrapper, beside the same steps without it."""

from __future__ import annotations

import importlib.util
import shutil
import time
from pathlib import Path
from typing import Any

from expkit.bench.lab import Lab
from expkit.bench.stage import Trial, Values, stage

ENVIRONMENT = "CartPole-v1"
STEPS = 10_000  # of a pass, after which all of them are made durable
ROW_BYTES = 4 * 4 + 8 + 4 + 2  # observation, action, reward, two flags


def play(env: Any, steps: int) -> None:
    """So many steps of alternating actions, episode after episode."""
    env.reset(seed=1)
    for step in range(steps):
        _, _, terminated, truncated, _ = env.step(step & 1)
        if terminated or truncated:
            env.reset()


def make_environment(kind: str = ENVIRONMENT) -> Any:
    import gymnasium

    return gymnasium.make(kind)


def record_cartpole(lab: Lab, workload: str) -> Trial:
    from expkit.wrapping.wrap import wrap

    path, bare = lab.path("cartpole"), make_environment()
    env = wrap(make_environment(), path)

    def run() -> float:
        begun = time.perf_counter()
        play(env, STEPS)
        env.recorder.flush()
        return time.perf_counter() - begun

    def close() -> None:
        env.close()
        bare.close()
        shutil.rmtree(path, ignore_errors=True)

    def finish() -> Values:
        written = sum(env.recorder.collector.stats().written.values())
        return {"bytes_per_row": _bytes_under(path) / written}

    return Trial(run, STEPS, STEPS * ROW_BYTES, lambda: play(bare, STEPS), finish=finish, close=close, repeatable=False)


def _bytes_under(path: Path) -> int:
    return sum(file.stat().st_size for file in (path / "shards").rglob("*") if file.is_file())


if importlib.util.find_spec("gymnasium"):  # of an extra; where it is not installed there is no such stage
    stage(
        "record/cartpole",
        "CartPole recorded through expkit.wrap, until it is on the disk",
        limit="the same steps, unrecorded",
        suites=("full",),
        traced=False,
    )(record_cartpole)
