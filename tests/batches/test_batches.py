"""Batches of a run, in file order and shuffled, against the rows read block by block."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from written_runs import BOARD_SCHEMA, VECTOR_SCHEMA, flip_bit

from expkit import Field, Recorder, Schema, open_run
from expkit.errors import NotThere, ShardError, UsageError
from expkit.formats.shard import ShardReader
from expkit.formats.shard.layout import pack_file_header
from expkit.reading.run import Run
from expkit.rewrite.compact import compact
from expkit.rewrite.prune import Retention, prune
from expkit.validation.validate import validate_run

SCHEMA = Schema(
    [
        Field("observation", "f4", (12,), "observation"),
        Field("mask", "bool", (21,), "observation"),
        Field("action", "i8", belongs="action"),
        Field("value", "f4", belongs="action", nullable=True),
    ]
)


@pytest.fixture(scope="module")
def path(tmp_path_factory) -> Path:
    """7 episodes of two players in 4 shards, blocks of up to 1,024 rows; every value follows from its keys."""
    run = tmp_path_factory.mktemp("batches") / "run"
    with Recorder(run, SCHEMA, players=2, min_free=0) as recorder:
        for episode in range(7):
            steps = np.arange(200 + 173 * episode)
            for player in (0, 1):
                seen = np.stack([steps + 1000 * player + item for item in range(12)], 1).astype(np.float32)
                recorder.add_batch(
                    player=player, episode=episode, step=steps, observation=seen,
                    mask=(seen[:, :1] + np.arange(21)) % 3 == 0,
                    action=steps * 7, reward=steps * 0.5, value=steps if episode % 2 else None,
                )  # fmt: skip
            recorder.end(episode=episode, observation=np.zeros((2, 12)), mask=np.ones((2, 21)))
            recorder.flush()
            if episode % 2:
                recorder.collector.writer.rotate()
    return run


def naive(run: Run, rows: str = "transitions", columns: list[str] | None = None) -> dict[str, np.ndarray]:
    """All rows in the order of the files, block by block."""
    parts = []
    for block in run.blocks():
        stored = block.read()
        keep = np.ones(block.rows, bool) if rows == "all" else ~stored["is_last"]
        part = {name: run.schema.unpack(name, values)[keep] for name, values in stored.items()}
        part["player"] = np.full(int(keep.sum()), block.info.player, np.uint16)
        parts.append(part)
    whole = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return whole if columns is None else {name: whole[name] for name in columns}


def joined(batches: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}


def assert_same(left: dict[str, np.ndarray], right: dict[str, np.ndarray]) -> None:
    assert left.keys() == right.keys()
    for name, values in left.items():
        np.testing.assert_array_equal(values, right[name], err_msg=name)
        assert values.dtype == right[name].dtype


def by_key(batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    order = np.lexsort((batch["step"], batch["player"], batch["episode"]))
    return {name: values[order] for name, values in batch.items()}


@pytest.mark.parametrize("rows", ["transitions", "all"])
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("size", [1000, 512, 77, 100_000])
def test_a_scan_gives_every_row_in_the_order_of_the_files(path, rows, threads, size):
    with open_run(path) as run:
        batches = list(run.scan(batch_size=size, rows=rows, threads=threads))
        assert [len(batch["step"]) for batch in batches[:-1]] == [size] * (len(batches) - 1)
        assert_same(joined(batches), naive(run, rows))
        few = joined(list(run.scan(["action"], batch_size=size, rows=rows, threads=threads)))
        np.testing.assert_array_equal(few["action"], naive(run, rows)["action"])
        assert "observation" not in few


@pytest.mark.parametrize("rows", ["transitions", "all"])
@pytest.mark.parametrize(("size", "memory"), [(256, "256MiB"), (100, "64KiB"), (1500, "1KiB"), (100_000, "1MiB")])
def test_an_epoch_gives_every_row_once(path, rows, size, memory):
    with open_run(path) as run:
        batches = list(run.shuffled(size, seed=3, rows=rows, memory=memory))
        assert [len(batch["step"]) for batch in batches[:-1]] == [size] * (len(batches) - 1)
        assert 0 < len(batches[-1]["step"]) <= size
        mixed, expected = joined(batches), naive(run, rows)
        assert_same(by_key(mixed), by_key({name: expected[name] for name in mixed}))
        assert not np.array_equal(mixed["step"], expected["step"])


def test_an_epoch_is_a_function_of_seed_and_number(path):
    def steps(**options):
        with open_run(path) as run:
            return [batch["step"].tolist() for batch in run.shuffled(64, **{"seed": 5, "memory": "96KiB", **options})]

    first = steps()
    assert first == steps() == steps(threads=3)
    assert first != steps(epoch=1) != steps(epoch=2)
    assert first != steps(seed=6)


def test_batches_mix_episodes_and_players(path):
    """A batch is no stretch of one game: each of the first ones has rows of most episodes, and both players."""
    with open_run(path) as run:
        for _, batch in zip(range(5), run.shuffled(256), strict=False):
            assert len(np.unique(batch["episode"])) >= 5
            assert set(batch["player"].tolist()) == {0, 1}


def test_a_batch_that_is_kept_stays_as_it_is(path):
    """Arrays come from a pool; one that somebody holds is not used again."""
    with open_run(path) as run:
        held = list(run.shuffled(256, memory="64KiB"))
        copies = [{name: values.copy() for name, values in batch.items()} for batch in held]
        for _ in range(3):
            list(run.shuffled(256, epoch=1, memory="64KiB"))
            list(run.scan(batch_size=256))
        for batch, copy in zip(held, copies, strict=True):
            assert_same(batch, copy)


def test_samples_are_rows_of_the_run(path):
    with open_run(path) as run:
        expected, drawn = naive(run), run.sample(5000, np.random.default_rng(1))
        place = {
            key: row
            for row, key in enumerate(
                zip(*(expected[name].tolist() for name in ("episode", "player", "step")), strict=True)
            )
        }
        keys = zip(*(drawn[name].tolist() for name in ("episode", "player", "step")), strict=True)
        rows = np.array([place[key] for key in keys])
        for name, values in drawn.items():
            np.testing.assert_array_equal(values, expected[name][rows], err_msg=name)
        # Uniform: of 5,000 draws each tenth of the run gets 500, give or take five deviations.
        assert np.abs(np.histogram(rows, 10, (0, len(expected["step"])))[0] - 500).max() < 5 * np.sqrt(500)
        assert (np.diff(rows) < 0).sum() > 2000, "in no order of the files"


def test_rewritten_and_pruned_runs(path, tmp_path):
    run_path = tmp_path / "run"
    shutil.copytree(path, run_path)
    prune(run_path, Retention(keep_episodes=5))
    with open_run(run_path) as run:
        assert_same(joined(list(run.scan(batch_size=100))), naive(run))
        expected = by_key(naive(run))
        assert set(expected["episode"].tolist()) == {2, 3, 4, 5, 6}
        assert_same(by_key(joined(list(run.shuffled(100)))), expected)
    compact(run_path)
    with open_run(run_path) as run:
        assert_same(by_key(joined(list(run.shuffled(100)))), expected)


def test_more_shards_than_may_be_open(tmp_path, monkeypatch):
    monkeypatch.setattr("expkit.reading.run_files.OPEN_READERS", 2)
    with Recorder(tmp_path / "run", VECTOR_SCHEMA, min_free=0) as recorder:
        for episode in range(9):
            steps = np.arange(10 + episode)
            recorder.add_batch(
                episode=episode, step=steps, action=steps, reward=steps, observation=np.ones((len(steps), 3))
            )
            recorder.flush()
            recorder.collector.writer.rotate()
    with open_run(tmp_path / "run") as run:
        assert len(run.shard_paths) > 6
        expected = by_key(naive(run))
        for threads in (1, 4):
            assert_same(by_key(joined(list(run.scan(batch_size=7, threads=threads)))), expected)
            assert_same(by_key(joined(list(run.shuffled(7, threads=threads)))), expected)


@pytest.mark.parametrize("field", [
    Field("observation", "f8", (12,), "observation"), Field("observation", "f4", (24,), "observation"),
    Field("observation", "f4", (), "observation"), Field("view", "f4", (12,), "observation"),
], ids=["wider", "longer", "scalar", "another name"])  # fmt: skip
def test_a_shard_of_another_schema_is_no_array_of_this_one(path, tmp_path, field):
    """Decoded where the rows of the run are to be, its wider rows would have been written beyond their ends."""
    run_path, other = tmp_path / "run", tmp_path / "other"
    shutil.copytree(path, run_path)
    schema = Schema([field, *SCHEMA.fields[1:]])
    with Recorder(other, schema, players=2, min_free=0) as recorder:
        values = np.ones((500, *field.shape))
        recorder.add_batch(
            player=0, episode=99, step=np.arange(500), mask=np.zeros((500, 21), bool), action=np.arange(500),
            reward=np.zeros(500), **{field.name: values},
        )  # fmt: skip
    # Of the run in all but its schema: one that says that it is of another is told as that.
    data = (other / "shards/w0/000000.exp").read_bytes()
    with ShardReader(other / "shards/w0/000000.exp") as reader, open_run(path) as run:
        begins = pack_file_header({**reader.header, "run": run.id, "shard": 9})
    (run_path / "shards/w0/000009.exp").write_bytes(begins + data[len(begins) :])
    with open_run(run_path) as run:
        for read in (lambda: list(run.scan()), lambda: list(run.shuffled()), lambda: run.rows(99, 0)):
            with pytest.raises((ShardError, NotThere), match="its schema is not that of the run|no episode 99"):
                read()
        with pytest.raises(ShardError, match="it is|it has|is not that"):
            ShardReader(other / "shards/w0/000000.exp").read_into(
                0, np.arange(3), {"observation": np.zeros((3, 12), np.float32)}, np.arange(3)
            )
        assert [finding.rule for finding in validate_run(run) if finding.severity == "error"][:1] == ["file/schema"]
        assert_same(joined(list(run.scan(batch_size=100, damaged="skip"))), joined(list(open_run(path).scan())))


def test_damage_is_raised_or_left_out(path, tmp_path):
    run_path = tmp_path / "run"
    shutil.copytree(path, run_path)
    with open_run(run_path) as run:
        reader = run.reader(1)
        head, info = reader.head(0), reader.blocks[0]
        frame = head.first_frame[[column.name for column in run.schema.columns].index("observation")]
        at = info.body_offset + head.body_at[frame] + 3
        hit, rows = run.shard_paths[1].path, info.rows
    flip_bit(hit, at)
    with open_run(run_path) as run:
        for threads in (1, 2):
            with pytest.raises(ShardError, match="observation"):
                list(run.scan(threads=threads))
            with pytest.raises(ShardError, match="observation"):
                list(run.shuffled(threads=threads))
            assert (
                len(run) - rows
                <= len(joined(list(run.scan(rows="all", damaged="skip", threads=threads)))["step"])
                < len(run)
            )
        assert len(joined(list(run.scan(["action"], rows="all")))["step"]) == len(run)


def test_a_run_without_rows_and_a_batch_of_none(tmp_path):
    Recorder(tmp_path / "run", BOARD_SCHEMA, min_free=0).close()
    with open_run(tmp_path / "run") as run:
        assert list(run.scan()) == list(run.shuffled()) == []
        for call in (run.scan, run.shuffled):
            with pytest.raises(UsageError, match="batch of 0 rows"):
                list(call(batch_size=0))
