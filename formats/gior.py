"""Decoding of .gior files, the replays of generals.io: a map, and every move of the game.

A file is LZString-compressed JSON, a list whose entries are known by position: version, id, width, height, names,
stars, cities, their armies, generals, mountains, moves, departures, teams, and in later versions map title, neutral
armies, swamps, chat, colours, lights, options, modifiers. Names, stars, ids, titles and chat belong to people and
are never taken out of the file. Every number is checked before it is used; what the rules of generals here cannot
play (teams, swamps, modifiers) is refused by name.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from expkit.errors import NotThere, ShardError
from expkit.formats.lzstring import decompress

MAX_FILE_BYTES = 1 << 20  # 50 times the longest of the replays looked at
MAX_TEXT = 1 << 23
MAX_SIDE = 64
MAX_PLAYERS = 16
MAX_ARMY = 1_000_000
MAX_TICK = 50_000  # seven hours of play

_WIDTH, _HEIGHT, _CITIES, _CITY_ARMIES, _GENERALS, _MOUNTAINS, _MOVES, _LEAVES = 2, 3, 6, 7, 8, 9, 10, 11
_TEAMS, _NEUTRALS, _NEUTRAL_ARMIES = 12, 14, 15
_SHORTEST = 12  # entries that every version has
# Later entries that change how the game is played, none of which is played here. Titles, chat, colours and the
# options maps were drawn with (13, 17, 18, 20) change nothing once the map is known.
_UNPLAYED = {16: "swamps", 19: "lights", 21: "modifiers"}
_KNOWN = 22


class GiorMove(NamedTuple):
    """A move as the server carried it out. Tiles are y * width + x; `half` leaves half the army behind; `tick` is
    the number of ticks played before it. Within a tick the order of the file is the order of play."""

    player: int
    start: int
    end: int
    half: bool
    tick: int


class GiorLeave(NamedTuple):
    """A player left: at the first time he stops playing, at the second his land turns neutral."""

    player: int
    tick: int


@dataclass(frozen=True, slots=True)
class GiorReplay:
    """One game. Tiles are y * width + x; generals stand in the order of players; cities, city_armies and neutrals,
    neutral_armies (plain tiles that hold an army at the start) belong together pairwise."""

    version: int
    width: int
    height: int
    cities: tuple[int, ...]
    city_armies: tuple[int, ...]
    generals: tuple[int, ...]
    mountains: tuple[int, ...]
    neutrals: tuple[int, ...]
    neutral_armies: tuple[int, ...]
    moves: tuple[GiorMove, ...]
    leaves: tuple[GiorLeave, ...]

    @property
    def players(self) -> int:
        return len(self.generals)


def read_gior(path: str | os.PathLike[str]) -> GiorReplay:
    """The game in the file at `path`. Raises NotThere, and ShardError naming the file for anything that is not
    a .gior file of a game that can be played here."""
    try:
        with Path(path).open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except (FileNotFoundError, IsADirectoryError):
        raise NotThere(f"{path}: no such file") from None
    try:
        return parse_gior(data)
    except ShardError as error:
        raise ShardError(f"{path}: {error}") from None


def parse_gior(data: bytes) -> GiorReplay:
    """The game in the bytes of a file. Raises ShardError."""
    if len(data) > MAX_FILE_BYTES:
        raise ShardError(f"more than {MAX_FILE_BYTES:,} bytes; no .gior file of a game is that large")
    try:
        tree = msgspec.json.decode(decompress(data, MAX_TEXT))
    except (msgspec.DecodeError, RecursionError, UnicodeError):
        raise ShardError("the decompressed text is not JSON; the file is damaged or no .gior file") from None
    if not isinstance(tree, list) or len(tree) < _SHORTEST:
        raise ShardError("the JSON inside is not the list of a replay; this is no .gior file")
    version = _number(tree[0], "version", 1, 1000)
    _refuse_unplayed(tree, version)
    width, height = (_number(tree[at], side, 1, MAX_SIDE) for at, side in ((_WIDTH, "width"), (_HEIGHT, "height")))
    tiles = width * height
    generals = _numbers(tree[_GENERALS], "generals", tiles)
    if not 2 <= len(generals) <= MAX_PLAYERS:
        raise ShardError(f"{len(generals)} players; a game has 2 to {MAX_PLAYERS}")
    cities, mountains = _numbers(tree[_CITIES], "cities", tiles), _numbers(tree[_MOUNTAINS], "mountains", tiles)
    later = [*tree, *[[]] * (_KNOWN - len(tree))]
    neutrals = _numbers(later[_NEUTRALS] or [], "neutrals", tiles)
    places = [*generals, *cities, *mountains, *neutrals]
    if len(set(places)) < len(places):
        raise ShardError("two of the map's generals, cities, mountains and neutral armies stand on one tile")
    return GiorReplay(
        version=version,
        width=width,
        height=height,
        cities=cities,
        city_armies=_armies(tree[_CITY_ARMIES], "city armies", len(cities)),
        generals=generals,
        mountains=mountains,
        neutrals=neutrals,
        neutral_armies=_armies(later[_NEUTRAL_ARMIES] or [], "neutral armies", len(neutrals)),
        moves=_moves(tree[_MOVES], len(generals), tiles),
        leaves=_leaves(tree[_LEAVES], len(generals)),
    )


def _refuse_unplayed(tree: list[Any], version: int) -> None:
    teams = tree[_TEAMS] if len(tree) > _TEAMS else None
    if teams and (not isinstance(teams, list) or len({str(team) for team in teams}) < len(teams)):
        raise ShardError("a game in teams; only games of each against all can be imported")
    for at, what in _UNPLAYED.items():
        if len(tree) > at and tree[at]:
            raise ShardError(f"a map with {what}; only games by the plain rules can be imported")
    for at, entry in enumerate(tree[_KNOWN:], _KNOWN):
        if entry:
            raise ShardError(
                f"version {version} says something in entry {at}, which is not known; it cannot be imported"
            )


def _number(value: Any, what: str, low: int, high: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise ShardError(f"{what} is {_shown(value)}; it must be a whole number from {low:,} to {high:,}")
    return value


def _shown(value: Any) -> str:
    """A number as it is; of all else the kind only, for it may be a person's text."""
    return str(value)[:20] if isinstance(value, int | float) else f"a {type(value).__name__}"


def _list(value: Any, what: str) -> list[Any]:
    if not isinstance(value, list):
        raise ShardError(f"{what} is {_shown(value)}; it must be a list")
    return value


def _numbers(value: Any, what: str, tiles: int) -> tuple[int, ...]:
    return tuple(_number(tile, f"a tile of {what}", 0, tiles - 1) for tile in _list(value, what))


def _armies(value: Any, what: str, count: int) -> tuple[int, ...]:
    armies = tuple(_number(army, f"one of {what}", 0, MAX_ARMY) for army in _list(value, what))
    if len(armies) != count:
        raise ShardError(f"{len(armies)} {what} for {count} tiles")
    return armies


def _record(value: Any, what: str, length: int) -> list[Any]:
    if not isinstance(value, list) or len(value) < length:
        raise ShardError(f"{what} is {_shown(value)}; it must be a list of {length}")
    return value


def _rising(ticks: list[int], what: str) -> None:
    for index in range(1, len(ticks)):
        if ticks[index] < ticks[index - 1]:
            raise ShardError(f"{what} {index} is of tick {ticks[index]}, after one of tick {ticks[index - 1]}")


def _moves(value: Any, players: int, tiles: int) -> tuple[GiorMove, ...]:
    moves = []
    for index, entry in enumerate(_list(value, "moves")):
        what = f"move {index}"
        player, start, end, half, tick = _record(entry, what, 5)[:5]
        moves.append(
            GiorMove(
                _number(player, f"player of {what}", 0, players - 1),
                _number(start, f"start of {what}", 0, tiles - 1),
                _number(end, f"end of {what}", 0, tiles - 1),
                _number(int(half) if isinstance(half, bool) else half, f"half of {what}", 0, 1) == 1,
                _number(tick, f"tick of {what}", 0, MAX_TICK),
            )
        )
    _rising([move.tick for move in moves], "move")
    return tuple(moves)


def _leaves(value: Any, players: int) -> tuple[GiorLeave, ...]:
    leaves = []
    for index, entry in enumerate(_list(value, "departures")):
        what = f"departure {index}"
        player, tick = _record(entry, what, 2)[:2]
        leaves.append(
            GiorLeave(
                _number(player, f"player of {what}", 0, players - 1), _number(tick, f"tick of {what}", 0, MAX_TICK)
            )
        )
    _rising([leave.tick for leave in leaves], "departure")
    return tuple(leaves)
