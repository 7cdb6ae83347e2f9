"""What a good engineer would write in an afternoon with NumPy and zstd, as the limit beside our stages: circular
columns in memory, and blocks of 256 rows on disk, each column compressed by itself and checksummed."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from zlib import crc32

import numpy as np
import zstandard

BLOCK_ROWS = 256
_ENTRY = struct.Struct("<QII")  # offset, bytes, crc32


class CircularColumns:
    """One array a field, written round and round."""

    def __init__(self, like: Mapping[str, np.ndarray], capacity: int):
        self.capacity = capacity
        # Filled, not zeros: their pages would be made when they are first written to.
        self.columns = {name: np.full((capacity, *a.shape[1:]), 1, a.dtype) for name, a in like.items()}
        self.at = 0
        self.size = 0

    def add(self, row: Mapping[str, object]) -> None:
        at = self.at
        for name, value in row.items():
            self.columns[name][at] = value
        self.at = (at + 1) % self.capacity
        self.size = min(self.size + 1, self.capacity)

    def add_batch(self, rows: Mapping[str, np.ndarray], count: int) -> None:
        """`count` rows, which divides the capacity."""
        at = self.at
        for name, values in rows.items():
            self.columns[name][at : at + count] = values
        self.at = (at + count) % self.capacity
        self.size = min(self.size + count, self.capacity)

    def sample(self, count: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
        chosen = rng.integers(self.size, size=count)
        return {name: column[chosen] for name, column in self.columns.items()}


class BlockFile:
    """Blocks of 256 rows in one file, an index in memory."""

    def __init__(self, path: Path):
        self.path = path
        self.blocks: list[list[tuple[int, int, int]]] = []
        self.names: list[str] = []
        self._like: dict[str, np.ndarray] = {}
        self.nbytes = 0

    def write(self, rows: Mapping[str, np.ndarray], level: int = 1) -> None:
        """All rows anew, durable when it returns."""
        compressor = zstandard.ZstdCompressor(level=level)
        self.names, self._like = list(rows), {name: values[:0] for name, values in rows.items()}
        self.blocks, at = [], 0
        count = len(next(iter(rows.values())))
        with open(self.path, "wb", buffering=0) as file:
            for begin in range(0, count, BLOCK_ROWS):
                entries = []
                for values in rows.values():
                    packed = compressor.compress(values[begin : begin + BLOCK_ROWS].data)
                    head = _ENTRY.pack(at, len(packed), crc32(packed))
                    file.write(head + packed)
                    entries.append((at + _ENTRY.size, len(packed), crc32(packed)))
                    at += _ENTRY.size + len(packed)
                self.blocks.append(entries)
            os.fdatasync(file.fileno())
        self.nbytes = at

    def read(self, columns: Sequence[str] | None = None) -> Iterator[dict[str, np.ndarray]]:
        """Block after block, checksums verified."""
        decompressor = zstandard.ZstdDecompressor()
        with open(self.path, "rb", buffering=0) as file:
            for entries in self.blocks:
                yield self._block(file.fileno(), decompressor, entries, columns or self.names)

    def rows(self, wanted: np.ndarray) -> int:
        """Read rows by number, each by itself; returns how many."""
        decompressor = zstandard.ZstdDecompressor()
        with open(self.path, "rb", buffering=0) as file:
            for row in wanted.tolist():
                block = self._block(file.fileno(), decompressor, self.blocks[row // BLOCK_ROWS], self.names)
                for values in block.values():
                    values[row % BLOCK_ROWS].copy()
        return len(wanted)

    def _block(
        self,
        file: int,
        decompressor: zstandard.ZstdDecompressor,
        entries: list[tuple[int, int, int]],
        columns: Sequence[str],
    ) -> dict[str, np.ndarray]:
        out = {}
        for name, (at, size, crc) in zip(self.names, entries, strict=True):
            if name not in columns:
                continue
            packed = os.pread(file, size, at)
            if crc32(packed) != crc:
                raise ValueError(f"checksum of {name} differs")
            like = self._like[name]
            plain = np.frombuffer(decompressor.decompress(packed), like.dtype)
            out[name] = plain.reshape(-1, *like.shape[1:])
        return out
