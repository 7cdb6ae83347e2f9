"""Rewards as strategies: what an action is worth, computed from the truth before and after it, for whole batches.
Imports formats and all that stands below; none of the packages beside it.

protocol    what a reward and a potential are, and the columns they see
strategies  the end of the game alone; sums with weights; clipping
weighted    what changed on the board of generals, each kind of change with a weight
potential   shaping that leaves the best policy as it is
registry    rewards by name, by `module:callable`, and of installed packages
expression  `sparse + 0.5 * potential(of=land)` as text
columns     several rewards, each stored in a column of its own

The names below are imported when first used: a recording without rewards of its own does not wait for them.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from expkit.rewards.columns import RewardColumns
    from expkit.rewards.expression import parse_reward
    from expkit.rewards.protocol import Batch, Potential, RewardFunction, needs
    from expkit.rewards.registry import find_reward, reward_names

__all__ = [
    "Batch", "Potential", "RewardColumns", "RewardFunction", "find_reward", "needs", "parse_reward", "reward_names",
]  # fmt: skip

_HOME = {
    "Batch": "protocol",
    "Potential": "protocol",
    "RewardColumns": "columns",
    "RewardFunction": "protocol",
    "find_reward": "registry",
    "needs": "protocol",
    "parse_reward": "expression",
    "reward_names": "registry",
}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f"expkit.rewards.{_HOME[name]}"), name)
    raise AttributeError(f"module 'expkit.rewards' has no attribute {name!r}")
