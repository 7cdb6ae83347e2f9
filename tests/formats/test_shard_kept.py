"""What readers keep of blocks, all files together."""

from __future__ import annotations

import gc
import threading

import numpy as np
from written_runs import VECTOR_SCHEMA

from expkit import Recorder, open_run
from expkit.formats.shard import read
from expkit.formats.shard.kept import Kept, KeptBytes


def test_the_oldest_go_first_whosever_they_are():
    bound, a, b = KeptBytes(100), Kept(), Kept()
    for key in range(4):
        bound.keep(a, key, f"a{key}", 20)
    bound.keep(b, 0, "b0", 20)
    assert (len(a), len(b), bound.nbytes) == (4, 1, 100)
    bound.keep(b, 1, "b1", 30)
    assert (sorted(a), sorted(b), bound.nbytes) == ([2, 3], [0, 1], 90)
    bound.keep(b, 2, "larger than all", 101)
    assert (len(a), len(b), bound.nbytes) == (0, 0, 0)


def test_what_is_there_is_not_counted_twice_and_what_is_gone_is_no_matter():
    bound, a = KeptBytes(100), Kept()
    bound.keep(a, 1, "one", 60)
    bound.keep(a, 1, "one", 60)
    assert bound.nbytes == 60
    del a
    gc.collect()
    b = Kept()
    bound.keep(b, 1, "one", 60)
    assert (dict(b), bound.nbytes) == ({1: "one"}, 60)


def test_threads_that_keep_at_the_same_time():
    bound, everyone = KeptBytes(1000), [Kept() for _ in range(4)]

    def work(number):
        for key in range(2000):
            bound.keep(everyone[(number + key) % 4], (number, key), key, 1 + key % 9)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    held = sum(1 + value % 9 for kept in everyone for value in kept.values())
    assert held == bound.nbytes <= 1000


def test_rows_are_the_same_when_next_to_nothing_is_kept(tmp_path, monkeypatch):
    with Recorder(tmp_path / "run", VECTOR_SCHEMA, min_free=0) as recorder:
        for episode in range(5):
            steps = np.arange(250)
            seen = np.stack([steps, steps + episode, -steps], 1)
            recorder.add_batch(episode=episode, step=steps, action=steps, reward=steps, observation=seen)
            recorder.flush()
    with open_run(tmp_path / "run") as run:
        expected = run.sample(500, np.random.default_rng(1))
    monkeypatch.setattr(read, "_HEADS", KeptBytes(1))
    monkeypatch.setattr(read, "_NARROW", KeptBytes(1))
    with open_run(tmp_path / "run") as run:
        given = run.sample(500, np.random.default_rng(1))
    assert all(np.array_equal(given[name], expected[name]) for name in expected)
