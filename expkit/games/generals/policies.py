"""Players of generals by name, and Python callables in their place."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from expkit.errors import UsageError, did_you_mean
from expkit.kernels import generals_policy as kinds
from expkit.system.plugins import load_callable

BUILT_IN = {"hunter": kinds.HUNTER, "expander": kinds.EXPANDER, "random": kinds.RANDOM}


def resolve(
    policies: Sequence[str | Callable[..., Any]], players: int
) -> tuple[np.ndarray, list[Callable[..., Any] | None], list[str]]:
    """One policy for each player, or one for all: kinds int64 (P,), callables (None where built in), names.

    Raises UsageError for a wrong number of policies, an unknown name, a callable that cannot be loaded.
    """
    given = list(policies) * players if len(policies) == 1 else list(policies)
    if len(given) != players:
        raise UsageError(f"{len(given)} policies for {players} players; give one for all or one for each")
    numbers = np.full(players, kinds.USER, np.int64)
    callables: list[Callable[..., Any] | None] = [None] * players
    names: list[str] = []
    for player, policy in enumerate(given):
        if callable(policy):
            callables[player] = policy
            names.append(getattr(policy, "__qualname__", type(policy).__name__))
            continue
        names.append(policy)
        if policy in BUILT_IN:
            numbers[player] = BUILT_IN[policy]
        elif ":" in policy:
            first = given.index(policy)
            callables[player] = callables[first] if first < player else load_callable(policy)
        else:
            hint = did_you_mean(policy, BUILT_IN, cutoff=0.5)
            near, known = f"; {hint}" if hint else "", ", ".join(BUILT_IN)
            raise UsageError(f"policy {policy!r} is unknown{near}; use {known} or module:callable")
    return numbers, callables, names


def checked_actions(returned: Any, count: int, actions: int, name: str) -> np.ndarray:
    """What a policy returned as int64 (count,). Raises UsageError naming the policy."""
    chosen = np.asarray(returned)
    if chosen.shape != (count,):
        raise UsageError(f"policy {name} returned shape {chosen.shape} for {count} decisions; return ({count},)")
    if chosen.dtype.kind not in "iu":
        raise UsageError(f"policy {name} returned {chosen.dtype}; return integers")
    if count and (int(chosen.min()) < 0 or int(chosen.max()) >= actions):
        worst = int(chosen.min()) if int(chosen.min()) < 0 else int(chosen.max())
        raise UsageError(f"policy {name} returned action {worst}; actions are 0 to {actions - 1}")
    return chosen.astype(np.int64)
