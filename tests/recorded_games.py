"""Games of generals recorded into a run by a session in this process, for tests of what becomes of runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from expkit.collect.session import Session
from expkit.config import resolve


def record_games(path: Path, **flags: Any) -> Path:
    """A run of a few short games; `flags` as `expkit record` has them, with underscores."""
    small = {"episodes": 3, "seed": 1, "max_steps": 60, "num_envs": 2, "threads": 1, "min_free": 0}
    result = Session(resolve(small | flags, environ={}).config, path).run()
    assert result.error is None
    return path
