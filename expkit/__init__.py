"""expkit: the flight recorder of self-play.

Records live games into checksummed shard files that survive a kill, and reads, checks and replays them.
The names below are the public face; they are imported when first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from expkit.system.version import __version__

if TYPE_CHECKING:
    from expkit.errors import ExpkitError
    from expkit.reading.asking import query
    from expkit.reading.opening import open_run
    from expkit.reading.run import Run
    from expkit.recorder import Recorder
    from expkit.row.schema import Field, Schema
    from expkit.wrapping.wrap import wrap

__all__ = ["ExpkitError", "Field", "Recorder", "Run", "Schema", "__version__", "open_run", "query", "wrap"]

_HOME = {
    "ExpkitError": "expkit.errors",
    "Field": "expkit.row.schema",
    "Recorder": "expkit.recorder",
    "Run": "expkit.reading.run",
    "Schema": "expkit.row.schema",
    "open_run": "expkit.reading.opening",
    "query": "expkit.reading.asking",
    "wrap": "expkit.wrapping.wrap",
}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        value = getattr(importlib.import_module(_HOME[name]), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'expkit' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
