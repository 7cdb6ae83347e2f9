"""Small runs to damage, and the slow twin that says which rows and values a run holds."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np

from expkit.errors import ShardError
from expkit.formats.shard import BlockEncoder, ShardReader
from expkit.reading.opening import open_run
from expkit.row.episodes import EpisodeEnd, EpisodeStart, PolicyInfo
from expkit.row.schema import Field, Schema
from expkit.runs.layout import RunInfo
from expkit.runs.write import RunWriter, create_run
from expkit.system.files import Disk

TINY = Schema([Field("board", "u1", (3,), "observation"), Field("action", "i2", belongs="action")])
Key = tuple[int, int, int]


class QuickDisk(Disk):
    """The real disk without waiting for it: for tests that recover thousands of runs and cut no power."""

    def sync(self, handle: int, *, data_only: bool = False) -> None:
        return None

    def sync_folder(self, folder: object) -> None:
        return None


def small_run(path: Path, close: bool = True, produced: int = 0, episodes: int = 2, rotate: bool = False) -> Path:
    """Two players, episodes of 5 actions, a block for each episode and player: one shard of some 3 KiB, or with
    `rotate` one for each episode.

    close     else the writer is left as a kill leaves it, in the last episode, with `produced` rows a player in the
              ledger that reached no file
    """
    shutil.rmtree(path, ignore_errors=True)
    create_run(path, RunInfo("ab", "test", TINY, ["p", "q"], [PolicyInfo("only")], created_ns=1, host="h", argv=["x"]))
    writer = RunWriter(path, TINY, 2)
    rng = np.random.default_rng(3)
    for episode in range(episodes):
        write_episode(writer, episode, rng, ends=close or episode < episodes - 1)
        if rotate:
            writer.rotate()
    if close:
        writer.close()
    else:
        writer.sync()
        writer.ledger.produced[:] += produced
        writer.abandon()
    return path


def write_episode(
    writer: RunWriter, episode: int, rng: np.random.Generator, ends: bool = True, first_rows: int = 6
) -> None:
    """An episode of 6 rows for each of two players, as blocks of their own; `first_rows` of them are written."""
    starts, rows, encoder = [EpisodeStart(episode, 1, [0, 1], "test", seeds={"env": 7})], 6, BlockEncoder(TINY)
    for player in range(2):
        columns = {c.name: np.zeros(c.shape(rows), c.dtype) for c in TINY.columns}
        columns["episode"][:] = episode
        columns["step"][:] = np.arange(rows)
        columns["time_ns"][:] = rng.integers(0, 1 << 40, rows)
        columns["is_first"][0] = columns["is_last"][-1] = True
        columns["terminated"][-2] = True
        columns["reward"][-2] = 1 - 2 * player
        columns["board"][:] = rng.integers(0, 255, (rows, 3))
        columns["action"][:-1] = rng.integers(-99, 99, rows - 1)
        writer.ledger.produced[player] += first_rows
        writer.append(encoder.encode(player, columns, first_rows), starts=starts)
        starts = []
    if ends:
        writer.append_episodes([], [EpisodeEnd(episode, 2, "terminated", 5, {"0": 1.0}, {"0": rows, "1": rows})])


def contents(path: Path) -> dict[Key, dict[str, bytes | None]]:
    """Every row that counts, by (episode, player, step): its stored columns, None where a value is lost. Fails on a
    row that counts twice."""
    out: dict[Key, dict[str, bytes | None]] = {}
    with open_run(path) as run:
        for block in run.blocks():
            columns: dict[str, np.ndarray | None] = {}
            for name in block.reader.names:
                try:
                    columns[name] = block.read([name])[name]
                except ShardError:
                    columns[name] = None
            for row, key in enumerate(zip(columns["episode"].tolist(), columns["step"].tolist(), strict=True)):
                place = key[0], block.info.player, key[1]
                assert place not in out, f"row {place} counts twice"
                out[place] = {n: None if v is None else v[row].tobytes() for n, v in columns.items()}
    return out


def missing(
    before: dict[Key, dict[str, bytes | None]], after: dict[Key, dict[str, bytes | None]]
) -> tuple[list[Key], list[tuple[Key, str]], list[tuple[Key, str]]]:
    """(rows gone, values gone, values that are others or rows that were never there)."""
    rows = [key for key in before if key not in after]
    values, wrong = [], [(key, "") for key in after if key not in before]
    for key in before.keys() & after.keys():
        for name, value in before[key].items():
            now = after[key][name]
            if now != value:
                (values if now is None else wrong).append((key, name))
    return rows, values, wrong


def what_is_at(reader: ShardReader, offset: int) -> tuple[int, str | None] | None:
    """(block, column, None for the block's head) of a byte of the file, None outside of blocks."""
    for block in reader.blocks:
        if block.offset <= offset < block.body_offset:
            return block.index, None
        if block.body_offset <= offset < block.offset + block.nbytes:
            head = reader.head(block.index)
            frame = int(np.searchsorted(head.body_at, offset - block.body_offset, side="right")) - 1
            return block.index, reader.names[int(np.searchsorted(head.first_frame, frame, side="right")) - 1]
    return None
