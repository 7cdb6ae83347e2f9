"""Rewards as strategies: what an action is worth, computed from the truth before and after it, for whole batches.

protocol    what a reward and a potential are, and the columns they see
strategies  the end of the game alone; sums with weights; clipping
weighted    what changed on the board of generals, each kind of change with a weight
potential   shaping that leaves the best policy as it is
registry    rewards by name, by `module:callable`, and of installed packages
expression  `sparse + 0.5 * potential(of=land)` as text
columns     several rewards, each stored in a column of its own
"""

from expkit.rewards.columns import RewardColumns
from expkit.rewards.expression import parse_reward
from expkit.rewards.protocol import Batch, Potential, RewardFunction, needs
from expkit.rewards.registry import find_reward, reward_names

__all__ = [
    "Batch", "Potential", "RewardColumns", "RewardFunction", "find_reward", "needs", "parse_reward", "reward_names",
]  # fmt: skip
