"""Representations: the nine planes of a board, selections of them, the expansion of masks, the registry."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import numba
import numpy as np
import pytest
import reference_planes
from hypothesis import given, settings
from hypothesis import strategies as st

from expkit.errors import ConfigError, SchemaError, UsageError
from expkit.games.generals.config import GeneralsConfig
from expkit.games.generals.schema import generals_schema
from expkit.kernels import planes as kernel_planes
from expkit.row.layout import BlockLayout, aligned_empty
from expkit.row.schema import Field, Schema
from expkit.serialize import representations
from expkit.serialize.representations import (
    CHANNELS,
    PlanesRepresentation,
    RawRepresentation,
    expand_mask,
    find_representation,
    representation_names,
)


def boards(rows: int, height: int, width: int, seed: int) -> dict[str, np.ndarray]:
    """Stored columns of random boards, every combination of codes among them, extreme armies too."""
    rng = np.random.default_rng(seed)
    tiles = height * width
    army = rng.integers(-3, 2100, (rows, tiles)).astype(np.int32)
    army[rng.random(army.shape) < 0.05] = 2**31 - 1
    army[rng.random(army.shape) < 0.05] = -(2**31)
    return {
        "episode": np.arange(rows, dtype=np.uint64),
        "observation/army": army,
        "observation/owner": rng.integers(-2, 4, (rows, tiles)).astype(np.int8),
        "observation/terrain": rng.integers(0, 6, (rows, tiles)).astype(np.uint8),
        "observation/visible": np.packbits(rng.random((rows, tiles)) < 0.5, axis=1, bitorder="little"),
        "action_mask": rng.integers(0, 256, (rows, tiles // 2 + 1)).astype(np.uint8),
    }


def slow_planes(columns: dict[str, np.ndarray], height: int, width: int, player: int, scale: int) -> np.ndarray:
    visible = np.unpackbits(columns["observation/visible"], axis=1, count=height * width, bitorder="little")
    parts = [columns["observation/army"], columns["observation/owner"], columns["observation/terrain"], visible]
    return np.stack(
        [
            reference_planes.planes(*(part[row].reshape(height, width) for part in parts), player, scale)
            for row in range(len(visible))
        ]
    )


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 3),
    st.integers(1, 9),
    st.integers(1, 9),
    st.integers(0, 3),
    st.sampled_from([1, 3, 7, 1000, 1 << 24]),
    st.integers(0, 2**32),
)
def test_planes_are_those_of_the_slow_twin(
    rows: int, height: int, width: int, player: int, scale: int, seed: int
) -> None:
    columns = boards(rows, height, width, seed)
    made = PlanesRepresentation(army_scale=scale).convert(columns, rows, player)["observation"]
    expected = slow_planes(columns, height, width, player, scale)
    assert np.array_equal(made.reshape(rows, 9, height, width), expected)


def test_every_army_is_divided_as_numpy_divides() -> None:
    army = np.arange(0, 1100, dtype=np.int32)[None]
    columns = boards(1, 1, 1100, 0) | {
        "observation/army": army,
        "observation/owner": np.zeros((1, 1100), np.int8),
        "observation/visible": np.full((1, 138), 255, np.uint8),
    }
    own = PlanesRepresentation().convert(columns, 1, 0)["observation"][0, :1100]
    assert np.array_equal(own, np.minimum(army[0].astype(np.float32) / np.float32(1000), 1))


def test_a_board_worked_out_by_hand() -> None:
    """One row of seven tiles: own land, enemy general, neutral city, mountain, neutral land, fog, obstacle in fog."""
    columns = {
        "observation/army": np.array([[250, 4000, 40, 0, 0, 0, 0]], np.int32),
        "observation/owner": np.array([[1, 0, -1, -1, -1, -2, -2]], np.int8),
        "observation/terrain": np.array([[0, 2, 1, 3, 0, 4, 5]], np.uint8),
        "observation/visible": np.array([[0b0011111]], np.uint8),
    }
    made = PlanesRepresentation().convert(columns, 1, 1)["observation"].reshape(9, 7)
    assert dict(zip(CHANNELS, made.tolist(), strict=True)) == {
        "own_armies": [0.25, 0, 0, 0, 0, 0, 0],
        "enemy_armies": [0, 1, 0, 0, 0, 0, 0],
        "own_territory": [1, 0, 0, 0, 0, 0, 0],
        "enemy_territory": [0, 1, 0, 0, 0, 0, 0],
        "neutral_territory": [0, 0, 1, 0, 1, 0, 0],
        "cities": [0, 1, 1, 0, 0, 0, 0],
        "mountains": [0, 0, 0, 1, 0, 0, 0],
        "visible": [1, 1, 1, 1, 1, 0, 0],
        "fog": [0, 0, 0, 0, 0, 1, 1],
    }


@pytest.mark.parametrize("selected", [("fog",), ("visible", "own_armies"), tuple(reversed(CHANNELS))])
def test_selected_channels_are_planes_of_the_whole(selected: tuple[str, ...]) -> None:
    columns = boards(35, 5, 7, 3)
    whole = PlanesRepresentation().convert(columns, 35, 2)["observation"].reshape(35, 9, 35)
    some = PlanesRepresentation(selected).convert(columns, 35, 2)["observation"].reshape(35, len(selected), 35)
    for place, channel in enumerate(selected):
        assert np.array_equal(some[:, place], whole[:, CHANNELS.index(channel)])


def test_schema_and_columns_of_planes_agree() -> None:
    config = GeneralsConfig(players=2, height=6, width=9, state=True)
    raw = generals_schema(config)
    planes = PlanesRepresentation(army_scale=500)
    schema = planes.schema(raw)
    field = schema["observation"]
    assert (field.dtype, field.shape, field.channels) == ("f4", (9, 6, 9), CHANNELS)
    assert "observation/army" not in schema
    assert "observation/visible" not in schema
    kept = ["observation/total_army", "state/army", "action_mask", "action", "reward", "terminated", "truncated"]
    assert all(schema[name] == raw[name] for name in kept)

    block = BlockLayout(raw, 4)
    memory = aligned_empty(block.nbytes)
    memory[:] = 0
    columns = block.views(memory, 0, 3)
    converted = planes.convert(columns, 3, 0)
    assert {column.name: column.shape(3) for column in schema.columns} == {
        name: array.shape for name, array in converted.items()
    }
    assert all(converted[column.name].dtype == column.dtype for column in schema.columns)
    assert converted["action_mask"] is columns["action_mask"]


def test_planes_land_in_the_memory_given() -> None:
    columns = boards(3, 4, 4, 1)
    out = np.full((3, 144), np.nan, np.float32)
    assert PlanesRepresentation().convert(columns, 3, 0, out)["observation"] is out
    assert np.array_equal(out.reshape(3, 9, 4, 4), slow_planes(columns, 4, 4, 0, 1000))
    for wrong in (out[:2], out.astype(np.float64), np.empty((3, 288), np.float32)[:, ::2]):
        with pytest.raises(UsageError, match="contiguous float32"):
            PlanesRepresentation().convert(columns, 3, 0, wrong)


def test_columns_read_only_strided_and_misaligned_are_understood() -> None:
    columns = boards(4, 5, 5, 2)
    expected = PlanesRepresentation().convert(columns, 4, 1)["observation"]
    army = columns["observation/army"]
    shifted = np.empty(army.nbytes + 1, np.uint8)[1:].view(np.int32).reshape(army.shape)
    shifted[:] = army
    strided = np.repeat(columns["observation/owner"], 2, axis=0)[::2]
    frozen = columns["observation/terrain"].copy()
    frozen.flags.writeable = False
    odd = columns | {"observation/army": shifted, "observation/owner": strided, "observation/terrain": frozen}
    assert np.array_equal(PlanesRepresentation().convert(odd, 4, 1)["observation"], expected)


def test_raw_changes_nothing() -> None:
    schema = generals_schema(GeneralsConfig())
    columns = boards(2, 4, 4, 0)
    raw = RawRepresentation()
    assert raw.schema(schema) is schema
    assert raw.channels() == ()
    assert raw.convert(columns, 2, 0) == columns


def test_settings_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ConfigError, match="each once"):
        PlanesRepresentation(("fog", "fog"))
    with pytest.raises(ConfigError, match="choose from"):
        PlanesRepresentation(("smell",))
    with pytest.raises(ConfigError, match="army scale 0"):
        find_representation("planes", army_scale=0)
    with pytest.raises(ConfigError, match="colour"):
        find_representation("planes", colour=1)


def test_a_schema_without_boards_is_refused() -> None:
    with pytest.raises(SchemaError, match=r"needs observation/army, .* --representation raw"):
        PlanesRepresentation().schema(Schema([Field("observation", "f4", (4,))]))
    boards_of_two_sizes = [
        Field(name, dtype, (4, 4 if name.endswith("army") else 5)) for name, dtype in representations.BOARD.items()
    ]
    with pytest.raises(SchemaError, match="one shape"):
        PlanesRepresentation().schema(Schema(boards_of_two_sizes))


def test_representations_of_other_packages_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "upside_down.py").write_text(
        "from expkit.serialize.representations import PlanesRepresentation\n"
        "class UpsideDown(PlanesRepresentation): pass\n"
    )
    installed = tmp_path / "upside_down-1.0.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: upside-down\nVersion: 1.0\n")
    (installed / "entry_points.txt").write_text(
        f"[{representations.GROUP}]\nupside-down = upside_down:UpsideDown\nbroken = builtins:dict\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert {"raw", "planes", "broken", "upside-down"} <= set(representation_names())
    assert "upside_down" not in sys.modules  # naming it does not load it
    made = find_representation("upside-down", army_scale=7)
    assert isinstance(made, PlanesRepresentation)
    assert type(made) is sys.modules.pop("upside_down").UpsideDown
    assert made.army_scale == 7
    with pytest.raises(UsageError, match=r"there are raw, planes, .*upside-down"):
        find_representation("sideways")
    with pytest.raises(ConfigError, match="lacks"):
        find_representation("broken")


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 4), st.integers(1, 210), st.integers(1, 3), st.integers(0, 2), st.integers(0, 2**32))
def test_masks_expand_as_the_slow_twin(rows: int, items: int, repeat: int, ones: int, seed: int) -> None:
    bits = np.random.default_rng(seed).integers(0, 256, (rows, (items + 7) // 8)).astype(np.uint8)
    made = expand_mask(bits, items, repeat, ones)
    assert np.array_equal(made, reference_planes.expanded(bits, items, repeat, ones))
    assert set(np.unique(made.view(np.uint8))) <= {0, 1}


def test_masks_expand_as_the_schema_unpacks() -> None:
    schema = generals_schema(GeneralsConfig(height=7, width=11))
    bits = np.random.default_rng(5).integers(0, 256, (9, 39)).astype(np.uint8)
    out = np.zeros((9, 8 * 77 + 1), bool)
    assert expand_mask(bits, 4 * 77, 2, 1, out) is out
    assert np.array_equal(out, schema.unpack("action_mask", bits))
    with pytest.raises(UsageError, match="does not hold 400 bits"):
        expand_mask(bits, 400)
    with pytest.raises(UsageError, match="contiguous bool"):
        expand_mask(bits, 4 * 77, 2, 1, out[:, :5])


# Packed single-precision instructions on vector registers, on x86 with or without AVX and on 64-bit ARM.
PACKED_DIVIDE = re.compile(r"v?divps\s.*[xyz]mm|fdiv\s+v\d+\.4s")
PACKED_CONVERT = re.compile(r"v?cvtdq2ps\s.*[xyz]mm|scvtf\s+v\d+\.4s")
PACKED_STORE = re.compile(r"v?mov(?:[au]p[sd]|dq[au](?:32|64)?)\s+%[xyz]mm\d+, .*\(|st[pr]\s+q\d+")


def test_armies_are_normalised_in_vector_registers() -> None:
    # Compiled here and uncached: a dispatcher that loaded its code from the cache has none to inspect.
    compiled = numba.njit(nogil=True, error_model="numpy")(kernel_planes.planes_of_rows.py_func)
    int64 = numba.types.int64
    compiled.compile((int64,) * 9)
    (text,) = compiled.inspect_llvm().values()
    assert "fdiv <16 x float>" in text
    assert "sitofp <16 x i32>" in text
    (assembly,) = compiled.inspect_asm().values()
    assert PACKED_CONVERT.search(assembly)
    assert PACKED_DIVIDE.search(assembly)
    assert len(PACKED_STORE.findall(assembly)) >= 9
