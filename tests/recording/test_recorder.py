"""The Recorder's row form: what goes in comes out, T actions make T+1 rows, and misuse is refused."""

import subprocess
import sys
import textwrap
import threading

import numpy as np
import pytest
from patience import PATIENCE, together

import expkit
from expkit import Field, Recorder, Schema, open_run
from expkit.buffers.memory import MemoryBuffer
from expkit.errors import BufferClosed, Busy, NotThere, OutputExists, SchemaError, UsageError
from expkit.validation.validate import validate_run

SCHEMA = Schema(
    [
        Field("observation", "f4", (3,), "observation"),
        Field("action_mask", "bool", (9,), "observation"),
        Field("action", "u2", belongs="action"),
        Field("log_prob", "f4", belongs="action", nullable=True),
    ]
)


def record_games(run, episodes, rng, **options):
    """Record `episodes` random games of two players and return what was given, by (episode, player)."""
    given = {}
    with Recorder(run, SCHEMA, players=["learner", "rival"], min_free=0, **options) as rec:
        rec.set_policy(0, "ppo", version=4)
        for episode in range(episodes):
            length = int(rng.integers(1, 40))
            observations = rng.random((2, length + 1, 3), np.float32)
            masks = rng.random((2, length + 1, 9)) < 0.5
            actions = rng.integers(0, 9, (2, length))
            rewards = rng.random((2, length), np.float32)
            for step in range(length):
                for player in (0, 1):
                    rec.add(
                        player=player,
                        episode=episode,
                        step=step,
                        observation=observations[player, step],
                        action_mask=masks[player, step],
                        action=actions[player, step],
                        reward=rewards[player, step],
                        terminated=step == length - 1,
                        **({"log_prob": -0.5} if step % 2 else {}),
                    )
            rec.end(episode=episode, observation=observations[:, length], action_mask=masks[:, length], outcome=[1, -1])
            for player in (0, 1):
                given[episode, player] = (observations[player], masks[player], actions[player], rewards[player])
    return given


def test_what_goes_in_comes_out(tmp_path):
    given = record_games(tmp_path / "run", 30, np.random.default_rng(1))
    run = open_run(tmp_path / "run")
    assert run.state == "closed"
    assert run.schema == SCHEMA
    assert [e.number for e in run.episodes()] == list(range(30))
    for (number, player), (observations, masks, actions, rewards) in given.items():
        got = run.episode(number, player)
        np.testing.assert_array_equal(got["observation"], observations)
        np.testing.assert_array_equal(got["action_mask"], masks)
        np.testing.assert_array_equal(got["action"], actions)
        np.testing.assert_array_equal(got["reward"], rewards)
        assert got["terminated"].tolist() == [False] * (len(actions) - 1) + [True]
        assert got["valid:log_prob"].tolist() == [bool(step % 2) for step in range(len(actions))]
        assert got["step"].tolist() == list(range(len(actions) + 1))
        assert got["is_last"].tolist() == [False] * len(actions) + [True]
    total = sum(len(observations) for observations, *_ in given.values())
    assert len(run) == total
    assert run.steps == total - 60
    episode = run.find_episode(3)
    assert (episode.ended, episode.outcome) == ("terminated", {0: 1.0, 1: -1.0})
    assert episode.length == len(given[3, 0][2])
    assert [policy.name for policy in run.policies] == ["ppo"]
    assert set(run.rows(0, 0)["policy_version"].tolist()) == {4}
    ledger = run.counters[0].players
    assert [p.produced for p in ledger] == [p.written for p in ledger] == [p.durable for p in ledger]


def test_scan_and_sample_see_every_transition_and_no_last_row(tmp_path):
    given = record_games(tmp_path / "run", 20, np.random.default_rng(2))
    run = open_run(tmp_path / "run")
    batches = list(run.scan(["observation", "reward"], batch_size=64))
    assert all(len(batch["reward"]) == 64 for batch in batches[:-1])
    rewards = np.sort(np.concatenate([batch["reward"] for batch in batches]))
    np.testing.assert_array_equal(rewards, np.sort(np.concatenate([r for *_, r in given.values()])))
    everything = sum(len(batch["step"]) for batch in run.scan(rows="all"))
    assert everything == len(run)
    drawn = run.sample(4000, np.random.default_rng(0), ["reward", "observation"])
    assert not drawn["is_last"].any()
    assert set(drawn["reward"].tolist()) <= set(rewards.tolist())
    # Uniform: with 4,000 draws no player's share strays by more than five standard deviations.
    assert abs(drawn["player"].mean() - 0.5) < 5 * 0.5 / 4000**0.5
    row = run.row(int(drawn["episode"][0]), int(drawn["player"][0]), int(drawn["step"][0]))
    np.testing.assert_array_equal(row["observation"], drawn["observation"][0])
    with pytest.raises(NotThere, match="no episode 99"):
        run.find_episode(99)
    with pytest.raises(NotThere, match="no step 9999"):
        run.row(0, 0, 9999)
    with pytest.raises(NotThere):
        run.rows(0, 7)


def test_batches_record_the_same_as_rows(tmp_path):
    rng = np.random.default_rng(5)
    observations, masks = rng.random((5000, 3), np.float32), rng.random((5000, 9)) < 0.5
    actions, rewards = rng.integers(0, 9, 5000), rng.random(5000, np.float32)
    with Recorder(tmp_path / "run", SCHEMA, min_free=0) as rec:
        rec.add_batch(
            episode=7, step=np.arange(5000), observation=observations, action_mask=masks, action=actions, reward=rewards
        )
        rec.end(episode=7, player=0, observation=observations[0], action_mask=masks[0])
    run = open_run(tmp_path / "run")
    got = run.episode(7, 0)
    np.testing.assert_array_equal(got["observation"][:-1], observations)
    np.testing.assert_array_equal(got["action"], actions)
    assert got["is_first"].tolist() == [True] + [False] * 5000
    assert run.find_episode(7).ended == "interrupted"
    assert run.find_episode(7).length == 5000


def test_a_run_is_loaded_into_buffers(tmp_path):
    given = record_games(tmp_path / "run", 10, np.random.default_rng(4))
    run = open_run(tmp_path / "run")
    whole, small = MemoryBuffer(SCHEMA, player=1), MemoryBuffer(SCHEMA, player=0, capacity=16, overflow="drop-oldest")
    rows = {player: sum(len(o) for (_, p), (o, *_) in given.items() if p == player) for player in (0, 1)}
    assert run.load_into(whole) == rows[1]
    assert run.load_into(small) == rows[0]
    assert whole.stats().size == rows[1]
    assert small.stats().size == 16
    batch = whole.drain()
    first = batch.columns["episode"] == 0
    np.testing.assert_array_equal(batch.columns["observation"][first], given[0, 1][0])
    with pytest.raises(SchemaError, match="another schema"):
        run.load_into(MemoryBuffer(Schema([])))


def row(**change):
    return dict(observation=np.zeros(3), action_mask=np.ones(9, bool), action=0, reward=0) | change


def test_open_episodes_are_interrupted_when_the_recorder_closes(tmp_path):
    rec = Recorder(tmp_path / "run", SCHEMA, min_free=0)
    rec.add(episode=0, step=0, **row())
    rec.close()
    rec.close()
    run = open_run(tmp_path / "run")
    assert run.find_episode(0).ended == "interrupted"
    assert len(run.episode(0, 0)["action"]) == 1
    with pytest.raises(BufferClosed):
        rec.add(episode=0, step=1, **row())


def test_misuse_is_refused_and_leaves_nothing(tmp_path):
    with Recorder(tmp_path / "run", SCHEMA, players=2, min_free=0) as rec:
        rec.add(player=0, episode=3, step=0, **row())
        with pytest.raises(SchemaError, match="does not come after"):
            rec.add(player=0, episode=3, step=0, **row())
        with pytest.raises(SchemaError, match="out of range"):
            rec.add(player=2, episode=3, step=0, **row())
        with pytest.raises(SchemaError, match="no field 'actoin'"):
            rec.add(player=1, episode=3, step=0, **row(actoin=1))
        with pytest.raises(SchemaError, match="out of range"):
            rec.add(player=1, episode=-1, step=0, **row())
        with pytest.raises(SchemaError, match="JSON|serial|Encoding|not supported"):
            rec.new_episode(thing=object())
        rec.end(episode=3, player=0, observation=np.zeros(3), action_mask=np.ones(9))
        with pytest.raises(SchemaError, match="has ended"):
            rec.add(player=0, episode=3, step=5, **row())
        with pytest.raises(SchemaError, match="has begun already"):
            rec.new_episode(number=3)
    run = open_run(tmp_path / "run")
    assert len(run) == 2
    assert [e.number for e in run.episodes()] == [3]


def test_an_existing_run_is_refused_replaced_or_joined(tmp_path):
    path = tmp_path / "run"
    record_games(path, 2, np.random.default_rng(1))
    with pytest.raises(OutputExists, match="exists"):
        Recorder(path, SCHEMA, min_free=0)
    with pytest.raises(SchemaError, match="another schema"):
        Recorder(path, Schema([]), mode="a", players=2, min_free=0)
    with pytest.raises(SchemaError, match="players"):
        Recorder(path, SCHEMA, mode="a", players=3, min_free=0)
    with pytest.raises(UsageError, match="mode"):
        Recorder(path, SCHEMA, mode="r", min_free=0)
    before = len(open_run(path))
    with (
        Recorder(path, SCHEMA, mode="a", players=2, min_free=0) as second,
        Recorder(path, SCHEMA, mode="a", players=2, min_free=0) as third,
    ):
        assert {second.writer, third.writer}.isdisjoint({0})
        assert open_run(path).state == "recording"
        with pytest.raises(Busy, match=f"w{second.writer}"):
            Recorder(path, SCHEMA, mode="a", players=2, writer=second.writer, min_free=0)
        second.add(episode=0, step=0, **row())
        third.add(episode=0, step=0, **row())
    run = open_run(path)
    assert len(run) == before + 2
    assert run.find_episode(second.writer << 48 | 0).ended == "interrupted"
    record_games(path, 1, np.random.default_rng(1), mode="w")
    assert len(open_run(path).episodes()) == 1
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputExists):
        Recorder(tmp_path / "file", SCHEMA, mode="w", min_free=0)
    assert (tmp_path / "file").read_text() == "x"


def test_flush_makes_rows_visible_and_durable(tmp_path):
    with Recorder(tmp_path / "run", SCHEMA, flush_interval="1h", min_free=0) as rec:
        for step in range(10):
            rec.add(episode=0, step=step, **row(reward=step))
        rec.flush()
        run = open_run(tmp_path / "run")
        assert run.state == "recording"
        assert run.rows(0, 0)["reward"].tolist() == list(range(10))
        assert run.counters[0].players[0].durable == 10
        rec.annotate(0, opponent="rival-3")
        rec.flush()
        run.refresh()
        assert run.find_episode(0).metadata == {"opponent": "rival-3"}


def test_episodes_left_open_are_sound(tmp_path):
    """Their last rows are missing, and their end records say why."""
    with Recorder(tmp_path / "run", SCHEMA, players=2, min_free=0) as rec:
        for step in range(3):
            for player in (0, 1):
                rec.add(player=player, episode=0, step=step, **row())
        rec.end(episode=0, player=0, observation=np.zeros(3), action_mask=np.zeros(9))
    with open_run(tmp_path / "run") as run:
        (episode,) = run.episodes()
        assert (episode.ended, episode.length, episode.end.rows) == ("interrupted", 3, {"0": 4, "1": 3})
        assert [finding for finding in validate_run(run, "full") if finding.severity == "error"] == []


def test_several_threads_may_add(tmp_path):
    with Recorder(tmp_path / "run", SCHEMA, players=4, min_free=0) as rec:

        def work(player):
            for episode in range(5):
                for step in range(50):
                    rec.add(player=player, episode=episode, step=step, **row(action=player))

        threads = [threading.Thread(target=work, args=(player,)) for player in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    run = open_run(tmp_path / "run")
    assert len(run) == 4 * 5 * 50
    for player in range(4):
        got = run.rows(4, player)
        assert got["step"].tolist() == list(range(50))
        assert set(got["action"].tolist()) == {player}


def test_subscribers_get_what_is_written(tmp_path):
    with Recorder(tmp_path / "run", SCHEMA, flush_interval="1h", min_free=0) as rec:
        stream, lazy = rec.subscribe(), rec.subscribe(max_batches=1)
        for part in range(3):
            with together(rec):
                for step in range(5):
                    rec.add(episode=part, step=step, **row(reward=step))
            rec.flush()
        batches = [stream.get(timeout=PATIENCE) for _ in range(3)]
        assert [batch["reward"].tolist() for batch in batches] == [[0, 1, 2, 3, 4]] * 3
        assert lazy.dropped_rows == 10
        assert lazy.dropped_batches == 2
    assert stream.get(timeout=PATIENCE) is None
    assert len(lazy.get()["step"]) == 5
    assert lazy.get() is None


def test_a_killed_script_loses_only_what_came_after_the_last_flush(tmp_path):
    script = textwrap.dedent("""
        import os, signal, sys
        import numpy as np
        from expkit import Field, Recorder, Schema
        schema = Schema([Field("observation", "f4", (3,), "observation")])
        rec = Recorder(sys.argv[1], schema, flush_interval="1h", sync="none", min_free=0)
        for step in range(100):
            rec.add(episode=0, step=step, observation=np.full(3, step), reward=0)
        rec.flush()
        for step in range(100, 130):
            rec.add(episode=0, step=step, observation=np.full(3, step), reward=0)
        os.kill(os.getpid(), signal.SIGKILL)
    """)
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path / "run")], timeout=PATIENCE)
    assert done.returncode == -9
    run = open_run(tmp_path / "run")
    assert run.state == "killed"
    kept = run.rows(0, 0)["step"].tolist()
    # The first rows are flushed at once, whenever that falls; what flush reported is there in any case.
    assert len(kept) >= 100
    assert kept == list(range(len(kept)))
    ledger = run.counters[0].players[0]
    assert ledger.produced == 130
    assert ledger.durable >= 100
    assert run.find_episode(0).ended == "interrupted"


def test_public_names():
    assert set(expkit.__all__) <= set(dir(expkit))
    for name in expkit.__all__:
        assert getattr(expkit, name) is not None
    with pytest.raises(AttributeError):
        _ = expkit.nothing
