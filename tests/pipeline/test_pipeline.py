"""Processors against slow twins over random episodes with gaps, and chains of them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import reference_pipeline as twin
from hypothesis import given, settings
from hypothesis import strategies as st
from pipeline_rows import SCHEMA, Played, batch_of, played

from expkit import Field, Schema
from expkit.errors import ConfigError, ExpkitError, SchemaError, UsageError
from expkit.kernels.backward import sum_backwards
from expkit.pipeline import Chain, ColumnBatch, Columns, Outcome, as_chain, processor, processor_names
from expkit.pipeline.gae import Gae
from expkit.pipeline.kinds import built_in

SEEDS = st.integers(0, 2**32 - 1)
FEW = settings(max_examples=60, deadline=None)


def shortened(parts: list[Played]) -> set[tuple[int, int]]:
    return {(part.episode, part.player) for part in parts if part.missing}


def run(rows: ColumnBatch, *links, schema=SCHEMA) -> ColumnBatch:
    return Chain(links, schema).apply(rows).batch


def column(rows: ColumnBatch, name: str) -> list[float | None]:
    """A nullable column with None where there is no value; what is stored there is zero."""
    assert not rows[name][~rows[f"valid:{name}"]].any()
    return [v if valid else None for v, valid in zip(rows[name].tolist(), rows[f"valid:{name}"].tolist(), strict=True)]


def assert_close(found: list[float | None], expected: list[float | None]) -> None:
    assert [one is None for one in found] == [one is None for one in expected]
    for one, other in zip(found, expected, strict=True):
        if one is not None:
            assert math.isclose(one, other, rel_tol=1e-5, abs_tol=1e-6)


@given(parts=played(), seed=SEEDS)
@FEW
def test_stretches_are_rows_that_follow_each_other(parts, seed):
    rows = batch_of(parts, seed)
    assert rows.stretch.tolist() == twin.number_stretches(twin.neighbours(rows, shortened(parts)))


@given(parts=played(), seed=SEEDS, gamma=st.sampled_from([0.0, 0.5, 0.99, 1.0]), lam=st.sampled_from([0.0, 0.95, 1.0]))
@FEW
def test_gae_is_the_sum_of_its_definition(parts, seed, gamma, lam):
    rows = batch_of(parts, seed)
    following = twin.neighbours(rows, shortened(parts))
    for value in ("value", "guess"):  # of every row, and of some actions
        out = run(rows, {"kind": "gae", "gamma": gamma, "lam": lam, "value": value})
        expected = twin.gae(rows, following, value, gamma, lam)
        assert_close(column(out, "advantage"), expected)
        targets = [None if a is None else a + v for a, v in zip(expected, rows[value].tolist(), strict=True)]
        assert_close(column(out, "value_target"), targets)


def test_gae_bootstraps_a_truncation_with_the_final_row_and_a_termination_with_nothing():
    def advantage(ended, cut=False):
        rows = batch_of([Played(0, 0, [0, 1], ended, cut)])
        columns = {**rows.columns, "value": np.array([2.0, 10.0], np.float32), "reward": np.ones(2, np.float32)}
        return column(run(ColumnBatch(SCHEMA, columns, rows.stretch), {"kind": "gae", "gamma": 0.5}), "advantage")

    assert advantage("terminated") == advantage("both") == [1 - 2, None]
    assert advantage("truncated") == advantage("interrupted") == [1 + 0.5 * 10 - 2, None]
    # Cut off: the second row has an action, too, and nobody knows what it led to.
    assert advantage("interrupted", cut=True) == [1 + 0.5 * 10 - 2, None]


@given(
    parts=played(), seed=SEEDS, gamma=st.sampled_from([0.0, 0.9, 1.0]), value=st.sampled_from([None, "value", "guess"])
)
@FEW
def test_discounted_return_reaches_an_end_or_is_none(parts, seed, gamma, value):
    rows = batch_of(parts, seed)
    out = run(rows, {"kind": "discounted_return", "gamma": gamma, "value": value})
    expected = twin.discounted_return(rows, twin.neighbours(rows, shortened(parts)), gamma, value)
    assert_close(column(out, "discounted_return"), expected)


@given(parts=played(), seed=SEEDS, n=st.integers(1, 12), gamma=st.sampled_from([0.0, 0.9, 1.0]))
@FEW
def test_n_step_returns_stop_at_ends_and_gaps(parts, seed, n, gamma):
    rows = batch_of(parts, seed)
    out = run(rows, {"kind": "n_step", "n": n, "gamma": gamma, "next": ["observation", "mask"]})
    expected = twin.n_step(rows, twin.neighbours(rows, shortened(parts)), n, gamma)
    for place, name in enumerate(("n_step_return", "n_step_discount", "n_step_length")):
        assert_close(column(out, name), [None if one is None else one[place] for one in expected])
    for name in ("observation/board", "observation/seen", "mask"):
        for i, one in enumerate(expected):
            there = one is not None and one[3] is not None
            assert out[f"valid:next/{name}"][i] == there
            wanted = rows[name][one[3]] if there else np.zeros_like(rows[name][i])
            np.testing.assert_array_equal(out[f"next/{name}"][i], wanted)


@given(parts=played(), seed=SEEDS, frames=st.integers(1, 5), padding=st.sampled_from(["first", "zero"]))
@FEW
def test_frames_are_of_one_stretch(parts, seed, frames, padding):
    rows = batch_of(parts, seed)
    names = ["observation/board", "observation/seen", "mask"]
    out = run(rows, {"kind": "frame_stack", "frames": frames, "padding": padding, "columns": names})
    following = twin.neighbours(rows, shortened(parts))
    for name in names:
        np.testing.assert_array_equal(out[name], twin.frame_stack(rows, following, name, frames, padding))
        assert out.schema[name].logical_shape == (frames, *SCHEMA[name].logical_shape)


@given(parts=played(), seed=SEEDS)
@FEW
def test_sample_weights(parts, seed):
    rows = batch_of(parts, seed)
    assert_close(
        column(run(rows, {"kind": "sample_weights", "by": "episode"}), "sample_weight"), twin.episode_weights(rows)
    )
    out = run(rows, {"kind": "sample_weights", "by": "priority", "column": "guess", "alpha": 0.5, "epsilon": 0.01})
    guesses = zip(rows["guess"].tolist(), rows["valid:guess"].tolist(), strict=True)
    assert_close(column(out, "sample_weight"), [(abs(g) + 0.01) ** 0.5 if valid else None for g, valid in guesses])
    out = run(rows, {"kind": "sample_weights", "by": "staleness", "newest": 5, "half_life": 2})
    versions = zip(rows["policy_version"].tolist(), rows["is_last"].tolist(), strict=True)
    expected = [None if last else 0.5 ** (max(5 - version, 0) / 2) for version, last in versions]
    assert_close(column(out, "sample_weight"), expected)


@given(parts=played(), seed=SEEDS)
@FEW
def test_nothing_crosses_rows_that_a_link_before_has_left_out(parts, seed):
    rows = batch_of(parts, seed)
    where = "action < 6 or is_last"
    keep = (rows["action"] < 6) | rows["is_last"]
    left_out = zip(rows["episode"].tolist(), rows["player"].tolist(), keep.tolist(), strict=True)
    gaps = shortened(parts) | {(episode, player) for episode, player, kept in left_out if not kept}
    kept = ColumnBatch(SCHEMA, {name: values[keep] for name, values in rows.columns.items()})
    following = twin.neighbours(kept, gaps)
    chain = Chain(
        [{"kind": "filter", "where": where}, {"kind": "gae", "gamma": 0.9, "lam": 0.5}, "frame_stack"], SCHEMA
    )
    done = chain.apply(rows)
    assert done.rows.tolist() == np.flatnonzero(keep).tolist()
    assert done.counts.filtered == chain.counts.filtered == int((~keep).sum())
    assert done.batch.stretch.tolist() == twin.number_stretches(following)
    assert_close(column(done.batch, "advantage"), twin.gae(kept, following, "value", 0.9, 0.5))
    stacked = twin.frame_stack(kept, following, "observation/board", 4, "first")
    np.testing.assert_array_equal(done.batch["observation/board"], stacked)


@given(parts=played(), seed=SEEDS)
@FEW
def test_one_episode_gives_the_same_alone_as_among_others(parts, seed):
    rows = batch_of(parts, seed)
    links = [{"kind": "filter", "where": "action < 7 or is_last"}, "gae", "discounted_return", "n_step", "frame_stack"]
    together = run(rows, *links)
    for episode, player in {(part.episode, part.player) for part in parts}:
        mine = (rows["episode"] == episode) & (rows["player"] == player)
        alone = run(ColumnBatch(SCHEMA, {n: v[mine] for n, v in rows.columns.items()}, rows.stretch[mine]), *links)
        theirs = (together["episode"] == episode) & (together["player"] == player)
        for name, values in alone.columns.items():
            np.testing.assert_array_equal(values, together[name][theirs], err_msg=name)


def test_sums_run_backwards_and_nothing_leaks_through_a_factor_of_zero():
    values, factors = np.array([1.0, 2.0, np.inf, 4.0]), np.array([0.5, 0.0, 0.25, 9.0])
    out = np.empty(4)
    sum_backwards(values, factors, out)
    assert out.tolist() == [1 + 0.5 * 2, 2, np.inf, 4 + 0]


def test_redaction_removes_columns_or_their_values():
    rows = batch_of([Played(0, 0, [0, 1, 2], "terminated", False)])
    out = run(rows, {"kind": "redact", "columns": ["observation", "guess"]})
    assert [name for name in out.columns if "observation" in name or "guess" in name] == []
    assert "observation/board" not in out.schema
    out = run(rows, {"kind": "redact", "columns": ["mask", "guess", "reward"], "how": "zero"})
    assert not any(out[name].any() for name in ("mask", "guess", "valid:guess", "reward"))
    assert out["mask"].shape == rows["mask"].shape
    with pytest.raises(SchemaError, match="every row has reward; set it to zero"):
        Chain([{"kind": "redact", "columns": ["reward"]}], SCHEMA)


@processor(reads=["reward"], makes=[Field("bonus", "f4")], changes=["reward"])
def doubled(rows):
    return {"reward": rows["reward"] * 2, "bonus": rows["reward"] + 1}


class Every:
    """Keeps every n-th row: a processor as a class, made with options."""

    whole_episodes = False
    leaves_out = True

    def __init__(self, n: int = 2):
        self.n = n

    def declare(self, schema: Schema) -> Columns:
        return Columns()

    def process(self, rows: ColumnBatch) -> Outcome:
        return Outcome(keep=rows["step"] % self.n == 0)


def test_your_own_by_module_and_name_with_options():
    rows = batch_of([Played(0, 0, [0, 1, 2, 3], "terminated", False)])
    out = run(rows, "test_pipeline:doubled", {"kind": "test_pipeline:Every", "n": 3})
    assert out["step"].tolist() == [0, 3]
    np.testing.assert_array_equal(out["reward"], rows["reward"][[0, 3]] * 2)
    # Its last row has no action: what the function gave there does not count.
    assert out["bonus"].tolist() == [np.float32(rows["reward"][0] + 1), 0]
    assert doubled(rows)["bonus"].shape == (4,)
    assert run(rows, Every(2))["step"].tolist() == [0, 2]


def test_an_entry_point_is_a_kind(tmp_path, monkeypatch):
    installed = tmp_path / "other-1.0.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: other\nVersion: 1.0\n")
    (installed / "entry_points.txt").write_text("[expkit.processors]\nevery = test_pipeline:Every\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert processor_names()[-1] == "every"
    rows = batch_of([Played(0, 0, [0, 1, 2, 3], "terminated", False)])
    assert run(rows, {"kind": "every", "n": 3})["step"].tolist() == [0, 3]
    with pytest.raises(ConfigError, match="no processor is called 'evry'; did you mean every"):
        Chain(["evry"], SCHEMA)


@pytest.mark.parametrize(
    ("link", "error", "says"),
    [
        ("sanitise", ConfigError, "link 1: no processor is called 'sanitise'; did you mean sanitize?"),
        ({"kind": "gae", "lamda": 1}, ConfigError, "link 1: gae has no option 'lamda'; did you mean lam?"),
        ({"kind": "gae", "gamma": 1.5}, ConfigError, "link 1: gae: Expected `float` <= 1.0 at `gamma`"),
        ({"kind": "gae", "value": "vale"}, SchemaError, "no field 'vale'"),
        ({"kind": "gae", "value": "observation/board"}, SchemaError, "one number a row is needed"),
        ({"gamma": 1}, ConfigError, "a link is a kind, or a mapping with a kind"),
        (7, ConfigError, "a link is a kind"),
        ({"kind": "filter", "where": "length > 3"}, UsageError, "length is known only when an episode is over"),
        ({"kind": "filter", "where": "reward >"}, UsageError, "filter where"),
        ({"kind": "frame_stack", "columns": ["action"]}, SchemaError, "action belongs to the action"),
        (
            {"kind": "sample_weights", "by": "priority"},
            ConfigError,
            "link 1: sample_weights: by priority it needs the column",
        ),
        ({"kind": "sanitize", "dtype": {"value": "f3"}}, ConfigError, "'f3' of value is not one of"),
        ({"kind": "sanitize", "fill": float("nan")}, ConfigError, "fill is nan"),
        ({"kind": "sample_weights", "by": "staleness", "newest": 2**70}, ConfigError, "sample_weights: "),
        ("nowhere:thing", UsageError, "no module 'nowhere'"),
        ({"kind": "test_pipeline:doubled", "n": 1}, ConfigError, "takes no options"),
        ({"kind": "test_pipeline:Every", "m": 1}, ConfigError, "could not be made"),
        ("test_pipeline:shortened", ConfigError, "could not be made"),
    ],
)
def test_a_link_that_is_wrong_is_refused_in_one_line(link, error, says):
    with pytest.raises(error) as caught:
        Chain([link], SCHEMA)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@processor(leaves_out=True)
def miscounting(rows):
    return Outcome(rejected={"odd": 1})


@processor(leaves_out=True)
def forgetting(rows):
    return Outcome(keep=rows["step"] > 0, quarantined={"odd": 1})


@pytest.mark.parametrize(
    ("own", "says"),
    [
        (processor(makes=[Field("a", "f4")])(lambda rows: {}), "the column a was declared and is not given"),
        (processor()(lambda rows: {"a": rows["step"]}), "the column a was not declared"),
        (processor(makes=[Field("a", "f4", (2,))])(lambda rows: {"a": rows["step"]}), "a has shape (3,)"),
        (processor(makes=[Field("a", "u1")])(lambda rows: {"a": rows["step"] + 300}), "a value does not fit uint8"),
        (processor()(lambda rows: Outcome(keep=rows["step"] > 0)), "leaves out rows, which it does not declare"),
        (processor(leaves_out=True)(lambda rows: Outcome(keep=rows["step"])), "keep is uint32 (3,)"),
        (miscounting, "counts 1 rows as left out for a cause, but leaves out 0"),
        (forgetting, "counts 1 rows as left out for a cause, but leaves out 1 and puts aside 0"),
    ],
)
def test_a_processor_that_breaks_its_word_is_named(own, says):
    with pytest.raises(SchemaError) as caught:
        run(batch_of([Played(0, 0, [0, 1, 2], "terminated", False)]), own)
    assert says in str(caught.value)
    assert str(caught.value).startswith("test_pipeline:") or "does not fit" in str(caught.value)


def test_what_a_processor_declares_has_to_fit_the_fields_before_it():
    for own, says in (
        (processor(makes=[Field("value", "f4")])(dict), "there is a field value already"),
        (processor(changes=["nothing"])(dict), "no column 'nothing'"),
        (processor(removes=["terminated"])(dict), "every row has terminated"),
        (processor(reads=["nothing"])(dict), "no column 'nothing'"),
    ):
        with pytest.raises(SchemaError, match=says):
            Chain([own], SCHEMA)
    chain = Chain(["validate"], SCHEMA)
    assert as_chain(chain, SCHEMA) is chain
    with pytest.raises(SchemaError, match="another schema"):
        as_chain(chain, Schema([]))


def test_only_what_is_needed_is_asked_for():
    chain = Chain(["gae", {"kind": "redact", "columns": ["mask"]}], SCHEMA)
    assert chain.needs(["advantage"]) == ["value", "reward", "terminated", "truncated"]
    assert chain.needs(["action", "observation/seen"]) == [
        "observation/seen", "value", "action", "reward", "terminated", "truncated",
    ]  # fmt: skip
    assert "mask" not in chain.needs()
    assert chain.whole_episodes == ["gae"]
    with pytest.raises(SchemaError, match="no column 'mask'"):
        chain.needs(["mask"])


def test_a_name_that_is_taken_out_may_be_made_anew():
    taken = {"kind": "redact", "columns": ["value"]}
    anew = processor(reads=["reward"], makes=[Field("value", "f8", belongs="observation")])(
        lambda rows: {"value": rows["reward"] * 3.0}
    )
    chain = Chain([taken, anew, {"kind": "gae", "gamma": 0.5}], SCHEMA)
    assert "value" not in chain.needs(["advantage"])
    assert chain.needs(()) == ["reward", "terminated", "truncated"]
    rows = batch_of([Played(0, 0, [0, 1, 2], "terminated", False)])
    np.testing.assert_array_equal(chain.apply(rows).batch["value"], rows["reward"] * 3.0)


def test_a_chain_describes_itself_as_settings_would_have_it():
    chain = Chain([doubled, Gae(gamma=0.5), "test_pipeline:Every", {"kind": "redact", "columns": ["mask"]}], SCHEMA)
    names = [link if isinstance(link, str) else link["kind"] for link in chain.describe()]
    assert names == chain.names == ["test_pipeline:doubled", "gae", "test_pipeline:Every", "redact"]
    assert Chain(chain.describe(), SCHEMA).schema == chain.schema
    assert chain.describe()[1]["gamma"] == 0.5


@given(parts=played(), values=st.lists(st.floats(width=32), min_size=1, max_size=20))
@FEW
def test_no_value_makes_a_processor_fail_or_warn(parts, values):
    rows = batch_of(parts)
    odd = np.resize(np.array(values, np.float32), len(rows))
    columns = {**rows.columns, "value": odd, "reward": np.where(rows["is_last"], 0, odd[::-1]).astype(np.float32)}
    weights = {"kind": "sample_weights", "by": "priority", "column": "advantage", "alpha": 3}
    links = ["gae", {"kind": "discounted_return", "value": "value"}, "n_step", weights]
    assert len(run(ColumnBatch(SCHEMA, columns, rows.stretch), *links)) == len(rows)


NAMES = [*(field.name for field in SCHEMA.fields), "observation", "step", "player", "nothing"]
SMALL = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 9), st.integers(), st.floats(), st.floats(0, 1), st.sampled_from(NAMES),
    st.sampled_from(["reject", "repair", "quarantine", "keep", "zero", "first", "priority", "staleness", "episode"]),
    st.sampled_from(["reward > 0", "step % 2 == 0 or is_last", "mask[6]", "guess is null", "f2", "u1"]),
)  # fmt: skip
VALUES = st.one_of(SMALL, st.lists(SMALL, max_size=3), st.dictionaries(st.sampled_from(NAMES), SMALL, max_size=2))


def test_whatever_options_say_they_are_refused_in_one_line_or_they_work():
    refusals: list[str] = []
    try_options(refusals)
    assert refusals
    assert not [said for said in refusals if "\n" in said]


@given(data=st.data(), parts=played())
@settings(max_examples=600, deadline=None)
def try_options(refusals, data, parts):
    kind = data.draw(st.sampled_from(list(built_in())), "kind")
    needed = {"filter": {"where": "reward > 0"}, "redact": {"columns": ["mask"]}, "sample_weights": {"by": "episode"}}
    names = st.sampled_from([*built_in()[kind].__struct_fields__, *(["other"] if data.draw(st.booleans()) else [])])
    options = data.draw(st.dictionaries(names, VALUES, max_size=2), "options")
    try:
        chain = Chain([{"kind": kind, **needed.get(kind, {}), **options}], SCHEMA)
    except ExpkitError as error:
        refusals.append(str(error))
        return
    rows = batch_of(parts)
    done = chain.apply(rows)
    assert done.batch.schema == chain.schema
    assert {name for name in done.batch.columns if name in chain.schema} == {f.name for f in chain.schema.fields}
    for known in chain.schema.fields:
        values = done.batch[known.name]
        assert values.dtype == known.numpy_dtype
        assert values.shape == (len(done.rows), *known.logical_shape)
        stored = chain.schema.pack(known.name, values, len(values))
        np.testing.assert_array_equal(chain.schema.unpack(known.name, stored), values)


def test_an_empty_batch_goes_through_everything():
    rows = batch_of([Played(0, 0, [0], "terminated", False, frozenset([0]))])
    assert len(rows) == 0
    row_by_row = ["validate", "sanitize", {"kind": "filter", "where": "reward > 0"}]
    whole = ["gae", "discounted_return", {"kind": "n_step", "next": ["observation"]}, "frame_stack"]
    links = [*row_by_row, *whole, {"kind": "sample_weights", "by": "episode"}]
    assert len(run(rows, *links)) == 0
