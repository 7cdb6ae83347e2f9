"""The leading axes of what a step gives: environments, players. Values come in as (num_envs, players, ...), without
the axis that there is only one of, and go on as stored columns of (players, num_envs, ...)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from expkit.errors import SchemaError
from expkit.host import host_array
from expkit.schema import Field, Schema

Stored = dict[str, np.ndarray]


class Lead:
    """Turns the values of a step into stored columns.

    num_envs, players   None and 1 stand for axes that the values do not have
    """

    def __init__(self, schema: Schema, num_envs: int | None, players: int):
        self.schema = schema
        self.envs, self.players = num_envs or 1, players
        self.axes = (() if num_envs is None else (num_envs,)) + (() if players == 1 else (players,))
        self._env_axes = () if num_envs is None else (num_envs,)
        self._fields = {field.name: field for field in schema.fields}
        # Of a field that is stored as it is given: the shape and the type that need no further look.
        self._plain = {
            field.name: ((*self.axes, *field.shape), schema.column(field.name).dtype)
            for field in schema.fields
            if not schema.column(field.name).packed
        }
        self._tails = {f.name: (c.items,) if (c := schema.column(f.name)).items else () for f in schema.fields}

    def stored(self, name: str, value: Any) -> np.ndarray:
        """The stored column, (players, num_envs) or (players, num_envs, items); a view of `value` where that serves.
        Raises SchemaError."""
        array = value if type(value) is np.ndarray else host_array(name, value)
        plain = self._plain.get(name)
        if plain is None or array.shape != plain[0] or array.dtype != plain[1]:
            array = self._packed(self._fields[name], array, self.axes)
        array = array.reshape(self.envs, self.players, *self._tails[name])
        return array.swapaxes(0, 1)

    def tail(self, name: str) -> tuple[int, ...]:
        """Shape of one row of the stored column."""
        return self._tails[name]

    def rows(self, name: str, values: Sequence[Any]) -> np.ndarray:
        """As `stored`, of some environments only, an entry for each: (players, entries, ...)."""
        axes = (len(values), *self.axes[len(self._env_axes) :])
        array = self._packed(self._fields[name], np.stack([host_array(name, value) for value in values]), axes)
        return array.reshape(len(values), self.players, *self._tails[name]).swapaxes(0, 1)

    def flags(self, name: str, value: Any) -> np.ndarray:
        """bool (players, num_envs); a flag that all players of an environment share may come without their axis.
        Raises SchemaError."""
        array = value if type(value) is np.ndarray else host_array(name, value)
        if array.dtype != bool:
            array = array != 0
        if array.shape != self.axes:
            if array.shape != self._env_axes:
                raise SchemaError(f"{name}: shape {array.shape} does not fit {self._wanted(self.axes)}")
            return np.broadcast_to(array.reshape(1, self.envs), (self.players, self.envs))
        return array.reshape(self.envs, self.players).T

    def env_flags(self, name: str, value: Any) -> np.ndarray:
        """bool (num_envs,), a copy. Raises SchemaError."""
        array = host_array(name, value)
        if array.shape != self._env_axes:
            raise SchemaError(f"{name}: shape {array.shape} does not fit {self._env_axes}, one flag an environment")
        return array.reshape(self.envs) != 0

    def numbers(self, name: str, value: Any) -> np.ndarray:
        """f8 (players, num_envs), NaN where there is none. Raises SchemaError."""
        array = host_array(name, value)
        if array.shape != self.axes:
            raise SchemaError(f"{name}: shape {array.shape} does not fit {self._wanted(self.axes)}")
        return array.astype(np.float64).reshape(self.envs, self.players).T

    def _packed(self, field: Field, array: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
        inner = next(
            (shape for shape in (field.shape, field.logical_shape) if array.shape == (*axes, *shape)),
            None,
        )
        if inner is None:
            raise SchemaError(
                f"{field.name}: shape {array.shape} does not fit {self._wanted((*axes, *field.logical_shape))}"
            )
        rows = int(np.prod(axes))
        return self.schema.pack(field.name, array.reshape(rows, *inner), rows)

    def _wanted(self, shape: tuple[int, ...]) -> str:
        envs = f"{self.envs} environments" if self._env_axes else "a single environment"
        return f"{shape}, for {envs} and {self.players} player{'s' if self.players > 1 else ''}"
