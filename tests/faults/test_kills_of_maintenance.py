"""kill -9 of compact, merge, recover, prune and rotate at random moments, and again of what is started after that:
nothing lost, nothing doubled, and in the end what would have been without the kills."""

import os
import random
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from accounts import balances, ledger_words
from crash_machine import errors_of, visible_rows
from damaged_runs import what_is_at
from known_rows import record_known, wrong_rows
from patience import wait_until
from recordings import record_parts
from warm_processes import Server
from written_runs import flip_bit

from expkit import open_run
from expkit.errors import ShardError
from expkit.formats.shard import ShardReader
from expkit.runs.layout import list_shards


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with Server(tmp_path_factory.mktemp("server") / "log") as started:
        yield started


def many_shards(folder):
    """60 episodes in some ten shards, several of them in two shards, some open to the end."""
    record_parts(folder / "run", lambda keys: None, parts=60, steps=7, shard_rows=90)


def two_runs(folder):
    """Two runs of several shards, whose episodes have the same numbers."""
    record_known(folder / "one", 25, seed=1, shard_rows=300)
    record_known(folder / "two", 20, seed=2, shard_rows=250)


def damaged(folder):
    """Blocks that lost columns, a block that lost its head, a footer that is gone; and a writer that was killed."""
    many_shards(folder)
    rng, shards = random.Random(3), list_shards(folder / "run")
    for shard in shards[1:6]:
        with ShardReader(shard.path) as reader:
            blocks = reader.blocks
            hurt, at = blocks[rng.randrange(len(blocks))], 0
            while what_is_at(reader, at) != (hurt.index, "observation"):
                at = rng.randrange(hurt.body_offset, hurt.offset + hurt.nbytes)
        flip_bit(shard.path, hurt.offset + 40 if shard is shards[1] else at, rng.randrange(8))
    with open(shards[7].path, "r+b") as file:
        file.truncate(shards[7].path.stat().st_size - 200)
    Path(folder / "run" / "manifest.json").write_text("{")


def rows_of_damaged(run):
    """As `visible_rows`, by column and with None for a value that is lost, without blocks whose rows are not known."""
    rows = {}
    with open_run(run) as opened:
        for block in opened.blocks():
            columns = {}
            for name in block.reader.names:
                with suppress(ShardError):
                    columns[name] = block.read([name])[name]
            if "episode" not in columns:
                continue
            for at, key in enumerate(zip(columns["episode"].tolist(), columns["step"].tolist(), strict=True)):
                place = key[0], block.info.player, key[1]
                assert place not in rows, f"{place} is there twice"
                rows[place] = tuple(columns[n][at].tobytes() if n in columns else None for n in block.reader.names)
    return rows


@dataclass(frozen=True)
class Operation:
    """A command line; `run` is where its result is. `rows` gives what counts in it. What is not done `in_place` may be
    missing after a kill."""

    words: str
    prepare: Callable[[Path], None]
    run: str = "run"
    codes: tuple[int, ...] = (0,)
    rows: Callable[[Path], dict[Any, Any]] = visible_rows
    in_place: bool = True


OPERATIONS = {
    "compact": Operation("expkit compact {folder}/run --prove -q", many_shards),
    "compact to many": Operation("known_rows:compact_to_many {folder}/run", many_shards),
    "prune": Operation("expkit prune {folder}/run --keep-episodes 23 --yes -q", many_shards),
    "merge": Operation("expkit merge {folder}/one {folder}/two -o {folder}/run --force -q", two_runs, in_place=False),
    "rewrite": Operation(
        "expkit rewrite {folder}/run -o {folder}/run2 --where step<3 --force -q", many_shards, "run2", in_place=False
    ),
    "recover": Operation("expkit recover {folder}/run -q", damaged, codes=(0, 3), rows=rows_of_damaged),
}


def differences(before, after, now):
    """Rows lost, doubled or changed in `now`: what is both in `before` and in `after` has to be there, and nothing that
    is in neither."""
    return len((before.items() & after.items()) - now.items()) + len(now.items() - before.items() - after.items())


def kill_operation(server, folder, operation, kills, seed):
    """Up to three kills of each run. Gives (kills, rows compared, rows lost or doubled)."""
    rng = random.Random(seed)
    (folder / "template").mkdir()
    operation.prepare(folder / "template")

    def words(place):
        return [word.format(folder=place) for word in operation.words.split()]

    whole = Path(shutil.copytree(folder / "template", folder / "whole"))
    before = operation.rows(whole / operation.run) if operation.in_place else {}
    started = time.monotonic()
    server.run(*words(whole), codes=operation.codes)
    seconds = time.monotonic() - started
    after = operation.rows(whole / operation.run)
    assert after
    done = compared = wrong = 0
    while done < kills:
        place = Path(shutil.copytree(folder / "template", folder / "place"))
        run = place / operation.run
        for _ in range(3):
            pid = server.start(*words(place))
            time.sleep(rng.random() * seconds * 1.1)
            os.kill(pid, signal.SIGKILL)
            code = server.wait(pid)
            assert code in (-signal.SIGKILL, *operation.codes)
            done += code == -signal.SIGKILL
            if operation.in_place or (run / "run.yaml").exists():
                wrong += differences(before, after, operation.rows(run))
                compared += len(after)
            if code != -signal.SIGKILL:
                break
        server.run(*words(place), codes=operation.codes)
        found = operation.rows(run)
        wrong += differences(after, after, found) + (found != after)
        compared += len(after)
        assert errors_of(run) == []
        balances(run, Counter(player for _, player, _ in found))
        assert not [shard for shard in list_shards(run, unfinished=True) if shard.active]
        shutil.rmtree(place)
    return done, compared, wrong


@pytest.mark.parametrize("name", OPERATIONS)
def test_maintenance_killed_at_any_moment(server, tmp_path, tried, name):
    kills, compared, wrong = kill_operation(server, tmp_path, OPERATIONS[name], kills=10, seed=1)
    tried("maintenance", wrong, kills=kills, rows_compared=compared)


@pytest.mark.slow
@pytest.mark.parametrize("part", range(2))
@pytest.mark.parametrize("name", OPERATIONS)
def test_maintenance_killed_at_many_moments(server, tmp_path, tried, name, part):
    kills, compared, wrong = kill_operation(server, tmp_path, OPERATIONS[name], kills=100, seed=10 + part)
    tried("maintenance", wrong, kills=kills, rows_compared=compared)


def kill_rotate(server, folder, kills, seed):
    """`expkit rotate` killed while a recorder goes on, which answers what was asked all the same."""
    rng, run = random.Random(seed), folder / "run"
    recorder = server.start("known_rows:record_until_killed", run, 10**6, 0.005)
    wait_until(lambda: any(player.durable for player in ledger_words(run)), every=0.005)
    started = time.monotonic()
    server.run("expkit", "rotate", run, "-q")
    seconds = time.monotonic() - started
    done = 0
    while done < kills:
        pid = server.start("expkit", "rotate", run, "-q")
        time.sleep(rng.random() * seconds)
        os.kill(pid, signal.SIGKILL)
        done += server.wait(pid) == -signal.SIGKILL
        if rng.random() < 0.2:
            server.run("expkit", "rotate", run, "-q")
            assert not os.listdir(run / "requests")
    (folder / "stop").touch()
    assert server.wait(recorder) == 0
    balances(run)
    assert errors_of(run) == []
    words = ledger_words(run)
    rows = sum(player.produced for player in words)
    with open_run(run) as opened:
        assert len(opened.shards) > 2
        wrong = abs(rows - len(opened)) + sum(map(wrong_rows, opened.scan(rows="all")))
    return done, rows, wrong


def test_rotate_killed_at_any_moment(server, tmp_path, tried):
    kills, compared, wrong = kill_rotate(server, tmp_path, kills=10, seed=1)
    tried("maintenance", wrong, kills=kills, rows_compared=compared)


@pytest.mark.slow
def test_rotate_killed_at_many_moments(server, tmp_path, tried):
    kills, compared, wrong = kill_rotate(server, tmp_path, kills=200, seed=2)
    tried("maintenance", wrong, kills=kills, rows_compared=compared)
