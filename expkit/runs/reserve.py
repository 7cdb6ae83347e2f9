"""A little of the disk that a run keeps for the day on which it is full: pruning frees gigabytes, but has to write a
tombstone first, and a full disk gives not even a kilobyte for that."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from expkit.runs.layout import RESERVE_FILE

RESERVE_BYTES = 64 << 10


def keep_reserve(run: Path) -> None:
    """Make the file where there is none and room for it; a run is good without, and nothing in it has to survive."""
    path = run / RESERVE_FILE
    with suppress(OSError):
        if not path.exists() and os.statvfs(run).f_bavail * os.statvfs(run).f_frsize > 2 * RESERVE_BYTES:
            # Random, for a file system that compresses would not keep room for zeros.
            with open(path, "xb") as file:  # never where a link leads
                file.write(os.urandom(RESERVE_BYTES))


def give_up_reserve(run: Path) -> bool:
    """Free the reserve; False when there was none."""
    with suppress(OSError):
        (run / RESERVE_FILE).unlink()
        return True
    return False
