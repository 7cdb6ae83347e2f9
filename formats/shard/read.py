"""ShardReader: opens a closed, growing or killed shard file and gives its blocks, columns and records."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from os import PathLike
from typing import Any

import msgspec
import numpy as np

from expkit.errors import NotThere, ReadFailed, ShardError
from expkit.formats.shard.blocks import (
    BlockHead,
    BlockInfo,
    ColumnPlan,
    Statistics,
    expand,
    parse_head,
    statistics_of,
    verify_frames,
)
from expkit.formats.shard.kept import Kept, KeptBytes
from expkit.formats.shard.layout import (
    KIND_BLOCK,
    KIND_DROPS,
    KIND_EPISODES,
    KIND_FOOTER,
    KIND_META,
    KIND_NAMES,
    LOST,
    Envelope,
    Finding,
    unpack_json,
)
from expkit.formats.shard.records import RecordFile
from expkit.row.episodes import EpisodeEnd, EpisodeStart, Rows
from expkit.row.schema import Column, Schema

# Of all open files together: with a bound each, 256 of them had 8 GiB between them.
_HEADS = KeptBytes(64 << 20)
_NARROW = KeptBytes(128 << 20)  # decoded narrow columns, for reading other rows of their blocks
_PARSED = 8  # bytes of a head in memory for one in the file


class EpisodesRecord(msgspec.Struct):
    """JSON of a record of kind `episodes`."""

    starts: list[EpisodeStart] = []
    ends: list[EpisodeEnd] = []


class DropsRecord(msgspec.Struct):
    """JSON of a record of kind `drops`."""

    player: int
    causes: dict[str, Rows]


class ShardReader:
    """A shard file, whether it was closed, is still being written, or its writer was killed.

    header, schema   what the file says of itself
    blocks           BlockInfo of every block, in file order
    closed           it has a sound footer; else the blocks were found by walking
    findings         what was found damaged so far; reading a damaged column raises ShardError instead

    Checksums of everything touched are verified. `schema` serves when the file's own copies are lost. An unlinked
    file stays readable. Raises NotThere and ShardError.
    Safe to share between threads for reading blocks; not for `refresh` and `close`.
    """

    def __init__(self, path: str | PathLike[str], schema: Schema | None = None):
        self._file = RecordFile(path, schema)
        self.path = self._file.path
        self.schema = self._file.schema
        self.header = self._file.header
        self.blocks: list[BlockInfo] = []
        self.closed = False
        self._names = {column.name: place for place, column in enumerate(self.schema.columns)}
        self._heads: Kept[int, BlockHead] = Kept()
        self._narrow: Kept[tuple[int, str], np.ndarray] = Kept()
        self._pending: list[tuple[int, int]] = []
        self._starts: list[EpisodeStart] = []
        self._ends: list[EpisodeEnd] = []
        self._metas: list[dict[str, Any]] = []
        self._drops: list[tuple[int, dict[str, int]]] = []
        try:
            self._open()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> ShardReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._file.close()

    @property
    def findings(self) -> list[Finding]:
        return self._file.findings

    @property
    def nbytes(self) -> int:
        return self._file.size

    @property
    def names(self) -> list[str]:
        """Names of all stored columns."""
        return list(self._names)

    @property
    def indexed_records(self) -> list[tuple[int, int]]:
        """(offset, kind) of the records that are no blocks, as the footer lists them."""
        return [] if self._file.footer is None else list(self._file.footer.records)

    @property
    def rows(self) -> int:
        return sum(block.rows for block in self.blocks)

    @property
    def rows_by_player(self) -> dict[int, int]:
        out: dict[int, int] = {}
        for block in self.blocks:
            out[block.player] = out.get(block.player, 0) + block.rows
        return out

    @property
    def unreadable(self) -> ReadFailed | None:
        """The first read of the file that the system refused, if any: what was to be read was taken for damaged."""
        return self._file.unreadable

    @unreadable.setter
    def unreadable(self, failed: ReadFailed | None) -> None:
        self._file.unreadable = failed

    @property
    def tail_bytes(self) -> int:
        """Bytes of a record that was never finished, or not yet, at the end of a file that is not closed."""
        return 0 if self.closed else self._file.tail_bytes

    def _open(self) -> None:
        footer = self._file.footer
        if footer is None:
            self._walk()
            return
        self.closed = True
        self.blocks = [BlockInfo(place, *row) for place, row in enumerate(footer.blocks)]
        for offset, kind in footer.records:
            if kind in (KIND_EPISODES, KIND_META, KIND_DROPS):
                self._pending.append((offset, kind))
            else:
                self._note_unknown(offset, kind)

    def _walk(self) -> None:
        for envelope, head in self._file.walk():
            if envelope.kind == KIND_BLOCK:
                try:
                    parsed = parse_head(head, envelope.body_bytes, self.schema)
                except ShardError as error:
                    self._file.note("file/block", f"record at {envelope.offset:,}: {error}", block=len(self.blocks))
                    continue
                self.blocks.append(block_info(len(self.blocks), envelope, parsed))
            elif envelope.kind in (KIND_EPISODES, KIND_META, KIND_DROPS):
                self._pending.append((envelope.offset, envelope.kind))
            elif envelope.kind != KIND_FOOTER:
                self._note_unknown(envelope.offset, envelope.kind)

    def _note_unknown(self, offset: int, kind: int) -> None:
        self._file.note("file/unknown-kind", f"record of kind {kind} at {offset:,} was skipped", "info")

    def refresh(self) -> int:
        """See what was appended since; returns the number of new blocks. Raises ShardError when the file shrank."""
        before = len(self.blocks)
        if not self.closed and self._file.grown():
            self._walk()
            self._file.read_footer()
            self.closed = self._file.footer is not None
        return len(self.blocks) - before

    def load_records(self) -> None:
        """Read the JSON records not read yet; a damaged one becomes a finding."""
        pending, self._pending = self._pending, []
        for offset, kind in pending:
            what = f"{self.path}: {KIND_NAMES.get(kind, 'unknown')} record at {offset:,}"
            record = self._file.record(offset)
            try:
                if record is None or record[0].kind != kind:
                    raise ShardError(f"{what} is damaged")
                tree = unpack_json(record[0].flags, record[1], what)
                if kind == KIND_EPISODES:
                    episodes = msgspec.convert(tree, EpisodesRecord)
                    self._starts += episodes.starts
                    self._ends += episodes.ends
                elif kind == KIND_DROPS:
                    drops = msgspec.convert(tree, DropsRecord)
                    self._drops.append((drops.player, drops.causes))
                elif kind == KIND_META:
                    self._metas.append(tree)
            except (ShardError, msgspec.ValidationError) as error:
                self._file.note("file/record", str(error))

    @property
    def episode_starts(self) -> list[EpisodeStart]:
        self.load_records()
        return self._starts

    @property
    def episode_ends(self) -> list[EpisodeEnd]:
        self.load_records()
        return self._ends

    @property
    def metas(self) -> list[dict[str, Any]]:
        self.load_records()
        return self._metas

    @property
    def drops(self) -> dict[int, dict[str, int]]:
        """Rows dropped, by player and cause: of blocks and of drop records together."""
        self.load_records()
        out: dict[int, dict[str, int]] = {}
        for player, causes in [*self._drops, *((block.player, block.dropped) for block in self.blocks)]:
            for cause, rows in causes.items():
                known = out.setdefault(player, {})
                known[cause] = known.get(cause, 0) + rows
        return out

    @property
    def digests(self) -> dict[tuple[int, int], tuple[int, int]]:
        """By (episode, player): rows and digest, from the footer or else from the blocks' heads."""
        if self._file.footer is not None:
            return {(e, p): (rows, digest) for e, p, rows, digest in self._file.footer.episodes}
        out: dict[tuple[int, int], tuple[int, int]] = {}
        for block in self.blocks:
            for run in self.head(block.index).runs.tolist():
                rows, digest = out.get((run[0], block.player), (0, 0))
                out[run[0], block.player] = (rows + run[2], (digest + run[5]) & 0xFFFFFFFFFFFFFFFF)
        return out

    def head(self, index: int) -> BlockHead:
        """The head of a block, verified. Raises ShardError, NotThere for a block that does not exist."""
        known = self._heads.get(index)
        if known is not None:
            return known
        if not 0 <= index < len(self.blocks):
            raise NotThere(f"{self.path} has {len(self.blocks)} blocks; there is no block {index}")
        info = self.blocks[index]
        try:
            record = self._file.record(info.offset)
            if record is None or record[0].kind != KIND_BLOCK:
                raise ShardError("the block's header is damaged")
            parsed = parse_head(record[1], record[0].body_bytes, self.schema)
            if block_info(index, record[0], parsed) != info:
                raise ShardError("the block is not the one the index speaks of")
        except ShardError as error:
            self._file.note("file/block", str(error), block=index, player=info.player)
            raise ShardError(f"{self.path} block {index} player {info.player}: {error}") from None
        _HEADS.keep(self._heads, index, parsed, len(record[1]) * _PARSED)
        return parsed

    def runs(self, index: int) -> np.ndarray:
        """The block's rows by episode: a table of episode, first_row, rows, first_step, last_step, digest."""
        return self.head(index).runs

    def statistics_of(self, index: int, name: str) -> Statistics:
        """Statistics of one scalar column of a block."""
        return statistics_of(self._column(name), self.head(index).columns[self._names[name]])

    def statistics(self, index: int) -> dict[str, Statistics]:
        """Statistics of the block's scalar columns."""
        head = self.head(index)
        pairs = zip(self.schema.columns, head.columns, strict=True)
        return {column.name: statistics_of(column, entry) for column, entry in pairs if not column.items}

    def lost_columns(self, index: int) -> tuple[str, ...]:
        """Columns of a block whose values could not be saved from damage: its rows are there without them."""
        pairs = zip(self.schema.columns, self.head(index).columns, strict=True)
        return tuple(column.name for column, entry in pairs if entry.filter == LOST)

    def read_block(
        self, index: int, columns: Iterable[str] | None = None, rows: slice | None = None
    ) -> dict[str, np.ndarray]:
        """Stored arrays of a block (all columns, all rows by default), possibly read-only.

        Only the frames touched are read. Raises ShardError naming shard, block and column, for damage and for
        columns whose values were lost before (see `lost_columns`).
        """
        head = self.head(index)
        if rows is not None:
            begin, end, stride = rows.indices(head.rows)
            if stride < 1:
                raise ShardError(f"rows of a block are read forwards, not by a stride of {stride}")
            if (begin, end, stride) != (0, head.rows, 1):
                return self.read_rows(index, np.arange(begin, max(begin, end), stride), columns)
        info, plans = self.blocks[index], []
        for name in dict.fromkeys(self._names if columns is None else columns):
            column = self._column(name)
            self._refuse_lost(info, head, name)
            plans.append(ColumnPlan(column, self._names[name], head, None))
        frames = self._expanded(info, plans, self._verified(info, head, plans))
        out = {}
        for plan, arrays in zip(plans, frames, strict=True):
            try:
                out[plan.column.name] = plan.decode(arrays)
            except ShardError as error:
                raise self._lost(info, plan.column.name, error) from None
        return out

    def read_rows(self, index: int, rows: np.ndarray, columns: Iterable[str] | None = None) -> dict[str, np.ndarray]:
        """Stored arrays of the given rows of a block, in the order given; only the frames touched are decompressed.

        Raises ShardError as `read_block` does, NotThere for a row that does not exist.
        """
        rows = np.asarray(rows, np.int64)
        names = list(dict.fromkeys(self._names if columns is None else columns))
        wanted = [self._column(name) for name in names]
        out = {column.name: np.empty(column.shape(len(rows)), column.dtype) for column in wanted}
        order = np.argsort(rows, kind="stable") if len(rows) > 1 else np.zeros(len(rows), np.int64)
        self.read_into(index, rows[order], out, order)
        return out

    def read_into(self, index: int, rows: np.ndarray, out: Mapping[str, np.ndarray], places: np.ndarray) -> None:
        """Row rows[i] of a block to place places[i] of every array in `out`, which are contiguous stored arrays by
        column name. `rows` (int64) rise. Each row is decoded where it is to be, in whatever order the places are.

        Raises ShardError as `read_block` does, and for arrays that are not those of the file's columns; NotThere for a
        row that does not exist. `out` is then half filled.
        """
        head, info = self.head(index), self.blocks[index]
        if not len(rows):
            return
        if rows[0] < 0 or rows[-1] >= head.rows:
            raise NotThere(f"{self.path} block {index} has {head.rows:,} rows; row {rows[-1]:,} is not among them")
        plans = []
        # A stretch of rows, which they nearly always are, is a view.
        together = len(rows) == 1 or (rows[-1] - rows[0] == len(rows) - 1 and (np.diff(rows) == 1).all())
        part: Any = slice(int(rows[0]), int(rows[-1]) + 1) if together else rows
        for name, target in out.items():
            column = self._column(name)
            if target.dtype != column.dtype or target.shape[1:] != column.shape(0)[1:]:
                raise ShardError(
                    f"{self.path}: {name} is {column.dtype.name} {column.shape(0)[1:]} there, wanted as "
                    f"{target.dtype.name} {target.shape[1:]}; its schema is not that of the run"
                )
            kept = self._narrow.get((index, name))
            if kept is not None:
                target[places] = kept[part]
                continue
            self._refuse_lost(info, head, name)
            plans.append(ColumnPlan(column, self._names[name], head, rows))
        for plan, frames in zip(plans, self._expanded(info, plans, self._verified(info, head, plans)), strict=True):
            name = plan.column.name
            try:
                if plan.narrow:
                    plan.wanted = None
                    whole = plan.decode(frames)
                    _NARROW.keep(self._narrow, (index, name), whole, whole.nbytes)
                    out[name][places] = whole[part]
                else:
                    plan.decode_into(frames, out[name], places)
            except ShardError as error:
                raise self._lost(info, name, error) from None

    def _verified(self, info: BlockInfo, head: BlockHead, plans: list[ColumnPlan]) -> list[list[memoryview]]:
        """The stored frames of the plans, checksums compared. Raises ShardError."""
        payloads = [self._pieces(info.body_offset, head, plan) for plan in plans]
        for plan, pieces in zip(plans, payloads, strict=True):
            try:
                verify_frames(head, plan, pieces)
            except ShardError as error:
                raise self._lost(info, plan.column.name, error) from None
        return payloads

    def _expanded(
        self, info: BlockInfo, plans: list[ColumnPlan], payloads: list[list[memoryview]]
    ) -> list[list[np.ndarray]]:
        """The frames of the plans, decompressed. Raises ShardError."""
        try:
            return expand(plans, payloads)
        except ShardError as error:
            raise self._lost(info, None, error) from None

    def sum_columns(
        self, index: int, names: Iterable[str], keys: Mapping[str, np.ndarray], sums: np.ndarray
    ) -> dict[str, np.ndarray]:
        """Add what columns add to the sum of each row of a block (SPEC.md, "Digest") to uint64 `sums` (rows,), without
        building their rows: in a seventh of the time that reading, hashing and comparing 14 KB of planes took. `keys`:
        key stream of each column.

        Gives of each column the smallest and the largest value as an array of its dtype, where there is one, and behind
        them NaN, where there is one. Those of `names` that are not stored such that this can be done are not touched
        and not among the keys. Raises ShardError as `read_block` does; `sums` then mean nothing.
        """
        head, info = self.head(index), self.blocks[index]
        plans = []
        for name in names:
            column = self._column(name)
            self._refuse_lost(info, head, name)
            plan = ColumnPlan(column, self._names[name], head, None)
            if plan.summable:
                plans.append(plan)
        out: dict[str, np.ndarray] = {}
        for plan, frames in zip(plans, self._expanded(info, plans, self._verified(info, head, plans)), strict=True):
            name = plan.column.name
            try:
                out[name] = plan.sum(frames, keys[name], sums)
            except ShardError as error:
                raise self._lost(info, name, error) from None
        return out

    def _column(self, name: str) -> Column:
        """A stored column. Raises ShardError for one that the file does not have, which its run may well have."""
        place = self._names.get(name)
        if place is None:
            raise ShardError(f"{self.path} has no column {name!r}; it has {', '.join(self._names)}")
        return self.schema.columns[place]

    def _refuse_lost(self, info: BlockInfo, head: BlockHead, name: str) -> None:
        """ShardError for a column that was lost: no damage, so no finding."""
        if head.columns[self._names[name]].filter == LOST:
            raise ShardError(
                f"{self.path} block {info.index} player {info.player} {name}: values were lost: {info.rows:,} rows "
                f"have none; read the other columns"
            )

    def verify_column(self, index: int, name: str) -> None:
        """Compare the checksums of a column's frames without decompressing it. Raises ShardError."""
        self.stored_frames(index, name)

    def stored_frames(self, index: int, name: str) -> list[memoryview]:
        """The bytes of a column's frames as they are in the file, checksums compared. Raises ShardError."""
        head, info = self.head(index), self.blocks[index]
        column = self._column(name)
        self._refuse_lost(info, head, name)
        plan = ColumnPlan(column, self._names[name], head, None)
        try:
            pieces = self._pieces(info.body_offset, head, plan)
            verify_frames(head, plan, pieces)
        except ShardError as error:
            raise self._lost(info, name, error) from None
        return pieces

    def _pieces(self, body: int, head: BlockHead, plan: ColumnPlan) -> list[memoryview]:
        """The stored frames of a plan: one read for frames side by side."""
        places, at = plan.places, head.body_at
        begin, end = at[places[0]], at[places[-1] + 1]
        if sum(at[place + 1] - at[place] for place in places) * 4 >= end - begin:
            data = memoryview(self._file.read(body + begin, end - begin))
            return [data[at[place] - begin : at[place + 1] - begin] for place in places]
        return [memoryview(self._file.read(body + at[place], at[place + 1] - at[place])) for place in places]

    def _lost(self, info: BlockInfo, column: str | None, error: ShardError) -> ShardError:
        rule = "file/checksum" if "checksum" in str(error) else "file/column"
        self._file.note(rule, str(error), block=info.index, column=column, player=info.player)
        name = f" {column}" if column else ""
        return ShardError(f"{self.path} block {info.index} player {info.player}{name}: {error}")


def block_info(index: int, envelope: Envelope, head: BlockHead) -> BlockInfo:
    """What the index says of a block, from its record."""
    place = (index, envelope.offset, envelope.head_bytes, envelope.body_bytes, envelope.sequence)
    return BlockInfo(*place, head.player, head.rows, *head.ranges, head.dropped)
