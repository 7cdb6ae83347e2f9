"""Visibility: computed once, shared, never mixed up between games; and the fog drawn from it."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import reference_planes
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from expkit.errors import UsageError
from expkit.serialize.visibility import VisibilityCache, under_fog, visible_tiles

OWNERS = arrays.arrays(np.int8, st.tuples(st.integers(1, 9), st.integers(1, 9)), elements=st.integers(-1, 2))


@given(OWNERS, st.integers(0, 2), st.integers(0, 10))
def test_visible_tiles_are_those_of_the_slow_twin(owner: np.ndarray, player: int, radius: int) -> None:
    assert np.array_equal(visible_tiles(owner, player, radius), reference_planes.visible_tiles(owner, player, radius))


def test_one_tile_sees_its_eight_neighbours() -> None:
    owner = np.full((4, 5), -1, np.int8)
    owner[0, 1] = 3
    expected = ["###..", "###..", ".....", "....."]
    assert ["".join(".#"[tile] for tile in row) for row in visible_tiles(owner, 3).astype(int)] == expected
    assert not visible_tiles(owner, 0).any()


def test_two_games_in_the_same_turn_keep_their_own_fog() -> None:
    """The fault of the predecessor: its key lacked the game, so a shared cache showed another game's fog, and a
    board of another size crashed."""
    cache = VisibilityCache()
    first, second = np.full((3, 4), -1, np.int8), np.full((6, 5), -1, np.int8)
    first[0, 0] = second[5, 4] = 0
    for _ in range(2):
        for game, owner in ((1, first), (2, second)):
            assert np.array_equal(cache.visible(game, 7, 0, owner), visible_tiles(owner, 0))
    assert (cache.hits, cache.misses) == (2, 2)


def test_a_hit_shares_one_read_only_array() -> None:
    cache = VisibilityCache()
    owner = np.zeros((3, 3), np.int8)
    seen = cache.visible(0, 0, 0, owner)
    assert cache.visible(0, 0, 0, owner) is seen
    with pytest.raises(ValueError, match="read-only"):
        seen[0, 0] = False
    assert cache.visible(0, 0, 1, owner) is not seen
    assert cache.visible(0, 1, 0, owner) is not seen


def test_the_least_recently_used_goes_first() -> None:
    cache = VisibilityCache(entries=2)
    owner = np.zeros((2, 2), np.int8)
    oldest = cache.visible(0, 0, 0, owner)
    cache.visible(0, 1, 0, owner)
    assert cache.visible(0, 0, 0, owner) is oldest
    cache.visible(0, 2, 0, owner)
    assert len(cache) == 2
    assert cache.visible(0, 0, 0, owner) is oldest
    misses = cache.misses
    cache.visible(0, 1, 0, owner)
    assert cache.misses == misses + 1


def test_an_ended_game_is_forgotten() -> None:
    cache = VisibilityCache()
    before, after = np.zeros((2, 2), np.int8), np.full((2, 2), -1, np.int8)
    kept = cache.visible(8, 0, 0, before)
    assert cache.visible(9, 0, 0, before).all()
    cache.forget(9)
    assert not cache.visible(9, 0, 0, after).any()
    assert cache.visible(8, 0, 0, before) is kept


def test_threads_get_one_answer() -> None:
    cache = VisibilityCache(entries=8)
    owners = [np.where(np.arange(64).reshape(8, 8) == game, 0, -1).astype(np.int8) for game in range(20)]
    wrong: list[int] = []

    def look(seed: int) -> None:
        for game in np.random.default_rng(seed).integers(0, 20, 300).tolist():
            if not np.array_equal(cache.visible(game, 0, 0, owners[game]), visible_tiles(owners[game], 0)):
                wrong.append(game)

    threads = [threading.Thread(target=look, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert cache.hits + cache.misses == 1200
    assert len(cache) <= 8


def test_fog_hides_armies_owners_and_what_an_obstacle_is() -> None:
    army = np.array([[5, 40, 0, 7, 1]])
    owner = np.array([[0, -1, -1, 1, 1]])
    terrain = np.array([[0, 1, 3, 2, 0]])
    board = under_fog(army, owner, terrain, np.array([[True, False, False, False, True]]))
    assert board.army.tolist() == [[5, 0, 0, 0, 1]]
    assert board.owner.tolist() == [[0, -2, -2, -2, 1]]
    assert board.terrain.tolist() == [[0, 5, 5, 4, 0]]  # the enemy general lies in plain fog
    assert [part.dtype for part in board] == [np.int32, np.int8, np.uint8, np.bool_]


def test_impossible_sizes_are_refused() -> None:
    with pytest.raises(UsageError, match="at least 1"):
        VisibilityCache(entries=0)
    with pytest.raises(UsageError, match="radius -1"):
        visible_tiles(np.zeros((2, 2), np.int8), 0, -1)
