"""Generations: rewritten episodes count once, from one rename on, and what they replace goes without being missed."""

from __future__ import annotations

import shutil
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from written_runs import write_vectors

from expkit.errors import Busy, NotThere
from expkit.formats.shard.encode import BlockEncoder
from expkit.reading.opening import open_run
from expkit.reading.run import Run
from expkit.reading.summary import balance, listed_rows, present_rows
from expkit.rewrite.generation import Generation, carried, retired_shards, sweep
from expkit.runs.layout import ShardPath, list_shards
from expkit.runs.locks import maintenance
from expkit.runs.superseding import Layer, Superseding, next_shard_number, ranges_of, used_writers
from expkit.runs.write import RunWriter

NUMBERS = st.integers(0, 60)


def all_rows(path: Path) -> dict[tuple[int, int, int], bytes]:
    """A digest of every row that counts, by address; fails on one that counts twice."""
    out: dict[tuple[int, int, int], bytes] = {}
    with open_run(path) as run:
        for batch in run.scan(rows="all"):
            for i in range(len(batch["episode"])):
                key = int(batch["episode"][i]), int(batch["player"][i]), int(batch["step"][i])
                assert key not in out, f"row {key} counts twice"
                row = b"".join(batch[name][i].tobytes() for name in sorted(batch))
                out[key] = blake2b(row, digest_size=16).digest()
    return out


def rewrite(path: Path, episodes: list[int], publish: bool = True, retires: tuple[str, ...] = (), **header: Any) -> str:
    """Copy whole episodes into a shard of a new generation, by hand."""
    with open_run(path) as run, Generation(path, run.info, "test") as generation:
        shard = generation.begin(supersedes=ranges_of(episodes), retires=retires, **header)
        chosen = [run.find_episode(number) for number in episodes]
        shard.append_episodes([e.start for e in chosen if e.start], [e.end for e in chosen if e.end])
        encoder = BlockEncoder(run.schema)
        for number in episodes:
            for segment in run.index.find(number, 0).tolist():
                first, rows = int(run.index.first_row[segment]), int(run.index.rows[segment])
                reader = run.reader(int(run.index.shard[segment]))
                stored = reader.read_block(int(run.index.block[segment]), rows=slice(first, first + rows))
                shard.append_block(encoder.encode(0, stored, rows))
        return generation.publish() if publish else ""


@given(st.lists(st.lists(NUMBERS, max_size=8), max_size=4), st.lists(NUMBERS, max_size=30), st.integers(0, 4))
def test_hidden_is_what_a_set_of_numbers_says(layers: list[list[int]], asked: list[int], generation: int) -> None:
    made = []
    for number, episodes in enumerate(layers, 1):
        ranges = ranges_of(episodes)
        assert {e for low, high in ranges for e in range(low, high + 1)} == set(episodes)
        if ranges:
            table = np.array(ranges, np.uint64)
            made.append(Layer(number, table[:, 0], table[:, 1]))
    superseding = Superseding(made)
    twin = [any(e in set(layer) for g, layer in enumerate(layers, 1) if g > generation) for e in asked]
    assert superseding.hidden(generation, np.array(asked, np.uint64)).tolist() == twin
    for episode, gone in zip(asked, twin, strict=True):
        assert not gone or superseding.may_hide(generation, episode, episode)
    if asked and not superseding.may_hide(generation, min(asked), max(asked)):
        assert not any(twin)


def test_rewritten_episodes_count_once(tmp_path: Path) -> None:
    path = write_vectors(tmp_path / "run", episodes=6, shard_rows=10)
    before = all_rows(path)
    with open_run(path) as run:
        balanced = balance(run)
    rewrite(path, [1, 2, 4])
    assert all_rows(path) == before
    with open_run(path) as run:
        assert len(run) == len(before)
        assert run.steps == 36
        assert [e.number for e in run.episodes()] == list(range(6))
        assert present_rows(run) == listed_rows(run) == {0: 42}
        assert balance(run) == balanced
        assert {name for name, rows in ((s.name, s.rows) for s in run.shards) if rows} >= {"g1/000000"}
    rewrite(path, [0, 1, 2, 3, 4, 5])
    assert all_rows(path) == before


def test_a_shard_not_published_does_not_count(tmp_path: Path) -> None:
    path = write_vectors(tmp_path / "run", episodes=3)
    before = all_rows(path)
    rewrite(path, [0, 1], publish=False)
    assert all_rows(path) == before
    assert list_shards(path, unfinished=True) == list_shards(path)


def test_retired_shards_are_swept_when_nobody_reads(tmp_path: Path) -> None:
    path = write_vectors(tmp_path / "run", episodes=4, shard_rows=10)
    before = all_rows(path)
    old = tuple(shard.name for shard in list_shards(path))
    with open_run(path) as early:
        rewrite(path, [0, 1, 2, 3], retires=old)
        assert [shard.name for shard in retired_shards(path)] == list(old)
        with maintenance(path):
            assert sweep(path) == (0, 0)
        assert sum(len(batch["episode"]) for batch in early.scan(rows="all")) == len(before)
    with maintenance(path):
        files, freed = sweep(path)
    assert files == len(old)
    assert freed > 0
    assert [shard.name for shard in list_shards(path)] == ["g1/000000"]
    assert all_rows(path) == before


def test_a_tombstone_hides_episodes_and_accounts_for_them(tmp_path: Path) -> None:
    path = write_vectors(tmp_path / "run", episodes=4)
    with open_run(path) as run, Generation(path, run.info, "prune") as generation:
        generation.begin(supersedes=[(0, 1)], removed=[(0, 0, 14, 0)])
        generation.publish()
    with open_run(path) as run:
        assert [e.number for e in run.episodes()] == [2, 3]
        assert len(run) == 14
        (player,) = balance(run) or []
        assert (player.produced, player.present, player.pruned, player.lost) == (28, 14, 14, 0)
        with pytest.raises(NotThere):
            run.find_episode(0)
    with open_run(path) as run:
        assert [batch["episode"].tolist() for batch in run.scan(rows="all")] == [[2] * 7 + [3] * 7]
        assert set(run.sample(50)["episode"].tolist()) == {2, 3}


def test_a_retired_name_is_never_used_again(tmp_path: Path) -> None:
    path = write_vectors(tmp_path / "run", episodes=2)
    rewrite(path, [0, 1], retires=("w0/000000",))
    with maintenance(path):
        sweep(path)
    assert next_shard_number(path, 0) == 1
    schema = Run(path).schema
    writer = RunWriter(path, schema, 1, writer=0)
    writer.append_meta({"annotate": {"episode": "1", "metadata": {"seen": True}}})
    writer.close()
    with open_run(path) as run:
        assert [shard.name for shard in run.shard_paths] == ["g1/000000", "w0/000001"]
        assert run.find_episode(1).metadata == {"seen": True}


def test_one_operation_at_a_time(tmp_path: Path) -> None:
    path = write_vectors(tmp_path / "run")
    with open_run(path) as run, Generation(path, run.info, "test"), pytest.raises(Busy, match="maintenance"):
        Generation(path, run.info, "test")


def test_accounts_add_up() -> None:
    headers = [{"removed": [[0, 0, 5, 1], [1, 0, 2, 0]]}, {"removed": [[0, 0, 3, 0]]}, {"removed": "nonsense"}, {}]
    assert carried(headers) == [(0, 0, 8, 1), (1, 0, 2, 0)]


def test_the_order_of_shards_is_oldest_rows_first() -> None:
    def shard(writer: int | None, generation: int, number: int) -> ShardPath:
        return ShardPath(Path(), writer, generation, number, False)

    given = [shard(1, 0, 0), shard(0, 0, 3), shard(None, 2, 0), shard(None, 1, 5), shard(0, 0, 1)]
    names = [entry.name for entry in sorted(given, key=lambda entry: entry.order)]
    assert names == ["g1/000005", "g2/000000", "w0/000001", "w0/000003", "w1/000000"]


def test_the_number_of_a_writer_is_used_for_good(tmp_path: Path) -> None:
    """Also in a copy without locks, where compacting took the last shard of a writer, and with the ledger gone."""
    path = write_vectors(tmp_path / "run", episodes=2)
    rewrite(path, [0, 1], retires=("w0/000000",))
    with maintenance(path):
        sweep(path)
    shutil.rmtree(path / "locks")
    (path / "shards" / "w0").rmdir()
    assert used_writers(path) == {0}
    ledger = (path / "counters").read_bytes()
    (path / "counters").unlink()
    assert used_writers(path) == {0}
    (path / "counters").write_bytes(ledger)
    writer = RunWriter(path, Run(path).schema, 1)
    assert writer.writer == 1
    writer.close()
    assert used_writers(path) == {0, 1}
