"""Rows that wait on the disk in buckets, each of which fits memory: what shuffling and sorting of more rows than fit it
are made of."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from expkit.row.schema import Schema
from expkit.system.files import DiskErrors

BUCKET_BYTES = 128 << 20
_MOST_BUCKETS = 4096


class Buckets:
    """A context manager: `put` rows into buckets, `take` a bucket's rows again. The files are in a folder beside the
    output, `prefix` is what its name begins with, and gone afterwards. Raises NoSpace, WriteFailed."""

    def __init__(self, schema: Schema, rows: int, folder: Path, prefix: str, bucket_bytes: int = BUCKET_BYTES):
        self.columns = {column.name: column for column in schema.columns}
        self.count = min(_MOST_BUCKETS, max(1, -(-rows * (schema.row_bytes + 2) // bucket_bytes)))
        self._folder, self._prefix = folder, prefix
        self._written: list[list[int]] = [[] for _ in range(self.count)]

    def __enter__(self) -> Buckets:
        with DiskErrors(self._folder, "make room for its rows"):
            self._path = Path(tempfile.mkdtemp(prefix=self._prefix, dir=self._folder))
        return self

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self._path, ignore_errors=True)

    def put(self, stored: Mapping[str, np.ndarray], players: np.ndarray, bucket: np.ndarray) -> None:
        """Stored columns of rows, the player (u16) and the bucket (int) of each."""
        order = np.argsort(bucket, kind="stable")
        counts = np.bincount(bucket, minlength=self.count)
        ends = np.cumsum(counts)
        with DiskErrors(self._path, "write rows aside"):
            for number in np.flatnonzero(counts).tolist():
                mine = order[ends[number] - counts[number] : ends[number]]
                with open(self._path / str(number), "ab") as file:
                    file.write(players[mine].data.cast("B"))
                    for name in self.columns:
                        file.write(stored[name][mine].data.cast("B"))
                self._written[number].append(len(mine))

    def take(self, number: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """(stored columns, players) of a bucket, in the order they were put; its file is removed."""
        parts = self._written[number]
        total = sum(parts)
        players = np.empty(total, np.uint16)
        stored = {name: np.empty(column.shape(total), column.dtype) for name, column in self.columns.items()}
        if not total:
            return stored, players
        path = self._path / str(number)
        with open(path, "rb") as file:
            at = 0
            for rows in parts:
                place = slice(at, at + rows)
                for into in (players, *stored.values()):
                    file.readinto(into[place].data.cast("B"))
                at += rows
        os.unlink(path)
        return stored, players
