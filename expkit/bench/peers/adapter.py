"""What a library is asked to do so that it can stand beside expkit."""

from __future__ import annotations

import os
import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

# Arrays by field name, a row each along their first axis; see `Workload.ordered`.
Rows = Mapping[str, np.ndarray]

BLOCK_BYTES = 1 << 18  # of small rows in a block, for 256 of them would be more index than rows
BLOCK_ROWS = 256


def block_rows(rows: Rows) -> int:
    """Rows of a block, of libraries that let one choose: 256 as in the reference, more of small rows."""
    return max(BLOCK_ROWS, BLOCK_BYTES // row_bytes(rows) // BLOCK_ROWS * BLOCK_ROWS)


def row_bytes(rows: Rows) -> int:
    return sum(values[:1].nbytes for values in rows.values())


def row_count(rows: Rows) -> int:
    return len(next(iter(rows.values())))


def sync_file(path: Path) -> None:
    """Return when what was written to the file is on the disk."""
    handle = os.open(path, os.O_RDWR)
    try:
        os.fdatasync(handle)
    finally:
        os.close(handle)


class Peer(ABC):
    """One way to use a library.

    name          as a table shows it: the library, and which way where there are several
    distribution  what `pip` calls the library
    note          what one has to know to read its figures, in a few words
    """

    name: ClassVar[str]
    distribution: ClassVar[str]
    note: ClassVar[str] = ""

    _file: Any = None  # what is open, of a library that opens something

    def close(self) -> None:
        """Free what it holds, also where it could not be made ready."""
        if self._file is not None:
            self._file.close()
            self._file = None


class EnvironmentPeer(Peer):
    """A recorder of environments, made to record CartPole into the folder."""

    def __init__(self, folder: Path):
        self.folder = folder

    @abstractmethod
    def record(self, steps: int) -> float:
        """Take so many steps and keep them on the disk; the seconds that took."""

    def nbytes(self) -> int:
        """On the disk, of the newest recording."""
        return sum(file.stat().st_size for file in self.folder.rglob("*") if file.is_file())


class MemoryPeer(Peer):
    """A replay buffer.

    rows      it is given, round and round
    capacity  in rows; `at_once` of them are added by one call
    folder    of its own, for a buffer that is mapped from files
    """

    def __init__(self, rows: Rows, capacity: int, at_once: int, folder: Path):
        self.given = rows
        self.capacity = capacity
        self.at_once = at_once
        self.folder = folder

    @abstractmethod
    def adding(self, first: int, count: int) -> Callable[[], None]:
        """A call that adds `count` rows, `at_once` by each call of the library's; what it can be given ready made is
        made here."""

    @abstractmethod
    def sample(self, count: int) -> Any:
        """Rows drawn at random, as the library gives them."""

    @abstractmethod
    def arrays(self, sample: Any) -> dict[str, np.ndarray]:
        """A sample as arrays by field name, without fields the library has no place for."""


class DiskPeer(Peer):
    """A file, or a folder of them, at `path`, that holds the rows.

    verifies    reading notices a flipped bit of the data
    most_rows   it is measured on, of a library that is slow; as fast, per row, as on more of them
    """

    verifies: ClassVar[bool] = False
    most_rows: ClassVar[int | None] = None

    def __init__(self, rows: Rows, path: Path):
        self.given = rows
        self.path = path

    @abstractmethod
    def write(self) -> None:
        """All rows, where nothing is yet; durable when it returns."""

    @abstractmethod
    def open(self) -> None:
        """Make ready to read what was written."""

    @abstractmethod
    def scan(self) -> Iterator[Mapping[str, np.ndarray] | np.ndarray]:
        """All rows in order: batches that give an array for a field's name."""

    @abstractmethod
    def read_rows(self, wanted: Sequence[int]) -> Iterator[Mapping[str, Any]]:
        """Rows by number, each read by itself: what gives a value for a field's name."""

    def nbytes(self) -> int:
        """What it takes on disk."""
        files = [self.path] if self.path.is_file() else [path for path in self.path.rglob("*") if path.is_file()]
        return sum(path.stat().st_size for path in files)

    def remove(self) -> None:
        """Leave nothing at the path."""
        if self.path.is_dir():
            shutil.rmtree(self.path)
        else:
            self.path.unlink(missing_ok=True)
