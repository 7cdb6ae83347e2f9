"""Minari: a folder of datasets, one for each player, which `minari.load_dataset` opens with MINARI_DATASETS_PATH set to
that folder. A dataset is called `SOURCE/player0-v0`, with the part of a split between the two.

Observations and actions are those of the schema's groups; spaces follow from dtypes and bounds. Everything else of a
row stands in `infos`, of all T+1 rows, and the Head in the first dataset's metadata. Images are not made JPEG, which
would change them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from expkit.errors import ShardError, UsageError
from expkit.formats.hdf5 import refuse_other_files
from expkit.formats.protocol import (
    HEAD_KEY,
    Batch,
    Carries,
    ExportOptions,
    Head,
    Part,
    Recorded,
    Shards,
    belongs_to,
    column_names,
    column_type,
    rows_of,
    tree_path,
)
from expkit.formats.several import joined
from expkit.row.schema import Field, Schema
from expkit.system.extras import require

if TYPE_CHECKING:
    import gymnasium
    from minari.dataset.minari_storage import MinariStorage

_METADATA = "metadata.json"
_VALUES = "main_data.hdf5"
_BATCH_ROWS = 8192
_CUT = "last_transition"  # in infos of an episode without a final observation: its last action, which has no place
_FLAGS = {"reward": "rewards", "terminated": "terminations", "truncated": "truncations"}
_UNUSABLE = re.compile(r"[^-_\w]+")


class MinariFormat:
    name = "minari"
    suffixes: tuple[str, ...] = ()
    about = "Minari datasets, one a player"
    carries = Carries(least_rows=2)  # an observation and what an action led to
    compressions: tuple[str, ...] = ("none",)
    by_player = True
    card: dict[str, Any] | None = None

    def export(self, batches: Iterator[Batch], head: Head, target: Path, options: ExportOptions) -> None:
        self.export_folder([Part("", head, batches)], target, options, Shards())

    def export_folder(self, parts: Sequence[Part], target: Path, options: ExportOptions, shards: Shards) -> None:
        target.mkdir()
        for part in parts:
            if part.head.rows == "transitions":
                raise UsageError("Minari keeps the final observation of every episode; leave out --rows transitions")
            _write(part, target)

    def recognises(self, source: Path) -> bool:
        return bool(_datasets(source))

    def import_(self, source: Path) -> Recorded:
        found = _datasets(source)
        if not found:
            raise ShardError(f"{source}: there is no Minari dataset in it, a folder with data/{_METADATA}")
        opened = [_open(path) for path in found]
        told = [storage.read_raw_metadata(path) for storage, path in zip(opened, found, strict=True)]
        heads = [one for one in told if HEAD_KEY in one]
        if heads:
            return _own(opened, told, source)
        if len(opened) > 1:
            names = ", ".join(str(path.parent.relative_to(source)) for path in found[:5])
            raise UsageError(f"{source} holds {len(opened)} datasets; import one of them: {names}")
        return Recorded(_foreign(opened[0], found[0]))


def _write(part: Part, target: Path) -> None:
    head, storage = part.head, None
    player, waiting = -1, []
    first = True
    for episode in episodes_of(part.batches):
        if int(episode["player"][0]) != player:
            if storage is not None:
                storage.update_episodes(_buffers(waiting, head))
                waiting = []
            player = int(episode["player"][0])
            storage = _new_storage(target, head, part.name, player, first)
            first = False
        waiting.append(episode)
        if sum(map(rows_of, waiting)) >= _BATCH_ROWS and storage is not None:
            storage.update_episodes(_buffers(waiting, head))
            waiting = []
    if storage is not None:
        storage.update_episodes(_buffers(waiting, head))


def episodes_of(batches: Iterator[Batch]) -> Iterator[Batch]:
    """A player's batches cut into episodes, each of which is held as a whole."""
    held: list[Batch] = []
    for batch in batches:
        cuts = np.flatnonzero(batch["episode"][1:] != batch["episode"][:-1]) + 1
        bounds = [0, *cuts.tolist(), rows_of(batch)]
        for begin, end in pairwise(bounds):
            part = {name: values[begin:end] for name, values in batch.items()}
            if held and (held[0]["episode"][0] != part["episode"][0] or held[0]["player"][0] != part["player"][0]):
                yield joined(held)
                held = []
            held.append(part)
    if held:
        yield joined(held)


def _new_storage(target: Path, head: Head, part: str, player: int, first: bool) -> MinariStorage:
    require("h5py", "minari", "Minari")
    minari = require("minari", "minari", "Minari")
    storage = require("minari.dataset.minari_storage", "minari", "Minari").MinariStorage
    source = _UNUSABLE.sub("-", str(head.run.get("source", "expkit"))).strip("-") or "expkit"
    name = "/".join([source, *([part] if part else []), f"player{player}-v0"])
    path = target.absolute() / name / "data"  # Minari cannot tell the size of a relative one
    path.mkdir(parents=True)
    made: MinariStorage = storage.new(
        path, space_of(head.schema, "observation"), space_of(head.schema, "action"), jpeg_encoding=False
    )
    told = {"dataset_id": name, "minari_version": minari.__version__, "expkit_player": player}
    made.update_metadata(told | ({HEAD_KEY: head.to_json().decode()} if first else {}))
    return made


def space_of(schema: Schema, group: str) -> gymnasium.Space[Any]:
    """The space of a field, or of the fields of a group, one Dict inside the other by slashes. Raises UsageError where
    there is none."""
    spaces = require("gymnasium.spaces", "minari", "Minari")
    if group in schema:
        return _space(schema[group])
    tree: dict[str, Any] = {}
    for field in schema.fields:
        if field.name.startswith(group + "/"):
            *folders, leaf = tree_path(schema, field.name).split("/")[1:]
            inner = tree
            for folder in folders:
                inner = inner.setdefault(folder, {})
            inner[leaf] = _space(field)
    if not tree:
        raise UsageError(f"Minari needs {group}, and the rows have no field of that name; leave it among --columns")

    def made(branch: dict[str, Any]) -> Any:
        return spaces.Dict({key: made(one) if isinstance(one, dict) else one for key, one in branch.items()})

    space: gymnasium.Space[Any] = made(tree)
    return space


def _space(field: Field) -> gymnasium.Space[Any]:
    spaces = require("gymnasium.spaces", "minari", "Minari")
    dtype = field.numpy_dtype
    if dtype.kind == "b":
        out = spaces.MultiBinary(field.logical_shape) if field.shape else spaces.Discrete(2)
    elif dtype.kind in "iu" and not field.shape and field.low is not None and field.high is not None:
        out = spaces.Discrete(int(field.high) - int(field.low) + 1, start=int(field.low))
    else:
        whole = np.iinfo(dtype) if dtype.kind in "iu" else None
        low, high = (-np.inf, np.inf) if whole is None else (whole.min, whole.max)
        low, high = low if field.low is None else field.low, high if field.high is None else field.high
        out = spaces.Box(np.full(field.shape, low, dtype), np.full(field.shape, high, dtype), dtype=dtype.type)
    made: gymnasium.Space[Any] = out
    return made


def _buffers(episodes: list[Batch], head: Head) -> Iterator[Any]:
    buffer = require("minari.data_collector.episode_buffer", "minari", "Minari").EpisodeBuffer
    starts = {record.number: record.start for record in head.episodes}
    for rows in episodes:
        if rows_of(rows) < MinariFormat.carries.least_rows:
            continue
        number = int(rows["episode"][0])
        start = starts.get(number)
        seed = None if start is None else start.seeds.get("env")
        # T observations and no final one: the last action has no place.
        steps = rows_of(rows) - 1
        infos: dict[str, Any] = {}
        for name in column_names(head.schema):
            of_spaces = any(belongs_to(head.schema, name, group) for group in ("observation", "action"))
            if name != "player" and name not in _FLAGS and not of_spaces:
                _put(infos, tree_path(head.schema, name), rows[name])
        if not rows["is_last"][-1]:
            for name in _of_steps(head.schema):
                _put(infos, f"{_CUT}/{name}", rows[name][steps:])
        yield buffer(
            seed=None if seed is None or not -(1 << 63) <= seed < 1 << 63 else seed,
            observations=_group(head.schema, "observation", rows, steps + 1),
            actions=_group(head.schema, "action", rows, steps),
            rewards=rows["reward"][:steps],
            terminations=rows["terminated"][:steps],
            truncations=rows["truncated"][:steps],
            infos=infos,
        )


def _of_steps(schema: Schema) -> list[str]:
    """Columns of which an episode has T values."""
    return [name for name in column_names(schema) if name in _FLAGS or belongs_to(schema, name, "action")]


def _group(schema: Schema, group: str, rows: Batch, count: int) -> Any:
    if group in schema:
        return rows[group][:count]
    out: dict[str, Any] = {}
    for field in schema.fields:
        if field.name.startswith(group + "/"):
            _put(out, tree_path(schema, field.name).removeprefix(group + "/"), rows[field.name][:count])
    return out


def _put(tree: dict[str, Any], name: str, values: np.ndarray) -> None:
    *folders, leaf = name.split("/")
    for folder in folders:
        tree = tree.setdefault(folder, {})
    tree[leaf] = values


def _datasets(source: Path) -> list[Path]:
    """Folders `data` of the datasets at or below a folder."""
    if not source.is_dir():
        return []
    if (source / _METADATA).is_file() and (source / _VALUES).is_file():
        return [source]
    found = sorted(path.parent for path in source.rglob(f"data/{_METADATA}"))
    return found


def _open(path: Path) -> MinariStorage:
    h5py = require("h5py", "minari", "Minari")
    storage = require("minari.dataset.minari_storage", "minari", "Minari").MinariStorage
    try:
        with h5py.File(path / _VALUES, "r") as file:
            refuse_other_files(file, path / _VALUES)
    except (OSError, RuntimeError, KeyError) as error:
        raise ShardError(f"{path / _VALUES}: it is no sound HDF5 file: {error}") from None
    try:
        opened: MinariStorage = storage.read(path)
    except Exception as error:  # it makes the environment where it has not the spaces, and that raises anything
        raise ShardError(f"{path}: Minari cannot open it: {type(error).__name__}: {error}") from None
    return opened


def _own(opened: Sequence[MinariStorage], told: Sequence[dict[str, Any]], source: Path) -> Recorded:
    """Datasets that `export` wrote, of all players."""
    texts = [one[HEAD_KEY] for one in told if HEAD_KEY in one]
    if len(texts) > 1:
        raise UsageError(f"{source} holds several exports; import them one by one")
    head = Head.from_json(str(texts[0]).encode(), source)

    def rows() -> Iterator[Batch]:
        for storage, one in zip(opened, told, strict=True):
            player = int(one.get("expkit_player", 0))
            yield from _together(_own_episode(episode, head.schema, player) for episode in _episodes(storage))

    return Recorded(_sound(rows(), source), head)


def _episodes(storage: MinariStorage) -> Iterator[dict[str, Any]]:
    yield from storage.get_episodes(range(storage.total_episodes))


def _own_episode(episode: dict[str, Any], schema: Schema, player: int) -> Batch:
    infos, rows = episode["infos"], len(episode["infos"]["step"])
    out: Batch = {}
    for name in column_names(schema):
        dtype, shape = column_type(schema, name)
        if name == "player":
            out[name] = np.full(rows, player, np.uint16)
            continue
        if name in _FLAGS:
            values = episode[_FLAGS[name]]
        elif belongs_to(schema, name, "observation"):
            values = _get(episode["observations"], _inside(schema, "observation", name))
        elif belongs_to(schema, name, "action"):
            values = _get(episode["actions"], _inside(schema, "action", name))
        else:
            values = _get(infos, tree_path(schema, name))
        whole = np.zeros((rows, *shape), dtype)
        whole[: len(values)] = values
        if _CUT in infos and name in _of_steps(schema):
            whole[len(values) :] = _get(infos[_CUT], name)
        out[name] = whole
    return out


def _inside(schema: Schema, group: str, name: str) -> str:
    """Where a column stands in its group, "" when it is all of it."""
    return "" if name == group else tree_path(schema, name).removeprefix(f"{group}/")


def _get(tree: Any, name: str) -> np.ndarray:
    for part in name.split("/") if name else ():
        tree = tree[part]
    return np.asarray(tree)


def _foreign(storage: MinariStorage, path: Path) -> Iterator[Batch]:
    """A dataset of somebody else's: T+1 rows an episode, under expkit's names."""

    def rows() -> Iterator[Batch]:
        for number, episode in enumerate(_episodes(storage)):
            steps = len(episode["rewards"])
            out: Batch = {
                "episode": np.full(steps + 1, number, np.uint64),
                "is_last": np.arange(steps + 1) == steps,
            }
            trees = {
                "observation": episode["observations"],
                "action": episode["actions"],
                "reward": episode["rewards"],
                "terminated": episode["terminations"],
                "truncated": episode["truncations"],
                "info": episode["infos"] or {},
            }
            for group, tree in trees.items():
                for name, values in _leaves(group, tree):
                    if len(values) in (steps, steps + 1) and values.dtype.kind in "biuf":
                        whole = np.zeros((steps + 1, *values.shape[1:]), values.dtype)
                        whole[: len(values)] = values
                        out[name] = whole
            yield out

    return _sound(_together(rows()), path)


def _leaves(name: str, tree: Any) -> Iterator[tuple[str, np.ndarray]]:
    if isinstance(tree, dict):
        for key, inner in tree.items():
            yield from _leaves(f"{name}/{key}", inner)
    elif isinstance(tree, tuple):
        for at, inner in enumerate(tree):
            yield from _leaves(f"{name}/{at}", inner)
    else:
        yield name, np.asarray(tree)


def _together(episodes: Iterator[Batch]) -> Iterator[Batch]:
    """Episodes in batches of some thousand rows."""
    waiting: list[Batch] = []
    for episode in episodes:
        if waiting and (
            episode.keys() != waiting[0].keys() or sum(map(rows_of, waiting)) + rows_of(episode) > _BATCH_ROWS
        ):
            yield joined(waiting)
            waiting = []
        waiting.append(episode)
    if waiting:
        yield joined(waiting)


def _sound(batches: Iterator[Batch], source: Path) -> Iterator[Batch]:
    try:
        yield from batches
    except (OSError, RuntimeError, KeyError, ValueError, TypeError) as error:
        if isinstance(error, ShardError):
            raise
        raise ShardError(f"{source}: it is damaged: {error}") from None
