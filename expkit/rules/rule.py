"""What a rule is. A rule of your own is a function with a decorator:

    from expkit.rules import Rows, Violation, rule

    @rule("mine/small-reward", over="rows", reads=("reward",), severity="warn", most=10.0)
    def small_reward(rows, most):
        '''No reward is above `most`.

        What this is good for, in as many words as it takes: `expkit validate --explain` prints it.
        '''
        yield Violation(f"a reward is above {most:g}", rows=rows["reward"] > most, column="reward")

Name it by `module:callable` to `expkit validate --rules`, or list it in the entry-point group `expkit.rules`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from expkit.errors import UsageError
from expkit.row.schema import Schema

Severity = Literal["error", "warn", "info"]
Over = Literal["file", "rows", "steps", "episode", "run"]
Reads = tuple[str, ...] | Callable[[Schema], Iterable[str]]

GROUP = "expkit.rules"
# What can be so of a run, found out once before its rows are read.
TRAITS = {
    "generals": "the game is generals",
    "simultaneous": "all players who are in the game move in every step",
    "replayable": "the game can be played again from its seeds and actions",
    "game-rewards": "rewards are those that the game gives",
    "untouched": "its rows went through no pipeline as they were recorded",
    "unmerged": "its episodes were recorded into it, and not merged from other runs",
    "self-play": "the games were recorded live, so that nobody has given up",
}
_ID = re.compile(r"[a-z][a-z0-9-]*/[a-z][a-z0-9-]*")


@dataclass(frozen=True, slots=True)
class Violation:
    """What a rule found wrong.

    message  says what of the first row concerned, in a few words
    rows     of rules over `rows` and `steps`: bool (n,), the rows that are wrong; none of them is no violation
    column   the stored column concerned
    episode, player, step  where, for rules over an `episode` (whose number is known) and the `run`
    """

    message: str
    rows: np.ndarray | None = None
    column: str | None = None
    episode: int | None = None
    player: int | None = None
    step: int | None = None


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule, with everything there is to say of it.

    id        `family/name`
    severity  of its findings, unless settings say otherwise
    over      what `check` is given:
              `rows`     Rows of one player; each row can be judged by itself
              `steps`    Rows of one player; a row and the next one of its episode are judged together
              `episode`  EpisodeRows: all rows of an episode, of all players
              `run`      RunFacts, once, when everything was read
              `file`     nothing: it is part of reading the files, and `check` is None
    text      the first line says what holds in sound data, the rest why, and what to do where it does not
    reads     stored columns that it needs, or a function of the schema that gives them. It is not applied where the
              schema lacks one, the function gives none, or the values of one are lost
    requires  what has to be so of the run, see TRAITS; else it is not applied
    options   its thresholds by name, with their defaults: keyword arguments of `check`
    extremes  whether the smallest and the largest value of a wide column (one with NaN behind them where there are
              some) leave open that it breaks the rule: only then its rows are decoded. None: they always are
    source    the package that it comes from
    """

    id: str
    severity: Severity
    over: Over
    text: str
    check: Callable[..., Iterable[Violation]] | None = None
    reads: Reads = ()
    requires: frozenset[str] = frozenset()
    options: Mapping[str, float] = field(default_factory=dict)
    extremes: Callable[[Schema, str, np.ndarray], bool] | None = None
    source: str = "expkit"

    def __post_init__(self) -> None:
        if not _ID.fullmatch(self.id):
            raise UsageError(f"a rule's id {self.id!r} is not usable; write it as family/name in small letters")
        if not self.text.strip():
            raise UsageError(f"rule {self.id} explains nothing; give its function a docstring")
        if not self.requires.issubset(TRAITS):
            unknown = ", ".join(sorted(self.requires.difference(TRAITS)))
            raise UsageError(f"rule {self.id} requires {unknown}, which no run can have; there is {', '.join(TRAITS)}")

    def __call__(self, *arguments: Any, **options: float) -> Iterator[Violation]:
        """What `check` finds, with the options that are not given at their defaults. Raises UsageError when one that
        others have added fails."""
        assert self.check is not None
        try:
            yield from self.check(*arguments, **{**self.options, **options})
        except Exception as error:
            if self.source == "expkit":
                raise
            raise UsageError(
                f"rule {self.id} of {self.source} failed: {type(error).__name__}: {error}; mend it, or leave it out "
                f"by --rule-settings {self.id}=off"
            ) from error

    @property
    def family(self) -> str:
        """`value` of `value/legal`."""
        return self.id.partition("/")[0]

    @property
    def summary(self) -> str:
        """The first line of the text."""
        return self.text.strip().splitlines()[0]

    def columns(self, schema: Schema) -> list[str] | None:
        """What it reads of rows of that schema, each with the column that tells where a value was given; None where it
        cannot be applied."""
        known = {column.name for column in schema.columns}
        names = list(self.reads(schema) if callable(self.reads) else self.reads)
        if not known.issuperset(names) or (callable(self.reads) and not names):
            return None
        return [*names, *(f"valid:{name}" for name in names if f"valid:{name}" in known)]


def rule(
    id: str,
    *,
    over: Over,
    reads: Reads = (),
    severity: Severity = "error",
    requires: Iterable[str] = (),
    extremes: Callable[[Schema, str, np.ndarray], bool] | None = None,
    **options: float,
) -> Callable[[Callable[..., Iterable[Violation]]], Rule]:
    """Make a function a Rule, explained by its docstring. `options` are its thresholds with their defaults."""

    def decorate(function: Callable[..., Iterable[Violation]]) -> Rule:
        text = "\n".join(line.strip() for line in (function.__doc__ or "").strip().splitlines())
        source = function.__module__.partition(".")[0]
        return Rule(id, severity, over, text, function, reads, frozenset(requires), options, extremes, source)

    return decorate
