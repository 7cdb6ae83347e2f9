"""The rows of an output block out of the blocks of files that hold them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np

from expkit.errors import ShardError, quoted
from expkit.formats.shard.encode import WIDE_BYTES
from expkit.formats.shard.pool import POOL
from expkit.formats.shard.read import ShardReader
from expkit.reading.run import Run
from expkit.rewrite.layout import BlockPlan
from expkit.row.schema import Column
from expkit.serialize.conversion import Conversion

Rows = dict[str, np.ndarray]
Place = tuple[int, int, int]
# Narrow columns are decoded whole, and kept for the output blocks that follow. Of wide ones only the frames at hand
# are: episodes that follow one another lie side by side in a block, so that few frames are decoded twice, while whole
# blocks of 64 games at once were needed by 4 output blocks each.
KEPT_BYTES = 32 << 20
_ARRAY = 400


class Condition(Protocol):
    """Which rows of one run are wanted."""

    @property
    def columns(self) -> Sequence[str]:
        """Stored columns that it looks at."""

    def __call__(self, rows: Mapping[str, np.ndarray], player: int) -> np.ndarray:
        """bool (rows,)."""


class Made(Protocol):
    """Columns that are computed for the rows."""

    @property
    def names(self) -> Sequence[str]: ...

    def fill(self, run: int, player: int, rows: Mapping[str, np.ndarray]) -> None:
        """Write them into `rows`, stored columns of one player, with episodes numbered as in that run."""


class Gatherer:
    """Reads rows of `runs`, which have all of `columns` alike but for those that are made, or have them once they are
    converted.

    numbers   by (run, episode) the episode's number in the output; those it has when left out
    policies  by run the output's policy of each of its policies, u16; the same ones when left out
    where     by run which rows, as they are there, are wanted; a last row is when the row before it is
    convert   by run what makes `columns` of its rows
    made      columns among `columns` that the runs need not have, and need not have kept

    For one thread at a time.
    """

    def __init__(
        self,
        runs: Sequence[Run],
        columns: Sequence[Column],
        numbers: Mapping[tuple[int, int], int] | None = None,
        policies: Sequence[np.ndarray] | None = None,
        where: Sequence[Condition] | None = None,
        convert: Sequence[Conversion] | None = None,
        made: Made | None = None,
    ):
        self._runs = runs
        self._wanted = [column.name for column in columns]
        looked_at = {name for condition in where or () for name in condition.columns}
        if where is not None or made is not None:
            looked_at |= {"episode", "step", "is_last"}
        known = runs[0].schema.columns if convert is None else ()
        extra = [c for c in known if c.name in looked_at and c.name not in self._wanted]
        self._columns = [*columns, *extra]
        self._looked_at = looked_at
        self._made = made
        self._made_names = set(made.names if made is not None else ())
        self._stored_names = {column.name for column in runs[0].schema.columns}
        self._numbers = numbers
        self._policies = policies
        self._where = where
        self._convert = convert
        self._kept: OrderedDict[Place, Rows] = OrderedDict()
        self._kept_bytes = 0
        self._reading = 0
        self._unfinished: dict[int, bool] = {}  # by episode: was the last of its rows so far wanted

    def gather(self, plan: BlockPlan) -> tuple[Rows, int]:
        """(stored columns without those that are lost, number of rows), in any order. Raises ShardError."""
        table = plan.segments
        total = int(plan.rows.sum())
        if self._looked_at & set(plan.lost):
            where = self._runs[int(table.run[0])].path
            raise ShardError(f"{where}: values that --where asks for were lost: {', '.join(plan.lost)}")
        for run in np.unique(table.run).tolist() if plan.lost else ():
            gone = self._convert[run].reads & set(plan.lost) if self._convert is not None else ()
            if gone:
                raise ShardError(f"{self._runs[run].path}: values to be converted were lost: {', '.join(sorted(gone))}")
        columns = [c for c in self._columns if c.name not in plan.lost or c.name in self._made_names]
        out = {column.name: POOL.empty(column.shape(total), column.dtype) for column in columns}
        keep = None if self._where is None else np.empty(total, bool)
        first = table.first_row + plan.skip
        order = np.lexsort((first, table.block, table.shard, table.run))
        keys = np.stack([table.run, table.shard, table.block], 1)[order]
        begins = np.flatnonzero(np.append(True, (keys[1:] != keys[:-1]).any(1))).tolist()
        at = 0
        for begin, end in zip(begins, [*begins[1:], len(order)], strict=True):
            at = self._copy(plan, order[begin:end], columns, out, keep, at)
        if keep is None:
            return out, total
        keep = self._with_last_rows(out, keep)
        count = int(np.count_nonzero(keep))
        names = [name for name in self._wanted if name in out]
        return {name: out[name] if count == total else out[name][keep] for name in names}, count

    def _copy(
        self,
        plan: BlockPlan,
        mine: np.ndarray,
        columns: Sequence[Column],
        out: Rows,
        keep: np.ndarray | None,
        at: int,
    ) -> int:
        """Copy the pieces `mine`, all of one source block, to the rows from `at` on; returns where they end."""
        table, rows = plan.segments, plan.rows[mine]
        place = (int(table.run[mine[0]]), int(table.shard[mine[0]]), int(table.block[mine[0]]))
        first = (table.first_row + plan.skip)[mine]
        end = at + int(rows.sum())
        part = {name: values[at:end] for name, values in out.items()}
        source = part
        if self._convert is None:
            stored = [c for c in columns if c.name in self._stored_names and c.name not in plan.lost]
        else:
            stored = [c for c in self._runs[place[0]].schema.columns if c.name not in plan.lost]
            source = {column.name: POOL.empty(column.shape(end - at), column.dtype) for column in stored}
        try:
            self._read(place, first, first + rows, stored, source)
            if keep is not None and self._where is not None:
                keep[at:end] = self._where[place[0]](source, plan.player)
            if self._convert is not None:
                converted = self._convert[place[0]].convert(source, end - at, plan.player)
                for name in part.keys() - self._made_names:
                    part[name][:] = converted[name]
            if self._made is not None:
                self._made.fill(place[0], plan.player, part)
        except ShardError as error:
            raise ShardError(f"{error}; run expkit recover {quoted(self._runs[place[0]].path)} first") from None
        if self._numbers is not None and "episode" in part:
            given = [self._numbers[place[0], episode] for episode in table.episode[mine].tolist()]
            part["episode"][:] = np.repeat(np.array(given, np.uint64), rows)
        if self._policies is not None and "policy" in part:
            known = self._policies[place[0]]
            if int(part["policy"].max()) >= len(known):
                path = self._runs[place[0]].path
                raise ShardError(f"{path}: policy {int(part['policy'].max())} is not in the run's table of policies")
            part["policy"][:] = known[part["policy"]]
        return end

    def _read(self, place: Place, first: np.ndarray, last: np.ndarray, columns: Sequence[Column], out: Rows) -> None:
        """The rows from each of `first` to `last` (rising) of one source block."""
        if place[0] != self._reading:  # of many runs not all can be open
            self._runs[self._reading].close_readers()
            self._reading = place[0]
        reader = self._runs[place[0]].reader(place[1])
        breaks = np.flatnonzero(first[1:] != last[:-1]) + 1
        starts = first[np.append(0, breaks)].tolist()
        stops = last[np.append(breaks - 1, len(last) - 1)].tolist()
        narrow = self._narrow(reader, place, columns)
        at = 0
        for start, stop in zip(starts, stops, strict=True):
            for name, values in narrow.items():
                out[name][at : at + stop - start] = values[start:stop]
            at += stop - start
        wide = {column.name: out[column.name] for column in columns if column.row_bytes >= WIDE_BYTES}
        if wide:
            wanted = np.concatenate([np.arange(start, stop) for start, stop in zip(starts, stops, strict=True)])
            reader.read_into(place[2], wanted, wide, np.arange(len(wanted)))

    def _narrow(self, reader: ShardReader, place: Place, columns: Sequence[Column]) -> Rows:
        """The narrow ones of `columns`, of all rows of a source block."""
        found = self._kept.get(place)
        if found is None:
            # All rows: asked for some, the reader would keep the columns, as every other reader would.
            found = reader.read_block(place[2], [column.name for column in columns if column.row_bytes < WIDE_BYTES])
            self._kept_bytes += _bytes(found)
        self._kept[place] = found
        self._kept.move_to_end(place)
        while self._kept_bytes > KEPT_BYTES and len(self._kept) > 1:
            self._kept_bytes -= _bytes(self._kept.popitem(last=False)[1])
        return found

    def _with_last_rows(self, out: Rows, keep: np.ndarray) -> np.ndarray:
        """Last rows go with the row before them, which may have come with an earlier block."""
        episode, last = out["episode"], out["is_last"]
        order = np.lexsort((out["step"], episode))
        inner, sorted_keep = episode[order], keep[order]
        follows = np.append(False, inner[1:] == inner[:-1])
        for at in np.flatnonzero(last[order]).tolist():
            if follows[at]:
                sorted_keep[at] = sorted_keep[at - 1]
            else:
                sorted_keep[at] = self._unfinished.pop(int(inner[at]), sorted_keep[at])
        closing = np.flatnonzero(np.append(inner[1:] != inner[:-1], True))
        for at in closing[~last[order][closing]].tolist():
            self._unfinished[int(inner[at])] = bool(sorted_keep[at])
        out_keep = np.empty_like(keep)
        out_keep[order] = sorted_keep
        return out_keep


def _bytes(rows: Rows) -> int:
    """Memory, about. Of a small block most is the arrays themselves: 2 objects of 112 bytes each, and their place."""
    return sum(values.nbytes + _ARRAY for values in rows.values())
