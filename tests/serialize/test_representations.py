"""Compact planes, flat features, representations of one's own, and recording with each of them."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import reference_representations as slow
from generals_games import play_episodes
from hypothesis import given, settings
from hypothesis import strategies as st
from recorded_games import record_games
from test_compact import expkit
from test_serialize_planes import boards

from expkit import open_run
from expkit.errors import ConfigError, SchemaError, UsageError
from expkit.games.generals import GeneralsConfig
from expkit.games.generals.schema import generals_schema
from expkit.row.schema import Schema
from expkit.serialize.representations import (
    CHANNELS,
    BytePlanesRepresentation,
    FlatRepresentation,
    HalfPlanesRepresentation,
    PlanesRepresentation,
    checked_convert,
    computed,
    find_representation,
    parse_representation,
    representation_names,
)

CONFIG = GeneralsConfig(players=3, height=7, width=9, max_steps=120)


def parts(columns: dict[str, np.ndarray], height: int, width: int) -> list[list[np.ndarray]]:
    """army, owner, terrain, visible of each row, (H, W)."""
    visible = np.unpackbits(columns["observation/visible"], axis=1, count=height * width, bitorder="little")
    arrays = [*(columns[f"observation/{name}"] for name in ("army", "owner", "terrain")), visible]
    return [[array[row].reshape(height, width) for array in arrays] for row in range(len(visible))]


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 20), st.integers(1, 9), st.integers(1, 9), st.integers(0, 3), st.integers(0, 2**32))
def test_byte_planes_are_those_of_the_slow_twin(rows: int, height: int, width: int, player: int, seed: int) -> None:
    columns = boards(rows, height, width, seed)
    made = BytePlanesRepresentation().convert(columns, rows, player)["observation"]
    assert made.dtype == np.uint8
    for row, board in enumerate(parts(columns, height, width)):
        assert np.array_equal(made[row].reshape(9, height, width), slow.byte_planes(*board, player))


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 20), st.sampled_from([1, 7, 1000, 1 << 24]), st.permutations(CHANNELS), st.integers(1, 9))
def test_half_planes_are_the_planes_rounded(rows: int, scale: int, order: list[str], count: int) -> None:
    columns = boards(rows, 5, 6, scale + rows)
    selected = tuple(order[:count])
    made = HalfPlanesRepresentation(selected, scale).convert(columns, rows, 1)["observation"]
    whole = PlanesRepresentation(selected, scale).convert(columns, rows, 1)["observation"]
    assert np.array_equal(made, whole.astype(np.float16))


@pytest.mark.parametrize("kind", [HalfPlanesRepresentation, PlanesRepresentation])
def test_up_to_its_exact_scale_every_army_has_a_value_of_its_own(kind: type[PlanesRepresentation]) -> None:
    for scale in (1, 255, 1000, 1024):
        army = np.arange(scale + 1, dtype=np.int32)[None]
        columns = boards(1, 1, scale + 1, 0) | {
            "observation/army": army,
            "observation/owner": np.zeros((1, scale + 1), np.int8),
            "observation/visible": np.full((1, (scale + 8) // 8), 255, np.uint8),
        }
        own = kind(("own_armies",), scale).convert(columns, 1, 0)["observation"]
        assert np.array_equal(np.rint(own.astype(np.float64) * scale), army)
    assert kind.exact_scale >= 1024


def test_flat_features_of_real_games_are_those_of_the_slow_twin() -> None:
    representation = FlatRepresentation()
    field = representation.schema(generals_schema(CONFIG))["observation"]
    assert field.shape == (6 * 3 + 7,) == (len(field.channels),)
    for player, table in enumerate(play_episodes(CONFIG, ["hunter"], 3)[1]):
        rows = len(table["step"])
        made = representation.convert(table, rows, player)["observation"]
        for row, board in enumerate(parts(table, 7, 9)):
            totals = table["observation/total_army"][row], table["observation/total_land"][row]
            expected = slow.flat(board, *totals, player)
            assert dict(zip(field.channels, made[row].tolist(), strict=True)) == expected
            assert list(expected) == list(field.channels)


@pytest.mark.parametrize("name", representation_names())
def test_schema_and_columns_of_every_representation_agree(name: str) -> None:
    config = GeneralsConfig(players=2, height=6, width=5, max_steps=30, state=True)
    schema = find_representation(name).schema(generals_schema(config))
    table = play_episodes(config, ["expander"], 2)[1][1]
    made = checked_convert(find_representation(name), generals_schema(config))(table, len(table["step"]), 1)
    assert made["action"] is table["action"]
    assert made["state/army"] is table["state/army"]
    if name != "raw":
        assert "observation/army" not in schema
        field = schema["observation"]
        assert made["observation"].min() >= (field.low or 0)
        assert field.high is None or made["observation"].max() <= field.high


def test_settings_of_compact_planes() -> None:
    assert (
        find_representation("planes-float16", army_scale=500)
        .schema(generals_schema(CONFIG))["observation"]
        .meaning.endswith("armies of 500 and more are 1")
    )
    with pytest.raises(ConfigError, match="army_scale"):
        find_representation("planes-uint8", army_scale=500)
    without = Schema([field for field in generals_schema(CONFIG).fields if field.name != "observation/total_army"])
    with pytest.raises(SchemaError, match="representation flat needs observation/total_army"):
        FlatRepresentation().schema(without)


def test_settings_stand_in_brackets_behind_the_name() -> None:
    assert parse_representation("planes-uint8") == BytePlanesRepresentation()
    assert parse_representation(" planes( army_scale=255, selected=[fog, 'visible'] ) ") == PlanesRepresentation(
        ("fog", "visible"), 255
    )
    assert parse_representation("planes-float16(army_scale=100)") == HalfPlanesRepresentation(army_scale=100)
    for text, error, words in (
        ("planes(255)", UsageError, "settings of planes need their names"),
        ("planes(army_scale=__import__('os'))", UsageError, "a setting is a number"),
        ("planes(army_scale=", UsageError, "is not understood"),
        ("planes)", UsageError, "is not understood"),
        ("planes(a)(b)", UsageError, "is not understood"),
        ("planes(**{})", UsageError, "is not understood"),
        ("", UsageError, "is not understood"),
        ("plane(army_scale=1)", UsageError, "no representation 'plane'"),
        ("planes(army=1)", ConfigError, "army"),
        ("planes(army_scale=many)", ConfigError, "representation planes"),
        ("planes(selected=[[fog]])", ConfigError, "representation planes"),
        ("planes(army_scale=0)", ConfigError, "army scale 0 is out of range"),
    ):
        with pytest.raises(error, match=re.escape(words)):
            parse_representation(text)


def test_a_function_becomes_a_representation() -> None:
    @computed("i2", (2, "H", "W"), channels=("mine", "armies"))
    def two(board: dict[str, np.ndarray], player: int) -> np.ndarray:
        return np.stack([board["owner"] == player, np.minimum(board["army"], 99)], 1)

    made = two()
    schema = made.schema(generals_schema(CONFIG))
    assert (schema["observation"].shape, schema["observation"].channels) == ((2, 7, 9), ("mine", "armies"))
    table = play_episodes(CONFIG, ["random"], 1)[1][2]
    rows = len(table["step"])
    found = checked_convert(made, generals_schema(CONFIG))(table, rows, 2)["observation"].reshape(rows, 2, 63)
    assert np.array_equal(found[:, 0], table["observation/owner"] == 2)
    assert np.array_equal(found[:, 1], np.minimum(table["observation/army"], 99))


def test_what_a_function_returns_is_checked() -> None:
    columns = boards(4, 3, 3, 0)
    for values, words in (
        (np.zeros((4, 3)), r"\(4, 3\) for 4 rows; it has to be \(rows, …\) of 2 values"),
        (np.full((4, 2), 300), "a value that uint8 does not hold"),
        (np.full((4, 2), np.nan), "a value that uint8 does not hold"),
    ):
        wrong = computed("u1", (2,))(lambda board, player, values=values: values)()
        with pytest.raises(ConfigError, match=words):
            wrong.convert(columns, 4, 0)
    for shape in ((), ("H",), ("W", "H"), (1, "H", 2, "W"), ("H", "W", "depth")):
        with pytest.raises(ConfigError, match="shape"):
            computed("f4", shape)


def test_a_representation_that_contradicts_its_schema_is_found_out() -> None:
    class Odd(PlanesRepresentation):
        def convert(self, columns, rows, player, out=None):  # type: ignore[no-untyped-def]
            made = PlanesRepresentation.convert(self, columns, rows, player, out)
            if self.army_scale == 1:
                del made["action_mask"]
            if self.army_scale == 2:
                made["colour"] = made["step"]
            return made if self.army_scale == 3 else made | {"observation": made["observation"].astype(np.float64)}

    table, raw = play_episodes(CONFIG, ["random"], 1)[1][0], generals_schema(CONFIG)
    rows = len(table["step"])
    for scale, words in (
        (1, "its schema and what it returned differ in action_mask"),
        (2, "its schema and what it returned differ in colour"),
        (4, "returned observation as float64 .* its schema says float32"),
    ):
        with pytest.raises(ConfigError, match=words):
            checked_convert(Odd(army_scale=scale), raw)(table, rows, 0)
    some = {name: values for name, values in table.items() if name != "action_mask"}
    assert "action_mask" not in checked_convert(Odd(army_scale=3), raw)(some, rows, 0)


OWN = '''"""What I want of a board."""
import numpy as np
from expkit.serialize.representations import computed

@computed("f4", (2,), channels=("land", "seen"))
def small(board, player):
    return np.stack([(board["owner"] == player).sum(1), board["visible"].sum(1)], 1)

@computed("f4", (2,))
def wrong(board, player):
    return board["army"]

@computed("f4", (2,))
def broken(board, player):
    return board["colour"]

sign = 3
'''


@pytest.mark.parametrize("name", ["planes-uint8", "mine:small"])
def test_recording_with_it_gives_what_converting_gives(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine.py").write_text(OWN)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.syspath_prepend(tmp_path)
    record_games(tmp_path / "raw", size="8x9", episodes=1)
    done = expkit(
        "record", "--episodes", 1, "--seed", 1, "--size", "8x9", "--max-steps", 60, "--min-free", 0, "-q",
        "--representation", name, "-o", tmp_path / "run",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    made = find_representation(name)
    sys.modules.pop("mine", None)
    with open_run(tmp_path / "raw") as raw, open_run(tmp_path / "run") as run:
        assert run.schema == made.schema(raw.schema)
        assert run.config["recording"]["representation"] == name
        for episode in raw.episodes():
            for player in (0, 1):
                given = raw.rows(episode.number, player)
                rows = len(given["step"])
                stored = {column.name: raw.schema.pack(column.name, given[column.name], rows)
                          for column in raw.schema.columns}  # fmt: skip
                expected = made.convert(stored, rows, player)
                found = run.rows(episode.number, player)
                for column in run.schema.columns:
                    if column.name != "time_ns":
                        assert np.array_equal(
                            run.schema.pack(column.name, found[column.name], rows), expected[column.name]
                        )


def test_names_that_are_nothing_are_refused_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.py").write_text(OWN)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(UsageError, match=r"there are raw, planes, .*flat.* or your own as module:callable"):
        find_representation("pictures")
    for name, words in (("nothing:there", "no module"), ("mine:absent", "has no 'absent'"), ("mine:sign", "is a int")):
        done = expkit("record", "--rows", 100, "--representation", name, "-o", tmp_path / "run")
        assert done.returncode == 2
        assert len(done.stderr.splitlines()) == 1
        assert f"representation '{name}'" in done.stderr
        assert words in done.stderr
        assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("name", "words"), [("wrong", "returned an array"), ("broken", "failed: KeyError: 'colour'")])
def test_one_that_goes_wrong_while_recording_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, words: str
) -> None:
    (tmp_path / "mine.py").write_text(OWN)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    done = expkit(
        "record", "--rows", 2000, "--representation", f"mine:{name}", "-o", tmp_path / "run", "--min-free", 0, "-q"
    )
    assert done.returncode == 2, done.stderr
    assert f"representation {name} {words}" in done.stderr
    assert "Traceback" not in done.stderr


def test_importing_the_library_loads_no_representation_of_others() -> None:
    code = "import expkit, sys; print('expkit.serialize' in sys.modules)"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "False"
