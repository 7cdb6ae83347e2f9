"""Columns of files that know nothing of expkit, as the rows of a run.

Names of other tools are understood (`observations`, `terminals`, `timeouts`, `next_observations`, …); dtypes and shapes
become the schema; episodes are cut by a column of their numbers, else where `terminated` or `truncated` is true. What
was assumed stands in `notes`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from expkit.errors import SchemaError, ShardError
from expkit.formats.protocol import Batch, Recorded, rows_of
from expkit.row.episodes import Ended, EpisodeEnd
from expkit.row.schema import DTYPES, RESERVED, Field, Schema

# What other tools call a column, by the first part of its name.
ALIASES = {
    "observations": "observation",
    "obs": "observation",
    "actions": "action",
    "rewards": "reward",
    "terminals": "terminated",
    "terminations": "terminated",
    "done": "terminated",
    "dones": "terminated",
    "timeouts": "truncated",
    "truncations": "truncated",
    "next_observations": "next_observation",
    "next_obs": "next_observation",
    "infos": "info",
    "episode_id": "episode",
    "episode_index": "episode",
    "timestep": "step",
    "frame_index": "step",
    "player_id": "player",
    "agent_id": "player",
}
_NEXT = "next_observation"
_WHOLE = ("episode", "step", "player")
_FLAGS = ("terminated", "truncated", "is_first", "is_last")
_KNOWN = (*_WHOLE, *_FLAGS)
_ODD = re.compile(r"[^A-Za-z0-9_.\-/]+")


class ForeignRows:
    """Batches with all keys out of batches without them; may be iterated once, giving (batch, ends of episodes).

    schema, players, time_ns, notes are known from the first batch on. Raises ShardError, SchemaError.
    """

    def __init__(self, recorded: Recorded, source: Path):
        self._source = source
        self.notes = list(recorded.notes)
        first = next(recorded.batches, None)
        if first is None or not rows_of(first):
            raise ShardError(f"{source}: there are no rows in it")
        self._batches = chain([first], recorded.batches)
        self._names = _renamed(list(first), self.notes)
        # Rows have no stamps of their own: those of the file make two imports of it the same.
        self.time_ns = source.stat().st_mtime_ns
        self._observed = {} if "is_last" in self._names.values() else self._with_next()
        self.schema = self._schema(first)
        self.players = self._players(first)
        self._tell()
        self._streams: dict[int, _Stream] = {}
        self._parts: dict[int, dict[int, _Part]] = {}

    def _with_next(self) -> dict[str, str]:
        """By observation field the column that holds what was seen next."""
        out = {}
        for given, name in self._names.items():
            if name == _NEXT or name.startswith(_NEXT + "/"):
                out["observation" + name.removeprefix(_NEXT)] = given
        return out

    def _schema(self, first: Batch) -> Schema:
        fields, dropped = [], []
        for given, name in self._names.items():
            if name in _KNOWN or given in self._observed.values():
                continue
            if given.startswith("valid:"):
                continue
            values = first[given]
            dtype = "bool" if values.dtype == bool else values.dtype.str[1:]
            if dtype not in DTYPES:
                dropped.append(given)
                continue
            belongs: Any = "step"
            if name.partition("/")[0] == "observation":
                belongs = "observation"
            elif name.partition("/")[0] == "action":
                belongs = "action"
            elif "mask" in name and not self._observed:
                belongs = "observation"
            shape = values.shape[1:]
            if name == "reward" and shape == (1,):
                shape = ()
            nullable = f"valid:{given}" in first
            fields.append(Field(name, dtype, shape, belongs, nullable=nullable))
        if dropped:
            self.notes.append(f"left out, for they are no numbers: {', '.join(dropped)}")
            self._names = {given: name for given, name in self._names.items() if given not in dropped}
        if not fields:
            raise ShardError(f"{self._source}: none of its columns holds numbers: {', '.join(first)}")
        return Schema(fields)

    def _players(self, first: Batch) -> list[str]:
        given = next((given for given, name in self._names.items() if name == "player"), None)
        count = 1 if given is None else int(first[given].max()) + 1
        if count > 1 << 10:
            raise ShardError(f"{self._source}: player {count - 1} is out of range")
        return [f"player{number}" for number in range(count)]

    def _tell(self) -> None:
        names = set(self._names.values())
        if "reward" not in names:
            self.notes.append("no column of rewards: they are 0")
        if "episode" in names:
            self.notes.append("episodes are cut by their numbers")
        elif names & {"terminated", "truncated"}:
            said = " or ".join(name for name in ("terminated", "truncated") if name in names)
            self.notes.append(f"episodes are cut where {said} is true; what follows the last cut is interrupted")
        else:
            self.notes.append("nothing tells episodes apart: all rows are one, interrupted at its end")
        if self._observed:
            self.notes.append("final observations are the next observations of the last actions")
        elif "is_last" not in names:
            self.notes.append("final observations are not known, so episodes end with their last action")

    def __iter__(self) -> Iterator[tuple[Batch, list[EpisodeEnd]]]:
        for raw in self._batches:
            batch = self._columns(raw)
            for player in np.unique(batch["player"]).tolist():
                mine = batch["player"] == player
                part = batch if mine.all() else {name: values[mine] for name, values in batch.items()}
                stream = self._streams.setdefault(player, _Stream())
                yield from self._keyed(stream.take(part), player)
        for player, stream in self._streams.items():
            yield from self._keyed(stream.rest(), player)

    def open_ends(self) -> list[EpisodeEnd]:
        """Of the episodes whose end was not told while they were read."""
        return [self._end(number) for number in sorted(self._parts)]

    def _columns(self, raw: Batch) -> Batch:
        """Under expkit's names, in the schema's dtypes."""
        rows, out = rows_of(raw), {}
        for given, name in self._names.items():
            if given not in raw:
                raise ShardError(f"{self._source}: column {given} is not in all of it")
            values = raw[given]
            if len(values) != rows:
                raise ShardError(f"{self._source}: {given} has {len(values):,} rows, others {rows:,}")
            if name in _KNOWN:
                out[name] = self._key(given, name, values.reshape(rows, -1)[:, 0] if values.ndim > 1 else values)
            elif given in self._observed.values():
                out[name] = values
            else:
                field = self.schema[name]
                try:
                    out[name] = self.schema.unpack(
                        name, self.schema.pack(name, values.reshape(rows, *field.shape), rows)
                    )
                except ValueError as error:
                    raise ShardError(f"{self._source}: {error}") from None
                if field.nullable:
                    out[f"valid:{name}"] = raw.get(f"valid:{given}", np.ones(rows, bool))
        for name in ("terminated", "truncated"):
            out.setdefault(name, np.zeros(rows, bool))
        out.setdefault("reward", np.zeros(rows, np.float32))
        out.setdefault("player", np.zeros(rows, np.uint16))
        return out

    def _key(self, given: str, name: str, values: np.ndarray) -> np.ndarray:
        if name in _FLAGS:
            return values != 0
        kinds = {"episode": np.uint64, "step": np.uint32, "player": np.uint16}
        if values.dtype.kind not in "iuf" or (len(values) and float(values.min()) < 0):
            raise ShardError(f"{self._source}: {given} has to hold whole numbers from 0 on")
        cast = values.astype(kinds[name])
        if not np.array_equal(cast, values):
            raise ShardError(f"{self._source}: {given} has to hold whole numbers from 0 on")
        return cast

    def _keyed(self, part: _Keyed | None, player: int) -> Iterator[tuple[Batch, list[EpisodeEnd]]]:
        """A player's consecutive rows with keys and final rows."""
        if part is None or not len(part.episode):
            return
        rows, closing = len(part.episode), part.closing
        source = np.arange(rows)
        is_last = part.batch.get("is_last", np.zeros(rows, bool))
        if self._observed:
            source = np.repeat(source, 1 + closing)
            is_last = np.append(False, source[1:] == source[:-1])
        out: Batch = {
            "episode": part.episode[source],
            "player": np.full(len(source), player, np.uint16),
            "step": (part.step[source] + (is_last if self._observed else 0)).astype(np.uint32),
            "policy": np.zeros(len(source), np.uint16),
            "policy_version": np.zeros(len(source), np.uint32),
            "time_ns": np.full(len(source), self.time_ns, np.int64),
            "is_first": part.first[source] & ~is_last,
            "is_last": is_last,
        }
        for field in self.schema.fields:
            values = part.batch[field.name][source]
            if field.belongs != "observation":
                values[is_last] = 0
            elif self._observed and field.name in self._observed:
                seen = part.batch[_NEXT + field.name.removeprefix("observation")]
                values[is_last] = seen[source[is_last]].reshape(-1, *field.shape)
            out[field.name] = values
            if field.nullable:
                valid = part.batch[f"valid:{field.name}"][source]
                out[f"valid:{field.name}"] = valid & ~is_last if field.belongs != "observation" else valid
        yield out, self._note(out, part, player)

    def _note(self, out: Batch, part: _Keyed, player: int) -> list[EpisodeEnd]:
        """Count rows, and how the episodes that are over ended."""
        numbers, counts = np.unique(out["episode"], return_counts=True)
        for number, count in zip(numbers.tolist(), counts.tolist(), strict=True):
            known = self._parts.setdefault(number, {}).setdefault(player, _Part())
            known.rows += count
        for name in ("terminated", "truncated"):
            for number in np.unique(out["episode"][out[name]]).tolist():
                setattr(self._parts[number][player], name, True)
        for number in np.unique(out["episode"][out["is_last"]]).tolist():
            self._parts[number][player].last_rows = 1
        if len(self.players) > 1:
            return []
        over = part.episode[part.closing]
        return [self._end(number) for number in dict.fromkeys(over.tolist()) if number in self._parts]

    def _end(self, number: int) -> EpisodeEnd:
        parts = self._parts.pop(number)
        ended: Ended = "interrupted"
        if any(part.terminated for part in parts.values()):
            ended = "terminated"
        elif any(part.truncated for part in parts.values()):
            ended = "truncated"
        length = max(part.rows - part.last_rows for part in parts.values())
        rows = {str(player): part.rows for player, part in sorted(parts.items())}
        cut = any(not part.last_rows for part in parts.values())
        return EpisodeEnd(number, self.time_ns, ended, length, rows=rows, cut=cut)


class _Part:
    """What is known of a player's part of an episode."""

    __slots__ = ("last_rows", "rows", "terminated", "truncated")

    def __init__(self) -> None:
        self.rows = self.last_rows = 0
        self.terminated = self.truncated = False


class _Keyed:
    """Consecutive rows of a player: `first` and `closing` are true on the first and last row of an episode."""

    def __init__(self, batch: Batch, episode: np.ndarray, step: np.ndarray, first: np.ndarray, closing: np.ndarray):
        self.batch, self.episode, self.step, self.first, self.closing = batch, episode, step, first, closing


class _Stream:
    """Numbers the rows of one player. The newest row is held back until it is known what follows it."""

    def __init__(self) -> None:
        self._held: Batch | None = None
        self._episode = 0  # number of the held row's
        self._step = -1  # of the row before the held one
        self._fresh = True  # the held row begins an episode

    def take(self, part: Batch) -> _Keyed | None:
        """All rows but the last."""
        whole = part if self._held is None else {n: np.concatenate([self._held[n], part[n]]) for n in part}
        self._held = {name: values[-1:] for name, values in whole.items()}
        return self._numbered(whole, len(whole["player"]) - 1)

    def rest(self) -> _Keyed | None:
        """The row that was held back: the last of its episode."""
        return None if self._held is None else self._numbered(self._held, 1, over=True)

    def _numbered(self, whole: Batch, rows: int, over: bool = False) -> _Keyed:
        """Keys of the first `rows` rows; one more is looked at."""
        begins = np.zeros(len(whole["player"]), bool)
        begins[0] = self._fresh
        begins[1:] = self._cuts(whole)
        closing = np.append(begins[1:], over)[:rows]
        if "episode" in whole:
            episode = whole["episode"]
        else:
            offset = np.cumsum(begins) - begins[0]
            episode = (self._episode + offset).astype(np.uint64)
        if "step" in whole:
            step = whole["step"].astype(np.int64)
        else:
            at = np.arange(len(begins))
            since = np.maximum.accumulate(np.where(begins, at, -1))
            step = np.where(since >= 0, at - since, at + self._step + 1)
        if len(begins) > rows:
            self._fresh, self._episode, self._step = bool(begins[rows]), int(episode[rows]), int(step[rows]) - 1
        batch = {name: values[:rows] for name, values in whole.items()}
        return _Keyed(batch, episode[:rows], step[:rows], begins[:rows], closing)

    @staticmethod
    def _cuts(whole: Batch) -> np.ndarray:
        """bool, one fewer than rows: between a row and the next an episode ends."""
        if "episode" in whole:
            return whole["episode"][1:] != whole["episode"][:-1]
        cuts = np.zeros(len(whole["player"]) - 1, bool)
        if "is_last" in whole and whole["is_last"].any():
            cuts |= whole["is_last"][:-1]
        else:
            cuts |= (whole["terminated"] | whole["truncated"])[:-1]
        if "is_first" in whole:
            cuts |= whole["is_first"][1:]
        return cuts


def _renamed(columns: list[str], notes: list[str]) -> dict[str, str]:
    """expkit's name of each column; raises SchemaError where two would have the same."""
    out: dict[str, str] = {}
    for given in columns:
        if given.startswith("valid:"):
            continue
        first, slash, rest = given.partition("/")
        name = ALIASES.get(first.lower(), first) + slash + rest
        name = _ODD.sub("_", name).strip("/")
        if not name or not (name[0].isalpha() or name[0] == "_"):
            name = f"c_{name}"
        if name in RESERVED and name not in _KNOWN:
            name = f"info/{name}"
        if name in out.values():
            if given in columns and name == given:
                other = next(key for key, value in out.items() if value == name)
                out[other] = f"info/{other}"
            else:
                name = f"info/{name}"
        if name in out.values():
            raise SchemaError(f"two columns would both be called {name}; rename {given}")
        out[given] = name
    called = [f"{given} is {name}" for given, name in out.items() if given != name and "/" not in name]
    if called:
        notes.append(", ".join(called))
    return out
