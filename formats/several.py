"""Outputs in several files: cut when they are written, read as one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
import numpy as np

from expkit.errors import NotThere, SchemaError, ShardError
from expkit.formats.protocol import Batch, Format, Head, Recorded, Shards, rows_of


def files_in(folder: Path, suffixes: Sequence[str]) -> list[Path]:
    """Files of a format in a folder and below it, by name; hidden ones are left out. Raises NotThere."""
    found = sorted(
        path
        for path in folder.rglob("*")
        if path.is_file() and path.name.lower().endswith(tuple(suffixes)) and not path.name.startswith(".")
    )
    if not found:
        raise NotThere(f"{folder}: there is no file in it that ends in {' or '.join(suffixes)}")
    return found


def read_several(format: Format, files: Sequence[Path]) -> Recorded:
    """All rows of `files`, one after the other. Raises ShardError for files of different schemas."""
    opened = [format.import_(path) for path in files]
    notes = list(dict.fromkeys(note for one in opened for note in one.notes))
    heads = [one.head for one in opened if one.head is not None]
    if heads and len(heads) < len(opened):
        raise ShardError(f"{files[0].parent}: some of its files were exported by expkit, others not; import them apart")
    return Recorded(_rows(opened), _one_head(files, heads) if heads else None, notes)


def gathered(batches: Iterator[Batch], rows: int, size: int) -> Iterator[Batch]:
    """Consecutive batches joined, as long as they have at most `rows` rows and `size` bytes together: what readers of
    a format go through as one."""
    waiting: list[Batch] = []
    count = held = 0
    for batch in batches:
        nbytes = sum(values.nbytes for values in batch.values())
        if waiting and (count + rows_of(batch) > rows or held + nbytes > size):
            yield joined(waiting)
            waiting, count, held = [], 0, 0
        waiting.append(batch)
        count, held = count + rows_of(batch), held + nbytes
    if waiting:
        yield joined(waiting)


def joined(batches: Sequence[Batch]) -> Batch:
    """One batch of several."""
    if len(batches) == 1:
        return batches[0]
    return {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}


def _rows(opened: Sequence[Recorded]) -> Iterator[Batch]:
    for one in opened:
        yield from one.batches


def _one_head(files: Sequence[Path], heads: Sequence[Head]) -> Head:
    first = heads[0]
    for path, head in zip(files, heads, strict=True):
        if head.schema != first.schema or head.players != first.players or head.rows != first.rows:
            raise ShardError(f"{path} and {files[0]} do not hold rows of one kind; import them apart")
        if head.run.get("policies") != first.run.get("policies"):
            raise ShardError(f"{path} and {files[0]} have other tables of policies; import them apart")
    records = {record.number: record for head in heads for record in head.episodes}
    count = sum(len(head.episodes) for head in heads)
    if len(records) < count:
        raise SchemaError(f"{files[0].parent}: episode numbers stand twice in its files; import them apart")
    return msgspec.structs.replace(
        first,
        episodes=[records[number] for number in sorted(records)],
        filtered=any(head.filtered for head in heads),
        shuffled=any(head.shuffled for head in heads),
    )


class Cutter:
    """Cuts a stream of batches into shards."""

    def __init__(self, batches: Iterator[Batch], shards: Shards):
        self._batches, self._rows, self._size = batches, shards.rows, shards.size
        self._left: Batch | None = None

    def more(self) -> bool:
        """Whether there are rows left."""
        if self._left is None:
            self._left = next(self._batches, None)
        return self._left is not None

    def shard(self, target: Path) -> Iterator[Batch]:
        """The rows of the next file."""
        count = in_memory = 0
        while self.more():
            batch, self._left = self._left, None
            assert batch is not None
            rows = rows_of(batch)
            if self._rows and count + rows > self._rows:
                cut = self._rows - count
                self._left = {name: values[cut:] for name, values in batch.items()}
                batch = {name: values[:cut] for name, values in batch.items()}
            count += rows_of(batch)
            in_memory += sum(values.nbytes for values in batch.values())
            if rows_of(batch):
                yield batch
            full = self._rows and count >= self._rows
            # What is buffered is not in the file yet; a format that writes at its end has only what it was given.
            written = target.stat().st_size if target.exists() else in_memory
            if full or (self._size and written >= self._size):
                return
