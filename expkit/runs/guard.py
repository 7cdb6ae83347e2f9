"""The disk guard: stops a recording before the disk is full, and caps what runs may take together."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from expkit.errors import NoSpace
from expkit.runs.layout import SHARD_SUFFIX, find_runs, is_run, list_shards
from expkit.system.units import format_size

DEFAULT_MIN_FREE = 2 << 30


@dataclass(slots=True)
class DiskGuard:
    """`min_free` bytes stay free on the disk; `max_total` bounds the shards of this run and of the runs beside it
    in the same folder, earlier ones counted. 0 switches either off.

    make_room  asked to free so many bytes of a run before recording stops; says whether it did
    """

    min_free: int = DEFAULT_MIN_FREE
    max_total: int = 0
    make_room: Callable[[Path, int], bool] | None = None
    _others: int = 0

    def start(self, run: Path) -> None:
        """Count what is there before recording, and check once; `run` need not exist yet. Raises NoSpace."""
        if self.max_total:
            self._others = sum(shards_bytes(other) for other in find_runs(run.parent) if other != run)
        self.check(run)

    def check(self, run: Path) -> None:
        """Raises NoSpace when a limit is reached and no room can be made."""
        excess, message = self._excess(run)
        if excess > 0 and not (self.make_room is not None and is_run(run) and self.make_room(run, excess)):
            raise NoSpace(message)

    @property
    def _advice(self) -> str:
        if self.make_room is None:
            return "record with --on-full prune"
        return "record smaller shards (--shard-size): what can be pruned is not enough, the shard at hand stays"

    def _excess(self, run: Path) -> tuple[int, str]:
        """Bytes too many, and what to say of it."""
        if self.min_free:
            free = free_bytes(run)
            if free < self.min_free:
                return self.min_free - free, (
                    f"{run}: {format_size(free)} free on the disk, the guard keeps {format_size(self.min_free)}; "
                    f"make room, lower --min-free, or {self._advice}"
                )
        if self.max_total:
            total = self._others + shards_bytes(run)
            if total >= self.max_total:
                return total - self.max_total + 1, (
                    f"{run.parent}: runs take {format_size(total)} of the {format_size(self.max_total)} allowed; "
                    f"delete old runs, raise --max-total, or {self._advice}"
                )
        return 0, ""


def shards_bytes(run: Path) -> int:
    """Bytes of all shard files of a run; files that vanish meanwhile count nothing, published ones count."""
    total = 0
    for shard in list_shards(run):
        published = shard.path.with_suffix(SHARD_SUFFIX)
        for path in (shard.path, published) if shard.active else (shard.path,):
            with suppress(OSError):
                total += path.stat().st_size
                break
    return total


def free_bytes(path: Path) -> int:
    """Bytes that an ordinary user may still write on the disk that holds `path`, or will once it is made."""
    path = path.absolute()
    while not path.exists():
        path = path.parent
    stat = os.statvfs(path)
    return stat.f_bavail * stat.f_frsize
