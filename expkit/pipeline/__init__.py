"""Pipelines: what is done to rows between a game and the disk, or between the disk and a trainer.
Imports predicates, rewards and others of their row, and all that stands below.

    chain = Chain(["validate", {"kind": "gae", "gamma": 0.99}], run.schema)
    for batch in run.scan(["observation", "advantage"], pipeline=chain): ...
    chain.counts

A link is a kind of those below, an entry point of the group `expkit.processors`, your own `module:callable`, or any
`Processor`. The same chain gives the same rows on recording and on reading.
"""

from expkit.pipeline.chain import Chain, Counts, Processed, as_chain
from expkit.pipeline.kinds import find_processor, processor_names
from expkit.pipeline.processor import ColumnBatch, Columns, Outcome, Processor, processor

__all__ = [
    "Chain",
    "ColumnBatch",
    "Columns",
    "Counts",
    "Outcome",
    "Processed",
    "Processor",
    "as_chain",
    "find_processor",
    "processor",
    "processor_names",
]
