"""HDF5 in the layout of D4RL: `observations`, `actions`, `rewards`, `terminals`, `timeouts`, `next_observations`, and
`infos/…` for everything else, a row for each action. With rows of one player they stand at the root, as readers of D4RL
want them; of several each player has a group of them, `player0` and on.

D4RL has no place for final observations but `next_observations`, none for episodes that were interrupted but
`timeouts`, and none for what is known of a run. So the final rows and the Head stand in a group `expkit` beside, which
other readers pass over, and `infos/interrupted` tells which timeouts are none.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from expkit.errors import ShardError, UsageError
from expkit.formats.protocol import (
    HEAD_KEY,
    Batch,
    Carries,
    ExportOptions,
    Head,
    Recorded,
    belongs_to,
    column_names,
    column_type,
    rows_of,
    tree_path,
)
from expkit.row.schema import Schema
from expkit.system.extras import require

if TYPE_CHECKING:
    import h5py

_LAST_ROWS = "last_rows"
_INTERRUPTED = "infos/interrupted"
_CHUNK_BYTES = 1 << 20
_READ_BYTES = 16 << 20
_MOST_HEAD = 1 << 30


class Hdf5Format:
    name = "hdf5"
    suffixes: tuple[str, ...] = (".hdf5", ".h5")
    about = "HDF5 in D4RL's layout"
    carries = Carries()
    compressions: tuple[str, ...] = ("gzip", "lzf", "none")
    by_player = True

    def export(self, batches: Iterator[Batch], head: Head, target: Path, options: ExportOptions) -> None:
        h5py = require("h5py", "hdf5", "HDF5")
        alone = len(players_of(head)) <= 1
        with h5py.File(target, "w") as file:
            kept = file.create_group(HEAD_KEY)
            kept.create_dataset("head", data=np.frombuffer(head.to_json(), np.uint8), compression="gzip")
            lasts = _Table(kept.create_group(_LAST_ROWS), options)
            tables: dict[int, _Table] = {}
            for batch, following in with_following(batches):
                player = int(batch["player"][0])
                if player not in tables:
                    tables[player] = _Table(file if alone else file.create_group(f"player{player}"), options)
                tables[player].append(d4rl_columns(batch, following, head))
                ended = batch["is_last"]
                if ended.any():
                    lasts.append({tree_path(head.schema, n): values[ended] for n, values in batch.items()})

    def import_(self, source: Path) -> Recorded:
        h5py = require("h5py", "hdf5", "HDF5")
        try:
            with h5py.File(source, "r") as file:
                refuse_other_files(file, source)
                if HEAD_KEY in file and "head" in file[HEAD_KEY]:
                    stored = file[HEAD_KEY]["head"]
                    if stored.size > _MOST_HEAD:
                        raise ShardError(f"{source}: its description by expkit is larger than {_MOST_HEAD:,} bytes")
                    head = Head.from_json(stored[()].tobytes(), source)
                    return Recorded(_read_own(source, head), head)
                names, notes = _foreign_columns(file, source)
        except (OSError, RuntimeError, KeyError) as error:
            raise ShardError(f"{source}: it is no sound HDF5 file: {error}") from None
        return Recorded(_read_foreign(source, names), None, notes)


def refuse_other_files(file: h5py.File, source: Path) -> None:
    """A file may say that its values are those of another one, whose name it chooses: an import would then read what
    it was never given. Raises ShardError."""
    h5py = require("h5py", "hdf5", "HDF5")

    def refuse(name: str, how: str, other: Any) -> None:
        told = other.decode(errors="replace") if isinstance(other, bytes) else other
        raise ShardError(f"{source}: {name} is {how} another file, {told}; copy the values into one file (h5repack)")

    todo, seen = [file["/"]], set()
    while todo:
        group = todo.pop()
        for key in group:
            link, name = group.get(key, getlink=True), f"{group.name}/{key}".replace("//", "/")
            if isinstance(link, h5py.ExternalLink):
                refuse(name, "a link into", link.filename)
            if not isinstance(link, h5py.HardLink):
                continue  # within the file: what it points to is reached, or refused, by itself
            item = group[key]
            address = h5py.h5o.get_info(item.id).addr
            if address in seen:
                continue
            seen.add(address)
            if isinstance(item, h5py.Group):
                todo.append(item)
            elif isinstance(item, h5py.Dataset):
                for other, *_ in item.external or ():
                    refuse(name, "stored in", other)
                for virtual in item.virtual_sources() if item.is_virtual else ():
                    if virtual.file_name != ".":
                        refuse(name, "a view of", virtual.file_name)


def players_of(head: Head) -> list[int]:
    """Players of whom there are rows, as far as the episodes tell; all where they do not."""
    found = {int(player) for record in head.episodes for player, rows in record.rows.items() if rows}
    return sorted(found) if found else list(range(len(head.players)))


def with_following(batches: Iterator[Batch]) -> Iterator[tuple[Batch, Batch | None]]:
    """Each batch with the one after it, None at the end."""
    before = next(batches, None)
    while before is not None:
        after = next(batches, None)
        yield before, after
        before = after


def d4rl_columns(batch: Batch, following: Batch | None, head: Head) -> dict[str, np.ndarray]:
    """The transitions of a player's batch under D4RL's names."""
    schema, rows = head.schema, rows_of(batch)
    acted = np.flatnonzero(~batch["is_last"])
    after = acted + 1
    inside = after < rows
    continues = np.zeros(len(acted), bool)
    continues[inside] = batch["episode"][after[inside]] == batch["episode"][acted[inside]]
    crossing = bool(
        len(acted)
        and not inside[-1]
        and following is not None
        and following["player"][0] == batch["player"][0]
        and following["episode"][0] == batch["episode"][-1]
    )
    out = {}
    for name in column_names(schema):
        if name not in ("player", "is_last"):
            out[path_of(schema, name)] = batch[name][acted]
    if head.rows == "all":
        place = np.where(continues, np.minimum(after, rows - 1), acted)
        for field in schema.fields:
            path = path_of(schema, field.name)
            if path == "observations" or path.startswith("observations/"):
                seen = batch[field.name][place]
                if crossing and following is not None:
                    seen[-1] = following[field.name][0]
                out[f"next_{path}"] = seen
    # The last action of an episode: what follows is its final row, or nothing of it.
    over = ~continues
    over[continues] = batch["is_last"][after[continues]]
    if crossing and following is not None:
        over[-1] = bool(following["is_last"][0])
    interrupted = over & ~out["terminals"] & ~out["timeouts"]
    return out | {"timeouts": out["timeouts"] | interrupted, _INTERRUPTED: interrupted}


def path_of(schema: Schema, name: str) -> str:
    """Where a column stands in the file."""
    known = {"reward": "rewards", "terminated": "terminals", "truncated": "timeouts"}
    if name in known:
        return known[name]
    for group in ("observation", "action"):
        if belongs_to(schema, name, group):
            return f"{group}s" if name == group else f"{group}s{tree_path(schema, name).removeprefix(group)}"
    return f"infos/{tree_path(schema, name)}"


class _Table:
    """Datasets of a group that grow together."""

    def __init__(self, group: Any, options: ExportOptions):
        self._group = group
        chosen = options.compression or "gzip"
        self._filters: dict[str, Any] = {"fletcher32": True}
        if chosen != "none":
            self._filters |= {"compression": chosen, "shuffle": True}
        if chosen == "gzip":
            self._filters["compression_opts"] = options.level or 1
        self._datasets: dict[str, Any] = {}
        self.rows = 0

    def append(self, columns: dict[str, np.ndarray]) -> None:
        rows = rows_of(columns)
        for name, values in columns.items():
            dataset = self._datasets.get(name)
            if dataset is None:
                shape = values.shape[1:]
                size = max(values.dtype.itemsize * int(np.prod(shape)), 1)
                chunk = (min(max(1, _CHUNK_BYTES // size), 1 << 16), *shape)
                dataset = self._datasets[name] = self._group.create_dataset(
                    name, (0, *shape), values.dtype, maxshape=(None, *shape), chunks=chunk, **self._filters
                )
            dataset.resize(self.rows + rows, axis=0)
            dataset[self.rows :] = values
        self.rows += rows


def _read_own(source: Path, head: Head) -> Iterator[Batch]:
    """What `export` wrote: transitions, each episode's followed by its final row."""
    h5py = require("h5py", "hdf5", "HDF5")
    try:
        with h5py.File(source, "r") as file:
            names = [name for name in column_names(head.schema) if name not in ("player", "is_last")]
            lasts = file[HEAD_KEY][_LAST_ROWS]
            last_players = lasts["player"][()] if "player" in lasts else np.empty(0, np.uint16)
            groups = [
                (int(name[6:]), file[name]) for name in file if name.startswith("player") and name[6:].isdecimal()
            ]
            if not groups and "rewards" in file:
                groups = [((players_of(head) or [0])[0], file)]
            for player, group in groups:
                mine = np.flatnonzero(last_players == player)
                yield from _player_rows(group, player, head, names, lasts, mine)
    except (OSError, RuntimeError, KeyError) as error:
        raise ShardError(f"{source}: it is damaged: {error}") from None


def _player_rows(
    group: h5py.Group, player: int, head: Head, names: list[str], lasts: h5py.Group, mine: np.ndarray
) -> Iterator[Batch]:
    schema = head.schema
    rows = len(group["rewards"])
    last_episodes = lasts["episode"][()][mine] if len(mine) else np.empty(0, np.uint64)
    at = 0
    most = max(1, _READ_BYTES // schema.row_bytes)
    for begin in range(0, rows, most):
        place = slice(begin, min(begin + most, rows))
        batch = {name: _part(group[path_of(schema, name)], schema, name, place) for name in names}
        batch["truncated"] = batch["truncated"] & ~group[_INTERRUPTED][place]
        batch["player"] = np.full(len(batch["episode"]), player, np.uint16)
        batch["is_last"] = np.zeros(len(batch["episode"]), bool)
        yield batch
        # Final rows of the episodes that are complete now: they stand in the same order.
        seen = batch["episode"] if place.stop == rows else batch["episode"][batch["episode"] != batch["episode"][-1]]
        known = np.isin(last_episodes[at:], seen)
        upto = at + (int(np.argmin(known)) if not known.all() else len(known))
        if upto > at:
            first, last = int(mine[at]), int(mine[upto - 1])
            inside = mine[at:upto] - first
            part = {
                name: _part(lasts[tree_path(schema, name)], schema, name, slice(first, last + 1))[inside]
                for name in column_names(schema)
            }
            yield part
            at = upto


def _part(dataset: h5py.Dataset, schema: Schema, name: str, place: slice) -> np.ndarray:
    values: np.ndarray = dataset[place]
    dtype, shape = column_type(schema, name)
    if values.dtype != dtype or values.shape[1:] != shape:
        raise ShardError(f"{dataset.name} holds {values.dtype} {values.shape[1:]} where {dtype} {shape} is declared")
    return values


def _foreign_columns(file: h5py.File, source: Path) -> tuple[list[str], list[str]]:
    """Datasets with a row for each reward, and notes on those that are left out."""
    h5py = require("h5py", "hdf5", "HDF5")
    found: dict[str, int] = {}

    def look(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset) and item.shape and not name.startswith("metadata/"):
            found[name] = item.shape[0]

    file.visititems(look)
    leading = next((name for name in ("rewards", "actions", "observations") if name in found), None)
    if leading is None:
        raise UsageError(
            f"{source}: it has neither rewards nor actions nor observations at its root, as D4RL's layout has; "
            f"it has {', '.join(list(file)[:8])}"
        )
    rows = found[leading]
    odd = [name for name, count in found.items() if count != rows]
    notes = [f"left out, for they have not {rows:,} rows as {leading} has: {', '.join(odd)}"] if odd else []
    return [name for name in found if name not in odd], notes


def _read_foreign(source: Path, names: list[str]) -> Iterator[Batch]:
    h5py = require("h5py", "hdf5", "HDF5")
    try:
        with h5py.File(source, "r") as file:
            rows = len(file[names[0]])
            width = sum(file[name].dtype.itemsize * int(np.prod(file[name].shape[1:])) for name in names)
            most = max(1, _READ_BYTES // max(width, 1))
            for begin in range(0, rows, most):
                yield {name: file[name][begin : begin + most] for name in names}
    except (OSError, RuntimeError) as error:
        raise ShardError(f"{source}: it is damaged: {error}") from None
