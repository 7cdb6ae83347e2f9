"""The one layer through which bytes that have to survive are changed: create, write, sync, rename, unlink.

Whatever makes or changes a file of a run goes through `disk()`, so that tests can put a disk in its place that
fails at the n-th operation, or one that keeps a log from which they build what a power cut leaves. Reading, locking
and closing are not part of it. What is read of a run is opened by `open_to_read`, which neither waits nor leaves.

What each operation promises after a power cut is what POSIX promises, and no more: the bytes of a file after `sync`
of that file, a name (made, renamed or removed) after `sync_folder` of its folder.
"""

from __future__ import annotations

import errno
import mmap
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from expkit.errors import CheckFailed, ExpkitError, NoSpace, ReadFailed, WriteFailed
from expkit.system import unread
from expkit.system.units import format_size

FilePath = str | os.PathLike[str]

# A FIFO without a reader or writer is opened at once, and a link in the place of a file is not followed.
_CAREFUL = os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW
_WINDOW = 1 << 20
_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a FIFO"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
    (stat.S_ISLNK, "a link"),
)


class Disk:
    """The real disk: each method is one system call or a few, and raises OSError as that does."""

    def create(self, path: FilePath, *, replace: bool = False) -> int:
        """A descriptor for writing to a new file. FileExistsError where there is one, or with `replace` an empty
        file in its place."""
        there = os.O_TRUNC if replace else os.O_EXCL
        return os.open(path, os.O_WRONLY | os.O_CREAT | _CAREFUL | there, 0o644)

    def open_existing(self, path: FilePath) -> int:
        """A descriptor for reading and writing, at the first byte. FileNotFoundError without the file."""
        return os.open(path, os.O_RDWR | _CAREFUL)

    def open_or_create(self, path: FilePath) -> int:
        """As `open_existing`, on an empty file where there is none."""
        return os.open(path, os.O_RDWR | os.O_CREAT | _CAREFUL, 0o644)

    def write(self, handle: int, pieces: Sequence[bytes | memoryview]) -> int:
        """Write at the descriptor's place; returns how many bytes went, which may be fewer than all."""
        return os.writev(handle, pieces)

    def write_at(self, handle: int, data: bytes | memoryview, offset: int) -> int:
        """Write at `offset`; returns how many bytes went. The descriptor's place does not move."""
        return os.pwrite(handle, data, offset)

    def truncate(self, handle: int, size: int) -> None:
        os.ftruncate(handle, size)

    def sync(self, handle: int, *, data_only: bool = False) -> None:
        """The file's bytes are on the disk when this returns. `data_only` leaves out its times, not its size."""
        if data_only:
            os.fdatasync(handle)
        else:
            os.fsync(handle)

    def map(self, handle: int, length: int, offset: int) -> mmap.mmap:
        """A shared, writable mapping. Stores into it survive the process at once, a power cut after `sync_map`."""
        return mmap.mmap(handle, length, offset=offset)

    def sync_map(self, mapping: mmap.mmap) -> None:
        mapping.flush()

    def append_line(self, path: FilePath, line: bytes) -> None:
        """Append to a log that may lose its last lines; made when it is missing."""
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | _CAREFUL, 0o644)
        try:
            os.write(handle, line)
        finally:
            os.close(handle)

    def sync_folder(self, folder: FilePath) -> None:
        """Names made, renamed or removed in the folder are on the disk when this returns."""
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)

    def rename(self, source: FilePath, target: FilePath) -> None:
        """Atomic, also where `target` is there already: it is replaced."""
        os.replace(source, target)

    def link(self, source: FilePath, target: FilePath) -> None:
        """A second name of the same file. FileExistsError when the target is there."""
        os.link(source, target)

    def unlink(self, path: FilePath) -> None:
        os.unlink(path)

    def mkdir(self, path: FilePath) -> None:
        os.mkdir(path, 0o755)

    def rmdir(self, path: FilePath) -> None:
        os.rmdir(path)


_disk = Disk()


def disk() -> Disk:
    """The disk in use; ask again for each operation rather than keeping it."""
    return _disk


@contextmanager
def using(replacement: Disk) -> Iterator[Disk]:
    """Put another disk in place, for the whole process, until the block is left. For tests."""
    global _disk
    before, _disk = _disk, replacement
    try:
        yield replacement
    finally:
        _disk = before


class DiskErrors:
    """Turns the OSError of a `with` block into one line: NoSpace when the disk is full, else WriteFailed.

    doing   what failed, in words that follow "cannot": `make the run`
    """

    __slots__ = ("doing", "where")

    def __init__(self, where: FilePath, doing: str):
        self.where = where
        self.doing = doing

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if not isinstance(error, OSError) or isinstance(error, ExpkitError):
            return
        where = os.fspath(self.where)
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise NoSpace(
                f"{where}: the disk is full, cannot {self.doing}; what was durable is intact, make room and go on"
            ) from error
        raise WriteFailed(
            f"{where}: cannot {self.doing}: {error.strerror or error}; what was durable is intact"
        ) from error


class ReadErrors:
    """Turns the OSError of a `with` block that reads `path` into ReadFailed."""

    __slots__ = ("path",)

    def __init__(self, path: FilePath):
        self.path = path

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, OSError) and not isinstance(error, ExpkitError):
            raise read_failed(self.path, "read", error) from error


def no_file(path: FilePath, within: FilePath | None = None) -> str:
    """What stands at `path` where a file should, in words that follow "is"; "" for a file, or nothing. A link counts
    as what it leads to, unless that lies outside of `within`, a folder above `path`."""
    path = os.fspath(path)
    try:
        mode = os.lstat(path).st_mode
        if within is None:
            mode = os.stat(path).st_mode
        elif stat.S_ISLNK(mode) or _any_link(path, os.fspath(within)):
            root = os.path.realpath(within)
            if not os.path.realpath(path).startswith(root + os.sep):
                return "a link that leads out of the run"
            mode = os.stat(path).st_mode
    except OSError:
        return ""
    return "" if stat.S_ISREG(mode) else next((words for is_kind, words in _KINDS if is_kind(mode)), "no file")


def _any_link(path: str, within: str) -> bool:
    """Whether a folder between the two is a link."""
    here = os.path.dirname(path)
    while len(here) > len(within):
        if stat.S_ISLNK(os.lstat(here).st_mode):
            return True
        here = os.path.dirname(here)
    return False


def open_to_read(path: FilePath, within: FilePath | None = None, most: int | None = None) -> int:
    """A descriptor of a file for reading. Nothing else is opened: a FIFO would wait for a writer, a device may have no
    end, and a link that leads out of `within`, the run that the file is part of, shows what was not given away.

    most  bytes that such a file can have

    Raises CheckFailed, in one line, for what is no file or too large, FileNotFoundError, ReadFailed.
    """
    found = no_file(path, within)
    if not found:
        # What `no_file` allows may be a link within the run; a FIFO put there since is opened without waiting.
        try:
            handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise read_failed(path, "opened", error) from error
        try:
            now = os.fstat(handle)
        except OSError as error:
            os.close(handle)
            raise read_failed(path, "opened", error) from error
        if stat.S_ISREG(now.st_mode) and (most is None or now.st_size <= most):
            return handle
        os.close(handle)
        if stat.S_ISREG(now.st_mode):
            raise CheckFailed(
                f"{os.fspath(path)}: larger than {format_size(most or 0)}, which no such file is; look at what it is, "
                "and move it away"
            )
        found = "no file"
    raise CheckFailed(f"{os.fspath(path)}: is {found} where a file should be; it is not read: move it away")


def read_to_end(path: FilePath, within: FilePath | None, most: int) -> bytes:
    """The bytes of a file of at most so many. Raises as `open_to_read`."""
    parts: list[bytes] = []
    with open(open_to_read(path, within, most), "rb") as file, ReadErrors(path):
        # Piece by piece: to ask for `most` would take as much memory, 16 MiB for a description of 2 KB.
        while most > 0 and (part := file.read(min(most, _WINDOW))):
            parts.append(part)
            most -= len(part)
    return b"".join(parts)


def list_folder(path: FilePath) -> list[str]:
    """The names in a folder; none where there is no folder. Raises ReadFailed: a listing that failed does not say that
    nothing is there."""
    try:
        return os.listdir(path)
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise read_failed(path, "listed", error) from error


def read_failed(path: FilePath, done: str, error: OSError) -> ReadFailed:
    """The error of a path that cannot be `done`: opened, read, listed."""
    advice = {
        errno.EACCES: "check its permissions",
        errno.EPERM: "check its permissions",
        errno.EMFILE: "raise the limit of open files (ulimit -n)",
        errno.ENFILE: "raise the limit of open files (ulimit -n)",
        errno.ENOMEM: "try again with more memory to spare",
    }.get(error.errno or 0, "check the disk, and try again")
    failed = ReadFailed(f"{os.fspath(path)!s}: cannot be {done}: {error.strerror or error}; {advice}")
    failed.errno = error.errno
    if error.errno not in (errno.EACCES, errno.EPERM):
        unread.note(path, str(failed))  # who may not read knows it, and often can do without
    return failed


def next_data(handle: int, offset: int) -> int | None:
    """Where bytes were written at or after `offset`, None where there are none: a hole of a terabyte is passed at
    once, where the file system knows its holes."""
    try:
        return os.lseek(handle, offset, os.SEEK_DATA)
    except OSError as error:
        return None if error.errno == errno.ENXIO else offset


def only_zeros(handle: int, offset: int = 0) -> bool:
    """Whether nothing but zeros follows."""
    at = next_data(handle, offset)
    while at is not None:
        window = os.pread(handle, _WINDOW, at)
        if not window or window.strip(b"\0"):
            return not window
        at = next_data(handle, at + len(window))
    return True


def write_all(handle: int, pieces: Sequence[bytes | memoryview]) -> int:
    """Write all pieces, in one call where the system allows it; returns their length. Raises OSError."""
    total = sum(map(len, pieces))
    done = disk().write(handle, pieces)
    if done < total:
        rest = memoryview(b"".join(pieces))
        while done < total:
            done += disk().write(handle, [rest[done:]])
    return total


def write_all_at(handle: int, data: bytes, offset: int) -> None:
    """Write all of `data` at `offset`. Raises OSError."""
    done = 0
    while done < len(data):
        done += disk().write_at(handle, memoryview(data)[done:], offset + done)


def publish(source: FilePath, target: FilePath) -> None:
    """Give a file the name that it keeps. FileExistsError when that is taken: what is published is never replaced. The
    caller holds the lock of those who make such names, and syncs the folder. Raises OSError."""
    try:
        os.lstat(target)
    except FileNotFoundError:
        return disk().rename(source, target)
    raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), os.fspath(target))


def write_atomic(path: Path, data: bytes) -> None:
    """Replace `path` by `data`: a temporary file beside it, sync, rename, sync of the folder.
    Raises NoSpace, WriteFailed; the file is then as before."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with DiskErrors(path, "write it"):
        try:
            handle = disk().create(temporary, replace=True)
            try:
                write_all(handle, [data])
                disk().sync(handle)
            finally:
                os.close(handle)
            disk().rename(temporary, path)
        except BaseException:
            unlink_quietly(temporary)
            raise
        disk().sync_folder(path.parent)


def unlink_quietly(path: Path) -> None:
    """Remove a file that is in nobody's way; whatever keeps it from going is no matter."""
    try:
        disk().unlink(path)
    except OSError:
        return


def make_folder(path: Path) -> None:
    """Make a folder, its parents too; its name and theirs are on the disk when this returns, also where an earlier
    call was killed before it had synced them. Raises OSError."""
    missing = []
    here = path
    while not here.is_dir():
        missing.append(here)
        here = here.parent
    for folder in reversed(missing):
        try:
            disk().mkdir(folder)
        except FileExistsError:  # another process was faster, or a file is in the way
            if not folder.is_dir():
                raise
        disk().sync_folder(folder.parent)
    if not missing:
        disk().sync_folder(path.parent)


def remove_path(path: Path) -> None:
    """Remove what is there, if anything: a file, a link, or a folder and everything in it. Raises OSError."""
    if path.is_dir() and not path.is_symlink():
        remove_tree(path)
    elif os.path.lexists(path):
        disk().unlink(path)


def remove_tree(path: Path) -> None:
    """Remove a folder and everything in it; links are removed, not followed. Raises OSError."""
    with os.scandir(path) as entries:
        inside = sorted(entries, key=lambda entry: entry.name)
    for entry in inside:
        if entry.is_dir(follow_symlinks=False):
            remove_tree(Path(entry.path))
        else:
            disk().unlink(entry.path)
    disk().rmdir(path)
