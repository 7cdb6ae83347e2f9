"""The factory of rows: keys, defaults, order, and what it refuses."""

import numpy as np
import pytest

from expkit.errors import SchemaError
from expkit.row.factory import RowFactory
from expkit.row.layout import BlockLayout, aligned_empty
from expkit.row.schema import Field, Schema

SCHEMA = Schema(
    [
        Field("observation/board", "i4", (2, 2), "observation"),
        Field("action_mask", "bool", (10,), "observation"),
        Field("action", "u2", belongs="action"),
        Field("value", "f4", belongs="action", nullable=True),
    ]
)
BOARD = np.arange(4, dtype=np.int32).reshape(2, 2)
MASK = np.arange(10) % 3 == 0


def make(rows=16, players=2):
    layout = BlockLayout(SCHEMA, rows)
    memory = aligned_empty(layout.nbytes)
    memory[:] = 0xAA  # rows are written into memory that holds something else
    return RowFactory(SCHEMA, players), layout.views(memory)


def test_a_transition_fills_every_column():
    factory, views = make()
    factory.set_policy(1, 3, 7)
    factory.transition(views, 0, 1, 5, 10, dict(observation=BOARD, action_mask=MASK, action=9, reward=0.5))
    got = {name: values[0] for name, values in views.items()}
    assert (got["episode"], got["step"], got["policy"], got["policy_version"]) == (5, 10, 3, 7)
    assert got["is_first"]
    assert not got["is_last"]
    assert got["action"] == 9
    assert got["reward"] == 0.5
    assert not got["terminated"]
    assert not got["truncated"]
    assert got["value"] == 0
    assert not got["valid:value"]
    assert (SCHEMA.unpack("action_mask", views["action_mask"][:1])[0] == MASK).all()
    assert (SCHEMA.unpack("observation/board", views["observation/board"][:1])[0] == BOARD).all()
    assert got["time_ns"] > 0


def test_only_the_first_row_of_an_episode_and_player_is_first():
    factory, views = make()
    row = dict(observation=BOARD, action_mask=MASK, action=1, reward=0)
    for index, (player, step) in enumerate([(0, 0), (1, 0), (0, 1), (1, 4)]):
        factory.transition(views, index, player, 2, step, row)
    assert views["is_first"][:4].tolist() == [True, True, False, False]


def test_the_last_row_holds_the_observation_alone():
    factory, views = make()
    factory.transition(
        views, 0, 0, 1, 3, dict(observation=BOARD, action_mask=MASK, action=1, reward=1, terminated=True, value=2.0)
    )
    progress = factory.final(views, 1, 0, 1, dict(observation=BOARD, action_mask=MASK))
    assert progress.terminated
    assert views["is_last"][:2].tolist() == [False, True]
    assert views["step"][:2].tolist() == [3, 4]
    for name in ("action", "reward", "value", "valid:value", "terminated", "truncated"):
        assert views[name][1] == 0
    assert factory.open_players(1) == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (dict(observatio=1), "did you mean 'observation/board'|no field 'observatio'"),
        (dict(step=3), "given by name"),
        (dict(action=None), "action is missing"),
        (dict(action=70000), "does not fit"),
        (dict(action=1.5), "does not fit"),
        (dict(observation=np.zeros(3)), "shape"),
        (dict(observation=np.full((2, 2), 2.5)), "does not fit"),
    ],
)
def test_what_does_not_fit_is_refused(change, said):
    factory, views = make()
    row = dict(observation=BOARD, action_mask=MASK, action=1, reward=0) | change
    with pytest.raises(SchemaError, match=said):
        factory.transition(views, 0, 0, 1, 0, row)
    assert factory.open_players(1) == []


def test_steps_have_to_rise():
    factory, views = make()
    row = dict(observation=BOARD, action_mask=MASK, action=1, reward=0)
    factory.transition(views, 0, 0, 1, 5, row)
    with pytest.raises(SchemaError, match="does not come after"):
        factory.transition(views, 1, 0, 1, 5, row)
    with pytest.raises(SchemaError, match="does not come after"):
        factory.batch(
            views, 1, 0, np.array([1, 1]), np.array([6, 6]),
            dict(observation=np.stack([BOARD] * 2), action_mask=np.stack([MASK] * 2), action=[1, 2], reward=[0, 0]),
        )  # fmt: skip
    with pytest.raises(SchemaError, match="out of range"):
        factory.transition(views, 1, 2, 1, 0, row)
    with pytest.raises(SchemaError, match="no open rows"):
        factory.final(views, 1, 1, 1, dict(observation=BOARD, action_mask=MASK))


def test_a_batch_equals_its_rows_one_by_one():
    rng = np.random.default_rng(3)
    episodes = np.array([4, 9, 4, 9, 9, 2], np.uint64)
    steps = np.array([0, 0, 1, 2, 3, 7])
    values = dict(
        observation=rng.integers(-9, 9, (6, 2, 2)),
        action_mask=rng.random((6, 10)) < 0.5,
        action=rng.integers(0, 9, 6),
        reward=rng.random(6),
        truncated=np.array([0, 0, 1, 0, 1, 0], bool),
        value=rng.random(6),
    )
    one, singles = make()
    for i in range(6):
        row = {name: given[i] for name, given in values.items()}
        one.transition(singles, i, 1, int(episodes[i]), int(steps[i]), row)
    many, batched = make()
    many.batch(batched, 0, 1, episodes, steps, values)
    for name in singles:
        if name != "time_ns":
            np.testing.assert_array_equal(singles[name][:6], batched[name][:6], err_msg=name)
    assert one._open.keys() == many._open.keys()
    for key, progress in one._open.items():
        assert progress == many._open[key]
