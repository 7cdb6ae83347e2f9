"""Rewriting: other rows, columns and parts of a run; what is left out is accounted for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_compact import expkit, lose_columns
from test_merge import join
from test_prune import write
from written_runs import VECTOR_SCHEMA, write_boards, write_vectors

import expkit.rewrite.layout as layout
from expkit import Recorder, open_run
from expkit.errors import OutputExists, SchemaError, ShardError, UsageError
from expkit.reading.run import Run
from expkit.reading.summary import balance
from expkit.resimulation.verify import verify_run
from expkit.rewrite.filter import narrowed, parse_split
from expkit.rewrite.merge import Choice, plan_merge
from expkit.rewrite.sources import Sources
from expkit.validation.validate import validate_run

Address = tuple[str, int, int, int]  # run, episode there, player, step


def rows_of(paths: list[Path]) -> dict[Address, dict[str, Any]]:
    """Every row under the address it was recorded at, as plain values: the slow twin."""
    out: dict[Address, dict[str, Any]] = {}
    for path in paths:
        with open_run(path) as run:
            for episode in run.episodes():
                origin = episode.start.origin if episode.start is not None else None
                where = (run.id, episode.number) if origin is None else (origin.run, origin.episode)
                for player in episode.rows:
                    table = run.rows(episode.number, player)
                    for at, step in enumerate(table["step"].tolist()):
                        key = (*where, player, step)
                        assert key not in out
                        out[key] = {name: values[at].tolist() for name, values in table.items() if name != "episode"}
    return out


def check_sound(path: Path) -> None:
    """It validates, and what was left out is in the ledger."""
    with open_run(path) as run:
        assert [finding for finding in validate_run(run) if finding.severity != "info"] == []
        for player in balance(run) or []:
            assert player.produced == player.present + player.dropped.get("filtered", 0)
            assert set(player.dropped) <= {"filtered"}


def selected(before: dict[Address, dict[str, Any]], keep: Any) -> dict[Address, dict[str, Any]]:
    """The rows for which `keep` is true; a last row when the row before it of that player is."""
    out: dict[Address, dict[str, Any]] = {}
    previous: Address | None = None
    for key in sorted(before):
        row = before[key]
        if row["is_last"] and previous is not None and previous[:3] == key[:3]:
            good = previous in out
        else:
            good = keep(key, row)
        if good:
            out[key] = row
        previous = key
    return out


@pytest.fixture(scope="module")
def boards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_boards(tmp_path_factory.mktemp("boards") / "run", episodes=12, steps=9, shard_rows=40)


CONDITIONS = [
    ("step < 4", lambda key, row: key[3] < 4),
    ("player == 1 and step >= 3", lambda key, row: key[2] == 1 and key[3] >= 3),
    ("reward > 0", lambda key, row: not row["is_last"] and row["reward"] > 0),
    ("reward == 0", lambda key, row: not row["is_last"] and row["reward"] == 0),
    ("policy == 'walker'", lambda key, row: key[2] == 0),
    ("episode % 3 == 1", lambda key, row: key[1] % 3 == 1),
    ("won", lambda key, row: key[2] == 0),
    ("outcome < 0 and step == 2", lambda key, row: key[2] == 1 and key[3] == 2),
    ("observation/total_army[0] > 25", lambda key, row: row["observation/total_army"][0] > 25),
    ("is_last", lambda key, row: row["is_last"]),
    ("length > 1000", lambda key, row: False),
]


@pytest.mark.parametrize(("text", "keep"), CONDITIONS, ids=lambda value: value if isinstance(value, str) else "")
def test_rows_that_a_condition_selects(boards: Path, tmp_path: Path, text: str, keep: Any) -> None:
    before = rows_of([boards])
    done = join([boards], tmp_path / "out", Choice(where=text))
    expected = selected(before, keep)
    assert rows_of([tmp_path / "out"]) == expected
    assert done.rows == len(expected)
    assert done.parts[0].filtered == len(before) - len(expected)
    check_sound(tmp_path / "out")
    with open_run(tmp_path / "out") as run:
        assert {e.start.origin.episode for e in run.episodes() if e.start and e.start.origin} == {
            k[1] for k in expected
        }
        assert all(episode.rows and episode.end is not None for episode in run.episodes())
        assert [e.number for e in run.episodes()] == sorted(e.number for e in run.episodes())


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.lists(st.integers(1, 20), min_size=1, max_size=8),
    st.lists(st.integers(0, 12), min_size=0, max_size=4),
    st.integers(1, 9),
    st.integers(3, 30),
)
def test_last_rows_go_with_the_row_before_them_over_blocks(
    tmp_path_factory: pytest.TempPathFactory, lengths: list[int], steps: list[int], most: int, shard_rows: int
) -> None:
    """With output blocks of a few rows, so that the two are in different ones."""
    folder = tmp_path_factory.mktemp("last")
    path = write(folder / "run", lengths, shard_rows)
    before = rows_of([path])
    text = f"step in ({', '.join(map(str, steps))})" if steps else "false"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layout, "BLOCK_ROWS", most)
        join([path], folder / "out", Choice(where=text))
    assert rows_of([folder / "out"]) == selected(before, lambda key, row: key[3] in steps)
    check_sound(folder / "out")


def test_several_runs_each_by_its_own_numbers_and_policies(tmp_path: Path) -> None:
    from test_merge import play

    paths = [play(tmp_path / "a", ["x", "y"], 6), play(tmp_path / "b", ["y", "x"], 5, seed=2)]
    before = rows_of(paths)
    ids = [open_run(path).id for path in paths]
    join(paths, tmp_path / "out", Choice(where="policy == 'y' and episode >= 2"))
    names = {ids[0]: (0, "xy"), ids[1]: (1, "yx")}
    expected = selected(before, lambda key, row: names[key[0]][1][key[1] % 2] == "y" and key[1] >= 2)
    found = rows_of([tmp_path / "out"])
    assert found.keys() == expected.keys()
    for key, row in found.items():
        assert {k: v for k, v in row.items() if k != "policy"} == {
            k: v for k, v in expected[key].items() if k != "policy"
        }
    with open_run(tmp_path / "out") as run:
        used = {run.policies[row["policy"]].name for row in found.values()}
        assert used == {"y"}
    check_sound(tmp_path / "out")


def test_columns(boards: Path, tmp_path: Path) -> None:
    before = rows_of([boards])
    join(
        [boards], tmp_path / "out", Choice(columns=["observation/army", "action"], where="observation/owner[1, 0] == 0")
    )
    with open_run(tmp_path / "out") as run:
        assert [field.name for field in run.schema.fields] == [
            "observation/army", "action", "reward", "terminated", "truncated",
        ]  # fmt: skip
    check_sound(tmp_path / "out")
    expected = selected(before, lambda key, row: row["observation/owner"][1][0] == 0)
    gone = {
        "observation/owner",
        "observation/terrain",
        "observation/total_army",
        "observation/total_land",
        "action_mask",
    }
    assert 0 < len(expected) < len(before)
    assert rows_of([tmp_path / "out"]) == {
        key: {name: value for name, value in row.items() if name not in gone} for key, row in expected.items()
    }


def test_nullable_columns_keep_their_nulls(tmp_path: Path) -> None:
    path = write_vectors(tmp_path / "run")
    join([path], tmp_path / "out", Choice(columns=["value"]))
    found = rows_of([tmp_path / "out"])
    assert {row["valid:value"] for row in found.values()} == {True, False}
    assert all((row["value"] == 0.25) == row["valid:value"] for row in found.values())
    assert "observation" not in open_run(tmp_path / "out").schema


def test_a_split_keeps_the_players_of_a_game_together_and_is_stable(boards: Path, tmp_path: Path) -> None:
    split = {"train": 0.6, "val": 0.3, "test": 0.1}
    done = join([boards], tmp_path / "out", Choice(split=split))
    assert [part.name for part in done.parts] == list(split)
    assert sorted(entry.name for entry in (tmp_path / "out").iterdir()) == sorted(split)
    parts = {name: rows_of([tmp_path / "out" / name]) for name in split}
    assert sum(map(len, parts.values())) == len(rows_of([boards]))
    where = {key[:2]: name for name, rows in parts.items() for key in rows}
    for name, rows in parts.items():
        assert all((*key[:2], 1 - key[2], key[3]) in rows for key in rows)
        assert all(where[key[:2]] == name for key in rows)
        check_sound(tmp_path / "out" / name)
    other = write_vectors(tmp_path / "other")
    join([boards], tmp_path / "merged")
    again = join([tmp_path / "merged"], tmp_path / "again", Choice(split=split))
    assert again.rows == done.rows
    for name in split:
        assert rows_of([tmp_path / "again" / name]).keys() == parts[name].keys()
    with pytest.raises(OutputExists):
        join([other], tmp_path / "out", Choice(split=split))
    join([other], tmp_path / "out", Choice(split={"a": 0.5, "b": 0.5}), force=True)
    assert sorted(entry.name for entry in (tmp_path / "out").iterdir()) == ["a", "b"]


def test_a_split_has_about_the_shares_asked_for(tmp_path: Path) -> None:
    with Recorder(tmp_path / "run", VECTOR_SCHEMA, min_free=0) as recorder:
        for episode in range(1000):
            recorder.add(episode=episode, step=0, action=0, reward=0, observation=np.zeros(3))
            recorder.end(episode=episode, player=0, observation=np.zeros(3))
    with Sources([tmp_path / "run"]) as sources:
        plan = plan_merge(sources, Choice(split={"train": 0.9, "val": 0.1}))
    train, val = (len(part.taken) for part in plan.parts)
    assert train + val == 1000
    assert 60 < val < 140  # four standard deviations of a fair draw; the run's id is random


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("train=.5,val=.4", "add up to 0.9"),
        ("train=.5,train=.5", "names train twice"),
        ("train", "is not understood"),
        ("../x=1", "is not understood"),
        ("a=2,b=-1", "is not understood"),
        ("=1", "is not understood"),
        ("a=nan", "is not understood"),
    ],
)
def test_a_split_that_is_none(text: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        parse_split(text)
    assert parse_split("train=.95, val=.05") == {"train": 0.95, "val": 0.05}


def test_what_is_not_understood_is_told_before_anything_is_made(boards: Path, tmp_path: Path) -> None:
    with pytest.raises(SchemaError, match="no column 'obs'"):
        narrowed(open_run(boards).schema, ["obs"])
    for option, text in (("--where", "rewrad > 0"), ("--columns", "obs"), ("--split", "a=.5")):
        done = expkit("rewrite", boards, "-o", tmp_path / "out", option, text)
        assert done.returncode == 2
        assert len(done.stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_condition_on_values_that_were_lost_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "run", [40] * 4, shard_rows=60)
    lose_columns(path, 1, ("action",))
    with pytest.raises(ShardError, match="--where asks for were lost: action"):
        join([path], tmp_path / "out", Choice(where="action == 1"))
    join([path], tmp_path / "out", Choice(where="step < 20"))
    with open_run(tmp_path / "out") as run:
        assert sum(len(b) for b in (block.reader.lost_columns(block.info.index) for block in run.blocks())) == 1
        assert len(run) == 80
    join([path], tmp_path / "without", Choice(columns=["observation"]))
    with open_run(tmp_path / "without") as run:
        assert all(not block.reader.lost_columns(block.info.index) for block in run.blocks())


def test_games_that_were_taken_whole_still_play_out_the_same(tmp_path: Path) -> None:
    done = expkit(
        "record", "--episodes", 9, "--seed", 4, "--size", "8x8", "--max-steps", 70, "--num-envs", 4, "--memory",
        "8MiB", "--min-free", 0, "-o", tmp_path / "games", "-q",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    join([tmp_path / "games"], tmp_path / "out", Choice(where="episode in (2, 5, 6)"))
    with Run(tmp_path / "out") as run:
        results = list(verify_run(run, run.episodes()))
        assert [result.difference for result in results] == [None] * 3
        assert [e.start.origin.episode for e in run.episodes() if e.start and e.start.origin] == [2, 5, 6]


def test_the_command(boards: Path, tmp_path: Path) -> None:
    arguments = ["rewrite", boards, "-o", tmp_path / "out", "--where", "step < 4", "--split", "train=.5,val=.5"]
    dry = json.loads(expkit(*arguments, "--dry-run", "--json").stdout)
    assert (dry["schema"], dry["dry_run"], [part["name"] for part in dry["parts"]]) == (
        "expkit.rewrite/1", True, ["train", "val"],
    )  # fmt: skip
    assert list(tmp_path.iterdir()) == []
    body = json.loads(expkit(*arguments, "--json").stdout)
    assert body["rows"] == 12 * 2 * 4
    assert body["rows_filtered"] == 12 * 2 * 6
    assert [Path(part["path"]).name for part in body["parts"]] == ["train", "val"]
    said = expkit("rewrite", boards, "-o", tmp_path / "won", "--where", "won")
    assert f"{tmp_path / 'won'}: 120 rows of 12 episodes, 120 rows filtered" in said.stdout
    inspected = json.loads(expkit("inspect", tmp_path / "won", "--json").stdout)
    assert inspected["rows"] == 120
