"""What a foreign format is: rows out of a run into files that other tools read, and back.

Formats know nothing of runs. What they are given, and give, are batches: `dict[str, ndarray]` of logical arrays that
lead with the rows, the keys of TABLE_KEYS first, a nullable field with `valid:NAME` beside it. What is known of the
rows besides stands in a `Head`, which a format keeps in the file where it has a place for it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import msgspec
import numpy as np

from expkit.errors import SchemaError, ShardError
from expkit.row.episodes import EpisodeEnd, EpisodeStart
from expkit.row.schema import KEY_NAMES, Schema

Batch = dict[str, np.ndarray]
RowKind = Literal["all", "transitions"]

HEAD_FORMAT = "expkit.table/1"
HEAD_KEY = "expkit"  # under which a file keeps its Head
TABLE_KEYS = ("episode", "player", *KEY_NAMES[1:])


class EpisodeRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a run knows of an episode besides its rows. `rows` by player are those that are there; `digests` the sums of
    their hashes, where the rows are exported as they are."""

    number: int
    start: EpisodeStart | None = None
    end: EpisodeEnd | None = None
    notes: dict[str, Any] = {}
    rows: dict[str, int] = {}
    digests: dict[str, int] = {}


class Head(msgspec.Struct, frozen=True):
    """What is known of a table of rows besides the rows.

    schema    of the rows
    run       id, source, players, policies, config, config_digest, seed, created_ns, metadata of the run
    episodes  their records; complete: every episode has one here, so one that is not named has no rows
    rows      `all`, or `transitions` without the last rows of episodes
    filtered  rows were left out by a predicate
    shuffled  the rows are in random order
    """

    schema: Schema
    run: dict[str, Any]
    episodes: list[EpisodeRecord] = []
    rows: RowKind = "all"
    filtered: bool = False
    shuffled: bool = False

    @property
    def players(self) -> list[str]:
        return [str(name) for name in self.run.get("players", [])]

    def without_episodes(self) -> Head:
        """For the further files of an output: the first one's names them all."""
        return msgspec.structs.replace(self, episodes=[])

    def to_json(self) -> bytes:
        return msgspec.json.encode(
            {
                "format": HEAD_FORMAT,
                "rows": self.rows,
                "filtered": self.filtered,
                "shuffled": self.shuffled,
                "schema": self.schema.to_builtins(),
                "run": self.run,
                "episodes": self.episodes,
            }
        )

    @classmethod
    def from_json(cls, text: bytes, where: Path) -> Head:
        """Read what `to_json` wrote. Raises ShardError."""
        try:
            tree = msgspec.json.decode(text)
            if not isinstance(tree, dict) or tree.get("format") != HEAD_FORMAT:
                found = tree.get("format") if isinstance(tree, dict) else None
                raise ShardError(f"{where}: its description is of format {found!r}, and {HEAD_FORMAT!r} can be read")
            return cls(
                Schema.from_builtins(tree["schema"]),
                msgspec.convert(tree["run"], dict[str, Any]),
                msgspec.convert(tree["episodes"], list[EpisodeRecord]),
                msgspec.convert(tree["rows"], RowKind),
                msgspec.convert(tree["filtered"], bool),
                msgspec.convert(tree["shuffled"], bool),
            )
        except (msgspec.DecodeError, msgspec.ValidationError, SchemaError, KeyError) as error:
            raise ShardError(f"{where}: its description by expkit is damaged: {error}") from None


@dataclass(frozen=True, slots=True)
class Carries:
    """What of a run a format holds.

    arrays     fields of more than one element as such (else as text)
    nulls      which values were not given
    last_rows  the final observation of an episode, as a row of its own or as the next observation
    exact_last_rows  that row with its keys and all that belongs to the observation
    players    several players in one output
    keys       policies, versions, time stamps and whatever else every row has
    records    the Head: schema, policy table, episodes' starts, ends and metadata
    bits       every bit of a value, also which NaN it is
    least_rows  of a player's part of an episode; shorter ones have no place
    """

    arrays: bool = True
    nulls: bool = True
    last_rows: bool = True
    exact_last_rows: bool = True
    players: bool = True
    keys: bool = True
    records: bool = True
    bits: bool = True
    least_rows: int = 1


@dataclass(frozen=True, slots=True)
class ExportOptions:
    """What an export may choose.

    compression  a name of the format's own, its default when left out
    safe         of CSV: nothing that a spreadsheet takes for a formula
    """

    compression: str | None = None
    level: int | None = None
    safe: bool = False


@dataclass(slots=True)
class Recorded:
    """What an import reads.

    head     None of a file that knows nothing of expkit: its columns are then under the names it has
    batches  of rows, in the order of the file; may be read once
    notes    what was assumed, or is left out
    """

    batches: Iterator[Batch]
    head: Head | None = None
    notes: list[str] = field(default_factory=list)


@runtime_checkable
class Format(Protocol):
    """A foreign format. Found by name, by suffix, by the entry-point group `expkit.formats`, or as `module:attribute`;
    a class is made without arguments."""

    name: str
    suffixes: tuple[str, ...]  # of files, like `.parquet`; empty for formats whose output is a folder
    about: str  # in a few words, for help and messages
    carries: Carries
    compressions: tuple[str, ...]  # the default first

    def export(self, batches: Iterator[Batch], head: Head, target: Path, options: ExportOptions) -> None:
        """Write all batches to `target`, which is not there yet, holding a few of them at a time."""

    def import_(self, source: Path) -> Recorded:
        """Open what is there. Raises ShardError for a file that is not sound."""


@dataclass(frozen=True, slots=True)
class Part:
    """One output among several: `name` is "" when it is the only one."""

    name: str
    head: Head
    batches: Iterator[Batch]


@dataclass(frozen=True, slots=True)
class Shards:
    """Files of `rows` rows, or of about `size` bytes; 0 is no limit."""

    rows: int = 0
    size: int = 0

    def __bool__(self) -> bool:
        return bool(self.rows or self.size)


@runtime_checkable
class FolderFormat(Format, Protocol):
    """A format whose output is a folder, with all parts of a split and all shards in it."""

    by_player: bool  # rows come player after player
    card: dict[str, Any] | None  # what the dataset card says besides, where the format needs one

    def export_folder(self, parts: Sequence[Part], target: Path, options: ExportOptions, shards: Shards) -> None:
        """Write all parts, one after the other, to the folder `target`, which is to be made."""

    def recognises(self, source: Path) -> bool:
        """Whether a folder is of this format."""


def column_names(schema: Schema) -> list[str]:
    """Of a batch: the keys, then each field, a nullable one followed by `valid:NAME`."""
    return [*TABLE_KEYS, *(column.name for column in schema.columns[len(KEY_NAMES) :])]


def column_type(schema: Schema, name: str) -> tuple[np.dtype[Any], tuple[int, ...]]:
    """dtype and shape of one row's value in a batch."""
    if name == "player":
        return np.dtype("<u2"), ()
    column = schema.column(name)
    if column.field is None:
        return column.dtype, ()
    return column.field.numpy_dtype, column.field.logical_shape


def belongs_to(schema: Schema, name: str, group: str) -> bool:
    """Whether a column is of what other tools call the observation or the action: the field of that name, else the
    fields of that group."""
    return name == group if group in schema else name.startswith(f"{group}/")


def tree_path(schema: Schema, name: str) -> str:
    """The name of a column where names with slashes are paths: a name cannot be both a leaf and a folder there."""
    folder = any(field.name.startswith(f"{name}/") for field in schema.fields)
    return f"{name}/{name.rpartition('/')[2]}_" if folder else name


def rows_of(batch: Mapping[str, np.ndarray]) -> int:
    return len(next(iter(batch.values())))
