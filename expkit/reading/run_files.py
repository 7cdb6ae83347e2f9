"""The shard files of a run: which there are, their readers, their blocks with the rows that count."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from resource import RLIM_INFINITY, RLIMIT_NOFILE, getrlimit
from threading import RLock
from typing import Literal

from expkit.errors import CheckFailed, NewerFormat, NotThere, ShardError, quoted
from expkit.formats.shard.read import ShardReader
from expkit.reading.readable import Readable
from expkit.runs.entries import ShardEntry, stranger
from expkit.runs.index import RunIndex
from expkit.runs.layout import SHARD_SUFFIX, ShardPath, is_run, list_shards
from expkit.runs.locks import ReaderLock, live_writers
from expkit.runs.superseding import VisibleBlock, shards_of, visible_block


def _open_files() -> int:
    """Half of what the system allows a process: 512 of the usual 1,024."""
    allowed = getrlimit(RLIMIT_NOFILE)[0]
    return 4096 if allowed == RLIM_INFINITY else min(4096, max(16, allowed // 2))


OPEN_READERS = _open_files()  # to open a shard again takes some 200 us


# Of the shards that are open at once; the index and the records of one take some 2 KB. Maintenance, which goes through
# a run from one end to the other, holds less of it.
MOST_BLOCKS, FEW_BLOCKS = 1 << 17, 1 << 13


class RunFiles(Readable):
    """The files of a run as they were when it was opened; `refresh` looks again."""

    def __init__(self, path: Path, *, guarded: bool = True, upto: int | None = None):
        """`guarded` keeps rewritten shards from being deleted while the run is open. Maintenance itself, by whose lock
        nobody else deletes, does without. `upto`: the run as it was when that was its last generation, as far as its
        files are there."""
        if not path.is_dir() or not is_run(path):
            what = "no run there" if path.exists() else "no such folder"
            raise NotThere(f"{path}: {what}; see expkit list")
        self.path = path
        self._readers: OrderedDict[int, ShardReader] = OrderedDict()
        self._opening = RLock()  # threads that decode ask for readers, too
        self._blocks_open = 0
        self.most_blocks = MOST_BLOCKS
        self.beside = 1  # runs that are open together and share what files a process may have open
        self._lock = ReaderLock(path)
        self._guarded, self._upto = guarded, upto
        self.refresh()

    def refresh(self) -> None:
        """Look again at the files: what a recorder has written since becomes visible."""
        self.close_readers()
        for name in ("index", "shards", "last_rows", "timeline"):
            self.__dict__.pop(name, None)
        if self._guarded:
            self._lock.renew()
        # In this order: a shard that is published in between is then seen under its new name, never missed.
        self.live_writers = live_writers(self.path)
        found = [shard for shard in list_shards(self.path) if not _is_unborn(shard)]
        self.generations = sorted({0, *(shard.generation for shard in found)})
        if self._upto is not None:
            found = [shard for shard in found if shard.generation <= self._upto]
        self.shard_paths, known = found, ""
        with suppress(NotThere, CheckFailed):  # told by who asks what the run is
            known = self.run_ids[0]
        self.shard_paths, self.superseding = shards_of(known, found)

    def close(self) -> None:
        self.close_readers()
        self._lock.release()

    def close_readers(self) -> None:
        """Close the shard files; those that are asked for again are opened again."""
        for reader in self._readers.values():
            reader.close()
        self._readers.clear()
        self._blocks_open = 0

    @property
    def label(self) -> str:
        return str(self.path)

    def reader(self, shard: int | str) -> ShardReader:
        """The reader of a shard, by position or by name `w0/000000`. Raises NotThere, ShardError, also for a shard of
        another schema: rows of two kinds make no arrays."""
        if isinstance(shard, str):
            names = [path.name for path in self.shard_paths]
            if shard not in names:
                raise NotThere(f"{self.path}: no shard {shard!r}; it has {_some(names)}")
            shard = names.index(shard)
        with self._opening:
            reader = self._readers.get(shard)
            if reader is None:
                reader = self._open(self.shard_paths[shard])
                if reader.schema != self.schema:
                    raise ShardError(
                        f"{reader.path}: its schema is not that of the run; see expkit validate {quoted(self.path)}"
                    )
                told = stranger(reader.header, self.shard_paths[shard], self.run_ids[0])
                if told:
                    reader.close()
                    raise ShardError(f"{reader.path}: {told}; see expkit validate {quoted(self.path)}")
                self._readers[shard] = reader
                self._blocks_open += len(reader.blocks)
                while len(self._readers) > 1 and self._too_many_open():
                    # Closed when nobody reads from it any more.
                    self._blocks_open -= len(self._readers.popitem(last=False)[1].blocks)
            self._readers.move_to_end(shard)
            return reader

    def _too_many_open(self) -> bool:
        blocks = self._blocks_open * self.beside
        return len(self._readers) > max(1, OPEN_READERS // self.beside) or blocks > self.most_blocks

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
        for position in range(len(self.shard_paths)):
            reader = self.reader(position) if unreadable == "raise" else self.reader_or_none(position)
            if reader is not None:
                yield from self._visible(position, reader)

    def blocks_of(self, position: int) -> Iterator[VisibleBlock]:
        """Every block with rows that count of the shard at that position. Raises NotThere, ShardError."""
        return self._visible(position, self.reader(position))

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


def _is_unborn(shard: ShardPath) -> bool:
    """An active shard that its writer has made and not begun to write: it holds nothing yet."""
    try:
        return shard.active and shard.path.stat().st_size == 0
    except OSError:
        return False  # published since


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" … {names[-1]}" if len(names) > 5 else "") if names else "none"
