"""The ledger's two sums, per player: under overload with each overflow policy, after kills, prunes and rewrites."""

import os
import random
import signal
import time

import pytest
from accounts import balances, ledger_words, rows_by_player
from crash_machine import errors_of
from known_rows import record_overloaded
from warm_processes import Server

from expkit.commands import main
from expkit.recovery.recover import recover
from expkit.rewrite.compact import compact
from expkit.rewrite.prune import Retention, prune

POLICIES = ("block", "drop-oldest", "drop-newest", "spill")


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with Server(tmp_path_factory.mktemp("server") / "log") as started:
        yield started


@pytest.mark.parametrize("overflow", POLICIES)
def test_the_ledger_balances_under_overload(tmp_path, tried, overflow):
    run = tmp_path / "run"
    record_overloaded(str(run), overflow, "60")
    produced = balances(run, rows_by_player(run, gaps=overflow.startswith("drop")))
    words = ledger_words(run)
    assert all(player.closed and player.durable == player.written for player in words)
    assert all((player.dropped > 0) == overflow.startswith("drop") for player in words)
    assert errors_of(run) == []
    tried("ledger", 0, balances=1, rows_produced=produced)


def killed(server, rng, *words):
    """Start and kill it after up to a second, or let it end."""
    pid = server.start(*words)
    time.sleep(rng.random() ** 2)
    os.kill(pid, signal.SIGKILL)
    assert server.wait(pid) in (0, 3, -signal.SIGKILL)


def whatever_happens(server, folder, tried, overflow, steps, seed):
    """Record, get killed, go on, prune, compact, recover: in any order, each of them killed or left to end."""
    run, rng = folder / "run", random.Random(seed)
    checked = 0
    record_overloaded(str(run), overflow, "15", "0")
    for number in range(1, steps + 1):
        record = ("known_rows:record_overloaded", run, overflow, rng.choice([15, 60]), number)
        # At least what the first recording left is pruned and rewritten twice.
        command = COMMANDS[number % len(COMMANDS)]
        maintain = ("expkit", *(word.format(run=run, keep=rng.randrange(4, 12)) for word in command), "-q")
        for words in (record, maintain):
            if rng.random() < 0.4:
                killed(server, rng, *words)
            else:
                server.run(*words, codes=(0, 3))
            balances(run, rows_by_player(run, gaps=True))
            checked += 1
    server.run("expkit", "recover", run, "-q", codes=(0, 3))
    produced = balances(run, rows_by_player(run, gaps=True))
    assert all(player.closed for player in ledger_words(run))
    assert errors_of(run) == []
    tried("ledger", 0, balances=checked + 1, rows_produced=produced)


@pytest.mark.parametrize("overflow", ["block", "drop-oldest"])
def test_rows_that_a_rewrite_leaves_out_are_told(tmp_path, tried, overflow):
    """A rewrite with a condition begins with what its source holds: the rows it leaves out are dropped, `filtered`."""
    run, out = tmp_path / "run", tmp_path / "out"
    record_overloaded(str(run), overflow, "40")
    present = rows_by_player(run, gaps=True)
    assert main(["rewrite", str(run), "-o", str(out), "--where", "step >= 5 and step < 20", "-q"]) == 0
    kept = rows_by_player(out, gaps=True)
    produced = balances(out, kept)
    for player, words in enumerate(ledger_words(out)):
        assert 0 < kept[player] < present[player]
        assert words.dropped >= present[player] - kept[player]
    assert errors_of(out) == []
    tried("ledger", 0, balances=1, rows_produced=produced)


@pytest.mark.parametrize("overflow", ["drop-oldest", "drop-newest"])
def test_the_ledger_is_made_again_from_rewritten_shards(tmp_path, tried, overflow):
    """What was dropped stands in the shards, too, and goes with them from one to the next."""
    run = tmp_path / "run"
    record_overloaded(str(run), overflow, "60")
    before = ledger_words(run)
    prune(run, Retention(keep_episodes=30))
    compact(run)
    prune(run, Retention(keep_episodes=20))
    (run / "counters").unlink()
    recover(run)
    produced = balances(run, rows_by_player(run, gaps=True))
    assert [(p.produced, p.written, p.dropped) for p in ledger_words(run)] == [
        (p.produced, p.written, p.dropped) for p in before
    ]
    tried("ledger", 0, balances=1, rows_produced=produced)


COMMANDS = (
    ("prune", "{run}", "--keep-episodes", "{keep}", "--yes"),
    ("compact", "{run}"),
    ("recover", "{run}"),
)


@pytest.mark.parametrize("overflow", POLICIES)
def test_the_ledger_balances_whatever_happens(server, tmp_path, tried, overflow):
    whatever_happens(server, tmp_path, tried, overflow, steps=6, seed=1)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("overflow", POLICIES)
def test_the_ledger_balances_whatever_happens_for_long(server, tmp_path, tried, overflow, seed):
    whatever_happens(server, tmp_path, tried, overflow, steps=20, seed=10 + seed)
