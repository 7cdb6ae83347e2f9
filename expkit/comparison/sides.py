"""One of two runs that are compared: the digest of each segment, what cannot be read, and columns to compare."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from expkit.errors import ShardError
from expkit.reading.run import Run
from expkit.row.schema import Column
from expkit.runs.layout import SHARD_SUFFIX


class Unreadable(NamedTuple):
    """Something of a run that cannot be read. side `a` or `b` · run: its folder · block, column: None for all of it."""

    side: str
    run: str
    shard: str
    block: int | None
    column: str | None
    message: str

    def __str__(self) -> str:
        block = "" if self.block is None else f" block {self.block}"
        column = "" if self.column is None else f" {self.column}"
        return f"{self.run} cannot be read at {self.shard}{block}{column}: {self.message}"


class Part(NamedTuple):
    """Rows of one (episode, player): stored columns, and by column the rows that could not be read, zero in
    `columns`, with the place in `Side.unreadable` that says why."""

    columns: dict[str, np.ndarray]
    failed: dict[str, list[tuple[slice, int]]]

    def bad_rows(self, name: str) -> np.ndarray:
        """Bool (rows,): true where `name` could not be read."""
        bad = np.zeros(len(self.columns[name]), bool)
        for rows, _ in self.failed.get(name, ()):
            bad[rows] = True
        return bad


class Side:
    """`name` is `a` or `b`. Whatever cannot be read is in `unreadable`, each thing once; nothing raises ShardError."""

    def __init__(self, name: str, run: Run):
        self.name = name
        self.run = run
        self.label = str(run.path)
        self.unreadable: list[Unreadable] = []
        self._sound: dict[tuple[int, int], bool] = {}
        self._digests = self._read_heads()
        self.episodes = {episode.number: episode for episode in run.episodes()}
        self._find_lost_records()

    def _read_heads(self) -> np.ndarray:
        """uint64 (segments,): the digest of each segment of the run's index."""
        index, run = self.run.index, self.run
        out = np.zeros(len(index.rows), np.uint64)
        order = np.lexsort((index.first_row, index.block, index.shard))
        places = (index.shard << 32 | index.block)[order]
        for position, shard in enumerate(run.shard_paths):
            try:
                reader = run.reader(position)
            except ShardError as error:
                self._note(shard.name, None, None, str(error))
                continue
            if not reader.closed and not shard.active and run.current_path(position).suffix == SHARD_SUFFIX:
                self._note(shard.name, None, None, "the footer is gone: the file was cut short or damaged at its end")
        for block in run.blocks(unreadable="skip"):
            try:
                table = block.reader.runs(block.info.index)
            except ShardError as error:
                self._note(run.shard_paths[block.shard].name, block.info.index, None, str(error))
                continue
            place = block.shard << 32 | block.info.index
            mine = order[np.searchsorted(places, place, "left") : np.searchsorted(places, place, "right")]
            out[mine] = table["digest"][np.searchsorted(table["first_row"], index.first_row[mine])]
        return out

    def _find_lost_records(self) -> None:
        """Blocks and records that reading the shards has met and skipped."""
        for position, shard in enumerate(self.run.shard_paths):
            reader = self.run.reader_or_none(position)
            for finding in [] if reader is None else reader.findings:
                known = any(u.shard == shard.name and u.block == finding.block for u in self.unreadable)
                if finding.rule in ("file/block", "file/record") and (finding.block is None or not known):
                    self._note(shard.name, finding.block, None, finding.message)

    def _note(self, shard: str, block: int | None, column: str | None, message: str) -> int:
        # A reader's messages begin with the whole path, which `run` and `shard` tell.
        path = next((str(found.path) for found in self.run.shard_paths if found.name == shard), "")
        message = message.removeprefix(path).removeprefix(":").strip()
        if block is not None:
            message = message.removeprefix(f"block {block} ").split(": ", 1)[-1]
        found = Unreadable(self.name, self.label, shard, block, column, message)
        if found not in self.unreadable:
            self.unreadable.append(found)
        return self.unreadable.index(found)

    @property
    def excuse(self) -> str:
        """Behind `only in …`: what of this side cannot be read, so that rows may be missing for that."""
        lost = [found for found in self.unreadable if found.column is None]
        return f"; {lost[0]}" if lost else ""

    def digest(self, segments: np.ndarray) -> tuple[int, int]:
        """Rows and digest of the given segments together."""
        return int(self.run.index.rows[segments].sum()), int(self._digests[segments].sum(dtype=np.uint64))

    def is_sound(self, segments: np.ndarray) -> bool:
        """Whether the stored bytes of all blocks of the segments pass their checksums, so that what was digested is
        what is there. Decompresses nothing; looks at each block once."""
        index = self.run.index
        places = zip(index.shard[segments].tolist(), index.block[segments].tolist(), strict=True)
        return all(self._is_sound_block(*place) for place in set(places))

    def _is_sound_block(self, shard: int, block: int) -> bool:
        known = self._sound.get((shard, block))
        if known is None:
            known = True
            try:
                reader = self.run.reader(shard)
                for name in reader.names:  # raises for lost values too, which a digest takes for zeros
                    reader.verify_column(block, name)
            except ShardError:
                known = False
            self._sound[shard, block] = known
        return known

    def read(self, segments: np.ndarray, columns: Sequence[Column]) -> Part:
        """Stored columns of the segments, one after the other."""
        index = self.run.index
        rows = int(index.rows[segments].sum())
        out = {column.name: np.zeros(column.shape(rows), column.dtype) for column in columns}
        failed: dict[str, list[tuple[slice, int]]] = {}
        at = 0
        for s in segments.tolist():
            shard, block, count = int(index.shard[s]), int(index.block[s]), int(index.rows[s])
            first = int(index.first_row[s])
            place = slice(at, at + count)
            at += count
            try:
                reader = self.run.reader(shard)
                stored = reader.read_block(block, list(out), slice(first, first + count))
                for name, values in stored.items():
                    out[name][place] = values
                continue
            except ShardError:
                pass  # one column of them: read those that can be
            for name in out:
                try:
                    reader = self.run.reader(shard)
                    out[name][place] = reader.read_block(block, [name], slice(first, first + count))[name]
                except ShardError as error:
                    why = self._note(self.run.shard_paths[shard].name, block, name, str(error))
                    failed.setdefault(name, []).append((place, why))
        return Part(out, failed)
