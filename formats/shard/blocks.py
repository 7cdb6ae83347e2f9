"""A block's head, parsed and checked, and the decoding of its columns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import zstandard

from expkit.errors import ShardError
from expkit.formats.shard.layout import (
    BLOCK,
    CAUSE,
    COLUMN,
    ENVELOPE,
    FRAME,
    HAS_NAN,
    LOST,
    MAX_BLOCK_BYTES,
    MAX_FRAME_BYTES,
    MAX_ROWS,
    RAW,
    RUN,
    STATS,
    ZSTD,
    checksum,
)
from expkit.formats.shard.pool import POOL
from expkit.kernels.bits import BITS, CHANGES, CONSTANT, DELTA, PLANES, from_planes
from expkit.kernels.changes import replay_frames
from expkit.kernels.digest import nh_row
from expkit.kernels.replay_sums import extremes_of, order_of, sum_frames
from expkit.row.episodes import MOST_ROWS
from expkit.row.layout import ALIGN, aligned_empty
from expkit.row.schema import Column, Schema

# Arrays that no cache holds for long are written past the caches, rows of some length at a time.
_STREAM_FROM = 4 << 20
_STREAM_ROW = 1024


@dataclass(frozen=True, slots=True)
class BlockInfo:
    """What the index, or a walk, knows of a block. `index` is its place in `ShardReader.blocks`."""

    index: int
    offset: int
    head_bytes: int
    body_bytes: int
    sequence: int
    player: int
    rows: int
    episode_min: int
    episode_max: int
    step_min: int
    step_max: int
    policy_version_min: int
    policy_version_max: int
    time_ns_min: int
    time_ns_max: int
    dropped: dict[str, int]

    @property
    def nbytes(self) -> int:
        """Bytes of the whole record."""
        return ENVELOPE.size + self.head_bytes + self.body_bytes

    @property
    def body_offset(self) -> int:
        """Where in the file the column bytes begin."""
        return self.offset + ENVELOPE.size + self.head_bytes


@dataclass(frozen=True, slots=True)
class Statistics:
    """Smallest and largest value of a scalar column in a block, NaN left out; None where there is no value.

    `nulls` counts the rows without a value, of `valid:` columns. Of `lost` values nothing is known.
    """

    low: int | float | None
    high: int | float | None
    has_nan: bool
    nulls: int
    lost: bool = False


class Entry(NamedTuple):
    """What a block's head says of one column; see SPEC.md."""

    filter: int
    compression: int
    flags: int
    zero: int
    frame_rows: int
    frames: int
    nulls: int
    low: int
    high: int


@dataclass(frozen=True, slots=True)
class BlockHead:
    """runs: table RUN · columns: rows of table COLUMN as tuples · crcs: of all frames · first_frame: of each column,
    and one more, where its frames begin · body_at: of each frame, and one more, where its bytes begin in the body."""

    player: int
    rows: int
    ranges: tuple[int, int, int, int, int, int, int, int]
    dropped: dict[str, int]
    runs: np.ndarray
    columns: list[Entry]
    crcs: list[int]
    first_frame: list[int]
    body_at: list[int]


def _need(good: Any, what: str) -> None:
    if not good:
        raise ShardError(f"the block's head is malformed: {what}")


def parse_head(head: bytes, body_bytes: int, schema: Schema) -> BlockHead:
    """Read a block's head and check everything in it that can be. Raises ShardError."""
    _need(len(head) >= BLOCK.size, "too short")
    player, count, rows, runs, causes, zero, *ranges = BLOCK.unpack_from(head)
    _need(zero == 0, "a field that is always zero is not")
    _need(count == len(schema.columns), f"{count} columns where the schema has {len(schema.columns)}")
    _need(0 < rows <= MAX_ROWS and rows * schema.row_bytes <= MAX_BLOCK_BYTES, f"{rows:,} rows are beyond the limits")
    _need(0 < runs <= rows, f"{runs:,} runs for {rows:,} rows")
    at = BLOCK.size
    dropped: dict[str, int] = {}
    for _ in range(causes):
        _need(at + CAUSE.size <= len(head), "too short for its drops")
        lost, size = CAUSE.unpack_from(head, at)
        _need(lost <= MOST_ROWS, "it tells of more dropped rows than there can be")
        at += CAUSE.size
        name = head[at : at + size].decode("utf-8", "replace")
        dropped[name] = dropped.get(name, 0) + lost
        at += size
    _need(at + runs * RUN.itemsize + count * COLUMN.itemsize <= len(head), "too short for its tables")
    run_table = np.frombuffer(head, RUN, runs, at)
    at += run_table.nbytes
    columns = np.frombuffer(head, COLUMN, count, at)
    at += columns.nbytes
    _need((len(head) - at) % FRAME.itemsize == 0, "its frame table is cut")
    frames = np.frombuffer(head, FRAME, (len(head) - at) // FRAME.itemsize, at)
    ends = np.cumsum(run_table["rows"], dtype=np.int64)
    _need(ends[-1] == rows and (run_table["first_row"] == ends - run_table["rows"]).all(), "its runs do not add up")
    first_frame = np.concatenate([[0], np.cumsum(columns["frames"], dtype=np.int64)])
    body_at = np.concatenate([[0], np.cumsum(frames["size"], dtype=np.int64)])
    _need(first_frame[-1] == len(frames), "its frames do not add up")
    _need(body_at[-1] == body_bytes, "its frames do not fill the body")
    entries = [Entry(*entry) for entry in columns.tolist()]
    for column, entry in zip(schema.columns, entries, strict=True):
        _check_column(column, entry, rows)
    crcs = frames["crc"].tolist()
    return BlockHead(
        player, rows, (*ranges,), dropped, run_table, entries, crcs, first_frame.tolist(), body_at.tolist()
    )


def _check_column(column: Column, entry: Entry, rows: int) -> None:
    chosen, name = entry.filter, column.name
    if chosen == LOST:
        _need(entry == lost_entry(rows), f"lost values of {name}")
        return
    _need(chosen <= CHANGES and entry.compression <= ZSTD and entry.zero == 0, f"codec of {name}")
    _need(0 < entry.frame_rows <= MAX_ROWS, f"frame rows of {name}")
    _need(chosen != CONSTANT or (entry.frame_rows == rows and entry.compression == RAW), f"codec of {name}")
    _need(entry.frames == -(-rows // entry.frame_rows), f"number of frames of {name}")
    _need(min(entry.frame_rows, rows) * column.row_bytes <= MAX_FRAME_BYTES, f"frame of {name} is too large")
    _need(chosen != BITS or column.dtype == bool, f"filter of {name}")
    _need(chosen not in (PLANES, DELTA) or column.dtype != bool, f"filter of {name}")


def lost_entry(rows: int) -> Entry:
    """The entry of a column whose values were lost, in a block of `rows` rows."""
    return Entry(LOST, RAW, 0, 0, rows, 0, 0, 0, 0)


def statistics_of(column: Column, entry: Entry) -> Statistics:
    """The statistics in a column's entry, as Python numbers."""
    has_nan = bool(entry.flags & HAS_NAN)
    if not entry.flags & STATS:
        return Statistics(None, None, has_nan, entry.nulls, entry.filter == LOST)
    pair = np.array([entry.low, entry.high], "<u8")
    kind = column.dtype.kind
    low, high = (pair.view("<f8") if kind == "f" else pair.view("<i8") if kind == "i" else pair).tolist()
    return Statistics(low, high, has_nan, entry.nulls)


class ColumnPlan:
    """What has to be read of one column to give the rows `wanted` (rising; None for all)."""

    def __init__(self, column: Column, index: int, head: BlockHead, wanted: np.ndarray | None):
        entry = head.columns[index]
        self.column = column
        self.filter = entry.filter
        self.compression = entry.compression
        self.frame_rows = frame_rows = min(entry.frame_rows, head.rows)
        self.rows = head.rows
        self.wanted = wanted
        self.frames = list(range(entry.frames))
        if wanted is not None and entry.frames > 1:
            first, last = int(wanted[0]) // frame_rows, int(wanted[-1]) // frame_rows
            if first == last:
                self.frames = [first]
            else:
                touched = wanted // frame_rows
                self.frames = touched[np.diff(touched, prepend=-1) > 0].tolist()
        base = head.first_frame[index]
        self.places = [base + frame for frame in self.frames]
        self.inside = [min(frame_rows, head.rows - frame * frame_rows) for frame in self.frames]

    @property
    def narrow(self) -> bool:
        """All rows are in one frame of narrow rows, so that one row costs as much as all."""
        return len(self.frames) == 1 and self.frame_rows == self.rows and self.column.row_bytes < 32

    def sizes(self, payloads: Sequence[memoryview]) -> list[int]:
        """Decoded bytes of each frame, bounded by what its rows can need. Raises ShardError."""
        out = []
        for frame, rows, payload in zip(self.frames, self.inside, payloads, strict=True):
            plain = rows * self.column.row_bytes
            if self.filter == CONSTANT:
                plain = self.column.row_bytes
            elif self.filter == BITS:
                plain = (rows + 7) // 8
            size = zstandard.frame_content_size(payload) if self.compression == ZSTD else len(payload)
            if self.filter == CHANGES:
                items = plain // self.column.dtype.itemsize
                good = 8 <= size <= 8 + plain + items + items // 255
            else:
                good = size == plain
            if not good:
                raise ShardError(f"frame {frame} claims {size:,} bytes, which {rows:,} rows cannot have")
            out.append(size)
        return out

    def decode(self, payloads: Sequence[np.ndarray]) -> np.ndarray:
        """The stored array of the wanted rows from the decompressed frames. Raises ShardError."""
        column, wanted = self.column, self.wanted
        count = self.rows if wanted is None else len(wanted)
        if self.filter in (CONSTANT, CHANGES):
            out = POOL.empty(column.shape(count), column.dtype)
            if self.filter == CONSTANT:
                out[:] = self._one_row(payloads)
            else:
                self.decode_into(payloads, out, np.arange(count))
            return out
        whole = self._plain(payloads)
        return whole if wanted is None else whole[self._inside(wanted)]

    def decode_into(self, payloads: Sequence[np.ndarray], out: np.ndarray, places: np.ndarray) -> None:
        """Wanted row i to out[places[i]]; `out` is a contiguous stored array. Raises ShardError."""
        if self.filter == CONSTANT:
            out[places] = self._one_row(payloads)
        elif self.filter == CHANGES:
            self._replay(payloads, out, places)
        else:
            whole = self._plain(payloads)
            out[places] = whole if self.wanted is None else whole[self._inside(self.wanted)]

    def _one_row(self, payloads: Sequence[np.ndarray]) -> np.ndarray:
        """The row that all rows of a constant column are equal to, as an array of one."""
        return payloads[0].view(self.column.dtype).reshape(self.column.shape(1))

    def _plain(self, payloads: Sequence[np.ndarray]) -> np.ndarray:
        """All rows of the frames at hand."""
        if self.filter == BITS:
            flags = [np.unpackbits(p, count=n, bitorder="little") for p, n in zip(payloads, self.inside, strict=True)]
            raw = _join(flags)
        elif self.filter in (PLANES, DELTA):
            raw = self._number(payloads)
        else:
            raw = _join(payloads)
        return raw.view(self.column.dtype).reshape(self.column.shape(sum(self.inside)))

    def _inside(self, wanted: np.ndarray) -> np.ndarray:
        """Places of rows of the block among those of the frames at hand, of which all but the block's last have
        `frame_rows`."""
        return np.searchsorted(self.frames, wanted // self.frame_rows) * self.frame_rows + wanted % self.frame_rows

    def _number(self, payloads: Sequence[np.ndarray]) -> np.ndarray:
        """Bytes of the numbers in frames of planes."""
        itemsize, width = self.column.dtype.itemsize, self.column.row_bytes
        stride = width // itemsize if self.filter == DELTA else 0
        raw = np.empty(sum(self.inside) * width + 8, np.uint8)
        at = raw.ctypes.data
        for payload, rows in zip(payloads, self.inside, strict=True):
            from_planes(payload.ctypes.data, rows * width // itemsize, itemsize, stride, at)
            at += rows * width
        return raw[:-8]

    @property
    def summable(self) -> bool:
        """Whether `sum` can do without the rows."""
        return self.filter in (CONSTANT, CHANGES)

    def sum(self, payloads: Sequence[np.ndarray], keys: np.ndarray, sums: np.ndarray) -> np.ndarray:
        """Add to uint64 `sums` (rows,) what a `summable` column adds to the sum of each row (SPEC.md, "Digest"),
        without building the rows. `keys`: its key stream.

        Gives the smallest and the largest value, where there is one, and behind them NaN, where there is one. Raises
        ShardError; `sums` then mean nothing.
        """
        column = self.column
        width, itemsize = column.row_bytes, column.dtype.itemsize
        if self.filter == CONSTANT:
            row = payloads[0].view(column.dtype)
            sums += np.uint64(nh_row(row.ctypes.data, width, keys.ctypes.data))
            numbers, strange = row[row == row], row[row != row]
            extremes = [numbers.min(), numbers.max()] if len(numbers) else []
            return np.array([*extremes, *strange[:1]], column.dtype)
        table = np.empty((len(payloads), 4), np.int64)
        table[:, :2] = [(payload.__array_interface__["data"][0], len(payload)) for payload in payloads]
        table[:, 2] = self.inside
        table[:, 3] = np.arange(len(payloads)) * self.frame_rows
        order, scratch = order_of(column.dtype), aligned_empty(len(keys) * 8)
        bad = sum_frames(table, width, itemsize, keys.ctypes.data, scratch.ctypes.data, sums, order)
        if bad >= 0:
            raise ShardError(f"frame {bad} is malformed")
        return extremes_of(order, column.dtype)

    def _replay(self, payloads: Sequence[np.ndarray], out: np.ndarray, places: np.ndarray) -> None:
        wanted = np.arange(self.rows) if self.wanted is None else self.wanted
        starts = [(payload.__array_interface__["data"][0], len(payload)) for payload in payloads]
        if len(payloads) == 1:
            table = np.array([[*starts[0], self.inside[0], 0, len(wanted)]], np.int64)
            inside = wanted - self.frames[0] * self.frame_rows
        else:
            frames = np.array(self.frames)
            table = np.empty((len(payloads), 5), np.int64)
            table[:, :2] = starts
            table[:, 2] = self.inside
            table[:, 3] = np.searchsorted(wanted, frames * self.frame_rows)
            table[:, 4] = np.searchsorted(wanted, (frames + 1) * self.frame_rows)
            inside = wanted % self.frame_rows
        width, itemsize = self.column.row_bytes, self.column.dtype.itemsize
        target = out.ctypes.data
        streams = out.nbytes >= _STREAM_FROM and width >= _STREAM_ROW and (width | target) % ALIGN == 0
        scratch = aligned_empty(width) if streams else None
        at = 0 if scratch is None else scratch.ctypes.data
        bad = replay_frames(table, width, itemsize, inside, places, target, at)
        if bad >= 0:
            raise ShardError(f"frame {self.frames[bad]} is malformed")


def _join(payloads: Sequence[np.ndarray]) -> np.ndarray:
    """One array of all payloads; without a copy when they lie side by side, as one decompression leaves them."""
    if len(payloads) == 1:
        return payloads[0]
    total = sum(map(len, payloads))
    first, last = payloads[0], payloads[-1]
    if (
        last.ctypes.data + len(last) - first.ctypes.data == total
        and first.base is not None
        and all(a.ctypes.data + len(a) == b.ctypes.data for a, b in pairwise(payloads))
    ):
        return np.lib.stride_tricks.as_strided(first, (total,), (1,), writeable=False)
    return np.concatenate(payloads)


def expand(plans: Sequence[ColumnPlan], payloads: Sequence[Sequence[memoryview]]) -> list[list[np.ndarray]]:
    """Decompress all frames of all `plans` with one release of the GIL. Raises ShardError naming the column."""
    packed: list[bytes | bytearray | memoryview[int]] = []
    sizes: list[int] = []
    for plan, pieces in zip(plans, payloads, strict=True):
        try:
            decoded = plan.sizes(pieces)
        except (ShardError, zstandard.ZstdError) as error:
            raise ShardError(f"{plan.column.name}: {error}") from None
        if plan.compression == ZSTD:
            packed += pieces
            sizes += decoded
    whole: list[np.ndarray] = []
    if packed:
        try:
            expanded = zstandard.ZstdDecompressor().multi_decompress_to_buffer(
                packed, decompressed_sizes=np.array(sizes, np.uint64).tobytes()
            )
        except (zstandard.ZstdError, ValueError, TypeError) as error:
            names = ", ".join(plan.column.name for plan in plans)
            raise ShardError(f"{names}: does not decompress: {error}") from None
        whole = [
            np.frombuffer(expanded[place], np.uint8)  # type: ignore[call-overload]
            for place in range(len(packed))
        ]
    out: list[list[np.ndarray]] = []
    at = 0
    for plan, pieces in zip(plans, payloads, strict=True):
        if plan.compression == ZSTD:
            out.append(whole[at : at + len(pieces)])
            at += len(pieces)
        else:
            out.append([np.frombuffer(piece, np.uint8) for piece in pieces])
    return out


def verify_frames(head: BlockHead, plan: ColumnPlan, pieces: Sequence[memoryview]) -> None:
    """Compare each frame with its checksum. Raises ShardError."""
    crcs = head.crcs
    for place, piece in zip(plan.places, pieces, strict=True):
        if checksum(piece) != crcs[place]:
            rows = plan.rows if plan.filter == CONSTANT else min(plan.frame_rows, plan.rows)
            raise ShardError(f"checksum of frame {place - plan.places[0] + plan.frames[0]} ({rows:,} rows) differs")
