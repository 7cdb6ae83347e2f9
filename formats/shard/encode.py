"""From the rows of one player, in order of arrival, to the bytes of a block."""

from __future__ import annotations

import struct
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import zstandard

from expkit.errors import SchemaError
from expkit.formats.shard.blocks import lost_entry
from expkit.formats.shard.digest import RowHasher, zeros_for
from expkit.formats.shard.layout import (
    BLOCK,
    CAUSE,
    COLUMN,
    FRAME,
    FRAME_ROWS,
    HAS_NAN,
    MAX_BLOCK_BYTES,
    MAX_ROWS,
    RAW,
    RUN,
    STATS,
    ZSTD,
    checksum,
)
from expkit.kernels.bits import BITS, CONSTANT, DELTA, NONE, PLANES
from expkit.kernels.changes import encode_columns
from expkit.kernels.digest import key_stream, sum_runs
from expkit.kernels.sort import find_runs, order_rows
from expkit.row.layout import aligned_empty
from expkit.row.schema import Column, Schema

WIDE_BYTES = 32  # a column of at least so many bytes a row is framed
_FRAME_TARGET = 64 << 10  # frames of narrower columns hold more rows, until they have so many bytes
_FRAME_MOST = 4 << 20
_ALIGN = 64
_MOST_PIECES = 512
_WORTH_KEEPING = 1 << 20
_U64 = (1 << 64) - 1


@dataclass(frozen=True, slots=True)
class EncodedBlock:
    """A block ready to be appended: `head` and then `pieces` are the record's bytes after the envelope.

    episodes  by episode number (rows, digest) of this block
    """

    player: int
    rows: int
    head: bytes
    pieces: tuple[bytes | memoryview, ...]
    episodes: dict[int, tuple[int, int]]
    index: tuple[int, ...]  # episode, step, policy_version and time ranges, as in the block's head
    dropped: dict[str, int] = field(default_factory=dict)

    @property
    def body_bytes(self) -> int:
        return sum(map(len, self.pieces))

    @property
    def body(self) -> bytes:
        """All pieces as one, copied."""
        return b"".join(self.pieces)

    @property
    def nbytes(self) -> int:
        return len(self.head) + self.body_bytes


def frame_rows_of(column: Column, frame_rows: int) -> int:
    """Rows in a frame of a wide column: `frame_rows`, more for columns whose frames would be small."""
    rows = frame_rows
    while rows * column.row_bytes < _FRAME_TARGET and rows < 8 * frame_rows:
        rows *= 2
    while rows * column.row_bytes > _FRAME_MOST and rows > 1:
        rows //= 2
    return rows


def filter_of(column: Column) -> int:
    """Filter of a narrow column; DELTA falls back to PLANES where that needs fewer bits."""
    if column.dtype == bool:
        return BITS
    if column.dtype.kind in "iu" and (column.dtype.itemsize > 1 or column.items):
        return DELTA
    return PLANES if column.dtype.itemsize > 1 else NONE


class BlockEncoder:
    """Encodes blocks of one schema; keeps its work memory, so a steady state allocates nothing large.

    level        of zstd
    frame_rows   rows that are compressed together in wide columns; narrower ones take up to 8 times as many. More
                 rows need fewer bytes, fewer make single rows cheaper to read.
    narrow_rows  the same for columns below 32 bytes a row; 0 for the whole block

    Measured on 8,103 rows of generals 20x20, 64 games: frames of 128 rows 23.8 bytes a row, 512 21.9, 1,024 21.1.
    Not to be shared between threads. The heavy parts (sort and filter, compress) release the GIL once each.
    """

    def __init__(self, schema: Schema, level: int = 1, frame_rows: int = FRAME_ROWS, narrow_rows: int = 0):
        self.schema = schema
        self.frame_rows = max(1, frame_rows)
        self._compressor = zstandard.ZstdCompressor(level=level)
        self._columns = schema.columns
        self.names = [column.name for column in self._columns]
        self._keys = [key_stream(column.name, column.row_bytes) for column in self._columns]
        self._hasher = RowHasher(schema)
        self._zeros = np.zeros(max(column.row_bytes for column in self._columns), np.uint8)
        self._wide = [column.row_bytes >= WIDE_BYTES for column in self._columns]
        self._frames = [
            frame_rows_of(c, self.frame_rows) if wide else narrow_rows or MAX_ROWS
            for c, wide in zip(self._columns, self._wide, strict=True)
        ]
        most = max(
            (f * c.items // 4 for f, c, w in zip(self._frames, self._columns, self._wide, strict=True) if w), default=1
        )
        self._positions = np.empty(max(4096, most), np.int64)
        self._values = np.empty(len(self._positions), np.uint64)
        self._capacity = 0

    def _reserve(self, rows: int) -> None:
        """Work memory for blocks of `rows` rows: gathered columns, filtered narrow ones, sort tables."""
        if rows <= self._capacity:
            return
        place, tasks = 0, []
        for column, wide, frame, keys in zip(self._columns, self._wide, self._frames, self._keys, strict=True):
            size = -(-(column.row_bytes * rows + 64) // _ALIGN) * _ALIGN
            filtered = 0 if wide else place + size
            tasks.append(
                (0, column.row_bytes, column.dtype.itemsize, wide, frame, place, filtered, keys.ctypes.data,
                 filter_of(column))
            )  # fmt: skip
            place += size if wide else 2 * size
        self._work = aligned_empty(place)
        self._tasks = np.array(tasks, np.int64)
        self._tasks[:, 5] += self._work.ctypes.data
        self._tasks[~np.array(self._wide), 6] += self._work.ctypes.data
        frames = sum(-(-rows // frame) for frame in self._frames)
        self._segments = np.empty((frames, 2), np.int64)
        self._outcome = np.empty((len(self._columns), 2), np.int64)
        self._order = np.empty(rows, np.int32)
        self._place = np.empty(rows, np.int32)
        self._slots = np.empty(1 << max(4, (2 * rows - 1).bit_length()), np.int32)
        self._number = np.empty(rows, np.uint64)
        self._first = np.empty(rows, np.int64)
        self._count = np.empty(rows, np.int64)
        self._hashes = np.empty(rows, np.uint64)
        self._sums = np.empty(rows, np.uint64)
        self._capacity = rows

    def _arrays(self, columns: Mapping[str, np.ndarray], rows: int, lost: Collection[str]) -> list[np.ndarray]:
        """The columns in schema order, checked: kernels read them by address. Those `lost` are zeros."""
        if not 0 < rows <= MAX_ROWS or rows * self.schema.row_bytes > MAX_BLOCK_BYTES:
            raise SchemaError(
                f"a block of {rows:,} rows of {self.schema.row_bytes:,} bytes is outside the format's limits"
            )
        columns = {**columns, **zeros_for(self.schema, lost, rows)}
        out = []
        for column in self._columns:
            if column.name not in columns:
                raise SchemaError(f"block has no column {column.name!r}; it needs {', '.join(self.names)}")
            array = columns[column.name][:rows]
            if array.dtype != column.dtype or array.shape != column.shape(rows):
                raise SchemaError(
                    f"{column.name}: a stored array of {column.dtype} {column.shape(rows)} is needed, "
                    f"not {array.dtype} {array.shape}"
                )
            out.append(np.ascontiguousarray(array))
        return out

    def _sort(self, episodes: np.ndarray, steps: np.ndarray, rows: int) -> int:
        """Fill the order of rows and the run table; returns the number of runs."""
        arguments = self._order, self._number, self._first, self._count
        runs = order_rows(
            episodes.ctypes.data, steps.ctypes.data, rows, self._order, self._slots, *arguments[1:], self._place
        )
        if runs < 0:
            self._order[:rows] = np.lexsort((steps, episodes))
            runs = find_runs(episodes.ctypes.data, rows, *arguments)
        return runs

    def encode(
        self,
        player: int,
        columns: Mapping[str, np.ndarray],
        rows: int,
        dropped: Mapping[str, int] | None = None,
        lost: Collection[str] = (),
    ) -> EncodedBlock:
        """Encode the first `rows` rows of stored `columns` (see `Schema.columns`), in any order.

        dropped  rows of this player lost since its last block, by cause
        lost     columns whose values are gone; they need not be in `columns`. The block keeps its rows and says so,
                 and where a range of the block depended on them, it becomes that of the whole type. Rows without
                 `episode` are taken for those of episode 0, without `step` they keep their order.

        Raises SchemaError for arrays that do not fit the schema, or a lost column that is not in it.
        """
        arrays = self._arrays(columns, rows, lost)
        self._reserve(rows)
        runs = self._sort(arrays[0], arrays[1], rows)
        self._tasks[:, 0] = [array.ctypes.data for array in arrays]
        start = self._hasher.start(player)
        used = encode_columns(
            self._tasks, rows, self._order, start, self._hashes, self._zeros.ctypes.data, self._positions,
            self._values, self._work.ctypes.data, self._segments, self._outcome,
        )  # fmt: skip
        sum_runs(self._hashes, self._first, self._count, runs, self._sums)
        return self._pack(player, arrays, rows, runs, used, dict(dropped or {}), lost)

    def _pack(
        self,
        player: int,
        arrays: list[np.ndarray],
        rows: int,
        runs: int,
        used: int,
        dropped: dict[str, int],
        lost: Collection[str],
    ) -> EncodedBlock:
        sizes = self._segments[:used]
        packed: Sequence[memoryview] = []
        if used:
            source = zstandard.BufferWithSegments(self._work, sizes.tobytes())  # type: ignore[arg-type]
            pieces = self._compressor.multi_compress_to_buffer(source)
            packed = [memoryview(pieces[place]) for place in range(used)]  # type: ignore[arg-type]
        table: list[tuple[int, ...]] = []
        body: list[bytes | memoryview] = []
        at = 0
        first_row = int(self._order[0])
        for index, (column, (chosen, count)) in enumerate(zip(self._columns, self._outcome.tolist(), strict=True)):
            frame_rows, compression = min(self._frames[index], rows), RAW
            frames: Sequence[bytes | memoryview] = packed[at : at + count]
            if column.name in lost:
                table.append(lost_entry(rows))
                at += count
                continue
            if chosen == CONSTANT:
                value = arrays[index][first_row : first_row + 1]
                frames, frame_rows = [(value != 0 if column.dtype == bool else value).tobytes()], rows
            elif sum(map(len, frames)) < int(sizes[at : at + count, 1].sum()):
                compression = ZSTD
            else:
                frames = [self._work[start : start + n].tobytes() for start, n in sizes[at : at + count].tolist()]
            flags, nulls, low, high = (0, 0, 0, 0)
            if not column.items:
                values = self._gathered(index, column, 1 if chosen == CONSTANT else rows)
                flags, low, high = statistics_of_values(values)
                if column.is_validity:
                    nulls = rows - int(np.count_nonzero(values)) * (rows // len(values))
            table.append((chosen, compression, flags, 0, frame_rows, len(frames), nulls, low, high))
            body += frames
            at += count
        table_of_runs = self._run_table(runs)
        ranges = self._ranges(table, lost)
        crcs = [(len(frame), checksum(frame)) for frame in body]
        return pack_block(player, rows, ranges, dropped, table_of_runs, table, crcs, body)

    def _gathered(self, index: int, column: Column, rows: int) -> np.ndarray:
        """A narrow column in sorted order."""
        place = int(self._tasks[index, 5]) - self._work.ctypes.data
        raw = self._work[place : place + rows * column.row_bytes]
        return raw.view(column.dtype).reshape(column.shape(rows))

    def _run_table(self, runs: int) -> np.ndarray:
        table = np.empty(runs, RUN)
        steps = self._gathered(1, self._columns[1], int(self._first[runs - 1] + self._count[runs - 1]))
        table["episode"] = self._number[:runs]
        table["first_row"] = self._first[:runs]
        table["rows"] = self._count[:runs]
        table["first_step"] = steps[self._first[:runs]]
        table["last_step"] = steps[self._first[:runs] + self._count[:runs] - 1]
        table["digest"] = self._sums[:runs]
        return table

    def _ranges(self, table: list[tuple[int, ...]], lost: Collection[str]) -> tuple[int, ...]:
        """Smallest and largest episode, step, policy_version and time_ns of the block; all there can be where they
        were lost, so that nobody passes the block over for them."""
        out: list[int] = []
        for name in ("episode", "step", "policy_version", "time_ns"):
            index = self.names.index(name)
            pair = table[index][-2:]
            if name in lost:
                limits = np.iinfo(self._columns[index].dtype)
                out += [int(limits.min), int(limits.max)]
            else:
                out += [_signed(value) for value in pair] if name == "time_ns" else pair
        return tuple(out)


def pack_block(
    player: int,
    rows: int,
    ranges: tuple[int, ...],
    dropped: Mapping[str, int],
    runs: np.ndarray,
    columns: Sequence[tuple[int, ...]],
    frames: Sequence[tuple[int, int]],
    pieces: Sequence[bytes | memoryview],
) -> EncodedBlock:
    """A block of the parts of its head (see SPEC.md) and the pieces of its body. `frames`: (bytes, crc32) of each."""
    causes = {cause: count for cause, count in dropped.items() if count}
    names = {cause: cause.encode()[:255] for cause in causes}
    head = b"".join(
        [
            BLOCK.pack(player, len(columns), rows, len(runs), len(causes), 0, *ranges),
            *(CAUSE.pack(count, len(names[cause])) + names[cause] for cause, count in causes.items()),
            runs.tobytes(),
            np.array(columns, COLUMN).tobytes(),
            np.array(frames, FRAME).tobytes(),
        ]
    )
    episodes = {run[0]: (run[2], run[5]) for run in runs.tolist()}
    return EncodedBlock(player, rows, head, tuple(_joined(pieces)), episodes, ranges, causes)


def _joined(frames: Sequence[bytes | memoryview]) -> Sequence[bytes | memoryview]:
    """Large frames as they are, for a copy of noise cost 14 of 43 us a row, of it half for fresh pages; small ones as
    one piece, for a system call takes 1,024 at the most."""
    if len(frames) <= _MOST_PIECES and sum(map(len, frames)) >= _WORTH_KEEPING:
        return frames
    return [b"".join(frames)]


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value


def statistics_of_values(values: np.ndarray) -> tuple[int, int, int]:
    """(flags, low, high) of a scalar column; both as the 64 bits of a u64, i64 or f64. NaN is left out, flagged."""
    if values.dtype.kind != "f":
        return STATS, int(values.min()) & _U64, int(values.max()) & _U64
    low, high = float(values.min()), float(values.max())
    flags = STATS
    if low != low:
        low, high = float(np.fmin.reduce(values)), float(np.fmax.reduce(values))
        flags = HAS_NAN | STATS if low == low else HAS_NAN
        low, high = (low, high) if low == low else (0.0, 0.0)
    return flags, *struct.unpack("<QQ", struct.pack("<dd", low, high))
