"""`expkit record --append`, and the Recorder that takes up a dead writer: killed, gone on with, killed again."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
import warm_processes
from patience import PATIENCE, wait_until

from expkit import Field, Recorder, Schema, open_run
from expkit.commands.verbs import EXIT_CODES
from expkit.errors import Busy, CheckFailed, SchemaError
from expkit.formats.shard.read import ShardReader
from expkit.reading.summary import balance
from expkit.rewrite.generation import Generation
from expkit.row.episodes import episode_number
from expkit.runs.counters import Ledger, read_ledger
from expkit.runs.layout import list_shards, read_run_info
from expkit.runs.locks import lock_writer
from expkit.runs.manifest import read_manifest
from expkit.runs.resume import close_dead_writer, next_episode, take_writer
from expkit.system.files import Disk, using

EXPKIT = [sys.executable, "-m", "expkit.commands"]
SMALL = ("--size", "10x10", "--max-steps", "60", "--num-envs", "4", "--seed", "11")
SCHEMA = Schema([Field("observation", "f4", (3,), "observation"), Field("action", "u1", belongs="action")])
# Slow enough that a kill meets every state, and the same game whenever it is played.
SLOW_POLICY = """
import os, time
import numpy as np
def play(observation, action_mask, episode, step, player):
    time.sleep(float(os.environ.get("NAP", "0")))
    choice = (episode.astype(np.int64) % 97) * 5 + step.astype(np.int64) * 3 + player
    return np.array([np.flatnonzero(mask)[c % mask.sum()] for mask, c in zip(action_mask, choice)])
"""


def expkit(*arguments, code=0, cwd=None, **environment):
    environ = {**os.environ, "EXPKIT_MIN_FREE": "0", **environment}
    done = warm_processes.expkit(*arguments, cwd=cwd, environ=environ)
    assert done.returncode == code, done.stdout + done.stderr
    return done


def record(run, *arguments, **options):
    said = json.loads(expkit("record", "-o", run, "--json", *arguments, **options).stdout)
    return {**said, "first_episode": int(said["first_episode"]), "seed": int(said["seed"])}


def start(*arguments, cwd=None, **environment):
    return subprocess.Popen(
        [*EXPKIT, "record", *map(str, arguments)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        cwd=cwd,
        env={**os.environ, "EXPKIT_MIN_FREE": "0", **environment},
    )


def wait_for(process, condition):
    def there():
        assert process.poll() is None, process.stderr.read()
        return condition()

    wait_until(there, every=0.005)


def kill(process):
    process.send_signal(signal.SIGKILL)
    process.communicate()


def rows_of(run, number, player):
    """Every column but the time stamps."""
    rows = run.rows(number, player)
    del rows["time_ns"]
    return rows


def same_rows(left, right, count=None):
    assert left.keys() == right.keys()
    for name in left:
        np.testing.assert_array_equal(left[name], right[name][:count], err_msg=name)


def begun(path):
    """How often each episode was begun."""
    seen = Counter()
    for shard in list_shards(path):
        with ShardReader(shard.path) as reader:
            seen.update(one.episode for one in reader.episode_starts if not one.repeated)
    return seen


def is_balanced(path):
    """Every row of every player is accounted for, in the ledger by itself and against the files."""
    for writer in read_ledger(path):
        assert writer.state == "closed"
        for one in writer.players:
            assert one.produced == one.written + one.dropped_rows + one.rejected + one.lost
            assert one.durable == one.written
    with open_run(path) as run:
        for one in balance(run):
            assert (one.present, one.unexplained) == (one.written, 0)


def bytes_in(path):
    return {file: file.read_bytes() for file in path.rglob("*") if file.is_file() and "locks" not in file.parts}


def active_bytes(path):
    found = (shard.path for shard in list_shards(path) if shard.active)
    return sum(one.stat().st_size for one in found if one.exists())


def test_killed_and_gone_on_with_again_and_again(tmp_path):
    (tmp_path / "slow.py").write_text(SLOW_POLICY)
    path = tmp_path / "run"
    game = (*SMALL, "--policy", "slow:play")
    going_on = ("-o", path, "--append", "--forever", "--flush-interval", "30ms", "--shard-rows", "400", *game)
    published = lambda: sum(not shard.active for shard in list_shards(path))  # noqa: E731
    before = [0]
    moments = (
        lambda: (path / "run.yaml").exists(),
        lambda: (path / "counters").exists(),
        lambda: bool(list_shards(path)),
        lambda: active_bytes(path) > 0,
        lambda: active_bytes(path) > 20_000,
        lambda: published() > before[0],
        lambda: published() > before[0] + 2,
    )
    kept = {}
    for moment in moments:
        before[0] = published() if path.exists() else 0
        process = start(*going_on, cwd=tmp_path, NAP="0.002")
        wait_for(process, moment)
        kill(process)
        if not (path / "run.yaml").exists():
            continue
        with open_run(path) as run:
            present = Counter()
            for episode in run.episodes():
                for player, rows in episode.rows.items():
                    present[player] += rows
                    assert rows >= kept.get((episode.number, player), 0)
                    kept[episode.number, player] = rows
            ledger = read_ledger(path)
            if ledger:
                assert all(present[p] >= one.durable for p, one in enumerate(ledger[0].players))
    said = record(path, "--append", "--episodes", 5, *game, cwd=tmp_path)
    assert (said["writer"], said["lost"]) == (0, 0)
    expkit("validate", path, "--full")
    is_balanced(path)
    assert set(begun(path).values()) == {1}
    with open_run(path) as run:
        assert run.state == "closed"
        numbers = [episode.number for episode in run.episodes()]
        assert numbers[-5:] == [said["first_episode"] + i for i in range(5)]
        assert len(numbers) > 20
        record(tmp_path / "whole", "--episodes", numbers[-1] + 1, *game, cwd=tmp_path)
        cut = 0
        with open_run(tmp_path / "whole") as whole:
            for episode in run.episodes():
                assert all(episode.rows.get(p, 0) >= kept.get((episode.number, p), 0) for p in (0, 1))
                if not episode.end.cut:
                    other = whole.find_episode(episode.number)
                    assert (episode.ended, episode.length, episode.outcome, episode.rows) == (
                        other.ended, other.length, other.outcome, other.rows,
                    )  # fmt: skip
                else:
                    cut += 1
                    assert episode.ended == "interrupted"
                for player, rows in episode.rows.items():
                    same_rows(rows_of(run, episode.number, player), rows_of(whole, episode.number, player), rows)
        assert 0 < cut < len(numbers)


def test_after_a_clean_stop_the_next_episodes_follow(tmp_path):
    record(tmp_path / "parts", "--episodes", 6, "--append", *SMALL)  # a first start begins the run
    said = record(tmp_path / "parts", "--append", "--episodes", 7)
    assert (said["writer"], said["first_episode"], said["episodes"], said["seed"]) == (0, 6, 7, 11)
    whole = record(tmp_path / "whole", "--episodes", 13, *SMALL)
    expkit("validate", tmp_path / "parts", "--full")
    is_balanced(tmp_path / "parts")
    with open_run(tmp_path / "parts") as parts, open_run(tmp_path / "whole") as other:
        assert [e.number for e in parts.episodes()] == list(range(13))
        assert len(parts) == whole["rows"] == sum(one.produced for one in parts.counters[0].players)
        assert said["rows"] == said["produced"] == sum(sum(e.rows.values()) for e in parts.episodes()[6:])
        for episode in parts.episodes():
            for player in (0, 1):
                same_rows(rows_of(parts, episode.number, player), rows_of(other, episode.number, player))
    expkit("replay", tmp_path / "parts", "--verify")


def test_limits_count_what_the_call_records(tmp_path):
    record(tmp_path / "run", "--rows", 500, *SMALL)
    assert record(tmp_path / "run", "--append", "--rows", 300)["rows"] == 300
    with open_run(tmp_path / "run") as run:
        assert len(run) == 800


@pytest.mark.parametrize(
    ("arguments", "environment", "values"),
    [
        (["--size", "12x12"], {}, ("12x12", "10x10", "--size")),
        (["--players", "3"], {}, ("3", "2", "--players")),
        (["--ruleset", "go-system"], {}, ("go-system", "generals.io")),
        (["--seed", "12"], {}, ("12", "11")),
        (["--max-steps", "61"], {}, ("61", "60")),
        (["--state"], {}, ("on", "off")),
        (["--representation", "planes"], {}, ("planes", "raw")),
        ([], {"EXPKIT_SIZE": "12x12"}, ("12x12", "10x10", "EXPKIT_SIZE")),
        (["--force"], {}, ("--append", "--force")),
    ],
)
def test_what_contradicts_the_run_is_refused(tmp_path_factory, small_run, arguments, environment, values):
    before = bytes_in(small_run)
    done = expkit("record", "-o", small_run, "--append", "--episodes", 1, *arguments, code=2, **environment)
    assert len(done.stderr.strip().splitlines()) == 1
    assert all(value in done.stderr for value in values)
    assert bytes_in(small_run) == before


@pytest.fixture(scope="module")
def small_run(tmp_path_factory):
    path = tmp_path_factory.mktemp("small") / "run"
    record(path, "--episodes", 3, *SMALL)
    return path


def test_what_the_run_was_recorded_with_may_be_said_again_and_a_policy_may_change(tmp_path, small_run):
    path = shutil.copytree(small_run, tmp_path / "run")
    said = record(path, "--append", "--episodes", 2, "--policy", "hunter,random", *SMALL)
    assert said["first_episode"] == 3
    with open_run(path) as run:
        assert [policy.name for policy in run.policies] == ["hunter", "random"]
        assert set(run.rows(4, 1)["policy"].tolist()) == {1}
        assert set(run.rows(4, 0)["policy"].tolist()) == {0}
    expkit("validate", path, "--full")
    expkit("replay", path, "--verify")


def test_what_is_no_run_to_go_on_with(tmp_path, small_run):
    assert dict(EXIT_CODES).keys() >= {2, 4}
    assert "-o" in expkit("record", "--append", "--episodes", 1, code=2).stderr
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "mine.txt").write_text("x")
    assert "no run" in expkit("record", "--append", "-o", tmp_path / "folder", code=2).stderr
    with Recorder(tmp_path / "own", SCHEMA, min_free=0):
        pass
    assert "mode='a'" in expkit("record", "--append", "-o", tmp_path / "own", code=2).stderr
    for name in ("counters", "run.yaml"):
        path = shutil.copytree(small_run, tmp_path / f"without-{name}")
        (path / name).unlink()
        assert f"expkit recover {path}" in expkit("record", "--append", "-o", path, code=4).stderr
    (tmp_path / "unfinished" / "locks").mkdir(parents=True)
    (tmp_path / "unfinished" / "shards").mkdir()
    assert record(tmp_path / "unfinished", "--append", "--episodes", 1, *SMALL)["episodes"] == 1


def test_beside_a_live_recorder_one_more_writer_joins(tmp_path):
    path = tmp_path / "run"
    (tmp_path / "slow.py").write_text(SLOW_POLICY)
    game = (*SMALL, "--policy", "slow:play")
    live = start("-o", path, "--append", "--forever", "--flush-interval", "30ms", *game, cwd=tmp_path, NAP="0.002")
    wait_for(live, lambda: active_bytes(path) > 5000)
    refused = expkit("record", "-o", path, "--append", "--episodes", 3, code=2, cwd=tmp_path).stderr
    assert "policy 'slow:play' is code that the run names" in refused
    said = record(path, "--append", "--episodes", 3, "--trust-code", cwd=tmp_path)
    assert (said["writer"], said["first_episode"]) == (1, episode_number(1, 0))
    again = record(path, "--append", "--episodes", 2, "--policy", "slow:play", cwd=tmp_path)
    assert (again["writer"], again["first_episode"]) == (1, episode_number(1, 3))
    live.send_signal(signal.SIGTERM)
    live.communicate(timeout=PATIENCE)
    assert live.returncode == 143
    expkit("validate", path, "--full")
    is_balanced(path)
    assert set(begun(path).values()) == {1}
    with open_run(path) as run:
        mine, other = rows_of(run, 0, 0), rows_of(run, episode_number(1, 0), 0)
        assert not np.array_equal(mine["observation/terrain"][0], other["observation/terrain"][0])


CRASHING = """
import os, signal, sys, time
from expkit import Field, Recorder, Schema
from expkit.system.files import Disk, using
class Frozen(Disk):
    def write(self, handle, pieces):
        time.sleep(600)
schema = Schema([Field("observation", "f4", (3,), "observation"), Field("action", "u1", belongs="action")])
rec = Recorder(sys.argv[1], schema, players=2, min_free=0, shard_rows=int(sys.argv[2]), flush_interval="1h")
for episode in range(5):
    for step in range(10):
        for player in (0, 1):
            seen = [episode, step, player]
            rec.add(player=player, episode=episode, step=step, observation=seen, action=step, reward=0)
    if episode < 3:
        rec.end(episode=episode, ended="terminated", outcome=1.0, observation=[[episode, 10, 0], [episode, 10, 1]])
    if episode == 4:
        rec.new_episode(number=7)  # begun, and cut before its first row
    rec.flush()
with using(Frozen()):  # the last row reaches no file
    rec.add(player=0, episode=9, step=0, observation=[9, 0, 0], action=1, reward=0)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def crashed(path, shard_rows=0):
    done = subprocess.run([sys.executable, "-c", CRASHING, str(path), str(shard_rows)], timeout=PATIENCE)
    assert done.returncode == -signal.SIGKILL
    return path


@pytest.fixture(scope="module")
def crashed_run(tmp_path_factory):
    return crashed(tmp_path_factory.mktemp("crashed") / "run")


def add(rec, episode, step, **more):
    rec.add(player=0, episode=episode, step=step, observation=[1, 2, 3], action=0, reward=0, **more)


def test_the_recorder_takes_up_a_writer_that_crashed(tmp_path, crashed_run):
    path = shutil.copytree(crashed_run, tmp_path / "run")
    with Recorder(path, SCHEMA, mode="a", writer=0, players=2, min_free=0) as rec:
        first = rec.new_episode()
        assert first == 8
        with pytest.raises(SchemaError, match="ended"):
            add(rec, 3, 10)
        with pytest.raises(Busy, match="w0"):
            Recorder(path, SCHEMA, mode="a", writer=0, players=2, min_free=0)
        add(rec, first, 0)
        assert sum(rec.collector.stats().produced.values()) == 1
    with open_run(path) as run:
        assert run.state == "closed"
        assert [(e.number, e.ended, e.length, e.end.cut) for e in run.episodes()][:5] == [
            *((number, "terminated", 10, False) for number in (0, 1, 2)),
            *((number, "interrupted", 10, True) for number in (3, 4)),
        ]
        assert [(e.number, e.ended, e.length) for e in run.episodes()][5:] == [
            (7, "interrupted", 0), (8, "interrupted", 1),
        ]  # fmt: skip
        assert run.find_episode(4).end.rows == {"0": 10, "1": 10}
        ((one, two),) = (writer.players for writer in run.counters)
        assert (one.produced, one.written, one.lost) == (3 * 11 + 2 * 10 + 1 + 1, 3 * 11 + 2 * 10 + 1, 1)
        assert (two.produced, two.lost) == (3 * 11 + 2 * 10, 0)
    is_balanced(path)
    expkit("validate", path, "--full")


def test_the_recorder_joins_as_one_more_writer_unless_told(tmp_path, crashed_run):
    path = shutil.copytree(crashed_run, tmp_path / "run")
    assert (next_episode(path, 0), next_episode(path, 1)) == (8, 0)  # of 7 there is nothing but its start
    with Recorder(path, SCHEMA, mode="a", players=2, min_free=0) as rec:
        assert rec.writer == 1
        add(rec, 0, 0)
    assert [shard.name for shard in list_shards(path) if shard.active] == ["w0/000000"]


class Killed(BaseException):
    pass


class KillingDisk(Disk):
    """Stops the process, so to say, before its n-th operation."""

    def __init__(self, operations):
        self.left = operations

    def __getattribute__(self, name):
        found = super().__getattribute__(name)
        if name.startswith("_") or not callable(found):
            return found
        self.left -= 1
        if self.left < 0:
            raise Killed
        return found


@pytest.mark.parametrize("shard_rows", [0, 20], ids=["one shard", "no active shard"])
def test_closing_a_dead_writer_can_be_killed_anywhere_and_repeated(tmp_path, shard_rows):
    dead = crashed(tmp_path / "dead", shard_rows)
    if shard_rows:
        for shard in list_shards(dead):
            if shard.active:  # as if the kill had come between two shards
                shard.path.unlink()
    kills = 0
    while True:
        path = shutil.copytree(dead, tmp_path / "run")
        _, lock = lock_writer(path, 0)
        try:
            with using(KillingDisk(kills)):
                assert close_dead_writer(path, 0)
            break
        except Killed:
            kills += 1
        finally:
            lock.release()
        (number, again), following = take_writer(path)
        assert (number, following) == (0, 8)
        again.release()
        is_balanced(path)
        with open_run(path) as run:
            assert run.state == "closed"
            assert [(e.number, e.end.cut) for e in run.episodes()][2:] == [(2, False), (3, True), (4, True), (7, True)]
            ends = [end.episode for one in run.shards for end in run.reader(one.name).episode_ends]
            assert sorted(ends) == [0, 1, 2, 3, 4, 7]
            assert sorted(read_manifest(path)) == [shard.name for shard in run.shard_paths]
        shutil.rmtree(path)
    assert kills > 10
    assert not close_dead_writer(path, 0)


def test_damage_that_no_kill_explains_is_left_to_recovery(tmp_path, crashed_run):
    path = shutil.copytree(crashed_run, tmp_path / "run")
    (shard,) = list_shards(path)
    data = bytearray(shard.path.read_bytes())
    data[len(data) // 2] ^= 1
    shard.path.write_bytes(data)
    before = bytes_in(path)
    with pytest.raises(CheckFailed, match=f"expkit recover {path}"):
        take_writer(path)
    assert bytes_in(path) == before
    lock_writer(path, 0)[1].release()  # nobody holds it


@pytest.mark.parametrize("left", [b"", b"EXP", bytes(5000)], ids=["empty", "torn", "zeros"])
def test_an_active_shard_in_which_nothing_was_begun_goes(tmp_path, small_run, left):
    path = shutil.copytree(small_run, tmp_path / "run")
    (path / "shards" / "w0" / "000001.active").write_bytes(left)
    assert record(path, "--append", "--episodes", 1)["first_episode"] == 3
    assert [shard.name for shard in list_shards(path)] == ["w0/000000", "w0/000001"]
    expkit("validate", path, "--full")


def test_a_ledger_older_than_the_files_is_raised(tmp_path, crashed_run):
    path = shutil.copytree(crashed_run, tmp_path / "run")
    ledger = Ledger(path, 0, 2)
    ledger.produced[:] = ledger.written[:] = 5
    del ledger
    (_, lock), _ = take_writer(path)
    lock.release()
    is_balanced(path)
    assert [one.produced for one in read_ledger(path)[0].players] == [53, 53]


def test_numbers_go_on_above_what_was_rewritten_or_pruned(tmp_path, small_run):
    path = shutil.copytree(small_run, tmp_path / "run")
    assert next_episode(path, 0) == 3
    with Generation(path, read_run_info(path), "prune") as generation:
        generation.begin(supersedes=[(0, 40), (episode_number(1, 0), episode_number(1, 9))], retires=["w0/000000"])
        generation.publish()
    assert (next_episode(path, 0), next_episode(path, 1), next_episode(path, 2)) == (41, 10, 0)
