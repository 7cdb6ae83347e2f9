"""`open_run`: everything there is to read of a run, closed, killed or still being recorded.

What is known is derived from the shard files; the manifest and `run.yaml` are conveniences. A `Run` is a view of
the moment it was opened; `refresh` looks again.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from resource import RLIM_INFINITY, RLIMIT_NOFILE, getrlimit
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np

from expkit.buffers.protocol import Batch, ExperienceBuffer
from expkit.episodes import EpisodeEnd, EpisodeStart, PolicyInfo
from expkit.errors import CheckFailed, NewerFormat, NotThere, SchemaError, ShardError
from expkit.formats.shard.read import ShardReader
from expkit.runs import batches
from expkit.runs.batches import BatchDecoder, Rows, stored_names
from expkit.runs.counters import WriterLedger, read_ledger
from expkit.runs.entries import Episode, ShardEntry, annotation, info_from_header
from expkit.runs.index import RunIndex
from expkit.runs.layout import SHARD_SUFFIX, RunInfo, ShardPath, is_run, list_shards, read_run_info
from expkit.runs.locks import ReaderLock, live_writers
from expkit.runs.manifest import read_manifest
from expkit.runs.superseding import VisibleBlock, shards_of, visible_block
from expkit.schema import KEY_NAMES, Schema
from expkit.units import parse_size

if TYPE_CHECKING:
    import pyarrow

    from expkit.pipeline.chain import Pipeline

State = Literal["recording", "closed", "killed"]
_Record = TypeVar("_Record", EpisodeStart, EpisodeEnd)


def _open_files() -> int:
    """Half of what the system allows a process: 512 of the usual 1,024."""
    allowed = getrlimit(RLIMIT_NOFILE)[0]
    return 4096 if allowed == RLIM_INFINITY else min(4096, max(16, allowed // 2))


OPEN_READERS = _open_files()  # to open a shard again takes some 200 us


def open_run(path: str | os.PathLike[str]) -> Run:
    """Open a run directory. Raises NotThere when there is none, CheckFailed when it has no readable description."""
    return Run(Path(path))


class Run:
    """A recorded run. Batches are `dict[str, ndarray]` of logical arrays that lead with the rows; a nullable field
    comes with `valid:NAME`, false where nothing was given. Checksums are verified on every read."""

    def __init__(self, path: Path, *, guarded: bool = True):
        """`guarded` keeps rewritten shards from being deleted while the run is open. Maintenance itself, by whose lock
        nobody else deletes, does without."""
        if not path.is_dir() or not is_run(path):
            what = "no run there" if path.exists() else "no such folder"
            raise NotThere(f"{path}: {what}; see expkit list")
        self.path = path
        self._readers: OrderedDict[int, ShardReader] = OrderedDict()
        self._lock = ReaderLock(path)
        self._guarded = guarded
        self.refresh()

    def refresh(self) -> None:
        """Look again at the files: what a recorder has written since becomes visible."""
        self.close_readers()
        for name in ("info", "manifest", "listed", "counters", "index", "shards", "last_rows", "_episodes"):
            self.__dict__.pop(name, None)
        if self._guarded:
            self._lock.renew()
        # In this order: a shard that is published in between is then seen under its new name, never missed.
        self.live_writers = live_writers(self.path)
        found = [shard for shard in list_shards(self.path) if not _is_unborn(shard)]
        self.shard_paths, self.superseding = shards_of(self.path, found)

    def close(self) -> None:
        self.close_readers()
        self._lock.release()

    def close_readers(self) -> None:
        """Close the shard files; those that are asked for again are opened again."""
        for reader in self._readers.values():
            reader.close()
        self._readers.clear()

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r}, {len(self):,} rows, {self.state})"

    @cached_property
    def info(self) -> RunInfo:
        """`run.yaml`, or the same from the first readable shard's header where that is gone or damaged."""
        try:
            return read_run_info(self.path)
        except (NotThere, CheckFailed):
            for shard in range(len(self.shard_paths)):
                try:
                    with self._open(self.shard_paths[shard]) as reader:
                        return info_from_header(reader)
                except NewerFormat:
                    raise
                except ShardError:
                    continue
            raise

    @property
    def id(self) -> str:
        return self.info.id

    @property
    def schema(self) -> Schema:
        return self.info.schema

    @property
    def config(self) -> dict[str, Any]:
        """The configuration that the run was recorded with, resolved."""
        return self.info.config

    @property
    def players(self) -> list[int]:
        return list(range(len(self.info.players)))

    @property
    def policies(self) -> list[PolicyInfo]:
        """The policy table; the `policy` column is an index into it."""
        return self.info.policies

    @property
    def created_ns(self) -> int:
        return self.info.created_ns

    @cached_property
    def manifest(self) -> dict[str, dict[str, Any]]:
        """Its entries by name of the shard, see `expkit.runs.manifest.read_manifest`."""
        return read_manifest(self.path)

    @cached_property
    def listed(self) -> list[dict[str, Any] | None]:
        """For each shard the manifest's entry, None where there is none of a file of that size."""
        out = []
        for shard in self.shard_paths:
            entry = None if shard.active else self.manifest.get(shard.name)
            try:
                out.append(entry if entry is not None and entry["bytes"] == os.stat(shard.path).st_size else None)
            except OSError:  # deleted since, which those who open it say
                out.append(None)
        return out

    @cached_property
    def counters(self) -> list[WriterLedger] | None:
        """The ledger by writer, None where the file is gone. Raises CheckFailed when it is damaged."""
        return read_ledger(self.path)

    @property
    def state(self) -> State:
        """`recording` while a writer lives, `killed` when one ended without publishing, else `closed`."""
        if self.live_writers:
            return "recording"
        if any(shard.active for shard in self.shard_paths):
            return "killed"
        try:
            counters = self.counters
        except CheckFailed:
            counters = None
        if counters is not None and any(writer.state != "closed" for writer in counters):
            return "killed"
        return "closed"

    def reader(self, shard: int | str) -> ShardReader:
        """The reader of a shard, by position or by name `w0/000000`. Raises NotThere, ShardError, also for a shard of
        another schema: rows of two kinds make no arrays."""
        if isinstance(shard, str):
            names = [path.name for path in self.shard_paths]
            if shard not in names:
                raise NotThere(f"{self.path}: no shard {shard!r}; it has {_some(names)}")
            shard = names.index(shard)
        reader = self._readers.get(shard)
        if reader is None:
            reader = self._open(self.shard_paths[shard])
            if reader.schema != self.schema:
                raise ShardError(f"{reader.path}: its schema is not that of the run; see expkit validate {self.path}")
            self._readers[shard] = reader
            if len(self._readers) > OPEN_READERS:
                self._readers.popitem(last=False)  # closed when nobody reads from it any more
        self._readers.move_to_end(shard)
        return reader

    def current_path(self, shard: int) -> Path:
        """The file of a shard, which may have been published under its final name since we looked."""
        found = self.shard_paths[shard]
        if not found.active:
            return found.path
        published = found.path.with_suffix(SHARD_SUFFIX)
        return published if not found.path.exists() and published.exists() else found.path

    def _open(self, found: ShardPath) -> ShardReader:
        try:
            return ShardReader(found.path)
        except NotThere:
            if found.active and found.path.with_suffix(SHARD_SUFFIX).exists():
                return ShardReader(found.path.with_suffix(SHARD_SUFFIX))  # published in this very moment
            raise NotThere(f"{found.path} is gone: pruned since the run was opened; refresh() looks again") from None

    @cached_property
    def shards(self) -> list[ShardEntry]:
        """All shards that can be read at all, with the rows that count. See `expkit validate` for the others."""
        out = []
        for position, shard in enumerate(self.shard_paths):
            reader = self.reader_or_none(position)
            if reader is None:
                out.append(ShardEntry(shard.name, shard.path, 0, shard.path.stat().st_size, False))
                continue
            rows = sum(block.rows for block in self._visible(position, reader))
            out.append(ShardEntry(shard.name, shard.path, rows, reader.nbytes, reader.closed))
        return out

    def blocks(self, *, unreadable: Literal["raise", "skip"] = "raise") -> Iterator[VisibleBlock]:
        """Every block with rows that count, shard after shard. `skip` leaves out shards that cannot be opened at
        all, instead of raising ShardError."""
        for position in range(len(self.shard_paths)):
            reader = self.reader(position) if unreadable == "raise" else self.reader_or_none(position)
            if reader is not None:
                yield from self._visible(position, reader)

    def _visible(self, position: int, reader: ShardReader) -> Iterator[VisibleBlock]:
        path = self.shard_paths[position]
        for info in reader.blocks:
            block = visible_block(self.superseding, position, path, reader, info)
            if block is not None:
                yield block

    def visible(self, position: int, index: int) -> VisibleBlock:
        """A block by the position of its shard and its own in that, with the rows that count. Raises NotThere when
        none does, ShardError."""
        reader = self.reader(position)
        block = visible_block(self.superseding, position, self.shard_paths[position], reader, reader.blocks[index])
        if block is None:
            raise NotThere(f"{self.shard_paths[position].name} block {index}: nothing in it counts any more")
        return block

    @cached_property
    def index(self) -> RunIndex:
        """The table of segments over all readable shards."""
        return RunIndex.build(self.blocks(unreadable="skip"))

    def reader_or_none(self, position: int) -> ShardReader | None:
        """The reader of a shard, None for one that is damaged so that it cannot be opened at all. Raises NewerFormat
        for one that is sound: its rows are there, and to leave them out unasked would be wrong."""
        try:
            return self.reader(position)
        except NewerFormat:
            raise
        except ShardError:
            return None

    def __len__(self) -> int:
        return sum(shard.rows for shard in self.shards)

    @property
    def bytes(self) -> int:
        """Bytes of all shard files."""
        return sum(shard.bytes for shard in self.shards)

    @property
    def steps(self) -> int:
        """Rows that are transitions: all but the last row of each (episode, player)."""
        return len(self) - self.last_rows

    @cached_property
    def last_rows(self) -> int:
        """Number of rows with `is_last`, from the blocks' statistics where they tell, else by reading that column."""
        total = 0
        for block in self.blocks(unreadable="skip"):
            try:
                if block.reader.statistics(block.info.index)["is_last"].high:
                    total += int(block.read(["is_last"])["is_last"].sum())
            except ShardError:
                continue
        return total

    def episodes(self) -> list[Episode]:
        """All episodes, by number."""
        return list(self._episodes.values())

    @cached_property
    def _episodes(self) -> dict[int, Episode]:
        starts: dict[int, EpisodeStart] = {}
        ends: dict[int, EpisodeEnd] = {}
        notes: dict[int, dict[str, Any]] = {}
        for position in range(len(self.shard_paths)):
            reader = self.reader_or_none(position)
            if reader is None:
                continue
            for start in self._counting(position, reader.episode_starts):
                starts.setdefault(start.episode, start)
            for end in self._counting(position, reader.episode_ends):
                ends[end.episode] = end
            for meta in reader.metas:
                note = annotation(meta)
                if note is not None:
                    notes.setdefault(note[0], {}).update(note[1])
        rows = self.index.rows_by_episode()
        numbers = sorted(starts.keys() | ends.keys() | rows.keys())
        return {n: Episode(n, starts.get(n), ends.get(n), rows.get(n, {}), notes.get(n, {})) for n in numbers}

    def _counting(self, position: int, records: list[_Record]) -> list[_Record]:
        """Those records of a shard whose episode counts there."""
        generation = self.shard_paths[position].generation
        if not records or not self.superseding.may_hide(generation, 0, 2**64 - 1):
            return records
        hidden = self.superseding.hidden(generation, np.array([record.episode for record in records], np.uint64))
        return [record for record, gone in zip(records, hidden.tolist(), strict=True) if not gone]

    def find_episode(self, number: int) -> Episode:
        """The episode of that number. Raises NotThere."""
        found = self._episodes.get(number)
        if found is None:
            raise NotThere(f"{self.path}: no episode {number}; it has {_span(list(self._episodes))}")
        return found

    def rows(self, episode: int, player: int, columns: Sequence[str] | None = None) -> dict[str, np.ndarray]:
        """All rows of (episode, player) in the order of steps, with the keys. Raises NotThere, ShardError."""
        segments = self.index.find(episode, player)
        if not len(segments):
            have = sorted(self.find_episode(episode).rows)
            raise NotThere(f"{self.path}: episode {episode} has no rows of player {player}; it has players {have}")
        names = stored_names(self.schema, columns)
        parts = []
        for s in segments.tolist():
            first, count = int(self.index.first_row[s]), int(self.index.rows[s])
            reader = self.reader(int(self.index.shard[s]))
            stored = reader.read_block(int(self.index.block[s]), names, slice(first, first + count))
            parts.append(stored)
        merged = {name: np.concatenate([part[name] for part in parts]) for name in names}
        return self._logical(merged, player)

    def episode(self, number: int, player: int) -> dict[str, np.ndarray]:
        """One player's episode as trainers want it: T+1 rows of what belongs to the observation (and of the keys),
        T of everything else; without its last row (killed in between) T of both. Raises NotThere, ShardError."""
        rows = self.rows(number, player)
        keep = ~rows["is_last"]
        out = {}
        for name, values in rows.items():
            plain = name.removeprefix("valid:")
            whole = plain in KEY_NAMES or plain == "player" or self.schema[plain].belongs == "observation"
            out[name] = values if whole else values[keep]
        return out

    def row(self, episode: int, player: int, step: int) -> dict[str, np.ndarray]:
        """One row, every column; arrays without a leading axis. Raises NotThere, ShardError."""
        segments = self.index.find(episode, player)
        for s in segments.tolist():
            first, count = int(self.index.first_row[s]), int(self.index.rows[s])
            if int(self.index.first_step[s]) > step:
                continue
            reader, block = self.reader(int(self.index.shard[s])), int(self.index.block[s])
            steps = reader.read_block(block, ["step"], slice(first, first + count))["step"]
            at = np.flatnonzero(steps == step)
            if len(at):
                stored = reader.read_rows(block, np.array([first + int(at[0])]), stored_names(self.schema, None))
                return {name: values[0] for name, values in self._logical(stored, player).items()}
        have = self.rows(episode, player, ["step"])["step"]
        raise NotThere(
            f"{self.path}: episode {episode} player {player} has no step {step}; it has steps {have[0]} to {have[-1]}"
        )

    def locate(self, episode: int, player: int, step: int) -> tuple[str, int]:
        """(shard name, block number) of a row. Raises NotThere."""
        for s in self.index.find(episode, player).tolist():
            first_step, rows = int(self.index.first_step[s]), int(self.index.rows[s])
            if first_step <= step < first_step + rows:
                return self.shard_paths[int(self.index.shard[s])].name, int(self.index.block[s])
        raise NotThere(f"{self.path}: no row at episode {episode} player {player} step {step}")

    def scan(
        self,
        columns: Sequence[str] | None = None,
        *,
        batch_size: int | None = None,
        rows: Rows = "transitions",
        damaged: Literal["raise", "skip"] = "raise",
        threads: int = 1,
        pipeline: Pipeline | None = None,
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
        """
        if pipeline is not None:
            from expkit.pipeline import as_chain
            from expkit.runs import processed

            chain = as_chain(pipeline, self.schema)
            return processed.scan(self, chain, columns, batch_size, rows, damaged == "skip", threads)
        decoder = BatchDecoder(self.schema, stored_names(self.schema, columns))
        return batches.scan(self, decoder, batch_size, rows, damaged == "skip", threads)

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
    ) -> Iterator[dict[str, np.ndarray]]:
        """Every row exactly once, in batches of `batch_size` (the last one smaller): an epoch of training.

        Pieces of some 4 MiB, 512 to 4,096 rows, are read in random order, as many at a time as fit `memory`, and
        their rows are mixed: a pure function of (seed, epoch, memory, the files), whatever the number of `threads`
        that decode. Batches are parts of larger arrays, and of those one more is there while a batch of it is held:
        copy what is kept for long. Columns and pipeline as for `scan`; where a processor needs whole episodes, these
        are read in random order, consecutive ones of a piece together. Raises ShardError.
        """
        if pipeline is not None:
            from expkit.pipeline import as_chain
            from expkit.runs import processed

            chain, budget = as_chain(pipeline, self.schema), parse_size(memory)
            return processed.shuffled(self, chain, columns, batch_size, seed, epoch, rows, budget, threads)
        decoder = BatchDecoder(self.schema, stored_names(self.schema, columns))
        return batches.shuffled(self, decoder, batch_size, seed, epoch, rows, parse_size(memory), threads)

    def sample(
        self, count: int, rng: np.random.Generator | None = None, columns: Sequence[str] | None = None
    ) -> dict[str, np.ndarray]:
        """`count` transitions drawn uniformly with replacement. Raises NotThere when the run holds none."""
        decoder = BatchDecoder(self.schema, stored_names(self.schema, columns))
        return batches.sample(self, decoder, count, rng or np.random.default_rng())

    def arrow(
        self,
        columns: Sequence[str] | None = None,
        *,
        rows: Rows = "transitions",
        batch_size: int | None = None,
        threads: int = 1,
    ) -> pyarrow.RecordBatchReader:
        """The rows as a stream of Arrow record batches, of which one or two are in memory at a time; see
        `expkit.arrow` for the columns.

        columns   keys, fields or groups of fields, and nothing else, in the order given; all when left out

        The rest as for `scan`. Raises SchemaError, MissingExtra; the stream raises ShardError.
        """
        from expkit import arrow

        shape = arrow.arrow_schema(self.schema, columns, rows=rows)
        batches = self.scan(shape.names, batch_size=batch_size, rows=rows, threads=threads)
        return arrow.reader(shape, batches)

    def load_into(self, buffer: ExperienceBuffer) -> int:
        """Add all rows of the buffer's player, last rows included, in the order they were recorded; returns how many.

        A bounded buffer keeps what its overflow policy keeps. Raises SchemaError for a buffer of another schema,
        ShardError, and what the buffer raises.
        """
        if buffer.schema != self.schema:
            raise SchemaError(f"{self.path}: the buffer has another schema; make it with this run's schema")
        return buffer.load(self._stored_blocks(buffer.player))

    def _stored_blocks(self, player: int) -> Iterator[Batch]:
        for block in self.blocks():
            if block.info.player == player:
                yield Batch(player, block.rows, block.read(), block.info.dropped)

    def _logical(self, stored: dict[str, np.ndarray], player: int) -> dict[str, np.ndarray]:
        batch = {name: self.schema.unpack(name, values) for name, values in stored.items()}
        batch["player"] = np.full(len(stored["episode"]), player, np.uint16)
        return batch


def _is_unborn(shard: ShardPath) -> bool:
    """An active shard that its writer has made and not begun to write: it holds nothing yet."""
    try:
        return shard.active and shard.path.stat().st_size == 0
    except OSError:
        return False  # published since


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" … {names[-1]}" if len(names) > 5 else "") if names else "none"


def _span(numbers: list[int]) -> str:
    if not numbers:
        return "none"
    return f"{len(numbers):,} from {numbers[0]} to {numbers[-1]}" if len(numbers) > 1 else str(numbers[0])
