"""Rows from the loop of a Gymnasium environment: `reset` with what is seen first, `step` with what an action caused.

What is seen waits here, copied, until its action comes: then both make a row. Everything is done for all environments
at once; only an episode that begins or ends costs some Python of its own.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from expkit.collect.protocol import Feed
from expkit.episodes import Ended, EpisodeEnd, EpisodeStart
from expkit.errors import UsageError
from expkit.recording.autoreset import Autoreset
from expkit.recording.episodes import EpisodeBook, how_it_ended
from expkit.recording.final import final_values
from expkit.recording.lead import Lead, Stored
from expkit.rows import RowFactory
from expkit.schema import Column, Field, Schema

_FLAGS = ("terminated", "truncated")
_HOW: tuple[Ended, ...] = ("interrupted", "terminated", "truncated")
_EVERY = slice(None)


class StepRecording:
    """The episodes of one environment, or of a vector of them, from `reset` to `step` to `step`.

    Arrays are (players, num_envs, ...) within. Its caller holds a lock or is alone.

    feed, factory, book   of the recorder; its own row form goes on beside this one, with other episodes
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
        self._lead = lead = Lead(schema, num_envs, players)
        self._vector = num_envs is not None
        self._feed, self._factory, self._book = feed, factory, book
        self._seen_fields = [field for field in schema.fields if _is_seen(field)]
        self._row_fields = [field for field in schema.fields if not _is_seen(field) and field.name not in _FLAGS]
        final = {field.name for field in schema.fields if field.belongs == "observation"}
        final |= {f"valid:{name}" for name in final}
        self._not_final = [c.name for c in schema.columns if _is_given(c) and c.name not in final]
        both = (players, lead.envs)
        columns = {column.name: column for column in schema.columns}
        # What was seen and has no action yet, by column.
        self._pending: Stored = {}
        for field in self._seen_fields:
            column = columns[field.name]
            self._pending[field.name] = np.zeros((*both, *lead.tail(field.name)), column.dtype)
            if field.nullable:
                self._pending[f"valid:{field.name}"] = np.zeros(both, bool)
        self._policy = np.zeros((2, *both), np.int64)
        self._number = np.zeros(lead.envs, np.uint64)
        self._turn = np.zeros(lead.envs, np.int64)
        self._rows = np.zeros(both, np.int64)
        self._live = np.zeros(both, bool)  # players whose part of the open episode goes on
        self._how = np.zeros(both, np.int8)  # into _HOW, of those whose part is over
        self._outcome = np.full(both, np.nan)
        self._begun = np.zeros(lead.envs, bool)  # whether the open episode has rows
        self._ready = np.zeros(lead.envs, bool)  # whether there is an episode that can be stepped
        self._is_reset = False
        self._seeds: list[dict[str, int]] = [{} for _ in range(lead.envs)]
        self._metadata: list[dict[str, Any]] = [{} for _ in range(lead.envs)]

    @property
    def envs(self) -> int:
        """Number of environments."""
        return self._lead.envs

    @property
    def episodes(self) -> Any:
        """u8 (num_envs,): the episode that each environment's newest row is of; a number for a single environment."""
        return self._number.copy() if self._vector else int(self._number[0])

    def set_policy(self, player: int, index: Any, version: Any) -> None:
        """Policy table row and version to stamp on the player's rows: one, or one for each environment."""
        self._policy[0, player], self._policy[1, player] = index, version

    def reset(
        self,
        values: Mapping[str, Any],
        mask: Any = None,
        seeds: Sequence[dict[str, int]] = (),
        metadata: Sequence[dict[str, Any]] = (),
    ) -> None:
        """New episodes, in the environments of `mask` or in all; `seeds` and `metadata` have an entry for each
        environment, or none. What is open there ends as interrupted. Raises SchemaError."""
        seen = self._seen(self._factory.resolve(values))
        which = np.ones(self._lead.envs, bool) if mask is None else self._lead.env_flags("mask", mask)
        if not (self._is_reset or which.all()):
            raise UsageError("reset: the first one is of all environments; leave out mask=")
        self._interrupt(which)
        self._is_reset = True
        self._await(which, seen)
        for env in np.flatnonzero(which).tolist():
            self._seeds[env] = dict(seeds[env]) if seeds else {}
            self._metadata[env] = dict(metadata[env]) if metadata else {}

    def step(
        self,
        values: Mapping[str, Any],
        terminated: Any,
        truncated: Any,
        final: Any = None,
        outcome: Any = None,
    ) -> None:
        """A row of every environment that is in an episode, and last rows where the action ended it. Raises
        SchemaError, UsageError, before anything is recorded."""
        lead = self._lead
        values = self._factory.resolve(values)
        row, seen = self._row(values), self._seen(values)
        acting, phantom = self._live, self._check_ready()
        flags = [
            np.broadcast_to(False, acting.shape) if given is None else lead.flags(name, given)
            for name, given in zip(_FLAGS, (terminated, truncated), strict=True)
        ]
        row["terminated"], row["truncated"] = flags
        done = (flags[0] | flags[1]) & acting
        ended = ready_to_end = None
        last: Stored = seen
        if done.any():
            ready_to_end = done.any(0) & ~(self._live & ~done).any(0)
            ended = np.flatnonzero(ready_to_end)
            last = self._last(seen, final, ended)
            if outcome is not None:
                given = lead.numbers("outcome", outcome)
                self._outcome[:, ended] = given[:, ended]
        elif final is not None and self.autoreset != "same_step":
            self._refuse_final(final)
        now = time.time_ns()
        starts = self._starts(acting)
        for player in range(lead.players):
            self._write(player, now, row, acting[player], last, done[player], self._turn + 1)
        self._rows += acting
        self._rows += done
        self._turn += acting.any(0)
        if ended is None or ready_to_end is None:
            self._feed.commit(starts, ())
        else:
            self._how[done] = np.where(flags[0], 1, 2)[done]
            self._live = acting & ~done
            self._feed.commit(starts, self._ends(ended, now))
            self._ready[ended] = False
        if ended is not None and self.autoreset == "same_step":
            phantom = ready_to_end
        for name, target in self._pending.items():
            target[...] = seen[name]
        if phantom is not None:
            self._restart(phantom)

    def close(self) -> list[EpisodeEnd]:
        """End what is open as interrupted, with what was seen last as its final rows; the caller commits the ends."""
        return self._cut(np.ones(self._lead.envs, bool), time.time_ns()) if self._is_reset else []

    def _check_ready(self) -> np.ndarray | None:
        """bool (num_envs,): environments that reset themselves in this step and have no row of it; None where there
        are none. Raises UsageError for those that have to be reset first."""
        if self._ready.all():
            return None
        if not self._is_reset:
            raise UsageError("step before reset; give rec.reset(observation=...) what the environment's reset returned")
        waiting = ~self._ready
        if self.autoreset == "next_step":
            return waiting
        envs = np.flatnonzero(waiting).tolist()
        which = f"environments {', '.join(map(str, envs[:8]))}" if self._vector else "the environment"
        raise UsageError(f"step: the episode of {which} is over; reset it, and call rec.reset with what it returned")

    def _refuse_final(self, final: Any) -> None:
        raise UsageError(f"final: autoreset {self.autoreset!r} has the last observation in observation=; leave it out")

    def _last(self, seen: Stored, final: Any, ended: np.ndarray) -> Stored:
        """What was seen after the last action, by column, (players, num_envs, ...)."""
        if self.autoreset != "same_step":
            if final is not None:
                self._refuse_final(final)
            return seen
        if not len(ended):
            return seen
        found = final_values(self._factory, self._lead, self._seen_fields, final, ended)
        out = dict(seen)
        for name, values in found.items():
            out[name] = np.array(np.broadcast_to(seen[name], self._pending[name].shape))
            out[name][:, ended] = values
        return out

    def _row(self, values: Mapping[str, Any]) -> Stored:
        """Columns of what belongs to the action that was taken."""
        out: Stored = {}
        for field in self._row_fields:
            self._take(out, field, values.get(field.name))
        return out

    def _seen(self, values: Mapping[str, Any]) -> Stored:
        """Columns of what is seen before the next action."""
        out: Stored = {}
        for field in self._seen_fields:
            self._take(out, field, values.get(field.name))
        return out

    def _take(self, out: Stored, field: Field, value: Any) -> None:
        name = field.name
        if value is None:
            self._factory.check_absent(self._factory.columns[name])
            shape = (self._lead.players, self._lead.envs, *self._lead.tail(name))
            out[name] = np.broadcast_to(np.zeros((), self._factory.columns[name].dtype), shape)
        else:
            out[name] = self._lead.stored(name, value)
        if field.nullable:
            out[f"valid:{name}"] = np.broadcast_to(np.bool_(value is not None), self._live.shape)

    def _starts(self, acting: np.ndarray) -> list[EpisodeStart]:
        """Begin the episodes that get their first row now: none is begun before, so that none is empty."""
        if self._begun.all():
            return []
        starts = []
        for env in np.flatnonzero(acting.any(0) & ~self._begun).tolist():
            number = self._book.allot()
            start = self._book.start_record(number, self._seeds[env], self._metadata[env])
            self._book.hold(number)
            self._number[env], self._begun[env] = number, True
            starts.append(start)
        return starts

    def _write(
        self,
        player: int,
        now: int,
        row: Stored | None,
        acting: np.ndarray,
        last: Stored,
        done: np.ndarray,
        last_turn: np.ndarray,
    ) -> None:
        """Rows of one player: of what it did in the `acting` environments, then the last ones of the `done` ones."""
        envs: Any = _EVERY if acting.all() else np.flatnonzero(acting)
        ends = np.flatnonzero(done)
        rows = 0 if row is None else len(acting) if envs is _EVERY else len(envs)
        if not rows and not len(ends):
            return
        views, at = self._feed.reserve(player, rows + len(ends))
        if row is not None and rows:
            part = slice(at, at + rows)
            for columns in (row, self._pending):
                for name, values in columns.items():
                    views[name][part] = values[player, envs]
            self._stamp(views, part, player, envs, self._turn, now)
            views["is_first"][part] = self._rows[player, envs] == 0
            views["is_last"][part] = False
        if len(ends):
            part = slice(at + rows, at + rows + len(ends))
            for name in self._not_final:
                views[name][part] = 0
            for field in self._seen_fields:
                if field.belongs == "observation":
                    views[field.name][part] = last[field.name][player, ends]
                    if field.nullable:
                        views[f"valid:{field.name}"][part] = last[f"valid:{field.name}"][player, ends]
            self._stamp(views, part, player, ends, last_turn, now)
            views["is_first"][part] = False
            views["is_last"][part] = True
        self._feed.sink.position[player] += rows + len(ends)

    def _stamp(
        self, views: Mapping[str, np.ndarray], part: slice, player: int, envs: Any, turn: np.ndarray, now: int
    ) -> None:
        views["episode"][part] = self._number[envs]
        views["step"][part] = turn[envs]
        views["policy"][part] = self._policy[0, player, envs]
        views["policy_version"][part] = self._policy[1, player, envs]
        views["time_ns"][part] = now

    def _ends(self, envs: np.ndarray, now: int, cut: bool = False) -> list[EpisodeEnd]:
        """The ends of the environments' episodes, whose rows are all written."""
        out = []
        for env in envs.tolist():
            rows = {str(player): n for player, n in enumerate(self._rows[:, env].tolist()) if n}
            how = how_it_ended({_HOW[self._how[int(player), env]] for player in rows})
            outcome = {player: _number_or_none(self._outcome[int(player), env]) for player in rows}
            number = int(self._number[env])
            self._book.finish(number)
            length = max(rows.values()) - 1
            out.append(EpisodeEnd(number, now, "interrupted" if cut else how, length, outcome, rows))
        return out

    def _cut(self, which: np.ndarray, now: int) -> list[EpisodeEnd]:
        """Last rows of the episodes that are open in these environments, and their ends."""
        envs = which & self._begun & self._ready
        if not envs.any():
            return []
        for player in range(self._lead.players):
            done = envs & self._live[player] & (self._rows[player] > 0)
            self._write(player, now, None, done, self._pending, done, self._turn)
            self._rows[player] += done
        return self._ends(np.flatnonzero(envs), now, cut=True)

    def _interrupt(self, which: np.ndarray) -> None:
        if ends := self._cut(which, time.time_ns()):
            self._feed.commit((), ends)

    def _await(self, which: np.ndarray, seen: Stored) -> None:
        """The first observation of new episodes in these environments."""
        for name, target in self._pending.items():
            target[:, which] = seen[name][:, which]
        self._restart(which)

    def _restart(self, which: np.ndarray) -> None:
        self._live[:, which], self._ready[which], self._begun[which] = True, True, False
        self._turn[which], self._rows[:, which], self._how[:, which] = 0, 0, 0
        self._outcome[:, which] = np.nan
        for env in np.flatnonzero(which).tolist():
            self._seeds[env], self._metadata[env] = {}, {}


def _is_seen(field: Field) -> bool:
    """Whether the field says what a player sees before its action, like the mask of what it may do then."""
    return field.belongs == "observation" or field.name == "action_mask"


def _is_given(column: Column) -> bool:
    return column.field is not None or column.is_validity


def _number_or_none(value: Any) -> float | None:
    return None if np.isnan(value) else float(value)
