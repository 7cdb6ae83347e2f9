"""Files of other formats into a run. What an export of expkit wrote comes back as it was; of other files the columns
tell what can be told, see `expkit.exchange.foreign`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from expkit.errors import ExpkitError, ShardError
from expkit.exchange.buckets import BUCKET_BYTES, Buckets
from expkit.exchange.building import RunBuilder
from expkit.exchange.foreign import ForeignRows
from expkit.formats.protocol import Batch, Format, Head, Recorded, column_names, column_type, rows_of
from expkit.formats.several import files_in, read_several
from expkit.rewrite.engine import Stopped
from expkit.row.episodes import PolicyInfo
from expkit.row.schema import Schema
from expkit.runs.layout import RunInfo, new_run_id


class _Described(msgspec.Struct):
    """What a Head says of the run."""

    id: str
    source: str
    players: list[str]
    policies: list[PolicyInfo]
    config: dict[str, Any]
    config_digest: str
    seed: str | None
    created_ns: str
    metadata: dict[str, Any]


class Restored(msgspec.Struct):
    """What an import wrote."""

    rows: int
    last_rows: int
    episodes: int
    players: int
    odd_values: int
    notes: list[str]


def import_table(
    source: Path,
    run: Path,
    format: Format,
    *,
    force: bool = False,
    on_rows: Callable[[int], None] | None = None,
    stop: Callable[[], bool] | None = None,
) -> Restored:
    """Import `source`, a file or a folder of files, into a new run.

    on_rows  rows done since the last call;  stop: asked between batches; raises Stopped then

    Raises ShardError for what is not sound, SchemaError for values that rows cannot hold, OutputExists, CheckFailed
    when the result does not validate, NoSpace, WriteFailed. Nothing is at `run` unless all of it could be imported.
    """
    with _Reading(source):
        recorded = open_recorded(source, format)
    recorded.batches = _told(recorded.batches, source, on_rows, stop)
    if recorded.head is None:
        return _from_foreign(recorded, source, run, format, force)
    return _restored(recorded, recorded.head, source, run, format, force)


def _told(
    batches: Iterator[Batch], source: Path, on_rows: Callable[[int], None] | None, stop: Callable[[], bool] | None
) -> Iterator[Batch]:
    while stop is None or not stop():
        with _Reading(source):
            batch = next(batches, None)
        if batch is None:
            return
        yield batch
        if on_rows is not None:
            on_rows(rows_of(batch))
    raise Stopped


class _Reading:
    """Turns whatever a library raises on a file that is not sound, which is anything, into a ShardError."""

    def __init__(self, source: Path):
        self._source = source

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, Exception) and not isinstance(error, ExpkitError):
            said = " ".join(f"{type(error).__name__}: {error}".split())
            raise ShardError(f"{self._source}: it cannot be read, {said}; is it whole, and of this format?") from error


def open_recorded(source: Path, format: Format) -> Recorded:
    """What is at `source`; of formats that are files, a folder stands for all of them in it."""
    if source.is_dir() and format.suffixes:
        return read_several(format, files_in(source, format.suffixes))
    return format.import_(source)


def _restored(recorded: Recorded, head: Head, source: Path, run: Path, format: Format, force: bool) -> Restored:
    info = _info(head, source, format)
    records = {record.number: record for record in head.episodes}
    notes = list(recorded.notes)
    if head.rows == "transitions":
        notes.append("the export left final observations out, so episodes end with their last action")
    with RunBuilder(run, info, records, whole=not head.filtered, force=force) as builder:
        batches: Iterator[Batch] = (
            _checked(batch, head.schema, len(info.policies), source) for batch in recorded.batches
        )
        if head.shuffled:
            batches = _sorted(batches, head, run.parent, f".{run.name}.rows.")
        for batch in batches:
            builder.add(batch)
        odd = builder.finish()
        changed, of = builder.differing() if format.carries.bits else (0, 0)
    if changed:
        notes.append(f"the rows of {changed:,} of {of:,} players' episodes are not those that were exported")
    return Restored(builder.rows, builder.last_rows, builder.episodes, len(info.players), odd, notes)


def _info(head: Head, source: Path, format: Format) -> RunInfo:
    try:
        told = msgspec.convert(head.run, _Described)
        seed, created = None if told.seed is None else int(told.seed), int(told.created_ns)
    except (msgspec.ValidationError, ValueError) as error:
        raise ShardError(f"{source}: its description of the run is damaged: {error}") from None
    if not told.players:
        raise ShardError(f"{source}: its description of the run names no players")
    return RunInfo(
        id=new_run_id(),
        source=told.source,
        schema=head.schema,
        players=told.players,
        policies=told.policies,
        config=told.config,
        config_digest=told.config_digest,
        seed=seed,
        created_ns=created,
        metadata={**told.metadata, "imported": format.name, "imported_run": told.id},
    )


def _checked(batch: Batch, schema: Schema, policies: int, source: Path) -> Batch:
    """A batch with all columns of the schema, each of its type. Raises ShardError."""
    rows = rows_of(batch)
    for name in column_names(schema):
        if name not in batch:
            raise ShardError(f"{source}: column {name} is missing")
        dtype, shape = column_type(schema, name)
        values = batch[name]
        if values.dtype != dtype or values.shape != (rows, *shape):
            raise ShardError(
                f"{source}: column {name} holds {values.dtype} {values.shape[1:]} where {dtype} {shape} is declared"
            )
    if rows and int(batch["policy"].max()) >= max(policies, 1):
        raise ShardError(f"{source}: policy {int(batch['policy'].max())} is not in its table of {policies}")
    return batch


def _sorted(batches: Iterator[Batch], head: Head, folder: Path, prefix: str) -> Iterator[Batch]:
    """Rows in random order by episode, player and step: episodes that fit memory together wait on the disk."""
    schema = head.schema
    numbers = np.array([record.number for record in head.episodes], np.uint64)
    sizes = np.array([sum(record.rows.values()) for record in head.episodes], np.int64)
    order = np.argsort(numbers)
    numbers, upto = numbers[order], np.cumsum(sizes[order])
    folder.mkdir(parents=True, exist_ok=True)
    with Buckets(schema, int(upto[-1]) if len(upto) else 0, folder, prefix, BUCKET_BYTES) as buckets:
        bucket_of = (upto - 1) * buckets.count // max(int(upto[-1]) if len(upto) else 1, 1)
        for batch in batches:
            place = np.searchsorted(numbers, batch["episode"])
            if len(numbers) == 0 or not np.array_equal(numbers[np.minimum(place, len(numbers) - 1)], batch["episode"]):
                raise ShardError("rows are of an episode that the file's description does not name")
            stored = {c.name: schema.pack(c.name, batch[c.name], rows_of(batch)) for c in schema.columns}
            buckets.put(stored, batch["player"], np.maximum(bucket_of[place], 0))
        for number in range(buckets.count):
            stored, players = buckets.take(number)
            if not len(players):
                continue
            by = np.lexsort((stored["step"], stored["episode"], players))
            out = {name: schema.unpack(name, values[by]) for name, values in stored.items()}
            yield out | {"player": players[by]}


def _from_foreign(recorded: Recorded, source: Path, run: Path, format: Format, force: bool) -> Restored:
    rows = ForeignRows(recorded, source)
    info = RunInfo(
        id=new_run_id(),
        source=format.name,
        schema=rows.schema,
        players=rows.players,
        created_ns=rows.time_ns,
        metadata={"imported": format.name},
    )
    with RunBuilder(run, info, {}, force=force) as builder:
        for batch, ends in rows:
            builder.end(ends)
            builder.add(batch)
        builder.end(rows.open_ends())
        odd = builder.finish()
    return Restored(builder.rows, builder.last_rows, builder.episodes, len(info.players), odd, rows.notes)
