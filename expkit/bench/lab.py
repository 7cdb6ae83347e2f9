"""What stages share while a suite runs: the rows, a folder on the disk, how long to measure."""

from __future__ import annotations

import itertools
import os
import shutil
import tempfile
from pathlib import Path

from expkit.bench.workloads import Workload, make_workload
from expkit.errors import UsageError
from expkit.games.protocol import Game
from expkit.system.plugins import load_callable


class Lab:
    """A context manager; its folder goes when it ends.

    folder   where shards and runs are written: below `parent`, or the working folder
    source   `module:make_game` of the user's own game, "" for generals
    """

    def __init__(self, parent: str | os.PathLike[str] | None = None, source: str = ""):
        self.source = source
        self._parent = Path(parent or ".")
        self._folder: Path | None = None
        self._numbers = itertools.count()
        self._workloads: dict[str, Workload] = {}

    def __enter__(self) -> Lab:
        return self

    def __exit__(self, *_: object) -> None:
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    def make_game(self, num_envs: int, seed: int) -> Game:
        """The user's game, `make_game(num_envs, seed)`; see `expkit.games.protocol.Game`. Raises UsageError for what
        cannot be imported or is no game."""
        make = load_callable(self.source, "source")
        try:
            made = make(num_envs, seed)
        except TypeError as error:
            raise UsageError(f"source {self.source!r} cannot be called as make_game(num_envs, seed): {error}") from None
        if not isinstance(made, Game):
            raise UsageError(f"source {self.source!r} made a {type(made).__name__}, which is no expkit Game")
        return made

    def workload(self, name: str) -> Workload:
        """Its rows, made when first asked for."""
        if name not in self._workloads:
            self._workloads[name] = make_workload(name)
        return self._workloads[name]

    def forget(self) -> None:
        """Let all rows go."""
        self._workloads.clear()

    def path(self, name: str) -> Path:
        """A path of its own in the folder; nothing is there yet."""
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix=".expkit-bench-", dir=self._parent))
        return self._folder / f"{next(self._numbers)}-{name}"
