"""Rules of rewards: the stored one is the one that the truth gives."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from expkit.row.schema import Schema
from expkit.rules.generals import LAND
from expkit.rules.rows import EpisodeRows, Rows
from expkit.rules.rule import Violation, rule

REWARD, TRUTH = "reward", "state/owner"
_LIVE = ("generals", "game-rewards", "self-play")
_AGAIN = ("replayable", "game-rewards")
_PAID = ("game-rewards", "untouched")
BEFORE, AFTER, PAID = "reward_before_action", "reward_after_end", "paid"  # in the metadata of an episode's end


def _truth_columns(schema: Schema) -> list[str]:
    fits = TRUTH in schema and schema[TRUTH].dtype == "i1" and LAND in schema and not schema[REWARD].shape
    return [TRUTH, REWARD] if fits else []


def _integer_action(schema: Schema) -> list[str]:
    if "action" not in schema or schema["action"].dtype[0] not in "iu":
        return []
    return [REWARD, "action"] if schema["action"].shape == schema[REWARD].shape == () else []


@rule("reward/state", over="steps", reads=_truth_columns, requires=_LIVE, tolerance=1e-6)
def reward_of_the_state(rows: Rows, tolerance: float) -> Iterator[Violation]:
    """The reward is the one that the recorded true boards give.

    -1 where the step took the player's last tile, 1 where it left the player alone on the board, else 0. Asked of runs
    that store `state/…`. A reward that is another one belongs to another step or another player, or was changed
    afterwards.
    """
    players = rows.schema[LAND].items
    if rows.player >= players:
        return
    owner, reward = rows.stored[TRUTH].reshape(len(rows), -1), rows.stored[REWARD]
    living = np.stack([(owner == player).any(axis=1) for player in range(players)], axis=1)
    before, after = living[:-1], living[1:]
    mine, others = after[:, rows.player], np.delete(after, rows.player, axis=1).any(axis=1)
    expected = np.where(~mine, -1.0, np.where(others, 0.0, 1.0))
    adjacent = rows.follows & (np.diff(rows.stored["step"].astype(np.int64)) == 1) & rows.acts[:-1]
    bad = adjacent & before[:, rows.player] & ~(np.abs(reward[:-1] - expected) <= tolerance)
    if bad.any():
        at = int(bad.argmax())
        yield Violation(f"reward {reward[at]:g}, the true boards give {expected[at]:g}", np.append(bad, False), REWARD)


@rule("reward/replayed", over="episode", reads=_integer_action, requires=_AGAIN, tolerance=1e-6)
def reward_of_the_replay(episode: EpisodeRows, tolerance: float) -> Iterator[Violation]:
    """The reward is the one that the game gives when it is played again.

    Asked of whole episodes of a game that follows from its seeds and actions. Where the first difference is in the
    middle of an episode, `expkit replay --verify` names the field that departs first.
    """
    for player, expected in sorted((episode.replay() or {}).items()):
        rows = episode.players[player]
        reward, steps = rows.stored[REWARD][rows.acts], rows.stored["step"][rows.acts]
        bad = ~(np.abs(reward - expected) <= tolerance)
        if bad.any():
            at = int(bad.argmax())
            more = f", and {int(bad.sum()) - 1:,} rows more" if bad.sum() > 1 else ""
            message = f"reward {reward[at]:g}, played again it is {expected[at]:g}{more}"
            yield Violation(message, column=REWARD, player=player, step=int(steps[at]))


@rule("reward/paid", over="episode", reads=(REWARD,), requires=_PAID, tolerance=1e-6)
def reward_as_paid(episode: EpisodeRows, tolerance: float) -> Iterator[Violation]:
    """The rewards of a player are in sum what the environment paid it.

    Asked of whole episodes of several players that were recorded from an environment: the end of an episode says what
    was paid, added up as it came, and what of it no row can have, before a player's first action and after its end. A
    sum that differs by more than `tolerance` of its terms lacks a reward, or has one of another player or episode.
    """
    told = episode.end.metadata
    paid = told.get(PAID)
    for player, rows in sorted(episode.players.items()):
        total = paid.get(str(player)) if isinstance(paid, dict) else None
        if total is None:
            continue
        reward = rows.stored[REWARD][rows.acts].astype(np.float64)
        beside = [np.asarray(told.get(name, {}).get(str(player), 0.0), np.float64) for name in (BEFORE, AFTER)]
        stored, terms = reward.sum(0) + sum(beside), np.abs(reward).sum(0) + sum(map(np.abs, beside))
        if not np.all(np.abs(stored - np.asarray(total, np.float64)) <= tolerance * np.maximum(terms, 1.0)):
            told_sum = stored.tolist() if stored.shape else f"{float(stored):g}"
            yield Violation(f"rewards of {told_sum} in sum, and {total} was paid", column=REWARD, player=player)
