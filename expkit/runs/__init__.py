"""Run directories: written by `RunWriter`, read by `open_run`, checked by `validate`."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from expkit.reading.run import Run, open_run
    from expkit.row.episodes import Episode
    from expkit.runs.entries import ShardEntry
    from expkit.runs.layout import find_runs
    from expkit.runs.requests import request_rotation

__all__ = ["Episode", "Run", "ShardEntry", "find_runs", "open_run", "request_rotation"]

_HOME = {
    "Episode": "entries",
    "Run": "read",
    "ShardEntry": "entries",
    "find_runs": "layout",
    "open_run": "read",
    "request_rotation": "requests",
}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f"expkit.runs.{_HOME[name]}"), name)
    raise AttributeError(f"module 'expkit.runs' has no attribute {name!r}")
