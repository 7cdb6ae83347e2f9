"""Representations by name, and the check of what one that is not ours returns.

Others plug in under the entry-point group `expkit.representations`, or as `module:callable`: an object that, called
with its settings, returns a Representation.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from expkit.errors import ConfigError, UsageError
from expkit.row.schema import Schema
from expkit.serialize.representations.flat import FlatRepresentation
from expkit.serialize.representations.planes import (
    BytePlanesRepresentation,
    HalfPlanesRepresentation,
    PlanesRepresentation,
)
from expkit.serialize.representations.protocol import Representation
from expkit.serialize.representations.raw import RawRepresentation
from expkit.system.plugins import known_names, load_callable, load_installed

GROUP = "expkit.representations"

_BUILT_IN: dict[str, Callable[..., Representation]] = {
    "raw": RawRepresentation,
    "planes": PlanesRepresentation,
    "planes-float16": HalfPlanesRepresentation,
    "planes-uint8": BytePlanesRepresentation,
    "flat": FlatRepresentation,
}


def representation_names() -> list[str]:
    """Names that `find_representation` knows: the built-in ones, then those of installed packages."""
    return known_names(GROUP, _BUILT_IN)


def find_representation(name: str, **settings: Any) -> Representation:
    """The representation of that name, or that `module:callable` makes, with the settings given. Raises UsageError for
    an unknown name, ConfigError for settings it does not take. Other packages are looked up, and loaded, only for
    names that are not built in."""
    factory = _BUILT_IN.get(name)
    if factory is None and ":" in name:
        factory = load_callable(name, "representation")
    if factory is None:
        factory = load_installed(GROUP, name)
        if factory is None:
            known = ", ".join(representation_names())
            raise UsageError(f"no representation {name!r}; there are {known}, or your own as module:callable")
    try:
        made = factory(**settings)
    except TypeError as error:
        raise ConfigError(f"representation {name}: {error}") from None
    if not isinstance(made, Representation):
        raise ConfigError(f"representation {name} of {factory!r} lacks name, schema, channels or convert")
    return made


def checked_convert(
    representation: Representation, from_schema: Schema
) -> Callable[[Mapping[str, np.ndarray], int, int], dict[str, np.ndarray]]:
    """`convert` of the representation for rows of `from_schema`, which raises ConfigError for columns that are not
    those of the new schema: what it returned would else be written as something that it is not. Columns that are
    passed on may be missing on both sides."""
    expected = {column.name: column for column in representation.schema(from_schema).columns}
    passed_on = expected.keys() & {column.name for column in from_schema.columns}

    def convert(columns: Mapping[str, np.ndarray], rows: int, player: int) -> dict[str, np.ndarray]:
        converted = representation.convert(columns, rows, player)
        odd = sorted((converted.keys() ^ expected.keys()) - (passed_on - columns.keys() - converted.keys()))
        if odd:
            raise ConfigError(
                f"representation {representation.name}: its schema and what it returned differ in {', '.join(odd)}"
            )
        for name, values in converted.items():
            column = expected[name]
            if values.shape != column.shape(rows) or values.dtype != column.dtype:
                raise ConfigError(
                    f"representation {representation.name} returned {name} as {values.dtype} {values.shape}; "
                    f"its schema says {column.dtype} {column.shape(rows)}"
                )
        return converted

    return convert
