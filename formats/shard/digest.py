"""Row hashes of stored columns, to compare what two files hold whatever their layout (SPEC.md, "Digest")."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

import numpy as np

from expkit.kernels.digest import hash_rows, key_stream, nh_row, sum_runs
from expkit.row.schema import Schema


class RowHasher:
    """Hashes rows of one schema. Safe to share between threads. `keys`: the key stream of each column."""

    def __init__(self, schema: Schema):
        self._columns = schema.columns
        self.keys = {column.name: key_stream(column.name, column.row_bytes) for column in self._columns}
        self._player_key = key_stream("player", 8)

    def start(self, player: int) -> np.uint64:
        """What the player, which is no stored column, adds to each row's sum."""
        word = np.array([player], np.uint64)
        return np.uint64(nh_row(word.ctypes.data, 8, self._player_key.ctypes.data))

    def rows(
        self,
        columns: Mapping[str, np.ndarray],
        player: int,
        sums: np.ndarray | None = None,
        summed: Collection[str] = (),
    ) -> np.ndarray:
        """uint64 (rows,): the hash of each row of the stored `columns`, which must be all of the schema's (`zeros_for`
        gives those whose values were lost) but those `summed`: what these add to each row is in uint64 `sums`."""
        wanted = [column for column in self._columns if column.name not in summed]
        arrays = [np.ascontiguousarray(columns[column.name]) for column in wanted]
        rows = len(arrays[0]) if sums is None else len(sums)
        table = np.array(
            [
                (array.ctypes.data, column.row_bytes, self.keys[column.name].ctypes.data)
                for array, column in zip(arrays, wanted, strict=True)
            ],
            np.int64,
        )
        out = np.full(rows, self.start(player)) if sums is None else sums + self.start(player)
        hash_rows(table.reshape(-1, 3), rows, out)
        return out


def zeros_for(schema: Schema, lost: Iterable[str], rows: int) -> dict[str, np.ndarray]:
    """Stored arrays that columns whose values were `lost` count as in a digest: zero bytes."""
    return {name: np.zeros(schema.column(name).shape(rows), schema.column(name).dtype) for name in lost}


def sum_by_run(hashes: np.ndarray, first: np.ndarray, count: np.ndarray) -> np.ndarray:
    """uint64 (runs,): the wrapping sum of `hashes` over each run of rows."""
    out = np.empty(len(first), np.uint64)
    sum_runs(hashes, first.astype(np.int64), count.astype(np.int64), len(first), out)
    return out
