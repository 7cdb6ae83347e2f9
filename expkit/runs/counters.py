"""The ledger of a run: a small memory-mapped file, so that after a kill one knows what was produced and lost.

Layout (little-endian): a page of header, then one section per writer.

    header   magic 8s `EXPLEDG1` · players u32 · section bytes u32 · crc32 of these 16 bytes u32
    section  8 words: state (0 unused, 1 recording, 2 closed) · pid · started ns · closed ns · crc32 of the
             section's entries when closed · 3 spare; then per player 16 words: produced, written, durable,
             rejected, dropped by cause (DROP_CAUSES), spare ones, and as the last: lost. All words int64.

Stores into the mapping reach the page cache at once: they survive a kill of the process, not a power cut.
`produced` is raised before the rows can be seen by a drain, so produced >= rows in the files at every moment.
"""

from __future__ import annotations

import mmap
import os
import struct
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from expkit.errors import CheckFailed
from expkit.row.dropped import CAUSES
from expkit.runs.layout import COUNTERS_FILE
from expkit.runs.locks import taking_turns
from expkit.system.files import DiskErrors, ReadErrors, disk, open_to_read, read_to_end, write_all_at, write_atomic

MAGIC = b"EXPLEDG1"
HEADER = struct.Struct("<8sII")
PAGE = 4096
MOST_BYTES = 256 << 20
SECTION_WORDS = 8
PLAYER_WORDS = 16
UNUSED, RECORDING, CLOSED = 0, 1, 2
PRODUCED, WRITTEN, DURABLE, REJECTED, DROPPED, LOST = 0, 1, 2, 3, 4, 15
# What buffers drop, and rows that a rewrite was told to leave out.
FILTERED = "filtered"
DROP_CAUSES = (*CAUSES, FILTERED)


@dataclass(frozen=True, slots=True)
class PlayerLedger:
    """Rows of one player, one writer. `dropped` is by cause; causes with no rows are left out. `lost` are rows that
    were found, after the writer died, to be in no file."""

    produced: int
    written: int
    durable: int
    rejected: int
    dropped: dict[str, int] = field(default_factory=dict)
    lost: int = 0

    @property
    def dropped_rows(self) -> int:
        return sum(self.dropped.values())


@dataclass(frozen=True, slots=True)
class WriterLedger:
    """One writer's section: `state` is recording or closed as the writer left it."""

    writer: int
    state: str
    pid: int
    started_ns: int
    closed_ns: int
    players: tuple[PlayerLedger, ...]
    damaged: bool = False


class LedgerCounts(NamedTuple):
    """int64 (players,) each; `dropped` is (players, causes)."""

    produced: np.ndarray
    written: np.ndarray
    durable: np.ndarray
    rejected: np.ndarray
    dropped: np.ndarray


def _section_bytes(players: int) -> int:
    return -(-(SECTION_WORDS + players * PLAYER_WORDS) * 8 // PAGE) * PAGE


def _map_section(path: Path, writer: int, players: int) -> mmap.mmap:
    """Map a writer's section, made where it is missing. The caller has the turn. Raises CheckFailed, OSError."""
    section = _section_bytes(players)
    head = HEADER.pack(MAGIC, players, section)
    if not path.exists() or not path.stat().st_size:
        write_atomic(path, (head + struct.pack("<I", zlib.crc32(head))).ljust(PAGE, b"\0"))
    handle = disk().open_existing(path)
    try:
        if os.pread(handle, HEADER.size, 0) != head:
            raise CheckFailed(f"{path}: ledger is damaged or made for another number of players")
        have, need = os.fstat(handle).st_size, PAGE + (writer + 1) * section
        if need > MOST_BYTES:
            raise CheckFailed(f"{path}: no room for the counts of writer w{writer}; record into a new run")
        # Written rather than truncated: a store into a hole ends the process with SIGBUS when the disk is full.
        if have < need:
            write_all_at(handle, bytes(need - have), have)
        return disk().map(handle, section, PAGE + writer * section)
    finally:
        os.close(handle)


class Ledger:
    """A writer's own section, mapped for writing. `produced[p]`, `written[p]`, … are int64 views.

    A section that was used before goes on from its counts; `since_opened` leaves those out.
    """

    def __init__(self, run: Path, writer: int, players: int):
        self._path = run / COUNTERS_FILE
        with DiskErrors(self._path, "keep the ledger"), taking_turns(run, COUNTERS_FILE):
            self._map = _map_section(self._path, writer, players)
        words = np.frombuffer(self._map, np.int64, SECTION_WORDS + players * PLAYER_WORDS)
        self._head = words[:SECTION_WORDS]
        self._body = words[SECTION_WORDS:].reshape(players, PLAYER_WORDS)
        self.produced = self._body[:, PRODUCED]
        self.written = self._body[:, WRITTEN]
        self.durable = self._body[:, DURABLE]
        self.rejected = self._body[:, REJECTED]
        self.dropped = self._body[:, DROPPED : DROPPED + len(DROP_CAUSES)]
        self.lost = self._body[:, LOST]
        self._opened = self._body.copy()
        self._head[1] = os.getpid()
        if self._head[0] == UNUSED:
            self._head[2] = time.time_ns()
        self._head[0] = RECORDING
        with DiskErrors(self._path, "keep the ledger"):
            disk().sync_map(self._map)  # a power cut leaves it said that somebody recorded

    def drop(self, player: int, cause: str, rows: int) -> None:
        self.dropped[player, DROP_CAUSES.index(cause)] += rows

    def unaccounted(self) -> np.ndarray:
        """int64 (players,): produced and neither written, dropped, rejected nor known to be lost (or not yet)."""
        return self.produced - self.written - self.dropped.sum(axis=1) - self.rejected - self.lost

    def since_opened(self) -> LedgerCounts:
        """What this writer added to the section."""
        produced, written, durable, rejected = (self._body - self._opened)[:, : REJECTED + 1].T
        dropped = self.dropped - self._opened[:, DROPPED : DROPPED + len(DROP_CAUSES)]
        return LedgerCounts(produced, written, durable, rejected, dropped)

    def settle(self, rows: np.ndarray) -> None:
        """Balance the section of a writer that died. `rows` int64 (players,): what the files hold of it, durably.

        What was produced and is nowhere is lost. A power cut may leave an older ledger than files: then more was
        produced than it says. Done again, it changes nothing.
        """
        self.written[:] = rows
        self.durable[:] = rows
        missing = self.unaccounted()
        self.lost += np.maximum(missing, 0)
        self.produced += np.maximum(-missing, 0)

    def forget(self) -> None:
        """Count from zero again: for a section whose counts are damaged."""
        self._body[:] = 0

    def close(self) -> None:
        """Mark the section closed, with a checksum from now on."""
        self._head[3] = time.time_ns()
        self._head[4] = zlib.crc32(self._body.tobytes())
        self._head[0] = CLOSED
        with DiskErrors(self._path, "close the ledger"):
            disk().sync_map(self._map)


def _parse(writer: int, head: np.ndarray, body: np.ndarray) -> WriterLedger:
    closed = head[0] == CLOSED
    players = tuple(
        PlayerLedger(
            produced=int(row[PRODUCED]),
            written=int(row[WRITTEN]),
            durable=int(row[DURABLE]),
            rejected=int(row[REJECTED]),
            dropped={c: int(row[DROPPED + i]) for i, c in enumerate(DROP_CAUSES) if row[DROPPED + i]},
            lost=int(row[LOST]),
        )
        for row in body
    )
    return WriterLedger(
        writer=writer,
        state="closed" if closed else "recording",
        pid=int(head[1]),
        started_ns=int(head[2]),
        closed_ns=int(head[3]),
        players=players,
        damaged=bool(
            (body < 0).any()
            or head[0] not in (RECORDING, CLOSED)
            or (closed and int(head[4]) != zlib.crc32(body.tobytes()))
        ),
    )


def read_ledger(run: Path) -> list[WriterLedger] | None:
    """All writers' sections, or None where there is no ledger. Raises CheckFailed when its header is damaged."""
    path = run / COUNTERS_FILE
    try:
        handle = open_to_read(path, run, MOST_BYTES)
    except FileNotFoundError:
        return None
    with open(handle, "rb") as file, ReadErrors(path):
        data = file.read(HEADER.size + 4)
        if len(data) < HEADER.size + 4:
            raise CheckFailed(f"{path}: ledger is cut short at {len(data)} bytes")
        magic, players, section = HEADER.unpack_from(data)
        if struct.unpack_from("<I", data, HEADER.size)[0] != zlib.crc32(data[: HEADER.size]) or magic != MAGIC:
            raise CheckFailed(f"{path}: ledger header is damaged")
        if section != _section_bytes(players):
            raise CheckFailed(f"{path}: ledger header is damaged: section of {section} bytes for {players} players")
        out = []
        for writer, words in enumerate(_sections(handle, section)):
            body = words[SECTION_WORDS : SECTION_WORDS + players * PLAYER_WORDS]
            # Counts without a state: its word was damaged. A writer killed while it begins has left none.
            if words[0] != UNUSED or body.any():
                out.append(_parse(writer, words[:SECTION_WORDS], body.reshape(players, PLAYER_WORDS)))
        return out


def _sections(handle: int, section: int) -> Iterator[np.ndarray]:
    """The whole sections of so many bytes behind the first page, as int64."""
    for place in range(PAGE, os.fstat(handle).st_size - section + 1, section):
        data = os.pread(handle, section, place)
        if len(data) < section:
            return
        yield np.frombuffer(data, np.int64)


def read_behind_header(run: Path, players: int) -> list[WriterLedger] | None:
    """The sections of a ledger whose first page is damaged, None where what stands behind it is no ledger of so many
    players."""
    data, section = read_to_end(run / COUNTERS_FILE, run, MOST_BYTES), _section_bytes(players)
    count, rest = divmod(len(data) - PAGE, section)
    if count < 1 or rest:
        return None
    pages = np.frombuffer(data, np.int64, count * section // 8, PAGE).reshape(count, section // 8)
    used = SECTION_WORDS + players * PLAYER_WORDS
    if pages[:, used:].any() or not np.isin(pages[:, 0], (UNUSED, RECORDING, CLOSED)).all():
        return None
    found = [(writer, words[:SECTION_WORDS], words[SECTION_WORDS:used]) for writer, words in enumerate(pages)]
    return [_parse(w, head, body.reshape(players, PLAYER_WORDS)) for w, head, body in found if head[0] != UNUSED]


def restore_header(run: Path, players: int) -> None:
    """Write the first page of a ledger of so many players again. Raises NoSpace, WriteFailed."""
    path = run / COUNTERS_FILE
    head = HEADER.pack(MAGIC, players, _section_bytes(players))
    page = (head + struct.pack("<I", zlib.crc32(head))).ljust(PAGE, b"\0")
    write_atomic(path, page + read_to_end(path, run, MOST_BYTES)[PAGE:])
