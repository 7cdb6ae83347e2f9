"""Names of everything in a run directory, and the run's own description, `run.yaml`.

run.yaml          what the run is: id, source, players, policies, configuration as resolved, schema, versions
manifest.json     a cache of what the shard files say; rebuilt from them at any time
counters          the memory-mapped ledger, one section per writer
events.jsonl      one line per thing that happened: started, rotated, stopped; what a pipeline left out
shards/w0/000000.exp      a published shard of writer 0; `000000.active` while it is being written
shards/g1/000000.exp      a shard that maintenance wrote, of generation 1; see `expkit.runs.superseding`
locks/w0          held by the writer for as long as it lives
requests/         what commands ask of a running recorder
quarantine/       what recovery could not keep, and rows that a pipeline put aside
reserve           some bytes that pruning gives up on a full disk
"""

from __future__ import annotations

import json
import os
import re
import socket
import sys
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from expkit.errors import CheckFailed, NotThere, SchemaError
from expkit.row.episodes import PolicyInfo
from expkit.row.schema import Schema
from expkit.system.files import DiskErrors, disk, list_folder, no_file, read_failed, read_to_end, write_atomic
from expkit.system.version import __version__

RUN_FILE = "run.yaml"
MANIFEST_FILE = "manifest.json"
COUNTERS_FILE = "counters"
EVENTS_FILE = "events.jsonl"
SHARDS_DIR = "shards"
LOCKS_DIR = "locks"
REQUESTS_DIR = "requests"
QUARANTINE_DIR = "quarantine"
RESERVE_FILE = "reserve"

SHARD_SUFFIX = ".exp"
ACTIVE_SUFFIX = ".active"
MAX_RUN_FILE_BYTES = 16 << 20
SHARD_NAME = re.compile(r"[wg]\d{1,9}/\d{6,18}")  # as `ShardPath.name` gives it
_SHARD = re.compile(r"(\d{6,})(\.exp|\.active)")
_FOLDER = re.compile(r"([wg])(0|[1-9]\d{0,8})")

# Without it a flipped bit in a name or a number would go for what the run is.
_SEAL = b"# crc32 of all before this line:"
_SEALED = re.compile(_SEAL + rb" ([0-9a-f]{8})\n\Z")
_MAX_VALUES = 500_000  # of run.yaml; 65,536 policies are 460,000
_MAX_DIGITS = 400
_MAX_DEPTH = 200  # of run.yaml: libyaml builds the tree recursively, and 200,000 brackets overflow its stack

_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Dumper(getattr(yaml, "CSafeDumper", yaml.SafeDumper)):  # type: ignore[misc]
    """Writes a value that stands twice twice, for aliases are not read."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


@dataclass(frozen=True, slots=True)
class ShardPath:
    """A shard file as found on disk. `name` is `w0/000003`; `active` while it has no published name.

    writer      whose folder it is in; None for a shard of a generation
    generation  0 for the writers' own shards
    """

    path: Path
    writer: int | None
    generation: int
    number: int
    active: bool

    @property
    def name(self) -> str:
        folder = f"g{self.generation}" if self.writer is None else f"w{self.writer}"
        return f"{folder}/{self.number:06d}"

    @property
    def order(self) -> tuple[int, int, int]:
        """What was rewritten holds older rows than what writers wrote since: generations first."""
        return (self.generation, -1, self.number) if self.writer is None else (1 << 31, self.writer, self.number)


@dataclass(slots=True)
class RunInfo:
    """What `run.yaml` holds."""

    id: str
    source: str
    schema: Schema
    players: list[str]
    policies: list[PolicyInfo] = field(default_factory=list)
    config: dict[str, Any] = field(default_factory=dict)
    config_digest: str = ""
    seed: int | None = None
    created_ns: int = 0
    metadata: dict[str, Any] = field(default_factory=dict)
    host: str = ""
    argv: list[str] = field(default_factory=list)
    version: str = __version__


def new_run_id() -> str:
    """128 random bits as hex: names a run across machines."""
    return os.urandom(16).hex()


def command_line() -> list[str]:
    """How this process was called; of the program itself only its name, for its folder says nothing about a run. Bytes
    of paths that are no UTF-8 are told as `\\udcff`, for files hold UTF-8."""
    name = Path(sys.argv[0]).name
    words = ["expkit" if name == "__main__.py" else name, *sys.argv[1:]]
    return [word.encode(errors="backslashreplace").decode() for word in words]


def shard_file(run: Path, writer: int, number: int, *, active: bool = False) -> Path:
    return run / SHARDS_DIR / f"w{writer}" / f"{number:06d}{ACTIVE_SUFFIX if active else SHARD_SUFFIX}"


def published_file(run: Path, name: str) -> Path:
    """Where the shard of that name, `w0/000003`, is when it is published."""
    return run / SHARDS_DIR / f"{name}{SHARD_SUFFIX}"


def is_run(path: Path) -> bool:
    """A folder that holds `run.yaml` or a folder of shards."""
    return (path / RUN_FILE).is_file() or (path / SHARDS_DIR).is_dir()


def generation_file(run: Path, generation: int, number: int, *, active: bool = False) -> Path:
    return run / SHARDS_DIR / f"g{generation}" / f"{number:06d}{ACTIVE_SUFFIX if active else SHARD_SUFFIX}"


def list_shards(run: Path, *, unfinished: bool = False, writers: bool = True) -> list[ShardPath]:
    """Shards of all generations and writers, in that order. A published shard hides an active one of the same number:
    publishing is one rename, so both can only exist when a copy was made in between. A generation shard without its
    published name was never finished and holds nothing that counts; `unfinished` lists it, too. Without `writers` only
    shards of generations. Raises ReadFailed."""
    found: dict[tuple[int, int, int], ShardPath] = {}
    # Writers before generations: a shard that is rewritten meanwhile is then seen twice, which superseding resolves,
    # and never missed.
    for writer, generation, folder in sorted(_shard_folders(run), key=lambda entry: entry[1]):
        if writer is not None and not writers:
            continue
        for name in list_folder(folder):
            match = _SHARD.fullmatch(name)
            if match is None:
                continue
            shard = ShardPath(folder / name, writer, generation, int(match[1]), match[2] == ACTIVE_SUFFIX)
            if shard.active and (shard.order in found or (generation and not unfinished)):
                continue
            found[shard.order] = shard
    return [found[key] for key in sorted(found)]


def _shard_folders(run: Path) -> list[tuple[int | None, int, Path]]:
    """(writer, generation, folder) of the folders that hold shards."""
    out: list[tuple[int | None, int, Path]] = []
    for name in list_folder(run / SHARDS_DIR):
        match = _FOLDER.fullmatch(name)
        if match is not None and (match[1] == "w" or int(match[2])):
            number = int(match[2])
            out.append(
                (number, 0, run / SHARDS_DIR / name) if match[1] == "w" else (None, number, run / SHARDS_DIR / name)
            )
    return out


def find_runs(folder: Path) -> list[Path]:
    """Run folders at or below `folder`, in order of name. Folders inside a run are not searched, nor hidden ones, in
    which a run is being made of others."""
    out: list[Path] = []
    stack = [folder]
    while stack:
        here = stack.pop()
        if is_run(here):
            out.append(here)
            continue
        try:
            inside = [entry for entry in here.iterdir() if not entry.name.startswith(".")]
            stack += [entry for entry in inside if entry.is_dir() and not entry.is_symlink()]
        except (FileNotFoundError, NotADirectoryError, PermissionError):
            continue  # gone since, or nobody's business
        except OSError as error:
            raise read_failed(here, "listed", error) from error
    return sorted(out)


def write_run_info(run: Path, info: RunInfo) -> None:
    """Write `run.yaml`, atomically."""
    tree = {
        "run": {
            "id": info.id,
            "source": info.source,
            "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(info.created_ns / 1e9)),
            "created_ns": info.created_ns,
            "seed": info.seed,
            "players": info.players,
            "policies": [{"name": p.name, "checkpoint": p.checkpoint, "digest": p.digest} for p in info.policies],
            "config_digest": info.config_digest,
            "host": info.host or socket.gethostname(),
            "argv": info.argv or command_line(),
            "expkit": info.version,
            "metadata": info.metadata,
        },
        "config": info.config,
        "schema": json.loads(info.schema.to_json()),
    }
    text = yaml.dump(tree, Dumper=_Dumper, sort_keys=False, allow_unicode=True, default_flow_style=None).encode()
    write_atomic(run / RUN_FILE, b"%s%s %08x\n" % (text, _SEAL, zlib.crc32(text)))


def read_run_info(run: Path) -> RunInfo:
    """Read `run.yaml`. Raises NotThere without one, CheckFailed when it cannot be understood or its last line says
    that it is not as it was written."""
    path = run / RUN_FILE
    try:
        text = read_to_end(path, run, MAX_RUN_FILE_BYTES)
    except FileNotFoundError:
        raise NotThere(f"{run}: no run here (no {RUN_FILE}); see expkit list") from None
    sealed = _SEALED.search(text)
    if sealed is not None and zlib.crc32(text[: sealed.start()]) != int(sealed[1], 16):
        raise CheckFailed(
            f"{path}: does not pass its own checksum: damaged, or edited (remove its last line then); the shards have "
            "a copy"
        )
    try:
        _refuse_bombs(text)
        tree = yaml.load(text, Loader=_Loader)
        about = tree["run"]
        return RunInfo(
            id=str(about["id"]),
            source=str(about["source"]),
            schema=Schema.from_builtins(tree["schema"]),
            players=[str(name) for name in about["players"]],
            policies=[PolicyInfo(str(p["name"]), str(p["checkpoint"]), str(p["digest"])) for p in about["policies"]],
            config=dict(tree.get("config") or {}),
            config_digest=str(about.get("config_digest", "")),
            seed=None if about.get("seed") is None else int(about["seed"]),
            created_ns=moment(about["created_ns"]),
            metadata=dict(about.get("metadata") or {}),
            host=str(about.get("host", "")),
            argv=[str(word) for word in about.get("argv") or []],
            version=str(about.get("expkit", "")),
        )
    except (
        yaml.YAMLError,
        LookupError,
        TypeError,
        ValueError,
        AttributeError,
        OverflowError,
        RecursionError,
        SchemaError,
    ) as error:
        said = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckFailed(f"{path}: not a run description ({said}); the shards can still be read one by one") from None


def moment(told: Any) -> int:
    """Nanoseconds since 1970 as a description tells them. Raises ValueError beyond the years that have a calendar."""
    nanoseconds = int(told)
    if not 0 <= nanoseconds < 1 << 63:
        raise ValueError("created_ns is out of range")
    return nanoseconds


def _refuse_bombs(text: bytes) -> None:
    """Raises ValueError for YAML of which few bytes become many values, or a tree too deep to be built."""
    depth = 0
    for count, event in enumerate(yaml.parse(text, Loader=_Loader)):
        if count > _MAX_VALUES:
            raise ValueError(f"more than {_MAX_VALUES:,} values")
        # YAML 1.1 reads digits with colons to base 60, which takes the square of their number.
        plain = event.value if isinstance(event, yaml.ScalarEvent) and event.implicit[0] else ""
        if len(plain) > _MAX_DIGITS and plain.lstrip("+-")[:1].isdigit():
            raise ValueError(f"a number of {len(plain):,} digits")
        if isinstance(event, yaml.AliasEvent):
            raise ValueError("aliases (*name) are not allowed")
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > _MAX_DEPTH:
            raise ValueError(f"more than {_MAX_DEPTH} levels deep")


def strange_entries(run: Path) -> Iterator[str]:
    """What stands in a run where a file or a folder of it should be and is none, or leads out of the run: a line for
    each. Nothing is opened."""
    for name in (SHARDS_DIR, LOCKS_DIR, REQUESTS_DIR, QUARANTINE_DIR):
        place = run / name
        leads_out = place.is_symlink() and run.resolve() not in place.resolve().parents
        if leads_out or (place.exists() and not place.is_dir()):
            found = "a link that leads out of the run" if leads_out else "no folder"
            yield f"{place}: is {found} where a folder should be; move it away"
    files = [run / name for name in (RUN_FILE, MANIFEST_FILE, COUNTERS_FILE, EVENTS_FILE, RESERVE_FILE)]
    files += [shard.path for shard in list_shards(run, unfinished=True)]
    files += [run / LOCKS_DIR / name for name in sorted(list_folder(run / LOCKS_DIR))]
    for path in files:
        found = no_file(path, run)
        if found:
            yield f"{path}: is {found} where a file should be; it is not read: move it away"


def refuse_strange_entries(run: Path) -> None:
    """Raises CheckFailed, before anything of the run is changed, for the first of `strange_entries`."""
    for line in strange_entries(run):
        raise CheckFailed(line)


def log_event(run: Path, event: str, **details: Any) -> None:
    """Append one line to `events.jsonl`, which a power cut may cost its last lines."""
    line = json.dumps({"time_ns": str(time.time_ns()), "event": event, "pid": os.getpid(), **details})
    with DiskErrors(run / EVENTS_FILE, "write it"):
        disk().append_line(run / EVENTS_FILE, line.encode() + b"\n")
