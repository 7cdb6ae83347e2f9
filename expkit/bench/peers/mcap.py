"""MCAP: the log of robotics, chunks of messages with their index."""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import islice
from typing import IO, Any

from expkit.bench.peers.records import RecordPeer


class McapFile(RecordPeer):
    """Chunks of a MiB, as by default; the number of a row is its time."""

    name = "mcap"
    distribution = "mcap"
    note = "zstd"
    verifies = True
    _file: IO[bytes] | None = None
    _reader: Any = None

    def write(self) -> None:
        from mcap.writer import CompressionType, Writer

        with open(self.path, "wb") as file:
            writer = Writer(file, compression=CompressionType.ZSTD, enable_crcs=True)
            writer.start()
            schema = writer.register_schema("row", "", b"")
            channel = writer.register_channel("rows", "application/octet-stream", schema)
            for number, row in enumerate(self.packed()):
                # The checksum of the data section takes bytes only.
                writer.add_message(channel, number, row.tobytes(), number)
            writer.finish()
            file.flush()
            os.fdatasync(file.fileno())

    def open(self) -> None:
        from mcap.reader import SeekingReader

        self._file = open(self.path, "rb")  # noqa: SIM115  (closed by `close`)
        self._reader = SeekingReader(self._file, validate_crcs=True)

    def messages(self) -> Iterator[list[bytes]]:
        from mcap.reader import NonSeekingReader

        # It reads on from chunk to chunk; the other one sorts the messages of each by their time.
        with open(self.path, "rb") as file:
            read = NonSeekingReader(file, validate_crcs=True).iter_messages(log_time_order=False)
            while some := [message.data for _, _, message in islice(read, self.block)]:
                yield some

    def message(self, number: int) -> bytes:
        _, _, message = next(self._reader.iter_messages(starting_at=number, ending_at=number))
        return message.data

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = self._reader = None
