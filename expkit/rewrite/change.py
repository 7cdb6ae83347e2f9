"""What becomes of the boards of runs that are written anew: another representation, or a larger board."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import msgspec

from expkit.errors import SchemaError, UsageError
from expkit.reading.run import Run
from expkit.row.schema import Field, Schema
from expkit.serialize.board_fields import BoardFields
from expkit.serialize.conversion import Conversion
from expkit.serialize.padding import Padding
from expkit.serialize.representations import Representation, find_conversion, parse_representation


@dataclass(frozen=True)
class Change:
    """representation  as `parse_representation` takes it;  pad: (H, W) of the board to lay all others out on

    One of the two. Raises UsageError for both, and for a name that is nothing.
    """

    representation: str | None = None
    pad: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if (self.representation is None) == (self.pad is None):
            raise UsageError("a change is either to another representation or to a larger board; ask for one of them")

    @cached_property
    def _target(self) -> Representation | None:
        return None if self.representation is None else parse_representation(self.representation)

    def conversion(self, run: Run) -> Conversion:
        """What turns the rows of one run. Raises SchemaError where they do not hold what is needed, UsageError."""
        try:
            if self.pad is not None:
                return Padding(run.schema, *self.pad)
            assert self._target is not None
            return find_conversion(run.schema, self._target)
        except SchemaError as error:
            raise SchemaError(f"{run.path}: {error}") from None
        except UsageError as error:
            raise UsageError(f"{run.path}: {error}") from None

    def told(self) -> dict[str, Any]:
        """As it stands in the description of an output run."""
        if self.pad is not None:
            return {"pad": list(self.pad)}
        return {"representation": self.representation}

    def of_episodes(self) -> dict[str, Any]:
        """What the metadata of each episode say of it, so that it can be played again as it is now."""
        return {} if self.pad is None else {"padded": list(self.pad)}


def widened(schema: Schema, other: Schema) -> Schema:
    """`schema` with bounds that values of `other`, which has the same fields, keep too."""
    fields: list[Field] = []
    for field in schema.fields:
        theirs = other[field.name]
        low = None if field.low is None or theirs.low is None else min(field.low, theirs.low)
        high = None if field.high is None or theirs.high is None else max(field.high, theirs.high)
        fields.append(msgspec.structs.replace(field, low=low, high=high))
    return Schema(fields)


def common_board(a: Schema, b: Schema) -> tuple[int, int] | None:
    """(H, W) of the smallest board that holds those of both, None unless they have boards of two sizes."""
    try:
        one, other = BoardFields.of(a), BoardFields.of(b)
    except SchemaError:
        return None
    if (one.height, one.width) == (other.height, other.width):
        return None
    return max(one.height, other.height), max(one.width, other.width)
