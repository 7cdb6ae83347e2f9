"""Where the rows of episodes are: one table over all blocks of several runs, made from the blocks' heads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np

from expkit.reading.run import Run

_U64 = (1 << 64) - 1


@dataclass(frozen=True, slots=True)
class Segments:
    """Stretches of consecutive rows of one (episode, player) in one block; arrays of equal length, sorted by
    (run, episode, player, first_step).

    run, shard, block   position in the list of runs, in that run's shards and in that shard's blocks
    first_row, rows     of the stretch in its block
    digest u64          sum of its rows' hashes
    row_bytes f64       bytes that one row of its block takes in the file
    lost                place in `lost_sets` of the columns whose values its block has lost
    """

    run: np.ndarray
    shard: np.ndarray
    block: np.ndarray
    player: np.ndarray
    episode: np.ndarray
    first_row: np.ndarray
    rows: np.ndarray
    first_step: np.ndarray
    digest: np.ndarray
    row_bytes: np.ndarray
    lost: np.ndarray
    lost_sets: tuple[tuple[str, ...], ...] = ((),)

    def __len__(self) -> int:
        return len(self.run)

    @classmethod
    def of(cls, runs: Sequence[Run]) -> Segments:
        """Of every row that counts. Raises ShardError for a block whose head is damaged."""
        lost_sets: dict[tuple[str, ...], int] = {(): 0}
        parts: list[list[np.ndarray]] = []
        for number, opened in enumerate(runs):
            for block in opened.blocks():
                info = block.info
                table = block.reader.runs(info.index)
                if block.keep is not None:
                    table = table[block.keep[table["first_row"]]]
                missing = block.reader.lost_columns(info.index)
                place = lost_sets.setdefault(missing, len(lost_sets))
                n = len(table)
                parts.append(
                    [
                        np.full(n, number), np.full(n, block.shard), np.full(n, info.index), np.full(n, info.player),
                        table["episode"], table["first_row"], table["rows"], table["first_step"], table["digest"],
                        np.full(n, info.nbytes / info.rows), np.full(n, place),
                    ]
                )  # fmt: skip
        kinds = (
            np.int32, np.int32, np.int32, np.int32, np.uint64, np.int64, np.int64, np.int64, np.uint64, np.float64,
            np.int32,
        )  # fmt: skip
        columns = [
            np.concatenate([part[i] for part in parts]).astype(kind) if parts else np.empty(0, kind)
            for i, kind in enumerate(kinds)
        ]
        order = np.lexsort((columns[7], columns[3], columns[4], columns[0]))
        (run, shard, at, player, episode, first, rows, step, digest, size, lost) = (c[order] for c in columns)
        return cls(run, shard, at, player, episode, first, rows, step, digest, size, lost, tuple(lost_sets))

    @classmethod
    def join(cls, parts: Sequence[Segments]) -> Segments:
        """Of several runs, each as `of([run])` gives it, in that order."""
        lost_sets: dict[tuple[str, ...], int] = {(): 0}
        arrays: dict[str, list[np.ndarray]] = {f.name: [] for f in fields(cls) if f.name != "lost_sets"}
        for number, part in enumerate(parts):
            for name, listed in arrays.items():
                listed.append(getattr(part, name))
            arrays["run"][-1] = np.full(len(part), number, np.int32)
            places = np.array([lost_sets.setdefault(lost, len(lost_sets)) for lost in part.lost_sets], np.int32)
            arrays["lost"][-1] = places[part.lost]
        return cls(**{name: np.concatenate(listed) for name, listed in arrays.items()}, lost_sets=tuple(lost_sets))

    def take(self, places: np.ndarray) -> Segments:
        """Those at `places`, in that order."""
        return replace(self, **{f.name: getattr(self, f.name)[places] for f in fields(self) if f.name != "lost_sets"})

    def sums(self) -> dict[tuple[int, int], tuple[int, int]]:
        """By (episode, player): rows and digest, as a shard's footer lists them. Of segments of one run."""
        out: dict[tuple[int, int], tuple[int, int]] = {}
        for key in zip(
            self.episode.tolist(), self.player.tolist(), self.rows.tolist(), self.digest.tolist(), strict=True
        ):
            rows, digest = out.get(key[:2], (0, 0))
            out[key[:2]] = (rows + key[2], (digest + key[3]) & _U64)
        return out
