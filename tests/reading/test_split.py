"""Parts of a run by episode, against the parts that `rewrite --split` makes."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from pipeline_runs import WHOLE, by_key, joined, write
from reading_twin import all_rows, assert_same

from expkit import open_run
from expkit.commands import main
from expkit.errors import UsageError
from expkit.rewrite.compact import compact

SPLIT = {"train": 0.7, "val": 0.3}


@pytest.fixture(scope="module")
def path(tmp_path_factory) -> Path:
    return write(tmp_path_factory.mktemp("split") / "run", episodes=24)


def rewritten(path: Path, out: Path) -> dict[str, set[int]]:
    """{part: its episodes' numbers in the run they come from}."""
    assert main(["rewrite", str(path), "-o", str(out), "--split", "train=.7,val=.3", "--quiet"]) in (0, None)
    found = {}
    for part in SPLIT:
        with open_run(out / part) as run:
            found[part] = {episode.start.origin.episode for episode in run.episodes()}
    return found


def test_parts_are_those_of_rewrite_and_stay_after_a_compaction(path, tmp_path):
    expected = rewritten(path, tmp_path / "out")
    copy = tmp_path / "run"
    shutil.copytree(path, copy)
    for change in (None, compact):
        if change is not None:
            change(copy)
        with open_run(copy) as run:
            whole, parts = all_rows(run), run.split(SPLIT)
            for name, part in parts.items():
                with part:
                    assert {episode.number for episode in part.episodes()} == expected[name]
                    mine = np.isin(whole["episode"], list(expected[name]))
                    rows = {column: values[mine] for column, values in whole.items()}
                    assert len(part) == mine.sum()
                    assert part.steps == (mine & ~whole["is_last"]).sum()
                    assert_same(all_rows(part), rows)
                    assert set(part.sample(99)["episode"].tolist()) <= expected[name]
                    steps = {column: values[~rows["is_last"]] for column, values in rows.items()}
                    assert_same(by_key(joined(list(part.shuffled(32, memory=9000)))), steps)
                    found = joined(list(part.scan(["action"], pipeline=WHOLE)))
                    assert set(found["episode"].tolist()) == set(steps["episode"].tolist())
                    windows = joined(list(part.windows(2, stride=1)))
                    assert set(windows["episode"].ravel().tolist()) <= expected[name]
    assert min(map(len, expected.values())) > 2


def test_many_runs_and_data_sets_split_alike(path, tmp_path):
    from expkit.torch import ExperienceDataset

    other = write(tmp_path / "other", seed=8, episodes=6)
    with open_run([path, other]) as runs:
        parts = runs.split(SPLIT)
        sizes = {name: part.steps for name, part in parts.items()}
        assert sum(sizes.values()) == runs.steps
        assert set(joined(list(parts["train"].scan()))["run"].tolist()) == {0, 1}
    for name in SPLIT:
        dataset = ExperienceDataset([path, other], 100, split=SPLIT, part=name)
        assert sum(len(batch["action"]) for batch in dataset) == sizes[name]
        parts[name].close()
    with pytest.raises(UsageError, match="go together"):
        ExperienceDataset(path, split=SPLIT, part="test")
    with open_run(path) as run:
        for wrong, said in (({"a": 0.5}, "add up to 0.5"), ({"a": -1, "b": 2}, "fractions above 0")):
            with pytest.raises(UsageError, match=said):
                run.split(wrong)


def test_a_part_is_followed_as_it_is_read(path):
    with open_run(path) as run:
        for part in run.split(SPLIT).values():
            with part:
                given = joined(list(part.follow(["reward"], stop=lambda: False)))
                assert set(given["episode"].tolist()) == {episode.number for episode in part.episodes()}


def test_a_part_is_not_split_again(path):
    with open_run(path) as run, run.split(SPLIT)["train"] as part, pytest.raises(UsageError, match="a part already"):
        part.split(SPLIT)
