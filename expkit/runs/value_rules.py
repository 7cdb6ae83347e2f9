"""Rules of single values: actions legal under the stored mask, numbers within their declared bounds, rewards that
are numbers. One finding per block and column, with the first address and how many."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from expkit.runs.finding import Finding
from expkit.schema import Field, Schema

MASK, ACTION, REWARD = "action_mask", "action", "reward"


def columns_for_values(schema: Schema) -> list[str]:
    """Stored columns that these rules look at."""
    names = [field.name for field in schema.fields if _has_bounds(field) or _is_float(field)]
    if _has_mask(schema):
        names += [name for name in (ACTION, MASK) if name not in names]
    names += [f"valid:{name}" for name in names if schema[name].nullable]
    return names


def judged_by_extremes(schema: Schema) -> list[str]:
    """Stored columns of which these rules need no more than the smallest and the largest value, as long as that is
    within the declared bounds: `breaks_bounds`."""
    return [field.name for field in schema.fields if field.shape and _has_bounds(field) and field.name != REWARD]


def breaks_bounds(field: Field, values: np.ndarray) -> bool:
    """Whether a value is outside of the declared bounds. Values among which is NaN never are."""
    return len(values) > 0 and (_is_below(field, values) or _is_above(field, values))


def _is_below(field: Field, values: np.ndarray) -> bool:
    return field.low is not None and bool(values.min() < field.low)


def _is_above(field: Field, values: np.ndarray) -> bool:
    return field.high is not None and bool(values.max() > field.high)


def _has_bounds(field: Field) -> bool:
    return field.dtype != "bool" and (field.low is not None or field.high is not None)


def _is_float(field: Field) -> bool:
    return field.dtype[0] == "f" and not field.shape


def _has_mask(schema: Schema) -> bool:
    """A bool mask over one integer action."""
    if MASK not in schema or ACTION not in schema:
        return False
    mask, action = schema[MASK], schema[ACTION]
    return mask.dtype == "bool" and len(mask.shape) == 1 and not action.shape and action.dtype[0] in "iu"


def check_values(schema: Schema, shard: str, block: int, player: int, rows: dict[str, np.ndarray]) -> Iterator[Finding]:
    """Findings in the stored columns of one block; columns that are not there are not looked at."""

    def finding(rule: str, column: str, bad: np.ndarray, message: str) -> Finding:
        at = int(np.flatnonzero(bad)[0])
        more = f", and {int(bad.sum()) - 1:,} rows more" if bad.sum() > 1 else ""
        return Finding(
            severity="error",
            rule=rule,
            message=message + more,
            shard=shard,
            block=block,
            column=column,
            episode=int(rows["episode"][at]),
            player=player,
            step=int(rows["step"][at]),
        )

    has_action = ~rows["is_last"].astype(bool)
    for field in schema.fields:
        name = field.name
        if name not in rows or field.dtype == "bool":
            continue
        if field.nullable and f"valid:{name}" not in rows:
            continue  # which values were given is lost, and zeros stand for those that were not
        given = has_action if field.belongs != "observation" else np.ones(len(has_action), bool)
        given = given & rows.get(f"valid:{name}", given).astype(bool)
        values = rows[name].reshape(len(given), -1)
        if not values.shape[0]:
            continue
        if name == REWARD and (bad := given & ~np.isfinite(values).all(axis=1)).any():
            yield finding("value/reward", name, bad, f"reward {values[bad][0, 0]} is no number")
        # The extremes of the whole block settle nearly every block, at an eighth of the cost of those of each row.
        if _is_below(field, values):
            low = values.min(axis=1)
            if (bad := given & (low < field.low)).any():
                yield finding("value/bounds", name, bad, f"{low[bad][0]} is below {field.low:g}")
        if _is_above(field, values):
            high = values.max(axis=1)
            if (bad := given & (high > field.high)).any():
                yield finding("value/bounds", name, bad, f"{high[bad][0]} is above {field.high:g}")
    if _has_mask(schema) and MASK in rows and ACTION in rows:
        bad = has_action & ~is_legal(schema[MASK], rows[MASK], rows[ACTION])
        if bad.any():
            action = int(rows[ACTION][bad][0])
            yield finding("value/legal", ACTION, bad, f"action {action} is not legal under the stored mask")


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
