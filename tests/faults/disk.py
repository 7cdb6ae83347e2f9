"""Two disks to put in the place of the real one: one fails at an operation of choice, one keeps a log of everything.

Both do the real thing underneath, through `expkit.system.files.Disk`.
"""

from __future__ import annotations

import errno
import mmap
import os
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from expkit.system.files import Disk

OPERATIONS = tuple(name for name in vars(Disk) if not name.startswith("_"))
ERRORS = {"EIO": errno.EIO, "ENOSPC": errno.ENOSPC, "EROFS": errno.EROFS, "ENOENT": errno.ENOENT}
WRITES = ("write", "write_at", "append_line")


class FaultyDisk(Disk):
    """The real disk, of which operation number `at` (from 0, among those named in `kinds`) goes wrong.

    fault   an error of ERRORS, raised instead of the operation; `short`: half of the bytes are written and told;
            `torn-ENOSPC`, …: half of the bytes are written, then the error is raised
    lasting all writes after it fail as well, as on a full disk
    """

    def __init__(
        self,
        fault: str,
        at: int,
        kinds: Iterable[str] = OPERATIONS,
        *,
        lasting: bool = False,
        inner: Disk | None = None,
    ):
        self.fault, self.at, self.kinds, self.lasting = fault, at, frozenset(kinds), lasting
        self.inner = inner or Disk()
        self.seen: list[str] = []
        self.struck = 0
        self._lock = threading.Lock()

    def _strikes(self, kind: str) -> bool:
        if kind not in self.kinds:
            return False
        with self._lock:
            number = len(self.seen)
            self.seen.append(kind)
            strikes = number == self.at or (self.lasting and number > self.at >= 0 and kind in WRITES)
            strikes &= self.fault != "short" or kind in WRITES
            self.struck += strikes
            return strikes

    def _fail(self, kind: str, args: tuple[Any, ...], options: dict[str, Any]) -> Any:
        fault = self.fault.removeprefix("torn-")
        if kind == "sync" and isinstance(self.inner, LoggedDisk):
            self.inner.sync_failed(args[0])
        if kind in WRITES and (fault != self.fault or fault == "short"):
            done = getattr(self.inner, kind)(*_halved(kind, args), **options)
            if fault == "short":
                return done
        raise OSError(ERRORS[fault], os.strerror(ERRORS[fault]))


def _halved(kind: str, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """The arguments of a write, of half of its bytes (at least one)."""
    whole = b"".join(args[1]) if kind == "write" else bytes(args[1])
    half = whole[: max(1, len(whole) // 2)]
    return args[0], [half] if kind == "write" else half, *args[2:]


def _guarded(kind: str) -> Callable[..., Any]:
    def operation(self: FaultyDisk, *args: Any, **options: Any) -> Any:
        if self._strikes(kind):
            return self._fail(kind, args, options)
        return getattr(self.inner, kind)(*args, **options)

    return operation


for _kind in OPERATIONS:
    setattr(FaultyDisk, _kind, _guarded(_kind))


@dataclass(frozen=True, slots=True)
class Operation:
    """One thing that happened below the root.

    kind    write, truncate, sync, sync_failed: of file `node` · names: `names` change, `folder` is where that is made
            to last · sync_folder: of folder `node` · note: `data` is what the workload had to say
    names   (folder, name) -> the node it stands for from now on, None for nothing
    """

    kind: str
    node: int = -1
    offset: int = 0
    data: Any = b""
    names: dict[tuple[int, str], int | None] = field(default_factory=dict)
    folder: int = -1


@dataclass(slots=True)
class Tree:
    """Names and contents below a folder. Nodes are numbers; the folder itself is node 0."""

    names: dict[tuple[int, str], int] = field(default_factory=dict)
    folders: set[int] = field(default_factory=lambda: {0})
    contents: dict[int, bytes] = field(default_factory=dict)


class LoggedDisk(Disk):
    """The real disk, with a log of every change below `root`. What is there at the beginning counts as durable.

    Stores into mappings are seen when the next operation comes, and logged before it.
    """

    def __init__(self, root: Path):
        self.root = Path(os.path.abspath(root))
        self.log: list[Operation] = []
        self.start = Tree()
        self._names: dict[tuple[int, str], int] = {}
        self._by_inode: dict[tuple[int, int], int] = {}
        self._maps: list[tuple[mmap.mmap, int, int, bytes]] = []
        self._next = 1
        self._lock = threading.RLock()
        self._scan(self.root, 0)
        self._names = dict(self.start.names)

    def note(self, data: Any) -> None:
        """Put a remark of the workload into the log: from here on this holds."""
        with self._lock:
            self._look_at_maps()
            self.log.append(Operation("note", data=data))

    def _scan(self, folder: Path, node: int) -> None:
        for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
            status = entry.stat(follow_symlinks=False)
            key = (status.st_dev, status.st_ino)
            inside = self._by_inode.get(key)
            if inside is None or entry.is_dir():
                inside = self._new_node(key)
            self.start.names[node, entry.name] = inside
            if entry.is_dir():
                self.start.folders.add(inside)
                self._scan(Path(entry.path), inside)
            else:
                self.start.contents[inside] = Path(entry.path).read_bytes()

    def _new_node(self, key: tuple[int, int] | None) -> int:
        node, self._next = self._next, self._next + 1
        if key is not None:
            self._by_inode[key] = node
        return node

    def _place(self, path: Any) -> tuple[int, str] | None:
        """(folder, name) of a path below the root, None for one that is elsewhere."""
        absolute = Path(os.path.abspath(path))
        if self.root not in absolute.parents:
            return None
        node = 0
        *folders, name = absolute.relative_to(self.root).parts
        for part in folders:
            node = self._names[node, part]
        return node, name

    def _node(self, path: Any) -> int | None:
        absolute = Path(os.path.abspath(path))
        if absolute == self.root:
            return 0
        place = self._place(absolute)
        return None if place is None else self._names[place]

    def _file(self, handle: int) -> int | None:
        status = os.fstat(handle)
        return self._by_inode.get((status.st_dev, status.st_ino))

    def _look_at_maps(self) -> None:
        for at, (mapping, node, offset, before) in enumerate(self._maps):
            now = mapping[:]
            if now != before:
                self._maps[at] = (mapping, node, offset, now)
                self.log.append(Operation("write", node, offset, now))

    def _add(self, operation: Operation) -> None:
        self.log.append(operation)

    def _rename_in_log(self, folder: int, names: dict[tuple[int, str], int | None]) -> None:
        for place, node in names.items():
            if node is None:
                self._names.pop(place, None)
            else:
                self._names[place] = node
        self._add(Operation("names", names=names, folder=folder))

    def _opened(self, path: Any, handle: int, was_there: bool, emptied: bool = False) -> int:
        place = self._place(path)
        if place is not None and not was_there:
            status = os.fstat(handle)
            node = self._new_node((status.st_dev, status.st_ino))
            self._rename_in_log(place[0], {place: node})
        elif place is not None and emptied:
            self._add(Operation("truncate", self._names[place], 0))
        return handle

    def create(self, path: Any, *, replace: bool = False) -> int:
        with self._lock:
            self._look_at_maps()
            was_there = os.path.lexists(path)
            return self._opened(path, super().create(path, replace=replace), was_there, emptied=True)

    def open_or_create(self, path: Any) -> int:
        with self._lock:
            self._look_at_maps()
            was_there = os.path.lexists(path)
            return self._opened(path, super().open_or_create(path), was_there)

    def write(self, handle: int, pieces: Any) -> int:
        with self._lock:
            self._look_at_maps()
            offset, node = os.lseek(handle, 0, os.SEEK_CUR), self._file(handle)
            done = super().write(handle, pieces)
            if node is not None:
                self._add(Operation("write", node, offset, b"".join(pieces)[:done]))
            return done

    def write_at(self, handle: int, data: Any, offset: int) -> int:
        with self._lock:
            self._look_at_maps()
            done = super().write_at(handle, data, offset)
            node = self._file(handle)
            if node is not None:
                self._add(Operation("write", node, offset, bytes(data[:done])))
            return done

    def truncate(self, handle: int, size: int) -> None:
        with self._lock:
            self._look_at_maps()
            super().truncate(handle, size)
            node = self._file(handle)
            if node is not None:
                self._add(Operation("truncate", node, size))

    def sync(self, handle: int, *, data_only: bool = False) -> None:
        with self._lock:
            self._look_at_maps()
            node = self._file(handle)
            if node is not None:  # the real sync would tell nothing, and costs a hundred times the rest
                self._add(Operation("sync", node))

    def sync_failed(self, handle: int) -> None:
        """A sync failed, after which the system takes the pages for clean: no later one writes them."""
        with self._lock:
            self._look_at_maps()
            node = self._file(handle)
            if node is not None:
                self._add(Operation("sync_failed", node))

    def map(self, handle: int, length: int, offset: int) -> mmap.mmap:
        with self._lock:
            mapping = super().map(handle, length, offset)
            node = self._file(handle)
            if node is not None:
                self._maps.append((mapping, node, offset, mapping[:]))
            return mapping

    def sync_map(self, mapping: mmap.mmap) -> None:
        with self._lock:
            self._look_at_maps()
            for known, node, _, _ in self._maps:
                if known is mapping:
                    self._add(Operation("sync", node))

    def append_line(self, path: Any, line: bytes) -> None:
        with self._lock:
            self._look_at_maps()
            was_there = os.path.lexists(path)
            offset = os.path.getsize(path) if was_there else 0
            super().append_line(path, line)
            place = self._place(path)
            if place is None:
                return
            if not was_there:
                status = os.stat(path)
                self._rename_in_log(place[0], {place: self._new_node((status.st_dev, status.st_ino))})
            self._add(Operation("write", self._names[place], offset, line))

    def sync_folder(self, folder: Any) -> None:
        with self._lock:
            self._look_at_maps()
            node = self._node(folder)
            if node is not None:
                self._add(Operation("sync_folder", node))

    def rename(self, source: Any, target: Any) -> None:
        with self._lock:
            self._look_at_maps()
            before, after = self._place(source), self._place(target)
            super().rename(source, target)
            if before is not None and after is not None and before != after:
                self._rename_in_log(after[0], {before: None, after: self._names[before]})

    def link(self, source: Any, target: Any) -> None:
        with self._lock:
            self._look_at_maps()
            before, after = self._place(source), self._place(target)
            super().link(source, target)
            if before is not None and after is not None:
                self._rename_in_log(after[0], {after: self._names[before]})

    def unlink(self, path: Any) -> None:
        with self._lock:
            self._look_at_maps()
            super().unlink(path)
            place = self._place(path)
            if place is not None:
                self._rename_in_log(place[0], {place: None})

    def mkdir(self, path: Any) -> None:
        with self._lock:
            self._look_at_maps()
            super().mkdir(path)
            place = self._place(path)
            if place is not None:
                node = self._new_node(None)
                self.start.folders.add(node)
                self._rename_in_log(place[0], {place: node})

    def rmdir(self, path: Any) -> None:
        with self._lock:
            self._look_at_maps()
            super().rmdir(path)
            place = self._place(path)
            if place is not None:
                self._rename_in_log(place[0], {place: None})
