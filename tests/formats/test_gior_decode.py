"""Decoding .gior files: what is taken out of them, what is refused, and that hostile files cost little."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from gior_files import bomb, gior, pack, replay
from hypothesis import given, settings
from hypothesis import strategies as st

from expkit.errors import NotThere, ShardError
from expkit.formats import gior as format_gior
from expkit.formats.gior import GiorLeave, GiorMove, parse_gior, read_gior
from expkit.formats.lzstring import decompress


@settings(max_examples=200, deadline=None)
@given(st.one_of(st.text(max_size=300), st.text("ab", max_size=600), st.text("[],0123456789", max_size=600)))
def test_text_comes_back(text: str) -> None:
    assert decompress(pack(text), 10_000) == text


def test_codes_of_all_widths_come_back() -> None:
    text = "".join(chr(33 + (i * i * 7 + i // 3) % 200) for i in range(30_000))
    assert decompress(pack(text), 30_000) == text


def _one_line(error: ShardError) -> bool:
    return "\n" not in str(error)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_give_text_or_one_error(data: bytes) -> None:
    try:
        fine = len(decompress(data, 5000)) <= 5000
    except ShardError as error:
        fine = _one_line(error)
    assert fine


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_a_changed_file_gives_a_game_or_one_error(data: st.DataObject) -> None:
    blob = bytearray(gior(moves=[[0, 0, 1, 0, 4], [1, 24, 23, 1, 5]], leaves=[[1, 9]], cities=[7], city_armies=[44]))
    for _ in range(data.draw(st.integers(1, 4))):
        blob[data.draw(st.integers(0, len(blob) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        fine = parse_gior(bytes(blob[: data.draw(st.integers(0, len(blob)))])).players >= 2
    except ShardError as error:
        fine = _one_line(error)
    assert fine


def test_a_text_that_unfolds_without_end_is_stopped() -> None:
    with pytest.raises(ShardError, match="breaks off"):
        decompress(bomb(100), 5050)
    with pytest.raises(ShardError, match=r"longer than 5,049 characters"):
        decompress(bomb(100), 5049)
    # 64 KB that stand for 600 million characters.
    large = bomb(35_000)
    assert len(large) < 1 << 16
    tracemalloc.start()
    with pytest.raises(ShardError, match="longer than 8,388,608 characters"):
        parse_gior(large)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100 << 20


def test_what_a_file_says_and_what_is_left_out() -> None:
    game = parse_gior(
        gior(
            version=11,
            width=4,
            height=6,
            generals=[0, 23],
            cities=[5, 9],
            city_armies=[40, 48],
            mountains=[10, 11],
            moves=[[0, 0, 1, 0, 4], [1, 23, 22, 1, 5]],
            leaves=[[1, 9]],
            more=["Grandma's map", [13], [7], [], [["hello", "Ada", 4, 5]], [0, 1], [], [1, 0.5, 0.5, 0], []],
        )
    )
    assert (game.version, game.width, game.height, game.players) == (11, 4, 6, 2)
    assert (game.cities, game.city_armies, game.generals, game.mountains) == ((5, 9), (40, 48), (0, 23), (10, 11))
    assert (game.neutrals, game.neutral_armies) == ((13,), (7,))
    assert game.moves == (GiorMove(0, 0, 1, False, 4), GiorMove(1, 23, 22, True, 5))
    assert game.leaves == (GiorLeave(1, 9),)
    for personal in ("Ada", "Anonymous", "71", "Hx2", "Grandma", "hello"):
        assert personal not in repr(game)


def test_a_game_of_teams_of_one_is_a_game() -> None:
    assert parse_gior(gior(teams=[1, 2])).players == 2


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"version": "5"}, "version is a str"),
    ({"version": True}, "version is True"),
    ({"width": 0}, "width is 0; it must be a whole number from 1 to 64"),
    ({"height": 65}, "height is 65"),
    ({"width": 5.0}, "width is 5.0"),
    ({"generals": [3]}, "1 players; a game has 2 to 16"),
    ({"generals": list(range(17))}, "17 players"),
    ({"generals": [0, 25]}, "a tile of generals is 25"),
    ({"generals": [0, -1]}, "a tile of generals is -1"),
    ({"generals": [0, "Ada"]}, "a tile of generals is a str"),
    ({"generals": {"0": 1}}, "generals is a dict; it must be a list"),
    ({"mountains": [24]}, "stand on one tile"),
    ({"cities": [7, 7], "city_armies": [40, 40]}, "stand on one tile"),
    ({"cities": [7]}, "0 city armies for 1 tiles"),
    ({"cities": [7], "city_armies": [-1]}, "one of city armies is -1"),
    ({"cities": [7], "city_armies": [10**12]}, "one of city armies is 1000000000000"),
    ({"moves": [[0, 0, 1, 0]]}, "move 0 is a list; it must be a list of 5"),
    ({"moves": [[2, 0, 1, 0, 4]]}, "player of move 0 is 2"),
    ({"moves": [[0, 0, 1, 2, 4]]}, "half of move 0 is 2"),
    ({"moves": [[0, 0, 25, 0, 4]]}, "end of move 0 is 25"),
    ({"moves": [[0, 0, 1, 0, 10**9]]}, "tick of move 0 is 1000000000"),
    ({"moves": [[0, 0, 1, 0, 4], [0, 0, 1, 0, 3]]}, "move 1 is of tick 3, after one of tick 4"),
    ({"leaves": [[0]]}, "departure 0 is a list; it must be a list of 2"),
    ({"leaves": [[0, 9], [1, 8]]}, "departure 1 is of tick 8"),
    ({"teams": [1, 1]}, "teams"),
    ({"more": ["", [], [], [3]]}, "a map with swamps"),
    ({"more": ["", [], [], [], [], [], [], [], [7]]}, "a map with modifiers"),
    ({"more": ["", [], [], [], [], [], [], [], [], [1]]}, "entry 22, which is not known"),
    ({"more": ["", [3], []]}, "0 neutral armies for 1 tiles"),
]


@pytest.mark.parametrize(("entries", "message"), REFUSED, ids=[message for _, message in REFUSED])
def test_files_that_break_a_bound_are_refused(entries: dict[str, Any], message: str) -> None:
    with pytest.raises(ShardError) as caught:
        parse_gior(gior(**entries))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "Ada" not in str(caught.value)
    assert caught.value.exit_code == 4


@pytest.mark.parametrize("text", ["", "{}", "[]", "[5]", "null", "[1,", "[" * 100_000, json.dumps(replay())[:-9]])
def test_other_text_is_no_replay(text: str) -> None:
    with pytest.raises(ShardError, match="JSON"):
        parse_gior(pack(text))


def test_files_on_disk(tmp_path: Path) -> None:
    path = tmp_path / "game.gior"
    path.write_bytes(gior())
    assert read_gior(path).players == 2
    path.write_bytes(gior()[:-9])
    with pytest.raises(ShardError, match=r"game\.gior: the compressed text breaks off"):
        read_gior(path)
    path.write_bytes(bytes(format_gior.MAX_FILE_BYTES + 1))
    with pytest.raises(ShardError, match="more than 1,048,576 bytes"):
        read_gior(path)
    with pytest.raises(NotThere, match="no such file"):
        read_gior(tmp_path / "other.gior")
    with pytest.raises(NotThere):
        read_gior(tmp_path)
