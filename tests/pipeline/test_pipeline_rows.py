"""Row validation and sanitizing, against a twin that looks at one value at a time, and with any values at all."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import reference_pipeline as twin
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from pipeline_rows import SCHEMA, Played, batch_of, played

from expkit import Field, Schema
from expkit.pipeline import Chain, ColumnBatch, Processed

SEEDS = st.integers(0, 2**32 - 1)
FEW = settings(max_examples=60, deadline=None)
ODD = [np.nan, np.inf, -np.inf, 100.0, 100.5, -1e30, 0.0]
CHECKED = ("observation/board", "value", "guess", "action", "reward")


def spoiled(parts: list[Played], seed: int) -> ColumnBatch:
    """Rows of which some values are wrong, also where nothing is given (which counts for nothing)."""
    rows, rng = batch_of(parts, seed), np.random.default_rng(seed)
    columns = dict(rows.columns)
    for name in ("observation/board", "value", "guess", "reward"):
        values = columns[name].copy()
        where = rng.random(values.shape) < 0.08
        values[where] = rng.choice(np.array(ODD, np.float32), int(where.sum()))
        columns[name] = values
    columns["action"] = np.where(rng.random(len(rows)) < 0.1, 12, columns["action"]).astype(np.int32)
    columns["terminated"] = columns["terminated"] | (columns["is_last"] & (rng.random(len(rows)) < 0.1))
    return ColumnBatch(SCHEMA, columns, rows.stretch)


def apply(rows: ColumnBatch, *links, schema=SCHEMA) -> Processed:
    return Chain(links, schema).apply(rows)


@given(parts=played(), seed=SEEDS, wrong=st.sampled_from(["reject", "quarantine"]))
@FEW
def test_validate_leaves_out_every_wrong_row_and_counts_it_once(parts, seed, wrong):
    rows = spoiled(parts, seed)
    expected, kept = Counter[str](), []
    for i in range(len(rows)):
        flags = rows["is_last"][i] and (rows["terminated"][i] or rows["truncated"][i])
        causes = ["action on a last row"] * bool(flags)
        causes += [f"{cause} in {name}" for name in CHECKED for cause in twin.faults(rows, i, name)]
        expected.update(causes[:1])
        kept += [] if causes else [i]
    done = apply(rows, {"kind": "validate", "wrong": wrong})
    assert done.rows.tolist() == kept
    counted, other = done.counts.rejected, done.counts.quarantined
    if wrong == "quarantine":
        counted, other = other, counted
    assert counted == expected
    assert not other
    assert done.counts.filtered == 0
    assert done.quarantined.tolist() == (
        [i for i in range(len(rows)) if i not in kept] if wrong == "quarantine" else []
    )
    for name in done.batch.columns:
        np.testing.assert_array_equal(done.batch[name], rows[name][kept], err_msg=name)
    assert apply(done.batch, "validate").counts.rejected == {}


@given(parts=played(), seed=SEEDS, data=st.data())
@FEW
def test_sanitize_repairs_rejects_or_puts_aside_as_it_is_told(parts, seed, data):
    actions = {cause: data.draw(st.sampled_from(["repair", "reject", "quarantine", "keep"]), cause)
               for cause in ("nan", "infinite", "range")}  # fmt: skip
    rows = spoiled(parts, seed)
    left, rejected, quarantined, repaired, aside = [], Counter[str](), Counter[str](), Counter[str](), []
    for i in range(len(rows)):
        causes = [(cause, name) for name in CHECKED for cause in twin.faults(rows, i, name)]
        repaired.update(f"{cause} in {name}" for cause, name in causes if actions[cause] == "repair")
        out = [(cause, name) for cause, name in causes if actions[cause] in ("reject", "quarantine")]
        if not out:
            left.append(i)
        elif actions[out[0][0]] == "reject":
            rejected[f"{out[0][0]} in {out[0][1]}"] += 1
        else:
            quarantined[f"{out[0][0]} in {out[0][1]}"] += 1
            aside.append(i)
    done = apply(rows, {"kind": "sanitize", "fill": 0.25, **actions})
    assert done.rows.tolist() == left
    assert (done.counts.rejected, done.counts.quarantined, done.counts.repaired) == (rejected, quarantined, repaired)
    assert done.quarantined.tolist() == aside
    for name in CHECKED:
        known, largest = SCHEMA[name], np.finfo(np.float32).max
        low, high = (-largest if known.low is None else known.low), (largest if known.high is None else known.high)
        for place, i in enumerate(left):
            if not rows.given(name)[i]:
                assert not done.batch[name][place].any()
                continue
            for found, value in zip(np.ravel(done.batch[name][place]), np.ravel(rows[name][i]).tolist(), strict=True):
                wanted = value
                if value != value:
                    wanted = 0.25 if actions["nan"] == "repair" else value
                elif abs(value) == np.inf:
                    wanted = min(max(value, low), high) if actions["infinite"] == "repair" else value
                elif actions["range"] == "repair":
                    wanted = min(max(value, low), high)
                np.testing.assert_equal(found, np.asarray(wanted, found.dtype))


@given(parts=played(), seed=SEEDS)
@FEW
def test_what_is_sanitized_is_valid_and_stays_as_it_is(parts, seed):
    rows = spoiled(parts, seed)
    once = apply(rows, "sanitize").batch
    checked = apply(once, "validate")
    assert set(checked.counts.rejected) <= {"action on a last row"}
    again = apply(once, "sanitize")
    assert not again.counts.repaired
    for name in once.columns:
        np.testing.assert_array_equal(again.batch[name], once[name], err_msg=name)


NUMBERS = ["f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8"]


def fits(value: float | int, dtype: np.dtype) -> bool:
    """Whether the dtype holds a value, by Python's own numbers."""
    if value != value or value in (float("inf"), float("-inf")):
        return dtype.kind == "f"
    if dtype.kind != "f":
        limits = np.iinfo(dtype)
        return int(value) == value and int(limits.min) <= int(value) <= int(limits.max)
    with np.errstate(over="ignore"):
        return bool(np.isfinite(np.array([value]).astype(dtype))[0])


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_any_values_of_any_dtype_become_valid_ones_of_any_other(data):
    source, target = (np.dtype(data.draw(st.sampled_from(NUMBERS), what)) for what in ("from", "to"))
    values = data.draw(arrays.arrays(source, st.integers(0, 6)), "values")
    schema = Schema([Field("observation", source.str[1:], belongs="observation")])
    rows = len(values)
    columns = {
        **{name: np.zeros(rows, dtype) for name, dtype in (("episode", "u8"), ("player", "u2"), ("reward", "f4"))},
        **{name: np.zeros(rows, bool) for name in ("is_first", "is_last", "terminated", "truncated")},
        "step": np.arange(rows, dtype=np.uint32), "observation": values,
    }  # fmt: skip
    options = {"kind": "sanitize", "dtype": {"observation": target.str[1:]}, "nan": "keep", "infinite": "keep"}
    expected = [fits(value, target) for value in values.tolist()]
    batch = ColumnBatch(schema, columns)
    done = apply(batch, {**options, "misfit": "reject"}, schema=schema)
    assert done.rows.tolist() == np.flatnonzero(expected).tolist()
    assert sum(done.counts.rejected.values()) == expected.count(False)
    repaired = apply(batch, options, schema=schema)
    found = repaired.batch["observation"]
    assert found.dtype == target
    assert sum(repaired.counts.repaired.values()) == expected.count(False)
    with np.errstate(over="ignore", invalid="ignore"):
        np.testing.assert_array_equal(found[expected], values[expected].astype(target))
    for value, one, good in zip(values.tolist(), found.tolist(), expected, strict=True):
        if not good and value == value:
            limits = np.finfo(target) if target.kind == "f" else np.iinfo(target)
            low, high = (
                (float(limits.min), float(limits.max)) if target.kind == "f" else (int(limits.min), int(limits.max))
            )
            nearest = low if value <= low else high if value >= high else round(value)
            assert abs(one - nearest) <= abs(nearest) * 1e-9  # the largest float below 2^63 is not its largest integer


@given(data=st.binary(max_size=400), bounds=st.tuples(st.floats(), st.floats()))
@settings(max_examples=150, deadline=None)
def test_no_bytes_and_no_bounds_make_a_row_check_fail(data, bounds):
    """Whatever stands in a row and in its schema is repaired or left out, never raised."""
    rows = len(data) // 8
    low, high = min(bounds, default=0.0), max(bounds, default=0.0)
    for dtype in ("f2", "f4", "f8", "i2", "u8"):
        schema = Schema([Field("x", dtype, low=low, high=high), Field("y", dtype, low=low)])
        values = np.frombuffer(data[: rows * 8], np.uint64).astype(np.uint64).view(np.dtype(dtype))[:rows]
        columns = {
            **{name: np.zeros(rows, dtype) for name, dtype in (("episode", "u8"), ("player", "u2"), ("reward", "f4"))},
            **{name: np.zeros(rows, bool) for name in ("is_first", "is_last", "terminated", "truncated")},
            "step": np.arange(rows, dtype=np.uint32), "x": values, "y": values,
        }  # fmt: skip
        batch = ColumnBatch(schema, columns)
        assert len(apply(batch, "sanitize", schema=schema).batch) == rows
        done = apply(batch, "validate", schema=schema)
        assert len(done.batch) + sum(done.counts.rejected.values()) == rows


def test_a_batch_without_faults_is_not_copied():
    rows = batch_of([Played(0, 0, [0, 1, 2], "truncated", False)])
    done = apply(rows, "validate", "sanitize")
    for name in ("observation/board", "value", "reward"):
        assert done.batch[name] is rows[name]


def test_what_is_given_is_never_written_to():
    rows = spoiled([Played(0, 0, list(range(40)), "truncated", False)], 3)
    before = {name: values.copy() for name, values in rows.columns.items()}
    for values in rows.columns.values():
        values.flags.writeable = False
    links = ["sanitize", "frame_stack", "gae", {"kind": "redact", "columns": ["guess"], "how": "zero"}]
    assert len(apply(rows, *links).batch) == len(rows)
    for name, values in rows.columns.items():
        np.testing.assert_array_equal(values, before[name])


def test_a_fill_that_the_field_cannot_hold_becomes_the_nearest_number():
    rows = batch_of([Played(0, 0, [0, 1], "truncated", False)])
    odd = np.array([np.nan, np.nan], np.float32)
    columns = {**rows.columns, "value": odd, "observation/board": np.full((2, 2, 3), np.nan, np.float32)}
    done = apply(ColumnBatch(SCHEMA, columns), {"kind": "sanitize", "fill": 1e300}).batch
    assert (done["value"] == np.finfo(np.float32).max).all()
    assert (done["observation/board"] == 100).all()


@pytest.mark.parametrize("kind", ["validate", "sanitize"])
def test_only_the_columns_named_are_looked_at(kind):
    rows = spoiled([Played(0, 0, list(range(60)), "truncated", False)], 5)
    columns = {**rows.columns, "terminated": np.zeros(len(rows), bool)}
    done = apply(ColumnBatch(SCHEMA, columns, rows.stretch), {"kind": kind, "columns": ["value"]})
    causes = {**done.counts.rejected, **done.counts.repaired}
    assert causes
    assert all(cause.endswith(" in value") for cause in causes)
