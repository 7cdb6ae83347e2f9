"""Readers beside a recorder, rotate, compact and prune, all at once: they see whole blocks, and no row twice."""

import itertools
import json
import os
import random
import signal
import time
from pathlib import Path

import pytest
from accounts import balances, rows_of_scan
from known_rows import wrong_rows
from patience import wait_until
from warm_processes import Server

from expkit import open_run
from expkit.errors import NotThere
from expkit.runs.layout import list_shards
from expkit.runs.locks import live_writers


def read_until_stopped(path, result, seed):
    """Open the run, scan it, look at rows one by one, hold it open for a while, scan it again, until there is a file
    `stop` beside it. All checksums are verified; a shard may be gone only because it was pruned."""
    run, rng, told = Path(path), random.Random(seed), {"scans": 0, "rows": 0, "wrong": 0, "gone": 0}

    def look(opened):
        wrong = 0

        def batches():
            nonlocal wrong
            for batch in opened.scan(rows="all"):
                wrong += wrong_rows(batch)
                yield batch

        told["rows"] += rows_of_scan(batches()).total()
        told["scans"] += 1
        told["wrong"] += wrong

    while not run.with_name("stop").exists():
        with open_run(run) as opened:
            if rng.random() < 0.5:
                time.sleep(0.4)  # what is rewritten meanwhile is opened below
            for _ in range(rng.randrange(1, 4)):
                try:
                    look(opened)
                    for episode in rng.sample(opened.episodes(), min(3, len(opened.episodes()))):
                        for player, rows in episode.rows.items():
                            assert opened.rows(episode.number, player)["step"].tolist() == list(range(rows))
                except NotThere as error:
                    if "pruned since" not in str(error):
                        raise
                    told["gone"] += 1
                    opened.refresh()
                time.sleep(rng.random() * 0.05)
                if rng.random() < 0.5:
                    opened.refresh()
    Path(result).write_text(json.dumps(told))


def read_what_was_open(path, result):
    """Hold one reader of each shard open that there is, and read them again and again though the files go."""
    run, told = Path(path), {"scans": 0, "rows": 0, "wrong": 0}
    opened = open_run(run)
    held = []
    for position in range(len(opened.shard_paths)):
        try:
            held.append(opened.reader(position))
        except NotThere:
            continue
    assert held
    while not run.with_name("stop").exists():
        for reader in held:
            for block in reader.blocks:
                columns = reader.read_block(block.index)
                told["rows"] += len(columns["step"])
                told["wrong"] += int((columns["observation"][:, 2] != columns["step"] + 0.25).sum())
        told["scans"] += 1
    Path(result).write_text(json.dumps(told))


def together(folder, tried, seconds, seed, *, pruning=True):
    run, rng = folder / "run", random.Random(seed)
    here = Path(__file__).stem
    with Server(folder / "log") as server:
        recorders = [server.start("known_rows:record_until_killed", run, 300, 0.005)]
        wait_until(lambda: len(list_shards(run)) >= 5)
        readers = {folder / f"read{i}": "read_until_stopped" for i in range(2)}
        pids = [server.start(f"{here}:{name}", run, out, seed) for out, name in readers.items()]
        kept = folder / "held"
        pids.append(server.start(f"{here}:read_what_was_open", run, kept))
        ended = time.monotonic() + seconds
        done = dict.fromkeys(("compact", "prune", "rotate") if pruning else ("compact", "rotate"), 0)
        for verb in itertools.cycle(done):
            if time.monotonic() > ended and all(done.values()):
                break
            words = {"prune": ("--keep-episodes", rng.randrange(20, 80), "--yes")}.get(verb, ())
            # A recorder that joins or a compaction at the same time may be in the way of another: exit 6.
            done[verb] += server.run("expkit", verb, run, *words, "-q", codes=(0, 6)) == 0
            if rng.random() < 0.1:
                os.kill(recorders[-1], signal.SIGKILL)
                assert server.wait(recorders[-1]) == -signal.SIGKILL
                recorders.append(server.start("known_rows:record_until_killed", run, 300, 0.005))
                wait_until(lambda: live_writers(run))  # rotate refuses a run that nobody records
        (folder / "stop").touch()
        assert server.wait(recorders[-1]) == 0
        said = (folder / "log").read_text
        for pid in pids:
            assert server.wait(pid) == 0, said()
    told = [json.loads(out.read_text()) for out in [*readers, kept]]
    assert all(one["rows"] for one in told)
    assert all(done.values())
    assert pruning or not any(one.get("gone") for one in told), "a shard was deleted that somebody had yet to read"
    balances(run)
    wrong = sum(one["wrong"] for one in told)
    tried("readers", wrong, scans=sum(one["scans"] for one in told), rows_read=sum(one["rows"] for one in told))


def test_readers_see_whole_blocks_whatever_goes_on(tmp_path, tried):
    together(tmp_path, tried, 4, seed=1)


def test_nothing_goes_that_is_read(tmp_path, tried):
    """Without pruning, a run that is open loses no shard."""
    together(tmp_path, tried, 3, seed=3, pruning=False)


@pytest.mark.slow
def test_readers_see_whole_blocks_for_long(tmp_path, tried):
    together(tmp_path, tried, 60, seed=2)
