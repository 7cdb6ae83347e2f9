"""A script that forks while it records. Called with a folder; `child` says what the child does.

uses    tries every way to record and prints what each came to, leaves the `with` and exits as Python does
stays   prints its number and lives on, when the recorder is long dead
"""

import os
import signal
import sys
from pathlib import Path

import numpy as np

from expkit import Field, Recorder, Schema
from expkit.errors import ExpkitError

SCHEMA = Schema([Field("observation", "f4", (64,), "observation"), Field("action", "u1", belongs="action")])
ROWS = 2000


def tries(recorder):
    row = {"observation": np.zeros(64, "f4"), "action": 1, "reward": 0.0}
    batch = {"observation": np.zeros((2, 64), "f4"), "action": [1, 1], "reward": [0.0, 0.0]}
    yield "add", lambda: recorder.add(episode=0, step=ROWS, **row)
    yield "add_batch", lambda: recorder.add_batch(episode=0, step=[ROWS, ROWS + 1], **batch)
    yield "end", lambda: recorder.end(episode=0, observation=np.zeros((1, 64), "f4"), ended="truncated")
    yield "reset", lambda: recorder.reset(observation=np.zeros(64, "f4"))
    yield "new_episode", recorder.new_episode
    yield "annotate", lambda: recorder.annotate(0, wrong=True)
    yield "discard", lambda: recorder.discard(0)
    yield "set_policy", lambda: recorder.set_policy(0, "child")
    yield "subscribe", recorder.subscribe
    yield "flush", recorder.flush


def main(folder, child):
    with Recorder(folder, SCHEMA, memory="4MiB", overflow="spill", min_free=0, flush_interval=3600) as recorder:
        for step in range(ROWS):
            recorder.add(episode=0, step=step, observation=np.full(64, step, "f4"), action=step % 5, reward=0.0)
        pid = os.fork()
        if pid and child == "stays":
            os.kill(os.getpid(), signal.SIGKILL)
        if not pid and child == "stays":
            Path(f"{folder}.child").write_text(str(os.getpid()))
            signal.pause()
        if not pid:
            for name, use in tries(recorder):
                try:
                    use()
                    print(name, "worked", flush=True)
                except ExpkitError as error:
                    print(name, type(error).__name__, error, flush=True)
        else:
            assert os.waitpid(pid, 0)[1] == 0
            recorder.end(episode=0, observation=np.zeros(64, "f4"), ended="truncated")
            recorder.flush()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
