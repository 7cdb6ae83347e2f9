"""Samples by priority and by staleness, against slow twins and counted draws."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pipeline_runs import write
from reading_twin import all_rows

from expkit import Recorder, Schema, open_run
from expkit.errors import NotThere, UsageError
from expkit.reading.prioritized import PrioritizedSampler, StalenessSampler, SumTree
from expkit.row.schema import Field

KEYS = ("episode", "player", "step")


@settings(deadline=None, max_examples=60)
@given(
    weights=st.lists(st.integers(0, 10**5).map(lambda x: x / 1000), min_size=1, max_size=40).filter(any),
    changes=st.lists(st.tuples(st.integers(0, 39), st.integers(0, 9)), max_size=10),
    share=st.floats(0, 1, exclude_max=True),
)
def test_the_tree_finds_what_a_running_sum_finds(weights, changes, share):
    tree = SumTree(len(weights))
    tree.set(np.arange(len(weights)), np.array(weights))
    changed = list(weights)
    for thing, weight in changes:
        if thing < len(weights):
            changed[thing] = float(weight)
    things = np.array([thing for thing, _ in changes if thing < len(weights)], np.int64)
    tree.set(things, np.array([weight for thing, weight in changes if thing < len(weights)], float))
    assert tree[np.arange(len(weights))].tolist() == changed
    assert tree.total == pytest.approx(sum(changed))
    if not sum(changed):
        return
    target, so_far = share * tree.total, 0.0
    found = int(tree.find(np.array([target]))[0])
    assert changed[found] > 0
    so_far = sum(changed[:found])
    assert so_far - 1e-9 <= target <= so_far + changed[found] + 1e-9


@pytest.fixture(scope="module")
def path(tmp_path_factory) -> Path:
    return write(tmp_path_factory.mktemp("prioritized") / "run", episodes=6)


def places(rows, batch) -> np.ndarray:
    at = {key: place for place, key in enumerate(zip(*(rows[name].tolist() for name in KEYS), strict=True))}
    return np.array([at[key] for key in zip(*(batch[name].tolist() for name in KEYS), strict=True)])


def test_draws_are_in_proportion_to_priorities_and_weights_correct_for_it(path):
    with open_run(path) as run:
        rows = all_rows(run)
        sampler = PrioritizedSampler(run, alpha=0.7, columns=["action", "value"], next_observation=True)
        assert sampler.transitions == run.steps
        rng = np.random.default_rng(0)
        errors = rng.random(len(rows["step"])) * 5
        moves = np.flatnonzero(~rows["is_last"])
        handles = sampler.handles(*(rows[name][moves] for name in KEYS))
        sampler.update(handles, errors[moves])
        batch = sampler.sample(40_000, rng, beta=0.5)
        drawn = places(rows, batch)
        assert not rows["is_last"][drawn].any()
        np.testing.assert_array_equal(batch["action"], rows["action"][drawn])
        assert batch["next_value"].shape == (40_000,)
        chance = (errors + 1e-6) ** 0.7 * ~rows["is_last"]
        chance /= chance.sum()
        counts = np.bincount(drawn, minlength=len(chance))
        assert np.abs(counts - 40_000 * chance).max() < 2.5, "one draw from each of equal shares"
        weights = (run.steps * chance[drawn]) ** -0.5
        np.testing.assert_allclose(batch["sample_weight"], weights / weights.max(), rtol=1e-5)
        sampler.update(batch["handle"][:1], np.array([1e6]))
        again = sampler.sample(100, rng)
        assert (again["handle"] == batch["handle"][0]).sum() > 80
        assert len(np.unique(np.diff(again["handle"]) >= 0)) == 2 or (np.diff(again["handle"]) == 0).all()
        for wrong in (np.nan, np.inf):
            with pytest.raises(UsageError, match="finite"):
                sampler.update(batch["handle"][:1], np.array([wrong]))
        with pytest.raises(NotThere, match="no row at episode 0 player 0 step 999"):
            sampler.handles([0], [0], [999])
        with pytest.raises(UsageError, match="alpha"):
            PrioritizedSampler(run, alpha=-1)


def test_stale_rows_are_drawn_less_and_too_stale_ones_never(tmp_path):
    schema = Schema([Field("observation", "f4", (2,), "observation"), Field("action", "i4", belongs="action")])
    with Recorder(tmp_path / "run", schema, players=2, min_free=0) as recorder:
        for version in range(6):
            recorder.set_policy(0, "learner", version=version)
            recorder.set_policy(1, "rival", version=100)
            for player in (0, 1):
                for step in range(20):
                    recorder.add(player=player, episode=version, step=step, observation=[version, step], action=step,
                                 reward=0, terminated=step == 19)  # fmt: skip
            recorder.end(episode=version, observation=np.zeros((2, 2)))
    with open_run(tmp_path / "run") as run:
        batch = StalenessSampler(run, half_life=2, max_staleness=4).sample(30_000, np.random.default_rng(1))
        assert not batch["is_last"].any()
        mine = batch["player"] == 0
        expected = np.array([0, *(0.5 ** ((5 - version) / 2) for version in range(1, 6))])
        counts = np.bincount(batch["policy_version"][mine], minlength=6)
        assert counts[0] == 0
        share = expected / (expected.sum() + 6)  # the rival is never stale
        assert np.abs(counts - 30_000 * share).max() < 5 * np.sqrt(30_000 * share.max())
        every = StalenessSampler(run).sample(5000, np.random.default_rng(1))
        assert np.abs(np.bincount(every["policy_version"][every["player"] == 0]) - 2500 / 6).max() < 5 * np.sqrt(
            2500 / 6
        )
        with pytest.raises(UsageError, match="half_life"):
            StalenessSampler(run, half_life=0)


def test_a_run_without_transitions_has_no_samples(tmp_path):
    with Recorder(tmp_path / "run", Schema([Field("action", "i4", belongs="action")]), min_free=0):
        pass
    with open_run(tmp_path / "run") as run:
        for sampler in (PrioritizedSampler, StalenessSampler):
            with pytest.raises(NotThere, match="no transitions"):
                sampler(run)
