"""`expkit record` as users run it: limits, refusals, signals, kills, repeatability."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress

import numpy as np
import pytest
import warm_processes
from patience import PATIENCE, wait_until

from expkit import open_run

EXPKIT = [sys.executable, "-m", "expkit.commands"]
RECORD_KEYS = {
    "schema", "run", "rows", "steps", "episodes", "produced", "written", "dropped", "rejected", "lost", "players",
    "seconds", "rows_per_second", "bytes", "bytes_per_row", "shards",
}  # fmt: skip


def expkit(*arguments, code=0, cwd=None, **environment):
    environ = {**os.environ, "EXPKIT_MIN_FREE": "0", **environment}
    done = warm_processes.expkit(*arguments, cwd=cwd, environ=environ)
    assert done.returncode == code, done.stdout + done.stderr
    return done


def record(run, *arguments, **options):
    return json.loads(expkit("record", "-o", run, "--json", *arguments, **options).stdout)


def same_games(a, b, episodes):
    """Every column but the time stamps is equal, row for row."""
    for number in episodes:
        for player in a.players:
            left, right = a.rows(number, player), b.rows(number, player)
            assert left.keys() == right.keys()
            for name in left.keys() - {"time_ns"}:
                np.testing.assert_array_equal(left[name], right[name], err_msg=f"{number} {player} {name}")


def test_rows_are_recorded_and_accounted_for(tmp_path):
    said = record(tmp_path / "run", "--rows", 20000)
    assert said.keys() >= RECORD_KEYS
    assert said["schema"] == "expkit.record/1"
    assert said["rows"] == said["produced"] == said["written"] == 20000
    assert said["dropped"] == said["rejected"] == said["lost"] == 0
    assert sum(player["written"] for player in said["players"].values()) == 20000
    run = open_run(tmp_path / "run")
    assert (len(run), run.steps, run.bytes) == (said["rows"], said["steps"], said["bytes"])
    assert len(run.episodes()) == said["episodes"]
    for episode in run.episodes():
        assert episode.start is not None
        assert episode.end is not None
        rows = run.rows(episode.number, 0)
        assert rows["is_first"].tolist() == [True] + [False] * (len(rows["step"]) - 1)
        assert rows["is_last"].tolist() == [False] * (len(rows["step"]) - 1) + [True]
        assert rows["step"].tolist() == list(range(len(rows["step"])))


def test_the_same_seed_gives_the_same_games_whatever_the_threads_and_games_at_once(tmp_path):
    record(tmp_path / "a", "--episodes", 12, "--seed", 7, "--num-envs", 64)
    record(tmp_path / "b", "--episodes", 12, "--seed", 7, "--num-envs", 5, "--threads", 2)
    a, b = open_run(tmp_path / "a"), open_run(tmp_path / "b")
    assert [e.number for e in a.episodes()] == [e.number for e in b.episodes()] == list(range(12))
    assert [(e.ended, e.length, e.outcome) for e in a.episodes()] == [
        (e.ended, e.length, e.outcome) for e in b.episodes()
    ]
    same_games(a, b, range(12))


def test_default_games_end_in_wins_and_rewards_tell_who_won(tmp_path):
    record(tmp_path / "run", "--episodes", 200)
    run = open_run(tmp_path / "run")
    won = [e for e in run.episodes() if e.ended == "terminated"]
    assert len(won) > 100
    for episode in won[:20]:
        rewards = {player: run.episode(episode.number, player)["reward"] for player in (0, 1)}
        assert {player: float(r[-1]) for player, r in rewards.items()} == episode.outcome
        assert all((r[:-1] == 0).all() for r in rewards.values())
    assert sorted(value for e in won for value in e.outcome.values()) == [-1.0] * len(won) + [1.0] * len(won)


def test_four_players_on_a_board_that_is_not_square_with_the_truth(tmp_path):
    record(tmp_path / "run", "--episodes", 6, "--players", 4, "--size", "12x17", "--state", "--max-steps", 300)
    run = open_run(tmp_path / "run")
    assert run.players == [0, 1, 2, 3]
    rows = run.rows(0, 3)
    assert rows["observation/army"].shape[1:] == (12, 17)
    assert rows["action_mask"].shape[1] == 8 * 12 * 17 + 1
    visible = rows["observation/visible"]
    # What is seen is the truth; what is not seen is not told.
    assert (rows["observation/army"][visible] == rows["state/army"][visible]).all()
    assert (rows["observation/army"][~visible] == 0).all()


def test_planes_are_stored_in_place_of_the_board(tmp_path):
    record(tmp_path / "planes", "--episodes", 3, "--seed", 3, "--representation", "planes")
    record(tmp_path / "raw", "--episodes", 3, "--seed", 3)
    planes, raw = open_run(tmp_path / "planes"), open_run(tmp_path / "raw")
    got, board = planes.rows(1, 0), raw.rows(1, 0)
    assert planes.schema["observation"].channels[7:] == ("visible", "fog")
    assert got["observation"].shape == (len(board["step"]), 9, 20, 20)
    np.testing.assert_array_equal(got["observation"][:, 7] == 1, board["observation/visible"])
    np.testing.assert_array_equal(got["observation"][:, 2] == 1, board["observation/owner"] == 0)
    np.testing.assert_array_equal(got["action"], board["action"])


def test_a_policy_of_ones_own_sees_only_its_observation(tmp_path):
    (tmp_path / "mine.py").write_text(
        "import numpy as np\n"
        "def play(observation, action_mask, episode, step, player):\n"
        "    assert observation['army'].shape == (len(step), 20, 20)\n"
        "    assert set(player.tolist()) == {1}\n"
        "    return np.array([np.flatnonzero(mask)[(e + s) % mask.sum()] for mask, e, s in\n"
        "                     zip(action_mask, episode.astype(int), step.astype(int))])\n"
    )
    said = record("run", "--episodes", 4, "--max-steps", 60, "--policy", "hunter,mine:play", cwd=tmp_path)
    assert said["illegal_actions"] == 0
    run = open_run(tmp_path / "run")
    assert [policy.name for policy in run.policies] == ["hunter", "mine:play"]
    rows = run.episode(2, 1)
    assert set(run.rows(2, 1)["policy"].tolist()) == {1}
    for mask, action, step in zip(rows["action_mask"], rows["action"], rows["step"], strict=False):
        legal = np.flatnonzero(mask)
        assert action == legal[(2 + int(step)) % len(legal)]


def test_illegal_actions_are_counted_played_as_a_pass_and_verified(tmp_path):
    (tmp_path / "mine.py").write_text(
        "import numpy as np\n"
        "def play(observation, action_mask, episode, step, player):\n"
        "    return np.where(step % 3 == 1, np.argmin(action_mask, axis=1), action_mask.shape[1] - 1)\n"
    )
    said = record("run", "--episodes", 3, "--max-steps", 60, "--policy", "hunter,mine:play", cwd=tmp_path)
    assert said["illegal_actions"] >= 3 * 19
    verified = json.loads(expkit("replay", "run", "--verify", "--json", cwd=tmp_path).stdout)
    assert verified["schema"] == "expkit.replay.verify/1"


def test_a_policy_that_raises_ends_the_recording_and_keeps_what_there_was(tmp_path):
    (tmp_path / "mine.py").write_text(
        "import numpy as np\n"
        "def play(observation, action_mask, episode, step, player):\n"
        "    if step.max() > 20: raise RuntimeError('my bug')\n"
        "    return np.full(len(step), action_mask.shape[1] - 1)\n"
    )
    done = expkit("record", "-o", "run", "--episodes", 4, "--policy", "mine:play", cwd=tmp_path, code=1)
    assert "my bug" in done.stderr
    assert "Traceback" not in done.stderr
    run = open_run(tmp_path / "run")
    assert run.state == "closed"
    assert len(run) > 0


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["chess"], 2, "no game is called 'chess'"),
        (["generalz"], 2, "did you mean generals"),
        (["--policy", "huntr"], 2, "huntr"),
        (["--policy", "no_such_module:play"], 2, "no_such_module"),
        (["--overflow", "drop-old"], 2, "did you mean drop-oldest"),
        (["--rows", "-4"], 2, "rows"),
        (["--players", "16", "--size", "5x5"], 2, "too small"),
        (["--players", "1"], 2, "players"),
        (["--size", "20by20"], 2, "HEIGHTxWIDTH"),
        (["--memory", "20KiB"], 2, "need"),
        (["--min-free", "900TB"], 7, "min-free"),
        (["--representation", "pictures"], 2, "representation"),
        (["--config", "nowhere.yaml"], 5, "no such settings file"),
        (["--frobnicate"], 2, "frobnicate"),
    ],
)
def test_bad_input_gives_one_line_the_code_and_leaves_nothing(tmp_path, arguments, code, said):
    done = expkit("record", *arguments, "-o", "run", cwd=tmp_path, code=code)
    assert said in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert list(tmp_path.iterdir()) == []
    as_json = json.loads(expkit("record", *arguments, "-o", "run", "--json", cwd=tmp_path, code=code).stdout)
    assert as_json["exit_code"] == code


def test_an_existing_output_is_refused_and_stays(tmp_path):
    record(tmp_path / "run", "--rows", 2000)
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    done = expkit("record", "-o", tmp_path / "run", "--rows", 2000, code=2)
    assert "--force" in done.stderr
    assert {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()} == before
    record(tmp_path / "run", "--rows", 1000, "--force")
    assert len(open_run(tmp_path / "run")) == 1000


def test_settings_come_from_flag_then_variable_then_file(tmp_path):
    (tmp_path / "c.yaml").write_text("game: {size: 10x10, max_steps: 40}\nrecording: {episodes: 3}\n")
    record(tmp_path / "a", "--config", tmp_path / "c.yaml", "--episodes", 2, EXPKIT_MAX_STEPS="30")
    run = open_run(tmp_path / "a")
    assert len(run.episodes()) == 2
    assert run.config["game"]["max_steps"] == 30
    assert run.rows(0, 0)["observation/army"].shape[1:] == (10, 10)


def test_the_disk_guard_stops_with_its_own_code_and_loses_nothing(tmp_path):
    done = expkit("record", "-o", tmp_path / "run", "--forever", "--max-total", "300kB", "--json", code=7)
    said = json.loads(done.stdout)
    assert said["stopped_by"] == "disk"
    assert said["lost"] == 0
    assert said["written"] == said["produced"] == len(open_run(tmp_path / "run"))
    assert "--max-total" in done.stderr


def start(run, *arguments):
    process = subprocess.Popen(
        [*EXPKIT, "record", "-o", str(run), *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "EXPKIT_MIN_FREE": "0"},
    )

    def durable():
        assert process.poll() is None, process.communicate()
        with suppress(Exception), open_run(run) as found:
            return found.counters and sum(p.durable for p in found.counters[0].players) > 2000

    try:
        wait_until(durable, "2,000 durable rows")
    except BaseException:
        process.kill()
        raise
    return process


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)], ids=lambda v: str(int(v))
)
def test_a_signal_finishes_cleanly(tmp_path, number, code):
    process = start(tmp_path / "run", "--forever", "--json", "--flush-interval", "100ms")
    process.send_signal(number)
    out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == code, out + err
    said = json.loads(out)
    assert said["lost"] == 0
    run = open_run(tmp_path / "run")
    assert run.state == "closed"
    assert len(run) == said["rows"] == said["produced"]
    assert all(episode.end is not None for episode in run.episodes())


def test_sigusr1_rotates(tmp_path):
    process = start(tmp_path / "run", "--forever", "--flush-interval", "100ms")
    process.send_signal(signal.SIGUSR1)
    wait_until(lambda: list((tmp_path / "run").rglob("*.exp")))
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=PATIENCE)
    run = open_run(tmp_path / "run")
    assert len(run.shards) == 2
    assert run.counters[0].players[0].produced == run.counters[0].players[0].written


def test_after_kill_9_durable_rows_are_there_and_the_loss_is_told(tmp_path):
    for turn in range(4):
        path = tmp_path / f"run{turn}"
        process = start(path, "--forever", "--flush-interval", "100ms")
        time.sleep(0.07 * turn)
        durable = sum(p.durable for p in open_run(path).counters[0].players)
        process.kill()
        process.communicate(timeout=PATIENCE)
        run = open_run(path)
        assert run.state == "killed"
        assert len(run) >= durable
        (ledger,) = run.counters
        produced = sum(p.produced for p in ledger.players)
        assert produced >= len(run)
        rows = sum(len(batch["step"]) for batch in run.scan(rows="all"))
        assert rows == len(run)
        code = 3 if produced > len(run) else 0
        said = json.loads(expkit("validate", path, "--json", code=code).stdout)
        assert said["produced"] == produced
        assert said["lost"] == produced - len(run)
        assert all(finding["severity"] != "error" for finding in said["findings"])


def test_without_a_limit_it_is_a_demonstration_of_five_seconds(tmp_path):
    done = expkit("record", cwd=tmp_path)
    assert "stopped after 5 s: no limit given, see --rows, --episodes, --duration, --forever" in done.stderr
    (run,) = (tmp_path / "runs").iterdir()
    assert run.name.startswith("generals-2")
