"""Several processes record into one run, each as a writer of its own; training scripts are killed. What was durable is
there, and what was lost is counted exactly."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap

import numpy as np
from patience import PATIENCE
from warm_processes import expkit

from expkit import Field, Recorder, Schema, open_run
from expkit.reading.summary import balance
from expkit.validation.validate import validate_run

SCHEMA = Schema([Field("observation", "f4", (4,), "observation"), Field("action", "i8", belongs="action")])
ENVS = 4


def train(path, worker, steps, kill_after, said, **options):
    """A worker's loop over a real vector environment. With `kill_after` it flushes after so many steps, says how many
    rows that were, and waits for its end."""
    import gymnasium as gym

    env = gym.make_vec("CartPole-v1", ENVS, vectorization_mode="sync")
    rng = np.random.default_rng(worker)
    with Recorder(
        path, SCHEMA, mode="a", num_envs=ENVS, autoreset=env.metadata["autoreset_mode"], min_free=0, **options
    ) as rec:
        rec.set_policy(0, f"worker{worker}", version=worker)
        rec.reset(observation=env.reset(seed=worker)[0], seed=worker, metadata={"worker": worker})
        produced = 0
        done = np.zeros(ENVS, bool)
        for step in range(steps):
            action = rng.integers(0, 2, ENVS)
            observation, reward, terminated, truncated, _ = env.step(action)
            rec.step(action=action, reward=reward, terminated=terminated, truncated=truncated, observation=observation)
            produced += ENVS - done.sum()  # those that ended before reset themselves
            done = terminated | truncated
            produced += done.sum()  # their last rows
            if step + 1 == kill_after:
                rec.flush()
                said.send((rec.writer, int(produced)))
        if kill_after:
            signal.pause()
        said.send((rec.writer, None))


def test_spawned_workers_join_one_run_and_one_is_killed(tmp_path):
    context = multiprocessing.get_context("spawn")
    Recorder(tmp_path / "run", SCHEMA, min_free=0).close()  # made by the main process, which is writer 0
    pipes, workers = [], []
    for worker, kill_after in ((1, 0), (2, 40), (3, 0)):
        ours, theirs = context.Pipe()
        process = context.Process(target=train, args=(tmp_path / "run", worker, 60, kill_after, theirs))
        process.start()
        pipes.append(ours)
        workers.append(process)
    assert pipes[1].poll(60)
    killed, durable = pipes[1].recv()
    os.kill(workers[1].pid, signal.SIGKILL)
    writers = {worker: pipe.recv()[0] for worker, pipe in zip((1, 3), (pipes[0], pipes[2]), strict=True)}
    for process in workers:
        process.join(PATIENCE)
    assert [process.exitcode for process in workers] == [0, -signal.SIGKILL, 0]
    writers[2] = killed
    assert sorted(writers.values()) == [1, 2, 3]
    with open_run(tmp_path / "run") as run:
        assert run.state == "killed"
        by_writer = {writer: [] for writer in writers.values()}
        for episode in run.episodes():
            by_writer[episode.number >> 48].append(episode)
        for worker, writer in writers.items():
            episodes = by_writer[writer]
            assert {e.start.metadata["env_index"] for e in episodes} == set(range(ENVS))
            assert {e.start.seeds["env"] for e in episodes if e.start.seeds} == {worker + i for i in range(ENVS)}
            versions = {v for e in episodes for v in run.rows(e.number, 0)["policy_version"].tolist()}
            assert versions == {worker}
        names = [policy.name for policy in run.policies]
        assert sorted(names) == ["worker1", "worker2", "worker3"]
        kept = sum(sum(episode.rows.values()) for episode in by_writer[killed])
        ledger = next(one for one in run.counters if one.writer == killed)
        assert ledger.players[0].produced >= kept >= durable
        (counted,) = balance(run)
        assert counted.produced == counted.present + counted.lost
        assert counted.lost == ledger.players[0].produced - kept
        assert [f for f in validate_run(run, "full") if f.severity == "error"] == []


SCRIPT = textwrap.dedent("""
    import os, signal, sys
    import gymnasium as gym, numpy as np
    from expkit import Field, Recorder, Schema

    path = sys.argv[1]
    schema = Schema([Field("observation", "f4", (4,), "observation"), Field("action", "i8", belongs="action")])
    env = gym.make_vec("CartPole-v1", 4, vectorization_mode="sync", vector_kwargs={"autoreset_mode": "SameStep"})
    rng = np.random.default_rng(0)
    # Nothing flushes by itself, so that what is lost is known.
    rec = Recorder(path, schema, num_envs=4, autoreset="same_step", min_free=0, flush_interval=1e6)
    rec.reset(observation=env.reset(seed=1)[0])
    rows = 0

    def steps(count):
        global rows
        for _ in range(count):
            action = rng.integers(0, 2, 4)
            observation, reward, terminated, truncated, info = env.step(action)
            rec.step(action=action, reward=reward, terminated=terminated, truncated=truncated,
                     observation=observation, final=info.get("final_obs"))
            rows += 4 + int((terminated | truncated).sum())

    steps(50)
    rec.flush()
    print(rows, flush=True)
    steps(7)
    print(rows, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
""")


def test_a_killed_script_loses_what_came_after_its_last_flush_and_all_say_how_many(tmp_path):
    path = tmp_path / "run"
    killed = subprocess.run([sys.executable, "-c", SCRIPT, path], capture_output=True, text=True, timeout=PATIENCE)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    flushed, produced = map(int, killed.stdout.split())
    lost = produced - flushed
    assert lost >= 7 * 4
    with open_run(path) as run:
        assert (run.state, len(run)) == ("killed", flushed)
        (counted,) = balance(run)
        assert (counted.produced, counted.present, counted.lost) == (produced, flushed, lost)
        assert counted.durable == flushed
        assert [f for f in validate_run(run, "full") if f.severity == "error"] == []
    checked = expkit("validate", path, "--json")
    told = json.loads(checked.stdout)
    assert (told["rows"], told["produced"], told["lost"]) == (flushed, produced, lost)
    assert checked.returncode == 3
    recovered = expkit("recover", path)
    assert recovered.returncode == 3, recovered.stderr
    assert f"rows {flushed} kept, {lost} produced but never durable" in recovered.stdout + recovered.stderr
    with open_run(path) as run:
        (counted,) = balance(run)
        assert (counted.present, counted.lost, counted.acknowledged) == (flushed, lost, lost)
        assert run.state == "closed"
        assert {episode.ended for episode in run.episodes()} == {"terminated", "interrupted"}
    with Recorder(path, SCHEMA, mode="a", writer=0, num_envs=1, autoreset="same_step", min_free=0) as rec:
        rec.reset(observation=np.zeros((1, 4)))
        rec.step(action=[0], reward=[0], observation=np.zeros((1, 4)))
    with open_run(path) as run:
        assert len(run) == flushed + 2
        assert [f for f in validate_run(run, "full") if f.severity == "error"] == []


def test_threads_share_a_recorder(tmp_path):
    """The forms lock: rows of single episodes come from several threads while another one steps."""
    import threading

    def add(rec, mine):
        for episode in mine:
            for step in range(20):
                rec.add(episode=episode, step=step, observation=[episode] * 4, action=step, reward=0)
            rec.end(episode=episode, observation=[0] * 4)

    with Recorder(tmp_path / "run", SCHEMA, num_envs=2, autoreset="disabled", min_free=0) as rec:
        threads = [threading.Thread(target=add, args=(rec, range(1000 * n, 1000 * n + 10))) for n in (1, 2, 3)]
        for thread in threads:
            thread.start()
        rec.reset(observation=np.zeros((2, 4)))
        for step in range(200):
            done = np.full(2, step % 10 == 9)
            rec.step(action=[step] * 2, reward=[0, 0], truncated=done, observation=np.ones((2, 4)))
            if step % 10 == 9:
                rec.reset(observation=np.zeros((2, 4)))
            if step % 50 == 0:
                rec.flush()
        for thread in threads:
            thread.join()
    with open_run(tmp_path / "run") as run:
        assert [f for f in validate_run(run, "full") if f.severity == "error"] == []
        assert run.steps == 3 * 10 * 20 + 400
        assert len(run.episodes()) == 30 + 40
        for number in range(1000, 1010):
            assert run.episode(number, 0)["action"].tolist() == list(range(20))
