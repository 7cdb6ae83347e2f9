"""The rows of an output block out of the blocks of files that hold them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence

import numpy as np

from expkit.errors import ShardError
from expkit.formats.shard.encode import WIDE_BYTES
from expkit.formats.shard.pool import POOL
from expkit.formats.shard.read import ShardReader
from expkit.rewrite.layout import BlockPlan
from expkit.runs.read import Run
from expkit.schema import Column

Rows = dict[str, np.ndarray]
# Narrow columns are decoded whole, and kept for the output blocks that follow. Of wide ones only the frames at hand
# are: episodes that follow one another lie side by side in a block, so that few frames are decoded twice, while whole
# blocks of 64 games at once were needed by 4 output blocks each.
KEPT_BYTES = 32 << 20


class Gatherer:
    """Reads rows of `runs`, which have all of `columns` alike.

    numbers   by (run, episode) the episode's number in the output; those it has when left out
    policies  by run the output's policy of each of its policies, u16; the same ones when left out

    For one thread at a time.
    """

    def __init__(
        self,
        runs: Sequence[Run],
        columns: Sequence[Column],
        numbers: Mapping[tuple[int, int], int] | None = None,
        policies: Sequence[np.ndarray] | None = None,
    ):
        self._runs = runs
        self._columns = columns
        self._numbers = numbers
        self._policies = policies
        self._kept: OrderedDict[tuple[int, int, int], Rows] = OrderedDict()
        self._kept_bytes = 0

    def gather(self, plan: BlockPlan) -> Rows:
        """Stored columns of the block's rows, in any order, without those that are lost. Raises ShardError."""
        table = plan.segments
        total = int(plan.rows.sum())
        columns = [column for column in self._columns if column.name not in plan.lost]
        out = {column.name: POOL.empty(column.shape(total), column.dtype) for column in columns}
        first = table.first_row + plan.skip
        order = np.lexsort((first, table.block, table.shard, table.run))
        keys = np.stack([table.run, table.shard, table.block], 1)[order]
        begins = np.flatnonzero(np.append(True, (keys[1:] != keys[:-1]).any(1))).tolist()
        at = 0
        for begin, end in zip(begins, [*begins[1:], len(order)], strict=True):
            mine = order[begin:end]
            at = self._copy(plan, mine, first[mine], columns, out, at)
        return out

    def _copy(
        self, plan: BlockPlan, mine: np.ndarray, first: np.ndarray, columns: list[Column], out: Rows, at: int
    ) -> int:
        """Copy the pieces `mine`, all of one source block, to the rows from `at` on; returns where they end."""
        table, rows = plan.segments, plan.rows[mine]
        place = (int(table.run[mine[0]]), int(table.shard[mine[0]]), int(table.block[mine[0]]))
        last = first + rows
        breaks = np.flatnonzero(first[1:] != last[:-1]) + 1
        starts = first[np.append(0, breaks)].tolist()
        stops = last[np.append(breaks - 1, len(last) - 1)].tolist()
        reader = self._runs[place[0]].reader(place[1])
        narrow = self._narrow(reader, place, columns)
        end = at
        for start, stop in zip(starts, stops, strict=True):
            for name, values in narrow.items():
                out[name][end : end + stop - start] = values[start:stop]
            end += stop - start
        wide = [column.name for column in columns if column.row_bytes >= WIDE_BYTES]
        if wide:
            wanted = np.concatenate([np.arange(start, stop) for start, stop in zip(starts, stops, strict=True)])
            for name, values in reader.read_rows(place[2], wanted, wide).items():
                out[name][at:end] = values
        if self._numbers is not None and "episode" in out:
            given = [self._numbers[place[0], episode] for episode in table.episode[mine].tolist()]
            out["episode"][at:end] = np.repeat(np.array(given, np.uint64), rows)
        if self._policies is not None and "policy" in out:
            known, used = self._policies[place[0]], out["policy"][at:end]
            if int(used.max()) >= len(known):
                where = self._runs[place[0]].shard_paths[place[1]].path
                raise ShardError(f"{where} block {place[2]}: policy {int(used.max())} is not in the run's table")
            out["policy"][at:end] = known[used]
        return end

    def _narrow(self, reader: ShardReader, place: tuple[int, int, int], columns: list[Column]) -> Rows:
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


def _bytes(rows: Rows) -> int:
    return sum(values.nbytes for values in rows.values())
