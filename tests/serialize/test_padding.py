"""Padding: boards of two sizes in one run, as if every game had been played on the larger board."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import numpy as np
import pytest
from generals_games import play_episodes
from hypothesis import given, settings
from hypothesis import strategies as st
from recorded_games import record_games
from test_compact import expkit, lose_columns
from test_merge import join
from written_runs import VECTOR_SCHEMA

from expkit import Field, Schema, open_run
from expkit.errors import GameError, SchemaError, ShardError, UsageError
from expkit.games.generals import GeneralsConfig
from expkit.games.generals.resimulate import GeneralsReplay
from expkit.games.generals.schema import generals_schema
from expkit.reading.run import Run
from expkit.resimulation.verify import verify_run
from expkit.rewrite.change import Change
from expkit.rewrite.merge import merge, plan_merge
from expkit.rewrite.sources import Sources
from expkit.row.episodes import EpisodeStart
from expkit.serialize.padding import Padding
from expkit.serialize.representations import find_representation
from expkit.validation.validate import validate_run

Row = dict[str, np.ndarray]
MOUNTAIN, FOG_OBSTACLE = 3, 5


def padded_row(row: Row, player: int, height: int, width: int) -> Row:
    """One row on the larger board, tile by tile and move by move: the slow twin."""
    old_height, old_width = row["observation/owner"].shape
    out = dict(row)
    names = [name for name in row if name.split("/")[0] in ("observation", "state") and row[name].ndim == 2]
    for name in names:
        out[name] = np.zeros((height, width), row[name].dtype)
    for y, x in np.ndindex(height, width):
        inside = y < old_height and x < old_width
        near = any(
            0 <= b < old_height and 0 <= a < old_width and row["observation/owner"][b, a] == player
            for b in range(y - 1, y + 2)
            for a in range(x - 1, x + 2)
        )
        added = {
            "observation/army": 0,
            "observation/owner": -1 if near else -2,
            "observation/terrain": MOUNTAIN if near else FOG_OBSTACLE,
            "observation/visible": near,
            "state/army": 0,
            "state/owner": -1,
            "state/terrain": MOUNTAIN,
        }
        for name in names:
            out[name][y, x] = row[name][y, x] if inside else added[name]
    out["action_mask"] = np.zeros(8 * height * width + 1, bool)
    for number in np.flatnonzero(row["action_mask"]).tolist():
        out["action_mask"][same_move(number, (old_height, old_width), (height, width))] = True
    out["action"] = np.uint32(same_move(int(row["action"]), (old_height, old_width), (height, width)))
    return out


def same_move(number: int, old: tuple[int, int], new: tuple[int, int]) -> int:
    """By the tile, direction and half of the move."""
    if number == 8 * old[0] * old[1]:
        return 8 * new[0] * new[1]
    half, move = divmod(number, 4 * old[0] * old[1])
    tile, direction = divmod(move, 4)
    y, x = divmod(tile, old[1])
    return half * 4 * new[0] * new[1] + (y * new[1] + x) * 4 + direction


def logical(schema: Schema, columns: Row) -> Row:
    return {name: schema.unpack(name, values) for name, values in columns.items()}


@settings(max_examples=15, deadline=None)
@given(st.integers(5, 7), st.integers(5, 7), st.integers(0, 4), st.integers(0, 4), st.booleans(), st.integers(0, 99))
def test_rows_are_padded_as_the_slow_twin_pads_them(
    height: int, width: int, more: int, wider: int, state: bool, seed: int
) -> None:
    config = GeneralsConfig(players=2, height=height, width=width, max_steps=25, state=state)
    schema = generals_schema(config)
    padding = Padding(schema, height + more, width + wider)
    _, tables, _, _ = play_episodes(config, ["hunter", "random"], 1, seed=seed)
    for player, table in enumerate(tables):
        before = {name: values.copy() for name, values in table.items()}
        rows = len(table["step"])
        stored = padding.convert(table, rows, player)
        assert {c.name: (c.shape(rows), c.dtype) for c in padding.schema.columns} == {
            name: (values.shape, values.dtype) for name, values in stored.items()
        }
        made, given_rows = logical(padding.schema, stored), logical(schema, table)
        for at in range(rows):
            expected = padded_row({name: values[at] for name, values in given_rows.items()}, player,
                                  height + more, width + wider)  # fmt: skip
            for name, values in expected.items():
                assert np.array_equal(made[name][at], values), (name, at)
        assert all(np.array_equal(table[name], values) for name, values in before.items())


def test_an_odd_number_stays_one_and_the_schema_says_so() -> None:
    schema = generals_schema(GeneralsConfig(height=5, width=6))
    padding = Padding(schema, 7, 9)
    assert padding.schema["action"].high == 8 * 63
    assert padding.schema["observation/army"].shape == (7, 9)
    assert padding.schema["action_mask"].logical_shape == (8 * 63 + 1,)
    actions = np.array([240, 241, 250], np.uint32)
    only = Padding(Schema([schema["observation/army"], schema["action"]]), 7, 9)
    out = only.convert({"observation/army": np.zeros((3, 30), np.int32), "action": actions}, 3, 0)
    assert out["action"].tolist() == [504, 505, 514]
    assert Padding(schema, 5, 6).schema == schema


@pytest.mark.parametrize("name", ["planes", "planes-uint8", "planes-float16"])
def test_planes_of_padded_boards_are_padded_planes(name: str) -> None:
    config = GeneralsConfig(players=2, height=6, width=8, max_steps=60)
    raw, made = generals_schema(config), find_representation(name)
    boards, planes = Padding(raw, 9, 9), Padding(made.schema(raw), 9, 9)
    assert planes.schema == made.schema(boards.schema)
    for player, table in enumerate(play_episodes(config, ["hunter"], 2)[1]):
        rows = len(table["step"])
        one = made.convert(boards.convert(table, rows, player), rows, player)
        other = planes.convert(made.convert(table, rows, player), rows, player)
        assert one.keys() == other.keys()
        assert all(np.array_equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(
    ("fields", "size", "error", "words"),
    [
        ([], (9, 9), SchemaError, "no board whose moves"),
        (["observation/army"], (5, 9), UsageError, "boards of 6x8 do not fit into 5x9"),
        (["observation/army", "observation/visible"], (9, 9), SchemaError, "without observation/owner"),
        (["observation/army", "heat"], (9, 9), SchemaError, "nobody knows what heat shows outside"),
        (["observation/army", "short"], (64, 64), SchemaError, "action is u1"),
    ],
)
def test_rows_that_cannot_be_padded(
    fields: list[str], size: tuple[int, int], error: type[Exception], words: str
) -> None:
    raw = generals_schema(GeneralsConfig(height=6, width=8))
    odd = {"heat": Field("heat", "f4", (6, 8), "observation"), "short": Field("action", "u1", (), "action")}
    schema = Schema([odd.get(name) or raw[name] for name in fields]) if fields else VECTOR_SCHEMA
    with pytest.raises(error, match=words):
        Padding(schema, *size)
    some = find_representation("planes", selected=("visible", "fog")).schema(raw)
    with pytest.raises(SchemaError, match="without own_territory"):
        Padding(some, 9, 9)
    bare = find_representation("planes", selected=("cities",)).schema(raw)
    assert Padding(bare, 9, 9).schema["observation"].shape == (1, 9, 9)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("sizes")
    sizes = {"a": "8x9", "b": "10x7"}
    return [record_games(folder / name, size=size, state=True) for name, size in sizes.items()]


def pad(paths: list[Path], out: Path, size: tuple[int, int]) -> None:
    with Sources(paths, Change(pad=size)) as sources:
        merge(sources, plan_merge(sources), out)


def test_runs_of_two_sizes_become_one(runs: list[Path], tmp_path: Path) -> None:
    pad(runs, tmp_path / "out", (12, 9))
    with open_run(tmp_path / "out") as out:
        assert [finding for finding in validate_run(out) if finding.severity != "info"] == []
        assert out.schema["observation/army"].shape == (12, 9)
        assert out.schema["observation/total_land"].high == 72
        assert out.info.metadata["rewritten"] == {"pad": [12, 9]}
        assert "game" not in out.info.metadata
        number = 0
        for path in runs:
            with open_run(path) as run:
                for episode in run.episodes():
                    for player in episode.rows:
                        given_rows, found = run.rows(episode.number, player), out.rows(number, player)
                        for at in range(0, len(given_rows["step"]), 7):
                            row = {name: values[at] for name, values in given_rows.items()}
                            for name, value in padded_row(row, player, 12, 9).items():
                                assert name in ("episode", "policy") or np.array_equal(found[name][at], value), name
                    number += 1
        # The engine as witness: every game plays out the same on the larger board.
        results = list(verify_run(out, out.episodes()))
        assert [result.difference for result in results] == [None] * 6
        assert sum(result.rows for result in results) == len(out)
    pad([tmp_path / "out", runs[0]], tmp_path / "again", (13, 14))
    with open_run(tmp_path / "again") as again:
        assert [result.difference for result in verify_run(again, again.episodes())] == [None] * 9
    joined = join([tmp_path / "out", record_games(tmp_path / "c", size="12x9", state=True)], tmp_path / "all")
    assert joined.episodes == 9
    with open_run(tmp_path / "all") as run:
        assert [result.difference for result in verify_run(run, run.episodes())] == [None] * 9


def test_an_imported_game_plays_on_the_larger_board() -> None:
    """One whose map, order of moves and leaves stand in its metadata."""
    config = GeneralsConfig(players=3, height=6, width=6)
    layout = {"generals": [0, 5, 35], "cities": [[14, 41]], "neutrals": [[20, 3]], "mountains": [7, 30]}
    metadata = {"map": layout, "leaves": [[2, 3]], "order": {"2": [[1, 5 * 4 + 1], [0, 3]]}}
    start = EpisodeStart(0, 0, [0, 1, 2], "generals", metadata=metadata)
    small = GeneralsReplay(config, start, 0)
    larger = GeneralsReplay(config, msgspec.structs.replace(start, metadata={**metadata, "padded": [8, 7]}), 0)
    padding = Padding(generals_schema(config), 8, 7)
    for step in range(6):
        for player in range(3):
            schema, rows = generals_schema(config), small.observation(player)
            columns = {name: schema.pack(name, values[None], 1) for name, values in rows.items()}
            columns |= {"action": np.zeros(1, np.uint32)}
            made = logical(padding.schema, padding.convert(columns, 1, player))
            for name, values in larger.observation(player).items():
                assert np.array_equal(made[name][0], values), (step, name)
        small.step({})
        larger.step({})
    assert larger.board().owner[0, 1] == 0
    assert larger.board().owner[1, 5] == 1  # by a move of `order`
    assert larger.board().terrain[7, 0] == MOUNTAIN
    for wrong in ([5, 7], [8], "8x7", [8, 70]):
        with pytest.raises(GameError, match="laid out on a larger board"):
            GeneralsReplay(config, msgspec.structs.replace(start, metadata={"padded": wrong}), 0)


def test_boards_that_were_lost_are_not_padded(runs: list[Path], tmp_path: Path) -> None:
    path = record_games(tmp_path / "damaged", size="8x9", state=True)
    lose_columns(path, 0, ("observation/army",))
    with pytest.raises(ShardError, match="values to be converted were lost: observation/army"):
        pad([runs[1], path], tmp_path / "out", (12, 9))
    assert not (tmp_path / "out").exists()
    other = record_games(tmp_path / "other", size="8x9", state=True)
    lose_columns(other, 0, ("observation/total_army",))
    pad([runs[1], other], tmp_path / "out", (12, 9))
    with Run(tmp_path / "out") as run:
        assert [b.reader.lost_columns(b.info.index) for b in run.blocks() if b.reader.lost_columns(b.info.index)]


def test_the_command(runs: list[Path], tmp_path: Path) -> None:
    refused = expkit("merge", *runs, "-o", tmp_path / "out")
    assert refused.returncode == 2
    assert "boards of two sizes are joined by expkit merge --pad 10x9" in refused.stderr
    small = expkit("merge", *runs, "-o", tmp_path / "out", "--pad", "9x9")
    assert small.returncode == 2
    assert f"{runs[1]}: boards of 10x7 do not fit into 9x9" in small.stderr
    assert len(small.stderr.splitlines()) == 1
    dry = json.loads(expkit("merge", *runs, "-o", tmp_path / "out", "--pad", "10x9", "--dry-run", "--json").stdout)
    assert [change["run"] for change in dry["changes"]] == list(map(str, runs))
    assert {"name": "observation/army", "from": "8x9", "to": "10x9"} in dry["changes"][0]["fields"]
    assert list(tmp_path.iterdir()) == []
    done = expkit("merge", *runs, "-o", tmp_path / "out", "--pad", "10x9")
    assert done.returncode == 0, done.stderr
    verified = expkit("replay", tmp_path / "out", "--verify")
    assert verified.returncode == 0, verified.stdout + verified.stderr
    shown = expkit("inspect", tmp_path / "out", "--episode", 5, "--player", 1, "--step", 2)
    assert shown.returncode == 0, shown.stderr
