"""Apache Arrow: Parquet, and the file of Arrow's own IPC format, both compressed by zstd.

Fields of more than one element are fixed-size binary columns: as lists of numbers, which Arrow has too, Parquet writes
and reads them five to eight times more slowly.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from expkit.bench.peers.adapter import DiskPeer, Rows, block_rows, row_count, sync_file


class _ArrowPeer(DiskPeer):
    """Record batches of a block each, made and taken apart without copies."""

    def __init__(self, rows: Rows, path: Path):
        super().__init__(rows, path)
        self.block = block_rows(rows)

    def batches(self) -> Iterator[Any]:
        import pyarrow as pa

        rows = row_count(self.given)
        for begin in range(0, rows, self.block):
            columns = {}
            for name, values in self.given.items():
                part = values[begin : begin + self.block]
                if values.ndim == 1:
                    columns[name] = pa.array(part)
                else:
                    kind = pa.binary(part[:1].nbytes)
                    columns[name] = pa.FixedSizeBinaryArray.from_buffers(kind, len(part), [None, pa.py_buffer(part)])
            yield pa.RecordBatch.from_pydict(columns)

    def arrays(self, batch: Any) -> dict[str, np.ndarray]:
        """Of a record batch."""
        out = {}
        for name, column in zip(batch.schema.names, batch.columns, strict=True):
            like = self.given[name]
            if like.ndim == 1:
                out[name] = column.to_numpy(zero_copy_only=False)
                continue
            width = column.type.byte_width
            data = column.buffers()[1].slice(column.offset * width, len(column) * width)
            out[name] = np.frombuffer(data, like.dtype).reshape(-1, *like.shape[1:])
        return out

    @abstractmethod
    def read_block(self, number: int) -> dict[str, np.ndarray]:
        """One block, by itself."""

    def read_rows(self, wanted: Sequence[int]) -> Iterator[dict[str, Any]]:
        for number in wanted:
            block = self.read_block(number // self.block)
            yield {name: values[number % self.block] for name, values in block.items()}


class ParquetFile(_ArrowPeer):
    """A row group a block; dictionaries and statistics, which boards do not profit from, are off."""

    name = "pyarrow-parquet"
    distribution = "pyarrow"
    note = "zstd-1"
    verifies = True

    def write(self) -> None:
        import pyarrow.parquet as pq

        batches = self.batches()
        first = next(batches)
        with pq.ParquetWriter(
            self.path, first.schema, compression="zstd", compression_level=1, use_dictionary=False,
            write_statistics=False, write_page_checksum=True,
        ) as writer:  # fmt: skip
            writer.write_batch(first, row_group_size=self.block)
            for batch in batches:
                writer.write_batch(batch, row_group_size=self.block)
        sync_file(self.path)

    def open(self) -> None:
        import pyarrow.parquet as pq

        self._file = pq.ParquetFile(self.path, memory_map=True, pre_buffer=False, page_checksum_verification=True)

    def scan(self) -> Iterator[dict[str, np.ndarray]]:
        for batch in self._file.iter_batches(self.block, use_threads=False):
            yield self.arrays(batch)

    def read_block(self, number: int) -> dict[str, np.ndarray]:
        (batch,) = self._file.read_row_group(number, use_threads=False).to_batches()
        return self.arrays(batch)


class ArrowFile(_ArrowPeer):
    """A record batch a block, read through a memory map."""

    name = "pyarrow-ipc"
    distribution = "pyarrow"
    note = "zstd-1; no checksum"
    _map: Any = None

    def write(self) -> None:
        import pyarrow as pa

        batches = self.batches()
        first = next(batches)
        options = pa.ipc.IpcWriteOptions(compression=pa.Codec("zstd", 1), use_threads=False)
        with pa.OSFile(str(self.path), "wb") as file, pa.ipc.new_file(file, first.schema, options=options) as writer:
            writer.write_batch(first)
            for batch in batches:
                writer.write_batch(batch)
        sync_file(self.path)

    def open(self) -> None:
        import pyarrow as pa

        self._map = pa.memory_map(str(self.path))
        self._file = pa.ipc.open_file(self._map, options=pa.ipc.IpcReadOptions(use_threads=False))

    def scan(self) -> Iterator[dict[str, np.ndarray]]:
        for number in range(self._file.num_record_batches):
            yield self.read_block(number)

    def read_block(self, number: int) -> dict[str, np.ndarray]:
        return self.arrays(self._file.get_batch(number))

    def close(self) -> None:
        if self._map is not None:
            self._map.close()
            self._map = self._file = None
