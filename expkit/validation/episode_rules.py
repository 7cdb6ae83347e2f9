"""Rules of an episode's rows, checked block by block without holding the rows.

For each (episode, player): steps rise, `is_first` stands on the first row alone and `is_last` on the last alone,
rows agree with the start and end records, and what ended it stands on the row of the last action. Where rows were
dropped, or a block cannot be read, the gap is known and what it explains is no finding.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import accumulate

import numpy as np

from expkit.errors import CheckFailed, NotThere
from expkit.reading.run import Run
from expkit.reading.summary import balance
from expkit.row.episodes import Episode
from expkit.rules.rows import EpisodeFacts, PlayerFacts
from expkit.runs.origins import players_with_gaps
from expkit.validation.finding import Finding

_U64 = (1 << 64) - 1


@dataclass(frozen=True, slots=True)
class Segments:
    """What a block's rows say of its episodes: one entry for each stretch of rows of one episode.

    findings             what is wrong within the block
    episode              of each stretch;  first_step, last_step, rows: of it
    begins, ends         its first row is `is_first`, its last row `is_last`
    flags                1 terminated, 2 truncated, of its last action; -1 where it holds none
    rewards              of its last action, NaN where that is not one number; empty where the column cannot be read
    contents             a sum that is equal where all its rows are, but for episode and times; empty where not known
    played_by            policy, version and time_ns of its first row; empty where one of these cannot be read
    """

    shard: str
    block: int
    player: int
    findings: list[Finding]
    episode: list[int]
    first_step: list[int]
    last_step: list[int]
    rows: list[int]
    begins: list[bool]
    ends: list[bool]
    flags: list[int]
    rewards: list[float] = field(default_factory=list)
    contents: list[int] = field(default_factory=list)
    played_by: list[tuple[int, int, int]] = field(default_factory=list)

    @property
    def first_row(self) -> list[int]:
        """Where each stretch begins in the block."""
        return [0, *accumulate(self.rows[:-1])] if self.rows else []


def segments_of(shard: str, block: int, player: int, rows: dict[str, np.ndarray], policies: int) -> Segments:
    """Of the stored columns of one block, by itself: blocks can be looked at in any order and by several threads.
    `policies` is the length of the run's table."""
    episode, step = rows["episode"], rows["step"].astype(np.int64)
    first, last = rows["is_first"].astype(bool), rows["is_last"].astype(bool)
    same = episode[1:] == episode[:-1]
    findings: list[Finding] = []

    def note(rule: str, message: str, at: int) -> None:
        findings.append(
            Finding(
                severity="error",
                rule=rule,
                message=message,
                shard=shard,
                block=block,
                episode=int(episode[at]),
                player=player,
                step=int(step[at]),
            )
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
            note(rule, message + count, int(where[0]) + 1)
    if "policy" in rows:
        unknown = np.flatnonzero(rows["policy"] >= max(policies, 1))
        if len(unknown):
            at = int(unknown[0])
            note("episode/policy", f"policy {int(rows['policy'][at])} is not in the run's table", at)
    start = np.concatenate([np.zeros(min(len(episode), 1), np.int64), np.flatnonzero(~same) + 1])
    stop = np.append(start[1:], len(episode)) if len(start) else start
    ends = last[stop - 1]
    flags = np.full(len(start), -1)
    if "terminated" in rows and "truncated" in rows:
        action = stop - 1 - ends
        told = rows["terminated"].astype(np.int64) | rows["truncated"].astype(np.int64) << 1
        flags = np.where(action >= start, told[action], -1)
    rewards: list[float] = []
    if "reward" in rows and rows["reward"].ndim == 1 and len(start):
        action = np.maximum(stop - 1 - ends, start)
        rewards = rows["reward"][action].astype(np.float64).tolist()
    return Segments(
        shard,
        block,
        player,
        findings,
        episode[start].tolist(),
        step[start].tolist(),
        step[stop - 1].tolist(),
        (stop - start).tolist(),
        first[start].tolist(),
        ends.tolist(),
        flags.tolist(),
        rewards,
        played_by=_played_by(rows, start),
    )


def _played_by(rows: dict[str, np.ndarray], start: np.ndarray) -> list[tuple[int, int, int]]:
    """Policy, version and time of each of the rows `start`."""
    if not rows.keys() >= {"policy", "policy_version", "time_ns"}:
        return []
    policy, version, time = (rows[name][start].tolist() for name in ("policy", "policy_version", "time_ns"))
    return list(zip(policy, version, time, strict=True))


class EpisodeRules:
    """Feed it the segments of every block in order, then call `finish`. `incomplete`: players of whom rows are known
    to be missing."""

    def __init__(self, run: Run):
        self._run = run
        self._chains: dict[tuple[int, int], PlayerFacts] = {}
        self._ended: set[tuple[int, int]] = set()
        self.incomplete = {b.player for b in balance(run) or [] if b.has_gaps}
        with suppress(NotThere, CheckFailed):  # no description is left, which other rules tell
            self.incomplete |= players_with_gaps(run.info.metadata)

    def skip(self, player: int) -> None:
        """A block of that player cannot be read."""
        self.incomplete.add(player)

    def extend(self, segments: Segments) -> Iterator[Finding]:
        """Findings of a block against the blocks before it."""
        for place, episode in enumerate(segments.episode):
            key, step = (episode, segments.player), segments.first_step[place]
            chain, wrong = self._chains.get(key), None
            if chain is None:
                chain = self._chains[key] = PlayerFacts()
                chain.played_by = segments.played_by[place] if segments.played_by else None
                if not segments.begins[place] and segments.player not in self.incomplete:
                    wrong = "episode/first", "the episode does not begin with a first row"
            elif key in self._ended:
                wrong = "episode/last", "rows follow the last row"
            elif step <= chain.last_step:
                wrong = "episode/steps", f"the step does not rise: {chain.last_step} in an earlier block"
            elif segments.begins[place]:
                wrong = "episode/first", "a first row stands inside the episode"
            if wrong is not None:
                yield Finding(
                    severity="error",
                    rule=wrong[0],
                    message=wrong[1],
                    shard=segments.shard,
                    block=segments.block,
                    episode=episode,
                    player=segments.player,
                    step=step,
                )
            chain.whole = chain.whole and wrong is None and (chain.rows > 0 or segments.begins[place])
            chain.last_step = segments.last_step[place]
            if segments.ends[place]:
                self._ended.add(key)
            else:
                self._ended.discard(key)
            chain.rows += segments.rows[place]
            if segments.flags[place] >= 0:
                chain.flags = segments.flags[place]
                chain.reward = segments.rewards[place] if segments.rewards else chain.reward
            if segments.contents and chain.content is not None:
                chain.content = (chain.content + segments.contents[place]) & _U64
            else:
                chain.content = None
        for found in segments.findings:
            if (found.episode or 0, segments.player) in self._chains:
                self._chains[found.episode or 0, segments.player].whole = False

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

    def facts(self) -> list[EpisodeFacts]:
        """All episodes in a few numbers, by number, when all blocks were seen."""
        players: dict[int, dict[int, PlayerFacts]] = {}
        for (number, player), chain in self._chains.items():
            chain.whole = chain.whole and (number, player) in self._ended
            players.setdefault(number, {})[player] = chain
        out = []
        for episode in self._run.episodes():
            mine, end = players.get(episode.number, {}), episode.end
            expected = {} if end is None else {int(player): rows for player, rows in end.rows.items()}
            have = {player: one.rows for player, one in mine.items()}
            complete = end is not None and expected == have and self.incomplete.isdisjoint(mine)
            out.append(EpisodeFacts(episode.number, end, mine, complete))
        return out

    def _check_records(self, episode: Episode) -> Iterator[Finding]:
        number = episode.number
        if episode.start is None and episode.rows:
            yield Finding(severity="error", rule="episode/start", episode=number, message="rows without a start record")
        if episode.end is None:
            return
        expected = {int(player): rows for player, rows in episode.end.rows.items()}
        for player in sorted(expected.keys() | episode.rows.keys()):
            if player in self.incomplete:
                continue
            want, have = expected.get(player, 0), episode.rows.get(player, 0)
            if expected and want != have:
                message = f"the end record says {want:,} rows, the files hold {have:,}"
                yield Finding(severity="error", rule="episode/rows", episode=number, player=player, message=message)
            chain = self._chains.get((number, player))
            if chain is None or episode.end.cut:  # cut anywhere, and the record says no more than that
                continue
            if (number, player) not in self._ended:
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

    def _check_flags(self, episode: Episode, player: int, chain: PlayerFacts) -> Iterator[Finding]:
        """terminated and truncated of the last action against how the end record says it ended."""
        says = {0: "interrupted", 1: "terminated", 2: "truncated", 3: "terminated"}[chain.flags]
        # A player may be out long before the episode ends; only a row that says more than the record is wrong, unless
        # others went on.
        chains = (self._chains.get((episode.number, one)) for one in episode.rows)
        if says == "truncated" and episode.ended == "interrupted" and all(one and one.flags for one in chains):
            yield Finding(
                severity="error",
                rule="episode/ended",
                episode=episode.number,
                player=player,
                step=chain.last_step,
                message=f"its last action says {says}, the end record {episode.ended}",
            )
