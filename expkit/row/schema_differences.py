"""How two schemas differ, in words: what refuses to merge or to compare runs says exactly why."""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

from expkit.row.schema import Field, Schema


class SchemaDifference(NamedTuple):
    """One field that is not alike. a, b: its kind in each schema, `i4 20x20`, None where it is not declared."""

    field: str
    a: str | None
    b: str | None

    def __str__(self) -> str:
        return self.describe("the first", "the second")

    def describe(self, a: str, b: str) -> str:
        """`observation/army: 20x20 vs 25x25`, or `value: only in runs/b`; a, b: what the two are called."""
        if self.a is None or self.b is None:
            return f"{self.field}: only in {b if self.a is None else a}"
        return f"{self.field}: {self.a} vs {self.b}"


def schema_differences(a: Schema, b: Schema, ignore: Collection[str] = ()) -> list[SchemaDifference]:
    """Fields that are not stored alike, those of `a` in its order, then those that only `b` has.

    Alike means the same dtype, shape, nullability, expansion and part of a step. Order, units, meanings, channel names
    and bounds say nothing about stored values and are not compared. `ignore` names fields to leave out.
    """
    out = []
    for field in a.fields:
        if field.name in ignore:
            continue
        if field.name not in b:
            out.append(SchemaDifference(field.name, _kind(field, ("dtype", "shape")), None))
            continue
        other = b[field.name]
        unlike = [name for name in _TOLD if getattr(field, name) != getattr(other, name)]
        if unlike:
            out.append(SchemaDifference(field.name, _kind(field, unlike), _kind(other, unlike)))
    extra = [field for field in b.fields if field.name not in a and field.name not in ignore]
    return out + [SchemaDifference(field.name, None, _kind(field, ("dtype", "shape"))) for field in extra]


_TOLD = ("dtype", "shape", "nullable", "expand", "belongs")


def _kind(field: Field, told: Collection[str]) -> str:
    """The traits of a field that are to be told: `20x20`, `i4 one value`, `nullable`."""
    repeat, ones = field.expand or (1, 0)
    words = {
        "dtype": field.dtype,
        "shape": _shape(field.shape),
        "nullable": "nullable" if field.nullable else "never null",
        "expand": f"expanded {repeat} times and {ones}" if field.expand else "not expanded",
        "belongs": f"of the {field.belongs}",
    }
    return " ".join(words[name] for name in _TOLD if name in told)


def _shape(shape: tuple[int, ...]) -> str:
    if len(shape) > 1:
        return "x".join(str(side) for side in shape)
    return f"{shape[0]} values" if shape else "one value"
