"""How observations stand in stored rows: as the game gives them, as stacked planes, as a vector of features, or as
somebody's own.

A representation turns one schema into another and the stored columns of a block into those of the other, block by
block.

protocol   what a representation is · raw, planes, flat: those that come with expkit
computed   one of your own out of one function
expression as text, with settings
registry   by name: built in, `module:callable`, or an installed package's entry point
conversion of rows that are stored already
"""

from expkit.serialize.masks import expand_mask
from expkit.serialize.representations.board import BOARD, BoardRepresentation
from expkit.serialize.representations.computed import ComputedRepresentation, computed
from expkit.serialize.representations.conversion import find_conversion, stored_planes
from expkit.serialize.representations.expression import parse_representation
from expkit.serialize.representations.flat import FlatRepresentation
from expkit.serialize.representations.planes import (
    CHANNELS,
    BytePlanesRepresentation,
    HalfPlanesRepresentation,
    PlanesRepresentation,
)
from expkit.serialize.representations.protocol import OBSERVATION, Representation
from expkit.serialize.representations.raw import RawRepresentation
from expkit.serialize.representations.registry import (
    GROUP,
    checked_convert,
    find_representation,
    representation_names,
)

__all__ = [
    "BOARD",
    "CHANNELS",
    "GROUP",
    "OBSERVATION",
    "BoardRepresentation",
    "BytePlanesRepresentation",
    "ComputedRepresentation",
    "FlatRepresentation",
    "HalfPlanesRepresentation",
    "PlanesRepresentation",
    "RawRepresentation",
    "Representation",
    "checked_convert",
    "computed",
    "expand_mask",
    "find_conversion",
    "find_representation",
    "parse_representation",
    "representation_names",
    "stored_planes",
]
