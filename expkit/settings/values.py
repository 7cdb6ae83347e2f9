"""Values of settings that are written in a way of their own."""

from __future__ import annotations

import json
from typing import Any


class Size(int):
    """Bytes; written as `64MiB`, `2GB` or a plain number."""


class Duration(float):
    """Seconds; written as `90s`, `250ms`, `8h` or a plain number."""


class BoardSize(str):
    """A board as `HEIGHTxWIDTH`."""

    __slots__ = ()


class Links(tuple[str | dict[str, Any], ...]):
    """Processors of a pipeline, in order: each a kind, or a mapping of `kind` and its options. As text it is JSON."""

    __slots__ = ()

    def __str__(self) -> str:
        return json.dumps(self)


class RuleSettings(dict[str, Any]):
    """By the id of a rule what holds for it: `off`, a severity, or thresholds, severity among them. Written as such a
    mapping, or as `value/balance=off,episode/length.factor=8`. What a rule knows is checked where rules are applied."""
