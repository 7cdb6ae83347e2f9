"""Rows that wait to be written: one for each player and environment, column by column, as they will be stored.

What a step gives is copied here first, whatever its types, and from here one kernel writes the rows of all players. A
row's observation comes a step before its action, so the observations have two places that change roles every step:
NumPy calls cost more than these few bytes, and so no byte is copied twice within the table.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from expkit.errors import SchemaError
from expkit.kernels.table_rows import append_rows
from expkit.row.host import host_array
from expkit.row.layout import BlockLayout, RowSink
from expkit.row.schema import Field, Schema

# The parts of the table, each with room for all columns. What was seen before the action lies in the first or the
# second, what is seen after it in the other one.
ROWS, SEEN, LAST, HELD = range(4)


class RowTable:
    """A table of stored columns, (players, num_envs, ...), in ROWS, SEEN, LAST and HELD.

    num_envs   None for a single environment, whose values come without that axis
    players    those of a single player come without that one

    ROWS   the action's rows, and one place for what is seen;  SEEN  the other one
    LAST   the last observations of episodes, where they come apart from the others
    HELD   whole rows that may still get a reward
    """

    def __init__(self, schema: Schema, num_envs: int | None, players: int):
        self.schema, self.players, self.envs = schema, players, num_envs or 1
        self.env_axes = () if num_envs is None else (num_envs,)
        self.axes = self.env_axes if players == 1 else (*self.env_axes, players)
        layout = BlockLayout(schema, players * self.envs)
        # Zeroed by the system, page by page where it is used: a recorder that never steps pays nothing for wide rows.
        self._memory = np.zeros(4 * layout.nbytes, np.uint8)
        both = (players, self.envs)
        self.parts: list[dict[str, np.ndarray]] = []
        self._targets: list[dict[str, np.ndarray]] = []
        for part in range(4):
            block = layout.views(self._memory[part * layout.nbytes : (part + 1) * layout.nbytes])
            columns = {name: values.reshape(*both, *values.shape[1:]) for name, values in block.items()}
            self.parts.append(columns)
            self._targets.append({name: self._as_given(name, values) for name, values in columns.items()})
        self._offsets, self._widths, self._part_bytes = layout.offsets, layout.widths, layout.nbytes
        self._names = [column.name for column in schema.columns]
        self._columns = {column.name: column for column in schema.columns}
        # Shape and type of a value that is copied without a further look.
        self._plain = {
            field.name: ((*self.axes, *field.shape), self._columns[field.name].dtype)
            for field in schema.fields
            if not self._columns[field.name].packed
        }

    def sources(self, places: dict[str, int], otherwise: int) -> np.ndarray:
        """int64 (2, columns) for `append`: in which part each column is, those of `places` and all others; a negative
        part is zeros."""
        parts = [places.get(name, otherwise) for name in self._names]
        offsets = [
            part * self._part_bytes + offset if part >= 0 else -1
            for part, offset in zip(parts, self._offsets.tolist(), strict=True)
        ]
        return np.ascontiguousarray(np.stack([np.array(offsets, np.int64), self._widths]))

    def append(self, sink: RowSink, sources: np.ndarray, entries: np.ndarray) -> None:
        """Write the rows `entries`, int64 of player * num_envs + environment, behind those in `sink`."""
        append_rows(sink.memory, sink.base, sink.position, self._memory, sources, entries, self.envs)

    def put(self, part: int, field: Field, value: Any) -> None:
        """Copy the values of all players and environments; in a list, None stands for an environment that gave none.
        Raises SchemaError for a wrong shape or kind of number, and for None where the field is not nullable."""
        name = field.name
        if type(value) is list and self.env_axes and any(one is None for one in value):
            self._put_given(part, field, value)
            return
        if value is None:
            if not field.nullable:
                raise SchemaError(f"{name} is missing; give it, or declare the field nullable")
            self.parts[part][name][...] = 0
        else:
            array = value if type(value) is np.ndarray else host_array(name, value)
            plain = self._plain.get(name)
            if (
                plain is not None
                and array.shape == plain[0]
                and (array.dtype == plain[1] or _both_real(array, plain[1]))
            ):
                self._targets[part][name][...] = array
            else:
                self._targets[part][name][...] = self._packed(field, array, self.axes)
        if field.nullable:
            self.parts[part][f"valid:{name}"][...] = value is not None

    def put_some(self, part: int, field: Field, values: Sequence[Any], envs: np.ndarray) -> None:
        """Copy the values of the environments `envs`, an entry for each. Raises SchemaError."""
        name, axes = field.name, (len(envs), *self.axes[len(self.env_axes) :])
        array = self._packed(field, np.stack([host_array(name, value) for value in values]), axes)
        target = self.parts[part][name]
        target[:, envs] = array.reshape((len(envs), self.players, *target.shape[2:])).swapaxes(0, 1)
        if field.nullable:
            self.parts[part][f"valid:{name}"][:, envs] = True

    def _put_given(self, part: int, field: Field, values: Sequence[Any]) -> None:
        """Copy the values of the environments that gave some; the others have null."""
        name = field.name
        if not field.nullable:
            raise SchemaError(f"{name} is missing in environment {values.index(None)}; give it, or declare it nullable")
        if len(values) != self.envs:
            raise SchemaError(f"{name}: {len(values)} values for {self.envs} environments")
        self.parts[part][name][...] = 0
        self.parts[part][f"valid:{name}"][...] = False
        envs = np.array([env for env, one in enumerate(values) if one is not None], np.int64)
        if len(envs):
            self.put_some(part, field, [values[env] for env in envs.tolist()], envs)

    def put_flags(self, part: int, name: str, value: Any) -> None:
        """Copy a flag of each player, or of each environment for all its players; None is false. Raises SchemaError."""
        if value is None:
            self.parts[part][name][...] = False
            return
        array = value if type(value) is np.ndarray else host_array(name, value)
        if array.dtype != bool:
            if array.dtype.kind not in "iuf" or not np.isin(array, (0, 1)).all():
                raise SchemaError(f"{name}: {array.reshape(-1)[:4].tolist()} are not truth values; give True or False")
            array = array == 1
        if array.shape == self.axes:
            self._targets[part][name][...] = array
        elif array.shape == self.env_axes:
            self.parts[part][name][...] = array
        else:
            raise SchemaError(f"{name}: shape {array.shape} does not fit {self._wanted(self.axes)}")

    def by_player(self, name: str, value: Any, dtype: Any) -> np.ndarray:
        """A value of each player and environment as (players, num_envs). Raises SchemaError."""
        array = host_array(name, value)
        if array.shape != self.axes:
            raise SchemaError(f"{name}: shape {array.shape} does not fit {self._wanted(self.axes)}")
        return array.astype(dtype).reshape(self.envs, self.players).T

    def by_env(self, name: str, value: Any) -> np.ndarray:
        """A flag of each environment as bool (num_envs,), a copy. Raises SchemaError."""
        array = host_array(name, value)
        if array.shape != self.env_axes:
            raise SchemaError(f"{name}: shape {array.shape} does not fit {self.env_axes}, one flag an environment")
        return array.reshape(self.envs) != 0

    def _as_given(self, name: str, values: np.ndarray) -> np.ndarray:
        """A view of a column with the axes in the order and number in which values of all of it are given."""
        field = next((field for field in self.schema.fields if field.name == name), None)
        if field is not None and not self.schema.column(name).packed:
            values = values.reshape(*values.shape[:2], *field.shape)
        values = values.swapaxes(0, 1)
        if self.players == 1:
            values = values[:, 0]
        return values if self.env_axes else values[0, ...]

    def _packed(self, field: Field, array: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
        """Values (*axes, ...) as they are stored. Raises SchemaError."""
        column, inner = self._columns[field.name], array.shape[len(axes) :]
        if array.shape[: len(axes)] != axes or inner not in (field.shape, field.logical_shape):
            raise SchemaError(
                f"{field.name}: shape {array.shape} does not fit {self._wanted((*axes, *field.logical_shape))}"
            )
        rows = math.prod(axes)
        stored = self.schema.pack(field.name, array.reshape((rows, *inner)), rows)
        return stored.reshape((*axes, *((column.items,) if column.packed else field.shape)))

    def _wanted(self, shape: tuple[int, ...]) -> str:
        envs = f"{self.envs} environments" if self.env_axes else "a single environment"
        return f"{shape}, for {envs} and {self.players} player{'s' if self.players > 1 else ''}"


def _both_real(array: np.ndarray, dtype: np.dtype[Any]) -> bool:
    """Whether NumPy's own cast is the one `Schema.pack` would make: of floats to floats."""
    return array.dtype.kind == "f" == dtype.kind
