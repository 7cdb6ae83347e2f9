"""The embedded game: generals on a grid with fog of war."""

from expkit.games.generals.config import GeneralsConfig
from expkit.games.generals.engine import EpisodeCounter, Generals
from expkit.games.generals.schema import generals_schema

__all__ = ["EpisodeCounter", "Generals", "GeneralsConfig", "generals_schema"]
