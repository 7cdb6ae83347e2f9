"""Reading through a pipeline, in order and shuffled, against all rows of the run put through it at once."""

from __future__ import annotations

import shutil
import tracemalloc
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import reference_pipeline as twin
from pipeline_rows import SCHEMA
from pipeline_runs import WHOLE, by_key, joined, write
from written_runs import flip_bit

from expkit import Field, Recorder, Schema, open_run
from expkit.errors import ConfigError, SchemaError, ShardError, UsageError
from expkit.formats.shard.pool import POOL
from expkit.pipeline import Chain, ColumnBatch, processor
from expkit.reading.run import Run
from expkit.rewrite.compact import compact

ROW_BY_ROW = [{"kind": "sanitize", "nan": "reject"}, {"kind": "filter", "where": "action != 3 or is_last"}]
GAPS = {"kind": "filter", "where": "step % 11 != 5"}


@pytest.fixture(scope="module")
def path(tmp_path_factory) -> Path:
    return write(tmp_path_factory.mktemp("reading") / "run")


@pytest.fixture(scope="module")
def gappy(tmp_path_factory) -> Path:
    """The same with rows left out while it was recorded."""
    return write(tmp_path_factory.mktemp("reading") / "gappy", pipeline=[GAPS])


def at_once(run: Run, links, rows: str = "transitions") -> dict[str, np.ndarray]:
    """All rows of the run, sorted, through a chain in one batch; episodes of which rows are missing are told by their
    end records."""
    everything = by_key(joined(list(run.scan(rows="all"))))
    batch = ColumnBatch(run.schema, everything)
    lacking = set()
    for episode in run.episodes():
        for player, produced in episode.end.rows.items():
            if episode.rows.get(int(player), 0) != produced:
                lacking.add((episode.number, int(player)))
    stretch = np.array(twin.number_stretches(twin.neighbours(batch, lacking)), np.int64)
    done = Chain(links, run.schema).apply(ColumnBatch(run.schema, everything, stretch)).batch
    keep = np.ones(len(done), bool) if rows == "all" else ~done["is_last"]
    return {name: values[keep] for name, values in done.columns.items()}


def next_is_same(rows: dict[str, np.ndarray]) -> np.ndarray:
    """bool (rows,): whether the next row is one of the same player's episode."""
    out = np.zeros(len(rows["step"]), bool)
    out[:-1] = (rows["episode"][1:] == rows["episode"][:-1]) & (rows["player"][1:] == rows["player"][:-1])
    return out


def assert_same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert found.keys() == expected.keys()
    for name, values in found.items():
        np.testing.assert_array_equal(values, expected[name], err_msg=name)
        assert values.dtype == expected[name].dtype


@pytest.mark.parametrize("links", [ROW_BY_ROW, WHOLE, [*ROW_BY_ROW, *WHOLE]], ids=["rows", "whole", "both"])
@pytest.mark.parametrize("which", ["path", "gappy"])
def test_every_way_of_reading_gives_the_rows_of_one_batch(request, monkeypatch, links, which):
    monkeypatch.setattr("expkit.batches.processed.BATCH_BYTES", 6000)  # waves of a few episodes each
    with open_run(request.getfixturevalue(which)) as run:
        assert len(run.shards) > 2
        expected = at_once(run, links)
        for size, threads in ((None, 1), (7, 3), (10_000, 2)):
            parts = list(run.scan(batch_size=size, threads=threads, pipeline=links))
            sizes = [len(part["step"]) for part in parts]
            assert size is None or sizes[:-1] == [size] * (len(sizes) - 1)
            assert len(parts) > 5 or size == 10_000
            assert_same(by_key(joined(parts)), expected)
        assert_same(by_key(joined(list(run.scan(rows="all", pipeline=links)))), at_once(run, links, "all"))
        mixed = [joined(list(run.shuffled(16, seed=1, epoch=e, memory=6000, pipeline=links))) for e in (0, 0, 1)]
        assert_same(by_key(mixed[0]), expected)
        assert_same(mixed[0], mixed[1])
        assert (mixed[0]["step"] != mixed[2]["step"]).any()
        threaded = joined(list(run.shuffled(16, seed=1, memory=6000, pipeline=links, threads=3)))
        assert_same(threaded, mixed[0])


def test_whole_episodes_come_in_order_and_alike_after_a_compaction(path, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(path, copy)
    with open_run(copy) as run:
        before = joined(list(run.scan(rows="all", pipeline=WHOLE)))
        assert_same(before, by_key(before))
    compact(copy)
    with open_run(copy) as run:
        assert_same(joined(list(run.scan(rows="all", pipeline=WHOLE))), before)


def test_gaps_are_where_rows_are_missing_not_where_players_take_turns(path, gappy):
    with open_run(path) as run:
        rows = joined(list(run.scan(pipeline=["gae"])))
    everywhere = by_key(rows)
    # Whoever has a next row has an advantage, also the player of every other step.
    assert everywhere["valid:advantage"][next_is_same(everywhere)].all()
    assert (everywhere["player"] == 1).sum() > 20
    with open_run(gappy) as run:
        rows = by_key(joined(list(run.scan(rows="all", pipeline=["gae"]))))
    before_gap = next_is_same(rows) & (rows["player"] == 0) & (np.diff(rows["step"], append=0).astype(int) != 1)
    assert before_gap.sum() > 5
    assert not rows["valid:advantage"][before_gap].any()


def test_a_run_that_was_recorded_without_its_rows_reads_like_one_that_is_filtered_on_reading(path, gappy):
    with open_run(path) as whole, open_run(gappy) as thin:
        expected = joined(list(whole.scan(rows="all", pipeline=[GAPS, *WHOLE])))
        found = joined(list(thin.scan(rows="all", pipeline=WHOLE)))
    for name, values in found.items():
        if name != "time_ns":
            np.testing.assert_array_equal(values, expected[name], err_msg=name)


def test_columns_are_those_that_come_out_and_only_what_is_needed_is_read(path):
    with open_run(path) as run:
        chain = Chain(["gae", {"kind": "redact", "columns": ["mask"]}], run.schema)
        batch = next(run.scan(["advantage", "action"], pipeline=chain))
        fields = {name for name in batch if name in chain.schema}
        assert fields == {"advantage", "action"}
        assert "valid:advantage" in batch
        with pytest.raises(SchemaError, match="no column 'mask'"):
            list(run.scan(["mask"], pipeline=chain))
        with pytest.raises(SchemaError, match="no column 'mask'"):
            list(run.shuffled(columns=["mask"], pipeline=chain))


def test_a_chain_counts_what_it_left_out(path):
    with open_run(path) as run:
        expected = Chain(ROW_BY_ROW, run.schema)
        expected.apply(ColumnBatch(run.schema, joined(list(run.scan(rows="all")))))
        for links in (ROW_BY_ROW, [*ROW_BY_ROW, "gae"]):
            chain = Chain(links, run.schema)
            rows = sum(len(batch["step"]) for batch in run.scan(rows="all", pipeline=chain, threads=2))
            assert chain.counts == expected.counts
            assert rows + chain.counts.filtered + chain.counts.rejected.total() == len(run)
            assert chain.counts.rejected["nan in observation/board"] > 3


def test_your_own_processor_sees_whole_episodes(path):
    @processor(reads=["reward"], makes=[Field("so_far", "f4")], whole_episodes=True)
    def so_far(rows):
        out = np.zeros(len(rows))
        for number in np.unique(rows.stretch):
            mine = rows.stretch == number
            out[mine] = np.cumsum(rows["reward"][mine].astype(np.float64))
        return {"so_far": out}

    with open_run(path) as run:
        rows = joined(list(run.scan(["so_far", "reward"], pipeline=so_far)))
        for episode in run.episodes():
            mine = (rows["episode"] == episode.number) & (rows["player"] == 0)
            np.testing.assert_allclose(rows["so_far"][mine], np.cumsum(rows["reward"][mine]), atol=1e-5)


def test_damage_is_raised_or_leaves_a_gap(path, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(path, copy)
    with open_run(copy) as run:
        reader = run.reader(1)
        head, info = reader.head(0), reader.blocks[0]
        at = info.body_offset + head.body_at[head.first_frame[[c.name for c in run.schema.columns].index("value")]] + 1
        hit, lost = run.shard_paths[1].path, info.rows
        total = len(run)
    flip_bit(hit, at)
    with open_run(copy) as run:
        with pytest.raises(ShardError, match="value"):
            list(run.scan(pipeline=["gae"]))
        rows = by_key(joined(list(run.scan(rows="all", damaged="skip", pipeline=["gae"]))))
        assert len(rows["step"]) == total - lost
        gap = next_is_same(rows) & (rows["player"] == 0) & (np.diff(rows["step"], append=0).astype(int) != 1)
        assert gap.any()
        assert not rows["valid:advantage"][gap].any()
        # What does not need the damaged column is not looked at.
        assert len(joined(list(run.scan(["action"], rows="all", pipeline=["discounted_return"])))["step"]) == total


def test_no_more_than_a_wave_is_in_memory(tmp_path, monkeypatch):
    schema = Schema([Field("observation", "f4", (256,), "observation"), Field("value", "f4", belongs="observation")])
    rng, steps = np.random.default_rng(0), np.arange(200)
    with Recorder(tmp_path / "run", schema, min_free=0) as recorder:
        for episode in range(100):
            seen = rng.random((200, 256), np.float32)
            recorder.add_batch(episode=episode, step=steps, observation=seen, value=seen[:, 0], reward=seen[:, 1])
    monkeypatch.setattr("expkit.batches.processed.BATCH_BYTES", 1 << 20)
    with open_run(tmp_path / "run") as run:
        POOL.forget()
        for read in (partial(run.scan, pipeline=["gae"]), partial(run.shuffled, pipeline=["gae"], memory="1MiB")):
            tracemalloc.start()
            try:
                assert sum(len(batch["step"]) for batch in read()) == 20_000
                peak = tracemalloc.get_traced_memory()[1]
            finally:
                tracemalloc.stop()
            assert peak < 8 << 20  # of 21 MB


def test_what_is_wrong_with_a_pipeline_is_said_before_anything_is_read(path):
    with open_run(path) as run:
        for read in (run.scan, run.shuffled):
            with pytest.raises(ConfigError, match="did you mean gae"):
                read(pipeline=["gea"])
            with pytest.raises(UsageError, match="batch of 0 rows"):
                list(read(batch_size=0, pipeline=["gae"]))
            with pytest.raises(SchemaError, match="another schema"):
                read(pipeline=Chain(["validate"], Schema([])))


def test_a_run_without_rows(tmp_path):
    Recorder(tmp_path / "run", SCHEMA, min_free=0).close()
    with open_run(tmp_path / "run") as run:
        for links in (ROW_BY_ROW, WHOLE):
            assert list(run.scan(pipeline=links)) == list(run.shuffled(pipeline=links)) == []
