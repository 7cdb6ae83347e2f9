"""The states of a recorded episode, from the game played again with the recorded actions of all players."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import NamedTuple

import numpy as np

from expkit.errors import GameError, UsageError
from expkit.games.protocol import Resimulator

# Steps that are played before they are looked at: boards of 20x20 are then 2.4 MB, of 64x64 25 MB.
STEPS_AT_ONCE = 1024

Table = Mapping[str, np.ndarray]


class States(NamedTuple):
    """States at the steps from `first` on: arrays that lead with the steps, by the schema's names.

    truth  the same for all players;  seen: what each saw
    paid   f4, one shorter: what the game itself paid each player for the step
    """

    first: int
    truth: dict[str, np.ndarray]
    seen: dict[int, dict[str, np.ndarray]]
    paid: dict[int, np.ndarray]
    steps: int

    def of(self, player: int) -> dict[str, np.ndarray]:
        return self.truth | self.seen[player]


def states_again(
    where: str, game: Resimulator, tables: Mapping[int, Table], names: Collection[str]
) -> Iterator[States]:
    """Play `game` from its beginning; `tables` by player have step, action, terminated and is_last of all rows.

    where  run and episode, for messages;  names: fields that are wanted

    Each piece begins with the last state of the one before. Raises UsageError for a name that the game does not tell,
    GameError when a row is missing or the game plays out differently.
    """
    known = {*game.state(), *game.observation(0)}
    for name in names:
        if name not in known:
            raise UsageError(f"{where}: {name} is not stored, and the game does not tell it either")
    truth = [name for name in names if name in game.state()]
    seen = [name for name in names if name not in truth]
    turns = _turns(tables)
    first, looks = 0, [_Look.at(game, tables, truth, seen)]
    for step in range(max(turns, default=-1) + 1):
        _step(where, game, turns.get(step, {}))
        looks.append(_Look.at(game, tables, truth, seen))
        if len(looks) > STEPS_AT_ONCE:
            yield _joined(first, looks)
            first, looks = step + 1, [looks[-1]]
    if len(looks) > 1:
        yield _joined(first, looks)


class _Turn(NamedTuple):
    action: int
    terminated: bool


class _Look(NamedTuple):
    """The state of one step, and what the step before it paid."""

    truth: dict[str, np.ndarray]
    seen: dict[int, dict[str, np.ndarray]]
    paid: dict[int, float]

    @classmethod
    def at(cls, game: Resimulator, players: Collection[int], truth: list[str], seen: list[str]) -> _Look:
        state = game.state() if truth else {}
        views = {player: game.observation(player) if seen else {} for player in players}
        wanted = {player: {name: view[name] for name in seen} for player, view in views.items()}
        return cls({name: state[name] for name in truth}, wanted, game.rewards())


def _turns(tables: Mapping[int, Table]) -> dict[int, dict[int, _Turn]]:
    """By step and player, what was done."""
    out: dict[int, dict[int, _Turn]] = {}
    for player, table in tables.items():
        acted = ~table["is_last"]
        columns = (table[name][acted].tolist() for name in ("step", "action", "terminated"))
        for step, action, terminated in zip(*columns, strict=True):
            out.setdefault(step, {})[player] = _Turn(action, terminated)
    return out


def _step(where: str, game: Resimulator, turns: Mapping[int, _Turn]) -> None:
    number = game.step_number
    for player in range(game.players):
        if player not in turns and game.alive(player):
            raise GameError(
                f"{where} step {number}: the row of player {player} is missing, so it cannot be played again; leave "
                "interrupted episodes out by --where \"ended != 'interrupted'\""
            )
    actions = {player: turn.action for player, turn in turns.items()}
    try:
        game.step(actions)
    except GameError as error:
        # An illegal action is recorded as given and was played as a pass; nothing has been played yet.
        legal = {player: action for player, action in actions.items() if _allows(game, player, action)}
        if legal == actions:
            raise GameError(f"{where} {error}") from None
        game.step(legal)
    paid = game.rewards()
    for player, turn in turns.items():
        ends = paid.get(player, 0.0) != 0.0 or not game.alive(player)
        if turn.terminated != ends:
            was, now = ("ends", "goes on") if turn.terminated else ("goes on", "ends")
            raise GameError(
                f"{where} step {number}: as recorded the game {was} for player {player}, played again it {now}; "
                "see expkit replay --verify"
            )


def _allows(game: Resimulator, player: int, action: int) -> bool:
    mask = game.observation(player).get("action_mask")
    return game.alive(player) and (mask is None or (0 <= action < len(mask) and bool(mask[action])))


def _joined(first: int, looks: list[_Look]) -> States:
    truth, seen, _ = looks[0]
    return States(
        first,
        {name: np.stack([look.truth[name] for look in looks]) for name in truth},
        {p: {name: np.stack([look.seen[p][name] for look in looks]) for name in view} for p, view in seen.items()},
        {p: np.array([look.paid.get(p, 0.0) for look in looks[1:]], np.float32) for p in seen},
        len(looks),
    )
