"""One lock per writer, held for the writer's life; the kernel releases it when the process dies.

So whether a run is being recorded is asked of the lock, never of a stored pid.
"""

from __future__ import annotations

import fcntl
import os
import time
import weakref
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from expkit.errors import Busy, CheckFailed, UsageError
from expkit.runs.layout import LOCKS_DIR, SHARDS_DIR, refuse_strange_entries
from expkit.system.files import DiskErrors, disk, make_folder, open_to_read
from expkit.system.forks import own

# Whoever asks who is recording holds a shared lock for a moment, on a busy machine for a long one; that is no reason
# to give up. One that holds it for longer is suspended.
ASKED_SECONDS = 0.1
SUSPENDED_SECONDS = 10.0
READERS_LOCK = "readers"
MAINTENANCE_LOCK = "maintenance"
MAX_WRITERS = 1 << 15  # the writer stands in the top 16 bits of an episode number; the sign bit stays free


class Lock:
    """An exclusive flock on a file of the run. Raises Busy when another process, or another Lock, holds it; where it is
    only shared by others, after `shared_seconds`."""

    def __init__(self, path: Path, what: str, shared_seconds: float = SUSPENDED_SECONDS):
        self.path = path
        with DiskErrors(path, "lock it"):
            if not path.parent.is_dir():
                make_folder(path.parent)
            self._handle = disk().open_or_create(path)
        own(self)
        begun = time.monotonic()
        while not self._take(fcntl.LOCK_EX):
            waited = time.monotonic() - begun
            # A lock that can be shared is held by somebody who asks. The next try gives the share up again.
            if waited > ASKED_SECONDS and (waited > shared_seconds or not self._take(fcntl.LOCK_SH)):
                self.release()
                raise Busy(f"{what} is in use by another process ({path}); wait for it or stop it")
            time.sleep(ASKED_SECONDS / 10)

    def _take(self, kind: int) -> bool:
        try:
            fcntl.flock(self._handle, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def release(self) -> None:
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1

    def forked(self) -> None:
        """A child would hold it on when its holder is dead."""
        self.release()

    def __enter__(self) -> Lock:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


class ReaderLock:
    """Held, shared, by everybody who has the run open: as long as it is, no shard is deleted because it was rewritten.
    Without the file (a copy of the shards alone, or a folder nobody may write) reading goes on without it."""

    def __init__(self, run: Path):
        self._path = run / LOCKS_DIR / READERS_LOCK
        self._handle = -1
        self._closing: weakref.finalize | None = None

    def renew(self) -> None:
        """Hold it, from now on if not before. Waits for a deletion that is under way."""
        if self._handle >= 0:
            return
        try:
            self._handle = open_to_read(self._path, self._path.parent.parent)
        except (CheckFailed, OSError):
            return
        self._closing = weakref.finalize(self, os.close, self._handle)
        with suppress(OSError):  # a file system without locks
            fcntl.flock(self._handle, fcntl.LOCK_SH)

    def release(self) -> None:
        if self._closing is not None:
            self._closing()
        self._handle = -1


def without_readers(run: Path) -> Lock | None:
    """A lock that keeps readers from opening the run, None when somebody has it open now."""
    try:
        return Lock(run / LOCKS_DIR / READERS_LOCK, f"readers of {run}", shared_seconds=ASKED_SECONDS)
    except Busy:
        return None


def maintenance(run: Path) -> Lock:
    """The lock of whoever rewrites, prunes or recovers the run. Raises Busy when somebody does, CheckFailed where
    something else stands in the place of a file of the run."""
    refuse_strange_entries(run)
    # Readers of a run that came without locks find one to hold from now on.
    os.close(_open(run, READERS_LOCK))
    return Lock(run / LOCKS_DIR / MAINTENANCE_LOCK, f"maintenance of {run} (compact, prune, recover)")


def _open(run: Path, name: str) -> int:
    """A descriptor of a file in `locks/`; both are made when they are missing. Raises NoSpace, WriteFailed."""
    with DiskErrors(run / LOCKS_DIR / name, "lock it"):
        if not (run / LOCKS_DIR).is_dir():
            make_folder(run / LOCKS_DIR)
        return disk().open_or_create(run / LOCKS_DIR / name)


@contextmanager
def taking_turns(run: Path, name: str) -> Iterator[None]:
    """Wait for, and hold, the lock `locks/NAME`: for the moments in which writers change a file that they share."""
    handle = _open(run, name)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def lock_writer(run: Path, writer: int | None = None, used: Collection[int] = ()) -> tuple[int, Lock]:
    """The lock of `writer`, or of the lowest number that nobody used before, `used` ones left out. Raises Busy,
    UsageError.

    The number is taken for good when this returns, a power cut after it or not: rows are numbered by it.
    """
    if writer is not None:
        if not 0 <= writer < MAX_WRITERS:
            raise UsageError(f"writer {writer} is out of range; use 0 to {MAX_WRITERS - 1}")
        return writer, _lasting_lock(run, writer)
    for number in range(MAX_WRITERS):
        # The folder counts, too: runs are copied without their locks.
        known = (run / LOCKS_DIR / f"w{number}").exists() or (run / SHARDS_DIR / f"w{number}").exists()
        if known or number in used:
            continue
        try:
            return number, _lasting_lock(run, number)
        except Busy:  # another process took the number in between
            continue
    raise Busy(f"{run} has {MAX_WRITERS} writers already; record into a new run")


def _lasting_lock(run: Path, writer: int) -> Lock:
    lock = Lock(run / LOCKS_DIR / f"w{writer}", f"writer w{writer} of {run}")
    try:
        with DiskErrors(lock.path, "make its name last"):
            make_folder(lock.path.parent)
            disk().sync_folder(lock.path.parent)
    except BaseException:
        lock.release()
        raise
    return lock


def live_writers(run: Path) -> list[int]:
    """Writers whose lock is held right now."""
    out: list[int] = []
    folder = run / LOCKS_DIR
    if not folder.is_dir():
        return out
    for path in folder.iterdir():
        if not path.name.startswith("w") or not path.name[1:].isdigit():
            continue
        try:
            handle = open_to_read(path, run)
        except (CheckFailed, OSError):
            continue
        try:
            # A shared lock is enough to ask, and does not make two askers see each other as a recorder.
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            out.append(int(path.name[1:]))
        finally:
            os.close(handle)
    return sorted(out)
