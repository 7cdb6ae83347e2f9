"""Gymnasium's spaces as columns of rows, and back."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st
from reference_spaces import reference_row

from expkit import Field, Schema, open_run, wrap
from expkit.errors import SchemaError, UsageError
from expkit.recorder import Recorder
from expkit.spaces.spaces import layout_of
from expkit.validation.validate import validate_run

CAPACITY = 100

_shapes = st.sampled_from([(), (3,), (2, 3)])
_boxes = st.builds(
    lambda shape, kind: spaces.Box(kind[1], kind[2], shape, kind[0]),
    _shapes,
    st.sampled_from([(np.float32, -1, 1), (np.float64, -np.inf, np.inf), (np.uint8, 0, 255), (np.int16, -5, 5)]),
)
_simple = st.one_of(
    _boxes,
    st.builds(lambda n, start: spaces.Discrete(n, start=start), st.integers(1, 9), st.integers(-3, 3)),
    st.sampled_from([spaces.MultiDiscrete([3, 4]), spaces.MultiDiscrete([[2, 3], [4, 5]], start=[[1, 0], [0, -2]])]),
    st.sampled_from([spaces.MultiBinary(3), spaces.MultiBinary([2, 5]), spaces.MultiBinary(9)]),
)
_leaves = st.one_of(
    _simple,
    st.sampled_from([spaces.Text(6), spaces.Text(4, charset="aé☃"), spaces.Text(3, min_length=0, charset="😀x")]),
    st.builds(spaces.Graph, _simple, st.none() | _simple),
)


def _equal(left: Any, right: Any) -> bool:
    """Like data_equivalence of Gymnasium, but for numbers, which its Box gives with and without an array around."""
    if isinstance(right, dict):
        return left.keys() == right.keys() and all(_equal(left[key], right[key]) for key in right)
    if isinstance(right, tuple):
        return isinstance(left, tuple) and len(left) == len(right) and all(map(_equal, left, right))
    same = getattr(left, "dtype", None) == getattr(right, "dtype", None)
    return same and np.array_equal(left, right)


def _is_not_ragged(space: Any) -> bool:
    """Lists of lists of lists need more than a row may have."""
    return all(field.items <= CAPACITY for field in layout_of(space, "x", "observation", CAPACITY).fields)


_spaces = st.recursive(
    _leaves,
    lambda inner: st.one_of(
        st.dictionaries(st.sampled_from(["b", "a", "x.y", "_z"]), inner, min_size=1, max_size=3).map(spaces.Dict),
        st.lists(inner, min_size=1, max_size=3).map(spaces.Tuple),
        st.builds(spaces.Sequence, st.one_of(_simple, st.just(spaces.Text(4))), stack=st.booleans()),
        st.builds(spaces.Sequence, inner.filter(_is_not_ragged), stack=st.booleans()),
        st.lists(inner, min_size=1, max_size=2).map(spaces.OneOf),
    ),
    max_leaves=4,
)


# Gymnasium's, of its own iterate over stacked numbers.
@pytest.mark.filterwarnings("ignore:.*Casting input x to numpy array")
@settings(max_examples=150, deadline=None)
@given(_spaces, st.integers(0, 2**31 - 1), st.integers(1, 5))
def test_values_come_back_from_the_columns_of_a_schema(space: Any, seed: int, rows: int) -> None:
    space.seed(seed)
    values = [space.sample() for _ in range(rows)]
    layout = layout_of(space, "observation", "observation", CAPACITY)
    schema = Schema(layout.fields)
    columns = layout.columns(layout.stack(values), rows)
    stored = {name: schema.unpack(name, schema.pack(name, column, rows)) for name, column in columns.items()}
    batch = layout.values(stored, rows)
    for index, value in enumerate(values):
        back = layout.one(batch, index)
        assert _equal(back, value)
        assert space.contains(back)


@settings(max_examples=80, deadline=None)
@given(
    st.one_of(
        _leaves,
        st.dictionaries(st.sampled_from(["b", "a"]), _leaves, min_size=1).map(spaces.Dict),
        st.builds(spaces.Sequence, _simple, stack=st.booleans()),
        st.builds(spaces.Sequence, st.just(spaces.Text(4)), stack=st.booleans()),
        st.builds(spaces.Sequence, st.just(spaces.Dict(a=spaces.Text(3), b=spaces.Discrete(4))), stack=st.booleans()),
        st.lists(_leaves, min_size=1, max_size=3).map(spaces.OneOf),
    ),
    st.integers(0, 2**31 - 1),
)
def test_the_columns_of_many_values_are_those_of_each(space: Any, seed: int) -> None:
    space.seed(seed)
    values = [space.sample() for _ in range(4)]
    layout = layout_of(space, "observation", "observation", CAPACITY)
    fields = {field.name: field for field in layout.fields}
    columns = layout.columns(layout.stack(values), len(values))
    assert columns.keys() == fields.keys()
    for index, value in enumerate(values):
        wanted = reference_row(space, value, fields, "observation")
        single = layout.row(value)
        for name, array in wanted.items():
            np.testing.assert_array_equal(columns[name][index], array, err_msg=name)
            np.testing.assert_array_equal(single[name], array, err_msg=name)


def test_the_fields_of_a_schema_of_spaces() -> None:
    observation = spaces.Dict(
        board=spaces.Box(0, 255, (3, 3), np.uint8), said=spaces.Text(5), seen=spaces.Sequence(spaces.Box(0, 1, (2,)))
    )
    schema = Schema.from_space(observation, spaces.Discrete(4, start=1), capacity=7)
    assert [(f.name, f.dtype, f.shape, f.belongs, f.ragged) for f in schema.fields] == [
        ("observation/board", "u1", (3, 3), "observation", ""),
        ("observation/said", "u1", (5,), "observation", "observation/said/length"),
        ("observation/said/length", "i4", (), "observation", ""),
        ("observation/seen", "f4", (7, 2), "observation", "observation/seen/length"),
        ("observation/seen/length", "i4", (), "observation", ""),
        ("action", "i8", (), "action", ""),
        ("reward", "f4", (), "step", ""),
        ("terminated", "bool", (), "step", ""),
        ("truncated", "bool", (), "step", ""),
    ]
    assert (schema["action"].low, schema["action"].high) == (1, 4)
    assert Schema.from_json(schema.to_json()) == schema
    assert schema.with_fields(log_prob="f4")["log_prob"].nullable


def test_a_schema_of_an_environment() -> None:
    env = gymnasium.make("CartPole-v1")
    assert Schema.from_env(env) == Schema.from_space(env.observation_space, env.action_space)
    vector = gymnasium.make_vec("CartPole-v1", 2)
    assert Schema.from_env(vector) == Schema.from_env(env)
    vector.close()
    taxi = Schema.from_env(gymnasium.make("Taxi-v4"), action_mask="action_mask")
    assert (taxi["action_mask"].shape, taxi["action_mask"].nullable) == ((6,), True)
    with pytest.raises(UsageError, match="int is no environment"):
        Schema.from_env(3)


def test_a_ragged_field_names_a_field_that_counts() -> None:
    Schema([Field("x", "f4", (3,), ragged="n"), Field("n", "i4")])
    for wrong in (
        [Field("x", "f4", (3,), ragged="n")],
        [Field("x", "f4", (3,), ragged="n"), Field("n", "f4")],
        [Field("x", "f4", (3,), ragged="n"), Field("n", "i4", (2,))],
    ):
        with pytest.raises(SchemaError, match="ragged"):
            Schema(wrong)
    with pytest.raises(SchemaError, match="only a field with a shape"):
        Field("x", "f4", ragged="n")


class _Strange(spaces.Space):
    pass


class Box:
    """As the old gym's, which is not installed."""

    __module__ = "gym.spaces.box"


class Numbers(spaces.Space):
    """A space of somebody's own that says what its values are."""

    def __init__(self) -> None:
        super().__init__((2,), np.float32)

    def sample(self, mask: Any = None, probability: Any = None) -> Any:
        return self.np_random.random(2, np.float32)

    def contains(self, x: Any) -> bool:
        return isinstance(x, np.ndarray) and x.shape == (2,)


class Mission(spaces.Space):
    """As MiniGrid's: text made of words. `any_text`: one that takes everything, as BabyAI's."""

    def __init__(self, words: Any = None, say: Any = lambda: "go", any_text: bool = False):
        self.ordered_placeholders, self.mission_func, self.any_text = words, say, any_text
        super().__init__(dtype=str)

    def sample(self, mask: Any = None, probability: Any = None) -> Any:
        return self.mission_func(*(one[self.np_random.integers(len(one))] for one in self.ordered_placeholders or ()))

    def contains(self, x: Any) -> bool:
        return self.any_text or x.startswith(self.mission_func(*([""] * len(self.ordered_placeholders or ())))[:3])


_TWO = spaces.Discrete(2)
WORDS = Mission([["red", "größte"], ["key", "door"]], lambda *two: f"get the {' '.join(two)}")
SPACES_OF_OTHERS = {
    "keys": spaces.Dict({"my key": _TWO, "a:b": _TWO, "größe": _TWO, ("x", 1): _TWO, "a_b": _TWO, "": spaces.Text(3)}),
    "numbers": spaces.Dict({1: _TWO, "1": _TWO, (): _TWO}),  # type: ignore[dict-item]
    "groups": spaces.Dict({"a/b": _TWO, "a": spaces.Dict(b=_TWO), "t": spaces.Text(3), "t/length": _TWO}),
    "long": spaces.Dict({"x" * 300: _TWO, "x" * 301: _TWO}),
    "length": spaces.Sequence(spaces.Dict(length=_TWO, a=_TWO)),
    "length within": spaces.Sequence(spaces.Dict({"length": spaces.Dict(a=_TWO)}), stack=True),
    "nothing": spaces.Box(0, 1, (0,)),
    "no parts": spaces.Dict({}),
    "some nothing": spaces.Tuple([spaces.Dict({}), spaces.Box(0, 1, (0, 3)), _TWO, spaces.Tuple([])]),
    "nothing many times": spaces.Sequence(spaces.Tuple([spaces.Dict({}), spaces.Box(0, 1, (0,))])),
    "own numbers": Numbers(),
    "words": WORDS,
    "no words": Mission(say=lambda: ""),
    "any text": spaces.Dict(mission=Mission(any_text=True), seen=spaces.Box(0, 1, (2,))),
}  # fmt: skip


class _Showing(gymnasium.Env):
    """Shows samples of a space, and keeps what it showed."""

    def __init__(self, space: Any):
        self.observation_space, self.action_space, self.shown = space, _TWO, []

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        return self.look(), {}

    def look(self) -> Any:
        self.shown.append(self.observation_space.sample())
        return self.shown[-1]

    def step(self, action: Any) -> Any:
        return self.look(), 0.0, False, False, {}


@pytest.mark.parametrize("name", list(SPACES_OF_OTHERS))
def test_spaces_of_others_through_a_recording(name: str, tmp_path: Any) -> None:
    space = SPACES_OF_OTHERS[name]
    space.seed(3)
    inner = _Showing(space)
    env = wrap(inner, tmp_path / "run", min_free=0, memory="8MiB")
    env.reset()
    for _ in range(6):
        env.step(1)
    env.close()
    run = open_run(tmp_path / "run")
    assert not [one for one in validate_run(run) if one.severity == "error"]
    layout = layout_of(space, "observation", "observation")
    batch = layout.values(run.rows(0, 0), 7)
    assert all(_equal(layout.one(batch, at), shown) for at, shown in enumerate(inner.shown))
    names = [field.name for field in run.schema.fields]
    assert len(set(names)) == len(names)


def test_keys_that_cannot_be_names_stand_in_the_schema() -> None:
    fields = {field.meaning: field.name for field in layout_of(SPACES_OF_OTHERS["keys"], "o", "observation").fields}
    assert fields["of the key 'my key'"] == "o/my_key"
    assert fields["of the key 'a:b'"] == "o/a_b_2"
    assert fields[""] == "o/a_b"
    assert fields["of the key 'größe'"] == "o/gr__e"
    assert fields["of the key ('x', 1)"] == "o/x_1"


def test_a_vocabulary_bounds_the_length_of_a_text() -> None:
    room = {name: layout_of(space, "o", "observation", 8).fields[0].shape for name, space in (
        ("words", WORDS), ("one", Mission()), ("any", Mission(any_text=True)))}  # fmt: skip
    assert room == {"words": (len("get the größte door"),), "one": (2,), "any": (32,)}
    with pytest.raises(SchemaError, match="33 entries, and there is room for 32; give a larger capacity"):
        layout_of(Mission(any_text=True), "o", "observation", 8).row("x" * 33)


def test_what_has_no_form_is_refused_in_words() -> None:
    for space, words in (
        (_Strange(), "_Strange is none of Gymnasium's spaces"),
        (None, "says no space"),
        (spaces.Sequence(spaces.Dict({})), "a sequence of nothing"),
        (Box(), "Box is a space of the old gym; give the environment one of gymnasium.spaces"),
    ):
        with pytest.raises(SchemaError, match=words):
            Schema.from_space(space, spaces.Discrete(2))


def test_what_does_not_fit_is_refused_in_words() -> None:
    cases: list[tuple[Any, Any, str]] = [
        (spaces.Sequence(spaces.Discrete(9)), tuple(range(9)), "9 entries, and there is room for 8.*larger capacity"),
        (spaces.Text(3), "four", "4 entries, and there is room for 3.*max_length"),
        (spaces.Text(3), 4, "int is no text"),
        (spaces.Sequence(spaces.Discrete(9)), 4, "int is no sequence"),
        (spaces.Dict(a=spaces.Discrete(2)), {"b": 1}, "keys b; the space has a"),
        (spaces.Dict(a=spaces.Discrete(2)), {}, "no keys|keys"),
        (spaces.Tuple([spaces.Discrete(2)]), (1, 2), "2 parts; the space is a tuple of 1"),
        (spaces.Graph(spaces.Discrete(2), None), 3, "int is no GraphInstance"),
        (spaces.OneOf([spaces.Discrete(2)]), (3, 1), "index 3 is none of its 1 spaces"),
    ]
    for space, value, words in cases:
        with pytest.raises(SchemaError, match=words):
            layout_of(space, "observation", "observation", 8).row(value)


def test_ragged_values_through_a_recording(tmp_path: Any) -> None:
    space = spaces.Dict(said=spaces.Text(8), seen=spaces.Sequence(spaces.Box(-1, 1, (2,)), stack=True), seed=4)
    layout = layout_of(space, "observation", "observation")
    values = [space.sample() for _ in range(11)]
    with Recorder(tmp_path / "run", Schema.from_space(space, spaces.Discrete(2)), min_free=0) as rec:
        for step, value in enumerate(values[:-1]):
            rec.add(episode=0, step=step, action=step % 2, reward=0, terminated=step == 9, **layout.row(value))
        rec.end(episode=0, player=0, **layout.row(values[-1]))
    rows = open_run(tmp_path / "run").rows(0, 0)
    batch = layout.values(rows, 11)
    assert all(_equal(layout.one(batch, i), value) for i, value in enumerate(values))
