"""Rows that a pipeline quarantines while it records: kept in a shard file of their own, as they came.

`quarantine/rejected-w0-000000.exp` has the schema of the rows before the pipeline and nothing but blocks of them; it is
no shard of the run. It is made when the first such row comes, and readable while it grows, as every shard file is.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence

import numpy as np

from expkit.formats.shard.encode import BlockEncoder
from expkit.formats.shard.write import ShardWriter
from expkit.row.schema import Schema
from expkit.runs.layout import QUARANTINE_DIR, SHARD_SUFFIX
from expkit.runs.write import RunWriter, shard_header
from expkit.system.files import DiskErrors, make_folder


class Aside:
    """Takes quarantined rows of the writer of a run, from any thread. `links`: names of the pipeline's, for the file's
    header."""

    def __init__(self, writer: RunWriter, schema: Schema, links: Sequence[str]):
        self._writer, self._schema, self._links = writer, schema, list(links)
        self._lock = threading.Lock()
        self._file: ShardWriter | None = None
        self._encoder: BlockEncoder | None = None

    def append(self, player: int, columns: Mapping[str, np.ndarray]) -> None:
        """Stored columns of rows of one player. Raises NoSpace, WriteFailed."""
        with self._lock:
            if self._encoder is None or self._file is None:
                self._encoder, self._file = BlockEncoder(self._schema), self._open()
            self._file.append_block(self._encoder.encode(player, columns, len(columns["step"])))

    def close(self) -> None:
        """Give the file its index, if there is one. Raises NoSpace, WriteFailed."""
        with self._lock:
            if self._file is not None:
                self._file.close()

    def _open(self) -> ShardWriter:
        folder, writer = self._writer.run / QUARANTINE_DIR, self._writer.writer
        with DiskErrors(folder, "keep rejected rows"):
            make_folder(folder)
            number = 0
            while (path := folder / f"rejected-w{writer}-{number:06d}{SHARD_SUFFIX}").exists():
                number += 1
        header = shard_header(self._writer.info, number, writer=writer)
        return ShardWriter(path, self._schema, {**header, "rejected_by": self._links})
