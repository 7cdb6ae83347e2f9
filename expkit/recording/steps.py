"""Rows from the loop of a Gymnasium environment: `reset` with what is seen first, `step` with what an action caused.

What is seen waits in a table, copied, until its action comes: then both make a row. Everything is done for all
environments at once; only an episode that begins or ends costs some Python of its own.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from expkit.collect.protocol import Feed
from expkit.errors import UsageError
from expkit.recording.autoreset import Autoreset
from expkit.recording.episodes import EpisodeBook, as_json
from expkit.recording.final import put_last
from expkit.recording.table import HELD, LAST, ROWS, SEEN, RowTable
from expkit.row.episodes import Ended, EpisodeEnd, EpisodeStart, how_it_ended
from expkit.row.factory import RowFactory
from expkit.row.schema import Field, Schema

_NOTHING: tuple[dict[str, int], dict[str, Any]] = ({}, {})
_NO_OUTCOME: dict[str, float | None] = {"0": None}  # of a single player
_HOW: tuple[Ended, ...] = ("interrupted", "terminated", "truncated")


class StepRecording:
    """The episodes of one environment, or of a vector of them, from `reset` to `step` to `step`.

    Arrays are (players, num_envs, ...) within. Its caller holds a lock or is alone.

    feed, factory, book   of the recorder; its row form goes on beside this one, with other episodes
    """

    def __init__(
        self,
        schema: Schema,
        players: int,
        num_envs: int | None,
        autoreset: Autoreset,
        feed: Feed,
        factory: RowFactory,
        book: EpisodeBook,
    ):
        self.autoreset = autoreset
        self._feed, self._factory, self._book = feed, factory, book
        self._table = table = RowTable(schema, num_envs, players)
        self._vector = num_envs is not None
        flags = ("terminated", "truncated")
        self._seen_fields = [field for field in schema.fields if _is_seen(field)]
        self._row_fields = [field for field in schema.fields if not _is_seen(field) and field.name not in flags]
        seen = _with_validity(self._seen_fields)
        final = _with_validity(field for field in schema.fields if field.belongs == "observation")
        keys = dict.fromkeys(("episode", "step", "policy", "policy_version", "time_ns"), ROWS)
        # By the part of the table in which the observation before the action lies.
        self._row_sources = [table.sources(dict.fromkeys(seen, part), ROWS) for part in (ROWS, SEEN)]
        self._last_sources = [
            table.sources({**keys, "is_last": SEEN, **dict.fromkeys(final, part)}, -1) for part in (ROWS, SEEN, LAST)
        ]
        self._held_sources = table.sources({}, HELD)
        table.parts[SEEN]["is_last"][...] = True
        self._before = ROWS
        rows = table.parts[ROWS]
        self._number, self._turn, self._first = rows["episode"], rows["step"], rows["is_first"]
        self._terminated, self._truncated, self._time = rows["terminated"], rows["truncated"], rows["time_ns"]
        both = (players, table.envs)
        self._rows = np.zeros(both, np.int64)
        self._live = np.zeros(both, bool)  # players whose part of the open episode goes on
        self._held = np.zeros(both, bool)  # those of them whose last row is held
        self._how = np.zeros(both, np.int8)  # into _HOW, of those whose part is over
        self._outcome = np.full(both, np.nan)
        self._unclaimed = np.zeros(both)  # rewards of players that had no action yet
        self._begun = np.zeros(table.envs, bool)  # whether the open episode has rows
        self._ready = np.zeros(table.envs, bool)  # whether there is an episode that can be stepped
        self._places = [{"env_index": env} for env in range(table.envs)]
        self._every = np.arange(players * table.envs)
        self._all_live = self._all_begun = self._is_reset = False
        # Whether there ever were any: most recordings do without, and each costs a microsecond where episodes end.
        self._holds = self._has_outcomes = False
        self._told: dict[int, tuple[dict[str, int], dict[str, Any]]] = {}  # of episodes to come, by environment

    @property
    def envs(self) -> int:
        """Number of environments."""
        return self._table.envs

    @property
    def episodes(self) -> Any:
        """u8 (num_envs,): the episode that each environment's newest row is of; a number for a single environment."""
        return self._number[0].copy() if self._vector else int(self._number[0, 0])

    def set_policy(self, player: int, index: Any, version: Any) -> None:
        """Policy table row and version to stamp on the player's rows: one, or one for each environment."""
        rows = self._table.parts[ROWS]
        rows["policy"][player], rows["policy_version"][player] = index, version

    def reset(
        self,
        values: Mapping[str, Any],
        mask: Any,
        seeds: Sequence[dict[str, int]],
        metadata: Sequence[dict[str, Any]],
    ) -> None:
        """New episodes, in the environments of `mask` or in all; `seeds` and `metadata` have an entry for each
        environment. What is open there ends as interrupted. Raises SchemaError, UsageError."""
        values = self._factory.resolve(values)
        table, after = self._table, SEEN - self._before
        which = np.ones(table.envs, bool) if mask is None else table.by_env("mask", mask)
        if not (self._is_reset or which.all()):
            raise UsageError("reset: the first one is of all environments; leave out mask=")
        metadata = as_json("metadata", metadata)
        as_json("seeds", seeds)
        self._put(values, self._seen_fields, after)
        now = time.time_ns()
        if ends := self._cut(which, now):
            self._feed.commit((), ends)
        for name in _with_validity(self._seen_fields):
            table.parts[self._before][name][:, which] = table.parts[after][name][:, which]
        self._restart(which)
        self._is_reset = True
        for env in which.nonzero()[0].tolist():
            self._told[env] = seeds[env], metadata[env]

    def step(
        self,
        values: Mapping[str, Any],
        terminated: Any,
        truncated: Any,
        final: Any,
        active: Any,
        outcome: Any,
    ) -> None:
        """A row of every environment that is in an episode, and last rows where the action ended it. Raises
        SchemaError, UsageError, before anything is recorded."""
        values = self._factory.resolve(values)
        table, feed, before = self._table, self._feed, self._before
        after = SEEN - before
        stepped = None if active is None else table.by_player("active", active, bool)
        phantom = None if self._all_live else self._resetting(stepped)
        self._put(values, self._row_fields, ROWS)
        self._put(values, self._seen_fields, after)
        table.put_flags(ROWS, "terminated", terminated)
        table.put_flags(ROWS, "truncated", truncated)
        done = self._terminated | self._truncated
        if not self._all_live:
            done &= self._live
        ends = bool(np.count_nonzero(done))
        over = self._over(done) if ends else None
        last = self._put_final(final, over, after)
        if outcome is not None:
            given = table.by_player("outcome", outcome, np.float64)
            if over is not None:
                self._has_outcomes = True
                self._outcome[:, over] = given[:, over]
        acting = self._live if stepped is None else self._live & stepped
        holding = stepped is not None or bool(np.count_nonzero(self._held))
        if holding:
            self._holds = True
            self._check_idle(acting, done)

        now = time.time_ns()
        self._time[...] = now
        starts = () if self._all_begun else self._starts(acting, now)
        if holding:
            self._reward_held(acting)
            self._flush_held(acting | done, starts)
            starts = ()
        feed.ready(2 * table.envs)
        if stepped is not None:
            self._hold(acting & ~done, before)
            writing = acting & done
        else:
            writing = acting
        entries = self._every if writing is self._live and self._all_live else _entries(writing)
        table.append(feed.sink, self._row_sources[before], entries)
        self._rows += acting
        if not self._all_begun or holding:
            self._first &= ~acting
            self._all_begun = not np.count_nonzero(self._first & self._live)
        self._turn += 1 if acting is self._live and self._all_live else _any_player(acting)
        if over is None:
            feed.commit(starts)
        else:
            self._end(done, over, last, starts, now)
        self._before = after
        if over is not None and self.autoreset == "same_step":
            phantom = over
        if phantom is not None:
            self._restart(phantom)

    def close(self) -> list[EpisodeEnd]:
        """End what is open as interrupted, with what was seen last as its final rows; the caller commits the ends."""
        return self._cut(np.ones(self._table.envs, bool), time.time_ns()) if self._is_reset else []

    def _put(self, values: Mapping[str, Any], fields: Sequence[Field], part: int) -> None:
        put = self._table.put
        for field in fields:
            put(part, field, values.get(field.name))

    def _resetting(self, stepped: np.ndarray | None) -> np.ndarray | None:
        """bool (num_envs,): environments that reset themselves in this step and have no row of it; None where there
        are none. Raises UsageError for those that have to be reset first."""
        waiting = ~self._ready
        if stepped is not None:
            waiting &= _any_player(stepped)  # the others were left alone
        if not np.count_nonzero(waiting):
            return None
        if not self._is_reset:
            raise UsageError("step before reset; give rec.reset(observation=...) what the environment's reset returned")
        if self.autoreset == "next_step":
            return waiting
        envs = waiting.nonzero()[0].tolist()
        which = f"environment {', '.join(map(str, envs[:8]))}" if self._vector else "the environment"
        raise UsageError(f"step: the episode of {which} is over; reset it, and call rec.reset with what it returned")

    def _over(self, done: np.ndarray) -> np.ndarray:
        """bool (num_envs,): where an episode is over, because nobody's part of it goes on."""
        if len(done) == 1:
            return done[0]
        return _any_player(done) & ~_any_player(self._live & ~done)

    def _put_final(self, final: Any, over: np.ndarray | None, after: int) -> int:
        """Take what was seen last where episodes are over. Returns in which part of the table it is."""
        if self.autoreset != "same_step":
            if final is not None:
                raise UsageError(
                    f"final: under autoreset={self.autoreset!r} the last observation is in observation=; leave it out"
                )
            return after
        if over is None or not over.any():
            return after
        put_last(self._factory, self._table, self._seen_fields, final, np.flatnonzero(over))
        return LAST

    def _starts(self, acting: np.ndarray, now: int) -> list[EpisodeStart]:
        """Begin the episodes that get their first row now: none is begun before, so that none is empty."""
        starts = []
        fresh = _any_player(acting) & ~self._begun
        for env in fresh.nonzero()[0].tolist():
            number = self._book.allot()
            seeds, metadata = _NOTHING if not self._told else self._told.pop(env, _NOTHING)
            if self._vector:
                metadata = {**self._places[env], **metadata} if metadata else self._places[env]
            starts.append(self._book.start_record(number, seeds, metadata, now))
            self._book.hold(number)
            self._number[:, env] = number
        self._begun |= fresh
        return starts

    def _end(self, done: np.ndarray, over: np.ndarray, last: int, starts: Sequence[EpisodeStart], now: int) -> None:
        """Last rows of the players that are done, and the ends of the episodes that are over."""
        acted = done & (self._rows > 0) if self._holds else done
        after = SEEN - self._before
        apart = acted & over if last != after else acted
        if apart is not acted and self._table.players > 1:
            self._table.append(self._feed.sink, self._last_sources[after], _entries(acted & ~over))
        self._table.append(self._feed.sink, self._last_sources[last], _entries(apart))
        self._rows += acted
        self._how += done * np.where(self._terminated, np.int8(1), np.int8(2))
        self._live &= ~done
        self._ready &= ~over
        self._all_live = False
        self._feed.commit(starts, self._ends(over, now))

    def _ends(self, over: np.ndarray, now: int) -> list[EpisodeEnd]:
        """The ends of the environments' episodes, whose rows are all written."""
        out = []
        envs = (over & self._begun).nonzero()[0]
        if len(self._rows) == 1 and not (self._has_outcomes or self._holds):
            # The same as below, in a third of the time: of a vector some environment ends in nearly every step.
            told = zip(
                self._number[0, envs].tolist(), self._rows[0, envs].tolist(), self._how[0, envs].tolist(), strict=True
            )
            for number, count, one in told:
                self._book.finish(number)
                out.append(EpisodeEnd(number, now, _HOW[one], count - 1, _NO_OUTCOME, {"0": count}))
            return out
        rows, how = self._rows[:, envs].T.tolist(), self._how[:, envs].T.tolist()
        for place, number in enumerate(self._number[0, envs].tolist()):
            self._book.finish(number)
            acted = {str(player): count for player, count in enumerate(rows[place]) if count}
            parts = {_HOW[how[place][int(player)]] for player in acted}
            ended = "interrupted" if "interrupted" in parts else how_it_ended(parts)
            outcome = dict.fromkeys(acted)
            metadata: dict[str, Any] = {}
            if self._has_outcomes:
                given = self._outcome[:, envs[place]].tolist()
                outcome = {player: _number_or_none(given[int(player)]) for player in acted}
            if self._holds and (early := self._unclaimed[:, envs[place]]).any():
                metadata["reward_before_action"] = {str(p): early[p].item() for p in early.nonzero()[0].tolist()}
            out.append(EpisodeEnd(number, now, ended, max(rows[place]) - 1, outcome, acted, metadata))
        return out

    def _cut(self, which: np.ndarray, now: int) -> list[EpisodeEnd]:
        """Last rows of the episodes that are open in these environments, and their ends."""
        envs = which & self._begun & self._ready
        if not np.count_nonzero(envs):
            return []
        players = self._live & envs & (self._rows > 0)
        self._time[...] = now
        self._flush_held(players, ())
        self._feed.ready(self._table.envs)
        self._table.append(self._feed.sink, self._last_sources[self._before], _entries(players))
        self._rows += players
        return self._ends(envs, now)

    def _restart(self, which: np.ndarray) -> None:
        """Episodes that have no row yet, in these environments."""
        others = ~which
        self._live |= which
        self._ready |= which
        self._first |= which
        self._begun &= others
        self._turn *= others
        self._rows *= others
        self._how *= others
        if self._holds:
            self._held &= others
            self._unclaimed *= others
        if self._has_outcomes:
            self._outcome[:, which] = np.nan
        self._all_begun, self._all_live = False, np.count_nonzero(self._live) == self._live.size

    def _check_idle(self, acting: np.ndarray, done: np.ndarray) -> None:
        """Raises UsageError where a reward or an end comes for a row that was not held."""
        idle = self._live & ~acting & ~self._held & (self._rows > 0)
        if (idle & (done | (self._table.parts[ROWS]["reward"] != 0))).any():
            raise UsageError(
                "step: a reward came for a player that is not active, after a step without active=; give it"
            )

    def _reward_held(self, acting: np.ndarray) -> None:
        """Rewards and ends of players that did not act belong to their last actions."""
        held, rows = self._table.parts[HELD], self._table.parts[ROWS]
        idle = self._live & ~acting
        late = idle & self._held
        for name in ("reward", "terminated", "truncated"):
            held[name][late] += rows[name][late]
        early = idle & (self._rows == 0)
        self._unclaimed[early] += rows["reward"][early]

    def _flush_held(self, players: np.ndarray, starts: Sequence[EpisodeStart]) -> None:
        """Write the rows that are held of these players."""
        out = players & self._held
        if out.any():
            self._feed.ready(self._table.envs)
            self._table.append(self._feed.sink, self._held_sources, _entries(out))
            self._held &= ~out
        self._feed.commit(starts)

    def _hold(self, players: np.ndarray, before: int) -> None:
        """Keep the rows of these players until they act again, or their part is over."""
        parts, seen = self._table.parts, set(_with_validity(self._seen_fields))
        for name, target in parts[HELD].items():
            target[players] = parts[before if name in seen else ROWS][name][players]
        self._held |= players


def _is_seen(field: Field) -> bool:
    """Whether the field says what a player sees before its action, like the mask of what it may do then."""
    return field.belongs == "observation" or field.name == "action_mask"


def _any_player(flags: np.ndarray) -> np.ndarray:
    return flags[0] if len(flags) == 1 else np.logical_or.reduce(flags)


def _entries(flags: np.ndarray) -> np.ndarray:
    """Which rows of the table are meant."""
    return flags.reshape(-1).nonzero()[0]


def _with_validity(fields: Any) -> list[str]:
    return [name for field in fields for name in (field.name, f"valid:{field.name}")[: 1 + field.nullable]]


def _number_or_none(value: float) -> float | None:
    return None if value != value else value
