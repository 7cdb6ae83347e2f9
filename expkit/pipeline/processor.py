"""What a processor is: one link of a pipeline, which makes, changes or removes columns, or leaves out rows.

A processor is a value: it holds its options, keeps nothing between batches and may run in several threads at once. It
declares what it looks at and what it does to a schema, and it is given batches of rows in logical form. One that only
looks at single rows may be given any rows in any order; one that needs `whole_episodes` is given all rows there are of
each player's episode, in the order of their steps, so that it can look at the rows before and after.

Your own is a function:

    @processor(reads=["reward"], changes=["reward"])
    def in_cents(rows):
        return {"reward": rows["reward"] * 100}

named in a pipeline as `module:in_cents`, or by the name under which a package lists it in the entry-point group
`expkit.processors`; or anything else with the methods of `Processor`, or a callable that makes one of its options.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import msgspec
import numpy as np

from expkit.row.schema import Field, Schema


@dataclass(frozen=True, slots=True)
class ColumnBatch:
    """Rows in logical form, as readers give them.

    schema    the fields there are; not all of them need be among the columns
    columns   name to array (rows, …), not to be written to: keys, `player`, fields, and `valid:NAME` of nullable ones
    stretch   int64 (rows,), only where whole episodes were asked for: rows of one number follow each other in one
              player's episode with no row missing in between. Nothing may be carried from one number to another.
    """

    schema: Schema
    columns: Mapping[str, np.ndarray]
    stretch: np.ndarray | None = None

    def __getitem__(self, name: str) -> np.ndarray:
        return self.columns[name]

    def __len__(self) -> int:
        return len(self.columns["step"])

    def given(self, name: str) -> np.ndarray:
        """bool (rows,): where the field has a value: not on last rows unless it belongs to the observation, and not
        where a writer left it out."""
        here = np.ones(len(self), bool) if self.schema[name].belongs == "observation" else ~self.columns["is_last"]
        valid = self.columns.get(f"valid:{name}")
        return here if valid is None else here & valid


@dataclass(frozen=True, slots=True)
class Columns:
    """What a processor does to rows of one schema.

    reads    fields and keys it looks at; groups (`observation`) stand for all their fields
    makes    fields it adds;  changes: fields as they are afterwards, under the names they have
    removes  fields that are gone afterwards
    """

    reads: Sequence[str] = ()
    makes: Sequence[Field] = ()
    changes: Sequence[Field] = ()
    removes: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a batch.

    columns      every field made or changed, (rows, …), of all rows; `valid:NAME` may come with a nullable one, else
                 all its values count as given. On last rows only fields of the observation keep theirs.
    keep         bool (rows,), which rows go on; None is all of them. Those left out without a cause are filtered.
    rejected     rows left out because they are wrong, by cause
    quarantined  the same, of rows that are to be kept elsewhere;  aside: bool (rows,), which they are. A recorder keeps
                 them in the run's `quarantine/`, a reader only counts them
    repaired     rows by cause whose values were replaced
    """

    columns: Mapping[str, np.ndarray] = field(default_factory=dict)
    keep: np.ndarray | None = None
    rejected: Mapping[str, int] = field(default_factory=dict)
    quarantined: Mapping[str, int] = field(default_factory=dict)
    aside: np.ndarray | None = None
    repaired: Mapping[str, int] = field(default_factory=dict)


@runtime_checkable
class Processor(Protocol):
    """One link of a pipeline; see the module."""

    @property
    def whole_episodes(self) -> bool:
        """Whether it has to be given all rows of an episode at once, with their stretches."""
        ...

    @property
    def leaves_out(self) -> bool:
        """Whether it may leave out rows."""
        ...

    def declare(self, schema: Schema) -> Columns:
        """What it does to rows of that schema. Raises SchemaError where they lack what it needs."""
        ...

    def process(self, rows: ColumnBatch) -> Outcome | Mapping[str, np.ndarray]:
        """The columns it declared, for these rows; a mapping stands for an Outcome that has nothing else."""
        ...


@dataclass(frozen=True, slots=True)
class FunctionProcessor:
    """A function as a processor; see `processor`."""

    function: Callable[[ColumnBatch], Outcome | Mapping[str, np.ndarray]]
    reads: tuple[str, ...] = ()
    makes: tuple[Field, ...] = ()
    changes: tuple[str, ...] = ()
    removes: tuple[str, ...] = ()
    whole_episodes: bool = False
    leaves_out: bool = False

    @property
    def name(self) -> str:
        """As `module:name`."""
        return f"{self.function.__module__}:{self.function.__qualname__}"

    def __call__(self, rows: ColumnBatch) -> Outcome | Mapping[str, np.ndarray]:
        return self.function(rows)

    def declare(self, schema: Schema) -> Columns:
        changed = [schema[name] for name in field_names(schema, self.changes)]
        return Columns(self.reads, self.makes, changed, field_names(schema, self.removes))

    def process(self, rows: ColumnBatch) -> Outcome | Mapping[str, np.ndarray]:
        return self.function(rows)


def processor(
    *,
    reads: Sequence[str] = (),
    makes: Sequence[Field] = (),
    changes: Sequence[str] = (),
    removes: Sequence[str] = (),
    whole_episodes: bool = False,
    leaves_out: bool = False,
) -> Callable[[Callable[[ColumnBatch], Outcome | Mapping[str, np.ndarray]]], FunctionProcessor]:
    """Make a processor of a function of a batch; what it declares is as in `Columns`, names and groups for `changes`
    and `removes`."""

    def wrap(function: Callable[[ColumnBatch], Outcome | Mapping[str, np.ndarray]]) -> FunctionProcessor:
        declared = tuple(reads), tuple(makes), tuple(changes), tuple(removes)
        return FunctionProcessor(function, *declared, whole_episodes, leaves_out)

    return wrap


class Options(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of the processors of expkit: their fields are the options that a pipeline may give them."""

    @property
    def whole_episodes(self) -> bool:
        return False

    @property
    def leaves_out(self) -> bool:
        return False


def field_names(schema: Schema, wanted: Sequence[str]) -> list[str]:
    """Fields for names and groups. Raises SchemaError for one that is nothing, or a key."""
    return [schema[name].name for name in schema.expand_names(wanted)]


def plain(known: Field, **changes: Any) -> Field:
    """A field as it is in logical form, bits not stored for others, with changes."""
    changes = {"expand": None, "shape": known.logical_shape, **changes}
    return msgspec.structs.replace(known, **changes)
