"""Rewards: each strategy against its slow twin, the theorems they promise, and rewards written as text."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import reference_rewards as slow
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from expkit.errors import ConfigError, SchemaError, UsageError
from expkit.rewards import Potential, RewardColumns, RewardFunction, find_reward, parse_reward, reward_names
from expkit.rewards.potential import PotentialReward
from expkit.rewards.weighted import DOCUMENTED
from expkit.row.schema import Field, Schema

NAN = float("nan")
BOARDS = ("state/army", "state/owner", "state/terrain")


def batch_of(rng: np.random.Generator, count: int, players: int = 3, height: int = 4, width: int = 5) -> dict[str, Any]:
    """Random transitions: boards that change in a few tiles, ends of all kinds, rows without the one that follows."""
    shape = (count, height, width)
    ended = rng.random(count) < 0.3
    terminated = ended & (rng.random(count) < 0.7)
    has_next = rng.random(count) < 0.8
    before = {
        "state/army": rng.integers(0, 60, shape).astype(np.int32),
        "state/owner": rng.integers(-1, players, shape).astype(np.int8),
        "state/terrain": rng.choice([0, 0, 0, 1, 2, 3], shape).astype(np.uint8),
    }
    change = (rng.random(shape) < 0.2) & has_next[:, None, None]
    other = {
        "state/army": rng.integers(0, 60, shape).astype(np.int32),
        "state/owner": rng.integers(-1, players, shape).astype(np.int8),
        "state/terrain": np.where(before["state/terrain"] == 2, 1, before["state/terrain"]).astype(np.uint8),
    }
    after = {f"next_{name}": np.where(change, other[name], values) for name, values in before.items()}
    return {
        **before,
        **after,
        "episode": rng.integers(0, 9, count).astype(np.uint64),
        "step": rng.integers(0, 99, count).astype(np.uint32),
        "player": rng.integers(0, players, count).astype(np.uint16),
        "action": rng.integers(0, 8 * height * width + 1, count).astype(np.uint32),
        "reward": rng.normal(size=count).astype(np.float32),
        "terminated": terminated,
        "truncated": ended & ~terminated,
        "outcome": np.where(ended, rng.choice([1, -1, 0, 0.5, NAN], count), NAN).astype(np.float32),
        "has_next": has_next,
    }


def check(text: str, twin: Any, seed: int = 0, **options: Any) -> None:
    reward = parse_reward(text)
    assert isinstance(reward, RewardFunction)
    batch = batch_of(np.random.default_rng(seed), 300, **options)
    always = set(batch) - {f"{prefix}{name}" for name in BOARDS for prefix in ("", "next_")}
    seen = {name: values for name, values in batch.items() if name in always or name in reward.needs}
    found = reward(seen)
    assert found.shape == (300,)
    np.testing.assert_allclose(found, [twin(slow.one(batch, at)) for at in range(300)], rtol=1e-12, atol=1e-12)


# Weights of different size each, so that no two components can stand for one another.
ODD = {name: 0.1 * (place + 1) ** 2 for place, name in enumerate(slow.GO_WEIGHTS)}
ODD_TEXT = ", ".join(f"{name}={weight!r}" for name, weight in ODD.items())


@pytest.mark.parametrize(
    ("text", "twin"),
    [
        ("sparse", slow.sparse),
        ("sparse(win=3, loss=-0.5, draw=0.25)", lambda row: slow.sparse(row, 3, -0.5, 0.25)),
        ("game", lambda row: row["reward"]),
        ("-0.25", lambda row: -0.25),
        ("weighted", slow.weighted),
        ("weighted(end_alone=False)", lambda row: slow.weighted(row, end_alone=False)),
        (f"weighted({ODD_TEXT})", lambda row: slow.weighted(row, **ODD)),
        (f"weighted({ODD_TEXT}, end_alone=False)", lambda row: slow.weighted(row, end_alone=False, **ODD)),
        ("weighted_documented", lambda row: slow.weighted(row, **DOCUMENTED)),
        ("target", slow.target),
        ("target(city=3, general=5, territory=0.5)", lambda row: slow.target(row, 3, 5, 0.5)),
        ("potential", slow.potential),
        ("potential(of=land, gamma=1)", lambda row: slow.potential(row, "land", 1)),
        ("potential(of=cities, gamma=0.5)", lambda row: slow.potential(row, "cities", 0.5)),
        ("sparse + 0.5 * target - 0.01", lambda row: slow.sparse(row) + 0.5 * slow.target(row) - 0.01),
        ("-(game - 2 * (sparse - target * 3)) * 2",
         lambda row: -2 * row["reward"] + 4 * slow.sparse(row) - 12 * slow.target(row)),
        ("clip(weighted_documented)", lambda row: min(max(slow.weighted(row, **DOCUMENTED), -1), 1)),
        ("clip(game, -0.2, high=0.5) * 2", lambda row: 2 * min(max(row["reward"], -0.2), 0.5)),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_a_reward_is_that_of_its_slow_twin(text: str, twin: Any) -> None:
    check(text, twin, seed=1)
    check(text, twin, seed=2, players=2, height=5, width=7)


def test_the_defaults_are_those_of_the_go_system() -> None:
    """By hand: 10 armies against 30, two tiles and six armies more, one of them a city; nothing else."""
    board = {
        "state/army": [[4, 30, 40]], "state/owner": [[0, 1, -1]], "state/terrain": [[2, 2, 1]],
        "next_state/army": [[1, 30, 9]], "next_state/owner": [[0, 1, 0]],
    }  # fmt: skip
    batch = {name: np.array([values]) for name, values in board.items()} | {
        "player": np.array([0], np.uint16), "outcome": np.array([NAN]),
    }  # fmt: skip
    expected = 0.01 * 1 + 0.001 * 6 + 0.1 + 0.05 * (10 - 30) / (10 + 30)
    assert find_reward("weighted")(batch) == pytest.approx([expected], abs=1e-15)
    for outcome, alone in ((1, 1.0), (-1, -1.0), (0, expected)):
        assert find_reward("weighted")(batch | {"outcome": np.array([outcome])}) == pytest.approx([alone], abs=1e-15)
    assert find_reward("weighted", end_alone=False)(batch | {"outcome": np.array([1])}) == pytest.approx([1 + expected])


def test_boards_of_different_shapes_are_refused() -> None:
    batch = batch_of(np.random.default_rng(0), 3)
    for name in ("state/army", "next_state/owner"):
        with pytest.raises(UsageError, match="not boards of one shape"):
            find_reward("weighted")(batch | {name: batch[name][:, :2]})
        with pytest.raises(UsageError, match="not boards of one shape"):
            find_reward("weighted")(batch | {name: batch[name][:2]})


def test_an_empty_batch_has_no_rewards() -> None:
    batch = batch_of(np.random.default_rng(0), 0)
    for name in reward_names():
        if name in ("game", "constant", "sparse", "weighted", "weighted_documented", "target", "potential"):
            assert find_reward(name)(batch).shape == (0,)


def episode_of(rng: np.random.Generator, length: int, terminated: bool) -> dict[str, Any]:
    """One player's episode in its order: what stands after a step is what stands before the next."""
    boards = {
        "state/army": rng.integers(0, 60, (length + 1, 3, 4)).astype(np.int32),
        "state/owner": rng.integers(-1, 2, (length + 1, 3, 4)).astype(np.int8),
        "state/terrain": rng.integers(0, 4, (length + 1, 3, 4)).astype(np.uint8),
    }
    flags = np.zeros(length, bool)
    flags[-1] = terminated
    return {
        **{name: values[:-1] for name, values in boards.items()},
        **{f"next_{name}": values[1:] for name, values in boards.items()},
        "player": np.zeros(length, np.uint16),
        "step": np.arange(length, dtype=np.uint32),
        "terminated": flags,
        "has_next": np.ones(length, bool),
    }


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 2**32),
    st.integers(1, 30),
    st.booleans(),
    st.floats(0, 1),
    st.sampled_from(["army", "land", "cities"]),
)
def test_shaping_telescopes(seed: int, length: int, terminated: bool, gamma: float, of: str) -> None:
    """The discounted sum over an episode is gamma^T phi(s_T) - phi(s_0), with phi 0 where the game is over: no policy
    gains by shaping what another would not."""
    batch = episode_of(np.random.default_rng(seed), length, terminated)
    shaping = find_reward("potential", of=of, gamma=gamma)
    assert isinstance(shaping, PotentialReward)
    found = float(np.sum(gamma ** np.arange(length) * shaping(batch)))

    def phi(at: int, prefix: str) -> float:
        row = slow.one(batch, at)
        return slow.phi(of, *(row[f"{prefix}state/{name}"] for name in ("owner", "army", "terrain")), 0)

    last = 0.0 if terminated else gamma**length * phi(length - 1, "next_")
    assert found == pytest.approx(last - phi(0, ""), abs=1e-9)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.integers(2, 30), st.data())
def test_no_shaping_crosses_a_gap(seed: int, length: int, data: Any) -> None:
    """Each stretch between gaps telescopes by itself; the transition into the gap is worth nothing."""
    batch = episode_of(np.random.default_rng(seed), length, False)
    gaps = data.draw(st.sets(st.integers(0, length - 1), min_size=1))
    batch["has_next"][list(gaps)] = False
    found = find_reward("potential", of="land", gamma=1)(batch)
    total = 0.0
    for at in range(length):
        row = slow.one(batch, at)
        if at in gaps:
            assert found[at] == 0
        else:
            total += slow.phi("land", row["next_state/owner"], {}, {}, 0) - slow.phi(
                "land", row["state/owner"], {}, {}, 0
            )
    assert found.sum() == pytest.approx(total, abs=1e-9)


FINITE = st.floats(-1e30, 1e30)


@settings(max_examples=80, deadline=None)
@given(arrays(np.float64, st.integers(0, 20), elements=FINITE), FINITE, FINITE)
def test_clipping_keeps_to_its_limits_and_changes_nothing_within(values: np.ndarray, one: float, other: float) -> None:
    low, high = sorted((one, other))
    batch = {"step": np.zeros(len(values), np.uint32), "reward": values}
    found = parse_reward(f"clip(game, {low!r}, {high!r})")(batch)
    assert ((found >= low) & (found <= high)).all()
    inside = (values >= low) & (values <= high)
    assert np.array_equal(found[inside], values[inside])
    assert np.array_equal(found[~inside], np.where(values[~inside] < low, low, high))
    assert np.array_equal(parse_reward(f"clip(clip(game, {low!r}, {high!r}), {low!r}, {high!r})")(batch), found)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "a reward is empty"),
        ("spare", "did you mean sparse?"),
        ("nothing_like_it", "there are game, constant, sparse"),
        ("potential(of=lnd)", "did you mean land?"),
        ("sparse * game", "a product needs a number"),
        ("sparse(3)", "settings of sparse need their names"),
        ("sparse(win=lots)", "win is 'lots'; it has to be a number"),
        ("sparse(wins=1)", "unexpected keyword argument 'wins'; it takes win, loss, draw"),
        ("weighted_documented(won=1)", "it takes win_game"),
        ("potential(gamma=1.5)", "gamma is 1.5; it has to be from 0 to 1"),
        ("clip(sparse, 1, -1)", "low 1 is above high -1"),
        ("clip(sparse, -1, 1, 2)", "clip takes a reward, then low and high"),
        ("clip(sparse, low)", "the limits of clip are numbers"),
        ("1e400", "it has to be a number"),
        ("sparse +", "is not understood"),
        ("sparse.real", "is not understood"),
        ("sparse if 1 else game", "is not understood"),
        ("[sparse]", "is not understood"),
        ("(lambda: 1)()", "is not understood"),
        ("__import__('os')", "settings of __import__ need their names"),
        ("sparse(**{})", "is not understood"),
        ("sparse\x00", "is not understood"),
        ("-(" * 300 + "sparse" + ")" * 300, "is not understood"),
        ("0.1 * sparse + " * 100 + "game", "too long"),
        ("no_such_module:reward", "no module 'no_such_module'"),
        ("os:path", "not a callable"),
    ],
)
def test_text_that_is_no_reward_is_told_in_one_line(text: str, words: str) -> None:
    with pytest.raises((UsageError, ConfigError)) as caught:
        parse_reward(text)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


WORDS = st.sampled_from(
    ["sparse", "weighted", "potential", "target", "clip", "game", "win", "of", "land", "gamma", "(", ")", "+", "-", "*",
     "=", ",", "1", "0.5", "1e9", "True", "None", " ", "'", "[", "lambda", "if", "\n", "**", "//", "@", "é", "\0"]
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(
    st.one_of(st.lists(WORDS, max_size=14).map(" ".join), st.text(st.characters(exclude_characters=":"), max_size=40))
)
def test_any_text_is_a_reward_or_refused(text: str) -> None:
    try:
        reward = parse_reward(text)
    except (UsageError, ConfigError):
        return
    batch = batch_of(np.random.default_rng(0), 5)
    assert np.asarray(reward(batch)).shape == (5,)


EXTREME = st.sampled_from([0, 1, 2, 40, 1 << 20, (1 << 31) - 1])


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 4), st.data())
def test_rewards_of_extreme_boards_are_those_of_the_slow_twins(count: int, data: Any) -> None:
    shape = (count, 2, 3)
    boards = {"state/army": EXTREME, "state/owner": st.integers(-1, 15), "state/terrain": st.integers(0, 3)}
    kinds = {"state/army": np.int32, "state/owner": np.int8, "state/terrain": np.uint8}
    batch = batch_of(np.random.default_rng(count), count) | {
        prefix + name: data.draw(arrays(kinds[name], shape, elements=elements))
        for name, elements in boards.items()
        for prefix in ("", "next_")
    }
    batch["player"] = data.draw(arrays(np.uint16, count, elements=st.integers(0, 15)))
    batch["action"] = data.draw(arrays(np.uint32, count, elements=st.integers(0, 48)))
    twins = {"weighted": slow.weighted, "target": slow.target}
    twins |= {f"potential(of={of})": partial(slow.potential, of=of) for of in ("army", "land", "cities")}
    for text, twin in twins.items():
        expected = [twin(slow.one(batch, at)) for at in range(count)]
        np.testing.assert_allclose(parse_reward(text)(batch), expected, rtol=1e-9, atol=1e-12)


USER_REWARDS = """
import numpy as np
from expkit.rewards import needs

@needs("state/owner", "next_state/owner")
def expansion(batch, scale=1.0):
    mine = batch["player"][:, None, None]
    return scale * ((batch["next_state/owner"] == mine).sum((1, 2)) - (batch["state/owner"] == mine).sum((1, 2)))

class Bonus:
    needs = ("action",)
    def __init__(self, size=2): self.size = size
    def __call__(self, batch): return np.full(len(batch["step"]), self.size)

class NotCallable: pass

@needs("state/owner")
def share(states): return (states["state/owner"] == states["player"][:, None, None]).mean((1, 2))

def too_many(batch): return np.zeros(len(batch["step"]) + 1)
def words(batch): return np.array(["a"] * len(batch["step"]))
def ragged(batch): return [[1], [1, 2]]
def not_finite(batch): return np.where(np.arange(len(batch["step"])) == 3, np.nan, 0)
def huge(batch): return np.full(len(batch["step"]), 1e300)
def no_needs(batch): return batch["step"]
no_needs.needs = "state/owner"
def odd_needs(batch): return batch["step"]
odd_needs.needs = (3,)
"""


@pytest.fixture
def user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module of somebody else's."""
    (tmp_path / "user_rewards.py").write_text(USER_REWARDS)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "user_rewards", raising=False)
    return "user_rewards"


def test_rewards_of_users_by_module_and_callable(user: str) -> None:
    batch = batch_of(np.random.default_rng(3), 50, players=2)
    land = parse_reward("weighted(territory_gained=1, territory_lost=-1, army_gained=0, army_lost=0, capture_city=0, "
                        "lose_city=0, capture_general=0, lose_general=0, army_advantage=0, win_game=0, lose_game=0, "
                        "end_alone=False)")  # fmt: skip
    mine = parse_reward(f"2 * {user}:expansion(scale=0.5) + {user}:Bonus(size=3) + {user}:Bonus")
    assert mine.needs == ("state/owner", "next_state/owner")
    assert np.allclose(mine(batch), land(batch) + 5)
    shaped = parse_reward(f"potential(of={user}:share, gamma=1)")
    assert isinstance(shaped, PotentialReward)
    assert isinstance(shaped.potential, Potential)
    assert shaped.needs == ("state/owner", "next_state/owner")
    going_on = batch["has_next"] & ~batch["terminated"]
    assert np.allclose(shaped(batch)[going_on], land(batch)[going_on] / 20)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("too_many", r"too_many returned shape \(51,\) for 50 transitions"),
        ("words", "words returned <U1; return numbers"),
        ("ragged", "unequal length"),
        ("not_finite", "returned nan for transition 3 of 50"),
        ("huge", "float32 cannot hold"),
        ("no_needs", "declare them as names"),
        ("odd_needs", "hold 3, which is no name"),
        ("NotCallable", "cannot be called"),
        ("missing", "has no 'missing'"),
    ],
)
def test_what_is_wrong_with_a_users_reward_is_told(user: str, name: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        RewardColumns.parse(f"{user}:{name}").compute(batch_of(np.random.default_rng(0), 50))


def test_rewards_of_installed_packages(user: str, tmp_path: Path) -> None:
    about = tmp_path / "their_rewards-1.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: their-rewards\nVersion: 1\n")
    (about / "entry_points.txt").write_text(f"[expkit.rewards]\ntheir_bonus = {user}:Bonus\n")
    assert "their_bonus" in reward_names()
    batch = batch_of(np.random.default_rng(0), 4)
    assert parse_reward("their_bonus(size=7) - 1")(batch).tolist() == [6, 6, 6, 6]


def test_columns_of_rewards() -> None:
    columns = RewardColumns.parse("sparse", "dense=weighted; shaped = sparse + potential(of=land)")
    assert list(columns.functions) == ["reward", "reward/dense", "reward/shaped"]
    assert columns.needs == (
        "state/army", "state/owner", "state/terrain", "next_state/army", "next_state/owner",
    )  # fmt: skip
    assert RewardColumns.parse("game", "x=1").needs == ("reward",)
    assert not RewardColumns.parse(None, "")
    batch = batch_of(np.random.default_rng(5), 60)
    found = columns.compute(batch)
    assert {name: (values.dtype, values.shape) for name, values in found.items()} == {
        name: (np.dtype("f4"), (60,)) for name in columns.functions
    }
    assert np.array_equal(found["reward/dense"], find_reward("weighted")(batch).astype("f4"))
    schema = columns.schema(Schema([Field("action", "u4", belongs="action")]))
    assert [field.name for field in schema.fields][-2:] == ["reward/dense", "reward/shaped"]
    assert schema["reward/dense"] == Field("reward/dense", "f4", belongs="action", meaning="reward weighted")
    assert columns.schema(schema) == schema


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("weighted", "write it like dense=weighted"),
        ("=weighted", "write it like dense=weighted"),
        ("a b=weighted", "write it like dense=weighted"),
        ("a=sparse;a=game", "given twice"),
        ("a=", "a reward is empty"),
    ],
)
def test_columns_that_are_not_understood(given: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        RewardColumns.parse(None, given)


def test_a_field_that_is_there_as_another_kind_is_refused() -> None:
    with pytest.raises(SchemaError, match="reward/dense"):
        RewardColumns.parse(None, "dense=weighted").schema(Schema([Field("reward/dense", "i4", (3,))]))
