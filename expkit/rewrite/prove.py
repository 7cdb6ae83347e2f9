"""Does an output hold what its sources held? Sums of row hashes by (episode, player) do not depend on layout."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np

from expkit.errors import CheckFailed, ShardError
from expkit.formats.shard.check import check_shard
from expkit.formats.shard.digest import RowHasher, sum_by_run, zeros_for
from expkit.formats.shard.pool import POOL
from expkit.formats.shard.read import ShardReader
from expkit.formats.shard.records import open_shard
from expkit.reading.run import Run
from expkit.rewrite.segments import Segments
from expkit.system.parallel import cores, in_order

Sums = dict[tuple[int, int], tuple[int, int]]
_U64 = (1 << 64) - 1


def check_sound(path: Path, advice: str) -> None:
    """Compare every checksum of a shard file. Raises ShardError with the first damage; `advice` says what to do."""
    for finding in check_shard(path, deep=False):
        if finding.severity == "error":
            where = "" if finding.block is None else f" block {finding.block}"
            where += "" if finding.column is None else f" {finding.column}"
            raise ShardError(f"{path}{where}: {finding.message}; {advice}")


def check_output(path: Path, expected: Sums) -> None:
    """Compare every checksum of an output shard, read from the disk, and its rows and digests with what its sources
    held. Raises CheckFailed."""
    _forget_cached(path)
    check_sound(path, "nothing was published, the old files stay")
    with ShardReader(path) as reader:
        compare_sums(expected, reader.digests)


def prove(run: Run, chosen: Segments, output: Path) -> None:
    """Read the rows `chosen` of a run and those of its rewritten shard again, hash each anew and compare the sums, with
    one another and with what the files say. Raises CheckFailed, ShardError."""
    expected = chosen.sums()
    POOL.forget()
    compare_sums(expected, _sums(_source_blocks(run, chosen)))
    POOL.forget()
    _forget_cached(output)
    with ShardReader(output) as reader:
        compare_sums(expected, _sums((reader, block.index, None) for block in reader.blocks))


def _source_blocks(run: Run, chosen: Segments) -> Iterator[tuple[ShardReader, int, np.ndarray]]:
    """The blocks that hold rows of `chosen`, and which episodes of each: others may be there that do not count."""
    order = np.lexsort((chosen.block, chosen.shard))
    places = np.stack([chosen.shard, chosen.block], 1)[order]
    begins = np.flatnonzero(np.append(True, (places[1:] != places[:-1]).any(1)))
    for mine in np.split(order, begins[1:]) if len(order) else ():
        shard, block = int(chosen.shard[mine[0]]), int(chosen.block[mine[0]])
        yield run.reader(shard), block, chosen.episode[mine]


def compare_sums(expected: Mapping[tuple[int, int], tuple[int, int]], found: Sums) -> None:
    """Raises CheckFailed for the first (episode, player) whose rows or digests differ."""
    for key in sorted(expected.keys() | found.keys()):
        want, have = expected.get(key, (0, 0)), found.get(key, (0, 0))
        if want != have:
            what = f"{want[0]:,} rows became {have[0]:,}" if want[0] != have[0] else "its rows have another digest"
            raise CheckFailed(
                f"episode {key[0]} player {key[1]}: {what} after rewriting; nothing was published, the old files stay"
            )


def _sums(blocks: Iterable[tuple[ShardReader, int, np.ndarray | None]]) -> Sums:
    """Rows and digests by (episode, player), computed from decoded rows; of the episodes told, None for all."""
    out: Sums = {}
    for player, table in in_order(_hash_block, blocks, cores()):
        for episode, rows, digest in table:
            before = out.get((episode, player), (0, 0))
            out[episode, player] = before[0] + rows, (before[1] + digest) & _U64
    return out


def _hash_block(place: tuple[ShardReader, int, np.ndarray | None]) -> tuple[int, list[tuple[int, int, int]]]:
    """(player, [(episode, rows, digest as its rows now give it), …])."""
    reader, block, episodes = place
    info, table = reader.blocks[block], reader.runs(block)
    lost = reader.lost_columns(block)
    columns = reader.read_block(block, [name for name in reader.names if name not in lost])
    hashes = RowHasher(reader.schema).rows({**columns, **zeros_for(reader.schema, lost, info.rows)}, info.player)
    digests = sum_by_run(hashes, table["first_row"], table["rows"])
    mine = slice(None) if episodes is None else np.isin(table["episode"], episodes)
    told = (table["episode"][mine].tolist(), table["rows"][mine].tolist(), digests[mine].tolist())
    return info.player, list(zip(*told, strict=True))


def _forget_cached(path: Path) -> None:
    """Ask the system to drop the file from its cache, so that what is checked is what the disk holds."""
    handle = open_shard(path)
    try:
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(handle)
