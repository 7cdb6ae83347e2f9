"""A block as it is stored, to be appended to another file, also without columns that cannot be saved."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from expkit.formats.shard.blocks import lost_entry
from expkit.formats.shard.digest import RowHasher, sum_by_run, zeros_for
from expkit.formats.shard.encode import EncodedBlock, pack_block
from expkit.formats.shard.read import ShardReader


def copy_block(
    reader: ShardReader, index: int, lost: Collection[str] = (), hasher: RowHasher | None = None
) -> EncodedBlock:
    """The block with the frames it has, no column compressed again. The columns `lost` are left out; only for them
    are the others decoded, because the digests of all rows change. Runs and ranges stay those of the block's head,
    which knows them even where `episode` or `time_ns` is lost.

    Every frame that is kept is compared with its checksum: raises ShardError for damage in another column, SchemaError
    for one the schema does not have. `hasher`: of the reader's schema, to make it once for many blocks.
    """
    head = reader.head(index)
    info = reader.blocks[index]
    for name in lost:
        reader.schema.column(name)
    before = reader.lost_columns(index)
    gone = {*before, *lost}
    columns, frames, body = [], [], []
    for column, entry in zip(reader.schema.columns, head.columns, strict=True):
        if column.name in gone:
            columns.append(lost_entry(head.rows))
            continue
        columns.append(entry)
        pieces = reader.stored_frames(index, column.name)
        base = head.first_frame[len(columns) - 1]
        frames += [(len(piece), head.crcs[base + place]) for place, piece in enumerate(pieces)]
        body += pieces
    runs = head.runs
    if len(gone) > len(before):
        runs = runs.copy()
        found = reader.read_block(index, [name for name in reader.names if name not in gone])
        found |= zeros_for(reader.schema, gone, head.rows)
        hashes = (hasher or RowHasher(reader.schema)).rows(found, info.player)
        runs["digest"] = sum_by_run(hashes, runs["first_row"], runs["rows"])
    return pack_block(info.player, head.rows, head.ranges, head.dropped, runs, columns, frames, body)


def keys_of_runs(runs: np.ndarray) -> dict[str, np.ndarray]:
    """The stored columns `episode` and, where every run's steps follow one another without a gap, `step`, as a
    block's runs tell them: its head has a checksum of its own and outlives the damage of those columns.

    Gaps and doubled steps that cancel out are taken for none. Rows whose other columns are whole prove the result:
    their digest is the one in the runs.
    """
    rows = runs["rows"].astype(np.int64)
    keys = {"episode": np.repeat(runs["episode"], rows)}
    first, last = runs["first_step"].astype(np.int64), runs["last_step"].astype(np.int64)
    if np.array_equal(last - first + 1, rows):
        inside = np.arange(rows.sum()) - np.repeat(runs["first_row"].astype(np.int64), rows)
        keys["step"] = (np.repeat(first, rows) + inside).astype(np.uint32)
    return keys
