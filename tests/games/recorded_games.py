"""Games of generals recorded into a run by a session in this process, for tests of what becomes of runs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from expkit.collect.session import Session
from expkit.settings.config import resolve

SMALL = {"size": "8x9", "players": 3, "max_steps": 90, "num_envs": 3, "seed": 5, "min_free": "0", "threads": 1}


def record(path: Path, *, policies: list[Any] | None = None, **flags: Any) -> Path:
    """A run of small games at `path`; `flags` by parameter, as `expkit record` takes them."""
    config = resolve({"episodes": 5, **SMALL, **flags}, None, {}).config
    Session(config, path, policies=policies).run()
    return path


def record_games(path: Path, **flags: Any) -> Path:
    """A run of a few short games; `flags` as `expkit record` has them, with underscores."""
    small = {"episodes": 3, "seed": 1, "max_steps": 60, "num_envs": 2, "threads": 1, "min_free": 0}
    result = Session(resolve(small | flags, environ={}).config, path).run()
    assert result.error is None
    return path


def importable(folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, text: str) -> Path:
    """`folder` with a module of a user's, found by this process and by those it starts."""
    (folder / name).write_text(text)
    monkeypatch.syspath_prepend(str(folder))
    before = os.environ.get("PYTHONPATH")  # where a clone is tested that is not the installed one, it is found by that
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(folder), *([before] if before else [])]))
    return folder
