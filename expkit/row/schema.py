"""What a row holds: the key columns every row has, and the fields a game declares.

A `Schema` names each field with dtype, shape, unit, meaning and what it belongs to. It is written into every
shard file as JSON and alone suffices to read it. `Schema.columns` is the physical view: how many bytes a row
takes in a ring block and on disk, in which order. Everything below the public face (rings, serializer, shard
files) moves these stored columns; `pack` and `unpack` translate between them and the logical arrays people see.

Stored form of a field:
- numbers: as they are, little-endian, C order;
- a bool field of more than one element: its bits packed, lowest bit first, `ceil(n / 8)` bytes a row;
- a bool scalar: one byte in memory (packed over the rows of a block on disk);
- a nullable field: one extra bool column `valid:NAME` beside it, false where the writer gave nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Any, Literal, NamedTuple
from zlib import crc32

import msgspec
import numpy as np

from expkit.errors import SchemaError
from expkit.row.host import host_array

Belongs = Literal["observation", "action", "step"]

DTYPES = ("bool", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8")
TEXT = "code point"  # unit of a ragged field whose entries are the characters of a text
MAX_FIELDS = 1024
MAX_ROW_BYTES = 1 << 30
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.\-]*(/[A-Za-z0-9_.\-]+)*")


class Field(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """One named column of a row.

    name      `observation/army`: slashes group, as in RLDS
    dtype     one of DTYPES
    shape     of one row's value, () for a scalar
    belongs   `observation`: on all T+1 rows of an episode; `action` and `step`: on the T rows that have an action
    nullable  a writer may leave it out; it is then null, never zero
    expand    (repeat, ones): the logical bool vector is the stored one repeated `repeat` times, followed by `ones`
              true entries. Generals stores 4HW mask bits that stand for 8HW + 1 actions.
    low, high bounds of valid values, where there are some
    ragged    the integer field that says how many entries along the first axis count; the others are zero
    """

    name: str
    dtype: str
    shape: tuple[int, ...] = ()
    belongs: Belongs = "step"
    nullable: bool = False
    unit: str = ""
    meaning: str = ""
    channels: tuple[str, ...] = ()
    expand: tuple[int, int] | None = None
    low: float | None = None
    high: float | None = None
    ragged: str = ""

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name) or len(self.name) > 200:
            raise SchemaError(f"field name {self.name!r} is not usable; use letters, digits, _ . - and / to group")
        if self.dtype not in DTYPES:
            raise SchemaError(f"field {self.name}: dtype {self.dtype!r} is not one of {', '.join(DTYPES)}")
        if any(side <= 0 for side in self.shape) or len(self.shape) > 16:
            raise SchemaError(f"field {self.name}: shape {self.shape} needs at most 16 positive sides")
        if self.items * 8 > MAX_ROW_BYTES:
            raise SchemaError(f"field {self.name}: shape {self.shape} is too large for one row")
        if self.channels and (not self.shape or len(self.channels) != self.shape[0]):
            raise SchemaError(f"field {self.name}: {len(self.channels)} channel names for shape {self.shape}")
        if self.expand is not None and (
            self.dtype != "bool" or len(self.shape) != 1 or self.expand[0] < 1 or self.expand[1] < 0
        ):
            raise SchemaError(f"field {self.name}: expand is for bool vectors, as (repeat >= 1, ones >= 0)")
        if self.ragged and not self.shape:
            raise SchemaError(f"field {self.name}: only a field with a shape is ragged")
        if self.expand is not None and self.expand[0] * self.items + self.expand[1] > MAX_ROW_BYTES:
            raise SchemaError(f"field {self.name}: expand {self.expand} is too large for one row")

    @property
    def items(self) -> int:
        """Number of stored elements in one row."""
        count = 1
        for side in self.shape:
            count *= side
        return count

    @property
    def logical_shape(self) -> tuple[int, ...]:
        """Shape a reader gets for one row; differs from `shape` only under `expand`."""
        if self.expand is None:
            return self.shape
        return (self.expand[0] * self.items + self.expand[1],)

    @property
    def numpy_dtype(self) -> np.dtype[Any]:
        return np.dtype(bool) if self.dtype == "bool" else np.dtype("<" + self.dtype)


class Column(NamedTuple):
    """One stored column: `items` elements of `dtype` a row (`items` 0 means a scalar, one element)."""

    name: str
    dtype: np.dtype[Any]
    items: int
    field: Field | None
    is_validity: bool = False

    @property
    def row_bytes(self) -> int:
        return max(self.items, 1) * self.dtype.itemsize

    @property
    def packed(self) -> bool:
        """A bool field stored as packed bits within each row."""
        return self.field is not None and self.field.dtype == "bool" and self.items > 0

    def shape(self, rows: int) -> tuple[int, ...]:
        """Shape of the stored array for `rows` rows."""
        return (rows, self.items) if self.items else (rows,)


# Keys of every row, in stored order. `player` is not among them: a ring and a block belong to one player.
KEYS: tuple[Column, ...] = (
    Column("episode", np.dtype("<u8"), 0, None),
    Column("step", np.dtype("<u4"), 0, None),
    Column("policy", np.dtype("<u2"), 0, None),
    Column("policy_version", np.dtype("<u4"), 0, None),
    Column("time_ns", np.dtype("<i8"), 0, None),
    Column("is_first", np.dtype(bool), 0, None),
    Column("is_last", np.dtype(bool), 0, None),
)
KEY_NAMES = tuple(column.name for column in KEYS)
RESERVED = (*KEY_NAMES, "player", "run")

# Fields every schema has; they stand on the row of the action that caused them.
STANDARD_FIELDS = (
    Field("reward", "f4", meaning="reward caused by this row's action"),
    Field("terminated", "bool", meaning="the action of this row ended the episode by the rules of the game"),
    Field("truncated", "bool", meaning="the action of this row was the last one allowed by a limit"),
)


class Schema:
    """The fields of a run, in order. Immutable; equal when all fields are.

    `reward`, `terminated` and `truncated` are appended when left out. Raises SchemaError for duplicate or
    reserved names and for rows above 1 GiB.
    """

    def __init__(self, fields: Iterable[Field]):
        listed = list(fields)
        names = [field.name for field in listed]
        listed += [field for field in STANDARD_FIELDS if field.name not in names]
        names = [field.name for field in listed]
        if len(listed) > MAX_FIELDS:
            raise SchemaError(f"{len(listed)} fields; at most {MAX_FIELDS} are allowed")
        for name in names:
            if name in RESERVED:
                raise SchemaError(f"field name {name!r} is reserved for a key; rename the field")
            if names.count(name) > 1:
                raise SchemaError(f"field {name!r} is declared twice")
        for field in listed:
            if field.ragged:
                _check_ragged(field, listed)
        self.fields: tuple[Field, ...] = tuple(listed)
        if self.row_bytes > MAX_ROW_BYTES:
            raise SchemaError(f"a row of {self.row_bytes:,} bytes is above the limit of 1 GiB")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Schema) and self.fields == other.fields

    def __hash__(self) -> int:
        return hash(self.fields)

    def __repr__(self) -> str:
        inside = ", ".join(f"{field.name}: {field.dtype}{list(field.shape) or ''}" for field in self.fields)
        return f"Schema({inside})"

    def __getitem__(self, name: str) -> Field:
        for field in self.fields:
            if field.name == name:
                return field
        raise SchemaError(f"no field {name!r} in the schema; it has {', '.join(f.name for f in self.fields)}")

    def __contains__(self, name: object) -> bool:
        return any(field.name == name for field in self.fields)

    @cached_property
    def columns(self) -> tuple[Column, ...]:
        """All stored columns: the keys, then each field, a nullable one followed by `valid:NAME`."""
        out = list(KEYS)
        for field in self.fields:
            if field.dtype == "bool" and field.shape:
                out.append(Column(field.name, np.dtype("u1"), (field.items + 7) // 8, field))
            else:
                out.append(Column(field.name, field.numpy_dtype, field.items if field.shape else 0, field))
            if field.nullable:
                out.append(Column(f"valid:{field.name}", np.dtype(bool), 0, None, is_validity=True))
        return tuple(out)

    @cached_property
    def row_bytes(self) -> int:
        """Bytes of one stored row, all columns together."""
        return sum(column.row_bytes for column in self.columns)

    def column(self, name: str) -> Column:
        """The stored column of that name. Raises SchemaError."""
        for column in self.columns:
            if column.name == name:
                return column
        raise SchemaError(f"no column {name!r}; there are {', '.join(c.name for c in self.columns)}")

    def with_fields(self, **dtypes: str) -> Schema:
        """A schema with more scalar fields: `schema.with_fields(log_prob="f4", value="f4")`. They belong to the
        action and are nullable."""
        more = [Field(name, dtype, belongs="action", nullable=True) for name, dtype in dtypes.items()]
        return Schema([*self.fields, *more])

    def expand_names(self, wanted: Iterable[str]) -> list[str]:
        """Field and key names for `wanted`, where a group name stands for all its fields
        (`observation` for `observation/army`, …). Raises SchemaError for a name that is nothing."""
        known = [*KEY_NAMES, "player", *(field.name for field in self.fields)]
        out: list[str] = []
        for name in wanted:
            hits = [k for k in known if k == name or k.startswith(name + "/")]
            if not hits:
                raise SchemaError(f"no column {name!r}; there are {', '.join(known)}")
            out += [hit for hit in hits if hit not in out]
        return out

    def pack(self, name: str, values: Any, rows: int) -> np.ndarray:
        """Logical values of `rows` rows, (rows, *logical_shape) or (rows, *shape), to the stored array.

        Raises SchemaError when the shape or the kind of number does not fit; a number that the dtype cannot
        hold raises too, nothing is wrapped around.
        """
        column = self.column(name)
        array = host_array(name, values)
        field = column.field
        if field is None:
            return _cast(name, array, column.dtype).reshape(rows)
        full, stored = (rows, *field.logical_shape), (rows, *field.shape)
        if array.shape == full and field.expand is not None:
            array = array[:, : field.items]
        elif array.shape != stored:
            raise SchemaError(f"{name}: shape {array.shape} does not fit {full}")
        if field.dtype == "bool":
            if array.dtype != bool:
                array = _bits(name, array)
            if column.packed:
                return np.packbits(array.reshape(rows, field.items), axis=1, bitorder="little")
            return array
        return np.ascontiguousarray(_cast(name, array, column.dtype)).reshape(column.shape(rows))

    def unpack(self, name: str, stored: np.ndarray) -> np.ndarray:
        """Stored array to the logical one, (rows, *logical_shape). No copy where none is needed."""
        column = self.column(name)
        field = column.field
        if field is None:
            return stored
        rows = len(stored)
        if column.packed:
            bits = np.unpackbits(stored, axis=1, count=field.items, bitorder="little").view(bool)
            if field.expand is not None:
                repeat, ones = field.expand
                out = np.ones((rows, repeat * field.items + ones), bool)
                for part in range(repeat):
                    out[:, part * field.items : (part + 1) * field.items] = bits
                return out
            return bits.reshape(rows, *field.shape)
        return stored.reshape(rows, *field.shape)

    @classmethod
    def from_space(
        cls, observation_space: Any, action_space: Any, *, action_mask: str | None = None, capacity: int = 64
    ) -> Schema:
        """The fields of rows with values of these Gymnasium spaces: `observation` and `action`, or groups of these
        names for Dict, Tuple and what is ragged. A mask that the observation has is the field `action_mask`.

        action_mask   what the observation or the info of a step calls the mask, where it is not `action_mask`
        capacity      entries there is room for in a Sequence, nodes and edges in a Graph; more are refused

        Raises SchemaError for a space without such a form, MissingExtra.
        """
        from expkit.spaces.environment import EnvLayout

        return EnvLayout(observation_space, action_space, mask_key=action_mask, capacity=capacity).schema

    @classmethod
    def from_env(cls, env: Any, *, action_mask: str | None = None, capacity: int = 64) -> Schema:
        """As `from_space`, of a Gymnasium environment, single or vectorised, or of PettingZoo's AEC or Parallel one,
        whose agents have to have equal spaces."""
        from expkit.spaces.environment import env_layout

        return env_layout(env, mask_key=action_mask, capacity=capacity).schema

    def to_json(self) -> bytes:
        """The schema as JSON: `{"fields": [...]}`."""
        return msgspec.json.encode({"fields": self.fields})

    @classmethod
    def from_json(cls, text: bytes | str) -> Schema:
        """Read what `to_json` wrote. Raises SchemaError on anything else."""
        try:
            return cls.from_builtins(msgspec.json.decode(text))
        except msgspec.DecodeError as error:
            raise SchemaError(f"schema is not valid JSON: {error}") from None

    @classmethod
    def from_builtins(cls, tree: Any) -> Schema:
        """From the decoded form of `to_json`. Raises SchemaError."""
        if not isinstance(tree, Mapping) or not isinstance(tree.get("fields"), list):
            raise SchemaError("schema needs a list under 'fields'")
        try:
            return cls(msgspec.convert(tree["fields"], list[Field]))
        except msgspec.ValidationError as error:
            raise SchemaError(f"schema is malformed: {error}") from None

    def to_builtins(self) -> dict[str, Any]:
        return {"fields": msgspec.to_builtins(self.fields)}

    @cached_property
    def digest(self) -> int:
        """crc32 of the JSON form, to tell schemas apart cheaply."""
        return crc32(self.to_json())


def _check_ragged(field: Field, fields: list[Field]) -> None:
    """Raises SchemaError unless the field that counts the entries is there."""
    counts = next((one for one in fields if one.name == field.ragged), None)
    if counts is None or counts.shape or counts.dtype[0] not in "iu":
        raise SchemaError(f"field {field.name}: ragged names {field.ragged!r}, which has to be an integer of each row")


def _bits(name: str, array: np.ndarray) -> np.ndarray:
    """As bool, refusing what is neither 0 nor 1."""
    if array.dtype.kind not in "iuf":
        raise SchemaError(f"{name}: values of type {array.dtype} are not numbers")
    bits: np.ndarray = array == 1
    if not np.array_equal(bits, array):
        wrong = array[~bits & (array != 0)].reshape(-1)[0]
        raise SchemaError(f"{name}: {wrong} is neither 0 nor 1, and the field is a bool")
    return bits


def _cast(name: str, array: np.ndarray, dtype: np.dtype[Any]) -> np.ndarray:
    """To `dtype`, refusing what would change the value: wrapped integers, fractions cut off, text."""
    if array.dtype == dtype:
        return array
    if array.dtype.kind not in "biuf":
        raise SchemaError(f"{name}: values of type {array.dtype} are not numbers")
    if dtype.kind == "f":
        return array.astype(dtype)
    with np.errstate(invalid="ignore"):
        cast = array.astype(dtype)
    if not np.array_equal(cast, array):
        raise SchemaError(f"{name}: a value does not fit {dtype} (given {array.dtype})")
    return cast
