"""Samples that are not uniform: by priority, and by the age of the policy that acted."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from expkit.batches.decode import Batch
from expkit.errors import NotThere, UsageError

if TYPE_CHECKING:
    from expkit.reading.readable import Readable

WEIGHT, HANDLE = "sample_weight", "handle"
_AT_ONCE = 1 << 20


class SumTree:
    """Weights of `size` things, to be drawn in proportion: 16 to 32 bytes for each. All calls take arrays; setting and
    finding k of n takes O(k log n)."""

    def __init__(self, size: int):
        self._leaves = 1 << max(size - 1, 0).bit_length()
        self._sums = np.zeros(2 * self._leaves)

    @property
    def total(self) -> float:
        return float(self._sums[1])

    def __getitem__(self, things: np.ndarray) -> np.ndarray:
        """f8: the weights of those things (int64)."""
        return self._sums[self._leaves + things]

    def set(self, things: np.ndarray, weights: np.ndarray) -> None:
        """Of a thing that is named twice the last weight counts."""
        nodes = self._leaves + np.asarray(things, np.int64)
        self._sums[nodes] = weights
        nodes = np.unique(nodes)
        while len(nodes) and nodes[0] > 1:
            nodes = np.unique(nodes >> 1)
            self._sums[nodes] = self._sums[2 * nodes] + self._sums[2 * nodes + 1]

    def find(self, targets: np.ndarray) -> np.ndarray:
        """int64: the thing within whose share of [0, total) each target lies, when they are laid side by side."""
        nodes, left = np.ones(len(targets), np.int64), targets.astype(np.float64)
        while nodes[:1].size and nodes[0] < self._leaves:
            nodes *= 2
            first = self._sums[nodes]
            # Rounding may leave a target beyond the last share that is not empty.
            right = (left >= first) & (self._sums[nodes + 1] > 0)
            left -= np.where(right, first, 0)
            nodes += right
        return nodes - self._leaves


class PrioritizedSampler:
    """Transitions of a run drawn in proportion to their priorities (Schaul et al. 2015, Prioritized Experience Replay,
    arXiv 1511.05952, section 3.3 and 3.4): P(i) = p_i^alpha / sum p_k^alpha, with p_i = |what was given| + epsilon.

    run       as it is now; make another sampler after a `refresh`
    columns, next_observation  as for `Run.sample`

    Until it is updated, a transition has priority 1. Memory: 16 to 32 bytes a row. Raises NotThere for a run without
    transitions, ShardError.
    """

    def __init__(
        self,
        run: Readable,
        *,
        alpha: float = 0.6,
        epsilon: float = 1e-6,
        columns: list[str] | None = None,
        next_observation: bool = False,
    ):
        if not alpha >= 0 or not epsilon > 0:
            raise UsageError(f"alpha {alpha:g} and epsilon {epsilon:g}: alpha is 0 or more, epsilon above 0")
        self._timeline, self.alpha, self.epsilon = run.timeline, alpha, epsilon
        self._decoder = run.decoder(columns, next_observation=next_observation)
        timeline = self._timeline
        self.transitions = timeline.total - int(timeline.has_last.sum())
        if not self.transitions:
            raise NotThere(f"{run.label}: no transitions to sample from")
        self._tree = SumTree(timeline.total)
        self._tree.set(np.arange(timeline.total), np.ones(timeline.total))
        last = (timeline.first + timeline.rows - 1)[timeline.has_last]
        self._tree.set(last, np.zeros(len(last)))

    def sample(self, count: int, rng: np.random.Generator | None = None, *, beta: float = 0.4) -> Batch:
        """`count` transitions, one from each of `count` equal shares of all priorities, in random order. With

        sample_weight  f4: (N P(i))^-beta, divided by the largest of the batch: what to weight the loss by
        handle         i8: what `update` knows the transition by
        """
        rng = rng or np.random.default_rng()
        targets = (np.arange(count) + rng.random(count)) * (self._tree.total / max(count, 1))
        handles = rng.permutation(self._tree.find(targets))
        chance = self._tree[handles] / self._tree.total
        weights = (self.transitions * chance) ** -beta
        stored = self._decoder.empty(count)
        for piece in self._timeline.pieces(handles):
            self._decoder.fill(stored, piece)
        batch = self._decoder.finish(stored)
        return {**batch, WEIGHT: (weights / weights.max(initial=0)).astype(np.float32), HANDLE: handles}

    def update(self, handles: np.ndarray, errors: np.ndarray) -> None:
        """New priorities, from the TD errors of those transitions. Raises UsageError for what is not finite."""
        errors = np.asarray(errors, np.float64)
        if not np.isfinite(errors).all():
            raise UsageError("a priority is NaN or infinite; give finite TD errors")
        self._tree.set(handles, (np.abs(errors) + self.epsilon) ** self.alpha)

    def handles(self, episode: np.ndarray, player: np.ndarray, step: np.ndarray, run: int = 0) -> np.ndarray:
        """i8: of transitions known by their keys. Raises NotThere."""
        return np.array(
            [self._timeline.number(int(e), int(p), int(s), run) for e, p, s in zip(episode, player, step, strict=True)],
            np.int64,
        )


class StalenessSampler:
    """Transitions of a run, the more likely the newer the policy that acted: 1/2 for every `half_life` versions that it
    is behind the newest of that policy in the run, never where that is more than `max_staleness`.

    Memory: 32 bytes for each stretch of rows of one version, of which a player's episode mostly is one. Raises NotThere
    for a run without transitions, ShardError.
    """

    def __init__(
        self,
        run: Readable,
        *,
        half_life: float = np.inf,
        max_staleness: int | None = None,
        columns: list[str] | None = None,
        next_observation: bool = False,
    ):
        if not half_life > 0 or (max_staleness is not None and max_staleness < 0):
            raise UsageError("half_life has to be above 0, and max_staleness 0 or more")
        self._timeline = timeline = run.timeline
        if not run.steps:
            raise NotThere(f"{run.label}: no transitions to sample from")
        self._decoder = run.decoder(columns, next_observation=next_observation)
        starts, policies, versions = [], [], []
        before: tuple[int, int] | None = None
        decoder = run.decoder(["policy", "policy_version"])
        for begin in range(0, timeline.total, _AT_ONCE):
            numbers = np.arange(begin, min(begin + _AT_ONCE, timeline.total))
            stored = decoder.empty(len(numbers))
            for piece in timeline.pieces(numbers):
                decoder.fill(stored, piece)
            policy, version = stored["policy"].astype(np.int64), stored["policy_version"].astype(np.int64)
            new = np.ones(len(numbers), bool)
            new[1:] = (policy[1:] != policy[:-1]) | (version[1:] != version[:-1])
            new[0] = before != (int(policy[0]), int(version[0]))
            before = int(policy[-1]), int(version[-1])
            starts.append(numbers[new])
            policies.append(policy[new])
            versions.append(version[new])
        self._first = np.concatenate(starts)
        policy, version = np.concatenate(policies), np.concatenate(versions)
        newest = np.zeros(int(policy.max()) + 1, np.int64)
        np.maximum.at(newest, policy, version)
        behind = newest[policy] - version
        weight = 0.5 ** (behind / half_life)
        if max_staleness is not None:
            weight[behind > max_staleness] = 0
        self._rows = np.diff(np.append(self._first, timeline.total))
        self._weights = np.cumsum(weight * self._rows)

    def sample(self, count: int, rng: np.random.Generator | None = None) -> Batch:
        """`count` transitions, with replacement, in random order."""
        rng = rng or np.random.default_rng()
        stored = self._decoder.empty(count)
        todo = np.arange(count)
        while len(todo):
            at = np.searchsorted(self._weights, rng.random(len(todo)) * self._weights[-1], "right")
            numbers = self._first[at] + (rng.random(len(todo)) * self._rows[at]).astype(np.int64)
            for piece in self._timeline.pieces(numbers, todo):
                self._decoder.fill(stored, piece)
            todo = todo[stored["is_last"][todo]]
        return self._decoder.finish(stored)
