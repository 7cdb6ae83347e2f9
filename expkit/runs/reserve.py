"""A little of the disk that a run keeps for the day on which it is full: pruning frees gigabytes, but has to write a
tombstone first, and a full disk gives not even a kilobyte for that."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from expkit.files import disk, unlink_quietly, write_all
from expkit.runs.layout import RESERVE_FILE

RESERVE_BYTES = 64 << 10


def keep_reserve(run: Path) -> None:
    """Make the file where there is none and room for it; a run is good without."""
    path = run / RESERVE_FILE
    if path.exists():
        return
    try:
        handle = disk().create(path)
        try:
            # Random, for a file system that compresses would not keep room for zeros.
            write_all(handle, [os.urandom(RESERVE_BYTES)])
            disk().sync(handle)
        finally:
            os.close(handle)
    except FileExistsError:  # another process was faster
        return
    except OSError:
        unlink_quietly(path)


def give_up_reserve(run: Path) -> bool:
    """Free the reserve; False when there was none."""
    with suppress(OSError):
        disk().unlink(run / RESERVE_FILE)
        return True
    return False
