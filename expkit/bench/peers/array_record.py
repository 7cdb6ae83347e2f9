"""array_record: groups of records in Riegeli chunks, with an index of all groups."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from expkit.bench.peers.adapter import sync_file
from expkit.bench.peers.records import RecordPeer


class GroupsOf256(RecordPeer):
    """Groups that compress well and are read as a whole."""

    name = "array_record-256"
    distribution = "array_record"
    note = "zstd-1; threads of its own"
    verifies = True
    group: ClassVar[int] = 256

    def write(self) -> None:
        from array_record.python.array_record_module import ArrayRecordWriter

        writer = ArrayRecordWriter(str(self.path), f"group_size:{self.group},zstd:1,max_parallelism:1")
        for row in self.packed():
            writer.write(bytes(row))
        writer.close()
        sync_file(self.path)

    def open(self) -> None:
        from array_record.python.array_record_module import ArrayRecordReader

        self._file = ArrayRecordReader(str(self.path), "readahead_buffer_size:0,max_parallelism:0")

    def messages(self) -> Iterator[list[bytes]]:
        for begin in range(0, self.rows, self.block):
            yield self._file.read(begin, min(begin + self.block, self.rows))

    def message(self, number: int) -> bytes:
        return self._file.read([number])[0]


class GroupsOf1(GroupsOf256):
    """A group a record, for random access."""

    name = "array_record-1"
    group = 1
