"""What follows a row's action, as far as the rows tell: shared by everything that looks ahead in an episode."""

from __future__ import annotations

import numpy as np

from expkit.errors import SchemaError
from expkit.pipeline.processor import ColumnBatch
from expkit.row.schema import Schema
from expkit.row.stretches import has_next


def number_field(schema: Schema, name: str, kind: str) -> str:
    """`name`, once it is known to be a scalar. Raises SchemaError."""
    if schema[name].logical_shape:
        raise SchemaError(f"{kind}: {name} has shape {schema[name].logical_shape}; one number a row is needed")
    return name


def nullable(name: str, values: np.ndarray, valid: np.ndarray) -> dict[str, np.ndarray]:
    """A nullable f4 column of float64 values (rows,), zero where it is not valid."""
    with np.errstate(over="ignore"):
        return {name: np.where(valid, values, 0).astype(np.float32), f"valid:{name}": valid}


def stretch_of(rows: ColumnBatch) -> np.ndarray:
    """The batch's stretches. Raises SchemaError when it was made without."""
    if rows.stretch is None:
        raise SchemaError("a processor of whole episodes was given rows without their stretches; run it by a Chain")
    return rows.stretch


def acted(rows: ColumnBatch) -> np.ndarray:
    """bool (rows,): an action and a reward stand on the row."""
    return rows.given("reward")


def over(rows: ColumnBatch) -> np.ndarray:
    """bool (rows,): the action was the episode's last, by the rules or by a limit."""
    return rows["terminated"] | rows["truncated"]


def goes_on(rows: ColumnBatch) -> np.ndarray:
    """bool (rows,): the next row is there and has the action that came after this one's."""
    out = acted(rows) & ~over(rows) & has_next(stretch_of(rows))
    out[:-1] &= acted(rows)[1:]
    return out


def next_values(rows: ColumnBatch, name: str) -> tuple[np.ndarray, np.ndarray]:
    """The value of the state that each row's action led to, float64 (rows,), and where it is known, bool (rows,).

    0 after a termination; else the field `name` of the next row, the final one after a truncation or an interruption.
    Not known where that row is missing or has no value, as on a final row whose value was never given.
    """
    values, known = np.zeros(len(rows)), acted(rows) & rows["terminated"]
    next_given = has_next(stretch_of(rows))
    next_given[:-1] &= rows.given(name)[1:]
    from_next = acted(rows) & ~known & next_given
    places = np.flatnonzero(from_next)
    values[places] = rows[name][places + 1]
    return values, known | from_next
