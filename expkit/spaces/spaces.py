"""Gymnasium spaces as fields of a schema, by name."""

from __future__ import annotations

from itertools import product
from math import prod
from typing import Any

import numpy as np

from expkit.errors import SchemaError
from expkit.row.schema import DTYPES, Belongs, Field
from expkit.spaces import layouts
from expkit.spaces.layouts import Entries, Layout
from expkit.spaces.names import meaning_with_key, names_of_keys
from expkit.system.extras import require

spaces = require("gymnasium.spaces", "gym", "a schema of spaces")

CAPACITY = 64
_SIMPLE = (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)
_CHARACTERS = 4  # of a text that does not say its length, for each entry that a sequence has room for
_MISSIONS = 10_000  # that are looked at to know the longest


def layout_of(space: Any, name: str, belongs: Belongs, capacity: int = CAPACITY) -> Layout:
    """How values of a space lie in columns that are called `name`, or are in that group.

    capacity   entries that there is room for in a Sequence, nodes and edges in a Graph; a text that does not say its
               length has room for four times as many characters

    What is no subclass of Gymnasium's spaces, but is a Space of numbers of one shape or of text, is taken as that.
    Raises SchemaError for a space that has no such form.
    """
    if isinstance(space, spaces.Dict):
        names = names_of_keys(list(space.spaces))
        parts = []
        for (key, inner), part in zip(space.spaces.items(), names, strict=True):
            layout = layout_of(inner, f"{name}/{part}", belongs, capacity)
            if part != key:
                layout.fields = meaning_with_key(layout.fields, key)
            parts.append(layout)
        return layouts.GroupLayout(name, list(space.spaces), parts)
    if isinstance(space, spaces.Tuple):
        parts = [layout_of(inner, f"{name}/{place}", belongs, capacity) for place, inner in enumerate(space.spaces)]
        return layouts.GroupLayout(name, None, parts)
    if isinstance(space, spaces.Text):
        return layouts.TextLayout(name, belongs, space.max_length, "".join(space.character_set))
    if isinstance(space, spaces.Sequence):
        return layouts.SequenceLayout(name, belongs, capacity, _entry(space.feature_space, name, belongs, capacity),
                                      space.stack)  # fmt: skip
    if isinstance(space, spaces.Graph):
        return _graph(space, name, belongs, capacity)
    if isinstance(space, spaces.OneOf):
        parts = [layout_of(inner, f"{name}/{place}", belongs, capacity) for place, inner in enumerate(space.spaces)]
        return layouts.OneOfLayout(name, belongs, parts)
    if space is None:
        raise SchemaError(f"{name}: the environment says no space; give it one, or record with Schema and Recorder")
    if isinstance(space, _SIMPLE) or _is_of(space, "biuf"):
        if 0 in space.shape:
            return layouts.EmptyLayout(name, space.shape, space.dtype)
        scalar = isinstance(space, spaces.Discrete)
        return layouts.FixedLayout(_number_field(space, name, belongs), space.dtype, scalar)
    if _is_of(space, "U"):
        return layouts.TextLayout(name, belongs, *_vocabulary(space, _CHARACTERS * capacity), "capacity")
    if type(space).__module__.partition(".")[0] == "gym":
        raise SchemaError(
            f"{name}: {type(space).__name__} is a space of the old gym; give the environment one of gymnasium.spaces, "
            "as shimmy's GymV21CompatibilityV0 and GymV26CompatibilityV0 do"
        )
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


def _is_of(space: Any, kinds: str) -> bool:
    """Whether a Space says a dtype of these kinds, and, for numbers, a shape."""
    if not isinstance(space, spaces.Space) or space.dtype is None or np.dtype(space.dtype).kind not in kinds:
        return False
    return kinds == "U" or space.shape is not None


def _vocabulary(space: Any, room: int) -> tuple[int, str]:
    """The most characters of a text, and which there are. Those of MiniGrid's MissionSpace are known by its words,
    but for BabyAI's, which stands for any text."""
    words, say = getattr(space, "ordered_placeholders", None) or [], getattr(space, "mission_func", None)
    if words and callable(say) and prod(map(len, words)) <= _MISSIONS:
        missions = [str(say(*chosen)) for chosen in product(*words)]
        return max(map(len, missions)), "".join(set("".join(missions)))
    if callable(say) and not words and not space.contains(f"not {say()}"):
        return len(say()), say()
    return int(getattr(space, "max_length", None) or room), chr(0x10FFFF)


def _entry(feature: Any, name: str, belongs: Belongs, capacity: int) -> Layout:
    """Of the entries of a sequence: under its own name where that is free, and no part of theirs is called as the
    column that counts them."""
    own = isinstance(feature, (spaces.Dict, spaces.Tuple, *_SIMPLE)) or _is_of(feature, "biuf")
    layout = layout_of(feature, name if own else f"{name}/item", belongs, capacity)
    if own and any(field.name.startswith(f"{name}/length") for field in layout.fields):
        layout = layout_of(feature, f"{name}/item", belongs, capacity)
    if isinstance(layout, layouts.GroupLayout) and not layout.counts:
        raise SchemaError(f"{name}: a sequence of nothing, for its entries have no parts; leave it out of the space")
    return layout


def _graph(space: Any, name: str, belongs: Belongs, capacity: int) -> Layout:
    def entries(inner: Any, part: str) -> Entries:
        return Entries(part, belongs, capacity, _entry(inner, part, belongs, capacity))

    nodes = entries(space.node_space, f"{name}/nodes")
    if space.edge_space is None:
        return layouts.GraphLayout(name, nodes, None, None, spaces.GraphInstance)
    pairs = spaces.Box(0, capacity - 1, (2,), np.int32)
    # Of as many entries as the edges have, so under their length.
    links = Entries(f"{name}/edges", belongs, capacity, layout_of(pairs, f"{name}/edge_links", belongs))
    return layouts.GraphLayout(name, nodes, entries(space.edge_space, f"{name}/edges"), links, spaces.GraphInstance)
