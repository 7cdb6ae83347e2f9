"""A rewrite that loses, doubles, swaps or changes a row is refused before anything is published."""

import random
import shutil
from pathlib import Path

import numpy as np
import pytest
from accounts import balances
from crash_machine import visible_rows
from known_rows import record_known

from expkit.errors import CheckFailed
from expkit.formats.shard import BlockEncoder
from expkit.rewrite.compact import compact
from expkit.runs.layout import list_shards


def lose(columns, rows, rng):
    return columns, rows - 1


def repeat(columns, rows, rng):
    """One row twice, in the place of another."""
    at = rng.randrange(1, rows)
    return {name: np.concatenate([v[:at], v[at - 1 : at], v[at + 1 : rows]]) for name, v in columns.items()}, rows


def change_a_bit(columns, rows, rng):
    name = rng.choice(["observation", "action", "reward", "time_ns", "policy_version", "step"])
    changed = {name: np.ascontiguousarray(values[:rows]).copy() for name, values in columns.items()}
    raw = changed[name].view(np.uint8).reshape(-1)
    raw[rng.randrange(len(raw))] ^= 1 << rng.randrange(8)
    return changed, rows


def swap_values(columns, rows, rng):
    """The rewards of two rows: sums of columns would not notice."""
    changed = columns["action"][:rows].copy()
    one, other = rng.sample(range(rows), 2)
    if changed[one] == changed[other]:
        changed[one] ^= 1
    changed[[one, other]] = changed[[other, one]]
    return {**columns, "action": changed}, rows


WRONG = (lose, repeat, change_a_bit, swap_values)


def rewrite(folder, tried, monkeypatch, runs, seed):
    """Runs of random layout, each rewritten rightly and, at a random block, wrongly in each way."""
    rng, encode = random.Random(seed), BlockEncoder.encode
    done = refused = published = 0
    for number in range(runs):
        run = folder / f"run{number}"
        record_known(run, rng.randrange(5, 40), seed=rng.random(), shard_rows=rng.choice([60, 300, 1000]))
        before, shards = visible_rows(run), list_shards(run)
        for way in WRONG:
            left = rng.randrange(2)

            def encoded(self, player, columns, rows, *more, way=way, **named):
                nonlocal left
                left -= 1
                if left == -1 and rows > 2:
                    columns, rows = way(columns, rows, rng)
                return encode(self, player, columns, rows, *more, **named)

            copy = Path(shutil.copytree(run, folder / "copy"))
            monkeypatch.setattr(BlockEncoder, "encode", encoded)
            with pytest.raises(CheckFailed, match="nothing was published"):
                compact(copy, proving=rng.random() < 0.5, shard_size=rng.choice([8 << 10, 1 << 20]))
            monkeypatch.undo()
            refused += 1
            published += [shard.name for shard in list_shards(copy)] != [shard.name for shard in shards]
            assert visible_rows(copy) == before
            shutil.rmtree(copy)
        compact(run, proving=True, shard_size=rng.choice([8 << 10, 1 << 20]))
        done += 1
        published += visible_rows(run) != before
        balances(run)
    tried("rewrite", published, rewrites=done, wrong_ones_refused=refused)


def test_no_wrong_rewrite_is_published(tmp_path, tried, monkeypatch):
    rewrite(tmp_path, tried, monkeypatch, runs=5, seed=1)


@pytest.mark.slow
def test_no_wrong_rewrite_is_published_of_many(tmp_path, tried, monkeypatch):
    rewrite(tmp_path, tried, monkeypatch, runs=100, seed=2)
