"""Batches of recorded rows for trainers: what one run and many runs together offer alike."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np

from expkit.predicates import BoundPredicate, EpisodeTable, Predicate, parse
from expkit.reading.selection import Selection
from expkit.runs import batches
from expkit.runs.batches import BatchDecoder, Rows, stored_names
from expkit.runs.index import RunIndex
from expkit.runs.superseding import VisibleBlock
from expkit.schema import Schema
from expkit.units import parse_size

if TYPE_CHECKING:
    import pyarrow

    from expkit.formats.shard.read import ShardReader
    from expkit.pipeline.chain import Pipeline


class Readable(ABC):
    """Rows of blocks of shards, to be read in batches."""

    @property
    @abstractmethod
    def label(self) -> str:
        """What errors call it."""

    @property
    @abstractmethod
    def schema(self) -> Schema:
        """Of all its rows."""

    @property
    @abstractmethod
    def steps(self) -> int:
        """Rows that are transitions."""

    @property
    @abstractmethod
    def index(self) -> RunIndex:
        """The table of segments over all readable shards."""

    @abstractmethod
    def blocks(self, *, unreadable: Literal["raise", "skip"] = "raise") -> Iterator[VisibleBlock]:
        """Every block with rows that count, shard after shard. `skip` leaves out shards that cannot be opened at
        all, instead of raising ShardError."""

    @abstractmethod
    def visible(self, position: int, index: int) -> VisibleBlock:
        """A block by the position of its shard and its own in that. Raises NotThere when no row of it counts,
        ShardError."""

    @abstractmethod
    def reader(self, shard: int) -> ShardReader:
        """The reader of the shard at that position. Raises NotThere, ShardError."""

    @abstractmethod
    def lacks_rows(self, run: int, episode: int, player: int, rows: int) -> bool:
        """Whether a player's episode of a run, of which there are `rows` and whose steps do not all follow each other,
        may be missing any."""

    @abstractmethod
    def bind(self, where: Predicate) -> list[tuple[BoundPredicate, EpisodeTable | None]]:
        """For each run the condition on its rows, with its episodes if they are asked for. Raises UsageError."""

    @property
    def policy_places(self) -> list[np.ndarray] | None:
        """For each of several runs, the place of each of its policies (u2) in the table of all; None for one run."""
        return None

    def selection(self, where: str | Predicate) -> Selection:
        """The rows for which a condition holds. Raises UsageError for what is no condition on these rows."""
        return Selection(self.bind(parse(where, "where") if isinstance(where, str) else where))

    def decoder(self, columns: Sequence[str] | None = None) -> BatchDecoder:
        """Makes batches of those columns. Raises SchemaError for a name that is nothing."""
        return BatchDecoder(self.schema, stored_names(self.schema, columns), self.policy_places)

    def scan(
        self,
        columns: Sequence[str] | None = None,
        *,
        batch_size: int | None = None,
        rows: Rows = "transitions",
        damaged: Literal["raise", "skip"] = "raise",
        threads: int = 1,
        pipeline: Pipeline | None = None,
        where: str | Predicate | None = None,
    ) -> Iterator[dict[str, np.ndarray]]:
        """Batches of `batch_size` rows (the last one smaller), block after block, players mixed between batches. Left
        to the files, batches are of one player and of about 32 MiB, which is fastest: no frame is decompressed twice.

        columns   field or group names (`observation`), all when left out; the keys and `player` always come along
        rows      `transitions`, or `all` with the last rows, whose action, reward and the like are absent (zero)
        damaged   `skip` leaves out shards that cannot be read and blocks in which a wanted column cannot, instead of
                  raising ShardError
        threads   that read, decode and process, two batches ahead each; one is the caller's own
        pipeline  processors that the rows go through, or a Chain of them, whose `counts` then tell what it left out;
                  see `expkit.pipeline`. `columns` are of what comes out. Where one needs whole episodes, rows come by
                  episode and player instead of block after block, and some 32 MiB of them, or one player's longest
                  episode, are read at a time.
        where     a condition on the rows as they are stored, like `reward > 0.5 and player == 1`, see
                  `expkit.predicates`: blocks in which none can match are not decompressed, and only of the rows that
                  match are the columns decoded. Where a processor needs whole episodes, it is given them, and its
                  results are of the rows that match.

        Raises UsageError, SchemaError, ShardError.
        """
        selection = None if where is None else self.selection(where)
        if pipeline is not None:
            from expkit.pipeline import as_chain
            from expkit.runs import processed

            chain = as_chain(pipeline, self.schema)
            return processed.scan(self, chain, columns, batch_size, rows, damaged == "skip", threads, selection)
        decoder = self.decoder(columns)
        return batches.scan(self, decoder, batch_size, rows, damaged == "skip", threads, selection)

    def arrow(
        self,
        columns: Sequence[str] | None = None,
        *,
        batch_size: int | None = None,
        rows: Rows = "transitions",
        threads: int = 1,
        where: str | Predicate | None = None,
    ) -> pyarrow.RecordBatchReader:
        """The rows as a stream of Arrow record batches, of which a few are in memory at a time; see `expkit.arrow` for
        their columns.

        columns  keys, fields or groups of fields, in the order given, and nothing else; all when left out

        The rest as for `scan`. Raises UsageError, SchemaError, MissingExtra; the stream raises ShardError.
        """
        from expkit import arrow

        shape = arrow.arrow_schema(self.schema, columns, rows=rows)
        batches = self.scan(shape.names, batch_size=batch_size, rows=rows, threads=threads, where=where)
        return arrow.reader(shape, batches)

    def shuffled(
        self,
        batch_size: int = 256,
        *,
        seed: int = 0,
        epoch: int = 0,
        columns: Sequence[str] | None = None,
        rows: Rows = "transitions",
        memory: str | int = "64MiB",
        threads: int = 1,
        pipeline: Pipeline | None = None,
        where: str | Predicate | None = None,
    ) -> Iterator[dict[str, np.ndarray]]:
        """Every row exactly once, in batches of `batch_size` (the last one smaller): an epoch of training.

        Pieces of some 4 MiB, 512 to 4,096 rows, are read in random order, as many at a time as fit `memory`, and
        their rows are mixed: a pure function of (seed, epoch, memory, the files), whatever the number of `threads`
        that decode. Batches are parts of larger arrays, and of those one more is there while a batch of it is held:
        copy what is kept for long. Columns, pipeline and where as for `scan`; where a processor needs whole episodes,
        these are read in random order, consecutive ones of a piece together. Raises UsageError, SchemaError, ShardError.
        """
        selection = None if where is None else self.selection(where)
        if pipeline is not None:
            from expkit.pipeline import as_chain
            from expkit.runs import processed

            chain, budget = as_chain(pipeline, self.schema), parse_size(memory)
            return processed.shuffled(self, chain, columns, batch_size, seed, epoch, rows, budget, threads, selection)
        decoder = self.decoder(columns)
        return batches.shuffled(self, decoder, batch_size, seed, epoch, rows, parse_size(memory), threads, selection)

    def sample(
        self, count: int, rng: np.random.Generator | None = None, columns: Sequence[str] | None = None
    ) -> dict[str, np.ndarray]:
        """`count` transitions drawn uniformly with replacement. Raises NotThere when the run holds none."""
        decoder = self.decoder(columns)
        return batches.sample(self, decoder, count, rng or np.random.default_rng())
