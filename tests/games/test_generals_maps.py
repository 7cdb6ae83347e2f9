"""Maps: seeded, connected, with generals apart, for every number of players and size; settings that are refused."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from expkit.errors import ConfigError
from expkit.games.generals.config import GeneralsConfig
from expkit.games.generals.resimulate import GeneralsReplay
from expkit.row.episodes import EpisodeStart

PLAIN, CITY, GENERAL, MOUNTAIN = range(4)


def first_turn(config: GeneralsConfig, episode: int, seed: int) -> GeneralsReplay:
    start = EpisodeStart(episode, 0, list(range(config.players)), "generals")
    return GeneralsReplay(config, start, seed)


def reached(terrain: np.ndarray, start: tuple[int, int]) -> set[tuple[int, int]]:
    """Tiles that can be walked to over plain ground and generals."""
    found, todo = {start}, [start]
    while todo:
        y, x = todo.pop()
        for near in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)):
            inside = 0 <= near[0] < terrain.shape[0] and 0 <= near[1] < terrain.shape[1]
            if inside and near not in found and terrain[near] in (PLAIN, GENERAL):
                found.add(near)
                todo.append(near)
    return found


@settings(max_examples=40, deadline=None)
@given(
    players=st.integers(2, 16),
    height=st.integers(5, 64),
    width=st.integers(5, 64),
    ruleset=st.sampled_from(["generals.io", "go-system"]),
    mountains=st.sampled_from([None, 0.0, 0.5]),
    seed=st.integers(0, (1 << 64) - 1),
)
def test_every_general_reaches_every_other(
    players: int, height: int, width: int, ruleset: str, mountains: float | None, seed: int
) -> None:
    if height * width < 9 * players:
        with pytest.raises(ConfigError, match="too small"):
            GeneralsConfig(players=players, height=height, width=width)
        return
    config = GeneralsConfig(players=players, height=height, width=width, ruleset=ruleset, mountain_density=mountains)
    board = first_turn(config, 3, seed).board()
    homes = [tuple(np.argwhere(board.owner == player)[0].tolist()) for player in range(players)]
    assert (board.terrain == GENERAL).sum() == players == (board.owner >= 0).sum()
    assert set(homes) <= reached(board.terrain, homes[0])
    cities = board.army[board.terrain == CITY]
    assert ((config.city_army_min or 0) <= cities).all()
    assert (cities <= (config.city_army_max or 0)).all()
    assert (board.army[board.terrain == GENERAL] == config.general_army).all()
    assert (board.army[(board.terrain == PLAIN) | (board.terrain == MOUNTAIN)] == 0).all()


def test_generals_of_the_default_board_stand_apart_and_maps_differ() -> None:
    config = GeneralsConfig()
    boards = [first_turn(config, episode, 7).board() for episode in range(50)]
    for board in boards:
        homes = np.argwhere(board.terrain == GENERAL)
        assert all(abs(a - b).sum() >= (config.general_spacing or 99) for a, b in combinations(homes, 2))
        assert 40 <= (board.terrain == MOUNTAIN).sum() <= 80
        assert (board.terrain == CITY).sum() == 12
    assert len({board.terrain.tobytes() for board in boards}) == 50
    again = first_turn(config, 0, 7).board()
    assert again.army.tobytes() == boards[0].army.tobytes()
    assert first_turn(config, 0, 8).board().terrain.tobytes() != boards[0].terrain.tobytes()
    assert first_turn(config, 1 << 48, 7).board().terrain.tobytes() != boards[0].terrain.tobytes()


def test_the_go_system_draws_veins_and_cities_of_forty() -> None:
    config = GeneralsConfig(ruleset="go-system")
    board = first_turn(config, 0, 1).board()
    assert (board.army[board.terrain == CITY] == 40).all()
    assert 8 * 3 // 2 <= (board.terrain == MOUNTAIN).sum() <= 8 * 5
    mountains = {tuple(place) for place in np.argwhere(board.terrain == MOUNTAIN).tolist()}
    alone = sum(
        all((y + dy, x + dx) not in mountains for dy, dx in ((0, 1), (1, 0), (0, -1), (-1, 0))) for y, x in mountains
    )
    assert alone < len(mountains) / 2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"players": 1}, "players is 1; it must be 2 to 16"),
        ({"players": 17, "height": 64, "width": 64}, "players is 17"),
        ({"height": 4}, "height is 4; it must be 5 to 64"),
        ({"width": 65}, "width is 65"),
        ({"players": 3, "height": 5, "width": 5}, "5x5 is too small for 3 players: they need 27 tiles; use 6x6"),
        ({"max_steps": 0}, "max_steps is 0"),
        ({"ruleset": "chess"}, "ruleset 'chess' is unknown; use generals.io or go-system"),
        ({"city_army_min": 50, "city_army_max": 40}, "city_army_max is 40; it must be 50"),
        ({"general_spacing": 39}, "general_spacing is 39"),
        ({"max_steps": 1_000_000, "land_growth_period": 1, "height": 64, "width": 64}, "above what int32 holds"),
    ],
)
def test_settings_that_make_no_game_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        GeneralsConfig(**settings)  # type: ignore[arg-type]


def test_a_config_reads_complete() -> None:
    config = GeneralsConfig(ruleset="go-system", general_army=5)
    assert (config.growth_period, config.land_growth_period, config.general_army, config.city_army_max) == (
        1,
        25,
        5,
        40,
    )
    assert config.general_spacing == 5
    assert GeneralsConfig().general_spacing == 14
