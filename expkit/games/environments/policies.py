"""Who plays an environment: random legal actions, or a callable of the user's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from expkit.errors import UsageError
from expkit.games.environments.tables import Turn
from expkit.spaces.environment import EnvLayout
from expkit.spaces.masks import MASK
from expkit.system.plugins import load_callable

Decision = tuple[int, int, Turn]  # episode, step, whose turn it is
Policy = Callable[..., Any] | None  # None is random


def resolve(policies: Sequence[str | Callable[..., Any]], players: int) -> list[Policy]:
    """One policy for each player, of one for all or one for each. Raises UsageError."""
    given = list(policies) * players if len(policies) == 1 else list(policies)
    if len(given) != players:
        raise UsageError(f"{len(given)} policies for {players} players; give one for all or one for each")
    known: dict[str, Policy] = {"random": None}
    out: list[Policy] = []
    for policy in given:
        if isinstance(policy, str):
            if policy not in known:
                if ":" not in policy:
                    raise UsageError(f"policy {policy!r} is for generals; environments take random or module:callable")
                known[policy] = load_callable(policy)
            out.append(known[policy])
        else:
            out.append(policy)
    return out


def random_action(turn: Turn) -> Any:
    """A sample of the space, a legal one where a mask of single actions says which are."""
    mask = turn.seen.get(MASK)
    if mask is not None and hasattr(turn.space, "n") and len(mask) == turn.space.n:
        return turn.space.sample(mask=np.asarray(mask, np.int8))
    return turn.space.sample()


def ask(policy: Callable[..., Any], layout: EnvLayout, decisions: Sequence[Decision]) -> list[Any]:
    """What a user's policy does in each case. Raises UsageError for what are no actions."""
    observation = {
        field.name.removeprefix("observation/"): np.stack([np.asarray(turn.seen[field.name]) for *_, turn in decisions])
        for field in layout.observation.fields
    }
    masks = None
    if decisions[0][2].seen.get(MASK) is not None:
        masks = np.stack([turn.seen[MASK] for *_, turn in decisions])
    elif hasattr(decisions[0][2].space, "n"):
        masks = np.ones((len(decisions), int(decisions[0][2].space.n)), bool)
    returned = policy(
        observation,
        masks,
        np.array([episode for episode, *_ in decisions], np.uint64),
        np.array([step for _, step, _ in decisions], np.uint32),
        np.array([turn.player for *_, turn in decisions], np.uint16),
    )
    name = getattr(policy, "__qualname__", type(policy).__name__)
    try:
        batch = np.asarray(returned) if len(layout.action.fields) == 1 else returned
        if layout.action.count(batch) != len(decisions):
            raise UsageError(
                f"policy {name} returned {layout.action.count(batch)} actions for {len(decisions)} decisions"
            )
        actions = [layout.action.one(batch, i) for i in range(len(decisions))]
    except (TypeError, IndexError, KeyError):
        raise UsageError(f"policy {name} returned a {type(returned).__name__}, which is no batch of actions") from None
    for action, (*_, turn) in zip(actions, decisions, strict=True):
        if not turn.space.contains(action):
            raise UsageError(f"policy {name} returned action {action!r}, which is not in {turn.space}")
    return actions
