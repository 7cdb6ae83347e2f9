"""Formats that store messages of bytes: a row is one message, its fields side by side as in a C struct."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from expkit.bench.peers.adapter import DiskPeer, Rows, block_rows, row_count


class RecordPeer(DiskPeer):
    """What such formats share: rows are packed and unpacked by NumPy, a block at a time."""

    def __init__(self, rows: Rows, path: Path):
        super().__init__(rows, path)
        self.dtype = np.dtype([(name, values.dtype, values.shape[1:]) for name, values in rows.items()])
        self.rows = row_count(rows)
        self.block = block_rows(rows)

    def packed(self) -> Iterator[memoryview]:
        """The message of each row."""
        width = self.dtype.itemsize
        for begin in range(0, self.rows, self.block):
            block = np.empty(min(self.block, self.rows - begin), self.dtype)
            for name, values in self.given.items():
                block[name] = values[begin : begin + len(block)]
            view = block.view(np.uint8).data
            for at in range(0, len(view), width):
                yield view[at : at + width]

    @abstractmethod
    def messages(self) -> Iterator[Sequence[Any]]:
        """All messages in order, some at a time."""

    @abstractmethod
    def message(self, number: int) -> Any:
        """The message of one row."""

    def scan(self) -> Iterator[np.ndarray]:
        # One copy makes arrays over many rows of them, which is what a trainer takes.
        for some in self.messages():
            yield np.frombuffer(b"".join(some), self.dtype)

    def read_rows(self, wanted: Sequence[int]) -> Iterator[Any]:
        for number in wanted:
            yield np.frombuffer(self.message(number), self.dtype)[0]
