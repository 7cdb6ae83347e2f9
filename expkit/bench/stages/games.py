"""Playing: the built-in engine without a recorder, and the game of whoever asks (`--source module:make_game`)."""

from __future__ import annotations

import numpy as np

from expkit.bench.lab import Lab
from expkit.bench.stage import Trial, stage
from expkit.games.protocol import Game
from expkit.row.layout import RowSink

GAMES = 64
TICKS = 64
MEMCPY = "memcpy of the rows"


def make_game(lab: Lab, num_envs: int = GAMES, seed: int = 1, players: int = 2, side: int = 20) -> Game:
    """Hunters against each other on a square board, or the user's own game."""
    if lab.source:
        return lab.make_game(num_envs, seed)
    from expkit.games.generals.config import GeneralsConfig
    from expkit.games.generals.engine import EpisodeCounter, Generals

    config = GeneralsConfig(players=players, height=side, width=side)
    counter = EpisodeCounter(0, 0, -1)
    return Generals(config, num_envs=num_envs, seed=seed, policies=["hunter"] * players, counter=counter)


class Playing:
    """Games that write their rows into one and the same block of memory, over and over."""

    def __init__(self, game: Game):
        self.game = game
        self.sink = RowSink.scratch(game.schema, game.players, 2 * game.num_envs * (TICKS + 1))

    def play(self) -> int:
        """`TICKS` ticks; returns the rows written."""
        self.sink.position[:] = 0
        self.game.play(self.sink, TICKS)
        self.game.take_events()
        return int(self.sink.position.sum())


@stage(
    "game/step",
    "self-play, not recorded",
    limit=MEMCPY,
    clock="thread",
)
def play_games(lab: Lab, workload: str) -> Trial:
    playing = Playing(make_game(lab))
    rows = playing.play()
    nbytes = rows * playing.game.schema.row_bytes
    source, target = np.ones(nbytes, np.uint8), np.ones(nbytes, np.uint8)
    return Trial(
        run=playing.play,
        rows=rows,
        nbytes=nbytes,
        limit=lambda: np.copyto(target, source),
    )
