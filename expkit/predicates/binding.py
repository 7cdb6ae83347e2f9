"""Names and types: from the tree a text gave to one whose leaves are columns, for one schema and one policy table.

Texts are gone afterwards (`policy == 'hunter'` asks whether the number is among those of that name), and so are
chains and `between`: what is left are numbers, sources, arithmetic, comparisons of two values, `in`, `is`, and, or,
not.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NoReturn, TypeVar

import numpy as np

from expkit.errors import UsageError
from expkit.predicates.episodes import ENDED, EPISODE_NAMES
from expkit.predicates.tree import (
    Absolute,
    All,
    Any,
    Arithmetic,
    Between,
    Compare,
    Is,
    Name,
    Negate,
    Node,
    Not,
    Number,
    Text,
    Truth,
    Within,
    brief,
)
from expkit.row.episodes import PolicyInfo
from expkit.row.schema import KEY_NAMES, Column, Field, Schema

N = TypeVar("N", bound=Node)
_NAMES_SHOWN = 12
POLICY_NAME = "policy_name"
_TEXTS = {
    "ended": "ended is a text; compare it with 'terminated', 'truncated' or 'interrupted'",
    POLICY_NAME: "policy_name is a text; compare it with the name of a policy, or policy with its number",
}
_FLIPPED = {"==": "==", "!=": "!=", "<": ">", "<=": ">=", ">": "<", ">=": "<="}


@dataclass(frozen=True, slots=True)
class Source(Node):
    """Where the values of a name come from.

    column      the stored column; None for `player` and for what belongs to the episode
    element     which element of an array field, counted as stored; -1 for one that is true by the field's `expand`
    validity    the column that says where there is a value, "" for none
    everywhere  it has a value on last rows, too
    truth       its values are true and false
    """

    name: str
    column: Column | None = None
    element: int | None = None
    validity: str = ""
    everywhere: bool = True
    truth: bool = False

    @property
    def of_episode(self) -> bool:
        return self.column is None and self.name != "player"

    @property
    def columns(self) -> set[str]:
        """Stored columns that are needed to know the values."""
        if self.column is None:
            return {"episode"} if self.of_episode else set()
        return {
            self.column.name,
            *([self.validity] if self.validity else []),
            *([] if self.everywhere else ["is_last"]),
        }


def is_truth(node: Node) -> bool:
    """Whether a bound node is true or false, rather than a number."""
    if isinstance(node, Source):
        return node.truth
    return not isinstance(node, Number | Negate | Absolute | Arithmetic)


def sources(node: Node) -> set[Source]:
    """All sources under a bound node."""
    found = {node} if isinstance(node, Source) else set()
    return found.union(*(sources(child) for child in node.children()))


class Binder:
    """Binds the trees of one `option` to a schema and a policy table. Every method raises UsageError."""

    def __init__(self, option: str, schema: Schema, policies: Sequence[PolicyInfo]):
        self._option = option
        self._schema = schema
        self._policies = [policy.name for policy in policies]
        self._fields = {field.name: field for field in schema.fields}

    def _fail(self, what: str) -> NoReturn:
        raise UsageError(f"{self._option}: {what}")

    def condition(self, node: Node) -> Node:
        """A node that has to be true or false."""
        match node:
            case Not(inner):
                return Not(self.condition(inner))
            case All(parts):
                return All(tuple(self.condition(part) for part in parts))
            case Any(parts):
                return Any(tuple(self.condition(part) for part in parts))
            case Compare(first, rest):
                values = [first, *(value for _, value in rest)]
                pairs = zip(pairwise(values), rest, strict=True)
                return _all(self._pair(left, op, right) for (left, right), (op, _) in pairs)
            case Between(inner, low, high, negated):
                return _maybe_not(_all([self._pair(low, "<=", inner), self._pair(inner, "<=", high)]), negated)
            case Within(inner, items, negated):
                return _maybe_not(self._within(inner, items), negated)
            case Is(inner, what, negated):
                place = self._text_source(inner) or self.value(inner)
                return Is(place, what, negated)
            case Truth():
                return node
        bound = self.value(node)
        if not is_truth(bound):
            self._fail(f"{brief(node)} is a number, not true or false; compare it, as in {brief(node)} > 0")
        return bound

    def value(self, node: Node) -> Node:
        """A node that has to be a number, or true or false."""
        match node:
            case Number() | Truth():
                return node
            case Text():
                self._fail(f"the text {brief(node)} can only be compared with policy_name or ended, by == or !=")
            case Name():
                return self._source(node)
            case Negate(inner):
                return Negate(self._number(inner, "-"))
            case Absolute(inner):
                return Absolute(self._number(inner, "abs()"))
            case Arithmetic(sign, left, right):
                return Arithmetic(sign, self._number(left, sign), self._number(right, sign))
        return self.condition(node)

    def _number(self, node: Node, wanted_by: str) -> Node:
        bound = self.value(node)
        if is_truth(bound):
            self._fail(f"{brief(node)} is true or false, and {wanted_by} needs a number")
        return bound

    def _pair(self, left: Node, op: str, right: Node) -> Node:
        if isinstance(left, Text):
            left, op, right = right, _FLIPPED[op], left
        if isinstance(right, Text):
            if op not in ("==", "!="):
                self._fail(f"the text {brief(right)} has no order; compare it by == or !=")
            return _maybe_not(self._within(left, (right,)), op == "!=")
        one, other = self.value(left), self.value(right)
        return Compare(_rounded(one, other), ((op, _rounded(other, one)),))

    def _within(self, inner: Node, items: Sequence[Number | Text | Truth]) -> Node:
        source = self._text_source(inner)
        if source is not None and source.name in _TEXTS and any(not isinstance(item, Text) for item in items):
            self._fail(_TEXTS[source.name])
        if source is None:
            bound = self.value(inner)
            if any(isinstance(item, Text) for item in items):
                text = next(item for item in items if isinstance(item, Text))
                kind = "true or false" if is_truth(bound) else "a number"
                self._fail(f"{brief(inner)} is {kind}, which cannot be compared with the text {brief(text)}")
        else:
            bound = source
        found: list[Number | Text | Truth] = []
        for item in items:
            if isinstance(item, Text):
                assert source is not None
                found += [Number(code) for code in self._codes(source.name, item.value)]
            else:
                found.append(Number(int(item.value)) if isinstance(item, Truth) else _rounded(item, bound))
        return Within(bound, tuple(found))

    def _text_source(self, node: Node) -> Source | None:
        """The source when it may be compared with texts."""
        if not isinstance(node, Name) or node.index:
            return None
        if node.name == "policy" or (node.name == POLICY_NAME and node.name not in self._fields):
            return Source(node.name, self._schema.column("policy"))
        return Source("ended") if node.name == "ended" and "ended" not in self._fields else None

    def _codes(self, name: str, text: str) -> list[int]:
        """The numbers that stand for a text: places in the policy table, or in ENDED."""
        known = list(ENDED) if name == "ended" else self._policies
        codes = [place for place, word in enumerate(known) if word == text]
        if not codes:
            what = "way to end" if name == "ended" else "policy"
            self._fail(f"no {what} {brief(Text(text))}{_suggest(text, known)}")
        return codes

    def _source(self, node: Name) -> Source:
        name = node.name
        field = self._fields.get(name)
        if field is not None:
            return self._field(node, field)
        if name not in (*KEY_NAMES, POLICY_NAME, "player", *EPISODE_NAMES):
            known = [*self._fields, *KEY_NAMES, POLICY_NAME, "player", *EPISODE_NAMES]
            if "/" in name and all(part in known for part in name.split("/")):
                self._fail(f"unknown name {brief(Text(name))}; to divide, put spaces around the /")
            self._fail(f"unknown name {brief(Text(name))}{_suggest(name, known)}")
        if node.index:
            self._fail(f"{name} is one value, not an array; leave out {str(node)[len(str(Name(name))) :]}")
        if name in _TEXTS:
            self._fail(_TEXTS[name])
        if name in KEY_NAMES:
            column = self._schema.column(name)
            return Source(name, column, truth=column.dtype == bool)
        return Source(name, truth=name == "won")

    def _field(self, node: Name, field: Field) -> Source:
        shape, index = field.logical_shape, node.index
        if len(shape) != len(index):
            sides = f"an array of {'x'.join(map(str, shape))}" if shape else "one value, not an array"
            example = str(Name(field.name, (0,) * len(shape)))
            self._fail(f"{field.name} is {sides}; write {example}")
        for place, side in zip(index, shape, strict=True):
            if not -side <= place < side:
                self._fail(f"{brief(node)} is outside: that side of {field.name} has {side} elements")
        element: int | None = None
        if shape:
            element = int(np.ravel_multi_index([i % side for i, side in zip(index, shape, strict=True)], shape))
            if field.expand is not None:
                element = element % field.items if element < field.expand[0] * field.items else -1
        return Source(
            str(node),
            self._schema.column(field.name),
            element,
            f"valid:{field.name}" if field.nullable else "",
            field.belongs == "observation",
            field.dtype == "bool",
        )


def _all(parts: Iterable[Node]) -> Node:
    listed = tuple(parts)
    return listed[0] if len(listed) == 1 else All(listed)


def _maybe_not(node: Node, negated: bool) -> Node:
    return Not(node) if negated else node


def _rounded(node: N, other: Node) -> N:
    """A constant with a fraction as the f2 or f4 field that it is compared with stores it: `reward == 0.1` is to find
    the rows that were given 0.1, which no f4 equals. A constant beyond the largest number of the field stays."""
    if isinstance(node, Number) and isinstance(node.value, float) and isinstance(other, Source):
        kind = other.column.dtype if other.column is not None else None
        if kind is not None and kind.kind == "f":
            with np.errstate(over="ignore"):
                value = float(kind.type(node.value))
            if not math.isinf(value):
                return Number(value)  # type: ignore[return-value]
    return node


def _suggest(word: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(word[:200], known, 1)
    if near:
        return f"; did you mean '{near[0]}'?"
    if not known:
        return "; there are none"
    listed = ", ".join(known[:_NAMES_SHOWN])
    return f"; there are {listed}{', …' if len(known) > _NAMES_SHOWN else ''}"
