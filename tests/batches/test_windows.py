"""Windows and next observations, which never cross an episode's end or a gap, against slow twins."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from pipeline_runs import by_key, joined, write
from reading_twin import all_rows, assert_same, stretches, with_next

from expkit import open_run
from expkit.errors import NotThere, UsageError
from expkit.reading.run import Run
from expkit.rewrite.compact import compact
from expkit.rewrite.prune import Retention, prune


@pytest.fixture(scope="module")
def path(tmp_path_factory) -> Path:
    return write(tmp_path_factory.mktemp("windows") / "run")


@pytest.fixture(scope="module")
def gappy(tmp_path_factory) -> Path:
    """The same with rows left out while it was recorded."""
    gaps = {"kind": "filter", "where": "step % 11 != 5"}
    return write(tmp_path_factory.mktemp("windows") / "gappy", pipeline=[gaps])


def twin_windows(run: Run, length: int, stride: int, rows: str, pad: bool) -> list[dict[str, np.ndarray]]:
    """Every window by itself, padded ones shorter."""
    whole = all_rows(run)
    out = []
    for places in stretches(run, whole):
        mine = [place for place in places if rows == "all" or not whole["is_last"][place]]
        begin = 0
        while begin < len(mine):
            part = mine[begin : begin + length]
            if len(part) == length or pad:
                out.append({name: values[part] for name, values in whole.items()})
            if begin + length >= len(mine):
                break
            begin += stride
    return out


@pytest.mark.parametrize("which", ["path", "gappy"])
@pytest.mark.parametrize("rows", ["transitions", "all"])
@pytest.mark.parametrize("pad", [False, True])
@pytest.mark.parametrize(("length", "stride"), [(4, 4), (7, 2), (1, 1), (5, 9), (60, 1)])
def test_windows_are_those_of_the_slow_twin(request, which, rows, pad, length, stride):
    with open_run(request.getfixturevalue(which)) as run:
        expected = twin_windows(run, length, stride, rows, pad)
        for options in ({}, {"batch_size": 3, "threads": 2}):
            parts = list(run.windows(length, stride=stride, rows=rows, pad=pad, **options))
            assert sum(len(part["step"]) for part in parts) == len(expected)
            if not expected:
                continue
            assert all(part["observation/board"].shape[1:] == (length, 2, 3) for part in parts)
            found = joined(parts)
            for at, window in enumerate(expected):
                count = len(window["step"])
                for name, values in window.items():
                    np.testing.assert_array_equal(found[name][at][:count], values, err_msg=name)
                    assert pad or count == length
                    assert not found[name][at][count:].any()
                if pad:
                    assert found["valid:window"][at].tolist() == [True] * count + [False] * (length - count)


def test_windows_with_a_condition_have_it_in_every_row(path):
    with open_run(path) as run:
        where = "reward > -0.8 and length > 10"
        expected = [
            window
            for window in twin_windows(run, 3, 1, "transitions", False)
            if (window["reward"] > -0.8).all() and run.find_episode(int(window["episode"][0])).length > 10
        ]
        found = joined(list(run.windows(3, stride=1, columns=["action"], where=where)))
        assert "reward" not in found
        assert found["step"].tolist() == [window["step"].tolist() for window in expected]
        assert 5 < len(expected) < len(twin_windows(run, 3, 1, "transitions", False)) // 2


def test_sampled_windows_are_windows_and_uniform(gappy):
    with open_run(gappy) as run:
        every = twin_windows(run, 5, 1, "transitions", False)
        place = {(int(w["episode"][0]), int(w["player"][0]), int(w["step"][0])): at for at, w in enumerate(every)}
        found = run.sample_windows(4000, 5, np.random.default_rng(2))
        keys = zip(*(found[name][:, 0].tolist() for name in ("episode", "player", "step")), strict=True)
        drawn = np.array([place[key] for key in keys])
        for name in ("observation/board", "action", "guess", "valid:guess"):
            np.testing.assert_array_equal(found[name], np.stack([every[at][name] for at in drawn]))
        assert np.abs(np.histogram(drawn, 8, (0, len(every)))[0] - 500).max() < 5 * np.sqrt(500)
        assert "valid:window" in run.sample_windows(3, 50, np.random.default_rng(1), pad=True)
        with pytest.raises(NotThere, match="smaller length"):
            run.sample_windows(3, 500)
        with pytest.raises(UsageError, match="1 or more"):
            run.windows(0)


@pytest.mark.parametrize("which", ["path", "gappy"])
def test_next_observations_are_those_of_the_slow_twin(request, which, tmp_path):
    source = request.getfixturevalue(which)
    copy = tmp_path / "run"
    shutil.copytree(source, copy)
    for change in (None, lambda: compact(copy), lambda: prune(copy, Retention(keep_episodes=5))):
        if change is not None:
            change()
        with open_run(copy) as run:
            whole = with_next(run, all_rows(run))
            assert 0 < whole["valid:next_value"].sum() < len(whole["step"])
            assert_same(by_key(joined(list(run.scan(rows="all", next_observation=True)))), whole)
            expected = {name: values[~whole["is_last"]] for name, values in whole.items()}
            for options in ({}, {"batch_size": 9, "threads": 3}):
                assert_same(by_key(joined(list(run.scan(next_observation=True, **options)))), expected)
            mixed = joined(list(run.shuffled(16, memory=9000, next_observation=True)))
            assert_same(by_key(mixed), expected)
            drawn = run.sample(500, np.random.default_rng(1), ["observation/board"], next_observation=True)
            keys = ("episode", "player", "step")
            place = {key: at for at, key in enumerate(zip(*(expected[k].tolist() for k in keys), strict=True))}
            rows = [place[key] for key in zip(*(drawn[k].tolist() for k in keys), strict=True)]
            for name in ("next_observation/board", "valid:next_observation/board"):
                np.testing.assert_array_equal(drawn[name], expected[name][rows])
            assert "next_value" not in drawn


def test_a_pipeline_makes_its_own_next_observation(path):
    with open_run(path) as run:
        with pytest.raises(UsageError, match="n_step"):
            run.scan(pipeline=["validate"], next_observation=True)
        ours = by_key(joined(list(run.scan(["value"], next_observation=True))))
        link = {"kind": "n_step", "n": 1, "gamma": 0.9, "next": ["value"]}
        theirs = by_key(joined(list(run.scan(["next/value"], pipeline=[link]))))
        np.testing.assert_array_equal(ours["next_value"], theirs["next/value"])
        np.testing.assert_array_equal(ours["valid:next_value"], theirs["valid:next/value"])
