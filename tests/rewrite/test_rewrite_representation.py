"""Stored runs in another representation: what recording in it would have stored, or a refusal in one line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from generals_games import play_episodes
from hypothesis import given, settings
from hypothesis import strategies as st
from recorded_games import record_games
from test_compact import expkit, lose_columns
from test_serialize_planes import boards
from written_runs import VECTOR_SCHEMA, write_vectors

from expkit import open_run
from expkit.comparison.compare import compare_runs
from expkit.errors import SchemaError, ShardError, UsageError
from expkit.games.generals import GeneralsConfig
from expkit.games.generals.schema import generals_schema
from expkit.resimulation.verify import verify_run
from expkit.rewards.columns import RewardColumns
from expkit.rewrite.change import Change
from expkit.rewrite.merge import Choice, merge, plan_merge
from expkit.rewrite.sources import Sources
from expkit.serialize.representations import (
    CHANNELS,
    BytePlanesRepresentation,
    HalfPlanesRepresentation,
    PlanesRepresentation,
    find_conversion,
    find_representation,
    representation_names,
    stored_planes,
)
from expkit.validation.validate import validate_run

RAW = generals_schema(GeneralsConfig(players=3, height=5, width=6))
KINDS = (PlanesRepresentation, HalfPlanesRepresentation, BytePlanesRepresentation)


def planes_of(kind: int, selected: tuple[str, ...], scale: int) -> PlanesRepresentation:
    return BytePlanesRepresentation(selected) if kind == 2 else KINDS[kind](selected, scale)


channels = st.lists(st.sampled_from(CHANNELS), min_size=1, max_size=9, unique=True).map(tuple)
planes = st.builds(planes_of, st.integers(0, 2), channels, st.sampled_from([1, 100, 255, 1000, 1024, 5000]))


@settings(max_examples=150, deadline=None)
@given(planes, planes, st.integers(0, 2**32))
def test_planes_become_what_the_boards_would_have_become(
    source: PlanesRepresentation, target: PlanesRepresentation, seed: int
) -> None:
    """Or are refused, and then two boards that differ have the same planes before and others after, or a plane is
    missing."""
    schema = source.schema(RAW)
    assert stored_planes(schema) == source
    columns = boards(3, 5, 6, seed)
    told = set(target.selected) <= set(source.selected)
    armies = any(channel.endswith("armies") for channel in target.selected)
    exact = source.army_scale <= {"f4": 1 << 23, "f2": 1 << 10, "u1": 255}[source.dtype]
    if source != target and (not told or (armies and (not exact or target.army_scale > source.army_scale))):
        with pytest.raises(SchemaError, match="cannot be had from these planes"):
            find_conversion(schema, target)
        return
    conversion = find_conversion(schema, target)
    assert conversion.schema == target.schema(RAW)
    made = conversion.convert(source.convert(columns, 3, 1), 3, 1)
    expected = target.convert(columns, 3, 1)
    assert made["observation"].dtype == expected["observation"].dtype
    assert np.array_equal(made["observation"], expected["observation"])


def test_what_a_field_must_be_to_count_as_planes() -> None:
    assert stored_planes(RAW) is None
    assert stored_planes(VECTOR_SCHEMA) is None
    assert stored_planes(find_representation("flat").schema(RAW)) is None
    for name in ("raw", "flat"):
        with pytest.raises(SchemaError, match=f"{name} cannot be had from planes: they tell neither neutral armies"):
            find_conversion(PlanesRepresentation().schema(RAW), find_representation(name))
        with pytest.raises(SchemaError, match=f"{name} cannot be had from rows without boards"):
            find_conversion(VECTOR_SCHEMA, find_representation(name))


@pytest.fixture(scope="module")
def games(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same games, recorded in each representation."""
    folder = tmp_path_factory.mktemp("games")
    return {
        name: record_games(folder / name, size="8x9", seed=3, representation=name) for name in representation_names()
    }


def convert(path: Path, out: Path, name: str, choice: Choice | None = None) -> None:
    with Sources([path], Change(representation=name)) as sources:
        merge(sources, plan_merge(sources, choice), out, choice)


def check_same_rows(out: Path, recorded: Path) -> None:
    with open_run(out) as found, open_run(recorded) as expected:
        assert found.schema == expected.schema
        assert [finding for finding in validate_run(found) if finding.severity != "info"] == []
        for episode in expected.episodes():
            for player in episode.rows:
                rows, others = found.rows(episode.number, player), expected.rows(episode.number, player)
                for name, values in others.items():
                    assert name == "time_ns" or np.array_equal(rows[name], values), name


@pytest.mark.parametrize(
    ("source", "target"),
    [
        *(("raw", name) for name in representation_names()),
        ("planes", "planes-float16"),
        ("planes", "planes-uint8"),
        ("planes-float16", "planes"),
        ("planes-float16", "planes-uint8"),
    ],
)
def test_a_converted_run_is_as_if_recorded_so(games: dict[str, Path], tmp_path: Path, source: str, target: str) -> None:
    convert(games[source], tmp_path / "out", target)
    check_same_rows(tmp_path / "out", games[target])
    with open_run(tmp_path / "out") as run:
        assert run.info.metadata["rewritten"] == {"representation": target}
        assert [result.difference for result in verify_run(run, run.episodes())] == [None] * 3


def test_runs_of_several_representations_are_joined_in_one(games: dict[str, Path], tmp_path: Path) -> None:
    paths = [games[name] for name in ("raw", "planes", "planes-float16")]
    with Sources(paths, Change(representation="planes-uint8")) as sources:
        merge(sources, plan_merge(sources, Choice(dedupe=True)), tmp_path / "out", Choice(dedupe=True))
    with open_run(tmp_path / "out") as run, open_run(games["planes-uint8"]) as expected:
        assert run.schema == expected.schema
        for number in range(9):
            rows, others = run.rows(number, 1), expected.rows(number % 3, 1)
            assert np.array_equal(rows["observation"], others["observation"])
    with pytest.raises(SchemaError, match="do not hold the same: observation/army"):
        Sources(paths)


def test_rows_and_columns_may_be_chosen_at_once(games: dict[str, Path], tmp_path: Path) -> None:
    """Conditions look at rows as they are in the input, columns are those of the output."""
    choice = Choice(where="observation/army[0, 0] == 0 and step < 20", columns=["observation", "action"])
    convert(games["raw"], tmp_path / "out", "flat", choice)
    with open_run(games["raw"]) as raw, open_run(tmp_path / "out") as run, open_run(games["flat"]) as flat:
        assert [field.name for field in run.schema.fields] == [
            "observation", "action", "reward", "terminated", "truncated",
        ]  # fmt: skip
        for episode in run.episodes():
            assert episode.start is not None
            assert episode.start.origin is not None
            number = episode.start.origin.episode
            for player in episode.rows:
                given_rows, found = raw.rows(number, player), run.rows(episode.number, player)
                keep = (given_rows["observation/army"][:, 0, 0] == 0) & (given_rows["step"] < 20)
                assert np.array_equal(found["step"], given_rows["step"][keep])
                assert np.array_equal(found["observation"], flat.rows(number, player)["observation"][keep])


def test_rewards_and_boards_at_once(games: dict[str, Path], tmp_path: Path) -> None:
    """Rewards are those of the truth, which boards that were converted need not tell: as if computed before."""
    rewards = RewardColumns.parse("weighted", "land=potential(of=land)")
    convert(games["raw"], tmp_path / "both", "planes-uint8", Choice(where="step < 30", rewards=rewards))
    with Sources([games["raw"]]) as sources:
        choice = Choice(where="step < 30", rewards=rewards)
        merge(sources, plan_merge(sources, choice), tmp_path / "rewards", choice)
    convert(tmp_path / "rewards", tmp_path / "after", "planes-uint8")
    with open_run(tmp_path / "both") as both, open_run(tmp_path / "after") as after:
        assert both.schema == after.schema
        assert both.info.metadata["rewards"] == after.info.metadata["rewards"]
        assert compare_runs(both, after).equal
        assert float(np.abs(next(both.scan(["reward/land"]))["reward/land"]).max()) > 0


def test_your_own_and_what_was_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "land.py").write_text(
        "from expkit.serialize.representations import computed\n"
        '@computed("u2", (1,))\n'
        'def land(board, player):\n    return (board["owner"] == player).sum(1)[:, None]\n'
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    record_games(tmp_path / "run", size="8x8")
    done = expkit("rewrite", tmp_path / "run", "--representation", "land:land", "-o", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    with open_run(tmp_path / "run") as raw, open_run(tmp_path / "out") as run:
        own = raw.rows(1, 0)["observation/owner"] == 0
        assert np.array_equal(run.rows(1, 0)["observation"][:, 0], own.sum((1, 2)))
    lose_columns(tmp_path / "run", 0, ("observation/owner",))
    with pytest.raises(ShardError, match="values to be converted were lost: observation/owner"):
        convert(tmp_path / "run", tmp_path / "lost", "planes")
    convert(tmp_path / "run", tmp_path / "same", "raw")


def test_the_command(games: dict[str, Path], tmp_path: Path) -> None:
    arguments = ["rewrite", games["raw"], "--representation", "planes-uint8", "-o", tmp_path / "out"]
    dry = json.loads(expkit(*arguments, "--dry-run", "--json").stdout)
    (change,) = dry["changes"]
    with open_run(games["raw"]) as raw, open_run(games["planes-uint8"]) as run:
        assert change["row_bytes"] == {"from": raw.schema.row_bytes, "to": run.schema.row_bytes}
    assert {"name": "observation/army", "from": "i4 8x9", "to": None} in change["fields"]
    assert {"name": "observation", "from": None, "to": "u1 9x8x9"} in change["fields"]
    said = expkit(*arguments, "--dry-run")
    assert "before compression" in said.stdout
    assert "observation/army: i4 8x9 -> gone" in said.stdout
    assert list(tmp_path.iterdir()) == []
    assert expkit(*arguments).returncode == 0
    for source, name, words in (
        ("planes-uint8", "planes", "they tell armies apart up to 255, and 1,000 is asked for"),
        ("planes", "raw", "raw cannot be had from planes"),
        ("raw", "pictures", "no representation 'pictures'"),
    ):
        refused = expkit("rewrite", games[source], "--representation", name, "-o", tmp_path / "no")
        assert refused.returncode == 2
        assert len(refused.stderr.splitlines()) == 1
        assert words in refused.stderr
    vectors = expkit("rewrite", write_vectors(tmp_path / "vectors"), "--representation", "flat", "-o", tmp_path / "no")
    assert vectors.returncode == 2
    assert not (tmp_path / "no").exists()


def test_a_change_is_one_thing() -> None:
    for nothing in ({}, {"representation": "raw", "pad": (9, 9)}):
        with pytest.raises(UsageError, match="ask for one of them"):
            Change(**nothing)  # type: ignore[arg-type]


def test_the_real_games_tell_armies_apart_in_every_kind() -> None:
    """What a float16 or float32 plane says of an army is the army, in games that were played."""
    config = GeneralsConfig(players=2, height=8, width=9, max_steps=120)
    schema = generals_schema(config)
    table = play_episodes(config, ["hunter"], 3)[1][0]
    rows = len(table["step"])
    for source in (PlanesRepresentation(), HalfPlanesRepresentation(), BytePlanesRepresentation()):
        made = source.convert(table, rows, 0)["observation"].reshape(rows, 9, 72)
        field = source.schema(schema)["observation"]
        mine = table["observation/owner"] == 0
        top = np.minimum(np.where(mine, table["observation/army"], 0), source.army_scale)
        assert np.array_equal(source.armies(made[:, field.channels.index("own_armies")]), top)
