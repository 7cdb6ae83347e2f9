"""The observed board as nine planes, or some of them: of float32, float16 or uint8."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from expkit.errors import ConfigError
from expkit.kernels.planes import PLANES, planes_of_rows
from expkit.row.schema import Field, Schema
from expkit.serialize.pool import ArrayPool
from expkit.serialize.representations.board import BOARD, BoardRepresentation
from expkit.serialize.representations.protocol import OBSERVATION

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
ARMY_CHANNELS = ("own_armies", "enemy_armies")

_HALF_ONE = np.float32(0x3C00)  # the bits of 1.0 in float16, as a number
_ROWS_AT_ONCE = 16  # through the scratch planes: 16 boards of 20x20 are 230 KB and stay in L2


@dataclass(frozen=True, slots=True)
class PlanesRepresentation(BoardRepresentation):
    """The observed board of generals as float32 planes (channels, H, W), all in [0, 1], in a field `observation`.

    own_armies, enemy_armies            min(army / army_scale, 1) on own tiles, on tiles of any other player
    own_, enemy_, neutral_territory     1; neutral are visible tiles without owner that are no mountain
    cities, mountains                   1; generals count as cities
    visible, fog                        1; a tile in fog has nothing but fog

    `selected` names the planes to keep, in that order.
    """

    # Up to this army_scale every army below it can be told from its share: rounded to p binary digits, n / scale is
    # n / scale (1 + e) with |e| <= 2**-p, less than half an army away.
    exact_scale: ClassVar[int] = 1 << 23
    selected: tuple[str, ...] = CHANNELS
    army_scale: int = 1000
    dtype: str = field(default="f4", init=False)
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

    @property
    def most(self) -> int:
        """The largest value of a plane, which armies of `army_scale` and more have."""
        return 1

    def channels(self) -> tuple[str, ...]:
        return self.selected

    def new_field(self, from_schema: Schema) -> Field:
        return self.field_of(from_schema["observation/army"].shape)

    def field_of(self, board: tuple[int, ...]) -> Field:
        """The field `observation` for boards of the shape (H, W)."""
        return Field(
            OBSERVATION,
            self.dtype,
            (len(self.selected), *board),
            belongs="observation",
            meaning=f"the board as the player saw it; armies of {self.army_scale} and more are {self.most}",
            channels=self.selected,
            low=0.0,
            high=float(self.most),
        )

    def items(self, columns: Mapping[str, np.ndarray]) -> int:
        return len(self.selected) * int(columns["observation/army"].shape[1])

    def fill(self, columns: Mapping[str, np.ndarray], rows: int, player: int, out: np.ndarray) -> None:
        if self.dtype == "f4" and self.selected == CHANNELS:
            self._write(columns, 0, rows, player, out)
            return
        tiles = columns["observation/army"].shape[1]
        with ArrayPool((_ROWS_AT_ONCE, PLANES, tiles), np.float32, 1).acquire() as scratch:
            for start in range(0, rows, _ROWS_AT_ONCE):
                stop = min(start + _ROWS_AT_ONCE, rows)
                self._write(columns, start, stop, player, scratch)
                chosen = out[start:stop].reshape(stop - start, len(self.selected), tiles)
                for place, channel in enumerate(self.selected):
                    self.store(channel, scratch[: stop - start, CHANNELS.index(channel)], chosen[:, place])

    def _write(self, columns: Mapping[str, np.ndarray], start: int, stop: int, player: int, out: np.ndarray) -> None:
        dtypes = (np.int32, np.int8, np.uint8, np.uint8)
        # Held until the kernel is done: a misaligned or strided column is copied here.
        board = [
            np.require(columns[name][start:stop], dtype, ["C", "A"]) for name, dtype in zip(BOARD, dtypes, strict=True)
        ]
        army, owner, terrain, visible = (part.ctypes.data for part in board)
        tiles = board[0].shape[1]
        planes_of_rows(army, owner, terrain, visible, stop - start, tiles, player, self.army_scale, out.ctypes.data)

    def store(self, channel: str, shares: np.ndarray, out: np.ndarray) -> None:
        """Write the planes of that name: `out` of `dtype`, from float32 in [0, 1] of the same shape (rows, tiles)."""
        out[...] = shares

    def armies(self, stored: np.ndarray) -> np.ndarray:
        """float64 whole armies of an army plane as it is stored, exact up to `exact_scale`; `army_scale` stands for
        all from there on."""
        return np.rint(stored.astype(np.float64) * (self.army_scale / self.most))


@dataclass(frozen=True, slots=True)
class HalfPlanesRepresentation(PlanesRepresentation):
    """The planes as float16: half the bytes. With an army_scale up to 1,024 every army below it has a value of its
    own, as it has in float32."""

    exact_scale: ClassVar[int] = 1 << 10
    dtype: str = field(default="f2", init=False)
    name: str = field(default="planes-float16", init=False)

    def store(self, channel: str, shares: np.ndarray, out: np.ndarray) -> None:
        if channel in ARMY_CHANNELS:
            out[...] = shares
        else:
            # NumPy rounds to float16 one by one, which took 11.8 us a board for all planes; of 0 and 1 the bits are
            # written instead.
            np.multiply(shares, _HALF_ONE, out=out.view(np.uint16), casting="unsafe")


@dataclass(frozen=True, slots=True)
class BytePlanesRepresentation(PlanesRepresentation):
    """The planes as uint8, a quarter of the bytes: armies as they are up to 255, which stands for all larger ones
    too; 0 or 1 in every other plane."""

    army_scale: int = field(default=255, init=False)
    dtype: str = field(default="u1", init=False)
    name: str = field(default="planes-uint8", init=False)

    @property
    def most(self) -> int:
        return 255

    def store(self, channel: str, shares: np.ndarray, out: np.ndarray) -> None:
        out[...] = np.rint(shares * np.float32(self.army_scale)) if channel in ARMY_CHANNELS else shares
