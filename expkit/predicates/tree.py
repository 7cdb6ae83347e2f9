"""What a predicate is made of, and how it is written: `str(node)` is the normal form, which parses to an equal node."""

from __future__ import annotations

import re
from dataclasses import dataclass

KEYWORDS = frozenset(("and", "or", "not", "in", "between", "is", "null", "true", "false", "inf", "nan"))
# A slash belongs to a name when a letter follows: `state/turn` is a name, `reward/2` and `a / b` divide.
BARE_NAME = r"[A-Za-z_][A-Za-z0-9_.]*(?:/[A-Za-z_][A-Za-z0-9_.]*)*"

# How tightly a form binds, loosest first. The parser and the printer share these.
OR, AND, NOT, COMPARE, SUM, PRODUCT, NEGATE, ATOM = range(1, 9)
OPERATORS = {"+": SUM, "-": SUM, "*": PRODUCT, "/": PRODUCT, "%": PRODUCT}


class Node:
    """A part of a predicate. Immutable; equal when written the same, but for brackets and spaces."""

    power = ATOM

    def children(self) -> tuple[Node, ...]:
        return ()


def brief(text: object, most: int = 60) -> str:
    """What an error may quote: one line of at most `most` printable characters."""
    shown = "".join(c if c.isprintable() else " " if c.isspace() else "?" for c in str(text)[: most + 1])
    return shown if len(shown) <= most else shown[: most - 1] + "…"


def show(node: Node, power: int) -> str:
    """`node` as it stands where forms that bind as tightly as `power` are wanted."""
    return f"({node})" if node.power < power else str(node)


@dataclass(frozen=True, slots=True)
class Number(Node):
    value: int | float

    def __str__(self) -> str:
        return repr(self.value)


@dataclass(frozen=True, slots=True)
class Text(Node):
    value: str

    def __str__(self) -> str:
        return "'" + self.value.replace("'", "''") + "'"


@dataclass(frozen=True, slots=True)
class Truth(Node):
    value: bool

    def __str__(self) -> str:
        return str(self.value).lower()


@dataclass(frozen=True, slots=True)
class Name(Node):
    """A key, a field or an episode-level name; `index` picks an element of an array field."""

    name: str
    index: tuple[int, ...] = ()

    def __str__(self) -> str:
        bare = re.fullmatch(BARE_NAME, self.name) and self.name.lower() not in KEYWORDS
        shown = self.name if bare else "`" + self.name.replace("`", "``") + "`"
        return f"{shown}[{', '.join(map(str, self.index))}]" if self.index else shown


@dataclass(frozen=True, slots=True)
class Negate(Node):
    inner: Node
    power = NEGATE

    def children(self) -> tuple[Node, ...]:
        return (self.inner,)

    def __str__(self) -> str:
        # `-3` is a number of its own, so that the negation of the number 3 needs brackets
        return f"-({self.inner})" if isinstance(self.inner, Number) else f"-{show(self.inner, ATOM)}"


@dataclass(frozen=True, slots=True)
class Absolute(Node):
    inner: Node

    def children(self) -> tuple[Node, ...]:
        return (self.inner,)

    def __str__(self) -> str:
        return f"abs({self.inner})"


@dataclass(frozen=True, slots=True)
class Arithmetic(Node):
    sign: str
    left: Node
    right: Node

    @property
    def power(self) -> int:  # type: ignore[override]
        return OPERATORS[self.sign]

    def children(self) -> tuple[Node, ...]:
        return self.left, self.right

    def __str__(self) -> str:
        return f"{show(self.left, self.power)} {self.sign} {show(self.right, self.power + 1)}"


@dataclass(frozen=True, slots=True)
class Compare(Node):
    """`first op value op value …`: true when each neighbouring pair compares so."""

    first: Node
    rest: tuple[tuple[str, Node], ...]
    power = COMPARE

    def children(self) -> tuple[Node, ...]:
        return self.first, *(value for _, value in self.rest)

    def __str__(self) -> str:
        return " ".join([show(self.first, SUM), *(f"{op} {show(value, SUM)}" for op, value in self.rest)])


@dataclass(frozen=True, slots=True)
class Within(Node):
    """`inner in (items)`; the items are constants."""

    inner: Node
    items: tuple[Number | Text | Truth, ...]
    negated: bool = False
    power = COMPARE

    def children(self) -> tuple[Node, ...]:
        return (self.inner,)

    def __str__(self) -> str:
        word = "not in" if self.negated else "in"
        return f"{show(self.inner, SUM)} {word} ({', '.join(map(str, self.items))})"


@dataclass(frozen=True, slots=True)
class Between(Node):
    inner: Node
    low: Node
    high: Node
    negated: bool = False
    power = COMPARE

    def children(self) -> tuple[Node, ...]:
        return self.inner, self.low, self.high

    def __str__(self) -> str:
        word = "not between" if self.negated else "between"
        return f"{show(self.inner, SUM)} {word} {show(self.low, SUM)} and {show(self.high, SUM)}"


@dataclass(frozen=True, slots=True)
class Is(Node):
    """`inner is null`, `inner is nan`, or the contrary."""

    inner: Node
    what: str
    negated: bool = False
    power = COMPARE

    def children(self) -> tuple[Node, ...]:
        return (self.inner,)

    def __str__(self) -> str:
        return f"{show(self.inner, SUM)} {'is not' if self.negated else 'is'} {self.what}"


@dataclass(frozen=True, slots=True)
class Not(Node):
    inner: Node
    power = NOT

    def children(self) -> tuple[Node, ...]:
        return (self.inner,)

    def __str__(self) -> str:
        return f"not {show(self.inner, NOT)}"


@dataclass(frozen=True, slots=True)
class All(Node):
    parts: tuple[Node, ...]
    power = AND

    def children(self) -> tuple[Node, ...]:
        return self.parts

    def __str__(self) -> str:
        return " and ".join(show(part, NOT) for part in self.parts)


@dataclass(frozen=True, slots=True)
class Any(Node):
    parts: tuple[Node, ...]
    power = OR

    def children(self) -> tuple[Node, ...]:
        return self.parts

    def __str__(self) -> str:
        return " or ".join(show(part, AND) for part in self.parts)
