"""Rules of an episode's rows, checked block by block without holding the rows.

For each (episode, player): steps rise, `is_first` stands on the first row alone and `is_last` on the last alone,
rows agree with the start and end records, and what ended it stands on the row of the last action. Where rows were
dropped, or a block cannot be read, the gap is known and what it explains is no finding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from expkit.runs.entries import Episode
from expkit.runs.finding import Finding
from expkit.runs.read import Run
from expkit.runs.summary import balance


@dataclass(slots=True)
class _Chain:
    """The rows of one (episode, player) so far."""

    last_step: int
    ended: bool = False
    rows: int = 0
    flags: int = 0  # 1 terminated, 2 truncated: of the latest action


class EpisodeRules:
    """Feed it every block in order, then call `finish`."""

    def __init__(self, run: Run):
        self._run = run
        self._chains: dict[tuple[int, int], _Chain] = {}
        self._policies = len(run.policies)
        gaps = {b.player for b in balance(run) or [] if b.dropped_rows or b.lost or b.pending or b.rejected}
        self._gaps = gaps
        self._skipped: set[int] = set()

    def skip(self, player: int) -> None:
        """A block of that player cannot be read."""
        self._skipped.add(player)

    def _has_gaps(self, player: int) -> bool:
        return player in self._gaps or player in self._skipped

    def check_block(self, shard: str, block: int, player: int, rows: dict[str, np.ndarray]) -> Iterator[Finding]:
        """Findings within one block and against the blocks before it. `rows` are stored columns."""
        episode, step = rows["episode"], rows["step"].astype(np.int64)
        first, last = rows["is_first"].astype(bool), rows["is_last"].astype(bool)
        if not len(episode):
            return
        same = episode[1:] == episode[:-1]

        def finding(rule: str, message: str, at: int) -> Finding:
            return Finding(
                severity="error",
                rule=rule,
                message=message,
                shard=shard,
                block=block,
                episode=int(episode[at]),
                player=player,
                step=int(step[at]),
            )

        for rule, bad, message in (
            ("episode/order", episode[1:] < episode[:-1], "rows are not sorted by episode"),
            ("episode/steps", same & (step[1:] <= step[:-1]), "the step does not rise"),
            ("episode/first", same & first[1:], "a first row stands inside the episode"),
            ("episode/last", same & last[:-1], "rows follow the last row"),
        ):
            where = np.flatnonzero(bad)
            if len(where):
                count = f" ({len(where):,} rows)" if len(where) > 1 else ""
                yield finding(rule, message + count, int(where[0]) + 1)
        if "policy" in rows:
            unknown = np.flatnonzero(rows["policy"] >= max(self._policies, 1))
            if len(unknown):
                at = int(unknown[0])
                yield finding("episode/policy", f"policy {int(rows['policy'][at])} is not in the run's table", at)
        starts = np.concatenate([[0], np.flatnonzero(~same) + 1])
        stops = np.append(starts[1:], len(episode))
        for start, stop in zip(starts.tolist(), stops.tolist(), strict=True):
            yield from self._extend(finding, player, rows, start, stop, first, last)

    def _extend(
        self,
        make: Callable[[str, str, int], Finding],
        player: int,
        rows: dict[str, np.ndarray],
        start: int,
        stop: int,
        first: np.ndarray,
        last: np.ndarray,
    ) -> Iterator[Finding]:
        """Join rows [start, stop) of one episode to what came before."""
        key = int(rows["episode"][start]), player
        step = rows["step"]
        chain = self._chains.get(key)
        if chain is None:
            chain = self._chains[key] = _Chain(int(step[start]))
            if not first[start] and not self._has_gaps(player):
                yield make("episode/first", "the episode does not begin with a first row", start)
        elif chain.ended:
            yield make("episode/last", "rows follow the last row", start)
        elif int(step[start]) <= chain.last_step:
            yield make("episode/steps", f"the step does not rise: {chain.last_step} in an earlier block", start)
        elif first[start]:
            yield make("episode/first", "a first row stands inside the episode", start)
        chain.last_step = int(step[stop - 1])
        chain.ended = bool(last[stop - 1])
        chain.rows += stop - start
        action = stop - 2 if chain.ended else stop - 1
        if "terminated" in rows and "truncated" in rows and action >= start:
            chain.flags = int(rows["terminated"][action]) | int(rows["truncated"][action]) << 1

    def finish(self) -> Iterator[Finding]:
        """Findings about whole episodes."""
        open_episodes = 0
        for episode in self._run.episodes():
            if episode.end is None:
                open_episodes += 1
            yield from self._check_records(episode)
        if open_episodes and self._run.state != "recording":
            message = f"{open_episodes:,} episodes have no end record; they count as interrupted"
            yield Finding(
                severity="info" if self._run.state == "killed" else "warn", rule="episode/open", message=message
            )

    def _check_records(self, episode: Episode) -> Iterator[Finding]:
        number = episode.number
        if episode.start is None and episode.rows:
            yield Finding(severity="error", rule="episode/start", episode=number, message="rows without a start record")
        if episode.end is None:
            return
        expected = {int(player): rows for player, rows in episode.end.rows.items()}
        for player in sorted(expected.keys() | episode.rows.keys()):
            if self._has_gaps(player):
                continue
            want, have = expected.get(player, 0), episode.rows.get(player, 0)
            if expected and want != have:
                message = f"the end record says {want:,} rows, the files hold {have:,}"
                yield Finding(severity="error", rule="episode/rows", episode=number, player=player, message=message)
            chain = self._chains.get((number, player))
            if chain is None:
                continue
            if not chain.ended:
                message = "ended, but its last row is missing"
                yield Finding(
                    severity="error",
                    rule="episode/last",
                    episode=number,
                    player=player,
                    step=chain.last_step,
                    message=message,
                )
            elif chain.rows > 1:
                yield from self._check_flags(episode, player, chain)

    def _check_flags(self, episode: Episode, player: int, chain: _Chain) -> Iterator[Finding]:
        """terminated and truncated of the last action against how the end record says it ended."""
        says = {0: "interrupted", 1: "terminated", 2: "truncated", 3: "terminated"}[chain.flags]
        # A player may be out long before the episode ends; only a row that says more than the record is wrong.
        if says == "truncated" and episode.ended == "interrupted":
            yield Finding(
                severity="error",
                rule="episode/ended",
                episode=episode.number,
                player=player,
                step=chain.last_step,
                message=f"its last action says {says}, the end record {episode.ended}",
            )
