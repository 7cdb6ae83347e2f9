"""The rows that stages run on.

    tiny   CartPole: 4 floats, an action; 39 bytes
    W      what trainers are given of a 20x20 board: nine float32 planes, 1,600 flags of the mask; 16,022 bytes
    R      the same board as it is recorded: armies, owners, terrain, visibility, mask; 4,422 bytes
    noise  as W, of random floats, so that nobody is fooled by boards that compress to nothing

W and R come from self-play of the built-in hunter, 64 games at once. The figures count what callers give; keys come
on top.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from expkit.row.layout import RowSink
from expkit.row.schema import Field, Schema

GAMES = 64
TILES = 400
STEPS = 128
SKIPPED = 60  # first ticks of all games at once, in which nothing has happened yet
TINY_ROWS = 65536
IDS = 22  # action, reward, done, episode, step, player: what callers give of them


@dataclass(frozen=True)
class Workload:
    """Rows of one player, in the order in which they arrive: one of each game, then the next.

    columns    stored arrays, see `Schema.columns`
    row_bytes  of one row, as callers give it
    """

    name: str
    schema: Schema
    columns: dict[str, np.ndarray]
    row_bytes: int

    @property
    def rows(self) -> int:
        return len(self.columns["step"])

    @cached_property
    def order(self) -> np.ndarray:
        """int64 (rows,): by episode and step."""
        return np.lexsort((self.columns["step"], self.columns["episode"]))

    @cached_property
    def logical(self) -> dict[str, np.ndarray]:
        """All fields as callers see them, rows in order of arrival."""
        return {field.name: self.schema.unpack(field.name, self.columns[field.name]) for field in self.schema.fields}

    @cached_property
    def given(self) -> dict[str, np.ndarray]:
        """As `logical`, with the two keys that callers give."""
        return {**self.logical, "episode": self.columns["episode"], "step": self.columns["step"]}

    @cached_property
    def ordered(self) -> dict[str, np.ndarray]:
        """As other libraries get the rows: fields and the keys that they store too, episode after episode, step after
        step, which suits their compressors best."""
        return {name: np.ascontiguousarray(values[self.order]) for name, values in self.given.items()}


def make_workload(name: str) -> Workload:
    """The rows of that name; the same for every call."""
    return _MAKERS[name]()


_BOARD = (
    Field("observation/army", "i4", (20, 20), "observation"),
    Field("observation/owner", "i1", (20, 20), "observation"),
    Field("observation/terrain", "u1", (20, 20), "observation"),
    Field("observation/visible", "bool", (20, 20), "observation"),
)
_REST = (Field("action_mask", "bool", (1600,), "observation"), Field("action", "u4", belongs="action"))


def _boards() -> Workload:
    """Player 0 of `GAMES` games of two hunters."""
    from expkit.games.generals.config import GeneralsConfig
    from expkit.games.generals.engine import EpisodeCounter, Generals

    schema = Schema([*_BOARD, *_REST])
    game = Generals(GeneralsConfig(), num_envs=GAMES, seed=1, policies=["hunter"] * 2, counter=EpisodeCounter(0, 0, -1))
    sink = RowSink.scratch(schema, 2, GAMES * (STEPS + 2))
    game.play(sink, SKIPPED)
    sink.position[:] = 0
    while sink.position[0] < GAMES * STEPS and game.play(sink, 1):
        pass
    rows = GAMES * STEPS
    columns = {name: np.array(view[:rows]) for name, view in sink.views(0).items()}
    # The mask of these rows knows full moves alone: half moves become full ones; a pass, and the action that a last
    # row does not have, move 0, which is then legal.
    passes = (columns["action"] == 8 * TILES) | columns["is_last"]
    columns["action"] = np.where(passes, 0, columns["action"] % (4 * TILES)).astype(np.uint32)
    columns["action_mask"][passes, 0] |= 1
    return Workload("R", schema, columns, 4400 + IDS)


def _planes() -> Workload:
    from expkit.serialize.representations import find_representation

    boards = _boards()
    planes = find_representation("planes")
    columns = planes.convert(boards.columns, boards.rows, 0)
    return Workload("W", planes.schema(boards.schema), columns, 16000 + IDS)


def _noise() -> Workload:
    boards = _planes()
    rng = np.random.default_rng(1)
    random = rng.random(boards.columns["observation"].shape, np.float32)
    return Workload("noise", boards.schema, {**boards.columns, "observation": random}, boards.row_bytes)


def _cartpole() -> Workload:
    """Random play of 64 poles at once, by the equations of Barto, Sutton and Anderson (1983), Euler steps of 20 ms."""
    rng = np.random.default_rng(1)
    schema = Schema([Field("observation", "f4", (4,), "observation"), Field("action", "u1", belongs="action")])
    ticks = TINY_ROWS // GAMES
    sink = RowSink.scratch(schema, 1, TINY_ROWS)
    views = {name: view.reshape(ticks, GAMES, *view.shape[1:]) for name, view in sink.views(0).items()}
    state = rng.uniform(-0.05, 0.05, (GAMES, 4))
    episode, step, begun = np.arange(GAMES), np.zeros(GAMES, int), GAMES
    for tick in range(ticks):
        action = rng.integers(0, 2, GAMES)
        row = {name: view[tick] for name, view in views.items()}
        row["observation"][:], row["action"][:] = state, action
        row["episode"][:], row["step"][:], row["is_first"][:] = episode, step, step == 0
        row["policy"][:], row["policy_version"][:], row["time_ns"][:] = 0, 0, tick * 20_000_000
        state = _pole_after(state, action)
        over = (np.abs(state[:, 0]) > 2.4) | (np.abs(state[:, 2]) > 12 * np.pi / 180)
        row["reward"][:], row["terminated"][:], row["truncated"][:], row["is_last"][:] = 1, over, False, False
        step += 1
        state[over] = rng.uniform(-0.05, 0.05, (int(over.sum()), 4))
        step[over] = 0
        episode[over] = np.arange(begun, begun + int(over.sum()))
        begun += int(over.sum())
    return Workload("tiny", schema, {name: np.array(view) for name, view in sink.views(0).items()}, 16 + 1 + IDS)


def _pole_after(state: np.ndarray, action: np.ndarray) -> np.ndarray:
    """(games, 4) position, speed, angle, angular speed after 20 ms of a push of 10 N to the left (0) or right (1)."""
    position, speed, angle, turning = state.T
    force = np.where(action == 1, 10.0, -10.0)
    pushed = (force + 0.05 * turning**2 * np.sin(angle)) / 1.1
    bend = (9.8 * np.sin(angle) - np.cos(angle) * pushed) / (0.5 * (4 / 3 - 0.1 * np.cos(angle) ** 2 / 1.1))
    push = pushed - 0.05 * bend * np.cos(angle) / 1.1
    return np.stack([position + 0.02 * speed, speed + 0.02 * push, angle + 0.02 * turning, turning + 0.02 * bend], 1)


_MAKERS: dict[str, Callable[[], Workload]] = {"tiny": _cartpole, "W": _planes, "R": _boards, "noise": _noise}
WORKLOADS = tuple(_MAKERS)
