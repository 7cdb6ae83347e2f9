"""From rows as callers give them to stored columns: defaults, nulls, what is required."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from expkit.errors import SchemaError
from expkit.schema import Column, Schema


def stored_columns(schema: Schema, columns: Mapping[str, Any]) -> tuple[int, dict[str, np.ndarray]]:
    """Number of rows and the stored arrays of the columns given, validity included.

    A column may be logical or stored already; None is as good as leaving a nullable one out. Columns missing from the
    result are to be zero. Raises SchemaError for unknown names, different lengths, wrong shapes or numbers, and
    missing required fields.
    """
    given = {name: value for name, value in columns.items() if value is not None}
    rows = _length(given)
    out: dict[str, np.ndarray] = {}
    for name, value in given.items():
        out[name] = _stored(schema, name, value, rows)
    last = out.get("is_last")
    check_required(schema, given, final_only=last is not None and rows > 0 and bool(last.all()))
    for field in schema.fields:
        if field.nullable and field.name in out:
            out.setdefault(f"valid:{field.name}", np.ones(rows, bool))
    return rows, out


def check_required(schema: Schema, given: Iterable[str], final_only: bool) -> None:
    """Raise SchemaError unless all required fields are among `given`; final rows need only observations."""
    names = set(given)
    missing = [
        field.name
        for field in schema.fields
        if field.name not in names and not field.nullable and not (final_only and field.belongs != "observation")
    ]
    if missing:
        raise SchemaError(f"row lacks {', '.join(missing)}; give them, or declare them nullable")


def can_default(column: Column) -> bool:
    """Whether a row may leave the column out: keys, nullable fields, their validity, and on final rows all that
    is no observation."""
    return column.field is None or column.field.nullable or column.field.belongs != "observation"


def is_stored_form(column: Column, array: np.ndarray, lead: tuple[int, ...]) -> bool:
    """Whether `array`, (*lead, …), holds the column exactly as it is stored."""
    stored = (*lead, column.items) if column.items else lead
    if array.dtype != column.dtype or array.shape != stored:
        return False
    return not column.packed or column.field is None or array.shape != (*lead, *column.field.shape)


def _length(given: Mapping[str, Any]) -> int:
    lengths = set()
    for name, value in given.items():
        shape = np.shape(value)
        if not shape:
            raise SchemaError(f"{name}: a batch needs arrays with one entry per row, not a single value")
        lengths.add(shape[0])
    if len(lengths) > 1:
        listed = ", ".join(f"{name} {np.shape(value)[0]}" for name, value in given.items())
        raise SchemaError(f"columns of a batch differ in length: {listed}")
    return lengths.pop() if lengths else 0


def _stored(schema: Schema, name: str, value: Any, rows: int) -> np.ndarray:
    column = schema.column(name)
    array = np.asarray(value)
    if is_stored_form(column, array, (rows,)):
        return array
    if column.field is None and array.shape != (rows,):
        raise SchemaError(f"{name}: shape {array.shape} does not fit ({rows},)")
    if column.field is not None and array.shape == (rows, column.items) and not column.packed:
        array = array.reshape(rows, *column.field.shape)
    return schema.pack(name, array, rows)
