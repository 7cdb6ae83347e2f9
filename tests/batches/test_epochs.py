"""Epochs: each row once among all ranks, the same for a seed, taken up again in another process, while a run grows."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pipeline_runs import by_key, joined, write
from reading_twin import assert_same

from expkit import Recorder, open_run
from expkit.batches.epochs import manifest_of
from expkit.errors import CheckFailed, UsageError
from expkit.rewrite.compact import compact
from expkit.rewrite.generation import sweep
from expkit.rewrite.layout import Encoding
from expkit.rewrite.prune import Retention, prune

OPTIONS = {"memory": 20_000}  # waves of some 250 rows, of pieces of 128


@pytest.fixture(scope="module")
def path(tmp_path_factory) -> Path:
    return write(tmp_path_factory.mktemp("epochs") / "run", episodes=30)


@pytest.fixture(scope="module")
def opened(path):
    with open_run(path) as run:
        yield run


def same_batches(left, right) -> None:
    assert len(left) == len(right)
    for one, other in zip(left, right, strict=True):
        assert_same(one, other)


@settings(deadline=None, max_examples=25)
@given(
    world=st.integers(1, 5), size=st.sampled_from([1, 7, 64, 500, 5000]), seed=st.integers(0, 3),
    memory=st.sampled_from([1000, 20_000, 10**7]), where=st.sampled_from([None, "reward > 0.3", "player == 9"]),
)  # fmt: skip
def test_ranks_share_out_every_row_once(opened, world, size, seed, memory, where):
    options = {"memory": memory, "where": where}
    parts = [list(opened.epoch(seed, 1, size, rank=rank, world_size=world, **options)) for rank in range(world)]
    assert all(len(batch["step"]) == size for batches in parts for batch in batches[:-1])
    expected = list(opened.scan(where=where))
    found = [batch for batches in parts for batch in batches]
    if expected:
        assert_same(by_key(joined(found)), by_key(joined(expected)))
    else:
        assert not found


def test_an_epoch_is_a_function_of_seed_number_and_rank(opened):
    def steps(*args, **options):
        return [batch["time_ns"].tolist() for batch in opened.epoch(*args, **OPTIONS, **options)]

    first = steps(4, 2, 32)
    assert first == steps(4, 2, 32) == steps(4, 2, 32, threads=3)
    assert first == [batch["time_ns"].tolist() for batch in opened.shuffled(32, seed=4, epoch=2, **OPTIONS)]
    for other in (steps(5, 2, 32), steps(4, 3, 32), steps(4, 2, 32, rank=1, world_size=2)):
        assert other[0] != first[0]
    assert len({tuple(np.diff(batch) > 0) for batch in first}) > 1, "in no order of the files"


@settings(deadline=None, max_examples=30)
@given(
    size=st.sampled_from([5, 33, 128, 700]), share=st.floats(0, 1), rank=st.integers(0, 2), after=st.booleans(),
    threads=st.sampled_from([1, 2]),
)  # fmt: skip
def test_what_is_left_of_an_epoch_comes_again(path, opened, size, share, rank, after, threads):
    """After any number of batches, by another reader, in JSON."""
    options = {"rank": rank, "world_size": 3, "next_observation": after, "where": "step != 4", **OPTIONS}
    whole = list(opened.epoch(9, 0, size, **options))
    had = round(share * len(whole))
    epoch = opened.epoch(9, 0, size, **options)
    for _ in range(had):
        next(epoch)
    told = json.loads(json.dumps(epoch.state_dict()))
    with open_run(path) as run:
        again = run.epoch(start=told, next_observation=after, threads=threads)
        same_batches(list(again), whole[had:])
        assert again.state_dict()["batches"] == len(whole)
        assert list(run.epoch(start=again.state_dict())) == []


def test_an_epoch_stays_as_it_was_while_the_run_grows(path, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(path, copy)
    with open_run(copy) as run:
        whole = list(run.epoch(1, 0, 50, **OPTIONS))
        epoch = run.epoch(1, 0, 50, **OPTIONS)
        had = [next(epoch) for _ in range(3)]
        state, schema = epoch.state_dict(), run.schema
    with Recorder(copy, schema, players=2, min_free=0, mode="a") as recorder:
        for step in range(300):
            seen = {"observation/board": np.zeros((2, 3)), "observation/seen": np.ones(5), "mask": np.ones(7)}
            recorder.add(player=0, episode=1000, step=step, action=1, reward=0, value=0, **seen)
        recorder.flush()
        with open_run(copy) as run:  # in the midst of recording
            rest = list(run.epoch(start=state))
            same_batches([*had, *rest], whole)
            more = joined(list(run.epoch(1, 1, 50, **OPTIONS)))
            assert len(more["step"]) == run.steps == sum(len(batch["step"]) for batch in whole) + 300
            run.refresh()
            same_batches(list(run.epoch(start=state)), rest)
    with open_run(copy) as run:
        same_batches(list(run.epoch(start=state)), rest)
        pinned = manifest_of(run)
    compact(copy)
    with open_run(copy) as run:
        with pytest.raises(CheckFailed, match="begin another epoch"):
            list(run.epoch(start=state))
        assert manifest_of(run) != pinned


@pytest.mark.parametrize("part", [None, "most"])
def test_an_epoch_goes_on_over_a_run_that_is_compacted_while_somebody_has_it_open(path, tmp_path, part):
    copy = tmp_path / "run"
    shutil.copytree(path, copy)

    def opened():
        run = open_run(copy)
        return run if part is None else run.split({"most": 0.8, "rest": 0.2})[part]

    with opened() as held:
        prune(copy, Retention(keep_episodes=28))
        held.refresh()
        options = {"next_observation": True, "where": "not won or step > 1", **OPTIONS}
        whole = list(held.epoch(1, 0, 50, **options))
        epoch = held.epoch(1, 0, 50, **options)
        had = [next(epoch) for _ in range(3)]
        state = epoch.state_dict()
        for level in (3, 4):
            compact(copy, encoding=Encoding(level=level))
            with opened() as run:
                assert manifest_of(run) != state["manifest"]
                same_batches([*had, *run.epoch(start=state, next_observation=True)], whole)
                assert len(joined(list(run.epoch(1, 0, 50)))["step"]) == run.steps
        same_batches([*had, *epoch], whole)
    sweep(copy)
    with opened() as run, pytest.raises(CheckFailed, match="nobody had the run open"):
        list(run.epoch(start=state))


def test_an_epoch_of_what_was_pruned_since_is_refused(path, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(path, copy)
    with open_run(copy) as run:
        state = run.epoch(1, 0, 50).state_dict()
        prune(copy, Retention(keep_episodes=0))
        run.refresh()
        with pytest.raises(CheckFailed, match="pruned since"):
            list(run.epoch(start=state))


def test_many_runs_that_are_compacted_have_the_same_epoch(path, tmp_path):
    copies = [tmp_path / "a", tmp_path / "b"]
    for copy in copies:
        shutil.copytree(path, copy)
    with open_run(copies) as held:
        whole, state = list(held.epoch(0, 0, 40, **OPTIONS)), held.epoch(0, 0, 40, **OPTIONS).state_dict()
        compact(copies[1])
        with open_run(copies) as runs:
            same_batches(list(runs.epoch(start=state)), whole)


def test_many_runs_have_epochs_too(path, tmp_path):
    other = write(tmp_path / "other", seed=5, episodes=5)
    with open_run([path, other]) as runs:
        whole = list(runs.epoch(0, 0, 40, **OPTIONS))
        assert set(joined(whole)["run"].tolist()) == {0, 1}
        assert sum(len(batch["step"]) for batch in whole) == runs.steps
        epoch = runs.epoch(0, 0, 40, **OPTIONS)
        for _ in range(5):
            next(epoch)
        same_batches(list(runs.epoch(start=epoch.state_dict())), whole[5:])


def test_what_is_no_state_or_rank_is_refused(opened):
    with pytest.raises(UsageError, match="state_dict"):
        opened.epoch(start={"seed": 1})
    with pytest.raises(UsageError, match="rank 2 of 2"):
        opened.epoch(rank=2, world_size=2)
    with pytest.raises(UsageError, match="batch of 0"):
        opened.epoch(batch_size=0)
