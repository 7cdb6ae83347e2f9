"""Games to record from, by the name that stands for them on the command line: `NAME`, `LIBRARY:ID` for environments of
other libraries, `module:callable` for what a user's own module makes.
Imports reading and all that stands below.

Adding a source means adding a `GameSource` to `_SOURCES`.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from expkit.errors import UsageError

if TYPE_CHECKING:
    import numpy as np

    from expkit.games.protocol import Game, Resimulator
    from expkit.rewards import RewardColumns
    from expkit.row.episodes import EpisodeStart
    from expkit.row.schema import Schema
    from expkit.settings.config import GameSettings


class GameSource(Protocol):
    """Makes games of one kind from settings, and plays recorded ones again. `config` is the game's own."""

    name: str
    simultaneous_moves: bool  # all players who are in the game move in every step
    embedded: bool  # expkit's own: compiled, for several threads, and played again without running foreign code

    def configure(self, settings: GameSettings) -> Any:
        """The game's own configuration. Raises UsageError, ConfigError."""
        ...

    def player_names(self, config: Any) -> list[str]: ...

    def schema(self, config: Any) -> Schema: ...

    def describe(self, config: Any) -> str:
        """In a few words, like `generals 20x20 · 2 players`."""
        ...

    def metadata(self, config: Any) -> dict[str, Any]:
        """What the run is told of the game; under `game` what `to_builtins` gives."""
        ...

    def to_builtins(self, config: Any) -> dict[str, Any]:
        """JSON values, stored in the run; `from_builtins` is the inverse."""
        ...

    def from_builtins(self, tree: Mapping[str, Any]) -> Any: ...

    def counter(self, writer: int, limit: int | None, first: int = 0) -> Any:
        """What gives out a writer's episode numbers from `first` on, up to `limit` of them, to all game threads."""
        ...

    def make(
        self,
        config: Any,
        *,
        num_envs: int,
        seed: int,
        policies: Sequence[str | Callable[..., Any]],
        counter: Any,
        rewards: RewardColumns | None = None,
    ) -> Game:
        """`rewards` are columns that the game's rows get besides its own fields, or in place of its own `reward`.
        Raises UsageError, also for a reward that looks at what the game does not tell."""
        ...

    def resimulator(self, config: Any, start: EpisodeStart, seed: int) -> Resimulator:
        """The episode at its beginning, to be stepped with the recorded actions. Raises GameError."""
        ...

    def replay_rewards(self, config: Any, start: EpisodeStart, seed: int, actions: np.ndarray) -> np.ndarray:
        """The rewards of a whole episode played again: float32 (T, P), for int64 `actions` of that shape, -1 where a
        player has no row. Raises GameError for actions that the game does not have."""
        ...


class PlaysWholeEpisodes(Protocol):
    """A source whose recorded episodes are compared as a whole, not step by step."""

    def replay_rows(
        self, config: Any, start: EpisodeStart, tables: Mapping[int, Mapping[str, np.ndarray]]
    ) -> dict[int, dict[str, np.ndarray]]:
        """The rows by player of an episode played again with the actions in `tables`, the recorded rows. Raises
        GameError."""
        ...


_SOURCES = {"generals": "expkit.games.generals.source:GeneralsSource"}
_ENVIRONMENTS = ("gymnasium", "pettingzoo")


def find_source(source: str) -> GameSource:
    """The game that `source` names; a module of a user's is not imported yet. Raises UsageError for an unknown name."""
    name, colon, argument = source.partition(":")
    place = _SOURCES.get(name)
    if place is None:
        if name in _ENVIRONMENTS or (argument and not _is_misspelt(name)):
            from expkit.games.environments.source import EnvironmentSource

            return EnvironmentSource(source)
        known = [*_SOURCES, *(f"{one}:ID" for one in _ENVIRONMENTS)]
        near = difflib.get_close_matches(name, [*_SOURCES, *_ENVIRONMENTS], 1, 0.5)
        hint = f"did you mean {near[0]}{colon}{argument}?" if near else f"there is {', '.join(known)}, module:callable"
        raise UsageError(f"no game is called {name!r}; {hint}")
    if argument:
        raise UsageError(f"source {source!r}: {name} takes nothing after the colon; its settings are options")
    module, _, attribute = place.partition(":")
    made: GameSource = getattr(importlib.import_module(module), attribute)()
    return made


def _is_misspelt(name: str) -> bool:
    """Whether a name is nearly that of a game, and no module."""
    near = difflib.get_close_matches(name, [*_SOURCES, *_ENVIRONMENTS], 1, 0.75)
    return bool(near) and "." not in name and importlib.util.find_spec(name) is None
