"""The engine against the slow twin, row by row, and positions worked out by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from generals_games import play_episodes
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from reference_generals import Rules, SlowGenerals

from expkit.games.generals.config import GeneralsConfig
from expkit.games.generals.resimulate import GeneralsReplay
from expkit.row.episodes import EpisodeStart

UP, DOWN, LEFT, RIGHT = range(4)


def slow_twin(config: GeneralsConfig, army: np.ndarray, owner: np.ndarray, terrain: np.ndarray) -> SlowGenerals:
    tiles = list(np.ndindex(config.height, config.width))
    rules = Rules(
        config.growth_period or 0,
        config.land_growth_period or 0,
        bool(config.land_growth_everywhere),
        bool(config.halve_on_capture),
        bool(config.general_becomes_city),
        bool(config.alternate_order),
        config.neutral_cities_regrow_to or 0,
    )
    parts = [{tile: int(board[tile]) for tile in tiles} for board in (army, owner, terrain)]
    return SlowGenerals(config.height, config.width, config.players, *parts, rules)


def compare_with_twin(config: GeneralsConfig, policies: list[str], episodes: int, seed: int) -> int:
    """Every row of every player is what the twin gives for the recorded actions; returns rows compared."""
    game, tables, _, ends = play_episodes(config, policies, episodes, num_envs=2, seed=seed)
    schema, compared = game.schema, 0
    for end in ends:
        rows: list[dict[str, np.ndarray]] = []
        for table in tables:
            mine = table["episode"] == end.episode
            names = [column.name for column in schema.columns if not column.name.startswith("valid:")]
            rows.append({name: schema.unpack(name, table[name][mine]) for name in names})
        first = {name: rows[0][f"state/{name}"][0] for name in ("army", "owner", "terrain")}
        twin = slow_twin(config, **first)
        for step in range(end.length + 1):
            present = [player for player in range(config.players) if len(rows[player]["step"]) > step]
            before = set(twin.alive)
            for player in present:
                row = {name: values[step] for name, values in rows[player].items()}
                assert row["step"] == step
                assert row["is_first"] == (step == 0)
                assert row["is_last"] == (len(rows[player]["step"]) == step + 1)
                seen = [twin.sees(player, tile) for tile in twin.tiles]
                for at, name in enumerate(("army", "owner", "terrain")):
                    assert row[f"observation/{name}"].reshape(-1).tolist() == [tile[at] for tile in seen], name
                    assert row[f"state/{name}"].reshape(-1).tolist() == [getattr(twin, name)[t] for t in twin.tiles]
                assert row["observation/visible"].reshape(-1).tolist() == [twin.visible(player, t) for t in twin.tiles]
                totals = row["observation/total_army"].tolist(), row["observation/total_land"].tolist()
                assert totals == twin.totals()
                assert row["action_mask"].tolist() == twin.mask(player)
                assert row["is_last"] or row["action_mask"][row["action"]]
                compared += 1
            acting = {p: int(rows[p]["action"][step]) for p in present if not rows[p]["is_last"][step]}
            if not acting:
                break
            assert set(acting) == before
            twin.step(acting)
            won, cut = len(twin.alive) == 1, twin.turn >= config.max_steps
            for player in acting:
                died = player not in twin.alive
                assert rows[player]["reward"][step] == (-1 if died else 1 if won else 0)
                assert rows[player]["terminated"][step] == (died or won)
                assert rows[player]["truncated"][step] == (cut and not died and not won)
        expected = {
            str(p): -1.0 if p not in twin.alive else 1.0 if len(twin.alive) == 1 else 0.0 for p in range(config.players)
        }
        assert end.outcome == expected
        assert end.ended == ("terminated" if len(twin.alive) == 1 else "truncated")
        assert end.rows == {str(p): len(rows[p]["step"]) for p in range(config.players)}
    return compared


@pytest.mark.parametrize(
    ("players", "height", "width", "ruleset", "policy"),
    [
        (2, 5, 5, "generals.io", "hunter"),
        (2, 7, 9, "go-system", "hunter"),
        (4, 9, 7, "generals.io", "hunter"),
        (3, 8, 8, "go-system", "expander"),
        (16, 12, 12, "generals.io", "hunter"),
        (2, 6, 11, "generals.io", "random"),
    ],
)
def test_games_equal_the_slow_twin(players: int, height: int, width: int, ruleset: str, policy: str) -> None:
    steps = 40 if players == 16 else 120
    config = GeneralsConfig(players=players, height=height, width=width, max_steps=steps, ruleset=ruleset, state=True)
    assert compare_with_twin(config, [policy], 2, seed=players) > 2 * players


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_any_setting_equals_the_slow_twin(data: st.DataObject) -> None:
    """Rules in any mixture, on boards of any shape, players of different skill."""
    players = data.draw(st.integers(2, 5))
    config = GeneralsConfig(
        players=players,
        height=data.draw(st.integers(7, 10)),
        width=data.draw(st.integers(7, 10)),
        max_steps=data.draw(st.integers(1, 70)),
        state=True,
        growth_period=data.draw(st.integers(1, 3)),
        land_growth_period=data.draw(st.integers(1, 20)),
        land_growth_everywhere=data.draw(st.booleans()),
        halve_on_capture=data.draw(st.booleans()),
        general_becomes_city=data.draw(st.booleans()),
        alternate_order=data.draw(st.booleans()),
        neutral_cities_regrow_to=data.draw(st.sampled_from([0, 40])),
        city_army_min=2,
        city_army_max=45,
        city_density=0.1,
        mountain_density=data.draw(st.sampled_from([0.0, 0.2, 0.5])),
    )
    policies = data.draw(
        st.lists(st.sampled_from(["random", "expander", "hunter"]), min_size=players, max_size=players)
    )
    compare_with_twin(config, policies, 1, seed=data.draw(st.integers(0, 1 << 64 - 1)))


def position(generals: list[int], *, ruleset: str = "generals.io", **pieces: Any) -> GeneralsReplay:
    """A game on 6 rows of 5; `neutrals` and `cities` are [tile, army] pairs."""
    board = {"generals": generals, "cities": [], "mountains": [], "neutrals": []} | pieces
    config = GeneralsConfig(players=len(generals), height=6, width=5, ruleset=ruleset)
    start = EpisodeStart(0, 0, list(range(len(generals))), "generals", metadata={"map": board})
    return GeneralsReplay(config, start, 0)


def full(tile: int, direction: int) -> int:
    return 4 * tile + direction


def half(tile: int, direction: int) -> int:
    return 120 + full(tile, direction)


def wait(game: GeneralsReplay, turns: int) -> None:
    for _ in range(turns):
        game.step({})


def at(game: GeneralsReplay, tile: int) -> tuple[int, int]:
    """Army and owner."""
    board = game.board()
    return int(board.army.reshape(-1)[tile]), int(board.owner.reshape(-1)[tile])


def test_a_general_grows_on_every_second_turn() -> None:
    game = position([0, 24])
    armies = []
    for _ in range(6):
        game.step({})
        armies.append(at(game, 0)[0])
    assert armies == [1, 2, 2, 3, 3, 4]


def test_half_a_move_takes_the_smaller_half() -> None:
    game = position([0, 24])
    wait(game, 8)  # 5 on the general
    game.step({0: half(0, RIGHT)})  # 2 go, 3 stay
    assert (at(game, 0), at(game, 1)) == ((3, 0), (2, 0))


def test_an_equal_attack_leaves_an_empty_tile_to_its_owner() -> None:
    game = position([0, 24], neutrals=[[1, 3]])
    wait(game, 6)  # 4 on the general, 3 of them move against 3
    game.step({0: full(0, RIGHT)})
    assert at(game, 1) == (0, -1)
    assert at(game, 0) == (1, 0)


def test_a_stronger_attack_leaves_the_difference() -> None:
    game = position([0, 24], neutrals=[[1, 3]])
    wait(game, 8)  # 5, 4 of them move against 3
    game.step({0: full(0, RIGHT)})
    assert at(game, 1) == (1, 0)


def test_a_captured_city_grows_for_its_owner() -> None:
    game = position([0, 24], cities=[[1, 2]])
    wait(game, 6)
    game.step({0: full(0, RIGHT)})  # turn 7: 3 against 2
    assert at(game, 1) == (1, 0)
    game.step({})
    assert at(game, 1) == (2, 0)


def test_capturing_a_general_halves_what_the_loser_had_rounded_up() -> None:
    game = position([0, 2, 24])
    wait(game, 8)  # 5 on each general
    game.step({1: full(2, DOWN)})  # player 1 sends 4 to tile 7
    game.step({1: full(7, DOWN)})  # and 3 of them on to tile 12; turn 10
    assert (at(game, 2), at(game, 7), at(game, 12)) == ((2, 1), (1, 1), (3, 1))
    game.step({0: full(0, RIGHT)})  # turn 11: 5 of 6 to tile 1
    game.step({0: full(1, RIGHT)})  # turn 12: 4 against 2 on the general
    board = game.board()
    assert not game.alive(1)
    assert game.rewards() == {0: 0.0, 1: -1.0, 2: 0.0}
    # 4 - 2 = 2, as a city of player 0 grows by 1 at the end of turn 12; 1 is halved to 1, 3 to 2
    assert (at(game, 2), at(game, 7), at(game, 12)) == ((3, 0), (1, 0), (2, 0))
    assert board.terrain.reshape(-1)[2] == 1
    assert game.observation(1)["observation/total_land"].tolist() == [5, 0, 1]


def test_the_go_system_keeps_armies_whole_and_generals_generals() -> None:
    game = position([0, 2, 24], ruleset="go-system")
    wait(game, 3)  # 2 + 3 on each general
    game.step({1: full(2, DOWN)})  # 4 to tile 7, then growth
    game.step({0: full(0, RIGHT), 1: full(7, DOWN)})  # 3 to tile 12
    assert (at(game, 2), at(game, 12)) == ((3, 1), (3, 1))
    game.step({0: full(1, RIGHT)})  # 4 of 5 against 3
    assert not game.alive(1)
    assert at(game, 2) == (2, 0)  # 1 and its growth
    assert at(game, 12) == (3, 0)
    assert game.board().terrain.reshape(-1)[2] == 2


def test_players_move_in_ascending_order_on_even_turns_and_descending_on_odd_ones() -> None:
    for extra, winner in ((0, 1), (1, 0)):
        game = position([10, 12])
        wait(game, 8 + extra)
        # Both send 4 into the empty tile 11 between them: the second to come finds 4 and clears it.
        game.step({0: full(10, RIGHT), 1: full(12, LEFT)})
        assert at(game, 11) == (0, 1 - winner)


def test_in_fog_a_city_looks_like_a_mountain_and_a_general_like_plain_ground() -> None:
    game = position([0, 24], cities=[[14, 40], [1, 40]], mountains=[22, 5])
    seen = game.observation(0)
    terrain = seen["observation/terrain"].reshape(-1)
    assert [terrain[tile] for tile in (0, 1, 5, 6)] == [2, 1, 3, 0]
    assert [terrain[tile] for tile in (14, 22, 24, 12)] == [5, 5, 4, 4]
    assert seen["observation/visible"].reshape(-1).nonzero()[0].tolist() == [0, 1, 5, 6]
    assert set(seen["observation/owner"].reshape(-1)[7:].tolist()) == {-2}
    assert seen["observation/army"].reshape(-1).sum() == 41


def test_masks_know_edges_mountains_and_armies() -> None:
    game = position([0, 24], mountains=[5])
    assert game.observation(0)["action_mask"].nonzero()[0].tolist() == [240]
    wait(game, 2)
    assert game.observation(0)["action_mask"].nonzero()[0].tolist() == [full(0, RIGHT), half(0, RIGHT), 240]


def test_who_is_out_sees_fog_only_and_may_only_pass() -> None:
    game = position([0, 1])
    wait(game, 8)
    game.step({1: full(1, DOWN)})
    game.step({0: full(0, RIGHT)})
    seen = game.observation(1)
    assert not game.alive(1)
    assert not seen["observation/visible"].any()
    assert seen["action_mask"].nonzero()[0].tolist() == [240]
    assert game.rewards() == {0: 1.0, 1: -1.0}
