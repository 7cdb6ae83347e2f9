"""Names of fields for the keys of a Dict, whatever these are: blanks, colons, other alphabets, numbers, tuples."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any
from zlib import crc32

import msgspec

from expkit.row.schema import Field

_PART = re.compile(r"[A-Za-z0-9_.\-]+(/[A-Za-z0-9_.\-]+)*")
_OTHER = re.compile(r"[^A-Za-z0-9_.\-]")
_LONGEST = 100


def names_of_keys(keys: Sequence[Any]) -> list[str]:
    """A name for each key of one Dict: the key itself where it can be one, and no two that are the same or of which one
    is the group of the other."""
    texts = [key if isinstance(key, str) else _text(key) for key in keys]
    taken: list[str] = []
    out: dict[int, str] = {}
    # Those that can keep their name choose first, those without a group before those within one.
    for place in sorted(range(len(keys)), key=lambda at: (_safe(texts[at]) != texts[at], texts[at].count("/"), at)):
        name = _safe(texts[place])
        if any(_meet(name, other) for other in taken):
            name = name.replace("/", "_")
        base, number = name, 1
        while any(_meet(name, other) for other in taken):
            number += 1
            name = f"{base}_{number}"
        taken.append(name)
        out[place] = name
    return [out[place] for place in range(len(keys))]


def meaning_with_key(fields: Sequence[Field], key: Any) -> tuple[Field, ...]:
    """Fields under the name of a key that is another one: their meaning says the key itself."""
    told = f"of the key {key!r}"
    return tuple(
        msgspec.structs.replace(field, meaning=f"{told}: {field.meaning}" if field.meaning else told)
        for field in fields
    )


def _text(key: Any) -> str:
    return "_".join(map(_text, key)) if isinstance(key, tuple) else str(key)


def _safe(text: str) -> str:
    name = text if _PART.fullmatch(text) else _OTHER.sub("_", text) or "_"
    if len(name) > _LONGEST:
        name = f"{name[: _LONGEST - 9].rstrip('/')}_{crc32(text.encode('utf-8', 'surrogatepass')):08x}"
    return name


def _meet(left: str, right: str) -> bool:
    return left == right or left.startswith(f"{right}/") or right.startswith(f"{left}/")
