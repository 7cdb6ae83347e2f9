"""Recorders that begin one run at the same moment: one begins it, the others join, always."""

import subprocess
import sys
import textwrap

import pytest
from patience import PATIENCE

from expkit import Field, Recorder, Schema, open_run
from expkit.runs import resume
from expkit.runs.layout import RUN_FILE, RunInfo, new_run_id
from expkit.runs.write import make_run

SCHEMA = Schema([Field("observation", "f4", (2,), "observation"), Field("action", "u1", belongs="action")])
ROUNDS, WORKERS = 12, 10

AT_ONCE = """
    import os, sys, traceback
    import numpy as np
    from expkit import Field, Recorder, Schema

    SCHEMA = Schema([Field("observation", "f4", (2,), "observation"), Field("action", "u1", belongs="action")])
    rounds, workers = int(sys.argv[1]), int(sys.argv[2])

    def work(path):
        with Recorder(path, SCHEMA, mode="a", min_free=0, memory="8MiB") as recorder:
            episode = recorder.new_episode()
            recorder.add(episode=episode, step=0, observation=np.zeros(2, "f4"), action=1, reward=0)

    for number in range(rounds):
        begin, go = os.pipe()
        children = []
        for _ in range(workers):
            child = os.fork()
            if not child:
                code = 1
                try:
                    os.close(go)
                    os.read(begin, 1)  # all at once: the pipe is closed
                    work(f"run{number}")
                    code = 0
                except BaseException:
                    traceback.print_exc()
                finally:
                    os._exit(code)
            children.append(child)
        os.close(go)
        os.close(begin)
        codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
        assert codes == [0] * workers, codes
"""


def test_many_processes_begin_a_run_at_once(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(AT_ONCE), str(ROUNDS), str(WORKERS)],
        cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for number in range(ROUNDS):
        with open_run(tmp_path / f"run{number}") as run:
            assert len(run) == WORKERS
            assert sorted(episode.number >> 48 for episode in run.episodes()) == list(range(WORKERS))


LOOKS = ["is_begun", "check_output", "_is_unfinished", "list_shards", "make_folder"]


@pytest.mark.parametrize("other", ["made", "recorded"])
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("look", LOOKS)
@pytest.mark.parametrize("begun", ["nothing", "folders"])
def test_a_run_that_another_begins_between_two_looks_is_joined(tmp_path, monkeypatch, look, after, other, begun):
    run, waiting = tmp_path / "run", True
    if begun == "folders":  # whoever makes it has come as far as this
        for name in ("shards", "locks"):
            (run / name).mkdir(parents=True)
    real = getattr(resume, look)

    def another():
        if other == "made":
            make_run(run, RunInfo(new_run_id(), "recorder", SCHEMA, ["player0"]))
        else:
            Recorder(run, SCHEMA, mode="a", min_free=0, memory="8MiB").close()

    def looked(*args, **options):
        nonlocal waiting
        mine, waiting = waiting, False
        if mine and not after:
            another()
        try:
            return real(*args, **options)
        finally:
            if mine and after:
                another()

    monkeypatch.setattr(resume, look, looked)
    with Recorder(run, SCHEMA, mode="a", min_free=0, memory="8MiB") as recorder:
        assert recorder.writer == (1 if other == "recorded" and not waiting else 0)
    assert (run / RUN_FILE).exists()
