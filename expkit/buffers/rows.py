"""From rows as callers give them to stored columns: defaults, nulls, what is required."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from expkit.errors import SchemaError
from expkit.row.schema import Column, Schema

# Columns that a row may leave out are zeroed for a whole block ahead if they are no wider than a cache line, else
# for each row that leaves them out.
_NARROW = 64


class RowForm:
    """The stored form of a schema's rows: what a writer calls for every row and batch, looked up once."""

    def __init__(self, schema: Schema):
        self.schema = schema
        self.columns = {column.name: column for column in schema.columns}
        self.required = frozenset(field.name for field in schema.fields if not field.nullable)
        self.on_final_rows = frozenset(
            field.name for field in schema.fields if not field.nullable and field.belongs == "observation"
        )
        defaults = [column for column in schema.columns if can_default(column)]
        self.narrow_defaults = frozenset(column.name for column in defaults if column.row_bytes <= _NARROW)
        self.wide_defaults = frozenset(column.name for column in defaults if column.row_bytes > _NARROW)
        self._tails = {c.name: (c.dtype, c.shape(0)[1:]) for c in schema.columns if _is_clear(c)}
        self._validity = [(f.name, f"valid:{f.name}") for f in schema.fields if f.nullable]

    def stored(self, columns: Mapping[str, Any]) -> tuple[int, dict[str, np.ndarray]]:
        """Number of rows and the stored arrays of the columns given, validity included.

        A column may be logical or stored already; None is as good as leaving a nullable one out. Columns missing
        from the result are to be zero. Raises SchemaError for unknown names, different lengths, wrong shapes or
        numbers, and missing required fields.
        """
        # Nearly always these are arrays of the very types and shapes, taken without another look.
        rows = -1
        out: dict[str, np.ndarray] = {}
        for name, value in columns.items():
            if type(value) is not np.ndarray or value.ndim == 0:
                return self._converted(columns)
            if len(value) != rows:
                if rows >= 0:
                    return self._converted(columns)
                rows = len(value)
            dtype, tail = self._tails.get(name, _UNKNOWN)
            fits = value.dtype is dtype and value.shape[1:] == tail
            out[name] = value if fits else self._convert(name, value, rows)
        if not self.required <= columns.keys():
            return self._converted(columns)
        return rows, self._with_validity(out, rows)

    def _converted(self, columns: Mapping[str, Any]) -> tuple[int, dict[str, np.ndarray]]:
        given = {name: value for name, value in columns.items() if value is not None}
        rows = _length(given)
        out = {name: self._convert(name, value, rows) for name, value in given.items()}
        last = out.get("is_last")
        self.check_required(given, final_only=last is not None and rows > 0 and bool(last.all()))
        return rows, self._with_validity(out, rows)

    def _with_validity(self, out: dict[str, np.ndarray], rows: int) -> dict[str, np.ndarray]:
        for name, valid in self._validity:
            if name in out and valid not in out:
                out[valid] = np.ones(rows, bool)
        return out

    def check_required(self, given: Iterable[str], final_only: bool) -> None:
        """Raise SchemaError unless all required fields are among `given`; final rows need only observations."""
        missing = (self.on_final_rows if final_only else self.required) - set(given)
        if missing:
            names = ", ".join(field.name for field in self.schema.fields if field.name in missing)
            raise SchemaError(f"row lacks {names}; give them, or declare them nullable")

    def _convert(self, name: str, value: Any, rows: int) -> np.ndarray:
        column = self.columns.get(name) or self.schema.column(name)
        array = np.asarray(value)
        if is_stored_form(column, array, (rows,)):
            return array
        if column.field is None and array.shape != (rows,):
            raise SchemaError(f"{name}: shape {array.shape} does not fit ({rows},)")
        if column.field is not None and array.shape == (rows, column.items) and not column.packed:
            array = array.reshape(rows, *column.field.shape)
        return self.schema.pack(name, array, rows)


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


def _is_clear(column: Column) -> bool:
    """Whether an array of the stored type and shape can only be the stored form."""
    return not column.packed or column.field is None or column.field.shape != (column.items,)


_UNKNOWN: tuple[Any, tuple[int, ...]] = (None, ())


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
