"""All rules there are: expkit's own, those of installed packages, and those that are named by `module:callable`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points
from types import MappingProxyType
from typing import Any

from expkit.errors import ConfigError, UsageError, did_you_mean
from expkit.rules import generals, rewards, steps, values, whole_run
from expkit.rules.rule import GROUP, Rule, Severity
from expkit.rules.structure import STRUCTURE
from expkit.system.plugins import load_callable

_OWN = (
    *STRUCTURE,
    steps.contiguous_steps,
    steps.next_observation,
    steps.silent_after_the_end,
    whole_run.one_outcome,
    whole_run.lengths_in_line,
    whole_run.no_duplicates,
    steps.rising_version,
    whole_run.newer_policies,
    values.finite_reward,
    values.no_nan,
    values.within_bounds,
    values.legal_action,
    steps.frozen_observation,
    whole_run.no_constant_column,
    whole_run.balanced_actions,
    generals.honoured_fog,
    generals.mask_of_the_board,
    generals.silent_dead,
    rewards.reward_of_the_state,
    rewards.reward_of_the_replay,
    rewards.reward_as_paid,
)
_WORDS = ("off", "error", "warn", "info")
_NOTHING: Mapping[str, Any] = MappingProxyType({})


def load_rules(named: Iterable[str] = ()) -> Mapping[str, Rule]:
    """Rules by id: expkit's own, then those in the entry-point group `expkit.rules`, then those `named` as
    `module:callable`. Raises UsageError for one that cannot be loaded, is no rule, or has an id that is taken."""
    rules = dict(_installed())
    for spec in named:
        _add(rules, load_callable(spec, "rule"), spec)
    return rules


@cache
def _installed() -> Mapping[str, Rule]:
    """Looked up once: to search all packages for entry points takes some milliseconds."""
    rules = {rule.id: rule for rule in _OWN}
    for point in sorted(entry_points(group=GROUP), key=lambda point: point.name):
        try:
            found = point.load()
        except Exception as error:
            raise UsageError(
                f"rule {point.name} of the entry points {GROUP} cannot be loaded: {error}; mend or uninstall the "
                f"package that has {point.value}"
            ) from None
        _add(rules, found, point.value)
    return MappingProxyType(rules)


def _add(rules: dict[str, Rule], found: object, where: str) -> None:
    if not isinstance(found, Rule):
        raise UsageError(f"rule {where!r} is a {type(found).__name__}; decorate it with expkit.rules.rule")
    if rules.setdefault(found.id, found) is not found:
        raise UsageError(f"rule {where!r} has the id {found.id}, which is another's; choose another id")


def match_rules(rules: Mapping[str, Rule], wanted: str) -> list[str]:
    """The ids that a list with commas names: ids, families (`value`), beginnings of ids, `all`. Raises UsageError for
    one that names none."""
    matched: list[str] = []
    for part in filter(None, (part.strip() for part in wanted.split(","))):
        ids = [id for id in rules if part == "all" or id == part or id.startswith(f"{part.rstrip('/')}/")]
        ids = ids or [id for id in rules if id.startswith(part)]
        if not ids:
            known = [*rules, *(rule.family for rule in rules.values())]
            hint = did_you_mean(part, known, "see expkit validate --explain all", 0.5)
            raise UsageError(f"no rule is called {part!r}; {hint}")
        matched += ids
    if not matched:
        raise UsageError("no rule is named; use ids, their beginnings or all, with commas")
    return [id for id in rules if id in matched]


@dataclass(frozen=True, slots=True)
class ActiveRule:
    """A rule that is applied, with the severity and the thresholds that hold for it. `severity` is None where each
    finding has its own."""

    rule: Rule
    severity: Severity | None
    options: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class RuleChoice:
    """Which rules are applied, by id, and all that are known."""

    known: Mapping[str, Rule]
    active: Mapping[str, ActiveRule]
    off: frozenset[str] = frozenset()

    def severity_of(self, id: str, severity: Severity) -> Severity | None:
        """What a finding of that rule has, when the rule itself gives it `severity`; None where it is not wanted.

        What is wrong with bytes is told whatever is chosen, unless it is off: rows that cannot be read are not judged.
        """
        mine = self.active.get(id)
        if mine is not None:
            return mine.severity or severity
        of_bytes = severity == "error" and id.startswith(("file/", "run/"))
        return severity if id not in self.known or (of_bytes and id not in self.off) else None


def choose_rules(wanted: str = "all", settings: Mapping[str, Any] = _NOTHING) -> RuleChoice:
    """The rules that a list with commas names: `module:callable`, or as `match_rules`.

    settings  by id: `off`, a severity, or a mapping with `severity` and thresholds

    Raises UsageError as `load_rules` and `match_rules`, ConfigError for settings that do not fit.
    """
    parts = [part.strip() for part in wanted.split(",") if part.strip()]
    specs = [part for part in parts if ":" in part]
    rules = load_rules(specs)
    own = rules.keys() - _installed().keys()
    others = ",".join(part for part in parts if ":" not in part)
    ids = match_rules(rules, others) if others or not specs else []
    check_settings(rules, settings)
    told = {id: dict(given) if isinstance(given, Mapping) else {"severity": given} for id, given in settings.items()}
    off = frozenset(id for id, given in told.items() if given.get("severity") == "off")
    active = {}
    for id in [id for id in rules if (id in ids or id in own) and id not in off]:
        rule, given = rules[id], told.get(id, {})
        options = {**rule.options, **{name: float(value) for name, value in given.items() if name != "severity"}}
        # Structure is found in many places, some findings of a rule graver than others.
        active[id] = ActiveRule(
            rule, given.get("severity") or (None if rule.over == "file" else rule.severity), options
        )
    return RuleChoice(rules, active, off)


def check_settings(rules: Mapping[str, Rule], settings: Mapping[str, Any]) -> None:
    """Raises ConfigError, naming the nearest right word, for settings of an unknown rule, for a severity that is none,
    and for thresholds that the rule does not have."""
    for id, given in settings.items():
        if id not in rules:
            hint = did_you_mean(id, rules, cutoff=0.5)
            raise ConfigError(f"settings of rule {id!r}, which does not exist{hint and '; '}{hint}")
        for name, value in given.items() if isinstance(given, Mapping) else [("severity", given)]:
            if name == "severity":
                if value not in _WORDS:
                    raise ConfigError(f"rule {id}: severity {value!r} is not one of {', '.join(_WORDS)}")
            elif name not in rules[id].options:
                names = ", ".join(["severity", *rules[id].options])
                raise ConfigError(f"rule {id} has no setting {name!r}; it has {names}")
            elif isinstance(value, bool) or not isinstance(value, int | float):
                raise ConfigError(f"rule {id}: {name} is {value!r}, but has to be a number")
