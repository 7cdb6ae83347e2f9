"""How the games of a run were set up, so that they can be played again."""

from __future__ import annotations

from typing import Any

from expkit.errors import GameError, UsageError
from expkit.games import GameSource, find_source
from expkit.games.protocol import Resimulator
from expkit.reading.run import Run
from expkit.row.episodes import Episode
from expkit.runs.origins import as_recorded, origins_of


class RecordedGames:
    """The games of a run: all set up alike, or, of a merged run, as in the run that each comes from."""

    def __init__(self, run: Run):
        self._run = run
        self._origins = {origin.id: origin for origin in origins_of(run.info.metadata)}
        self._known: dict[str, tuple[GameSource, Any, int]] = {}

    def of(self, episode: Episode) -> tuple[GameSource, Any, int]:
        """(source, configuration, the run's seed). Raises UsageError."""
        origin = episode.start.origin if episode.start is not None else None
        key = "" if origin is None else origin.run
        if key not in self._known:
            self._known[key] = self._look_up(key)
        return self._known[key]

    def resimulator(self, episode: Episode) -> Resimulator:
        """The episode at its beginning, to be stepped with the recorded actions. Raises UsageError where nothing tells
        how the game was set up, GameError for an episode that cannot be played again."""
        source, config, seed = self.of(episode)
        if episode.start is None:
            raise GameError(f"{self._run.path} episode {episode.number}: its start record, with its seeds, is lost")
        start = as_recorded(episode.start)
        return source.resimulator(config, start, start.seeds.get("env", seed))

    def _look_up(self, key: str) -> tuple[GameSource, Any, int]:
        info, origin = self._run.info, self._origins.get(key)
        name, tree, seed = info.source, info.metadata.get("game"), info.seed
        if origin is not None:
            name, tree, seed = origin.source, origin.game, None if origin.seed is None else int(origin.seed)
        if not isinstance(tree, dict):
            what = f"{self._run.path}: the run" if origin is None else f"{self._run.path}: run {key}, merged into it,"
            raise UsageError(f"{what} does not say how its game was set up, so it cannot be re-simulated")
        source = find_source(name)
        return source, source.from_builtins(tree), seed or 0
