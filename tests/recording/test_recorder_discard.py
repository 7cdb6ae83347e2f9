"""`Recorder.discard`: a discarded episode is gone for every reader and accounted for in the ledger, whatever is done to
the run afterwards."""

import os
import signal
import subprocess
import sys
import textwrap
import threading

import numpy as np
import pytest
from patience import PATIENCE

from expkit import Field, Recorder, Schema, open_run
from expkit.errors import SchemaError
from expkit.reading.summary import balance
from expkit.rewrite.compact import compact
from expkit.runs.locks import maintenance
from expkit.validation.validate import validate_run

SCHEMA = Schema([Field("observation", "f4", (2,), "observation"), Field("action", "i8", belongs="action")])


def play(rec, episodes, length=5, player=0):
    """Rows of the row form; each says in its reward which episode it is of."""
    for episode in episodes:
        for step in range(length):
            rec.add(player=player, episode=episode, step=step, observation=[episode, step], action=0, reward=episode)
        rec.end(episode=episode, player=player, observation=[episode, length], ended="terminated")


def check(path, gone, kept, length=5, player=0):
    with open_run(path) as run:
        assert [e.number for e in run.episodes()] == sorted(kept)
        assert (len(run), run.steps) == (len(kept) * (length + 1), len(kept) * length)
        found = np.concatenate([batch["reward"] for batch in run.scan(["reward"])]) if kept else np.empty(0)
        assert sorted(set(found.tolist())) == sorted(kept)
        if kept:
            assert set(np.unique(run.sample(200, np.random.default_rng(0))["episode"])) <= set(kept)
        assert [f for f in validate_run(run, "full") if f.severity == "error"] == []
        ledger = balance(run)[player]
    rows = length + 1
    assert (ledger.produced, ledger.written) == ((len(gone) + len(kept)) * rows,) * 2
    assert (ledger.present, ledger.pruned) == (len(kept) * rows, len(gone) * rows)


def test_discarded_episodes_are_gone_and_accounted_for(tmp_path):
    with Recorder(tmp_path / "run", SCHEMA, min_free=0) as rec:
        play(rec, range(6))
        rec.discard(1)
        rec.discard_batch(np.array([3, 4]))
        rec.flush()
        check(tmp_path / "run", [1, 3, 4], [0, 2, 5])  # while it is being recorded
        play(rec, range(6, 8))
        rec.discard(7)
        with pytest.raises(SchemaError, match="episode 1 player 0 has ended"):
            play(rec, [1])
    check(tmp_path / "run", [1, 3, 4, 7], [0, 2, 5, 6])
    compact(tmp_path / "run")
    check(tmp_path / "run", [1, 3, 4, 7], [0, 2, 5, 6])


def test_an_open_episode_goes_on_and_is_out_when_it_is_over(tmp_path):
    with Recorder(tmp_path / "run", SCHEMA, min_free=0) as rec:
        play(rec, [0])
        rec.add(episode=1, step=0, observation=[1, 0], action=0, reward=1)
        rec.discard(1)
        rec.flush()
        assert open_run(tmp_path / "run").find_episode(1).metadata == {"discarded": True}
        for step in range(1, 5):
            rec.add(episode=1, step=step, observation=[1, step], action=0, reward=1)
        rec.end(episode=1, observation=[1, 5])
        rec.flush()
        check(tmp_path / "run", [1], [0])
        play(rec, [2])
        rec.add(episode=3, step=0, observation=[3, 0], action=0, reward=3)
        rec.discard(3)
    with open_run(tmp_path / "run") as run:
        assert [e.number for e in run.episodes()] == [0, 2]
        assert balance(run)[0].pruned == 7


def test_episodes_of_a_vector(tmp_path):
    with Recorder(tmp_path / "run", SCHEMA, num_envs=3, autoreset="same_step", min_free=0) as rec:
        rec.reset(observation=np.zeros((3, 2)))
        for step in range(20):
            done = np.arange(3) == step % 3
            numbers = rec.step(
                action=np.zeros(3, int), reward=np.zeros(3), terminated=done, observation=np.ones((3, 2)),
                final=np.zeros((3, 2)),
            )  # fmt: skip
            rec.discard_batch(numbers[done & (step % 2 == 0)])
    with open_run(tmp_path / "run") as run:
        assert {e.ended for e in run.episodes()} == {"terminated", "interrupted"}
        assert len(run.episodes()) == 20 - 10 + 3 - 1  # that of environment 1 begins with a step to come
        assert [f for f in validate_run(run, "full") if f.severity == "error"] == []
        player = balance(run)[0]
        assert player.produced == player.present + player.pruned == 60 + 22


def test_going_on_after_a_discard(tmp_path):
    with Recorder(tmp_path / "run", SCHEMA, min_free=0) as rec:
        play(rec, range(3))
        rec.discard_batch([0, 1, 2])
    check(tmp_path / "run", [0, 1, 2], [])
    with Recorder(tmp_path / "run", SCHEMA, mode="a", writer=0, min_free=0) as rec:
        assert rec.new_episode() == 3
        play(rec, [4])
        rec.discard(3)
    with open_run(tmp_path / "run") as run:
        assert [e.number for e in run.episodes()] == [4]


def test_what_never_began_is_refused(tmp_path):
    with Recorder(tmp_path / "run", SCHEMA, min_free=0) as rec:
        play(rec, [0])
        with pytest.raises(SchemaError, match="episode 5 has not begun"):
            rec.discard_batch([0, 5])
    check(tmp_path / "run", [], [0])


def test_other_maintenance_is_waited_for(tmp_path):
    with Recorder(tmp_path / "run", SCHEMA, min_free=0) as rec:
        play(rec, range(2))
        rec.discard(0)
        lock = maintenance(tmp_path / "run")
        flushing = threading.Thread(target=rec.flush)
        flushing.start()
        flushing.join(0.3)
        assert flushing.is_alive()
        lock.release()
        flushing.join()
        check(tmp_path / "run", [0], [1])


def test_a_kill_before_it_is_out_leaves_it_marked(tmp_path):
    script = textwrap.dedent("""
        import os, signal, sys
        from expkit import Field, Recorder, Schema
        schema = Schema([Field("observation", "f4", (2,), "observation"), Field("action", "i8", belongs="action")])
        rec = Recorder(sys.argv[1], schema, min_free=0, flush_interval=1000)
        for episode in range(2):
            rec.add(episode=episode, step=0, observation=[0, 0], action=0, reward=0)
            rec.end(episode=episode, observation=[0, 0], ended="terminated")
        rec.flush()
        rec.discard(1)
        rec.collector.flush()  # as the flush interval does; nothing is taken out
        os.kill(os.getpid(), signal.SIGKILL)
    """)
    done = subprocess.run([sys.executable, "-c", script, tmp_path / "run"], env={**os.environ}, timeout=PATIENCE)
    assert done.returncode == -signal.SIGKILL
    with open_run(tmp_path / "run") as run:
        assert [e.metadata for e in run.episodes()] == [{}, {"discarded": True}]
