"""What is in a run is what happened, whatever plays: environments and players that misbehave, through `expkit.wrap`."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from truth_games import CONTAINERS, Alone, AtOnce, Turns
from truth_players import play_alone, play_at_once, play_turns
from truth_told import check

import expkit
from expkit.spaces.layouts import FixedLayout

SEEDS = st.integers(0, 1 << 30)
KINDS = st.sampled_from(CONTAINERS)
FAILS = st.dictionaries(st.integers(1, 30), st.booleans(), max_size=3)
FEW = settings(max_examples=16, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True,
               phases=[Phase.generate])  # fmt: skip
MANY = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))


@contextmanager
def wrapped(env: Any, folder: Path) -> Iterator[Any]:
    """Closed whatever happens: a recorder that is left open keeps its threads."""
    recorded = expkit.wrap(env, folder / "run", min_free=0, memory="8MiB")
    try:
        yield recorded
    finally:
        recorded.close()


def alone(kind: str, reused: bool, edits: bool, seed: int, fails: dict[int, bool], compacted: bool = True) -> int:
    with tempfile.TemporaryDirectory() as name, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # lists and tuples are in no Box
        with wrapped(Alone(kind, reused, seed, Path(name), fails), Path(name)) as env:
            truth = play_alone(env, 40, seed, edits)
        return check(Path(name) / "run", truth, compacted)


def turns(kind: str, reused: bool, edits: bool, apart: bool, players: int, zero: bool, seed: int) -> int:
    with tempfile.TemporaryDirectory() as name, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        inner = Turns(players, kind, reused, seed, Path(name), zero)
        with wrapped(inner, Path(name)) as env:
            truth = play_turns(env, inner, 3, 30, seed, edits, apart)
        return check(Path(name) / "run", truth)


def at_once(kind: str, reused: bool, edits: bool, players: int, seed: int) -> int:
    with tempfile.TemporaryDirectory() as name, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        inner = AtOnce(players, kind, reused, seed, Path(name))
        with wrapped(inner, Path(name)) as env:
            truth = play_at_once(env, inner, 3, 25, seed, edits)
        return check(Path(name) / "run", truth)


ALONE = given(kind=KINDS, reused=st.booleans(), edits=st.booleans(), seed=SEEDS, fails=FAILS)
TURNS = given(
    kind=KINDS, reused=st.booleans(), edits=st.booleans(), apart=st.booleans(), players=st.integers(1, 4),
    zero=st.booleans(), seed=SEEDS,
)  # fmt: skip
AT_ONCE = given(kind=KINDS, reused=st.booleans(), edits=st.booleans(), players=st.integers(1, 4), seed=SEEDS)


@FEW
@ALONE
def test_alone(**drawn: Any) -> None:
    alone(**drawn)


@FEW
@TURNS
def test_turns(**drawn: Any) -> None:
    turns(**drawn)


@FEW
@AT_ONCE
def test_at_once(**drawn: Any) -> None:
    at_once(**drawn)


@pytest.mark.slow
@MANY
@ALONE
def test_alone_many(**drawn: Any) -> None:
    alone(**drawn)


@pytest.mark.slow
@MANY
@TURNS
def test_turns_many(**drawn: Any) -> None:
    turns(**drawn)


@pytest.mark.slow
@MANY
@AT_ONCE
def test_at_once_many(**drawn: Any) -> None:
    at_once(**drawn)


@pytest.mark.parametrize("kind", CONTAINERS)
def test_every_container_is_copied_at_once(kind: str) -> None:
    assert alone(kind, True, True, 5, {}, compacted=False) >= 40
    assert turns(kind, True, True, False, 2, True, 5) > 0
    assert at_once(kind, True, True, 2, 5) > 0


@pytest.mark.parametrize(
    "play", [lambda kind: alone(kind, True, False, 5, {}), lambda kind: at_once(kind, True, False, 2, 5)]
)
def test_a_reference_in_place_of_a_copy_is_noticed(monkeypatch: pytest.MonkeyPatch, play: Any) -> None:
    """The harness itself: one reference put back, for arrays and for what is none."""
    real = FixedLayout.row

    def careless(self: Any, value: Any) -> dict[str, Any]:
        return {self.fields[0].name: value if isinstance(value, np.ndarray | list) else real(self, value)}

    monkeypatch.setattr(FixedLayout, "row", careless)
    for kind in ("array", "list"):
        with pytest.raises(AssertionError):
            play(kind)
