"""Random episodes with gaps, as batches for pipelines: what a reader would give of them."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from hypothesis import strategies as st

from expkit import Field, Schema
from expkit.pipeline import ColumnBatch
from expkit.row.stretches import stretches

SCHEMA = Schema(
    [
        Field("observation/board", "f4", (2, 3), "observation", low=-100, high=100),
        Field("observation/seen", "bool", (5,), "observation"),
        Field("mask", "bool", (3,), "observation", expand=(2, 1)),
        Field("value", "f4", belongs="observation"),
        Field("guess", "f4", belongs="action", nullable=True),
        Field("action", "i4", belongs="action", low=0, high=9),
    ]
)


@dataclass(frozen=True)
class Played:
    """One player's part of an episode: the steps that were played, and which of its rows are there."""

    episode: int
    player: int
    steps: list[int]
    ended: str  # terminated, truncated, both, interrupted; the last step is the last row's unless it was cut
    cut: bool
    missing: frozenset[int] = field(default_factory=frozenset)


@st.composite
def played(draw) -> list[Played]:
    """A few episodes of up to two players, sorted by episode and player."""
    out = []
    for episode in range(draw(st.integers(1, 4))):
        for player in range(draw(st.integers(1, 2))):
            stride, rows = draw(st.sampled_from([1, 1, 2])), draw(st.integers(1, 9))
            steps = [player % stride + stride * i for i in range(rows)]
            missing = draw(st.frozensets(st.sampled_from(steps), max_size=3)) if draw(st.booleans()) else frozenset()
            ended = draw(st.sampled_from(["terminated", "truncated", "both", "interrupted"]))
            out.append(Played(episode, player, steps, ended, ended == "interrupted" and draw(st.booleans()), missing))
    return out


def batch_of(parts: list[Played], seed: int = 0, schema: Schema = SCHEMA) -> ColumnBatch:
    """Their rows that are there, with values drawn from `seed`."""
    rng, keys = np.random.default_rng(seed), []
    for part in parts:
        for place, step in enumerate(part.steps):
            last = place == len(part.steps) - 1 and not part.cut
            final = place == len(part.steps) - 2 and not part.cut
            flags = (
                final and part.ended in ("terminated", "both"),
                final and part.ended in ("truncated", "both"),
            )
            if step not in part.missing:
                keys.append((part.episode, part.player, step, place == 0, last, *flags, bool(part.missing)))
    table = np.array(keys, np.int64).reshape(len(keys), 8)
    columns = {
        "episode": table[:, 0].astype(np.uint64), "player": table[:, 1].astype(np.uint16),
        "step": table[:, 2].astype(np.uint32), "is_first": table[:, 3] > 0, "is_last": table[:, 4] > 0,
        "policy": np.zeros(len(keys), np.uint16), "policy_version": (table[:, 0] * 2).astype(np.uint32),
        "time_ns": table[:, 2] * 1000,
    }  # fmt: skip
    last = columns["is_last"]
    for known in schema.fields:
        shape = (len(keys), *known.logical_shape)
        if known.dtype == "bool":
            values = rng.random(shape) < 0.5
            if known.expand:
                values = schema.unpack(known.name, schema.pack(known.name, values, len(keys)))
        elif known.numpy_dtype.kind == "f":
            values = rng.normal(size=shape).astype(known.numpy_dtype)
        else:
            values = rng.integers(0, 9, shape).astype(known.numpy_dtype)
        if known.name in ("terminated", "truncated"):
            values = table[:, 5 if known.name == "terminated" else 6] > 0
        there = np.ones(len(keys), bool) if known.belongs == "observation" else ~last
        if known.nullable:
            there = there & (rng.random(len(keys)) < 0.8)
            columns[f"valid:{known.name}"] = there
        values[~there] = 0
        columns[known.name] = values
    stretch = stretches(columns["episode"], columns["player"], columns["step"], table[:, 7] > 0)
    return ColumnBatch(schema, columns, stretch)
