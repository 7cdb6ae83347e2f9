"""kill -9 of recorders at random moments: what was reported durable is there, what is lost is told."""

import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest
from accounts import balances, ledger_words, rows_by_player
from known_rows import wrong_rows
from patience import wait_until
from warm_processes import Server

from expkit import open_run
from expkit.runs.layout import list_shards

RECORD = ("--size", "12x12", "--num-envs", "2", "--threads", "1", "--flush-interval", "100ms", "--forever", "-q")


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with Server(tmp_path_factory.mktemp("server") / "log") as started:
        yield started


class Recording:
    """A real `expkit record` process: forked by the server, or with `cold` one that starts Python by itself."""

    def __init__(self, server, path, rng, *, cold):
        options = ["--players", rng.choice([2, 3]), "--shard-rows", rng.choice([300, 1500, 10**6]), "--seed", 1]
        words = ["record", "-o", path, *RECORD, *options, *(["--state"] if rng.random() < 0.2 else [])]
        self.path, self._server, self._cold = path, server, None
        if cold:
            self._cold = subprocess.Popen(
                [sys.executable, "-m", "expkit.commands", *map(str, words)],
                env={**os.environ, "EXPKIT_MIN_FREE": "0"}, stderr=subprocess.PIPE,
            )  # fmt: skip
            self._pid = self._cold.pid
        else:
            self._pid = server.start("expkit", *words)

    def wait_until_it_writes(self):
        wait_until(lambda: list_shards(self.path), "a recorded row", every=0.005)

    def kill(self):
        """The rows that were reported durable, by player, read right before."""
        promised = [player.durable for player in ledger_words(self.path)]
        os.kill(self._pid, signal.SIGKILL)
        if self._cold is not None:
            self._cold.communicate()
        code = self._server.wait(self._pid) if self._cold is None else self._cold.returncode
        assert code == -signal.SIGKILL, f"it had ended before, with {code}"
        return promised


def rows_lost(server, path, promised):
    """Look at what a kill left with the commands a user has; gives (rows promised, rows of these that are gone)."""
    if not (path / "run.yaml").exists():
        assert not any(promised)
        return 0, 0
    present = rows_by_player(path)
    gone = sum(max(rows - present[player], 0) for player, rows in enumerate(promised))
    balances(path, present)
    words = ledger_words(path)
    code, text = server.answer("expkit", "validate", path, "--full", "--json", codes=(0, 3))
    said = json.loads(text)
    lost = sum(player.produced - player.dropped - player.rejected for player in words) - present.total()
    assert said["found"]["error"] == 0
    assert (said["rows"], said["lost"]) == (present.total(), lost)
    assert code == (3 if lost else 0)
    _, text = server.answer("expkit", "inspect", path, "--json")
    assert f'"rows":{present.total()},' in text.replace(" ", "")
    return sum(promised), gone


def kill_recordings(server, folder, tried, kills, cold, seed, longest):
    """`kills` kills, up to `longest` seconds after the first row; `cold` of them of processes that start Python
    themselves, two of these at a time."""
    rng = random.Random(seed)
    promised = gone = 0
    for number in range(0, kills, 2):
        recordings = [Recording(server, folder / str(number + i), rng, cold=number + i < cold) for i in range(2)]
        for recording in recordings:
            if rng.random() < 0.8:
                recording.wait_until_it_writes()
                time.sleep(rng.random() ** 2 * longest)
            else:  # while it starts
                time.sleep(rng.random() * (2 if number < cold else 0.3))
            durable = recording.kill()
            looked, missing = rows_lost(server, recording.path, durable)
            promised += looked
            gone += missing
    tried("kill", gone, kills=kills, durable_rows=promised)
    assert promised or kills < 4


def test_a_killed_recording_gives_back_what_was_durable(server, tmp_path, tried):
    kill_recordings(server, tmp_path, tried, kills=8, cold=1, seed=1, longest=0.6)


@pytest.mark.slow
@pytest.mark.parametrize("part", range(4))
def test_many_killed_recordings_give_back_what_was_durable(server, tmp_path, tried, part):
    kill_recordings(server, tmp_path, tried, kills=50, cold=10, seed=10 + part, longest=2)


def kill_rotations(server, folder, tried, kills, seed):
    """A recorder asked to rotate and killed at once, at most as long after as a rotation takes. Its rows are known."""
    rng = random.Random(seed)
    promised = gone = 0
    for number in range(kills):
        path = folder / str(number)
        pid = server.start("known_rows:record_until_killed", path)
        wait_until(lambda path=path: any(player.durable for player in ledger_words(path)), every=0.002)
        time.sleep(rng.random() * 0.05)
        asking = server.start("expkit", "rotate", path, "-q")
        time.sleep(rng.random() * 0.08)
        durable = [player.durable for player in ledger_words(path)]
        os.kill(pid, signal.SIGKILL)
        if rng.random() < 0.5:
            os.kill(asking, signal.SIGKILL)
        server.wait(pid)
        server.wait(asking)
        looked, missing = rows_lost(server, path, durable)
        promised += looked
        with open_run(path) as run:
            gone += missing + sum(map(wrong_rows, run.scan(rows="all")))
    tried("kill", gone, kills=kills, durable_rows=promised)


def test_a_recorder_killed_as_it_rotates(server, tmp_path, tried):
    kill_rotations(server, tmp_path, tried, kills=6, seed=2)


@pytest.mark.slow
def test_many_recorders_killed_as_they_rotate(server, tmp_path, tried):
    kill_rotations(server, tmp_path, tried, kills=100, seed=20)
