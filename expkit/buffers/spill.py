"""SpillBuffer: a buffer on disk, first in, first out, for rows that found no room in memory."""

from __future__ import annotations

import contextlib
import os
import struct
import threading
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np

from expkit.buffers.claim import Claimed, concatenate
from expkit.buffers.protocol import Batch, BufferStats, ExperienceBuffer
from expkit.buffers.rows import RowForm
from expkit.errors import BufferClosed, NotThere, WriteFailed
from expkit.row.dropped import CAUSES, causes_of
from expkit.row.layout import BlockLayout, aligned_empty
from expkit.system.forks import clean_up

_HEADER = struct.Struct("<4sIqI")  # magic, rows, bytes that follow, crc32 of them
_MAGIC = b"spil"
_ALL = 1 << 62
_CLEARED = CAUSES.index("cleared")
_FAILED = CAUSES.index("spill-failed")


@dataclass(slots=True)
class _Part:
    """One run of rows in a file. `gap` counts rows dropped in front of it, by cause in the order of CAUSES."""

    file: _File
    position: int
    nbytes: int
    rows: int
    gap: list[int]
    taken: int = 0


@dataclass(slots=True)
class _File:
    path: Path
    descriptor: int
    nbytes: int = 0
    parts: int = 0


class SpillBuffer(ExperienceBuffer):
    """Rows of one player in files of raw stored columns, with a crc32 per run of rows.

    A file is deleted when all it holds is drained, and none grows beyond `file_bytes` by more than one run, so that
    disk space comes back while rows keep coming. The files are scratch space: they do not outlive the buffer's
    process. A run of rows that cannot be read back, or whose checksum is wrong, is counted as dropped
    (spill-failed) and is a gap in front of the rows that follow. Made for blocks of rows: adding one by one works
    but costs a write each.

    path   of the first file; further ones get a number behind it
    """

    def __init__(
        self, layout: BlockLayout, path: str | os.PathLike[str], *, player: int = 0, file_bytes: int = 1 << 28
    ):
        self.schema, self.layout, self.player = layout.schema, layout, player
        self.path = Path(path)
        self._file_bytes = file_bytes
        self._form = RowForm(layout.schema)
        self._lock = threading.RLock()
        self._parts: deque[_Part] = deque()
        self._file: _File | None = None
        self._files_made = 0
        self._files: dict[int, Path] = {}
        clean_up(self, _remove_files, self._files)
        self._front: tuple[_Part, np.ndarray] | None = None  # the oldest part, once read
        self._gap = [0] * len(CAUSES)  # behind the last part
        self._dropped = [0] * len(CAUSES)
        self._held = self._high_water = self._added = self._drained = self._sequence = 0
        self._closed = False

    # Adding

    def add(self, row: Mapping[str, Any]) -> None:
        self.add_batch({name: np.asarray(value)[None] for name, value in row.items() if value is not None})

    def add_batch(self, columns: Mapping[str, Any]) -> None:
        if self._closed:
            raise BufferClosed("this buffer is closed; rows can only be drained from it")
        rows, stored = self._form.stored(columns)
        for start in range(0, rows, self.layout.rows):
            count = min(self.layout.rows, rows - start)
            chunk = {name: array[start : start + count] for name, array in stored.items()}
            self._append(chunk, count, [0] * len(CAUSES))

    def put(self, claim: Claimed) -> None:
        """Append the rows of a claim, and the gap in front of them. Raises WriteFailed; the rows are dropped then."""
        self._append(claim.columns, claim.rows, [claim.dropped_before.get(cause, 0) for cause in CAUSES])

    def _append(self, stored: Mapping[str, np.ndarray], rows: int, gap: list[int]) -> None:
        body = b"".join(
            np.ascontiguousarray(stored[column.name]).tobytes()
            if column.name in stored
            else bytes(rows * column.row_bytes)
            for column in self.layout.columns
        )
        with self._lock:
            self._added += rows
            gap = [before + more for before, more in zip(self._gap, gap, strict=True)]
            try:
                part = self._write(body, rows, gap)
            except OSError as error:
                gap[_FAILED] += rows
                self._gap = gap
                self._dropped[_FAILED] += rows
                raise WriteFailed(
                    error.errno, f"{self.path}: cannot spill {rows} rows: {error.strerror}; free disk space"
                ) from None
            self._gap = [0] * len(CAUSES)
            self._parts.append(part)
            self._held += rows
            self._high_water = max(self._high_water, self._held)

    def _write(self, body: bytes, rows: int, gap: list[int]) -> _Part:
        if self._file is None or self._file.nbytes >= self._file_bytes:
            self._file = self._next_file()
        file = self._file
        header = _HEADER.pack(_MAGIC, rows, len(body), crc32(body))
        try:
            _write_all(file.descriptor, header + body, file.nbytes)
        except OSError:
            # What was half written is overwritten by the next run; a file without runs goes at once.
            self._file = None
            if file.parts == 0:
                self._remove(file)
            raise
        part = _Part(file, file.nbytes, len(body), rows, gap)
        file.nbytes += _HEADER.size + len(body)
        file.parts += 1
        return part

    def _next_file(self) -> _File:
        path = self.path.with_name(f"{self.path.name}.{self._files_made}") if self._files_made else self.path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._files_made += 1
        file = _File(path, os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600))
        self._files[file.descriptor] = path
        return file

    # Taking

    def claim(self, max_rows: int | None = None, stop_at_gap: bool = False) -> Claimed | None:
        """The oldest run of rows, up to `max_rows` of it; None when there is none, or a gap in front of it and
        `stop_at_gap`."""
        with self._lock:
            while self._parts:
                part = self._parts[0]
                if stop_at_gap and any(part.gap):
                    return None
                memory = self._load_front()
                if memory is not None:
                    break
            else:
                return None
            rows = min(part.rows - part.taken, _ALL if max_rows is None else max_rows)
            start, gap = part.taken, part.gap
            part.taken += rows
            part.gap = [0] * len(CAUSES)
            whole = part.taken == part.rows
            if whole:
                self._forget(0)
            self._held -= rows
            self._drained += rows
            sequence, self._sequence = self._sequence, self._sequence + 1
            return Claimed(self.player, sequence, self.layout, memory, 0, start, rows, whole, causes_of(gap), None)

    def take_gap(self) -> dict[str, int]:
        """Rows dropped behind the last row held, by cause; they are told once."""
        with self._lock:
            gap, self._gap = self._gap, [0] * len(CAUSES)
            return causes_of(gap)

    @property
    def size(self) -> int:
        """Rows held."""
        return self._held

    @property
    def gap_ahead(self) -> bool:
        """Whether rows were dropped in front of the next ones, be they in this buffer or yet to come."""
        return any(self._parts[0].gap if self._parts else self._gap)

    def drain(self, max_rows: int | None = None) -> Batch | None:
        left = _ALL if max_rows is None else max_rows
        claims: list[Claimed] = []
        with self._lock:
            while left > 0 and (claim := self.claim(left, bool(claims))) is not None:
                claims.append(claim)
                left -= claim.rows
        return concatenate(claims) if claims else None

    def _load_front(self) -> np.ndarray | None:
        """The oldest part as a block; None when it cannot be read and is dropped."""
        part = self._parts[0]
        if self._front is None or self._front[0] is not part:
            memory = self._read(part)
            if memory is None:
                self._lose(0)
                return None
            self._front = (part, memory)
        return self._front[1]

    def _read(self, part: _Part) -> np.ndarray | None:
        """A part as a block of the layout, or None when its bytes are not what was written."""
        try:
            raw = os.pread(part.file.descriptor, _HEADER.size + part.nbytes, part.position)
        except OSError:
            return None
        body = memoryview(raw)[_HEADER.size :]
        if raw[: _HEADER.size] != _HEADER.pack(_MAGIC, part.rows, part.nbytes, crc32(body)):
            return None
        memory = aligned_empty(self.layout.nbytes)
        position = 0
        for offset, width in zip(self.layout.offsets.tolist(), self.layout.widths.tolist(), strict=True):
            nbytes = width * part.rows
            memory[offset : offset + nbytes] = np.frombuffer(body[position : position + nbytes], np.uint8)
            position += nbytes
        return memory

    def _lose(self, index: int) -> None:
        """Drop an unreadable part; it is the gap in front of the one behind it."""
        part = self._parts[index]
        rows = part.rows - part.taken
        gap = self._parts[index + 1].gap if index + 1 < len(self._parts) else self._gap
        for cause, count in enumerate(part.gap):
            gap[cause] += count
        gap[_FAILED] += rows
        self._dropped[_FAILED] += rows
        self._held -= rows
        self._forget(index)

    def _forget(self, index: int) -> None:
        part = self._parts[index]
        del self._parts[index]
        self._front = None
        part.file.parts -= 1
        if part.file.parts == 0:
            if part.file is self._file:
                self._file = None
            self._remove(part.file)

    def _remove(self, file: _File) -> None:
        _remove_files({file.descriptor: self._files.pop(file.descriptor)})

    # Looking

    def latest(self, rows: int, *, include_drained: bool = False) -> Batch:
        with self._lock:
            return self._copy(lambda held: np.arange(max(0, held - rows), held))

    def sample(self, count: int, rng: np.random.Generator, *, include_drained: bool = False) -> Batch:
        with self._lock:
            if self._held == 0:
                raise NotThere(f"the buffer of player {self.player} is empty; nothing to sample")
            return self._copy(lambda held: rng.integers(held, size=count) if held else np.zeros(0, np.int64))

    def _copy(self, choose: Callable[[int], np.ndarray]) -> Batch:
        while True:
            chosen = choose(self._held)
            columns = self.rows_at(chosen)
            if columns is not None:
                return Batch(self.player, len(chosen), columns)

    def rows_at(self, indices: np.ndarray) -> dict[str, np.ndarray] | None:
        """Copies of rows by their index among those held, oldest first. None when one could not be read; its run is
        dropped then, and indices mean other rows."""
        columns = {c.name: np.empty(c.shape(len(indices)), c.dtype) for c in self.layout.columns}
        with self._lock:
            start = 0
            for number, part in enumerate(self._parts):
                stop = start + part.rows - part.taken
                wanted = np.flatnonzero((indices >= start) & (indices < stop))
                if len(wanted):
                    memory = self._read(part)
                    if memory is None:
                        self._lose(number)
                        return None
                    for name, view in self.layout.views(memory).items():
                        columns[name][wanted] = view[indices[wanted] - start + part.taken]
                start = stop
        return columns

    # Closing and counting

    def clear(self) -> None:
        with self._lock:
            while self._parts:
                part = self._parts[0]
                rows = part.rows - part.taken
                self._gap = [before + more for before, more in zip(self._gap, part.gap, strict=True)]
                self._gap[_CLEARED] += rows
                self._dropped[_CLEARED] += rows
                self._held -= rows
                self._forget(0)

    def close(self) -> None:
        self._closed = True

    def stats(self) -> BufferStats:
        with self._lock:
            dropped = dict(zip(CAUSES, self._dropped, strict=True))
            return BufferStats(self._held, 0, self._high_water, self._added, self._drained, dropped)


def _write_all(descriptor: int, data: bytes, position: int) -> None:
    left = memoryview(data)
    while left:
        written = os.pwrite(descriptor, left, position)
        left, position = left[written:], position + written


def _remove_files(files: dict[int, Path]) -> None:
    """Close and delete scratch files, by descriptor."""
    while files:
        descriptor, path = files.popitem()
        with contextlib.suppress(OSError):  # a full disk may complain once more
            os.close(descriptor)
        path.unlink(missing_ok=True)
