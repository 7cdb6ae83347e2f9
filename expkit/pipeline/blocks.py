"""A chain over blocks as they are stored: what a recorder does to rows before they are encoded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from expkit.errors import UsageError
from expkit.pipeline.chain import Chain, Counts
from expkit.pipeline.processor import ColumnBatch
from expkit.row.schema import KEY_NAMES, Schema


class ProcessedBlock(NamedTuple):
    """What came of a block.

    columns  stored arrays of the chain's schema, of `rows` rows;  counts: what was left out or repaired
    aside    stored arrays, as they were given, of the rows that are to be kept elsewhere; None where there are none
    """

    columns: dict[str, np.ndarray]
    rows: int
    counts: Counts
    aside: dict[str, np.ndarray] | None


class BlockPipeline:
    """A chain whose links look at single rows, over stored columns: only those that a link asks for are unpacked. Safe
    to share between threads.

    Raises UsageError for a link that needs whole episodes: while an episode is played, they are not there.
    """

    def __init__(self, chain: Chain):
        if chain.whole_episodes:
            raise UsageError(
                f"pipeline: {chain.whole_episodes[0]} needs whole episodes, which are not there while they are "
                "recorded; use it on reading, as in run.scan(pipeline=[…])"
            )
        self.chain = chain
        self._touched = chain.needs(())
        self._altered = chain.altered()

    @property
    def schema(self) -> Schema:
        """Of the rows that come out."""
        return self.chain.schema

    def process(self, columns: Mapping[str, np.ndarray], rows: int, player: int) -> ProcessedBlock:
        """The first `rows` rows of stored `columns` of one player, in any order; they are not written to, and what
        comes out may be views of them. Raises what a processor raises, SchemaError for a value that its field cannot
        hold."""
        before, after = self.chain.from_schema, self.chain.schema
        logical = {name: columns[name][:rows] for name in KEY_NAMES}
        logical["player"] = np.full(rows, player, np.uint16)
        for name in self._touched:
            logical[name] = before.unpack(name, columns[name][:rows])
            if before[name].nullable:
                logical[f"valid:{name}"] = columns[f"valid:{name}"][:rows]
        done = self.chain.apply(ColumnBatch(before, logical))
        kept = len(done.rows)
        out = {}
        for column in after.columns:
            if column.name.removeprefix("valid:") in self._altered:
                out[column.name] = after.pack(column.name, done.batch[column.name], kept)
            else:
                values = columns[column.name][:rows]
                out[column.name] = values if kept == rows else values[done.rows]
        aside = None
        if len(done.quarantined):
            aside = {column.name: columns[column.name][:rows][done.quarantined] for column in before.columns}
        return ProcessedBlock(out, kept, done.counts, aside)
