"""A slow, obvious twin of expkit.predicates: one row at a time, with Python's own numbers and None for null."""

from __future__ import annotations

import struct
from typing import Any as Anything

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
)

Row = dict[Anything, Anything]  # (name, index) -> value, None for null; "policies": names by number


def to_float(number: float) -> float:
    try:
        return float(number)
    except OverflowError:
        return 1.7976931348623157e308 * (1 if number > 0 else -1)


def stored_as(number: Anything, other: Node, row: Row) -> Anything:
    """A constant with a fraction as an f2 or f4 field stores it."""
    code = row["narrow"].get(other.name) if isinstance(other, Name) else None
    if code is None or not isinstance(number, float):
        return number
    try:
        return struct.unpack(code, struct.pack(code, number))[0]
    except OverflowError:
        return number


def calculate(sign: str, a: Anything, b: Anything) -> Anything:
    if a is None or b is None or (sign in "/%" and b == 0):
        return None
    if sign == "/" or isinstance(a, float) or isinstance(b, float):
        a, b = to_float(a), to_float(b)
    return {
        "+": lambda: a + b,
        "-": lambda: a - b,
        "*": lambda: a * b,
        "/": lambda: a / b,
        "%": lambda: a % b,
    }[sign]()


def value(node: Node, row: Row) -> Anything:
    match node:
        case Number(number):
            return number
        case Text(text):
            return text
        case Name(name, index):
            return row[name, index]
        case Negate(inner):
            found = value(inner, row)
            return None if found is None else -found
        case Absolute(inner):
            found = value(inner, row)
            return None if found is None else abs(found)
        case Arithmetic(sign, left, right):
            return calculate(sign, value(left, row), value(right, row))
    return truth(node, row)


def pair(left: Node, op: str, right: Node, row: Row) -> bool | None:
    a, b = value(left, row), value(right, row)
    if a is None or b is None:
        return None
    if isinstance(a, str) != isinstance(b, str):  # a policy's number and a policy's name
        a, b = (x if isinstance(x, str) else row["policies"][x] for x in (a, b))
    if isinstance(left, Number):
        a = stored_as(a, right, row)
    if isinstance(right, Number):
        b = stored_as(b, left, row)
    return {"==": a == b, "!=": a != b}[op] if isinstance(a, str) else eval(f"a {op} b")


def negated(answer: bool | None) -> bool | None:
    return None if answer is None else not answer


def both(answers: list[bool | None]) -> bool | None:
    if False in answers:
        return False
    return None if None in answers else True


def truth(node: Node, row: Row) -> bool | None:
    match node:
        case Truth(known):
            return known
        case Not(inner):
            return negated(truth(inner, row))
        case All(parts):
            return both([truth(part, row) for part in parts])
        case Any(parts):
            return negated(both([negated(truth(part, row)) for part in parts]))
        case Compare(first, rest):
            answers, left = [], first
            for op, right in rest:
                answers.append(pair(left, op, right, row))
                left = right
            return both(answers)
        case Between(inner, low, high, turned):
            answer = both([pair(low, "<=", inner, row), pair(inner, "<=", high, row)])
            return negated(answer) if turned else answer
        case Within(inner, items, turned):
            if value(inner, row) is None:
                return None
            return any(pair(inner, "==", item, row) for item in items) != turned
        case Is(inner, what, turned):
            found = value(inner, row)
            if what == "null":
                return (found is None) != turned
            return None if found is None else (found != found) != turned
    return value(node, row)
