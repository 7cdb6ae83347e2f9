"""Conditions on rows, as `--where` takes them: `player == 1 and reward > 0.5`.
Imports formats and all that stands below; none of the packages beside it.

Names
    keys                episode, player, step, policy_version, time_ns, is_first, is_last, policy, which is its number
                        in the run's table, and policy_name (`policy_name == 'hunter'`; policy may be compared with a
                        name, too)
    fields              as the schema has them, `state/turn`; an element of an array: `observation/board[2, 0]`, from
                        the end when negative; in backquotes where they hold other characters than letters, digits,
                        _ . and slashes, or look like a word of the language: `` `log-prob` ``
    of the row's        length, ended ('terminated', 'truncated' or 'interrupted'), outcome (of the row's own player),
    episode             won (it was terminated, and the player's outcome is above all others'); a field of the same
                        name comes first
Values
    10, 0x1F, 0.5, 1e-3, inf, 'text', "text", true, false; + - * / % (with the sign of the right side), abs(…); a slash
    right before a letter belongs to a name, so `reward / length` needs its spaces
Conditions, from the tightest to the loosest
    == (or =), != (or <>), <, <=, >, >=, chained too (`0 < reward <= 1`); in (1, 2), not in (…); between 1 and 2, not
    between …; is null, is not null, is nan, is not nan
    not, and, or; in capitals too

As in SQL, a comparison with a null is neither true nor false but unknown, and so is what follows from it; rows are
selected where the whole is true. Null are: what a writer left out of a nullable field; on last rows every field that
does not belong to the observation (so `not terminated` selects no last rows); the result of a division by zero;
outcome and won of a player without an outcome. Integers are exact at any size. A constant with a fraction is compared
with an f2 or f4 field after rounding to it, so that `reward == 0.1` finds the rows that were given 0.1.

How a caller goes through a run, reading only what may match:

    where = parse(text).bind(run.schema, run.policies)
    episodes = EpisodeTable(run.episodes()) if where.episode_names else None
    for info in reader.blocks:
        if where.may_match({}, info, episodes) and where.may_match(reader.statistics(info.index), info, episodes):
            keep = where.evaluate(reader.read_block(info.index, where.columns), info.player, episodes)
"""

from expkit.predicates.episodes import EpisodeTable
from expkit.predicates.predicate import BoundPredicate, Predicate, parse

__all__ = ["BoundPredicate", "EpisodeTable", "Predicate", "parse"]
