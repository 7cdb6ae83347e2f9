"""How observations stand in stored rows: `raw` as the game gives them, `planes` as stacked float planes.

A representation turns one schema into another and the stored columns of a block into those of the other, block by
block. Others plug in under the entry-point group `expkit.representations`: an object that, called with its
settings, returns a Representation.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from typing import Any, Protocol, runtime_checkable

import numpy as np

from expkit.errors import ConfigError, SchemaError, UsageError
from expkit.kernels.planes import PLANES, expand_bits, planes_of_rows
from expkit.schema import Field, Schema
from expkit.serialize.pool import ArrayPool

GROUP = "expkit.representations"

CHANNELS = (
    "own_armies",
    "enemy_armies",
    "own_territory",
    "enemy_territory",
    "neutral_territory",
    "cities",
    "mountains",
    "visible",
    "fog",
)
BOARD = {
    "observation/army": "i4",
    "observation/owner": "i1",
    "observation/terrain": "u1",
    "observation/visible": "bool",
}
OBSERVATION = "observation"

_ROWS_AT_ONCE = 16  # of a selection of channels: 16 boards of 20x20 are 230 KB and stay in L2


@runtime_checkable
class Representation(Protocol):
    """Frozen and cheap to make; `convert` may run in several threads at once."""

    @property
    def name(self) -> str: ...

    def schema(self, from_schema: Schema) -> Schema:
        """The schema of the converted rows. Raises SchemaError when `from_schema` lacks what is needed."""

    def channels(self) -> tuple[str, ...]:
        """Names of the planes of the observation, in order; empty when it has none."""

    def convert(
        self, columns: Mapping[str, np.ndarray], rows: int, player: int, out: np.ndarray | None = None
    ) -> dict[str, np.ndarray]:
        """The stored columns of the new schema from those of the old one, for `rows` rows of one player.

        Columns that do not change are passed on without a copy. `out`, the stored form of the new observation,
        is filled and returned under its name when given; else fresh memory is.
        """


@dataclass(frozen=True, slots=True)
class RawRepresentation:
    """Rows as the game gives them."""

    name: str = field(default="raw", init=False)

    def schema(self, from_schema: Schema) -> Schema:
        return from_schema

    def channels(self) -> tuple[str, ...]:
        return ()

    def convert(
        self, columns: Mapping[str, np.ndarray], rows: int, player: int, out: np.ndarray | None = None
    ) -> dict[str, np.ndarray]:
        return dict(columns)


@dataclass(frozen=True, slots=True)
class PlanesRepresentation:
    """The observed board of generals as float32 planes (channels, H, W), all in [0, 1], in a field `observation`.

    own_armies, enemy_armies            min(army / army_scale, 1) on own tiles, on tiles of any other player
    own_, enemy_, neutral_territory     1; neutral are visible tiles without owner that are no mountain
    cities, mountains                   1; generals count as cities
    visible, fog                        1; a tile in fog has nothing but fog

    `selected` names the planes to keep, in that order.
    """

    selected: tuple[str, ...] = CHANNELS
    army_scale: int = 1000
    name: str = field(default="planes", init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "selected", tuple(self.selected))
        unknown = [channel for channel in self.selected if channel not in CHANNELS]
        if unknown or not self.selected or len(set(self.selected)) < len(self.selected):
            raise ConfigError(
                f"channels {', '.join(self.selected) or '(none)'} are not usable; "
                f"choose from {', '.join(CHANNELS)}, each once"
            )
        if not 1 <= self.army_scale <= 1 << 24:
            raise ConfigError(f"army scale {self.army_scale} is out of range; use 1 to {1 << 24}")

    def channels(self) -> tuple[str, ...]:
        return self.selected

    def schema(self, from_schema: Schema) -> Schema:
        missing = [name for name, dtype in BOARD.items() if name not in from_schema or from_schema[name].dtype != dtype]
        if missing:
            raise SchemaError(
                f"representation planes needs {', '.join(missing)} as generals stores it; "
                "use --representation raw for this run"
            )
        shape = from_schema["observation/army"].shape
        if len(shape) != 2 or any(from_schema[name].shape != shape for name in BOARD):
            raise SchemaError(f"representation planes needs boards of one shape (H, W), not {shape}; use raw")
        planes = Field(
            OBSERVATION,
            "f4",
            (len(self.selected), *shape),
            belongs="observation",
            meaning=f"the board as the player saw it; armies of {self.army_scale} and more are 1",
            channels=self.selected,
            low=0.0,
            high=1.0,
        )
        fields: list[Field] = []
        for given in from_schema.fields:
            if given.name == "observation/army":
                fields.append(planes)
            elif given.name not in BOARD:
                fields.append(given)
        return Schema(fields)

    def convert(
        self, columns: Mapping[str, np.ndarray], rows: int, player: int, out: np.ndarray | None = None
    ) -> dict[str, np.ndarray]:
        tiles = columns["observation/army"].shape[1]
        shape = (rows, len(self.selected) * tiles)
        if out is None:
            out = np.empty(shape, np.float32)
        elif out.shape != shape or out.dtype != np.float32 or not out.flags.carray:
            raise UsageError(f"out is {out.dtype} {out.shape}; it must be contiguous float32 {shape}")
        if self.selected == CHANNELS:
            self._write(columns, 0, rows, player, out)
        else:
            self._write_selected(columns, rows, player, out)
        converted: dict[str, np.ndarray] = {}
        for name, column in columns.items():
            if name == "observation/army":
                converted[OBSERVATION] = out
            elif name not in BOARD:
                converted[name] = column
        return converted

    def _write(self, columns: Mapping[str, np.ndarray], start: int, stop: int, player: int, out: np.ndarray) -> None:
        dtypes = (np.int32, np.int8, np.uint8, np.uint8)
        # Held until the kernel is done: a misaligned or strided column is copied here.
        board = [
            np.require(columns[name][start:stop], dtype, ["C", "A"]) for name, dtype in zip(BOARD, dtypes, strict=True)
        ]
        army, owner, terrain, visible = (part.ctypes.data for part in board)
        tiles = board[0].shape[1]
        planes_of_rows(army, owner, terrain, visible, stop - start, tiles, player, self.army_scale, out.ctypes.data)

    def _write_selected(self, columns: Mapping[str, np.ndarray], rows: int, player: int, out: np.ndarray) -> None:
        tiles = columns["observation/army"].shape[1]
        wanted = [CHANNELS.index(channel) for channel in self.selected]
        with ArrayPool((_ROWS_AT_ONCE, PLANES, tiles), np.float32, 1).acquire() as scratch:
            for start in range(0, rows, _ROWS_AT_ONCE):
                stop = min(start + _ROWS_AT_ONCE, rows)
                self._write(columns, start, stop, player, scratch)
                chosen = out[start:stop].reshape(stop - start, len(wanted), tiles)
                for place, plane in enumerate(wanted):
                    chosen[:, place] = scratch[: stop - start, plane]


def expand_mask(
    bits: np.ndarray, items: int, repeat: int = 1, ones: int = 0, out: np.ndarray | None = None
) -> np.ndarray:
    """Packed bits as one bool each: (rows, repeat * items + ones), the items `repeat` times, then `ones` true.

    bits  uint8 (rows, ceil(items / 8)), lowest bit first
    out   bool, C-contiguous, filled and returned when given. Raises UsageError when a shape does not fit.
    """
    rows, shape = len(bits), (len(bits), repeat * items + ones)
    if bits.shape != (rows, (items + 7) // 8) or bits.dtype != np.uint8:
        raise UsageError(f"{bits.dtype} {bits.shape} does not hold {items} bits a row as uint8")
    if out is None:
        out = np.empty(shape, bool)
    elif out.shape != shape or out.dtype != bool or not out.flags.carray:
        raise UsageError(f"out is {out.dtype} {out.shape}; it must be contiguous bool {shape}")
    packed = np.ascontiguousarray(bits)
    expand_bits(packed.ctypes.data, rows, items, repeat, ones, out.ctypes.data)
    return out


_BUILT_IN: dict[str, Callable[..., Representation]] = {"raw": RawRepresentation, "planes": PlanesRepresentation}


def representation_names() -> list[str]:
    """Names that `find_representation` knows: the built-in ones, then those of installed packages."""
    return [*_BUILT_IN, *sorted({point.name for point in entry_points(group=GROUP)} - set(_BUILT_IN))]


def find_representation(name: str, **settings: Any) -> Representation:
    """The representation of that name with the settings given. Raises UsageError for an unknown name, ConfigError
    for settings it does not take. Other packages are looked up, and loaded, only for names that are not built in."""
    factory = _BUILT_IN.get(name)
    if factory is None:
        found = list(entry_points(group=GROUP, name=name))
        if not found:
            raise UsageError(f"no representation '{name}'; there are {', '.join(representation_names())}")
        factory = found[0].load()
    try:
        made = factory(**settings)
    except TypeError as error:
        raise ConfigError(f"representation {name}: {error}") from None
    if not isinstance(made, Representation):
        raise ConfigError(f"representation {name} of {factory!r} lacks name, schema, channels or convert")
    return made
