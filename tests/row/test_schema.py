"""Schema: what a row holds, and the two forms of it."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from expkit.errors import SchemaError
from expkit.row.schema import DTYPES, KEY_NAMES, Field, Schema


def test_standard_fields_are_appended_once():
    schema = Schema([Field("observation", "f4", (3,), "observation"), Field("reward", "f8")])
    assert [field.name for field in schema.fields] == ["observation", "reward", "terminated", "truncated"]
    assert schema["reward"].dtype == "f8"


def test_columns_begin_with_the_keys_and_nullable_fields_bring_their_validity():
    schema = Schema([Field("value", "f4", nullable=True)])
    names = [column.name for column in schema.columns]
    assert tuple(names[: len(KEY_NAMES)]) == KEY_NAMES
    assert names[names.index("value") + 1] == "valid:value"


@pytest.mark.parametrize(
    ("field", "said"),
    [
        (dict(name="a b", dtype="f4"), "not usable"),
        (dict(name="a", dtype="c8"), "dtype"),
        (dict(name="a", dtype="f4", shape=(0,)), "positive"),
        (dict(name="a", dtype="f4", shape=(1 << 20, 1 << 20)), "too large"),
        (dict(name="a", dtype="f4", shape=(2,), channels=("x",)), "channel names"),
        (dict(name="a", dtype="f4", shape=(2,), expand=(2, 1)), "expand"),
    ],
)
def test_malformed_fields_are_refused(field, said):
    with pytest.raises(SchemaError, match=said):
        Field(**field)


@pytest.mark.parametrize("names", [["episode"], ["player"], ["x", "x"]])
def test_reserved_and_double_names_are_refused(names):
    with pytest.raises(SchemaError):
        Schema([Field(name, "f4") for name in names])


def test_expanded_mask_repeats_the_bits_and_appends_ones():
    schema = Schema([Field("action_mask", "bool", (5,), "observation", expand=(2, 1))])
    bits = np.array([[1, 0, 1, 1, 0], [0, 0, 0, 0, 1]], bool)
    stored = schema.pack("action_mask", bits, 2)
    assert stored.shape == (2, 1)
    expected = np.concatenate([bits, bits, np.ones((2, 1), bool)], axis=1)
    assert (schema.unpack("action_mask", stored) == expected).all()
    assert (schema.pack("action_mask", expected, 2) == stored).all()


@pytest.mark.parametrize(
    ("dtype", "values"),
    [("u1", [256]), ("u1", [-1]), ("i4", [2**31]), ("i2", [0.5]), ("f4", ["a"]), ("u8", [-1]), ("i8", [2**63])],
)
def test_values_that_do_not_fit_raise_instead_of_wrapping(dtype, values):
    schema = Schema([Field("x", dtype)])
    with pytest.raises(SchemaError):
        schema.pack("x", np.array(values), 1)


def test_wrong_shapes_raise():
    schema = Schema([Field("x", "f4", (2, 3))])
    with pytest.raises(SchemaError, match="shape"):
        schema.pack("x", np.zeros((1, 3, 2)), 1)


def test_groups_stand_for_their_fields():
    schema = Schema([Field("observation/army", "i4", (2,)), Field("observation/owner", "i1", (2,))])
    assert schema.expand_names(["observation"]) == ["observation/army", "observation/owner"]
    with pytest.raises(SchemaError, match="no column"):
        schema.expand_names(["observations"])


def test_json_that_is_no_schema_is_refused():
    for text in (b"{", b"[]", b'{"fields": 3}', b'{"fields": [{"name": "a"}]}', b'{"fields": [{"name": 1}]}'):
        with pytest.raises(SchemaError):
            Schema.from_json(text)


fields = st.builds(
    Field,
    name=st.from_regex(r"[a-z]{1,6}(/[a-z]{1,4})?", fullmatch=True).filter(
        lambda n: n not in (*KEY_NAMES, "player", "run", "reward", "terminated", "truncated")
    ),
    dtype=st.sampled_from(DTYPES),
    shape=st.lists(st.integers(1, 5), max_size=3).map(tuple),
    belongs=st.sampled_from(["observation", "action", "step"]),
    nullable=st.booleans(),
)


@given(st.lists(fields, max_size=6, unique_by=lambda field: field.name))
def test_json_round_trip(listed):
    schema = Schema(listed)
    assert Schema.from_json(schema.to_json()) == schema
    assert Schema.from_json(schema.to_json()).digest == schema.digest


@given(field=fields, rows=st.integers(1, 9), data=st.data())
def test_pack_then_unpack_gives_the_same_values(field, rows, data):
    schema = Schema([field])
    values = data.draw(hnp.arrays(field.numpy_dtype, (rows, *field.shape)))
    stored = schema.pack(field.name, values, rows)
    assert stored.dtype == schema.column(field.name).dtype
    assert stored.nbytes == rows * schema.column(field.name).row_bytes
    np.testing.assert_array_equal(schema.unpack(field.name, stored), values)
