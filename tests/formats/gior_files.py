"""Builds .gior files for tests, by the library that the site itself uses the twin of."""

from __future__ import annotations

import json
from typing import Any

from lzstring import LZString

NAMES, STARS = ["Anonymous", "Ada"], [71, 12]


def pack(text: str) -> bytes:
    """LZString-compressed, as the big-endian bytes of its 16-bit units."""
    utf16 = text.encode("utf-16-le", "surrogatepass")
    pairs = zip(utf16[::2], utf16[1::2], strict=True)  # the site counts in UTF-16 units, the Python twin in characters
    units: str = LZString().compress("".join(chr(low | high << 8) for low, high in pairs))
    return b"".join(ord(unit).to_bytes(2, "big") for unit in units)


def bomb(phrases: int) -> bytes:
    """A file whose text is one letter, phrases * (phrases + 1) / 2 times: each phrase is one longer than the last."""
    bits = ["00", format(ord("a"), "08b")[::-1]]
    width, room = 3, 4
    for code in range(4, 3 + phrases):
        bits.append(format(code, f"0{width}b")[::-1])
        room -= 1
        if room == 0:
            width, room = width + 1, 1 << width
    joined = "".join(bits)
    return int(joined.ljust(-(-len(joined) // 8) * 8, "0"), 2).to_bytes(-(-len(joined) // 8), "big")


def replay(**entries: Any) -> list[Any]:
    """The list inside a file, by default of a 5x5 game of two players; `more` are the entries after `teams`."""
    given = {
        "version": 11,
        "id": "Hx2",
        "width": 5,
        "height": 5,
        "names": NAMES,
        "stars": STARS,
        "cities": [],
        "city_armies": [],
        "generals": [0, 24],
        "mountains": [],
        "moves": [],
        "leaves": [],
        "teams": None,
    }
    more = entries.pop("more", [])
    assert set(entries) <= set(given)
    return [*(given | entries).values(), *more]


def gior(**entries: Any) -> bytes:
    return pack(json.dumps(replay(**entries)))
