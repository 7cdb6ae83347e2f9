"""Batches of recorded rows for trainers: what one run, a part of it, and many runs together offer alike."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from expkit.batches import epochs
from expkit.batches.decode import BatchDecoder, Rows, stored_names
from expkit.batches.epochs import Epoch, EpochState, PinnedShard
from expkit.batches.next_observation import NextObservations
from expkit.batches.scan import check_batch_size, scan_rows
from expkit.batches.source import BatchSource
from expkit.batches.timeline import Timeline, sample
from expkit.batches.windows import Windows
from expkit.errors import UsageError
from expkit.predicates import Predicate
from expkit.system.units import parse_size

if TYPE_CHECKING:
    import pyarrow

    from expkit.pipeline.chain import Pipeline


class Readable(BatchSource):
    """Rows of blocks of shards, to be read in batches."""

    @property
    @abstractmethod
    def single_runs(self) -> Sequence[Readable]:
        """The single runs that are read."""

    @abstractmethod
    def check_whole(self) -> None:
        """Raises CheckFailed where shards are missing that the manifest and the ledger tell of, ShardError where some
        cannot be read."""

    @abstractmethod
    def as_pinned(self, manifest: Sequence[PinnedShard]) -> Readable:
        """These runs as they were when an epoch pinned that, opened anew, where a compaction has rewritten them since
        and the files that it replaced are still there; else these, as they are."""

    @abstractmethod
    def close(self) -> None:
        """Let the files go."""

    @cached_property
    def timeline(self) -> Timeline:
        """All rows in the order of (run, episode, player, step)."""
        return Timeline(self)

    def decoder(
        self, columns: Sequence[str] | None = None, *, next_observation: bool = False, also: Sequence[str] = ()
    ) -> BatchDecoder:
        """Makes batches of those columns, for which it decodes `also`, too. Raises SchemaError for a name that is
        nothing."""
        names = stored_names(self.schema, columns)
        if next_observation:
            return NextObservations(self, self.timeline, names, also)
        return BatchDecoder(self.schema, names, self.policy_places, also)

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
        next_observation: bool = False,
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
        next_observation  for each field NAME that belongs to the observation, `next_NAME` of the state after the
                  action, read from the row that follows, which may be the last one, and `valid:next_NAME`: false, and
                  the value zero, where the episode was cut off or rows are missing

        Raises UsageError, SchemaError, ShardError.
        """
        selection = None if where is None else self.selection(where)
        if pipeline is not None:
            from expkit.batches import processed
            from expkit.pipeline import as_chain

            _refuse_next(next_observation)
            chain = as_chain(pipeline, self.schema)
            return processed.scan(self, chain, columns, batch_size, rows, damaged == "skip", threads, selection)
        decoder = self.decoder(columns, next_observation=next_observation)
        return scan_rows(self, decoder, batch_size, rows, damaged == "skip", threads, selection)

    def arrow(
        self,
        columns: Sequence[str] | None = None,
        *,
        batch_size: int | None = None,
        rows: Rows = "transitions",
        threads: int = 1,
        where: str | Predicate | None = None,
    ) -> pyarrow.RecordBatchReader:
        """The rows as a stream of Arrow record batches, of which a few are in memory at a time; see
        `expkit.row.arrow` for their columns. Of several runs `run`, the path, comes first; ragged fields are lists of
        what counts.

        columns  keys, fields or groups of fields, in the order given, and nothing else; all when left out

        The rest as for `scan`. Raises UsageError, SchemaError, MissingExtra; the stream raises ShardError.
        """
        from expkit.row import arrow

        labels = self.run_labels
        shape = arrow.arrow_schema(self.schema, columns, rows=rows, run=labels is not None, lists=True)
        names = [name for name in shape.names if name != arrow.RUN]
        names += [self.schema[name].ragged for name in names if name in self.schema and self.schema[name].ragged]
        batches = self.scan(names, batch_size=batch_size, rows=rows, threads=threads, where=where)
        return arrow.reader(shape, batches, labels)

    def query(self, question: str, *, columns: Sequence[str] | None = None, partial: bool = False) -> pyarrow.Table:
        """The answer to SQL over the tables `steps`, `rows` and `episodes`, or the rows for which a condition holds:
        see `expkit.query`. Raises UsageError, SchemaError, CheckFailed, ShardError, MissingExtra."""
        from expkit.queries import ask

        if not partial:
            self.check_whole()
        with ask(self.single_runs, question, columns=columns) as answer:
            return answer.table()

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
        next_observation: bool = False,
    ) -> Iterator[dict[str, np.ndarray]]:
        """Every row exactly once, in batches of `batch_size` (the last one smaller): an epoch of training.

        Pieces of some 4 MiB, 512 to 4,096 rows, are read in random order, as many at a time as fit `memory`, and
        their rows are mixed: a pure function of (seed, epoch, memory, the files), whatever the number of `threads`
        that decode. Batches are parts of larger arrays, and of those one more is there while a batch of it is held:
        copy what is kept for long. Columns, pipeline, where and next_observation as for `scan`; where a processor needs
        whole episodes, these are read in random order, consecutive ones of a piece together. `epoch` gives the same
        batches, for several ranks, and to be taken up again. Raises UsageError, SchemaError, ShardError.
        """
        if pipeline is not None:
            from expkit.batches import processed
            from expkit.pipeline import as_chain

            _refuse_next(next_observation)
            chain, budget = as_chain(pipeline, self.schema), parse_size(memory)
            selection = None if where is None else self.selection(where)
            return processed.shuffled(self, chain, columns, batch_size, seed, epoch, rows, budget, threads, selection)
        return self.epoch(
            seed, epoch, batch_size, columns=columns, rows=rows, memory=memory, threads=threads, where=where,
            next_observation=next_observation,
        )  # fmt: skip

    def epoch(
        self,
        seed: int = 0,
        epoch: int = 0,
        batch_size: int = 256,
        *,
        rank: int = 0,
        world_size: int = 1,
        start: Mapping[str, Any] | EpochState | None = None,
        manifest: Sequence[PinnedShard] | None = None,
        columns: Sequence[str] | None = None,
        rows: Rows = "transitions",
        memory: str | int = "64MiB",
        threads: int = 1,
        where: str | Predicate | None = None,
        next_observation: bool = False,
    ) -> Epoch:
        """The part of `rank` in an epoch: an iterator over shuffled batches with a `state_dict()`. Of all ranks
        together every row comes once; some may have a batch more than others.

        start     what `state_dict()` of an epoch returned, in this process or another: the batches that are left of
                  it follow, the same ones, whatever was recorded since. Seed, epoch, batch size, rank, rows, where and
                  memory are then those of that epoch.
        manifest  what the epoch reads, all there is when left out: `expkit.batches.epochs.manifest_of` of one process
                  for all ranks, where a recorder is at work meanwhile

        All else as for `shuffled`. Memory: `memory` for the rows that are mixed, twice that while a batch of the ones
        before is held, and 24 bytes for each piece of 512 to 4,096 rows. Raises UsageError, SchemaError, ShardError,
        and CheckFailed when what the epoch reads was pruned since it began, or compacted while nobody had the run open:
        as long as somebody has, the files that a compaction replaces stay, and the epoch goes on over them.
        """
        state = None if start is None else epochs.state_from(start)
        if state is not None:
            where = state.where
        pinned = manifest if state is None else state.manifest
        run = self if pinned is None else self.as_pinned(pinned)
        selection = None if where is None else run.selection(where)
        decoder = run.decoder(columns, next_observation=next_observation)
        if state is None:
            state = epochs.beginning(
                run, decoder, batch_size=batch_size, seed=seed, epoch=epoch, rows=rows, memory=parse_size(memory),
                where=None if where is None else str(where), rank=rank, world_size=world_size, manifest=manifest,
            )  # fmt: skip
        return Epoch(run, decoder, state, selection, threads, None if run is self else run.close)

    def sample(
        self,
        count: int,
        rng: np.random.Generator | None = None,
        columns: Sequence[str] | None = None,
        *,
        next_observation: bool = False,
    ) -> dict[str, np.ndarray]:
        """`count` transitions drawn uniformly with replacement; next_observation as for `scan`. Raises NotThere when
        the run holds none."""
        decoder = self.decoder(columns, next_observation=next_observation)
        return sample(self, self.timeline, decoder, count, rng or np.random.default_rng())

    def windows(
        self,
        length: int,
        *,
        stride: int | None = None,
        columns: Sequence[str] | None = None,
        batch_size: int | None = None,
        rows: Rows = "transitions",
        pad: bool = False,
        where: str | Predicate | None = None,
        threads: int = 1,
        next_observation: bool = False,
    ) -> Iterator[dict[str, np.ndarray]]:
        """Batches of windows, arrays (windows, length, …): `length` rows of one player's episode that follow each
        other, never across its end nor across rows that are missing. By run, episode, player and step, each row's
        columns as for `scan`.

        stride      from the beginning of one window to that of the next; `length` when left out, so that none overlap
        batch_size  in windows; about 32 MiB when left out
        pad         windows at the end of an episode, or before a gap, are there, too, where fewer rows are left: with
                    zeros behind them, and `valid:window`, bool (windows, length), which tells rows from padding
        where       only windows all of whose rows match

        Memory: two batches for each thread, 64 bytes for each player's episode. Raises UsageError, SchemaError,
        ShardError.
        """
        selection = None if where is None else self.selection(where)
        also = () if selection is None else selection.columns
        check_batch_size(batch_size)
        windows = Windows(self.timeline, length, length if stride is None else stride, rows, pad)
        decoder = self.decoder(columns, next_observation=next_observation, also=also)
        return windows.batches(decoder, batch_size, threads, selection)

    def sample_windows(
        self,
        count: int,
        length: int,
        rng: np.random.Generator | None = None,
        columns: Sequence[str] | None = None,
        *,
        rows: Rows = "transitions",
        pad: bool = False,
        next_observation: bool = False,
    ) -> dict[str, np.ndarray]:
        """`count` windows drawn uniformly with replacement from all there are, at every step; see `windows`. Raises
        NotThere when no episode is long enough."""
        decoder = self.decoder(columns, next_observation=next_observation)
        return Windows(self.timeline, length, 1, rows, pad).sample(decoder, count, rng or np.random.default_rng())


def _refuse_next(next_observation: bool) -> None:
    if next_observation:
        raise UsageError(
            "next_observation is of rows as they are stored; of what a pipeline makes, its n_step gives the next "
            "observation: {kind: n_step, n: 1, next: [observation]}"
        )
