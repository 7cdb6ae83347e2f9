"""Rules of values, each row by itself: actions legal under the stored mask, numbers that are numbers and within their
declared bounds."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from expkit.row.schema import Field, Schema
from expkit.rules.rows import Rows
from expkit.rules.rule import Violation, rule

MASK, ACTION, REWARD = "action_mask", "action", "reward"


def _bounded(schema: Schema) -> list[str]:
    return [f.name for f in schema.fields if f.dtype != "bool" and (f.low is not None or f.high is not None)]


def _floats(schema: Schema) -> list[str]:
    return [field.name for field in schema.fields if field.dtype[0] == "f" and field.name != REWARD]


def _integer_mask(schema: Schema) -> list[str]:
    """The action and its mask, where that is a bool for each value of one integer."""
    if MASK not in schema or ACTION not in schema:
        return []
    mask, action = schema[MASK], schema[ACTION]
    fits = mask.dtype == "bool" and len(mask.shape) == 1 and not action.shape and action.dtype[0] in "iu"
    return [ACTION, MASK] if fits else []


def breaks_bounds(schema: Schema, name: str, values: np.ndarray) -> bool:
    """Whether one of the values is outside of the declared bounds; NaN never is."""
    return _is_below(schema[name], values) or _is_above(schema[name], values)


def _is_below(field: Field, values: np.ndarray) -> bool:
    return field.low is not None and values.size > 0 and bool(np.fmin.reduce(values, axis=None) < field.low)


def _is_above(field: Field, values: np.ndarray) -> bool:
    return field.high is not None and values.size > 0 and bool(np.fmax.reduce(values, axis=None) > field.high)


def holds_nan(schema: Schema, name: str, values: np.ndarray) -> bool:
    """Whether one of the values is NaN."""
    return values.dtype.kind == "f" and bool(np.isnan(values).any())


@rule("value/reward", over="rows", reads=(REWARD,))
def finite_reward(rows: Rows) -> Iterator[Violation]:
    """Every reward is a finite number.

    One NaN or infinity makes every return, advantage and gradient that it enters NaN, so that training goes on and
    learns nothing. Look where the reward is computed; `expkit rewrite --where` can leave the rows out.
    """
    values = rows.stored[REWARD].reshape(len(rows), -1)
    bad = rows.given(REWARD) & ~np.isfinite(values).all(axis=1)
    if bad.any():
        yield Violation(f"reward {values[bad][0, 0]} is no number", bad, REWARD)


@rule("value/nan", over="rows", reads=_floats, extremes=holds_nan)
def no_nan(rows: Rows) -> Iterator[Violation]:
    """No field holds NaN.

    NaN in an observation, a log-probability or a value estimate spreads through every sum it enters. What a writer does
    not know should be left out of a nullable field, which is then null. Infinities are not judged: they can be meant,
    as a log-probability of an impossible action.
    """
    for name in _floats(rows.schema):
        if name in rows:
            values = rows.stored[name].reshape(len(rows), -1)
            bad = np.isnan(values).any(axis=1) & rows.given(name)
            if bad.any():
                yield Violation("holds NaN", bad, name)


@rule("value/bounds", over="rows", reads=_bounded, extremes=breaks_bounds)
def within_bounds(rows: Rows) -> Iterator[Violation]:
    """Every value lies within the bounds that the schema declares for its field.

    A value outside comes from damage that no checksum covers, from a unit that was mixed up, or from bounds that were
    declared too tight; networks that scale by the bounds get inputs they were never meant for.
    """
    for name in _bounded(rows.schema):
        if name not in rows:
            continue
        field, values = rows.schema[name], rows.stored[name].reshape(len(rows), -1)
        # The extremes of the whole block settle nearly every block, at an eighth of the cost of those of each row.
        if _is_below(field, values):
            low = np.fmin.reduce(values, axis=1)
            if (bad := rows.given(name) & (low < field.low)).any():
                yield Violation(f"{low[bad][0]} is below {field.low:g}", bad, name)
        if _is_above(field, values):
            high = np.fmax.reduce(values, axis=1)
            if (bad := rows.given(name) & (high > field.high)).any():
                yield Violation(f"{high[bad][0]} is above {field.high:g}", bad, name)


@rule("value/legal", over="rows", reads=_integer_mask)
def legal_action(rows: Rows) -> Iterator[Violation]:
    """Every action is one that the mask stored beside it allows.

    An illegal action was played as something else (in generals as a pass) or ended the game, so that the row teaches
    what did not happen. Often the mask is that of another step: it belongs to the observation it came with.
    """
    action = rows.stored[ACTION]
    start = first_action(rows.schema)
    told = rows.given(ACTION) & rows.given(MASK)  # where no mask was told, nothing is known to be illegal
    bad = told & ~is_legal(rows.schema[MASK], rows.stored[MASK], action.astype(np.int64) - start)
    if bad.any():
        yield Violation(f"action {int(action[bad][0])} is not legal under the stored mask", bad, ACTION)


def first_action(schema: Schema) -> int:
    """The action that the first place of the mask is for: the lowest one, as of `Discrete(n, start)`, where the bounds
    of the action have as many values as the mask has places."""
    mask, action = schema[MASK], schema[ACTION]
    if action.low is None or action.high is None or not mask.logical_shape:
        return 0
    return int(action.low) if action.high - action.low + 1 == mask.logical_shape[0] else 0


def is_legal(mask: Field, packed: np.ndarray, action: np.ndarray) -> np.ndarray:
    """Whether each action's bit is set in its row's packed mask (uint8 (n, bytes)); bool (n,). `expand` is honoured
    without unpacking."""
    repeat, ones = mask.expand or (1, 0)
    chosen = action.astype(np.int64)
    bit = np.where(chosen < repeat * mask.items, chosen % mask.items, 0)
    byte = packed[np.arange(len(bit)), bit >> 3]
    legal = (byte >> (bit & 7).astype(np.uint8)) & 1 == 1
    always = (chosen >= repeat * mask.items) & (chosen < repeat * mask.items + ones)
    inside = (chosen >= 0) & (chosen < repeat * mask.items)
    return always | (inside & legal)
