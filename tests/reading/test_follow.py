"""Following a run that other processes record, rotate, compact and prune: each row once, and an end."""

from __future__ import annotations

import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from patience import PATIENCE, wait_until

from expkit import Recorder, Schema, open_run
from expkit.errors import UsageError
from expkit.rewrite.compact import compact
from expkit.rewrite.prune import Retention, prune
from expkit.row.schema import Field

SCHEMA = Schema([Field("observation", "f4", (4,), "observation"), Field("action", "i4", belongs="action")])
RECORD = """
import sys
import numpy as np
from expkit import Field, Recorder, Schema
path, episodes, ahead = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
schema = Schema([Field("observation", "f4", (4,), "observation"), Field("action", "i4", belongs="action")])
with Recorder(path, schema, players=2, min_free=0, flush_interval=0.05, shard_rows=400) as recorder:
    for number in range(episodes):
        steps = np.arange(60)
        for player in (0, 1):
            seen = np.full((60, 4), number, np.float32)
            recorder.add_batch(
                player=player, episode=number, step=steps, observation=seen, action=steps, reward=np.ones(60)
            )
        recorder.end(episode=number, observation=np.zeros((2, 4)))
        if number >= ahead:
            sys.stdin.readline()
"""


def recording(path: Path, episodes: int, ahead: int = 8) -> subprocess.Popen:
    """A recorder that is at most `ahead` episodes ahead of the lines that `go_on` gives it."""
    child = subprocess.Popen(
        [sys.executable, "-c", RECORD, str(path), str(episodes), str(ahead)], stdin=subprocess.PIPE, text=True
    )

    def begun() -> bool:
        assert child.poll() is None
        return (path / "run.yaml").exists() and bool(list(path.glob("shards/w*/*")))

    wait_until(begun)
    return child


def go_on(child: subprocess.Popen) -> None:
    """One more episode, of a recorder that is still at work."""
    with suppress(BrokenPipeError):
        child.stdin.write("\n")
        child.stdin.flush()


def end(child: subprocess.Popen) -> None:
    child.kill()
    child.wait()
    with suppress(BrokenPipeError):
        child.stdin.close()


def keys(batches) -> list[tuple[int, int, int]]:
    names = ("episode", "player", "step")
    return [key for batch in batches for key in zip(*(batch[name].tolist() for name in names), strict=True)]


def once(found: list[tuple[int, int, int]]) -> set[tuple[int, int, int]]:
    assert len(set(found)) == len(found)
    return set(found)


def test_rows_come_while_they_are_recorded_through_rotation_and_compaction(tmp_path):
    path = tmp_path / "run"
    child = recording(path, 60)
    try:
        with open_run(path) as run:
            batches, alive = [], 0
            for batch in run.follow(["action"], poll=0.02):
                batches.append(batch)
                alive += child.poll() is None
                go_on(child)
                if len(batches) % 15 == 0:
                    compact(path)
        assert child.wait(PATIENCE) == 0
    finally:
        end(child)
    assert alive > 10, "rows came while the recorder was at work"
    assert list(path.glob("shards/g*"))
    found = once(keys(batches))
    with open_run(path) as run:
        assert found == once(keys(run.scan(["action"])))
    assert len(found) == 60 * 2 * 60
    assert all((np.diff(batch["episode"].astype(np.int64)) >= 0).all() for batch in batches)


def test_a_killed_recorder_ends_it_with_every_durable_row(tmp_path):
    path = tmp_path / "run"
    child = recording(path, 10_000)
    batches = []
    try:
        with open_run(path) as run:
            for batch in run.follow(poll=0.02, rows="all"):
                batches.append(batch)
                go_on(child)
                if len(batches) == 20:
                    child.send_signal(signal.SIGKILL)
    finally:
        end(child)
    with open_run(path) as run:
        assert run.state == "killed"
        assert once(keys(batches)) == once(keys(run.scan(rows="all")))


def write(path: Path, episodes: range) -> None:
    with Recorder(path, SCHEMA, players=1, min_free=0, shard_rows=100) as recorder:
        for episode in episodes:
            recorder.add_batch(
                player=0, episode=episode, step=np.arange(30), observation=np.zeros((30, 4)), action=np.arange(30),
                reward=np.arange(30),
            )  # fmt: skip
            recorder.end(episode=episode, player=0, observation=np.zeros(4))


def test_what_was_rewritten_before_it_was_given_comes_once(tmp_path):
    """The follower has had one block, when all shards are compacted and old ones pruned."""
    path = tmp_path / "run"
    with Recorder(path, SCHEMA, players=1, min_free=0, shard_rows=100) as recorder:
        for step in range(30):
            recorder.add(episode=0, step=step, observation=np.zeros(4), action=step, reward=step)
            recorder.flush()
        with open_run(path) as run:
            following = run.follow(poll=0.01, where="reward >= 10")
            batches = [next(following) for _ in range(5)]
            recorder.end(episode=0, player=0, observation=np.zeros(4))
            for episode in range(1, 9):
                recorder.add_batch(
                    player=0, episode=episode, step=np.arange(30), observation=np.zeros((30, 4)), action=np.arange(30),
                    reward=np.arange(30),
                )  # fmt: skip
                recorder.end(episode=episode, player=0, observation=np.zeros(4))
            recorder.flush()
            recorder.collector.writer.rotate()
            compact(path)
            batches += [next(following) for _ in range(3)]
    compact(path)
    batches += following
    assert once(keys(batches)) == {(episode, 0, step) for episode in range(9) for step in range(10, 30)}


def test_a_closed_run_is_given_and_ends_at_once_and_it_can_be_stopped(tmp_path):
    path = tmp_path / "run"
    write(path, range(12))
    with open_run(path) as run:
        assert len(once(keys(run.follow()))) == 360
        prune(path, Retention(keep_episodes=4))
        assert len(once(keys(run.follow()))) == 120
        following = run.follow(stop=lambda: True)
        assert len(list(following)) == 1
        with pytest.raises(UsageError, match="where"):
            run.follow(where="reward >")


def test_two_runs_are_followed_together_until_both_have_ended(tmp_path):
    children = [recording(tmp_path / name, episodes, ahead=25) for name, episodes in (("a", 6), ("b", 25))]
    with open_run([tmp_path / "a", tmp_path / "b"]) as runs:
        batches = list(runs.follow(["action"], poll=0.05))
    assert [child.wait(PATIENCE) for child in children] == [0, 0]
    for child in children:
        end(child)
    for place, episodes in enumerate((6, 25)):
        mine = [batch for batch in batches if batch["run"][0] == place]
        assert all((batch["run"] == place).all() for batch in mine)
        assert len(once(keys(mine))) == episodes * 2 * 60
    with open_run([tmp_path / "a", tmp_path / "b"]) as runs:
        assert len(keys(runs.follow(where="step < 10"))) == (6 + 25) * 2 * 10
