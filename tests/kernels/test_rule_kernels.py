"""Kernels behind the rules about boards and rewards, against slow twins that are obvious."""

import numpy as np
import pytest
from generals_games import play_episodes
from hypothesis import given, settings
from hypothesis import strategies as st
from reference_planes import visible_tiles

from expkit.errors import GameError
from expkit.games.generals import GeneralsConfig
from expkit.games.generals.resimulate import GeneralsReplay, replay_rewards
from expkit.games.generals.source import GeneralsSource
from expkit.kernels.generals_check import HIDDEN, TOLD, VISION, fog_faults, mask_faults
from expkit.kernels.generals_state import CITY, FOG, MOUNTAIN, OBSTACLE, UNKNOWN
from expkit.kernels.same_rows import keep_unchanged
from expkit.row.episodes import EpisodeStart

FAST = settings(max_examples=80, deadline=None)
sides = st.tuples(st.integers(1, 11), st.integers(1, 11))


def boards(rng, count, height, width, player):
    """Sound observations (count, H, W): army, owner, terrain, visible; and the mask (count, H, W, 4)."""
    owner = rng.choice(np.array([-1, -1, -1, 0, 1], np.int8), (count, height, width))
    terrain = rng.choice(np.array([0, 0, 0, 1, 2, 3], np.uint8), (count, height, width))
    owner[terrain == MOUNTAIN] = -1
    army = rng.integers(0, 4, (count, height, width)).astype(np.int32)
    visible = np.stack([visible_tiles(board, player, 1) for board in owner])
    mask = np.zeros((count, height, width, 4), bool)
    for row, y, x in np.ndindex(count, height, width):
        for direction, (up, right) in enumerate([(-1, 0), (1, 0), (0, -1), (0, 1)]):
            to_y, to_x = y + up, x + right
            inside = 0 <= to_y < height and 0 <= to_x < width
            able = owner[row, y, x] == player and army[row, y, x] > 1
            mask[row, y, x, direction] = able and inside and terrain[row, to_y, to_x] != MOUNTAIN
    hidden = np.where((terrain == CITY) | (terrain == MOUNTAIN), OBSTACLE, FOG)
    seen = [np.where(visible, army, 0), np.where(visible, owner, UNKNOWN), np.where(visible, terrain, hidden)]
    return [seen[0].astype(np.int32), seen[1].astype(np.int8), seen[2].astype(np.uint8), visible], mask


def packed(values):
    return np.packbits(values.reshape(len(values), -1), axis=1, bitorder="little")


def fog_of(army, owner, terrain, visible, player):
    count, height, width = army.shape
    out = np.zeros(count, np.int64)
    own, seen = np.zeros((height + 2) * (width + 2) + 8, np.uint8), np.zeros(height * width + 8, np.uint8)
    flat = [np.ascontiguousarray(part.reshape(count, -1)) for part in (army, owner, terrain)]
    fog_faults(*flat, packed(visible), height, width, player, own, seen, out)
    return out.tolist()


def fog_twin(army, owner, terrain, visible, player):
    reach = visible_tiles(owner, player, 1)
    for tile, place in enumerate(np.ndindex(owner.shape)):
        if visible[place] != reach[place]:
            return 4 * tile + VISION
        told = army[place] or owner[place] != UNKNOWN or terrain[place] not in (FOG, OBSTACLE)
        if not reach[place] and told:
            return 4 * tile + TOLD
        if reach[place] and (owner[place] == UNKNOWN or terrain[place] > MOUNTAIN):
            return 4 * tile + HIDDEN
    return -1


@FAST
@given(sides, st.integers(0, 1), st.integers(0, 12), st.integers(0, 2**32 - 1))
def test_fog_is_judged_as_tile_by_tile(size, player, changes, seed):
    """Sound boards, and the same with a few values that are anything."""
    rng = np.random.default_rng(seed)
    parts, _ = boards(rng, 6, *size, player)
    assert fog_of(*parts, player) == [-1] * 6
    for _ in range(changes):
        which, place = rng.integers(0, 4), tuple(rng.integers(0, (6, *size)))
        low, high = [(-5, 6), (-3, 3), (0, 9), (0, 2)][which]
        parts[which][place] = rng.integers(low, high)
    assert fog_of(*parts, player) == [fog_twin(*(part[row] for part in parts), player) for row in range(6)]


def mask_of(army, owner, terrain, bits, player):
    count, height, width = army.shape
    out = np.zeros(count, np.int64)
    opened, legal = np.zeros((height + 2) * (width + 2), np.uint8), np.zeros(height * width + 8, np.uint8)
    flat = [np.ascontiguousarray(part.reshape(count, -1)) for part in (army, owner, terrain)]
    mask_faults(*flat, bits, height, width, player, opened, legal, out)
    return out.tolist()


@FAST
@given(sides, st.integers(0, 1), st.integers(0, 6), st.integers(0, 2**32 - 1))
def test_masks_are_judged_as_move_by_move(size, player, changes, seed):
    rng = np.random.default_rng(seed)
    (army, owner, terrain, _), mask = boards(rng, 6, *size, player)
    assert mask_of(army, owner, terrain, packed(mask), player) == [-1] * 6
    told = mask.copy()
    for _ in range(changes):
        told[tuple(rng.integers(0, (6, *size, 4)))] ^= True
    wrong = (told != mask).reshape(6, -1)
    expected = [int(row.argmax()) if row.any() else -1 for row in wrong]
    assert mask_of(army, owner, terrain, packed(told), player) == expected


def test_a_move_into_what_is_not_seen_is_not_judged():
    """The fog that hides it breaks another rule."""
    army, owner = np.full((1, 1, 2), 5, np.int32), np.array([[[0, -2]]], np.int8)
    terrain = np.array([[[0, OBSTACLE]]], np.uint8)
    for told in (0, 8):
        assert mask_of(army, owner, terrain, np.array([[told]], np.uint8), 0) == [-1]


@FAST
@given(st.integers(1, 30), st.integers(1, 40), st.integers(0, 2**32 - 1))
def test_unchanged_rows_are_those_of_equal_bytes(width, count, seed):
    rng = np.random.default_rng(seed)
    rows = np.repeat(rng.integers(0, 256, (count, width), np.uint8), rng.integers(1, 4, count), axis=0)
    rows[rng.random(len(rows)) < 0.2, rng.integers(0, width)] ^= 1
    asked = rng.random(len(rows) - 1) < 0.8
    same = asked.copy()
    if len(same):
        keep_unchanged(rows.ctypes.data, width, same)
    assert same.tolist() == (asked & (rows[1:] == rows[:-1]).all(axis=1)).tolist()


@pytest.mark.parametrize(("players", "ruleset"), [(2, "generals.io"), (4, "generals.io"), (3, "go-system")])
def test_rewards_of_a_replay_are_those_of_the_game_step_by_step(players, ruleset):
    config = GeneralsConfig(players=players, height=9, width=10, max_steps=200, ruleset=ruleset)
    game, tables, starts, _ = play_episodes(config, ["hunter"], 6, seed=3)
    assert game.seed == 3
    rewarded = 0
    for start in starts:
        mine = [{n: v[table["episode"] == start.episode] for n, v in table.items()} for table in tables]
        acting = [table["is_last"] == 0 for table in mine]
        actions = np.full((max(map(np.count_nonzero, acting)), players), -1, np.int64)
        for player, (table, acts) in enumerate(zip(mine, acting, strict=True)):
            actions[: acts.sum(), player] = table["action"][acts]
        found = GeneralsSource().replay_rewards(config, start, 3, actions)
        again = GeneralsReplay(config, start, 3)
        for step, row in enumerate(actions.tolist()):
            again.step({player: action for player, action in enumerate(row) if action >= 0})
            assert found[step].tolist() == [again.rewards()[player] for player in range(players)]
        for player, (table, acts) in enumerate(zip(mine, acting, strict=True)):
            assert found[: acts.sum(), player].tolist() == table["reward"][acts].tolist()
        rewarded += np.count_nonzero(found)
    assert rewarded > 3


def test_an_imported_game_is_played_again_step_by_step():
    board = {"generals": [0, 24], "cities": [], "mountains": [], "neutrals": []}
    start = EpisodeStart(3, 0, [0, 1], "generals", metadata={"map": board, "leaves": [[1, 1]]})
    config = GeneralsConfig(height=5, width=5)
    rewards = replay_rewards(config, start, 0, np.full((3, 2), 8 * 25, np.int64))
    assert rewards.tolist() == [[0, 0], [1, -1], [0, 0]] or rewards.tolist()[:2] == [[0, 0], [1, -1]]
    for wrong, words in ((np.zeros((2, 3), np.int64), "the game has 2"), (np.full((2, 2), 201), "action 201 is none")):
        with pytest.raises(GameError, match=words):
            replay_rewards(config, start, 0, wrong)
