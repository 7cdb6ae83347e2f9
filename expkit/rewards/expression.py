"""A reward as text: names with settings, added up with weights, kept within limits.

    sparse
    weighted(army_gained=0.002, end_alone=False)
    sparse + 0.5 * potential(of=land, gamma=0.997) - 0.001
    clip(weighted + my_module:bonus(scale=3), -1, 1)

A name is a built-in reward, `module:callable`, or that of an installed package; `clip(reward, low, high)` keeps to
limits, -1 and 1 when left out; a number by itself is paid for every action. Nothing is ever evaluated as Python.
"""

from __future__ import annotations

import ast
import re
from typing import Any

from expkit.errors import UsageError
from expkit.rewards.protocol import RewardFunction
from expkit.rewards.registry import find_reward
from expkit.rewards.strategies import ClippedReward, ConstantReward, SumReward
from expkit.system.plugins import number_of, setting_of

LONGEST = 1000
_PLACE = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")
_CLIP = ("low", "high")


def parse_reward(text: str) -> RewardFunction:
    """The reward that the text describes. Raises UsageError for text that is none, ConfigError for settings that a
    reward does not take."""
    return _Parser(text).reward()


class _Parser:
    def __init__(self, text: str):
        self._text = text
        self._places: dict[str, str] = {}

    def reward(self) -> RewardFunction:
        if not self._text.strip():
            raise UsageError("a reward is empty; name one, like sparse or weighted")
        if len(self._text) > LONGEST:
            raise UsageError(f"a reward of {len(self._text):,} characters is too long; write it as a module:callable")
        # `module:callable` is no Python: a name stands for it while Python's own parser reads the rest.
        plain = _PLACE.sub(self._name_for, self._text.strip())
        try:
            tree = ast.parse(plain, mode="eval")
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            raise self._not_understood() from None
        try:
            return self._read(tree.body)
        except RecursionError:
            raise self._not_understood("it is nested too deeply") from None

    def _name_for(self, match: re.Match[str]) -> str:
        name = f"_place{len(self._places)}"
        self._places[name] = match[0]
        return name

    def _not_understood(self, what: str = "") -> UsageError:
        about = f": {what}" if what else ""
        shown = self._text if len(self._text) <= 80 else f"{self._text[:77]}..."
        return UsageError(f"reward {shown!r} is not understood{about}; write it like sparse + 0.5 * potential(of=land)")

    def _read(self, node: ast.expr) -> RewardFunction:
        number = number_of(node)
        if number is not None:
            return ConstantReward(number)
        if isinstance(node, ast.Name):
            return find_reward(self._name(node))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            return self._called(node, node.func)
        terms = self._terms(node, 1.0)
        if len(terms) == 1 and terms[0][1] is node:
            raise self._not_understood()
        return SumReward(tuple((weight, self._read(term)) for weight, term in terms))

    def _terms(self, node: ast.expr, weight: float) -> list[tuple[float, ast.expr]]:
        """What is added up, each with its weight; a node that is no sum is its own only term."""
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.UAdd):
            return self._terms(node.operand, -weight if isinstance(node.op, ast.USub) else weight)
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add | ast.Sub):
            sign = 1.0 if isinstance(node.op, ast.Add) else -1.0
            return [*self._terms(node.left, weight), *self._terms(node.right, sign * weight)]
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult):
            for factor, rest in ((node.left, node.right), (node.right, node.left)):
                number = number_of(factor)
                if number is not None:
                    return self._terms(rest, weight * number)
            raise self._not_understood("a product needs a number")
        return [(weight, node)]

    def _called(self, node: ast.Call, function: ast.Name) -> RewardFunction:
        name = self._name(function)
        settings = {}
        for keyword in node.keywords:
            if keyword.arg is None:
                raise self._not_understood()
            settings[keyword.arg] = self._setting(keyword.value)
        if name == "clip":
            return self._clipped(node.args, settings)
        if node.args:
            raise self._not_understood(f"settings of {name} need their names")
        return find_reward(name, **settings)

    def _clipped(self, given: list[ast.expr], settings: dict[str, Any]) -> RewardFunction:
        if not 1 <= len(given) <= 3 or not set(settings) <= set(_CLIP[len(given) - 1 :]):
            raise self._not_understood("clip takes a reward, then low and high")
        limits = {name: number_of(node) for name, node in zip(_CLIP, given[1:], strict=False)} | settings
        if any(isinstance(value, bool) or not isinstance(value, int | float) for value in limits.values()):
            raise self._not_understood("the limits of clip are numbers")
        return ClippedReward(self._read(given[0]), **limits)

    def _setting(self, node: ast.expr) -> Any:
        try:
            return setting_of(node, lambda word: self._places.get(word, word))
        except ValueError as error:
            raise self._not_understood(str(error)) from None

    def _name(self, node: ast.Name) -> str:
        return self._places.get(node.id, node.id)
