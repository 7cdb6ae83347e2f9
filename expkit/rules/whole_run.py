"""Rules of a run as a whole: what hints at something wrong although every row is possible."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise

import numpy as np

from expkit.row.episodes import WRITER_BITS
from expkit.row.schema import Schema
from expkit.rules.rows import PlayerFacts, RunFacts
from expkit.rules.rule import Violation, rule

_EXPECTED = ("terminated", "truncated")  # a run may well have neither, or only one of them


def _integer_action(schema: Schema) -> list[str]:
    fits = "action" in schema and schema["action"].dtype[0] in "iu" and not schema["action"].shape
    return ["action"] if fits else []


@rule("value/constant", over="run", severity="warn", rows=1000)
def no_constant_column(run: RunFacts, rows: float) -> Iterator[Violation]:
    """No field has one value in all rows of a run of at least `rows` rows.

    A field that never changes tells nothing: an observation that is not filled in, an action that is always the same, a
    reward that never comes. A constant reward other than 0 is taken as meant, as for staying alive.
    """
    if run.rows < rows:
        return
    for name, value in run.constant.items():
        meant = name in _EXPECTED or (name == "reward" and value not in ("0.0", "-0.0"))
        if not meant:
            yield Violation(f"{value} in all {run.rows:,} rows", column=name)


@rule("value/balance", over="run", severity="warn", reads=_integer_action, share=0.98, rows=1000)
def balanced_actions(run: RunFacts, share: float, rows: float) -> Iterator[Violation]:
    """No action makes up more than `share` of all, in a run of at least `rows` actions.

    A policy that does nearly always the same has collapsed, or its actions were recorded wrong. A behaviour model
    trained on such rows learns that one action.
    """
    for name, counts in run.counts.items():
        total = sum(counts.values())
        if total < rows or len(counts) < 2:  # one value alone is a constant column
            continue
        action, most = max(counts.items(), key=lambda item: (item[1], -item[0]))
        if most > share * total:
            yield Violation(f"action {action} is {100 * most / total:.1f} % of {total:,} actions", column=name)


@rule("episode/length", over="run", severity="warn", factor=20.0, episodes=20)
def lengths_in_line(run: RunFacts, factor: float, episodes: float) -> Iterator[Violation]:
    """No episode is `factor` times as long as the median, or that much shorter, in a run of at least `episodes`.

    Interrupted episodes are left out. A few of a length of their own are often cut by a crash that nobody noticed, or
    glued together where an end was missed.
    """
    ended = [one for one in run.episodes if one.end is not None and one.end.ended != "interrupted"]
    if len(ended) < episodes:
        return
    median = float(np.median([episode.length for episode in ended]))
    for episode in ended:
        if episode.length * factor < median or episode.length > factor * median:
            message = f"{episode.length:,} steps, where the median is {median:,.0f}"
            yield Violation(message, episode=episode.number)


@rule("episode/duplicate", over="run", severity="warn", steps=10)
def no_duplicates(run: RunFacts, steps: float) -> Iterator[Violation]:
    """No episode of at least `steps` steps is there twice.

    Compared by digests of all rows, but for the episode's number and the times. Either the same data was added twice,
    which counts it twice in training (`expkit merge --dedupe` leaves one), or two games began from the same seed.
    """
    first: dict[tuple[tuple[int, int, int | None], ...], int] = {}
    again: dict[int, list[int]] = {}
    for episode in run.episodes:
        content = tuple((player, one.rows, one.content) for player, one in sorted(episode.players.items()))
        if not content or episode.length < steps or any(digest is None for _, _, digest in content):
            continue
        known = first.setdefault(content, episode.number)
        if known != episode.number:
            again.setdefault(known, []).append(episode.number)
    for known, others in again.items():
        more = f", and so are those of {len(others) - 1:,} more" if len(others) > 1 else ""
        yield Violation(f"its rows are those of episode {known}{more}", episode=others[0])


@rule("policy/order", over="run", severity="warn", requires=("unmerged",))
def newer_policies(run: RunFacts) -> Iterator[Violation]:
    """An episode does not begin with an older version of a policy than the one that began before it.

    Asked of each player, recorder and policy, in order of time. A version that starts again at 0 belongs to a training
    that was started again, and its rows pass for older ones than they are. Where past versions are played on purpose,
    as in a league, give them names of their own, or switch the rule off.
    """
    begun = [
        (player, episode.number >> WRITER_BITS, one.played_by[0], one.played_by[2], episode.number, one.played_by[1])
        for episode in run.episodes
        for player, one in episode.players.items()
        if one.played_by is not None
    ]
    told: set[tuple[int, int, int]] = set()
    for before, here in pairwise(sorted(begun)):
        who = here[:3]
        if before[:3] == who and here[5] < before[5] and before[3] < here[3] and who not in told:
            told.add(who)
            message = f"begins with version {here[5]} of the policy, episode {before[4]} before it with {before[5]}"
            yield Violation(message, column="policy_version", episode=here[4], player=here[0])


@rule("episode/outcome", over="run")
def one_outcome(run: RunFacts) -> Iterator[Violation]:
    """Players agree with each other and with the end record on who won, and when.

    Where there is a winner (outcome 1), its last action and that of every other player with an outcome says
    `terminated`, and the winner is there until the end. With generals' own rewards it does not end on a negative one
    while one who did not win ends on a positive one; shaped rewards do not tell who won. An episode has the length of
    its longest player. Rows that tell otherwise are of two games, or one player's end was recorded as another's.
    """
    for episode in run.episodes:
        end, players = episode.end, episode.players
        if end is None or not episode.complete or end.cut or not all(one.whole for one in players.values()):
            continue
        steps = max((one.rows - 1 for one in players.values()), default=end.length)
        if steps != end.length:
            yield Violation(f"the end record says {end.length:,} steps, the rows {steps:,}", episode=episode.number)
        outcomes = {int(player): value for player, value in end.outcome.items() if value is not None}
        winners = [player for player, outcome in outcomes.items() if outcome == 1 and player in players]
        if end.ended != "terminated" or not winners:
            continue
        for player, message in _disagreements(run, players, outcomes, winners):
            last = players[player].last_step
            yield Violation(message, episode=episode.number, player=player, step=last)
            break


def _disagreements(
    run: RunFacts, players: Mapping[int, PlayerFacts], outcomes: Mapping[int, float], winners: Sequence[int]
) -> Iterator[tuple[int, str]]:
    """(player, what is wrong with its end)."""
    acted = {player for player in outcomes.keys() & players.keys() if players[player].rows > 1}
    for player in sorted(acted):
        if not players[player].flags & 1:
            yield player, f"player {winners[0]} won, and this player's last action does not say terminated"
    final = max(one.last_step for one in players.values())
    # Only where rewards are known to be those of the game: the sign of a shaped one does not tell who won.
    meant = {"generals", "game-rewards"} <= run.traits
    for winner in sorted(acted.intersection(winners)):
        if "simultaneous" in run.traits and players[winner].last_step != final:
            yield winner, f"won, and its rows end before step {final:,}, the last of the episode"
        if meant and players[winner].reward < 0 and any(players[p].reward > 0 for p in acted):
            yield winner, f"won, and its last reward is {players[winner].reward:g}, where another's is positive"
