"""Games of generals.io played again: positions worked out by hand, the slow twin, real files where there are some."""

from __future__ import annotations

import os
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gior_files import NAMES, gior
from reference_gior import NEUTRAL, SlowGame

from expkit.errors import GameError, ShardError
from expkit.formats.gior import GiorReplay, parse_gior, read_gior
from expkit.games.generals.gior import GiorGame, Tick, import_gior, prepare
from expkit.games.generals.resimulate import GeneralsReplay

UP, DOWN, LEFT, RIGHT = range(4)


def played(state: bool = True, **entries: Any) -> tuple[GiorGame, list[Tick]]:
    """A hand-written 5x5 game with the truth in its rows, played to its end."""
    game = prepare(parse_gior(gior(**entries)), state=state)
    return game, list(game.play())


def truth(game: GiorGame, ticks: int, episode: int = 0) -> tuple[list[int], list[int], list[int]]:
    """Army, owner and terrain of all tiles after so many ticks."""
    replay = GeneralsReplay(game.config, game.start(episode), 0)
    rows = list(game.play(episode))[:ticks]
    for tick in rows:
        replay.step({player: row["action"] for player, row in tick.rows.items()})
    board = replay.board()
    return tuple(part.reshape(-1).tolist() for part in board)  # type: ignore[return-value]


def test_growth_comes_on_even_ticks_and_land_grows_every_fiftieth() -> None:
    game = prepare(parse_gior(gior(cities=[7], city_armies=[44], leaves=[[0, 120]])), state=True)
    # The general stands with 1 at tick 0, and grows after ticks 2, 4, … 48 (24 times); after tick 50 twice.
    for ticks, army in ((1, 1), (2, 2), (3, 2), (4, 3), (49, 25), (50, 27), (99, 51), (100, 53)):
        assert truth(game, ticks)[0][0] == army
    assert truth(game, 100)[0][7] == 44  # a neutral city does not grow


def test_cities_below_forty_grow_back_in_old_files_only() -> None:
    cities = {"cities": [7, 8], "city_armies": [37, 44], "leaves": [[0, 20]]}
    for version, expected in ((5, [40, 44]), (11, [37, 44])):
        game = prepare(parse_gior(gior(version=version, **cities)), state=True)
        assert truth(game, 20)[0][7:9] == expected


def test_full_and_half_moves() -> None:
    """Player 0 has 4 at tick 6. A full move leaves 1; the half of 3 takes 1, the half of 5 takes 2."""
    game, _ = played(moves=[[0, 0, 1, 0, 6], [0, 1, 2, 1, 7], [0, 0, 5, 1, 14]])
    army, owner, _ = truth(game, 7)
    assert (army[0], army[1], owner[1]) == (1, 3, 0)
    army, owner, _ = truth(game, 8)
    assert (army[0], army[1], army[2], owner[2]) == (2, 2, 1, 0)
    army, owner, _ = truth(game, 15)
    # 5 at tick 14 (1 left at 6, then growth after ticks 8, 10, 12, 14): the half of 5 leaves 3.
    assert (army[0], army[5], owner[5]) == (3, 2, 0)


def test_an_equal_attack_takes_nothing_and_a_stronger_one_the_difference() -> None:
    # Neutral armies of 3 and 2 beside the general, who has 4 at tick 6 (3 move) and 3 at tick 10 (2 move).
    more = ["", [1, 5], [3, 1]]
    game, _ = played(moves=[[0, 0, 1, 0, 6], [0, 0, 5, 0, 10]], more=more)
    army, owner, _ = truth(game, 7)
    assert (army[1], owner[1]) == (0, NEUTRAL)
    army, owner, _ = truth(game, 11)
    assert (army[5], owner[5]) == (1, 0)


def test_capturing_a_general_hands_over_half_of_everything_rounded_up() -> None:
    """Three players in a row of five columns: 0 at tile 0, 1 at tile 2, 2 at tile 24. Player 1 moves 3 down at tick
    6, and has 1 left, 2 after the growth of tick 8. Player 0 comes with 4 from tile 1 at tick 9 and keeps 2."""
    moves = [
        [1, 2, 7, 0, 6],
        [0, 0, 1, 0, 8],
        [0, 1, 2, 0, 9],
    ]
    game, ticks = played(height=6, generals=[0, 2, 24], moves=moves, leaves=[[2, 30]])
    army, owner, terrain = truth(game, 9)
    assert (army[0], army[1], army[2], army[7]) == (1, 4, 2, 3)
    army, owner, terrain = truth(game, 10)
    # 3 move against 2: 1 remains, which grows to 2 with tick 10, as a city. The 3 on tile 7 pass as 2.
    assert (army[2], owner[2], terrain[2]) == (2, 0, 1)
    assert (army[7], owner[7]) == (2, 0)
    assert 1 not in owner
    end = ticks[9]
    assert set(end.rows) == {0, 1, 2}
    assert set(end.last) == {1}
    assert (end.rows[1]["reward"], end.rows[1]["terminated"], end.outcome) == (-1.0, True, {1: -1.0})
    assert (end.rows[0]["reward"], end.rows[0]["terminated"]) == (0.0, False)
    assert not end.last[1]["observation/visible"].any()
    assert set(ticks[10].rows) == {0, 2}


def test_who_leaves_once_keeps_his_land_and_who_leaves_twice_loses_it() -> None:
    game, ticks = played(
        height=6, generals=[0, 4, 24], moves=[[1, 4, 3, 0, 6], [0, 0, 1, 0, 20]], leaves=[[1, 8], [1, 12]]
    )
    army, owner, terrain = truth(game, 9)
    assert (owner[3], owner[4], terrain[4]) == (1, 1, 2)
    army, owner, terrain = truth(game, 12)
    assert (army[4], owner[4]) == (4, 1)  # 1 left at tick 6, then growth after 8, 10 and 12: land goes on growing
    army, owner, terrain = truth(game, 13)
    assert (army[3], owner[3], terrain[3]) == (3, NEUTRAL, 0)
    assert (army[4], owner[4], terrain[4]) == (4, NEUTRAL, 1)
    army, _, _ = truth(game, 20)
    assert army[4] == 4  # a neutral city now
    assert (set(ticks[8].rows), set(ticks[8].last)) == ({0, 1, 2}, {1})
    assert ticks[8].rows[1]["reward"] == -1.0
    assert set(ticks[9].rows) == {0, 2}


def test_the_last_one_to_stay_wins() -> None:
    _, ticks = played(moves=[[0, 0, 1, 0, 4]], leaves=[[1, 6]])
    assert len(ticks) == 7
    assert ticks[-1].outcome == {0: 1.0, 1: -1.0}
    assert [ticks[-1].rows[player]["terminated"] for player in (0, 1)] == [True, True]


def test_a_file_that_stops_early_ends_without_an_outcome() -> None:
    _, ticks = played(moves=[[0, 0, 1, 0, 4]])
    assert len(ticks) == 5
    assert ticks[-1].outcome == {0: None, 1: None}
    assert not any(row["terminated"] or row["truncated"] for row in ticks[-1].rows.values())
    assert set(ticks[-1].last) == {0, 1}


def test_actions_are_those_of_the_schema() -> None:
    game, ticks = played(
        moves=[[0, 0, 1, 0, 10], [0, 1, 6, 1, 11], [0, 6, 1, 0, 12], [0, 1, 0, 0, 13]], generals=[0, 24]
    )
    actions = [tick.rows[0]["action"] for tick in ticks]
    tiles = 25
    assert actions[10:] == [RIGHT, tiles * 4 + 4 * 1 + DOWN, 4 * 6 + UP, 4 * 1 + LEFT]
    assert set(actions[:10]) == {8 * tiles}
    assert ticks[10].rows[0]["action_mask"][RIGHT]
    assert "order" not in game.metadata


# Generals on tiles 0 and 4 send 2 armies each to tiles 1 and 3, and from there 1 each onto tile 2 in one tick. Who
# comes first takes it with 1, and the other's equal attack leaves it his, with 0.
@pytest.mark.parametrize(("tick", "order", "holder"), [(8, [0, 1], 0), (8, [1, 0], 1), (9, [0, 1], 0), (9, [1, 0], 1)])
def test_moves_of_a_tick_are_played_in_the_order_of_the_file(tick: int, order: list[int], holder: int) -> None:
    start = {0: (1, 2), 1: (3, 2)}
    moves = [[0, 0, 1, 0, 4], [1, 4, 3, 0, 4], *[[player, *start[player], 0, tick] for player in order]]
    game, _ = played(generals=[0, 4], moves=moves)
    army, owner, _ = truth(game, tick + 1)
    assert (army[2], owner[2]) == (0, holder)
    follows_the_rule = order == ([0, 1] if tick % 2 == 0 else [1, 0])
    assert (str(tick) in game.metadata.get("order", {})) != follows_the_rule


def test_several_moves_of_one_player_in_a_tick_are_all_played() -> None:
    game, ticks = played(moves=[[0, 0, 1, 0, 6], [0, 1, 2, 0, 6], [0, 2, 3, 0, 6]])
    army, owner, _ = truth(game, 7)
    assert (army[:4], owner[:4]) == ([1, 1, 1, 1], [0, 0, 0, 0])
    assert game.extra_moves == 2
    assert ticks[6].rows[0]["action"] == RIGHT  # the row holds the first


ILLEGAL: list[tuple[dict[str, Any], str]] = [
    ({"moves": [[0, 1, 2, 0, 4]]}, "step 4: action 7 of player 0 is not legal"),
    ({"moves": [[0, 0, 1, 0, 1]]}, "step 1: action 3 of player 0 is not legal"),  # with one army
    ({"moves": [[0, 0, 1, 0, 4]], "mountains": [1]}, "step 4: action 3 of player 0 is not legal"),
    ({"moves": [[1, 24, 19, 0, 4], [1, 24, 23, 0, 5]]}, "step 5: action 98 of player 1 is not legal"),
    # Player 1 takes tile 1 before player 0, who has 1 army there, moves on from it: in the file's order impossible.
    (
        {"generals": [0, 3], "moves": [[0, 0, 1, 0, 4], [1, 3, 2, 0, 6], [1, 2, 1, 0, 9], [0, 1, 6, 0, 9]]},
        "step 9: the move of player 0 was no longer possible",
    ),
    ({"moves": [[0, 0, 2, 0, 4]]}, "from tile 0 to 2, no neighbour"),
    ({"moves": [[0, 0, 0, 0, 4]]}, "from tile 0 to 0, no neighbour"),
    ({"moves": [[0, 4, 5, 0, 4]]}, "from tile 4 to 5, no neighbour"),  # the end of one row, the start of the next
    (
        {"height": 6, "leaves": [[1, 3]], "generals": [0, 24, 4], "moves": [[1, 24, 23, 0, 4]]},
        "player 1 moves, but is out",
    ),
    ({"leaves": [[1, 3]], "moves": [[0, 0, 1, 0, 4]]}, "step 4: a move after the game was over at step 3"),
]


@pytest.mark.parametrize(("entries", "message"), ILLEGAL)
def test_moves_against_the_rules_are_named(entries: dict[str, Any], message: str) -> None:
    with pytest.raises(GameError) as caught:
        played(**entries)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_boards_that_the_engine_does_not_play_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "small.gior"
    path.write_bytes(gior(width=4, height=4, generals=[0, 15]))
    with pytest.raises(GameError, match=r"small\.gior: the game cannot be played here: height is 4"):
        import_gior(path)
    path.write_bytes(b"RIFF")
    with pytest.raises(ShardError, match=r"small\.gior"):
        import_gior(path)


def test_rows_fit_the_schema_and_names_stay_out(tmp_path: Path) -> None:
    path = tmp_path / "x.gior"
    path.write_bytes(gior(moves=[[0, 0, 1, 0, 4]], leaves=[[1, 6]]))
    game = import_gior(path, state=True)
    ticks = list(game.play(episode=77))
    names = {field.name for field in game.schema.fields}
    for tick in ticks:
        for row in tick.rows.values():
            assert set(row) == names
            for name, value in row.items():
                game.schema.pack(name, np.asarray(value)[None], 1)
        for board in tick.last.values():
            assert set(board) == {field.name for field in game.schema.fields if field.belongs == "observation"}
    assert game.start(77).episode == 77
    assert not any(name in repr(game.start(77)) for name in NAMES)


def compare_with_the_slow_twin(replay: GiorReplay) -> list[Tick]:
    """Play a file by the engine and by the slow twin, compare all that is seen and the truth; the rows."""
    game = prepare(replay, state=True)
    slow = SlowGame(
        replay.width,
        replay.height,
        replay.generals,
        dict(zip(replay.cities, replay.city_armies, strict=True)),
        replay.mountains,
        dict(zip(replay.neutrals, replay.neutral_armies, strict=True)),
        40 if replay.version <= 5 else 0,
    )
    ticks = list(game.play())
    for step, tick in enumerate(ticks):
        for player, row in tick.rows.items():
            assert row["state/army"].reshape(-1).tolist() == slow.army
            assert row["state/owner"].reshape(-1).tolist() == slow.owner
            assert row["state/terrain"].reshape(-1).tolist() == slow.terrain
            if step % 10 == 0 or tick.last:
                seen = slow.seen_by(player)
                for name, values in seen.items():
                    assert row[f"observation/{name}"].reshape(-1).tolist() == values
        wrong = slow.play(
            [(move.player, move.start, move.end, move.half) for move in replay.moves if move.tick == step],
            [leave.player for leave in replay.leaves if leave.tick == step],
        )
        assert wrong == []
        alive = [player for player in tick.rows if player not in tick.last]
        if step < len(ticks) - 1:
            assert alive == [player for player, lives in enumerate(slow.alive) if lives]
    return ticks


@pytest.mark.parametrize("seed", range(6))
def test_random_games_agree_with_the_slow_twin(seed: int) -> None:
    """Random legal moves on a random map, with departures, until one is left or 160 ticks have passed."""
    rng = np.random.default_rng(seed)
    width, height, players = int(rng.integers(6, 9)), int(rng.integers(6, 9)), 3
    places = rng.permutation(width * height).tolist()
    generals, mountains, cities = places[:players], places[3:8], places[8:11]
    armies, neutrals = [3, 39, 45], places[11:13]
    version = 5 if seed % 2 else 11
    slow = SlowGame(
        width, height, generals, dict(zip(cities, armies, strict=True)), mountains, dict.fromkeys(neutrals, 2),
        40 if version == 5 else 0,
    )  # fmt: skip
    moves, leaves = [], []
    for tick in range(160):
        now, leaving = [], []
        for player in rng.permutation(players).tolist():
            strong = [t for t, o in enumerate(slow.owner) if o == player and slow.army[t] > 1]
            if strong and slow.alive[player] and rng.random() < 0.9:
                start = max(strong, key=lambda tile: slow.army[tile]) if rng.random() < 0.6 else int(rng.choice(strong))
                end = start + int(rng.choice([-width, width, -1, 1]))
                half = bool(rng.random() < 0.2)
                if 0 <= end < width * height and not slow.move(player, start, end, half):
                    now.append([player, start, end, int(half), tick])
        if rng.random() < 0.01:
            leaving = [int(rng.integers(players))]
        moves += now
        leaves += [[player, tick] for player in leaving]
        slow.play([], leaving)
        if sum(slow.alive) <= 1:
            break
    more = ["", neutrals, [2, 2]]
    data = gior(
        version=version, width=width, height=height, generals=generals, mountains=mountains, cities=cities,
        city_armies=armies, moves=moves, leaves=leaves, more=more,
    )  # fmt: skip
    replay = parse_gior(data)
    assert len(replay.moves) > 50
    ticks = compare_with_the_slow_twin(replay)
    assert all(later.step == sooner.step + 1 for sooner, later in pairwise(ticks))


# Player 1 sends his army down; 11 armies of player 0 walk along the upper edge, one less on each tile, and the last 8
# meet the 3 that have grown on the general's tile.
CONQUEST = [[1, 4, 9, 0, 20], [0, 0, 1, 0, 22], [0, 1, 2, 0, 23], [0, 2, 3, 0, 24], [0, 3, 4, 0, 25]]
MADE = "made.gior"


def files() -> list[Path]:
    """One file made here, and the real ones in the folder that EXPKIT_REPLAYS names."""
    folder = os.environ.get("EXPKIT_REPLAYS")
    return [Path(MADE), *(sorted(Path(folder).glob("*.gior")) if folder else [])]


@pytest.mark.parametrize("path", files(), ids=lambda path: path.name)
def test_whole_games_play_through_without_an_illegal_move(path: Path, tmp_path: Path) -> None:
    if path.name == MADE:
        path = tmp_path / MADE
        path.write_bytes(gior(generals=[0, 4], moves=CONQUEST))
    replay = read_gior(path)
    ticks = compare_with_the_slow_twin(replay)
    assert ticks[-1].step == max([*(move.tick for move in replay.moves), *(leave.tick for leave in replay.leaves)])
    assert set(ticks[-1].outcome.values()) == {-1.0, 1.0}
    assert prepare(replay).extra_moves == 0
