"""Games of generals recorded by a `Session` in this process, for tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from expkit.collect.session import Session
from expkit.config import resolve

SMALL = {"size": "8x9", "players": 3, "max_steps": 90, "num_envs": 3, "seed": 5, "min_free": "0", "threads": 1}


def record(path: Path, *, policies: list[Any] | None = None, **flags: Any) -> Path:
    """A run of small games at `path`; `flags` by parameter, as `expkit record` takes them."""
    config = resolve({"episodes": 5, **SMALL, **flags}, None, {}).config
    Session(config, path, policies=policies).run()
    return path
