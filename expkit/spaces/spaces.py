"""Gymnasium spaces as fields of a schema, by name."""

from __future__ import annotations

from typing import Any

import numpy as np

from expkit.errors import SchemaError
from expkit.row.schema import DTYPES, Belongs, Field
from expkit.spaces import layouts
from expkit.spaces.layouts import Entries, Layout
from expkit.system.extras import require

spaces = require("gymnasium.spaces", "gym", "a schema of spaces")

CAPACITY = 64
_SIMPLE = (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)


def layout_of(space: Any, name: str, belongs: Belongs, capacity: int = CAPACITY) -> Layout:
    """How values of a space lie in columns that are called `name`, or are in that group.

    capacity   entries that there is room for in a Sequence, and nodes and edges in a Graph; Text says itself

    Raises SchemaError for a space that has no such form.
    """
    if isinstance(space, _SIMPLE):
        return layouts.FixedLayout(_number_field(space, name, belongs), space.dtype, isinstance(space, spaces.Discrete))
    if isinstance(space, spaces.Dict):
        parts = [layout_of(inner, f"{name}/{key}", belongs, capacity) for key, inner in space.spaces.items()]
        return layouts.GroupLayout(name, list(space.spaces), _some(name, parts))
    if isinstance(space, spaces.Tuple):
        parts = [layout_of(inner, f"{name}/{place}", belongs, capacity) for place, inner in enumerate(space.spaces)]
        return layouts.GroupLayout(name, None, _some(name, parts))
    if isinstance(space, spaces.Text):
        return layouts.TextLayout(name, belongs, space.max_length, "".join(space.character_set))
    if isinstance(space, spaces.Sequence):
        inner = layout_of(space.feature_space, _entry_name(space.feature_space, name), belongs, capacity)
        return layouts.SequenceLayout(name, belongs, capacity, inner, space.stack)
    if isinstance(space, spaces.Graph):
        return _graph(space, name, belongs, capacity)
    if isinstance(space, spaces.OneOf):
        parts = [layout_of(inner, f"{name}/{place}", belongs, capacity) for place, inner in enumerate(space.spaces)]
        return layouts.OneOfLayout(name, belongs, parts)
    if space is None:
        raise SchemaError(f"{name}: the environment says no space; give it one, or record with Schema and Recorder")
    raise SchemaError(
        f"{name}: {type(space).__name__} is none of Gymnasium's spaces, so its values have no known form; "
        "wrap the environment so that it has one of those, or record with Schema and Recorder"
    )


def bounds(space: Any) -> tuple[float | None, float | None]:
    """The lowest and the highest value of a simple space, None where there is none."""
    if isinstance(space, spaces.Discrete):
        return float(space.start), float(space.start + space.n - 1)
    if isinstance(space, spaces.MultiDiscrete):
        return float(space.start.min()), float((space.start + space.nvec - 1).max())
    if isinstance(space, spaces.Box) and space.low.size and np.dtype(space.dtype).kind != "b":
        low, high = float(space.low.min()), float(space.high.max())
        kind = np.dtype(space.dtype)
        whole = np.iinfo(kind) if kind.kind in "iu" else np.finfo(kind)
        return (low if low > float(whole.min) else None), (high if high < float(whole.max) else None)
    return None, None


def _number_field(space: Any, name: str, belongs: Belongs) -> Field:
    kind = np.dtype(space.dtype)
    dtype = "bool" if kind.kind == "b" or isinstance(space, spaces.MultiBinary) else f"{kind.kind}{kind.itemsize}"
    if dtype not in DTYPES:
        raise SchemaError(f"{name}: {kind} has no place in a row; there are {', '.join(DTYPES)}")
    low, high = bounds(space)
    return Field(name, dtype, tuple(space.shape), belongs, low=low, high=high)


def _some(name: str, parts: list[Layout]) -> list[Layout]:
    if not parts:
        raise SchemaError(f"{name}: the space has no parts, so there is nothing to store")
    return parts


def _entry_name(feature: Any, name: str) -> str:
    """Where the entries of a sequence lie: under its own name where that is free."""
    return name if isinstance(feature, (*_SIMPLE, spaces.Dict, spaces.Tuple)) else f"{name}/item"


def _graph(space: Any, name: str, belongs: Belongs, capacity: int) -> Layout:
    def entries(inner: Any, part: str) -> Entries:
        return Entries(part, belongs, capacity, layout_of(inner, _entry_name(inner, part), belongs, capacity))

    nodes = entries(space.node_space, f"{name}/nodes")
    if space.edge_space is None:
        return layouts.GraphLayout(name, nodes, None, None, spaces.GraphInstance)
    pairs = spaces.Box(0, capacity - 1, (2,), np.int32)
    # Of as many entries as the edges have, so under their length.
    links = Entries(f"{name}/edges", belongs, capacity, layout_of(pairs, f"{name}/edge_links", belongs))
    return layouts.GraphLayout(name, nodes, entries(space.edge_space, f"{name}/edges"), links, spaces.GraphInstance)
