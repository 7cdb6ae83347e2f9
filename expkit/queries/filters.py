"""Filters that DuckDB pushes into a scan: which blocks may hold rows for which they hold, and which rows those are.

A filter is an expression of pyarrow, and pyarrow answers both questions. What statistics say of a block is put as an
expression too, which the block's rows are guaranteed to meet; a dataset of one file with that guarantee tells whether
the filter can hold in it. No file is opened for that.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from expkit.batches.decode import Batch
from expkit.batches.selection import Selection
from expkit.formats.shard.blocks import BlockInfo, Statistics
from expkit.queries.run_rows import RunRows
from expkit.row import arrow
from expkit.runs.superseding import VisibleBlock
from expkit.system.extras import require

pa = require("pyarrow", "sql", "SQL")
pads = require("pyarrow.dataset", "sql", "SQL")
pafs = require("pyarrow.fs", "sql", "SQL")

_FORMAT = pads.IpcFileFormat()
_DISK = pafs.LocalFileSystem()
_IN_NAMES = r"[A-Za-z0-9_.\-/]"
_ROW = "row of the block"


def columns_in(filter: Any, names: Sequence[str]) -> list[str]:
    """Those of `names` that an expression asks for. It does not tell, but its text holds them; one too many does no
    harm."""
    text = str(filter)
    return [name for name in names if re.search(rf"(?<!{_IN_NAMES}){re.escape(name)}(?!{_IN_NAMES})", text)]


class PushedFilter(Selection):
    """The rows of one run for which `filter` is true, among whose columns are `names` of the table `schema`."""

    def __init__(self, filter: Any, rows: RunRows, names: Sequence[str], schema: Any):
        self._filter = filter
        self._rows = rows
        self._names = list(names)
        self._table = schema
        self._own = pa.schema([schema.field(name) for name in names])
        stored = rows.stored(names)
        self.columns = tuple(stored)
        self._told_by_head = any(name not in _OF_INDEX for name in stored)

    def may_match(self, block: VisibleBlock) -> bool:
        """False when no row of the block is wanted, as far as index and head tell; no column is read. Raises
        ShardError."""
        if not self._possible(block.info, {}):
            return False
        return not self._told_by_head or self._possible(block.info, block.reader.statistics(block.info.index))

    def _possible(self, info: BlockInfo, statistics: Mapping[str, Statistics]) -> bool:
        known = [self._guarantee(name, info, statistics) for name in self._names]
        guarantees = [expression for expression in known if expression is not None]
        if not guarantees:
            return True
        whole = guarantees[0]
        for more in guarantees[1:]:
            whole = whole & more
        block = _FORMAT.make_fragment("block", filesystem=_DISK, partition_expression=whole)
        one = pads.FileSystemDataset([block], self._table, _FORMAT, _DISK)
        return any(True for _ in one.get_fragments(filter=self._filter))

    def _guarantee(self, name: str, info: BlockInfo, statistics: Mapping[str, Statistics]) -> Any:
        """What all values of a column of the block meet, None where nothing is known."""
        column, rows = pads.field(name), self._rows
        if name == arrow.RUN:
            return column == pa.scalar(rows.label)
        if name not in rows.schema.names:
            return column.is_null()
        if name == "player":
            return _between(column, info.player, info.player, self._table.field(name).type)
        if name in _OF_INDEX and name not in statistics:
            low, high = _OF_INDEX[name](info)
            return _between(column, low, high, self._table.field(name).type)
        told = statistics.get(name)
        if told is None or told.lost or told.has_nan or told.low is None or told.high is None:
            return None
        kind, null = self._table.field(name).type, rows.may_be_null(name, statistics)
        return _between(column, told.low, told.high, kind, null)

    def of_block(self, block: VisibleBlock, rows: np.ndarray) -> np.ndarray:
        """Those of `rows` (int64, rising) of the block that are wanted. Raises ShardError."""
        if not len(rows):
            return rows
        schema = block.reader.schema
        stored = {}
        for name in self.columns:
            column = schema.column(name)
            stored[name] = np.empty(column.shape(len(rows)), column.dtype)
        # Narrow columns that are decoded here are kept by the reader, for the rows that match.
        block.reader.read_into(block.info.index, rows, stored, np.arange(len(rows)))
        batch: Batch = {name: schema.unpack(name, values) for name, values in stored.items()}
        batch["player"] = np.full(len(rows), block.info.player, np.uint16)
        told = self._rows.to_arrow(batch, self._own)
        table = pa.table([*told.columns, pa.array(rows)], names=[*self._names, _ROW])
        return table.filter(self._filter)[_ROW].to_numpy()


# What the index of a shard tells of a block, so that its head need not be read.
_OF_INDEX: dict[str, Callable[[BlockInfo], tuple[int, int]]] = {
    "episode": lambda info: (info.episode_min, info.episode_max),
    "step": lambda info: (info.step_min, info.step_max),
    "policy_version": lambda info: (info.policy_version_min, info.policy_version_max),
    "time_ns": lambda info: (info.time_ns_min, info.time_ns_max),
}


def _between(column: Any, low: float, high: float, kind: Any, null: bool = False) -> Any:
    """`low <= column <= high`, or null. pyarrow draws conclusions from comparisons one of which holds or there is a
    null, and none from `(a and b) or null`."""
    if pa.types.is_boolean(kind):
        low, high = bool(low), bool(high)
    first, last = pa.scalar(low, kind), pa.scalar(high, kind)
    parts = [column == first] if low == high else [column >= first, column <= last]
    if null:
        parts = [part | column.is_null() for part in parts]
    return parts[0] if len(parts) == 1 else parts[0] & parts[1]
