"""Reading only the rows for which a condition holds, against all rows and the slow twin of predicates."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from pipeline_runs import WHOLE, by_key, joined, write
from predicate_twin import truth

from expkit import open_run
from expkit.errors import ShardError, UsageError
from expkit.formats.shard.read import ShardReader
from expkit.predicates import parse
from expkit.reading.run import Run
from expkit.rewrite.prune import Retention, prune

CONDITIONS = [
    "reward > 0.5 and player == 1",
    "guess is null or guess > 1",
    "step between 3 and 9 and not terminated",
    "action in (1, 2) and observation/board[1, 2] > 0",
    "length > 20",
    "ended = 'terminated' and is_first",
    "is_last",
    "player == 7",
    "episode >= 0",
]


@pytest.fixture(scope="module")
def path(tmp_path_factory) -> Path:
    return write(tmp_path_factory.mktemp("where") / "run")


class TwinRow(dict):
    """A row of a batch as the twin asks for it."""

    def __init__(self, run: Run, rows: dict[str, np.ndarray], at: int):
        super().__init__(narrow={"reward": "f", "guess": "f", "observation/board": "f"}, policies=[])
        self._run, self._rows, self._at = run, rows, at

    def __missing__(self, asked):
        name, index = asked
        row = {column: values[self._at] for column, values in self._rows.items()}
        if name in ("length", "ended"):
            return getattr(self._run.find_episode(int(row["episode"])), name)
        if name in self._run.schema and self._run.schema[name].belongs != "observation" and row["is_last"]:
            return None
        return row[name][index].item() if row.get(f"valid:{name}", True) else None


def chosen(run: Run, where: str, rows: dict[str, np.ndarray]) -> np.ndarray:
    """bool (rows,), by the slow twin."""
    tree = parse(where).tree
    return np.array([truth(tree, TwinRow(run, rows, at)) is True for at in range(len(rows["step"]))], bool)


def naive(run: Run, where: str, rows: str = "all") -> dict[str, np.ndarray]:
    """All rows, of which the slow twin chooses one after the other."""
    whole = joined(list(run.scan(rows=rows)))
    keep = chosen(run, where, whole)
    return {name: values[keep] for name, values in whole.items()}


def assert_same(left: dict[str, np.ndarray], right: dict[str, np.ndarray]) -> None:
    assert left.keys() == right.keys()
    for name, values in left.items():
        np.testing.assert_array_equal(values, right[name], err_msg=name)
        assert values.dtype == right[name].dtype


@pytest.mark.parametrize("where", CONDITIONS)
@pytest.mark.parametrize("rows", ["transitions", "all"])
def test_a_scan_gives_the_rows_that_match(path, where, rows):
    with open_run(path) as run:
        expected = naive(run, where, rows)
        for options in ({}, {"batch_size": 7}, {"batch_size": 50, "threads": 3}, {"damaged": "skip"}):
            parts = list(run.scan(rows=rows, where=where, **options))
            assert all(len(part["step"]) for part in parts)
            if not len(expected["step"]):
                assert not parts
                continue
            assert_same(joined(parts), expected)
            if options.get("batch_size"):
                assert {len(part["step"]) for part in parts[:-1]} <= {options["batch_size"]}
        few = list(run.scan(["action"], rows=rows, where=parse(where)))
        assert sum(len(part["step"]) for part in few) == len(expected["step"])
        assert all("reward" not in part for part in few)


@pytest.mark.parametrize("where", CONDITIONS)
def test_an_epoch_gives_the_rows_that_match_once(path, where):
    with open_run(path) as run:
        expected = naive(run, where, "transitions")
        parts = list(run.shuffled(16, seed=2, memory=6000, where=where))
        if len(expected["step"]):
            assert_same(by_key(joined(parts)), by_key(expected))
        else:
            assert not parts


@pytest.mark.parametrize("links", [["sanitize", "validate"], WHOLE], ids=["rows", "whole"])
def test_a_pipeline_gives_results_of_the_rows_that_match(path, links):
    """What needs whole episodes is given them: the return of a row that matches counts rewards of rows that do not."""
    where = "reward > 0.5 and player == 1 and length > 15"
    with open_run(path) as run:
        whole = joined(list(run.scan(pipeline=links)))
        keep = chosen(run, where, whole)
        expected = by_key({name: values[keep] for name, values in whole.items()})
        assert 0 < keep.sum() < len(keep) // 2
        for options in ({}, {"batch_size": 5, "threads": 2}):
            assert_same(by_key(joined(list(run.scan(pipeline=links, where=where, **options)))), expected)
        mixed = joined(list(run.shuffled(8, memory=6000, pipeline=links, where=where)))
        assert_same(by_key(mixed), expected)


def test_blocks_that_cannot_match_are_not_read(path, monkeypatch):
    with open_run(path) as run:
        blocks = list(run.blocks())
        first = min(block.info.episode_min for block in blocks)
        touched: list[tuple[str, int, tuple[str, ...], int]] = []
        read_into = ShardReader.read_into

        def watched(self, index, rows, out, places):
            touched.append((str(self.path), index, tuple(out), len(rows)))
            return read_into(self, index, rows, out, places)

        monkeypatch.setattr(ShardReader, "read_into", watched)
        list(run.scan(["observation"], where=f"player == 1 and step >= 20 and episode >= {first}"))
        read = {(place, index) for place, index, _, _ in touched}
        assert read == {
            (str(block.reader.path), block.info.index)
            for block in blocks
            if block.info.player == 1 and block.reader.statistics_of(block.info.index, "step").high >= 20
        }
        assert len(read) < len(blocks) // 2
        # Boards are decoded of the rows that match, not of whole blocks.
        wide = sum(rows for *_, names, rows in touched if "observation/board" in names)
        assert wide == sum(len(part["step"]) for part in run.scan(["step"], where="player == 1 and step >= 20"))


def test_rows_that_were_pruned_do_not_match(path, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(path, copy)
    prune(copy, Retention(keep_episodes=5))
    with open_run(copy) as run:
        assert_same(joined(list(run.scan(where="reward > 0"))), naive(run, "reward > 0", "transitions"))


def test_damage_is_told_or_skipped(path, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(path, copy)
    with open_run(copy) as run:
        block = next(block for block in run.blocks() if block.info.player == 1)
        shard, at = Path(block.reader.path), block.info.body_offset + block.info.body_bytes // 2
    data = bytearray(shard.read_bytes())
    data[at] ^= 4
    shard.write_bytes(data)
    with open_run(copy) as run:
        with pytest.raises(ShardError, match="checksum"):
            list(run.scan(where="player == 1"))
        skipped = list(run.scan(where="player == 1", damaged="skip"))
        whole = joined(list(run.scan(damaged="skip")))
        assert_same(joined(skipped), {name: values[whole["player"] == 1] for name, values in whole.items()})


def test_a_condition_that_is_none_is_refused_at_once(path):
    with open_run(path) as run:
        for where, said in (("reward >", "where"), ("colour == 1", "colour"), ("policy == 'nobody'", "nobody")):
            for read in (run.scan, run.shuffled):
                with pytest.raises(UsageError, match=said):
                    read(where=where)
