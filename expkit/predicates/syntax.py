"""From text to a tree: a tokenizer, and a parser in the manner of Pratt. Nothing here knows of schemas."""

from __future__ import annotations

import re
from typing import NamedTuple, NoReturn

from expkit.errors import UsageError
from expkit.predicates.tree import (
    AND,
    BARE_NAME,
    COMPARE,
    KEYWORDS,
    NEGATE,
    NOT,
    OPERATORS,
    OR,
    SUM,
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

MAX_LENGTH = 1 << 16
# The tree is walked recursively, some 3 frames a level, and Python allows 1,000 frames.
MAX_DEPTH = 100
_MAX_DIGITS = 40
_SHOWN = 80

_TOKEN = re.compile(
    rf"""\s*(?:
    (?P<number>0x[0-9a-fA-F]+|0o[0-7]+|(?:[0-9]+\.[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?|[0-9]+(?:[eE][-+]?[0-9]+)?
        |\.(?:inf|Inf|INF|nan|NaN|NAN))
    |(?P<name>{BARE_NAME})
    |(?P<quoted>`(?:[^`]|``)++`)
    |(?P<text>'(?:[^']|'')*+'|"(?:[^"]|"")*+")
    |(?P<sign><=|>=|<>|!=|==|[-=<>+*/%()\[\],])
    |(?P<end>\Z)
    |(?P<bad>.)
    )""",
    re.VERBOSE | re.DOTALL,
)
_COMPARE = {"=": "==", "==": "==", "!=": "!=", "<>": "!=", "<": "<", "<=": "<=", ">": ">", ">=": ">="}
_INSTEAD = {"&": "and", "|": "or", "!": "not"}


class _Token(NamedTuple):
    """`kind`: number, name, quoted, text, sign, word (a keyword, in lower case) or end; `at` counts from 0."""

    kind: str
    text: str
    at: int


def parse_tree(text: str, option: str) -> Node:
    """The tree of `text`. Raises UsageError, one line that begins with `option` and shows where."""
    if len(text) > MAX_LENGTH:
        raise UsageError(f"{option}: {len(text):,} characters; at most {MAX_LENGTH:,} are read")
    return _Parser(text, option).whole()


class _Parser:
    def __init__(self, text: str, option: str):
        self._text = text
        self._option = option
        self._tokens = self._split()
        self._at = 0
        self._nesting = 0

    def _fail(self, what: str, at: int) -> NoReturn:
        begin = max(0, min(at - _SHOWN // 2, len(self._text) - _SHOWN))
        end = begin + _SHOWN
        shown = ("…" if begin else "") + brief(self._text[begin:end], _SHOWN) + ("…" if end < len(self._text) else "")
        raise UsageError(f"{self._option}: {what} at character {at + 1}: {shown}")

    def _split(self) -> list[_Token]:
        out, place = [], 0
        while True:
            match = _TOKEN.match(self._text, place)
            assert match is not None  # the end, or any one character, always matches
            kind = str(match.lastgroup)
            text, at, place = match[kind], match.start(kind), match.end()
            if kind == "bad":
                self._refuse(text, at)
            if kind == "number" and re.compile(r"[A-Za-z0-9_.]").match(self._text, place):
                self._fail(f"'{brief(text + self._text[place])}' is no number", at)
            if kind == "name" and text.lower() in KEYWORDS:
                kind, text = "word", text.lower()
            out.append(_Token(kind, text, at))
            if kind == "end":
                return out

    def _refuse(self, text: str, at: int) -> NoReturn:
        if text in "'\"`":
            self._fail(f"the {text} is never closed", at)
        if text in _INSTEAD:
            self._fail(f"'{text}' has no meaning here, write '{_INSTEAD[text]}'", at)
        self._fail(f"{text!r} has no meaning here", at)

    @property
    def _next(self) -> _Token:
        return self._tokens[self._at]

    def _take(self) -> _Token:
        token = self._tokens[self._at]
        self._at = min(self._at + 1, len(self._tokens) - 1)
        return token

    def _is(self, *texts: str) -> bool:
        return self._next.kind in ("sign", "word") and self._next.text in texts

    def _expect(self, *texts: str) -> str:
        if not self._is(*texts):
            self._missing(" or ".join(f"'{text}'" for text in texts))
        return self._take().text

    def _missing(self, what: str) -> NoReturn:
        """Fail where something else stands than `what`."""
        token = self._next
        if self._at == 0:
            after = "" if token.kind == "end" else f", not '{brief(token.text)}',"
        else:
            after = f" after '{brief(self._tokens[self._at - 1].text)}'"
        self._fail(f"expected {what}{after}", token.at)

    def whole(self) -> Node:
        if self._next.kind == "end":
            raise UsageError(f"{self._option}: nothing to select by; write a condition such as reward > 0")
        node = self._expression(OR)
        if self._next.kind != "end":
            self._missing("'and', 'or', an operator or the end")
        level: list[Node] = [node]
        for _ in range(MAX_DEPTH):
            level = [child for parent in level for child in parent.children()]
        if level:
            raise UsageError(f"{self._option}: more than {MAX_DEPTH} levels deep; use fewer brackets, or shorter sums")
        return node

    def _expression(self, power: int) -> Node:
        """What binds at least as tightly as `power`."""
        self._nesting += 1
        if self._nesting > MAX_DEPTH:
            self._fail(f"more than {MAX_DEPTH} levels deep; use fewer brackets", self._next.at)
        node = self._prefix(power)
        while self._next.kind == "sign" and OPERATORS.get(self._next.text, 0) >= max(power, SUM):
            sign = self._take().text
            # from the left: what stands right of an operator binds more tightly than it
            node = Arithmetic(sign, node, self._expression(OPERATORS[sign] + 1))
        if power <= COMPARE:
            node = self._comparison(node)
        for word, level, form in (("and", AND, All), ("or", OR, Any)):
            if power <= level and self._is(word):
                parts = [node]
                while self._is(word):
                    self._take()
                    parts.append(self._expression(level + 1))
                node = form(tuple(parts))
        self._nesting -= 1
        return node

    def _prefix(self, power: int) -> Node:
        token = self._next
        if token.kind == "number":
            return Number(self._number())
        if token.kind == "text":
            return self._constant()
        if token.kind in ("name", "quoted"):
            return self._name()
        if self._is("true", "false", "inf"):
            return self._constant()
        if self._is("nan"):
            self._fail("nothing equals nan, write 'is nan' or 'is not nan',", token.at)
        if self._is("null"):
            self._fail("nothing equals null, write 'is null' or 'is not null',", token.at)
        if self._is("not") and power <= NOT:
            self._take()
            return Not(self._expression(NOT))
        if self._is("-"):
            self._take()
            if self._next.kind == "number" or self._is("inf"):
                return Number(-self._number())
            return Negate(self._expression(NEGATE))
        if self._is("("):
            self._take()
            node = self._expression(OR)
            self._expect(")")
            return node
        self._missing("a value")

    def _number(self) -> int | float:
        token = self._take()
        text = token.text.lower().removeprefix(".") if token.text[1:2].isalpha() else token.text
        if text == "nan":
            self._fail("nothing equals nan, write 'is nan' or 'is not nan',", token.at)
        if len(text) > _MAX_DIGITS:
            self._fail(f"a number of {len(text):,} characters; at most {_MAX_DIGITS} are read,", token.at)
        if text[:2] in ("0x", "0o"):
            return int(text, 0)
        return int(text, 10) if text.isdecimal() else float(text)

    def _name(self) -> Node:
        token = self._take()
        if token.kind == "name" and token.text.lower() == "abs" and self._is("("):
            self._take()
            inner = self._expression(OR)
            self._expect(")")
            return Absolute(inner)
        name = token.text[1:-1].replace("``", "`") if token.kind == "quoted" else token.text
        if token.kind == "name" and self._is("("):
            self._fail(f"there is no function '{brief(name)}', only abs(),", token.at)
        index: list[int] = []
        if self._is("["):
            self._take()
            index.append(self._position())
            while self._expect(",", "]") == ",":
                index.append(self._position())
        return Name(name, tuple(index))

    def _position(self) -> int:
        sign = 1
        if self._is("-"):
            self._take()
            sign = -1
        if self._next.kind != "number" or not self._next.text.isdecimal():
            self._missing("a whole number")
        return sign * int(self._number())

    def _constant(self) -> Number | Text | Truth:
        """A number with or without sign, a text, true or false."""
        token = self._next
        if token.kind == "text":
            quote = self._take().text[0]
            return Text(token.text[1:-1].replace(quote * 2, quote))
        if self._is("true", "false"):
            return Truth(self._take().text == "true")
        sign = 1
        if self._is("-"):
            self._take()
            sign = -1
        if self._next.kind != "number" and not self._is("inf"):
            self._missing("a number, a text in quotes, true or false")
        return Number(sign * self._number())

    def _comparison(self, node: Node) -> Node:
        """`node` with what it is compared to, if anything."""
        found: Node = node
        if self._next.text in _COMPARE:
            rest = []
            while self._next.text in _COMPARE:
                op = _COMPARE[self._take().text]
                rest.append((op, self._expression(SUM)))
            found = Compare(node, tuple(rest))
        elif self._is("is"):
            self._take()
            negated = self._is("not") and bool(self._take())
            found = Is(node, self._expect("null", "nan"), negated)
        elif self._is("in", "between", "not"):
            negated = self._is("not") and bool(self._take())
            found = self._list(node, negated) if self._expect("in", "between") == "in" else self._span(node, negated)
        if found is not node and (self._is("is", "in", "between", "not") or self._next.text in _COMPARE):
            self._fail("put brackets around one of two comparisons in a row", self._next.at)
        return found

    def _list(self, node: Node, negated: bool) -> Node:
        close = ")" if self._expect("(", "[") == "(" else "]"
        items = [self._constant()]
        while self._expect(",", close) == ",":
            items.append(self._constant())
        return Within(node, tuple(items), negated)

    def _span(self, node: Node, negated: bool) -> Node:
        low = self._expression(SUM)
        self._expect("and")
        return Between(node, low, self._expression(SUM), negated)
