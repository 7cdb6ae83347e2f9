"""Writing an export: under a hidden name beside its place, synced, and then given its name as a whole."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from hashlib import sha256
from itertools import count
from pathlib import Path

from expkit.errors import NoSpace, OutputExists, UsageError
from expkit.exchange.card import dataset_card
from expkit.exchange.exported import Exported, WrittenFile, WrittenPart
from expkit.exchange.plan import ExportPlan, PartPlan
from expkit.exchange.rows import StoredRows, batches, stored_blocks
from expkit.exchange.shuffle import shuffled
from expkit.formats.protocol import Batch, ExportOptions, FolderFormat, Part, rows_of
from expkit.formats.several import Cutter
from expkit.rewrite.engine import Stopped
from expkit.runs.guard import free_bytes
from expkit.runs.layout import is_run
from expkit.system.files import DiskErrors, disk, make_folder, remove_path
from expkit.system.parallel import ahead
from expkit.system.units import format_size

_SPARE = 16 << 20
_HASH_BYTES = 1 << 20
_CARD = ".md"  # behind the name of a file
# What a folder that --force replaces may hold.
_OURS = (
    "README.md", "metadata.json", ".parquet", ".pq", ".arrow", ".feather", ".ipc", ".npz", ".hdf5", ".h5",
    ".csv", ".csv.gz", ".ndjson", ".jsonl", ".ndjson.gz", ".jsonl.gz",
)  # fmt: skip


def export(
    plan: ExportPlan,
    out: Path,
    options: ExportOptions | None = None,
    *,
    force: bool = False,
    card: bool = False,
    licence: str | None = None,
    threads: int = 2,
    on_rows: Callable[[int], None] | None = None,
    stop: Callable[[], bool] | None = None,
) -> Exported:
    """Write what `plan` says to `out`. The inputs are only read; killed at any moment, nothing is at `out` that was not
    there before, and another call removes what was left.

    out      a file; a folder of files when the plan is split or sharded, and of formats that write folders
    card     README.md, a dataset card, in the folder, or beside the file with `.md` behind its name
    threads  that read and decode beside the one that encodes
    on_rows  rows written since the last call;  stop: asked between batches; raises Stopped then

    Raises OutputExists, ShardError for damaged inputs, NoSpace, WriteFailed, MissingExtra, UsageError.
    """
    options = options or ExportOptions()
    check_compression(plan, options)
    with _Output(out, force=force) as output:
        free, need = free_bytes(output.path.parent), _SPARE
        if free < need:
            raise NoSpace(f"{out}: needs {format_size(need)}, {format_size(free)} are free on the disk; make room")
        writing = _Writing(plan, output.path, out, options, threads, on_rows, stop)
        with DiskErrors(out, "write the export"):
            done = writing.run()
            if card or getattr(plan.format, "card", None) is not None:
                text = dataset_card(plan, done, licence).encode()
                place = output.path / "README.md" if output.path.is_dir() else output.beside(_CARD)
                place.write_bytes(text)
        output.publish()
    return done


def check_compression(plan: ExportPlan, options: ExportOptions) -> None:
    """Raises UsageError for a compression that the format does not have."""
    known = plan.format.compressions
    if options.compression is not None and options.compression not in known:
        raise UsageError(f"{plan.format.name} has no compression {options.compression!r}; it has {', '.join(known)}")


class _Writing:
    """The writing of one export."""

    def __init__(
        self,
        plan: ExportPlan,
        path: Path,
        out: Path,
        options: ExportOptions,
        threads: int,
        on_rows: Callable[[int], None] | None,
        stop: Callable[[], bool] | None,
    ):
        self._plan, self._path, self._out = plan, path, out
        self._options, self._threads = options, threads
        self._on_rows, self._stop = on_rows, stop

    def run(self) -> Exported:
        plan, done = self._plan, Exported(self._out, self._plan.format.name)
        done.losses, done.notes = list(plan.losses), list(plan.notes)
        if isinstance(plan.format, FolderFormat):
            done.parts = [WrittenPart(part.name) for part in plan.parts]
            parts = [
                Part(part.name, part.head, self._counted(self._rows(part), written))
                for part, written in zip(plan.parts, done.parts, strict=True)
            ]
            plan.format.export_folder(parts, self._path, self._options, plan.asked.shards)
        else:
            done.parts = [self._part(part) for part in plan.parts]
        done.files = self._files()
        return done

    def _rows(self, part: PartPlan) -> Iterator[Batch]:
        plan = self._plan
        seed = plan.asked.shuffle
        if seed is None:
            by_player = bool(getattr(plan.format, "by_player", False))
            return batches(plan.sources, part, plan.asked, by_player=by_player, threads=self._threads)
        blocks = self._stoppable(stored_blocks(plan.sources, part, plan.asked))
        prefix = f"{self._path.name}.rows."
        return ahead(shuffled(blocks, part.head.schema, part.rows, seed, self._path.parent, prefix), 1)

    def _stoppable(self, blocks: Iterator[StoredRows]) -> Iterator[StoredRows]:
        for block in blocks:
            if self._stop is not None and self._stop():
                raise Stopped
            yield block

    def _counted(self, rows: Iterator[Batch], written: WrittenPart) -> Iterator[Batch]:
        known: set[int] = set()
        for batch in rows:
            if self._stop is not None and self._stop():
                raise Stopped
            rows_here = rows_of(batch)
            written.rows += rows_here
            written.last_rows += int(batch["is_last"].sum())
            known.update(set(batch["episode"].tolist()))
            written.episodes = len(known)
            yield batch
            if self._on_rows is not None:
                self._on_rows(rows_here)

    def _part(self, part: PartPlan) -> WrittenPart:
        """One output of a format that writes files."""
        plan, written = self._plan, WrittenPart(part.name)
        rows = self._counted(self._rows(part), written)
        suffix = _suffix(self._out, plan)
        if not plan.asked.shards:
            target = self._path
            if plan.asked.split:
                self._path.mkdir(exist_ok=True)
                target = self._path / f"{part.name}{suffix}"
            plan.format.export(rows, part.head, target, self._options)
            return written
        folder = self._path / part.name if plan.asked.split else self._path
        folder.mkdir(parents=True)
        cutter = Cutter(rows, plan.asked.shards)
        for number in count():
            head = part.head if number == 0 else part.head.without_episodes()
            target = folder / f"part-{number:05d}{suffix}"
            plan.format.export(cutter.shard(target), head, target, self._options)
            if not cutter.more():
                return written
        raise AssertionError("unreachable")

    def _files(self) -> list[WrittenFile]:
        """All files, each of which is synced to the disk."""
        out = []
        paths = sorted(self._path.rglob("*")) if self._path.is_dir() else [self._path]
        for path in paths:
            if path.is_file():
                final = self._out if path == self._path else self._out / path.relative_to(self._path)
                out.append(WrittenFile(final, path.stat().st_size, _digest(path)))
        return out


def _suffix(out: Path, plan: ExportPlan) -> str:
    """Of the files in a folder: that of the name asked for where it has one of the format's."""
    known = plan.format.suffixes or ("",)
    return next((suffix for suffix in known if out.name.lower().endswith(suffix)), known[0])


def _digest(path: Path) -> str:
    """SHA-256 of a file, which is synced to the disk before."""
    handle = disk().open_existing(path)
    try:
        disk().sync(handle)
    finally:
        os.close(handle)
    out = sha256()
    with open(path, "rb") as file:
        while data := file.read(_HASH_BYTES):
            out.update(data)
    return out.hexdigest()


class _Output:
    """A file or a folder that is there as a whole or not at all; a context manager around its writing."""

    def __init__(self, out: Path, *, force: bool):
        self._out = out
        check_output_path(out, force=force)
        # In front, so that what a format tells from the suffix stays the same.
        self.path = out.with_name(f".unfinished.{out.name}")
        self._old = out.with_name(f".replaced.{out.name}")

    def __enter__(self) -> _Output:
        with DiskErrors(self._out, "make it"):
            make_folder(self._out.parent)
            for left in self._out.parent.iterdir():  # by a killed call
                beside = (f"{self.path.name}.rows.", f".{self.path.name}.")
                if left in (self.path, self._old, self.beside(_CARD)) or left.name.startswith(beside):
                    remove_path(left)
        return self

    def __exit__(self, *_: object) -> None:
        with DiskErrors(self._out, "remove what is unfinished"):
            remove_path(self.path)
            remove_path(self.beside(_CARD))

    def beside(self, suffix: str) -> Path:
        """A further file, that gets the name of the output with `suffix` behind."""
        return self.path.with_name(self.path.name + suffix)

    def publish(self) -> None:
        with DiskErrors(self._out, "give it its name"):
            replaced = self._out.is_dir() or (os.path.lexists(self._out) and self.path.is_dir())
            if replaced:  # a file is replaced by the renaming itself
                disk().rename(self._out, self._old)
            disk().rename(self.path, self._out)
            if self.beside(_CARD).exists():
                disk().rename(self.beside(_CARD), self._out.with_name(self._out.name + _CARD))
            disk().sync_folder(self._out.parent)
            if replaced:
                remove_path(self._old)


def check_output_path(out: Path, *, force: bool) -> None:
    """Whether `out` may be made: nothing is there, or with `force` something that is no run. Raises OutputExists."""
    if not os.path.lexists(out):
        return
    if out.is_dir() and is_run(out):
        raise OutputExists(f"{out} is a run, which an export never replaces; choose another -o")
    if not force:
        raise OutputExists(f"{out} exists already; use --force to replace it, or choose another -o")
    if out.is_dir():
        odd = [path for path in out.rglob("*") if path.is_file() and not path.name.endswith(_OURS)]
        if odd:
            raise OutputExists(f"{out} holds what no export makes, like {odd[0]}; choose another -o")
