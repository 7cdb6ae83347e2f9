"""What is known of a run besides its rows: its description, its ledger, its episodes.

It is derived from the shard files; the manifest and `run.yaml` are conveniences.
"""

from __future__ import annotations

import os
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Self, TypeVar

import numpy as np

from expkit.errors import CheckFailed, NewerFormat, NotThere, ShardError
from expkit.reading.run_files import RunFiles
from expkit.reading.split import OnlyEpisodes, Part
from expkit.row.episodes import Episode, EpisodeEnd, EpisodeStart, PolicyInfo
from expkit.row.schema import Schema
from expkit.runs.counters import WriterLedger, read_ledger
from expkit.runs.entries import annotation, info_from_header
from expkit.runs.layout import RunInfo, read_run_info
from expkit.runs.manifest import read_manifest

State = Literal["recording", "closed", "killed"]
_Record = TypeVar("_Record", EpisodeStart, EpisodeEnd)


class KnownRun(RunFiles):
    """A run, or a part of one; a view of the moment it was opened or `refresh` looked again."""

    def __init__(self, path: Path, *, guarded: bool = True, part: Part | None = None, upto: int | None = None):
        """`part`: the episodes of it that are read, all when left out. The rest as for `RunFiles`."""
        self.part = part
        super().__init__(path, guarded=guarded, upto=upto)

    def reopened(self) -> Self:
        """The same run or part, opened once more."""
        return type(self)(self.path, part=self.part, upto=self._upto)

    def refresh(self) -> None:
        for name in ("info", "manifest", "listed", "counters", "_episodes"):
            self.__dict__.pop(name, None)
        super().refresh()
        if self.part is not None:
            mine = self.part.numbers(self.id, self.episodes())
            # What was read to tell episodes apart is of the whole run.
            for name in ("index", "_episodes"):
                self.__dict__.pop(name, None)
            self.superseding = OnlyEpisodes(self.superseding, mine)  # type: ignore[assignment]

    @property
    def label(self) -> str:
        return str(self.path) if self.part is None else f"{self.path} ({self.part.name})"

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
    def run_ids(self) -> list[str]:
        return [self.id]

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
            except FileNotFoundError:  # deleted since, which those who open it say
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


def _span(numbers: list[int]) -> str:
    if not numbers:
        return "none"
    return f"{len(numbers):,} from {numbers[0]} to {numbers[-1]}" if len(numbers) > 1 else str(numbers[0])
