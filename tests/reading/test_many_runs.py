"""Several runs read as one, against each of them read by itself."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from pipeline_runs import WHOLE, joined, write
from reading_twin import all_rows, assert_same
from written_runs import write_boards, write_vectors

from expkit import Field, Recorder, Schema, open_run
from expkit.buffers.memory import MemoryBuffer
from expkit.errors import NotThere, SchemaError, UsageError
from expkit.reading.runs import Runs


@pytest.fixture(scope="module")
def paths(tmp_path_factory) -> list[Path]:
    """Three runs, whose episodes have the same numbers, and of which the second was recorded by other policies."""
    folder = tmp_path_factory.mktemp("many")
    write(folder / "a", seed=1, episodes=4)
    schema = None
    with open_run(folder / "a") as run:
        schema = run.schema
    with Recorder(folder / "b", schema, players=2, min_free=0) as recorder:
        for player, (name, version) in enumerate((("newer", 7), ("player0", 9))):
            recorder.set_policy(player, name, version=version)
        for step in range(12):
            for player in (0, 1):
                seen = {"observation/board": np.full((2, 3), step), "observation/seen": np.ones(5), "value": step}
                recorder.add(player=player, episode=2, step=step, action=3, reward=step, mask=np.ones(7), **seen)
    write(folder / "c", seed=2, episodes=3)
    return [folder / "a", folder / "b", folder / "c"]


def by_run(rows):
    order = np.lexsort((rows["step"], rows["player"], rows["episode"], rows["run"]))
    return {name: values[order] for name, values in rows.items()}


def each(paths, rows="transitions", keep=None):
    """The rows of every run by itself, with the name of each row's policy in place of its number."""
    parts = []
    for number, path in enumerate(paths):
        with open_run(path) as run:
            found = list(run.scan(rows=rows))
            part = joined(found)
            names = np.array([policy.name for policy in run.policies] or [""])
            part |= {"run": np.full(len(part["step"]), number, np.uint16), "policy": names[part["policy"]]}
            chosen = slice(None) if keep is None else keep(run, part)
            parts.append({name: values[chosen] for name, values in part.items()})
    return by_run(joined(parts))


def named(run, rows):
    return {**rows, "policy": np.array([policy.name for policy in run.policies])[rows["policy"]]}


def test_rows_are_those_of_each_run_with_a_column_for_the_run(paths):
    expected = each(paths)
    assert set(expected["run"].tolist()) == {0, 1, 2}
    with open_run(paths) as run:
        assert isinstance(run, Runs)
        assert run.paths == paths
        assert len(run) == sum(len(open_run(path)) for path in paths)
        assert run.steps == len(expected["step"])
        assert len(run.run_ids) == 3
        assert (run.players, run.state) == ([0, 1], "closed")
        for options in ({}, {"batch_size": 10, "threads": 2}):
            assert_same(by_run(named(run, joined(list(run.scan(**options))))), expected)
        assert_same(by_run(named(run, joined(list(run.shuffled(16, memory=5000))))), expected)
        assert_same(by_run(named(run, joined(list(run.scan(rows="all"))))), each(paths, "all"))
        few = next(iter(run.scan(["action"])))
        assert set(few) == {"action", "run", "player", "episode", "step", "policy", "policy_version", "time_ns",
                            "is_first", "is_last"}  # fmt: skip


def test_policies_are_merged_and_conditions_know_them_by_name(paths):
    with open_run(paths) as run:
        assert len({policy.name for policy in run.policies}) == len(run.policies) == 3
        for where, keep in (
            ("policy == 'newer' and reward > 0", lambda one, rows: (rows["policy"] == "newer") & (rows["reward"] > 0)),
            ("policy != 'player0'", lambda one, rows: rows["policy"] != "player0"),
            ("length > 11", lambda one, rows: [one.find_episode(n).length > 11 for n in rows["episode"].tolist()]),
        ):
            expected = each(paths, keep=keep)
            assert 0 < len(expected["step"]) < run.steps
            assert_same(by_run(named(run, joined(list(run.scan(where=where))))), expected)
            assert_same(by_run(named(run, joined(list(run.shuffled(9, where=where))))), expected)
        with pytest.raises(UsageError, match="no policy 'nobody'"):
            run.scan(where="policy == 'nobody'")


def test_samples_windows_and_next_observations_know_their_run(paths):
    expected = each(paths)
    keys = ("run", "episode", "player", "step")
    place = {key: at for at, key in enumerate(zip(*(expected[k].tolist() for k in keys), strict=True))}
    with open_run(paths) as run:
        drawn = named(run, run.sample(1500, np.random.default_rng(0)))
        rows = [place[key] for key in zip(*(drawn[k].tolist() for k in keys), strict=True)]
        assert_same(drawn, {name: values[rows] for name, values in expected.items()})
        assert set(drawn["run"].tolist()) == {0, 1, 2}
        windows = joined(list(run.windows(3, stride=2)))
        alone = []
        for number, path in enumerate(paths):
            with open_run(path) as one:
                part = joined(list(one.windows(3, stride=2)))
                alone.append({**part, "run": np.full(part["step"].shape, number, np.uint16)})
        for name, values in joined(alone).items():
            if name != "policy":
                np.testing.assert_array_equal(windows[name], values, err_msg=name)
        after = by_run(joined(list(run.scan(["value"], rows="all", next_observation=True))))
        at = 0
        for path in paths:
            with open_run(path) as one:
                part = by_run({**joined(list(one.scan(["value"], rows="all", next_observation=True))),
                               "run": np.zeros(len(one), np.uint16)})  # fmt: skip
                for name in ("next_value", "valid:next_value"):
                    np.testing.assert_array_equal(after[name][at : at + len(one)], part[name])
                at += len(one)


def test_whole_episodes_of_a_pipeline_do_not_mix_runs(paths):
    with open_run(paths) as run:
        found = by_run(joined(list(run.scan(pipeline=WHOLE))))
        parts = []
        for number, path in enumerate(paths):
            with open_run(path) as one:
                part = joined(list(one.scan(pipeline=WHOLE)))
                parts.append({**part, "run": np.full(len(part["step"]), number, np.uint16)})
        expected = by_run(joined(parts))
        for name in ("n_step_return", "advantage", "discounted_return", "run", "valid:advantage"):
            np.testing.assert_array_equal(found[name], expected[name], err_msg=name)


def test_episodes_are_known_by_number_and_run(paths):
    with open_run(paths) as run, open_run(paths[2]) as third:
        listed = [(episode.run, episode.number) for episode in run.episodes()]
        assert listed == sorted(listed)
        assert [number for place, number in listed if place == 2] == [e.number for e in third.episodes()]
        assert run.find_episode(1, run=2).rows == third.find_episode(1).rows
        one, other = run.episode(1, 1, run=2), third.episode(1, 1)
        np.testing.assert_array_equal(one["observation/board"], other["observation/board"])
        assert set(one["run"].tolist()) == {2}
        assert run.rows(1, 0, ["reward"], run=0)["run"].tolist() == [0] * len(run.rows(1, 0, ["reward"], run=0)["step"])
        assert run.row(1, 0, 0, run=2)["run"] == 2
        with pytest.raises(NotThere, match="no run 3"):
            run.find_episode(1, run=3)
        buffer = MemoryBuffer(run.schema)
        assert run.load_into(buffer) == sum((all_rows(open_run(path))["player"] == 0).sum() for path in paths)


def test_a_glob_and_what_cannot_be_read_together(paths, tmp_path):
    folder = paths[0].parent
    with open_run(str(folder / "*")) as run:
        assert run.paths == paths
    with open_run([folder / "c", str(folder / "[ab]"), folder / "a"]) as run:
        assert run.paths == [paths[2], paths[0], paths[1]]
    with open_run([folder / "a"]) as run:
        assert isinstance(run, Runs)
    with pytest.raises(UsageError, match="matches no run"):
        open_run(str(folder / "x*"))
    with pytest.raises(UsageError, match="give 1"):
        open_run([])
    with pytest.raises(NotThere, match="no such folder"):
        open_run([folder / "a", folder / "x"])
    write_boards(tmp_path / "boards")
    write_vectors(tmp_path / "vectors")
    with pytest.raises(SchemaError, match="boards.*observation"):
        open_run([tmp_path / "vectors", tmp_path / "boards"])
    opened = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        with pytest.raises(SchemaError):
            open_run([tmp_path / "vectors", tmp_path / "boards"])
    assert len(os.listdir("/proc/self/fd")) == opened


def test_fields_in_another_order_are_the_same_rows(tmp_path):
    fields = [Field("observation", "f4", (2,), "observation"), Field("action", "u1", belongs="action")]
    for name, schema in (("a", Schema(fields)), ("b", Schema(fields[::-1]))):
        with Recorder(tmp_path / name, schema, min_free=0) as recorder:
            for step in range(5):
                recorder.add(episode=0, step=step, observation=[step, 1], action=step, reward=1)
    with open_run([tmp_path / "a", tmp_path / "b"]) as run:
        rows = joined(list(run.scan()))
        assert rows["action"].tolist() == [0, 1, 2, 3, 4] * 2
        assert rows["observation"][:, 0].tolist() == [0, 1, 2, 3, 4] * 2
        assert rows["run"].tolist() == [0] * 5 + [1] * 5


def test_more_runs_than_files_may_be_open(paths, monkeypatch):
    monkeypatch.setattr("expkit.reading.run_files.OPEN_READERS", 3)
    expected = each(paths)
    with open_run(paths) as run:
        assert_same(by_run(named(run, joined(list(run.shuffled(16, memory=5000, threads=2))))), expected)
        assert all(len(one._readers) == 1 for one in run.runs)
