"""The observation as a few numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from expkit.kernels.flat_features import flat_of_rows
from expkit.row.schema import Field, Schema
from expkit.serialize.representations.board import BOARD, BoardRepresentation
from expkit.serialize.representations.protocol import OBSERVATION

OF_A_PLAYER = ("land", "army", "seen_land", "seen_army", "seen_sites", "largest_army")
OF_THE_BOARD = ("movable", "neutral_land", "neutral_cities", "neutral_army", "mountains", "visible", "obstacles")


@dataclass(frozen=True, slots=True)
class FlatRepresentation(BoardRepresentation):
    """What the player sees as float32 counts (6 P + 7,), unscaled, in a field `observation`; P players.

    Of each player, the one who is looking first (`own_land`, …), then the others by rising id (`rival1_land`, …):

    land, army               tiles and armies on the whole board, as the scoreboard shows them
    seen_land, seen_army     of them, those on visible tiles
    seen_sites               visible cities and generals of that player
    largest_army             on one visible tile of that player, 0 when none is

    Of the board:

    movable                  own tiles with more than one army
    neutral_land             visible tiles without owner that are no mountain
    neutral_cities, _army    visible cities without owner, and the armies on all visible tiles without owner
    mountains, visible       visible mountains; visible tiles
    obstacles                tiles in fog that are a city or a mountain
    """

    replaces: ClassVar[Mapping[str, str]] = {**BOARD, "observation/total_army": "i4", "observation/total_land": "i4"}
    dtype: str = field(default="f4", init=False)
    name: str = field(default="flat", init=False)

    def new_field(self, from_schema: Schema) -> Field:
        players = from_schema["observation/total_army"].items
        names = ["own", *(f"rival{number}" for number in range(1, players))]
        channels = (*(f"{name}_{what}" for name in names for what in OF_A_PLAYER), *OF_THE_BOARD)
        return Field(
            OBSERVATION,
            self.dtype,
            (len(channels),),
            belongs="observation",
            meaning="counts of tiles and armies that the player knows: its own first, then the others' by id",
            channels=channels,
            low=0.0,
        )

    def items(self, columns: Mapping[str, np.ndarray]) -> int:
        return len(OF_A_PLAYER) * int(columns["observation/total_army"].shape[1]) + len(OF_THE_BOARD)

    def fill(self, columns: Mapping[str, np.ndarray], rows: int, player: int, out: np.ndarray) -> None:
        dtypes = (np.int32, np.int8, np.uint8, np.uint8, np.int32, np.int32)
        # One kind of array, so that one kernel is compiled: a column that is anything else is copied here.
        given = [
            np.require(columns[name][:rows], dtype, ["C", "A", "W"])
            for name, dtype in zip(self.replaces, dtypes, strict=True)
        ]
        flat_of_rows(*given, player, out)
