"""The one factory of rows: fills and checks keys, policy versions, time stamps and defaults for all games.

Games that write whole columns from compiled code (expkit.games.generals) stamp the same keys in their kernel
from the same inputs (`RowSink.policy`, one time stamp a tick); everybody else comes through here.
"""

from __future__ import annotations

import difflib
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from expkit.errors import SchemaError
from expkit.row.host import host_array
from expkit.row.schema import KEY_NAMES, Column, Schema


@dataclass(slots=True)
class Progress:
    """How far one player of one open episode has come."""

    episode: int
    last_step: int
    rows: int = 0
    terminated: bool = False
    truncated: bool = False


class RowFactory:
    """Writes rows into stored column views (see `BlockLayout.views`) of one player's block.

    Checks that steps rise within an (episode, player), that every field is given or nullable, and that nothing
    unknown is given. Not thread-safe: its caller holds a lock or is alone.
    """

    def __init__(self, schema: Schema, players: int):
        self.schema = schema
        self.players = players
        self.policy = np.zeros((players, 2), np.int64)
        self._open: dict[tuple[int, int], Progress] = {}
        self.columns = {column.name: column for column in schema.columns}
        self._fields = [schema.column(field.name) for field in schema.fields]
        self._names = {field.name for field in schema.fields}
        optional = {field.name for field in schema.fields if field.nullable} | {"terminated", "truncated"}
        self._required = self._names - optional
        self._optional_group = _group_aliases(schema)
        self._groups = {field.name[:end] for field in schema.fields for end in _ends(field.name)}

    def set_policy(self, player: int, index: int, version: int) -> None:
        """Policy table row and version to stamp on the player's rows from now on."""
        self.check_player(player)
        self.policy[player] = (index, version)

    def check_player(self, player: int) -> None:
        if not 0 <= player < self.players:
            raise SchemaError(f"player {player} is out of range; the run has players 0 to {self.players - 1}")

    def absent(self, names: Collection[str]) -> list[str] | None:
        """Stored columns that rows of these fields leave out, and that are then zero; None when `names` has what is no
        field, or lacks one that must be given."""
        given = set(names)
        if not self._required <= given <= self._names:
            return None
        left_out = [name for name in self.columns if name in self._names and name not in given]
        return left_out + [f"valid:{name}" for name in left_out if f"valid:{name}" in self.columns]

    def progress(self, episode: int, player: int) -> Progress | None:
        """Of an open (episode, player), None where there is none."""
        return self._open.get((episode, player))

    def open_players(self, episode: int) -> list[int]:
        """Players with rows and no last row yet in that episode."""
        return sorted(player for number, player in self._open if number == episode)

    def open_episodes(self) -> list[tuple[int, int]]:
        """(episode, player) pairs without their last row yet."""
        return sorted(self._open)

    def forget(self, episode: int, player: int) -> Progress:
        """No more rows of an open (episode, player) come; returns how it went until now."""
        return self._open.pop((episode, player))

    def transition(
        self,
        views: Mapping[str, np.ndarray],
        index: int,
        player: int,
        episode: int,
        step: int,
        values: Mapping[str, Any],
    ) -> None:
        """Write one transition at row `index` of `views`. Raises SchemaError; the row is then not to be published."""
        self.check_player(player)
        progress = self._open.get((episode, player))
        if progress is not None and step <= progress.last_step:
            raise SchemaError(
                f"episode {episode} player {player}: step {step} does not come after step {progress.last_step}"
            )
        values = self.resolve(values)
        for column in self._fields:
            self._assign(views, index, column, values)
        self._stamp(views, index, player, episode, step, first=progress is None, last=False)
        self._advance(views, index, player, episode, step, 1)

    def final(
        self,
        views: Mapping[str, np.ndarray],
        index: int,
        player: int,
        episode: int,
        values: Mapping[str, Any],
        step: int | None = None,
        alone: bool = False,
    ) -> Progress:
        """Write the last row of (episode, player): only what belongs to the observation; the rest stays zero.

        alone   the player never acted, and this is its only row

        Returns how the player's episode went. Raises SchemaError.
        """
        self.check_player(player)
        progress = self._open.get((episode, player))
        if progress is None and not alone:
            raise SchemaError(f"episode {episode} player {player} has no open rows to end")
        if progress is None:
            step = 0 if step is None else step
            progress = Progress(episode, step - 1)
        values = self.resolve(values)
        for column in self._fields:
            assert column.field is not None
            if column.field.belongs == "observation":
                self._assign(views, index, column, values)
            elif column.name in values:
                raise SchemaError(f"{column.name} belongs to the {column.field.belongs}; the last row has none")
            else:
                views[column.name][index] = 0
                if column.field.nullable:
                    views[f"valid:{column.name}"][index] = False
        step = progress.last_step + 1 if step is None else step
        if step <= progress.last_step:
            raise SchemaError(f"episode {episode} player {player}: last step {step} does not rise")
        self._stamp(views, index, player, episode, step, first=progress.rows == 0, last=True)
        progress.rows += 1
        self._open.pop((episode, player), None)
        return progress

    def batch(
        self,
        views: Mapping[str, np.ndarray],
        start: int,
        player: int,
        episode: np.ndarray,
        step: np.ndarray,
        values: Mapping[str, Any],
    ) -> None:
        """Write transitions of many rows from row `start` on; `episode` and `step` are (n,), values lead with n.

        Rows of one episode must come in the order of their steps. Raises SchemaError.
        """
        self.check_player(player)
        rows = len(step)
        part = slice(start, start + rows)
        values = self.resolve(values)
        firsts = np.zeros(rows, bool)
        ends: dict[int, int] = {}
        for i, (number, turn) in enumerate(zip(episode.tolist(), step.tolist(), strict=True)):
            known = self._open.get((number, player))
            before = ends.get(number, known.last_step if known else None)
            if before is not None and turn <= before:
                raise SchemaError(f"episode {number} player {player}: step {turn} does not come after step {before}")
            firsts[i] = before is None
            ends[number] = turn
        for column in self._fields:
            assert column.field is not None
            name, given = column.name, values.get(column.name)
            if given is None:
                self.check_absent(column)
                views[name][part] = 0
            else:
                views[name][part] = self.schema.pack(name, given, rows)
            if column.field.nullable:
                views[f"valid:{name}"][part] = given is not None
        self._stamp(views, part, player, episode, step, firsts, False)
        for number, turn in ends.items():
            mine = np.flatnonzero(episode == number)
            self._advance(views, start + int(mine[-1]), player, number, turn, len(mine))

    def _advance(
        self, views: Mapping[str, np.ndarray], index: int, player: int, episode: int, step: int, rows: int
    ) -> None:
        """Row `index` is the player's newest one of the episode, the last of `rows` new ones."""
        progress = self._open.setdefault((episode, player), Progress(episode, step))
        progress.last_step = step
        progress.rows += rows
        progress.terminated = bool(views["terminated"][index])
        progress.truncated = bool(views["truncated"][index])

    def _stamp(
        self,
        views: Mapping[str, np.ndarray],
        place: int | slice,
        player: int,
        episode: int | np.ndarray,
        step: int | np.ndarray,
        first: bool | np.ndarray,
        last: bool,
    ) -> None:
        """The keys of a row, or of rows that follow on one another."""
        views["episode"][place] = episode
        views["step"][place] = step
        views["policy"][place] = self.policy[player, 0]
        views["policy_version"][place] = self.policy[player, 1]
        views["time_ns"][place] = time.time_ns()
        views["is_first"][place] = first
        views["is_last"][place] = last

    def resolve(self, values: Mapping[str, Any]) -> Mapping[str, Any]:
        """Values by the names of fields: `observation` stands for the only field of that group, and a mapping or a
        tuple under a group's name for its fields (`observation={"army": …}`), to any depth. Raises SchemaError for
        what is no field."""
        if values.keys() <= self._names:
            return values
        out: dict[str, Any] = {}
        for name, value in values.items():
            self._unfold(out, name, value)
        return out

    def _unfold(self, out: dict[str, Any], name: str, value: Any) -> None:
        if name in self._names:
            out[name] = value
        elif isinstance(value, Mapping):
            for key, inner in value.items():
                self._unfold(out, f"{name}/{key}", inner)
        elif name in self._optional_group:
            out[self._optional_group[name]] = value
        elif isinstance(value, tuple) and f"{name}/0" in self._groups:
            for place, inner in enumerate(value):
                self._unfold(out, f"{name}/{place}", inner)
        elif value is not None or name not in self._groups:
            self._known(name)

    def _known(self, name: str) -> str:
        if name in self._names:
            return name
        near = difflib.get_close_matches(name, self._names, 1)
        hint = f"; did you mean {near[0]!r}?" if near else f"; it has {', '.join(sorted(self._names))}"
        if name in KEY_NAMES:
            hint = "; keys are given by name: episode=, step=, player=, and set_policy for the policy"
        raise SchemaError(f"no field {name!r} in the schema{hint}")

    def check_absent(self, column: Column) -> None:
        """Raises SchemaError when a row may not leave the column out."""
        assert column.field is not None
        if not column.field.nullable and column.name not in ("truncated", "terminated"):
            raise SchemaError(f"{column.name} is missing; give it, or declare the field nullable")

    def _assign(self, views: Mapping[str, np.ndarray], index: int, column: Column, values: Mapping[str, Any]) -> None:
        field, name = column.field, column.name
        assert field is not None
        value = values.get(name)
        if value is None:
            self.check_absent(column)
            views[name][index] = 0
        elif type(value) in (int, bool, float) and not field.shape:
            # A Python number: NumPy refuses an integer out of range, but would cut a fraction off.
            if type(value) is float and column.dtype.kind != "f" and not value.is_integer():
                raise SchemaError(f"{name}: {value} does not fit {column.dtype}")
            if column.dtype == bool and value not in (0, 1):
                raise SchemaError(f"{name}: {value} is neither 0 nor 1, and the field is a bool")
            try:
                views[name][index] = value
            except OverflowError:
                raise SchemaError(f"{name}: {value} does not fit {column.dtype}") from None
        else:
            array = host_array(name, value)
            if array.dtype == column.dtype and not column.packed and array.shape == field.shape:
                views[name][index] = array.reshape(-1) if column.items else array
            else:
                views[name][index] = self.schema.pack(name, array[None], 1)[0]
        if field.nullable:
            views[f"valid:{name}"][index] = value is not None


def _group_aliases(schema: Schema) -> dict[str, str]:
    """`observation` for `observation/x` where x is the group's only field."""
    groups: dict[str, list[str]] = {}
    for field in schema.fields:
        if "/" in field.name:
            groups.setdefault(field.name.split("/")[0], []).append(field.name)
    return {group: names[0] for group, names in groups.items() if len(names) == 1}


def _ends(name: str) -> list[int]:
    """Where the name of a group that holds the field ends, and where the whole name does."""
    return [*(place for place, letter in enumerate(name) if letter == "/"), len(name)]
