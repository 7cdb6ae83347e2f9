"""`manifest.json`: a cache of what the shard files say, so that a listing need not open them all.

It may be missing, old or wrong at any time without harm: an entry counts only while the file's size and the
checksum of its footer agree, and `rebuild_manifest` makes it anew from the files.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from expkit.errors import CheckFailed, NoSpace, ReadFailed
from expkit.row.episodes import MOST_ROWS
from expkit.runs.layout import MANIFEST_FILE, SHARD_NAME, ShardPath, list_shards, published_file
from expkit.runs.locks import taking_turns
from expkit.system.files import read_to_end, unlink_quietly, write_atomic

VERSION = 1
MAX_BYTES = 256 << 20
_LOOKS = 20


class ShardCounts(Protocol):
    """What a manifest entry is made of: a shard writer or reader."""

    @property
    def rows(self) -> int: ...
    @property
    def nbytes(self) -> int: ...
    @property
    def rows_by_player(self) -> dict[int, int]: ...
    @property
    def header(self) -> dict[str, Any]: ...


class Listed(NamedTuple):
    """What an entry is made of, without the shard itself."""

    rows: int
    nbytes: int
    rows_by_player: dict[int, int]
    header: dict[str, Any]

    @classmethod
    def of(cls, shard: ShardCounts) -> Listed:
        return cls(shard.rows, shard.nbytes, shard.rows_by_player, {"removed": shard.header.get("removed")})


def read_manifest(run: Path) -> dict[str, dict[str, Any]]:
    """Entries by shard name `w0/000000`; empty when there is no manifest or it is damaged. Raises ReadFailed."""
    path = run / MANIFEST_FILE
    try:
        tree = json.loads(read_to_end(path, run, MAX_BYTES))
        body = tree["shards"]
        if tree["version"] != VERSION or tree["crc32"] != _checksum(body):
            return {}
        return body if all(map(_is_entry, body, body.values())) else {}
    except ReadFailed:
        raise  # that it does not say what there is is no sign that nothing is missing
    except (CheckFailed, FileNotFoundError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}


def manifest_and_shards(run: Path) -> tuple[dict[str, dict[str, Any]], list[ShardPath]]:
    """The manifest, and the shards that are there, of one moment: beside a recorder it is looked again until they
    agree, a few times. A shard has its name before it is in the manifest, which is therefore read first."""
    for _ in range(_LOOKS):
        entries, shards = read_manifest(run), list_shards(run, unfinished=True)
        if entries.keys() <= {shard.name for shard in shards if not shard.active} or read_manifest(run) == entries:
            break
    return entries, shards


def _is_entry(name: str, told: Any) -> bool:
    """Whether a name and its entry are of the form that `entry` makes."""
    players, removed = told["players"], told.get("removed", [])
    counts = [told["rows"], *players.values()]
    return (
        SHARD_NAME.fullmatch(name) is not None
        and type(told["bytes"]) is int
        and all(type(count) is int and 0 <= count <= MOST_ROWS for count in counts)
        and all(map(str.isdecimal, players))
        and type(removed) is list
    )


def is_damaged(run: Path) -> bool:
    """A manifest is there and does not pass its own checksum."""
    return (run / MANIFEST_FILE).exists() and not read_manifest(run) and (run / MANIFEST_FILE).stat().st_size > 0


def entry(shard: ShardCounts) -> dict[str, Any]:
    counts: dict[str, Any] = {
        "bytes": shard.nbytes,
        "rows": shard.rows,
        "players": {str(player): rows for player, rows in sorted(shard.rows_by_player.items())},
    }
    if shard.header.get("removed"):
        counts["removed"] = shard.header["removed"]
    return counts


def update_manifest(run: Path, shards: Mapping[str, ShardCounts | None]) -> None:
    """Add or replace entries by shard name `w0/000000`; None removes one, and so does a shard whose file is gone: a
    writer tells of its shards some time after it published them, and some are rewritten or pruned by then. Whoever
    writes takes turns by a lock."""
    with taking_turns(run, "manifest"):
        _change(run, shards)


@contextmanager
def taken_off(run: Path, names: Iterable[str]) -> Iterator[None]:
    """The shards of those names are taken off the manifest, and nobody lists one until their files are deleted: a
    shard that is listed and gone would be missed. On a disk too full for that the manifest goes, being a cache."""
    with taking_turns(run, "manifest"):
        try:
            _change(run, dict.fromkeys(names))
        except NoSpace:
            unlink_quietly(run / MANIFEST_FILE)
        yield


def _change(run: Path, shards: Mapping[str, ShardCounts | None]) -> None:
    body = read_manifest(run)
    for name, shard in shards.items():
        if shard is None or not published_file(run, name).exists():
            body.pop(name, None)
        else:
            body[name] = entry(shard)
    write_manifest(run, body)


def rebuild_manifest(run: Path, shards: Mapping[str, ShardCounts]) -> None:
    """Write the manifest anew, from these shards alone."""
    with taking_turns(run, "manifest"):
        write_manifest(run, {name: entry(shard) for name, shard in shards.items()})


def write_manifest(run: Path, shards: dict[str, dict[str, Any]]) -> None:
    body = {name: shards[name] for name in sorted(shards)}
    tree = {"version": VERSION, "crc32": _checksum(body), "shards": body}
    write_atomic(run / MANIFEST_FILE, json.dumps(tree, indent=1).encode())


def _checksum(body: Any) -> int:
    return zlib.crc32(json.dumps(body, sort_keys=True).encode())
