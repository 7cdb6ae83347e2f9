"""Every operation on one thing has a twin for many, and both record the same."""

import numpy as np
import pytest

from expkit import Field, Recorder, Schema, open_run
from expkit.errors import SchemaError

SCHEMA = Schema(
    [
        Field("observation/0", "f4", (2,), "observation"),
        Field("observation/1", "i2", (), "observation"),
        Field("action", "i8", belongs="action"),
    ]
)
PAIRS = ["new_episode", "add", "end", "annotate", "discard"]
LENGTHS = [3, 1, 4, 2]


@pytest.mark.parametrize("name", PAIRS)
def test_the_twin_is_there(name):
    assert callable(getattr(Recorder, name))
    assert callable(getattr(Recorder, f"{name}_batch"))


def one_by_one(rec, seen, counts, players):
    for number in range(4):
        assert rec.new_episode(seeds={"env": 10 + number}, level=number % 2, kind="arena") == number
    for number, length in enumerate(LENGTHS):
        for player in range(players):
            for step in range(length):
                rec.add(
                    player=player, episode=number, step=step, reward=player, action=step, terminated=step == length - 1,
                    observation=(seen[number, player, step], counts[number, player, step]),
                )  # fmt: skip
        for player in range(players):
            last = (seen[number, player, -1], counts[number, player, -1])
            told, outcome = {"note": number}, number if player else -number
            rec.end(episode=number, player=player, observation=last, outcome=outcome, metadata=told)
        rec.annotate(number, score=number / 2, seen=True)
    rec.discard(1)
    rec.discard(2)


def in_batches(rec, seen, counts, players):
    numbers = rec.new_episode_batch(4, seeds={"env": [10, 11, 12, 13]}, level=(0, 1, 0, 1), kind="arena")
    assert numbers == [0, 1, 2, 3]
    episode = np.repeat(numbers, LENGTHS)
    step = np.concatenate([np.arange(length) for length in LENGTHS])
    for player in range(players):
        rec.add_batch(
            player=player,
            episode=episode,
            step=step,
            reward=np.full(len(step), player),
            action=step,
            terminated=step == np.repeat(LENGTHS, LENGTHS) - 1,
            observation=(seen[episode, player, step], counts[episode, player, step]),
        )
    last = (seen[:, :, -1], counts[:, :, -1])
    notes = [{"note": number} for number in numbers]
    if players == 1:
        last = tuple(values[:, 0] for values in last)
        rec.end_batch(episode=numbers, observation=last, outcome=-np.arange(4), metadata=notes)
    else:
        outcome = [[-number, number] for number in numbers]
        rec.end_batch(episode=np.array(numbers), observation=last, outcome=outcome, metadata=notes)
    rec.annotate_batch(numbers, score=np.arange(4) / 2, seen=True)
    rec.discard_batch([1, 2])


@pytest.mark.parametrize("players", [1, 2])
def test_one_by_one_and_in_batches_is_the_same(tmp_path, players):
    rng = np.random.default_rng(8)
    seen = rng.random((4, players, 6, 2), np.float32)
    counts = rng.integers(0, 99, (4, players, 6))
    runs = []
    for name, record in (("single", one_by_one), ("batch", in_batches)):
        with Recorder(tmp_path / name, SCHEMA, players=players, min_free=0) as rec:
            record(rec, seen, counts, players)
        runs.append(open_run(tmp_path / name))
    single, batch = runs
    assert [e.number for e in single.episodes()] == [e.number for e in batch.episodes()] == [0, 3]
    for one, other in zip(single.episodes(), batch.episodes(), strict=True):
        assert (one.outcome, one.metadata, one.ended, one.rows) == (
            other.outcome, other.metadata, other.ended, other.rows,
        )  # fmt: skip
        assert one.start.seeds == other.start.seeds == {"env": 10 + one.number}
        for player in range(players):
            mine, theirs = single.rows(one.number, player), batch.rows(one.number, player)
            for name in mine.keys() - {"time_ns"}:
                np.testing.assert_array_equal(mine[name], theirs[name], err_msg=name)


def test_what_does_not_fit_is_refused(tmp_path):
    with Recorder(tmp_path / "run", SCHEMA, min_free=0) as rec:
        with pytest.raises(SchemaError, match="level: 3 entries for 2 episodes"):
            rec.new_episode_batch(2, level=[1, 2, 3])
        rec.new_episode_batch(2)
        with pytest.raises(SchemaError, match="score: 1 entries for 2 episodes"):
            rec.annotate_batch([0, 1], score=[1])
        with pytest.raises(SchemaError, match="metadata has to be JSON values"):
            rec.annotate(0, what=object())
        with pytest.raises(SchemaError, match="a batch needs a vector of numbers"):
            rec.end_batch(episode=0, observation=(np.zeros((1, 2)), [0]))
        with pytest.raises(SchemaError, match="observation/1: a single value where there should be one for each row"):
            rec.add_batch(episode=0, step=[0, 1], observation=(np.zeros((2, 2)), 0), action=[0, 0], reward=[0, 0])
    assert len(open_run(tmp_path / "run")) == 0
