"""Games to record from, by the name that stands for them on the command line.

A source is `NAME` or `NAME:ARGUMENT`. Adding one means adding its factory to `SOURCES`.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from typing import Any

from expkit.errors import UsageError
from expkit.games.protocol import Game


def _generals(argument: str, config: Any, **options: Any) -> Game:
    from expkit.games.generals import Generals, GeneralsConfig

    if argument:
        raise UsageError(f"source 'generals:{argument}': generals takes nothing after the colon; see --size")
    return Generals(config if config is not None else GeneralsConfig(), **options)


SOURCES: dict[str, Callable[..., Game]] = {"generals": _generals}


def make_game(source: str = "generals", config: Any = None, **options: Any) -> Game:
    """The game that `source` names, with its own `config` (None: its defaults) and options such as num_envs, seed,
    policies and counter. Raises UsageError for an unknown name."""
    name, _, argument = source.partition(":")
    factory = SOURCES.get(name)
    if factory is None:
        near = difflib.get_close_matches(name, SOURCES, 1, 0.5)
        hint = f"did you mean {near[0]}?" if near else f"use {', '.join(SOURCES)}"
        raise UsageError(f"no game is called {name!r}; {hint}")
    return factory(argument, config, **options)
