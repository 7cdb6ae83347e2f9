"""LMDB: a B+ tree in a mapped file, a key and a value each row, not compressed."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

from expkit.bench.peers.adapter import row_bytes
from expkit.bench.peers.records import RecordPeer


class LmdbFile(RecordPeer):
    """One transaction of sorted keys, appended; large rows are read without copies."""

    name = "lmdb"
    distribution = "lmdb"
    note = "not compressed; no checksum"

    def write(self) -> None:
        import lmdb

        self.close()
        # Large enough for keys and for values that leave half of a page of 4 KiB empty; the file is sparse.
        size = 2 * self.rows * (row_bytes(self.given) + 64) + (1 << 20)
        environment = lmdb.open(
            str(self.path), map_size=size, subdir=False, lock=False, sync=False, writemap=True, meminit=False
        )
        try:
            with environment.begin(write=True) as transaction, transaction.cursor() as cursor:
                items = ((number.to_bytes(8, "big"), row) for number, row in enumerate(self.packed()))
                cursor.putmulti(items, append=True)
            environment.sync(True)
        finally:
            environment.close()

    def open(self) -> None:
        import lmdb

        self._file = lmdb.open(str(self.path), readonly=True, subdir=False, lock=False)

    def messages(self) -> Iterator[list[Any]]:
        # Views of small rows cost more than copies: the garbage collector walks over them.
        views = self.dtype.itemsize > 1024
        with self._file.begin(buffers=views) as transaction, transaction.cursor() as cursor:
            values = iter(cursor.iternext(keys=False, values=True))
            while some := list(islice(values, self.block)):
                yield some

    def message(self, number: int) -> Any:
        # A copy, for a view would end with the transaction.
        with self._file.begin() as transaction:
            return transaction.get(number.to_bytes(8, "big"))

    def nbytes(self) -> int:
        # The file is as long as the map; LMDB tells how many pages of it are in use.
        if self._file is None:
            self.open()
        return (self._file.info()["last_pgno"] + 1) * self._file.stat()["psize"]
