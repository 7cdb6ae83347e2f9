"""`open_run`: everything there is to read of a run or of many, closed, killed or still being recorded."""

from __future__ import annotations

import os
from glob import has_magic
from pathlib import Path
from typing import overload

from expkit.reading.run import Run
from expkit.reading.runs import Runs

Paths = list[str] | list[Path] | list[str | os.PathLike[str]] | tuple[str | os.PathLike[str], ...]


@overload
def open_run(path: str | os.PathLike[str]) -> Run: ...
@overload
def open_run(path: Paths) -> Runs: ...
def open_run(path: str | os.PathLike[str] | Paths) -> Run | Runs:
    """Open a run directory; several in a list, or a glob, as one, see `expkit.reading.runs.Runs`.

    Raises NotThere when there is none, CheckFailed when it has no readable description, UsageError for a glob that
    matches no run, SchemaError for several whose rows are not alike.
    """
    if isinstance(path, str | os.PathLike):
        if not has_magic(os.fspath(path)) or os.path.exists(path):
            return Run(Path(path))
        path = [path]
    return Runs.open(path)
