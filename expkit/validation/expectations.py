"""What somebody expects of a run, as `episodes >= 200` or `bytes <= 10GiB`: parsed, measured, and told when not met."""

from __future__ import annotations

import difflib
import operator
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from expkit.errors import UsageError
from expkit.reading.run import Run
from expkit.reading.summary import Balance, balance, has_winner
from expkit.system.units import format_size, parse_size
from expkit.validation.finding import Finding

_COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
    "==": operator.eq,
    "=": operator.eq,
    "!=": operator.ne,
}
_SHAPE = re.compile(r"\s*([A-Za-z_][\w-]*)\s*(>=|<=|==|!=|=|>|<)\s*(\S.*?)\s*")


@dataclass(frozen=True, slots=True)
class Expectation:
    """One comparison, as `text` says it."""

    name: str
    compare: str
    value: float
    text: str

    def finding(self, actual: float | None) -> Finding | None:
        """None when it is met; else an error that tells the actual value. What cannot be told is never met."""
        if actual is not None and _COMPARE[self.compare](actual, self.value):
            return None
        if actual is None:
            message = f"expected {self.text}, but {self.name} cannot be told: {_UNKNOWN[self.name]}"
        else:
            message = f"expected {self.text}, but {self.name} is {_shown(self.name, actual)}"
        return Finding(severity="error", rule=f"expect/{self.name}", message=message)


def parse_expectation(text: str) -> Expectation:
    """Of `NAME OPERATOR NUMBER`; a number may have a unit of size, `10GiB`. Raises UsageError."""
    match = _SHAPE.fullmatch(text)
    if match is None:
        raise UsageError(f"expectation '{text}' is not understood; write it like 'episodes >= 200' or 'bytes <= 10GiB'")
    name, compare, number = match[1], match[2], match[3]
    if name not in NAMES:
        near = difflib.get_close_matches(name, NAMES, n=1, cutoff=0.0)
        raise UsageError(
            f"expectation '{text}': nothing is called '{name}'; did you mean {near[0]}? (of {', '.join(NAMES)})"
        )
    return Expectation(name, compare, _number(number, text), f"{name} {compare} {number}")


def _number(number: str, text: str) -> float:
    """Sizes are whole bytes; a plain number may have a fraction and a sign."""
    if re.fullmatch(r"[-+]?(\d[\d_]*)?\.?\d[\d_]*(e[-+]?\d+)?", number, re.IGNORECASE):
        return float(number.replace("_", "")) if re.search(r"[.e]", number, re.IGNORECASE) else int(number)
    try:
        return parse_size(number)
    except UsageError as error:
        raise UsageError(f"expectation '{text}': {error}") from None


def check_expectations(run: Run, expectations: Iterable[Expectation]) -> Iterator[Finding]:
    """An error for each that the run does not meet, in their order. Raises as `measure`."""
    expectations = list(expectations)
    actual = measure(run, {expected.name for expected in expectations})
    for expected in expectations:
        finding = expected.finding(actual[expected.name])
        if finding is not None:
            yield finding


def measure(run: Run, names: Iterable[str]) -> dict[str, float | None]:
    """The values of `names` (of NAMES), each part of the run read once and only if one of them needs it. None for what
    the run cannot tell. Raises ShardError, NotThere, CheckFailed where the run cannot be read."""
    wanted, out = set(names), dict[str, float | None]()
    for group, fill in ((_FILES, _of_files), (_LEDGER, _of_ledger), (_EPISODES, _of_episodes)):
        if wanted & group.keys():
            out |= fill(run, wanted)
    return {name: out[name] for name in wanted}


def _of_files(run: Run, wanted: set[str]) -> dict[str, float | None]:
    rows, size = len(run), run.bytes
    return {
        "rows": rows,
        "steps": run.steps if "steps" in wanted else None,
        "players": len(run.players) if "players" in wanted else None,
        "shards": len(run.shard_paths),
        "bytes": size,
        "bytes_per_row": size / rows if rows else None,
    }


def _of_ledger(run: Run, wanted: set[str]) -> dict[str, float | None]:
    players = balance(run)
    if players is None:
        return dict.fromkeys(_LEDGER)

    def total(of: Callable[[Balance], int]) -> int:
        return sum(map(of, players))

    return {
        "produced": total(lambda player: player.produced),
        "written": total(lambda player: player.present + player.pruned + player.quarantined),
        "dropped": total(lambda player: player.dropped_rows),
        "rejected": total(lambda player: player.rejected),
        "lost": total(lambda player: player.lost),
        "pruned": total(lambda player: player.pruned),
        "quarantined": total(lambda player: player.quarantined),
    }


def _of_episodes(run: Run, wanted: set[str]) -> dict[str, float | None]:
    episodes = run.episodes()
    ended = Counter(episode.ended for episode in episodes)
    return {
        "episodes": len(episodes),
        "won": sum(map(has_winner, episodes)),
        "terminated": ended["terminated"],
        "truncated": ended["truncated"],
        "interrupted": ended["interrupted"],
        "mean_length": sum(episode.length for episode in episodes) / len(episodes) if episodes else None,
    }


def _shown(name: str, value: float) -> str:
    if name == "bytes":
        return f"{value:,.0f} ({format_size(value)})"
    return f"{value:,}" if isinstance(value, int) else f"{value:,.2f}"


# By name, why a run may not be able to tell it.
_FILES = dict.fromkeys(("rows", "steps", "players", "shards", "bytes", "bytes_per_row"), "it has no rows")
_LEDGER = dict.fromkeys(
    ("produced", "written", "dropped", "rejected", "lost", "pruned", "quarantined"), "its ledger is gone or damaged"
)
_EPISODES = dict.fromkeys(
    ("episodes", "won", "terminated", "truncated", "interrupted", "mean_length"), "it has no episodes"
)
_UNKNOWN = _FILES | _LEDGER | _EPISODES
NAMES = tuple(_UNKNOWN)
