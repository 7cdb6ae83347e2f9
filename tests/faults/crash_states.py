"""From the log of a `LoggedDisk`: what a kill or a power cut after any of its operations may leave behind.

A kill keeps what was done, with a last write that may be torn. A power cut keeps what was synced; of the rest, of
every file and of every name on its own, nothing, everything, a part of it, or later things without earlier ones.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from disk import LoggedDisk, Operation, Tree

SECTOR = 512  # bytes that reach the disk together or not at all


@dataclass(slots=True)
class _File:
    """`durable` is what is on the disk for sure, `cached` what a process reads, `pending` the way from one to the
    other. Writes that a failed sync left unwritten are in `cached` only: the system takes them for clean."""

    durable: bytes = b""
    cached: bytes = b""
    pending: list[Operation] = field(default_factory=list)
    doomed: bool = False


@dataclass(frozen=True, slots=True)
class State:
    """What is left after operation number `after`. `kind` is `kill` or `power`, `notes` all that was noted before."""

    kind: str
    after: int
    notes: list[Any]
    tree: Tree

    def build(self, folder: Path) -> None:
        """Make it real in an empty folder."""
        made: dict[int, Path] = {}
        stack = [(0, folder)]
        inside: dict[int, list[tuple[str, int]]] = {}
        for (parent, name), node in self.tree.names.items():
            inside.setdefault(parent, []).append((name, node))
        while stack:
            parent, here = stack.pop()
            here.mkdir(exist_ok=True)
            for name, node in inside.get(parent, ()):
                path = here / name
                if node in self.tree.folders:
                    stack.append((node, path))
                elif node in made:
                    os.link(made[node], path)
                else:
                    path.write_bytes(self.tree.contents[node])
                    made[node] = path

    def signature(self) -> int:
        return hash(
            (
                self.kind,
                len(self.notes),
                frozenset(self.tree.names.items()),
                frozenset((node, hash(self.tree.contents[node])) for node in _files(self.tree)),
            )
        )


def _files(tree: Tree) -> set[int]:
    return {node for node in tree.names.values() if node not in tree.folders}


def crash_states(disk: LoggedDisk, *, cuts: int, seed: int = 0) -> Iterator[State]:
    """Every kill state and `cuts` power cuts after each operation; states seen before are left out."""
    rng = Random(seed)
    volume = _Volume(disk.start)
    seen: set[int] = set()
    notes: list[Any] = []
    for after in range(len(disk.log) + 1):
        following = disk.log[after] if after < len(disk.log) else None
        trees = [("kill", volume.killed())]
        if following is not None and following.kind == "write" and len(following.data) > 1:
            trees.append(("kill", volume.killed(_torn(following, rng))))
        trees += [("power", volume.power_cut(rng, everything_lost=cut == 0)) for cut in range(cuts)]
        for kind, tree in trees:
            state = State(kind, after, list(notes), tree)
            if state.signature() not in seen:
                seen.add(state.signature())
                yield state
        if following is not None and following.kind == "note":
            notes.append(following.data)
        elif following is not None:
            volume.apply(following)


def _torn(write: Operation, rng: Random) -> Operation:
    return Operation("write", write.node, write.offset, write.data[: rng.randrange(1, len(write.data))])


def _changed(content: bytes, operation: Operation) -> bytes:
    """The content of a file after a write or a truncation."""
    if operation.kind == "truncate":
        return content[: operation.offset].ljust(operation.offset, b"\0")
    end = operation.offset + len(operation.data)
    return content[: operation.offset].ljust(operation.offset, b"\0") + operation.data + content[end:]


class _Volume:
    """A disk and the cache before it."""

    def __init__(self, start: Tree):
        self.folders = start.folders
        self.durable = dict(start.names)
        self.cached = dict(start.names)
        self.pending: list[Operation] = []
        self.files = {node: _File(content, content) for node, content in start.contents.items()}

    def apply(self, operation: Operation) -> None:
        if operation.kind == "names":
            _rename(self.cached, operation)
            self.pending.append(operation)
            for node in operation.names.values():
                if node is not None and node not in self.folders:
                    self.files.setdefault(node, _File())
        elif operation.kind == "sync_folder":
            for change in self.pending:
                if change.folder == operation.node:
                    _rename(self.durable, change)
            self.pending = [change for change in self.pending if change.folder != operation.node]
        elif operation.kind == "sync":
            file = self.files[operation.node]
            if file.doomed:
                for change in file.pending:
                    file.durable = _changed(file.durable, change)
            else:
                file.durable = file.cached
            file.pending = []
        elif operation.kind == "sync_failed":
            file = self.files[operation.node]
            file.doomed, file.pending = True, []
        else:
            file = self.files[operation.node]
            file.cached = _changed(file.cached, operation)
            file.pending.append(operation)

    def killed(self, torn: Operation | None = None) -> Tree:
        contents = {node: file.cached for node, file in self.files.items()}
        if torn is not None:
            contents[torn.node] = _changed(contents[torn.node], torn)
        return Tree(dict(self.cached), self.folders, contents)

    def power_cut(self, rng: Random, *, everything_lost: bool) -> Tree:
        names = dict(self.durable)
        way = "nothing" if everything_lost else rng.choice(("nothing", "everything", "first", "any"))
        first = rng.randrange(len(self.pending) + 1)
        for at, change in enumerate(self.pending):
            if way == "everything" or (way == "first" and at < first) or (way == "any" and rng.random() < 0.5):
                _rename(names, change)
        contents = {
            node: file.durable if everything_lost else _written_in_part(file, rng) for node, file in self.files.items()
        }
        return Tree(names, self.folders, contents)


def _rename(names: dict[tuple[int, str], int], change: Operation) -> None:
    for place, node in change.names.items():
        if node is None:
            names.pop(place, None)
        else:
            names[place] = node


def _written_in_part(file: _File, rng: Random) -> bytes:
    if file.durable == file.cached:
        return file.durable
    way = rng.choice(("nothing", "everything", "first", "sectors", "sectors"))
    if way == "nothing":
        return file.durable
    if way == "everything":
        return file.cached
    if way == "first" and file.pending and not file.doomed:
        count = rng.randrange(len(file.pending))
        content = file.durable
        for change in file.pending[:count]:
            content = _changed(content, change)
        torn = file.pending[count]
        if torn.kind == "write" and len(torn.data) > 1:
            content = _changed(content, _torn(torn, rng))
        return content
    # The size as of some moment; each sector old or new, and where nothing was written yet zeros or what lay there.
    size = rng.choice((len(file.durable), len(file.cached), len(file.cached)))
    stale = bytes(SECTOR) if rng.random() < 0.7 else rng.randbytes(SECTOR)
    out = bytearray()
    for at in range(0, size, SECTOR):
        end = min(at + SECTOR, size)
        if rng.random() < 0.5:
            out += file.cached[at:end].ljust(end - at, b"\0")
        else:
            old = file.durable[at:end]
            out += old + stale[len(old) : end - at]
    return bytes(out)
