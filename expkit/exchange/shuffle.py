"""Rows in random order, exactly: each of the permutations of all rows is as likely as any other.

Two passes over the disk. In the first every row goes to a bucket drawn for it alone; in the second the buckets, each of
which fits memory, are read one after the other and put in random order. (That a uniform permutation comes of it is the
argument of Rao's and Sandelius' shuffle: given the buckets' sizes, every assignment of rows is equally likely.)
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from expkit.exchange.buckets import BUCKET_BYTES, Buckets
from expkit.formats.protocol import Batch, column_names
from expkit.row.schema import Schema

_BATCH_BYTES = 16 << 20


def shuffled(
    blocks: Iterator[tuple[int, dict[str, np.ndarray], int]],
    schema: Schema,
    rows: int,
    seed: int,
    folder: Path,
    prefix: str,
    bucket_bytes: int = BUCKET_BYTES,
) -> Iterator[Batch]:
    """The rows of `blocks`, (player, stored columns, rows) each, in an order that follows from the seed and the order
    they come in.

    rows            at most so many there are
    folder, prefix  where rows wait meanwhile, and what the names of the files there begin with

    Two or three buckets of `bucket_bytes` are in memory. Raises NoSpace, WriteFailed, and what `blocks` raises.
    """
    rng = np.random.default_rng(seed)
    with Buckets(schema, rows, folder, prefix, bucket_bytes) as buckets:
        for player, stored, count in blocks:
            buckets.put(stored, np.full(count, player, np.uint16), rng.integers(0, buckets.count, count))
        most = max(1, _BATCH_BYTES // schema.row_bytes)
        names = column_names(schema)
        for number in range(buckets.count):
            stored, players = buckets.take(number)
            order = rng.permutation(len(players))
            for begin in range(0, len(order), most):
                part = order[begin : begin + most]
                batch = {name: schema.unpack(name, values[part]) for name, values in stored.items()}
                batch["player"] = players[part]
                yield {name: batch[name] for name in names}
