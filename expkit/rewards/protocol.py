"""What a reward is to the rest of expkit: a function of a batch of transitions, and a list of what it looks at."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Protocol, TypeVar, runtime_checkable

import numpy as np

from expkit.errors import UsageError

Batch = Mapping[str, np.ndarray]
_Function = TypeVar("_Function", bound=Callable[..., object])

NEXT = "next_"
# In every batch, asked for or not.
ALWAYS = (
    "episode", "step", "player", "action", "terminated", "truncated", "outcome", "has_next",
)  # fmt: skip


@runtime_checkable
class RewardFunction(Protocol):
    """Rewards of n transitions, of any players and episodes in any order.

    `needs` names the columns it looks at besides those that are always there: fields of the run, as they are when the
    player chooses (`observation/army`), and `next_` before such a name for what is there after the step
    (`next_state/owner`). `state/…` is the truth: as stored, else of the game itself or of the game played again; so is
    `reward`, f4, which is the game's own, whatever is stored under that name.

    Always there, each (n,):

    episode u64, step u32, player u16, action    as in the row
    terminated, truncated  bool, of the player
    outcome     f4, where the player's game ends with this action: above 0 won, below 0 lost, 0 drawn; else, and where
                nobody knows, NaN
    has_next    bool: the row that follows is known. Elsewhere all `next_` values are those before the step, so that
                nothing seems to have changed

    Returns numbers (n,), all finite. May be called by several threads at once.
    """

    @property
    def needs(self) -> tuple[str, ...]: ...

    def __call__(self, batch: Batch, /) -> np.ndarray: ...


@runtime_checkable
class Potential(Protocol):
    """How good n states are for a player: a function of the state alone, as shaping needs it.

    `needs` names fields that belong to the observation, the truth (`state/…`) among them; the states have these, and
    `player` u16 (n,), the one whose chances are asked for. Returns finite numbers (n,).
    """

    @property
    def needs(self) -> tuple[str, ...]: ...

    def __call__(self, states: Batch, /) -> np.ndarray: ...


def needs(*names: str) -> Callable[[_Function], _Function]:
    """Declares what a function that is to be a reward or a potential looks at:

    @needs("state/owner", "next_state/owner")
    def expansion(batch): ...
    """

    def declare(function: _Function) -> _Function:
        function.needs = names  # type: ignore[attr-defined]
        return function

    return declare


def needs_of(function: object) -> tuple[str, ...]:
    """What a reward or a potential declares that it needs, each name once; nothing when it declares nothing.
    Raises UsageError for a declaration that is not a sequence of names."""
    declared = getattr(function, "needs", ())
    if isinstance(declared, str) or not isinstance(declared, Iterable):
        raise UsageError(
            f"the needs of {called(function)} are {declared!r}; declare them as names, like ('state/army',)"
        )
    names = tuple(dict.fromkeys(declared))
    odd = [name for name in names if not isinstance(name, str)]
    if odd:
        raise UsageError(f"the needs of {called(function)} hold {odd[0]!r}, which is no name of a field")
    return tuple(name for name in names if name not in ALWAYS)


def checked_values(returned: object, count: int, name: str) -> np.ndarray:
    """What a reward or a potential returned, as f8 (count,). Raises UsageError naming it for anything else than that
    many finite numbers."""
    try:
        values = np.asarray(returned)
    except ValueError:
        raise UsageError(f"{name} returned rows of unequal length; return {count} numbers") from None
    if values.shape != (count,):
        raise UsageError(f"{name} returned shape {values.shape} for {count} transitions; return ({count},)")
    if values.dtype.kind not in "biuf":
        raise UsageError(f"{name} returned {values.dtype}; return numbers")
    values = values.astype(np.float64)
    if not np.isfinite(values).all():
        at = int(np.flatnonzero(~np.isfinite(values))[0])
        raise UsageError(f"{name} returned {values[at]} for transition {at} of {count}; return finite numbers")
    return values


def called(function: object) -> str:
    """What messages call a reward or a potential: the name it was asked for by, else that of its function or class."""
    name = getattr(function, "name", None)
    return name if isinstance(name, str) else getattr(function, "__qualname__", type(function).__name__)
