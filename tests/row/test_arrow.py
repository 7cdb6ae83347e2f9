"""The bridge to Arrow: what a run says, as record batches, and the same arrays again from them."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from written_runs import BOARD_SCHEMA, VECTOR_SCHEMA, write_boards, write_vectors

from expkit import Field, Recorder, Schema, open_run
from expkit.errors import SchemaError
from expkit.queries import ask
from expkit.row import arrow
from expkit.row.schema import DTYPES

EVERY_KIND = Schema(
    [
        Field("observation/board", "i4", (3, 4), "observation", unit="armies", meaning="a board", low=0, high=9),
        Field("observation/planes", "f4", (2, 3, 4), "observation", channels=("own", "their")),
        Field("observation/seen", "bool", (3, 5), "observation"),
        Field("action_mask", "bool", (7,), "observation", expand=(2, 1)),
        Field("action", "u4", belongs="action"),
        Field("log_prob", "f4", belongs="action", nullable=True),
        Field("value/by_head", "f8", (3,), belongs="action", nullable=True),
        *(Field(f"kind/{dtype}", dtype) for dtype in DTYPES),
    ]
)


@pytest.fixture(scope="module")
def boards(tmp_path_factory) -> Path:
    return write_boards(tmp_path_factory.mktemp("arrow") / "boards")


@pytest.fixture(scope="module")
def vectors(tmp_path_factory) -> Path:
    return write_vectors(tmp_path_factory.mktemp("arrow") / "vectors")


def some_rows(schema: Schema, rows: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Arrays as `Run.scan` gives them, of random values; absent ones are zero."""
    rng = np.random.default_rng(seed)
    batch: dict[str, np.ndarray] = {name: np.arange(rows).astype(kind) for name, kind in KEYS.items()}
    batch["is_last"] = np.arange(rows) % 5 == 4
    for field in schema.fields:
        values = rng.integers(0, 2 if field.dtype == "bool" else 100, (rows, *field.logical_shape))
        batch[field.name] = values.astype(field.numpy_dtype)
        if field.nullable:
            valid = batch[f"valid:{field.name}"] = (rng.random(rows) < 0.7) & ~batch["is_last"]
            batch[field.name][~valid] = 0
        if field.belongs != "observation":
            batch[field.name][batch["is_last"]] = 0
    return batch


KEYS = {
    "episode": "u8", "player": "u2", "step": "u4", "policy": "u2", "policy_version": "u4", "time_ns": "i8",
    "is_first": "?", "is_last": "?",
}  # fmt: skip


def slow_value(batch: dict[str, np.ndarray], schema: Schema, name: str, row: int):
    """What Arrow should give for a value, the obvious way."""
    if name in schema:
        field = schema[name]
        if field.nullable and not batch[f"valid:{name}"][row]:
            return None
        if field.belongs != "observation" and batch["is_last"][row]:
            return None
    return batch[name][row].tolist()


def assert_same(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> None:
    assert one.keys() == other.keys()
    for name, values in one.items():
        assert values.dtype == other[name].dtype, name
        np.testing.assert_array_equal(values, other[name], err_msg=name)


@pytest.mark.parametrize("rows", [0, 1, 8, 23])
def test_every_value_is_the_one_of_the_row(rows):
    batch = some_rows(EVERY_KIND, rows)
    made = arrow.record_batch(batch, arrow.arrow_schema(EVERY_KIND))
    made.validate(full=True)
    assert made.schema.names == [*KEYS, *(field.name for field in EVERY_KIND.fields)]
    for name, column in zip(made.schema.names, made.columns, strict=True):
        assert column.to_pylist() == [slow_value(batch, EVERY_KIND, name, row) for row in range(rows)], name


@pytest.mark.parametrize("rows", [0, 1, 8, 23])
def test_back_from_arrow_the_arrays_are_the_same(rows):
    batch = some_rows(EVERY_KIND, rows)
    made = arrow.record_batch(batch, arrow.arrow_schema(EVERY_KIND))
    assert_same(arrow.batch_from_arrow(made), batch)
    for begin, length in ((3, 11), (rows, 0)):
        part = arrow.batch_from_arrow(made.slice(begin, length))
        assert_same(part, {name: values[begin : begin + length] for name, values in batch.items()})


@given(
    hnp.array_shapes(min_dims=0, max_dims=3, max_side=5),
    st.sampled_from(DTYPES),
    st.integers(0, 9),
    st.integers(0, 4),
    st.integers(0, 1 << 20),
)
@settings(max_examples=60, deadline=None)
def test_any_shape_and_dtype_survives(shape, dtype, rows, skip, seed):
    schema = Schema([Field("x", dtype, tuple(shape), nullable=bool(seed % 2))])
    batch = some_rows(schema, rows, seed)
    made = arrow.record_batch(batch, arrow.arrow_schema(schema)).slice(skip)
    made.validate(full=True)
    assert_same(arrow.batch_from_arrow(made), {name: values[skip:] for name, values in batch.items()})


def test_the_schema_comes_back_whole():
    for schema in (EVERY_KIND, BOARD_SCHEMA, VECTOR_SCHEMA):
        assert arrow.schema_from_arrow(arrow.arrow_schema(schema)) == schema


def test_the_schema_survives_a_parquet_file():
    batch = some_rows(EVERY_KIND, 23)
    table = pa.Table.from_batches([arrow.record_batch(batch, arrow.arrow_schema(EVERY_KIND))])
    file = io.BytesIO()
    pq.write_table(table, file)
    again = pq.read_table(io.BytesIO(file.getvalue()))
    assert arrow.schema_from_arrow(again.schema) == EVERY_KIND
    assert_same(arrow.batch_from_arrow(again.combine_chunks().to_batches()[0]), batch)


def test_numbers_of_arrays_are_not_copied():
    batch = some_rows(EVERY_KIND, 23)
    made = arrow.record_batch(batch, arrow.arrow_schema(EVERY_KIND, ["observation/planes", "episode"]))
    again = arrow.batch_from_arrow(made)
    for name in ("observation/planes", "episode"):
        assert np.shares_memory(again[name], batch[name])


def test_the_metadata_says_what_the_schema_says():
    shape = arrow.arrow_schema(EVERY_KIND)
    board = shape.field("observation/board")
    assert board.type == pa.list_(pa.field("item", pa.list_(pa.field("item", pa.int32(), False), 4), False), 3)
    told = {key.decode(): value.decode() for key, value in board.metadata.items()}
    assert told["expkit:unit"] == "armies"
    assert told["expkit:meaning"] == "a board"
    assert told["expkit:shape"] == "[3,4]"
    assert told["expkit:high"] == "9"
    assert shape.field("observation/planes").metadata[b"expkit:channels"] == b'["own","their"]'
    assert not board.nullable
    assert shape.field("action").nullable  # on last rows
    assert not arrow.arrow_schema(EVERY_KIND, rows="transitions").field("action").nullable


@pytest.mark.parametrize("rows", ["transitions", "all"])
def test_a_run_as_a_stream(boards, vectors, rows):
    for path in (boards, vectors):
        with open_run(path) as run, open_run(path) as other:
            stream = run.arrow(rows=rows, batch_size=7)
            assert isinstance(stream, pa.RecordBatchReader)
            assert arrow.schema_from_arrow(stream.schema) == run.schema
            batches = [arrow.batch_from_arrow(batch) for batch in stream]
            plain = list(other.scan(rows=rows, batch_size=7))
            assert len(batches) == len(plain) > 1
            for one, two in zip(batches, plain, strict=True):
                assert_same(one, two)


def test_columns_are_those_that_are_asked_for(boards):
    with open_run(boards) as run:
        table = run.arrow(["reward", "observation/total_army", "episode"]).read_all()
        assert table.column_names == ["reward", "observation/total_army", "episode"]
        assert run.arrow(["observation"]).schema.names[0] == "observation/army"
        with pytest.raises(SchemaError, match="no column 'rewrd'"):
            run.arrow(["rewrd"])


def test_what_did_not_come_from_a_run_has_fields_too():
    foreign = pa.schema(
        [
            ("episode", pa.int64()),
            ("step", pa.int32()),
            ("observation", pa.list_(pa.float32(), 4)),
            ("action", pa.int64()),
            pa.field("reward", pa.float64(), nullable=False),
            ("done", pa.bool_()),
        ]
    )
    schema = arrow.schema_from_arrow(foreign)
    assert [(f.name, f.dtype, f.shape, f.belongs, f.nullable) for f in schema.fields[:4]] == [
        ("observation", "f4", (4,), "observation", True),
        ("action", "i8", (), "action", True),
        ("reward", "f8", (), "step", False),
        ("done", "bool", (), "step", True),
    ]
    with pytest.raises(SchemaError, match="column name: string is no number"):
        arrow.schema_from_arrow(pa.schema([("name", pa.string())]))


def test_values_of_other_types_are_taken_where_they_fit():
    schema = Schema([Field("x", "i2", (2,), "observation", nullable=True), Field("flag", "bool")])
    batch = pa.record_batch(
        {
            "episode": pa.array([1, 2, 3], pa.int64()),
            "x": pa.array([[1, 2], None, [3, 4]], pa.list_(pa.int64())),
            "flag": pa.array([0, 1, 1], pa.int8()),
        }
    )
    taken = arrow.batch_from_arrow(batch, schema)
    assert taken["episode"].dtype == np.uint64
    assert taken["x"].tolist() == [[1, 2], [0, 0], [3, 4]]
    assert taken["x"].dtype == np.int16
    assert taken["valid:x"].tolist() == [True, False, True]
    assert taken["flag"].tolist() == [False, True, True]


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (pa.array([[1], [2, 3]]), "lists of varying length where 2 are wanted"),
        (pa.array([[1, 2, 3]], pa.list_(pa.int8(), 3)), "lists of 3 where 2 are wanted"),
        (pa.array([1]), "int64 where lists of 2 are wanted"),
        (pa.array([[1, 70000]]), "x: a value does not fit int16"),
        (pa.array([["a", "b"]]), "string where numbers are wanted"),
    ],
)
def test_values_that_do_not_fit_are_refused(column, message):
    schema = Schema([Field("x", "i2", (2,))])
    with pytest.raises(SchemaError, match=message):
        arrow.batch_from_arrow(pa.record_batch({"x": column}), schema)


RAGGED = Schema(
    [
        Field("text/length", "u2", (), "observation"),
        Field("text", "u1", (6,), "observation", ragged="text/length"),
        Field("count", "i4", nullable=True),
        Field("pairs", "f4", (4, 2), ragged="count", nullable=True),
    ]
)


def ragged_rows(rows: int) -> dict[str, np.ndarray]:
    batch = some_rows(RAGGED, rows)
    for name, counts in (("text", batch["text/length"]), ("pairs", batch["count"])):
        most = RAGGED[name].shape[0]
        counts %= most + 1
        batch[name][np.arange(most) >= counts[:, None]] = 0
    batch["valid:pairs"] &= batch["valid:count"]
    batch["pairs"][~batch["valid:pairs"]] = 0
    return batch


@pytest.mark.parametrize("rows", [0, 1, 23])
def test_ragged_fields_are_lists_of_what_counts(rows):
    batch = ragged_rows(rows)
    made = arrow.record_batch(batch, arrow.arrow_schema(RAGGED, lists=True))
    made.validate(full=True)
    assert arrow.schema_from_arrow(made.schema) == RAGGED
    for row in range(rows):
        assert made["text"][row].as_py() == batch["text"][row][: batch["text/length"][row]].tolist()
        wanted = batch["pairs"][row][: batch["count"][row]].tolist() if batch["valid:pairs"][row] else None
        assert made["pairs"][row].as_py() == wanted
    assert_same(arrow.batch_from_arrow(made), batch)
    assert_same(arrow.batch_from_arrow(made.slice(2, 9)), {name: values[2:11] for name, values in batch.items()})
    for schema in (RAGGED, None):
        alone = arrow.batch_from_arrow(made.select(["text"]), schema)
        np.testing.assert_array_equal(alone["text/length"], batch["text/length"])
    whole = arrow.record_batch(batch, arrow.arrow_schema(RAGGED))
    assert whole["text"].type.list_size == 6
    assert_same(arrow.batch_from_arrow(whole), batch)


def test_lists_that_are_too_long_are_refused():
    with pytest.raises(SchemaError, match="a list of 7 where at most 6 are wanted"):
        arrow.batch_from_arrow(pa.record_batch({"text": pa.array([[1] * 7])}), RAGGED)


def test_ragged_fields_of_a_run(tmp_path):
    with Recorder(tmp_path / "run", RAGGED, min_free=0) as recorder:
        for step in range(5):
            text = {"text": np.pad(np.arange(1, step + 1), (0, 6 - step)), "text/length": step}
            recorder.add(episode=0, step=step, reward=0.0, truncated=step == 4, **text)
    with open_run(tmp_path / "run") as run:
        wanted = [list(range(1, step + 1)) for step in range(5)]
        assert run.arrow(["text"]).read_all()["text"].to_pylist() == wanted
        assert run.query("SELECT text FROM steps ORDER BY step")["text"].to_pylist() == wanted
        assert run.query("SELECT sum(len(text)) AS n FROM rows WHERE len(text) > 2").to_pylist() == [{"n": 7}]
        assert run.query("step >= 0", columns=["text"])["text"].to_pylist() == wanted
        with ask([run], "step >= 0", columns=["text"]) as answer:
            assert [row[-1] for part in answer.values() for row in zip(*part, strict=True)] == wanted
            assert [column.type for column in answer.columns if column.name == "text"] == [
                str(run.arrow(["text"]).schema.field("text").type)
            ]
