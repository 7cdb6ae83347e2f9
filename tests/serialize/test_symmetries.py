"""The eight symmetries: a group, the same for boards, masks and actions, and for the rules of the game."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import product
from pathlib import Path

import msgspec
import numpy as np
import pytest
import reference_symmetries as slow
from generals_games import play_episodes
from hypothesis import given, settings
from hypothesis import strategies as st
from recorded_games import record_games
from written_runs import VECTOR_SCHEMA, write_vectors

from expkit import open_run
from expkit.errors import SchemaError, UsageError
from expkit.games.generals import GeneralsConfig
from expkit.games.generals.resimulate import GeneralsReplay
from expkit.games.generals.schema import generals_schema
from expkit.row.episodes import EpisodeStart
from expkit.row.schema import Field, Schema
from expkit.serialize.board_fields import BoardFields
from expkit.serialize.representations import find_representation
from expkit.serialize.symmetries import (
    SHAPE_KEEPING,
    Symmetry,
    action_table,
    augmented,
    composed,
    draw_symmetries,
    inverse,
    turned,
)

Batch = dict[str, np.ndarray]
sides = st.integers(1, 6)
symmetries = st.sampled_from(list(Symmetry))


def batch_of(rows: int, height: int, width: int, seed: int) -> Batch:
    """Random boards of several kinds, a mask and one of its actions for each row."""
    rng = np.random.default_rng(seed)
    tiles = height * width
    mask = rng.random((rows, 8 * tiles + 1)) < 0.3
    mask[:, -1] = True
    return {
        "episode": rng.integers(0, 5, rows).astype(np.uint64),
        "observation/army": rng.integers(0, 99, (rows, height, width)).astype(np.int32),
        "observation/visible": rng.random((rows, height, width)) < 0.5,
        "observation": rng.random((rows, 2, height, width), np.float32),
        "observation/total_army": rng.integers(0, 9, (rows, 2)).astype(np.int32),
        "action_mask": mask,
        "action": np.array([rng.choice(np.flatnonzero(row)) for row in mask], np.uint32).reshape(rows),
        "is_last": rng.random(rows) < 0.2,
    }


def fields_of(height: int, width: int) -> BoardFields:
    boards = ("observation/army", "observation/visible", "observation")
    return BoardFields(height, width, boards, ("action_mask",), ("action",))


def test_they_are_a_group() -> None:
    assert len({tuple(action_table(one, 3, 3).tolist()) for one in Symmetry}) == 8
    for a, b in product(Symmetry, Symmetry):
        assert composed(a, inverse(a)) == composed(inverse(a), a) == Symmetry.IDENTITY
        assert composed(a, Symmetry.IDENTITY) == composed(Symmetry.IDENTITY, a) == a
        for c in Symmetry:
            assert composed(composed(a, b), c) == composed(a, composed(b, c))
    assert sum(composed(a, b) != composed(b, a) for a, b in product(Symmetry, Symmetry)) > 0
    keeping = list(Symmetry)[:SHAPE_KEEPING]
    assert {composed(a, b) for a, b in product(keeping, keeping)} == set(keeping)
    quarter = Symmetry.ROTATE_90
    assert composed(quarter, quarter) == Symmetry.ROTATE_180
    assert composed(Symmetry.ROTATE_180, quarter) == Symmetry.ROTATE_270 == inverse(quarter)


@settings(max_examples=60, deadline=None)
@given(symmetries, sides, sides)
def test_actions_go_where_the_slow_twin_walks(symmetry: Symmetry, height: int, width: int) -> None:
    table = action_table(symmetry, height, width).tolist()
    assert table == [slow.action(n, symmetry.name, height, width) for n in range(8 * height * width + 1)]
    assert sorted(table) == list(range(8 * height * width + 1))


@settings(max_examples=60, deadline=None)
@given(symmetries, sides, sides, st.integers(0, 5), st.integers(0, 2**32))
def test_batches_are_turned_as_the_slow_twin_turns_rows(
    symmetry: Symmetry, height: int, width: int, rows: int, seed: int
) -> None:
    width = height if symmetry >= SHAPE_KEEPING else width
    batch, fields = batch_of(rows, height, width, seed), fields_of(height, width)
    before = {name: values.copy() for name, values in batch.items()}
    out = turned(batch, fields, symmetry)
    for row in range(rows):
        for name in ("observation/army", "observation/visible"):
            assert np.array_equal(out[name][row], slow.board(batch[name][row], symmetry.name))
        for plane in range(2):
            assert np.array_equal(
                out["observation"][row, plane], slow.board(batch["observation"][row, plane], symmetry.name)
            )
        assert np.array_equal(
            out["action_mask"][row], slow.mask(batch["action_mask"][row], symmetry.name, height, width)
        )
        given_action = int(batch["action"][row])
        moved = given_action if batch["is_last"][row] else slow.action(given_action, symmetry.name, height, width)
        assert out["action"][row] == moved
        assert batch["is_last"][row] or out["action_mask"][row, out["action"][row]]  # a legal action stays legal
    for name, values in batch.items():
        assert np.array_equal(values, before[name])
        assert out[name].dtype == values.dtype
        assert out[name].flags.c_contiguous
    assert out["observation/total_army"] is batch["observation/total_army"]
    packed = turned({"action_mask": batch["action_mask"][:, : 4 * height * width]}, fields, symmetry)
    assert np.array_equal(packed["action_mask"], out["action_mask"][:, : 4 * height * width])


@settings(max_examples=40, deadline=None)
@given(symmetries, symmetries, st.integers(1, 6), st.integers(0, 2**32))
def test_one_after_the_other_is_their_product(first: Symmetry, then: Symmetry, side: int, seed: int) -> None:
    batch, fields = batch_of(4, side, side, seed), fields_of(side, side)
    twice = turned(turned(batch, fields, first), fields, then)
    once = turned(batch, fields, composed(first, then))
    back = turned(once, fields, inverse(composed(first, then)))
    for name in batch:
        assert np.array_equal(twice[name], once[name])
        assert np.array_equal(back[name], batch[name])


@settings(max_examples=40, deadline=None)
@given(st.booleans(), st.integers(0, 9), st.integers(0, 2**32))
def test_a_symmetry_for_each_row_is_each_row_by_its_own(square: bool, rows: int, seed: int) -> None:
    height, width = (4, 4) if square else (3, 5)
    batch, fields = batch_of(rows, height, width, seed), fields_of(height, width)
    which = np.random.default_rng(seed).integers(0, 8 if square else 4, rows).astype(np.uint8)
    out = turned(batch, fields, which)
    for row in range(rows):
        alone = turned({name: values[row : row + 1] for name, values in batch.items()}, fields, int(which[row]))
        assert all(np.array_equal(out[name][row], alone[name][0]) for name in batch)


def test_what_follows_from_seed_and_episode() -> None:
    square, oblong = fields_of(5, 5), fields_of(5, 6)
    episodes = np.arange(16_000, dtype=np.uint64) + np.uint64(3 << 48)
    for fields, kinds in ((square, 8), (oblong, 4)):
        drawn = draw_symmetries(episodes, 7, fields)
        counts = Counter(drawn.tolist())
        assert sorted(counts) == list(range(kinds))
        # Five standard deviations of an even draw.
        assert all(abs(count - 16_000 / kinds) < 5 * (16_000 / kinds) ** 0.5 for count in counts.values())
        assert np.array_equal(drawn[::-1], draw_symmetries(episodes[::-1].copy(), 7, fields))
        assert np.array_equal(drawn, draw_symmetries(episodes, 7 - (1 << 64), fields))
        assert (drawn != draw_symmetries(episodes, 8, fields)).mean() > 0.7
    # Fixed for all time: a run that was augmented by a seed is so again.
    drawn = draw_symmetries(np.arange(12, dtype=np.uint64), 1, square)
    assert drawn.tolist() == [0, 4, 5, 3, 3, 2, 5, 4, 4, 0, 2, 0]


def board_map(game: GeneralsReplay, name: str) -> dict[str, object]:
    """The board of turn 0 as an episode's metadata hold it, turned."""
    army, owner, terrain = (slow.board(part, name).ravel() for part in game.board())
    cities = np.flatnonzero(terrain == 1).tolist()
    return {
        "generals": [int(np.flatnonzero((owner == player) & (terrain == 2))[0]) for player in range(game.players)],
        "cities": [[tile, int(army[tile])] for tile in cities],
        "mountains": np.flatnonzero(terrain == 3).tolist(),
        "neutrals": [],
    }


@pytest.mark.parametrize("symmetry", list(Symmetry), ids=lambda one: one.name)
@pytest.mark.parametrize(("height", "width"), [(9, 9), (7, 10)])
def test_the_game_on_the_turned_board_shows_the_turned_observations(
    symmetry: Symmetry, height: int, width: int
) -> None:
    """The engine as witness: rows that were recorded and turned are those of a game on a turned map."""
    config = GeneralsConfig(players=3, height=height, width=width, max_steps=150, state=True)
    schema = generals_schema(config)
    fields = BoardFields.of(schema)
    assert fields.boards[-3:] == ("state/army", "state/owner", "state/terrain")
    _, tables, starts, _ = play_episodes(config, ["hunter", "expander", "random"], 1, seed=5)
    swaps = symmetry >= SHAPE_KEEPING
    other = msgspec.structs.replace(config, height=width, width=height) if swaps else config
    laid_out = {"map": board_map(GeneralsReplay(config, starts[0], 5), symmetry.name)}
    game = GeneralsReplay(other, EpisodeStart(0, 0, [0, 1, 2], "generals", metadata=laid_out), 5)
    batches = []
    for table in tables:
        batch = {column.name: schema.unpack(column.name, table[column.name]) for column in schema.columns}
        batches.append(batch)
    if not swaps or height == width:
        batches = [turned(batch, fields, symmetry) for batch in batches]
    else:  # turned by the twin: the shape of a column would change
        batches = [_turned_slowly(batch, fields, symmetry) for batch in batches]
    compared = 0
    for step in range(150):
        actions = {}
        for player, batch in enumerate(batches):
            if step >= len(batch["step"]):
                continue
            seen = game.observation(player)
            for name, values in seen.items():
                assert np.array_equal(batch[name][step], values), (step, player, name)
            compared += 1
            if not batch["is_last"][step]:
                actions[player] = int(batch["action"][step])
                assert batch["action_mask"][step, actions[player]]
        if not actions:
            break
        game.step(actions)
        assert game.fizzled == [] or set(game.fizzled) <= set(actions)
    assert compared >= 100


def _turned_slowly(batch: Batch, fields: BoardFields, symmetry: Symmetry) -> Batch:
    height, width, name = fields.height, fields.width, symmetry.name
    out = dict(batch)
    for column in fields.boards:
        out[column] = np.stack([slow.board(board, name) for board in batch[column]])
    out["action_mask"] = np.stack([slow.mask(flags, name, height, width) for flags in batch["action_mask"]])
    out["action"] = np.array([slow.action(int(one), name, height, width) for one in batch["action"]])
    return out


@pytest.mark.parametrize("name", ["planes", "planes-uint8"])
def test_planes_of_turned_boards_are_turned_planes(name: str) -> None:
    config = GeneralsConfig(players=2, height=8, width=8, max_steps=40)
    raw = generals_schema(config)
    table = play_episodes(config, ["hunter"], 2)[1][1]
    rows, made = len(table["step"]), find_representation(name)
    schema = made.schema(raw)
    unpacked = {column.name: raw.unpack(column.name, table[column.name]) for column in raw.columns}
    planes = made.convert(table, rows, 1)["observation"].reshape(rows, 9, 8, 8)
    for symmetry in Symmetry:
        out = turned(unpacked, BoardFields.of(raw), symmetry)
        stored = {column.name: raw.pack(column.name, out[column.name], rows) for column in raw.columns}
        expected = made.convert(stored, rows, 1)["observation"].reshape(rows, 9, 8, 8)
        assert np.array_equal(
            turned({"observation": planes}, BoardFields.of(schema), symmetry)["observation"], expected
        )


@pytest.fixture(scope="module")
def games(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("games") / "run"
    return record_games(path, episodes=10, size="7x7", max_steps=30)


def test_augmentation_of_a_scan(games: Path) -> None:
    with open_run(games) as run:
        fields = BoardFields.of(run.schema)
        plain = list(run.scan(batch_size=64, rows="all"))
        for batch, out in zip(plain, augmented(run.scan(batch_size=64, rows="all"), run.schema, seed=3), strict=True):
            which = draw_symmetries(batch["episode"], 3, fields)
            for row in range(len(which)):
                name = Symmetry(int(which[row])).name
                assert np.array_equal(out["observation/army"][row], slow.board(batch["observation/army"][row], name))
                taken = int(batch["action"][row])
                assert out["action"][row] == (0 if batch["is_last"][row] else slow.action(taken, name, 7, 7))
        by_row = {}
        for size in (50, 1000):
            for batch in augmented(run.shuffled(size, seed=size), run.schema, seed=3):
                for row in range(len(batch["step"])):
                    key = tuple(int(batch[name][row]) for name in ("episode", "player", "step"))
                    value = batch["observation/owner"][row].tobytes(), int(batch["action"][row])
                    assert by_row.setdefault(key, value) == value
        assert len(by_row) == run.steps
        narrow = next(augmented(run.scan(["action", "reward"]), fields, seed=3))
        assert set(narrow) == set(next(run.scan(["action", "reward"])))
        one = run.episode(4, 1)  # T+1 observations, T actions
        whole = turned(one, fields, Symmetry.ROTATE_90)
        rows = turned(one, fields, np.full(len(one["step"]), Symmetry.ROTATE_90, np.uint8))
        assert all(np.array_equal(whole[name], rows[name]) for name in one)
        expected = [slow.action(int(action), "ROTATE_90", 7, 7) for action in one["action"]]
        assert whole["action"].tolist() == expected


def test_derived_columns_are_turned_when_they_are_named() -> None:
    batch = batch_of(3, 4, 4, 0)
    batch["next_observation"] = np.stack([batch["observation/army"]] * 3, 1)
    fields = fields_of(4, 4)
    fields = replace(fields, boards=(*fields.boards, "next_observation"))
    out = turned(batch, fields, Symmetry.ROTATE_90)
    assert all(np.array_equal(out["next_observation"][:, k], out["observation/army"]) for k in range(3))


def test_rows_that_cannot_be_turned(tmp_path: Path) -> None:
    batch, fields = batch_of(2, 3, 4, 0), fields_of(3, 4)
    with pytest.raises(UsageError, match="rotate_90 would turn a board of 3x4 into 4x3; only symmetries 0 to 3"):
        turned(batch, fields, np.array([0, 4]))
    for none in (8, -1):
        with pytest.raises(UsageError, match="they are 0 to 7"):
            turned(batch, fields_of(4, 4), none)
    with pytest.raises(SchemaError, match="no board whose moves its actions number .boards: none"):
        BoardFields.of(VECTOR_SCHEMA)
    other = Schema(
        [Field("observation", "f4", (4, 84, 84), "observation"), Field("action", "u1", (), "action", high=5)]
    )
    with pytest.raises(SchemaError, match="boards: 84x84"):
        BoardFields.of(other)
    with open_run(write_vectors(tmp_path / "run")) as run, pytest.raises(SchemaError, match="no board"):
        next(augmented(run.scan(), run.schema))
    odd = turned({"action": np.array([8 * 12 + 1, 8 * 12], np.uint32)}, fields, 1)
    assert odd["action"].tolist() == [97, 96]


def test_flat_features_are_the_same_from_every_side() -> None:
    config = GeneralsConfig(players=2, height=6, width=6)
    schema = find_representation("flat").schema(generals_schema(config))
    with pytest.raises(SchemaError, match="boards: none"):
        BoardFields.of(schema)
    fields = BoardFields.of(schema, size=(6, 6))
    assert (fields.boards, fields.masks, fields.actions) == ((), ("action_mask",), ("action",))
    with pytest.raises(SchemaError, match="boards: 6x7"):
        BoardFields.of(schema, size=(6, 7))
