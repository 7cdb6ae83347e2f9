"""Damaged files that were replaced, kept under a name of their own, and what was found wrong with them."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import msgspec

from expkit.recovery.salvage import ShardSurvey
from expkit.runs.layout import QUARANTINE_DIR
from expkit.system.files import DiskErrors, disk, make_folder, next_data, open_to_read, write_all_at, write_atomic

_CHUNK = 8 << 20


def quarantine_file(run: Path, place: Path, name: str = "") -> Path:
    """Give a damaged file a second name in `quarantine/`, durably; a copy where the disk knows no second names."""
    folder = run / QUARANTINE_DIR
    target = folder / (name or place.name)
    if not place.exists():
        return target
    with DiskErrors(folder, "keep what is replaced"):
        make_folder(folder)
        number = 1
        while target.exists() and not target.samefile(place):
            number += 1
            target = folder / f"{(name or place.name)}.{number}"
        if not target.exists():
            try:
                disk().link(place, target)
            except OSError as error:
                if error.errno not in (errno.EPERM, errno.EXDEV, errno.EMLINK, errno.EOPNOTSUPP):
                    raise
                copy_file(place, target)
            disk().sync_folder(folder)
    return target


def write_reasons(shard: ShardSurvey, target: Path) -> None:
    """Write what was found and what is lost as JSON, beside the file in quarantine."""
    tree = {
        "shard": shard.name,
        "findings": [msgspec.to_builtins(finding._asdict() | {"shard": shard.name}) for finding in shard.findings],
        "rows": [msgspec.to_builtins(_listed(lost)) for lost in shard.lost_rows],
        "values": [msgspec.to_builtins(_listed(lost)) for lost in shard.lost_values],
        "records": [msgspec.to_builtins(_listed(lost)) for lost in shard.lost_records],
    }
    write_atomic(target, msgspec.json.format(msgspec.json.encode(tree)))


def _listed(lost: Any) -> dict[str, Any]:
    """A loss for JSON: 64-bit numbers as text."""
    out = {name: getattr(lost, name) for name in lost.__slots__ if name != "shard"}
    if "by_key" in out:
        keys = out.pop("by_key").items()
        out["episodes"] = [{"episode": str(episode), "player": player, "rows": n} for (episode, player), n in keys]
    elif "episodes" in out:
        out["episodes"] = [str(episode) for episode in out["episodes"]]
    return out


def copy_file(source: Path, target: Path) -> None:
    """Copy a file, inside the disk where it can, durably. Raises OSError."""
    reading = open_to_read(source)
    try:
        writing = disk().create(target, replace=True)
        try:
            shared, size = True, os.fstat(reading).st_size
            at = next_data(reading, 0)
            while at is not None and at < size:  # holes stay holes
                count = min(_CHUNK, size - at)
                if shared:
                    try:
                        done = os.copy_file_range(reading, writing, count, at, at)
                    except OSError as error:
                        if error.errno not in (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
                            raise
                        shared = False
                        continue
                else:
                    data = os.pread(reading, count, at)
                    write_all_at(writing, data, at)
                    done = len(data)
                if not done:
                    break  # it became shorter
                at = next_data(reading, at + done)
            disk().truncate(writing, size)
            disk().sync(writing)
        finally:
            os.close(writing)
    finally:
        os.close(reading)
