"""The slow, obvious twin of expkit.spaces.layouts: one value at a time, one entry at a time."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces

from expkit import Field

Row = dict[str, Any]


def reference_row(space: Any, value: Any, fields: dict[str, Field], name: str) -> Row:
    """The columns of one value, padded with zeros to the shapes of the fields."""
    out: Row = {}
    _put(out, space, value, fields, name, ())
    return {name: out.get(name, np.zeros(field.shape, field.numpy_dtype)) for name, field in fields.items()}


def _put(out: Row, space: Any, value: Any, fields: dict[str, Field], name: str, at: tuple[int, ...]) -> None:
    def store(column: str, item: Any, place: tuple[int, ...]) -> None:
        if column not in out:
            out[column] = np.zeros(fields[column].shape, fields[column].numpy_dtype)
        out[column][place] = item

    if isinstance(space, spaces.Dict):
        for key, inner in space.spaces.items():
            _put(out, inner, value[key], fields, f"{name}/{key}", at)
    elif isinstance(space, spaces.Tuple):
        for place, inner in enumerate(space.spaces):
            _put(out, inner, value[place], fields, f"{name}/{place}", at)
    elif isinstance(space, spaces.Text):
        for place, character in enumerate(value):
            store(name, ord(character), (*at, place))
        store(f"{name}/length", len(value), at)
    elif isinstance(space, spaces.OneOf):
        store(f"{name}/index", value[0], at)
        _put(out, space.spaces[value[0]], value[1], fields, f"{name}/{value[0]}", at)
    elif isinstance(space, spaces.Sequence):
        entries = list(_entries(space, value))
        for place, entry in enumerate(entries):
            _put(out, space.feature_space, entry, fields, _entry_name(space.feature_space, name), (*at, place))
        store(f"{name}/length", len(entries), at)
    elif isinstance(space, spaces.Graph):
        for place, node in enumerate(value.nodes):
            store(f"{name}/nodes", node, (*at, place))
        store(f"{name}/nodes/length", len(value.nodes), at)
        for place in range(0 if value.edges is None else len(value.edges)):
            store(f"{name}/edges", value.edges[place], (*at, place))
            store(f"{name}/edge_links", value.edge_links[place], (*at, place))
        if space.edge_space is not None:
            store(f"{name}/edges/length", 0 if value.edges is None else len(value.edges), at)
    else:
        store(name, value, at)


def _entries(space: Any, value: Any) -> Any:
    if space.stack:
        from gymnasium.vector.utils import iterate

        return iterate(space.stacked_feature_space, value)
    return value


def _entry_name(feature: Any, name: str) -> str:
    own = isinstance(feature, spaces.Sequence | spaces.Text | spaces.Graph | spaces.OneOf)
    return f"{name}/item" if own else name
