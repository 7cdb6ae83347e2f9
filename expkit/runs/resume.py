"""Goes on with a run after a stop or a crash.

A recorder that was killed leaves its last shard under the name of an active one and its section of the ledger open.
Before its number is used again `close_dead_writer` brings both to what a clean stop leaves: the episodes that were
open get an end record that says they were cut, the shard its footer and published name, and rows that were produced
and are in no file are acknowledged as lost. Each step may be the last one before the next kill: done again, it goes
on from what it finds.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np

from expkit.errors import Busy, CheckFailed, NewerFormat, NotThere, OutputExists, ShardError, quoted
from expkit.formats.shard.layout import FILE_HEADER, MAX_JSON, RECORD_MAGIC
from expkit.formats.shard.read import ShardReader
from expkit.formats.shard.seal import seal_shard
from expkit.formats.shard.write import ShardWriter
from expkit.row.episodes import WRITER_BITS, EpisodeEnd, episode_number
from expkit.runs.counters import Ledger, WriterLedger, read_ledger
from expkit.runs.entries import stranger
from expkit.runs.layout import (
    LOCKS_DIR,
    RUN_FILE,
    SHARD_SUFFIX,
    SHARDS_DIR,
    RunInfo,
    ShardPath,
    list_shards,
    log_event,
    read_run_info,
    refuse_strange_entries,
    shard_file,
)
from expkit.runs.locks import Lock, ReaderLock, taking_turns
from expkit.runs.manifest import read_manifest, update_manifest
from expkit.runs.superseding import claim_writer, next_shard_number, removed_rows, shards_of, superseded_by
from expkit.runs.write import check_output, make_run, shard_header
from expkit.system.files import DiskErrors, disk, list_folder, make_folder, publish, read_to_end, remove_tree

# A file without a whole record that is longer than a header can be is looked at by recovery, not thrown away.
_LONGEST_HEADER = FILE_HEADER.size + MAX_JSON
# Shards may be pruned while they are counted; the next look finds the account of that.
_LOOKS = 5
_T = TypeVar("_T")


def begin_run(run: Path, info: RunInfo) -> RunInfo:
    """The description of the run at `run`, which is made from `info` when nothing is there; also when several
    recorders begin at the same moment, or making it was cut short before. Raises OutputExists, CheckFailed, NoSpace."""
    check_resumable(run)
    refuse_strange_entries(run)
    with DiskErrors(run, "make the run"):
        make_folder(run)
    with taking_turns(run, "create"):
        if not is_begun(run):
            make_run(run, info)
        return read_run_info(run)


def check_resumable(run: Path) -> None:
    """Whether `run` is a run, or may become one. Raises OutputExists for a folder of something else, CheckFailed."""
    if is_begun(run):
        return
    try:
        check_output(run)
    except OutputExists:
        # Looked at once more, last: another recorder may have begun it between two looks.
        if not _is_unfinished(run) and not is_begun(run):
            raise


def is_begun(run: Path) -> bool:
    """Whether a run is there to go on with. Raises CheckFailed for shards without a description."""
    if (run / RUN_FILE).exists():
        return True
    if list_shards(run) and not (run / RUN_FILE).exists():  # which comes before the first shard
        raise CheckFailed(f"{run}: there are shards but no {RUN_FILE}; run expkit recover {quoted(run)} first")
    return False


def _is_unfinished(run: Path) -> bool:
    """A folder with nothing but the beginnings of a run: whoever made it was stopped before it had a description."""
    names = list_folder(run)
    return bool(names) and all(
        name in (SHARDS_DIR, LOCKS_DIR) or (name.startswith(f".{RUN_FILE}.") and name.endswith(".tmp"))
        for name in names
    )


class Taken(NamedTuple):
    """A writer to go on as. `held` is for `RunWriter(writer=…)`; `next_episode` the counter of its next episode."""

    held: tuple[int, Lock]
    next_episode: int


def take_writer(run: Path, writer: int | None = None, *, join: bool = False) -> Taken:
    """Lock the writer to go on as, and close what it left if it died: `writer`, or the lowest that nobody is, or one
    more where all are alive. `join` takes a number that nobody used before.

    Raises Busy when `writer` is alive; CheckFailed when what is there needs recovery first.
    """
    if list_shards(run) and _ledger(run) is None:
        raise CheckFailed(
            f"{run}: the ledger is gone, so losses cannot be told; run expkit recover {quoted(run)} first"
        )
    number, lock = _lock_lowest(run) if writer is None and not join else claim_writer(run, writer)
    try:
        close_dead_writer(run, number)
        return Taken((number, lock), next_episode(run, number))
    except BaseException:
        lock.release()
        raise


def _lock_lowest(run: Path) -> tuple[int, Lock]:
    for number in _known_writers(run):
        with suppress(Busy):
            return claim_writer(run, number)
    return claim_writer(run)


def _known_writers(run: Path) -> list[int]:
    """Numbers that were used: by a lock, a shard or a section of the ledger."""
    numbers = {shard.writer for shard in list_shards(run) if shard.writer is not None}
    numbers |= {section.writer for section in _ledger(run) or []}
    numbers |= {int(name[1:]) for name in list_folder(run / LOCKS_DIR) if name[0] == "w" and name[1:].isdigit()}
    return sorted(numbers)


def close_dead_writer(run: Path, writer: int) -> bool:
    """Bring what a killed writer left to the state of a clean stop; False when there was nothing to do.

    The caller holds the writer's lock. May be killed anywhere and repeated. Raises CheckFailed when the ledger or a
    shard is damaged in a way that a kill does not explain: then nothing has been changed.
    """
    info = read_run_info(run)
    section = next((one for one in _ledger(run) or [] if one.writer == writer), None)
    if section is None:
        if any(shard.writer == writer for shard in list_shards(run)):
            raise CheckFailed(f"{run}: writer w{writer} has no ledger; run expkit recover {quoted(run)} first")
        return False
    if section.damaged:
        raise CheckFailed(f"{run}: the ledger of writer w{writer} is damaged; run expkit recover {quoted(run)} first")
    _remove_empty(run, writer)
    active = [shard for shard in list_shards(run) if shard.writer == writer and shard.active]
    if section.state == "closed" and not active:
        _list_published(run, info.id, writer)
        return False
    ends = _looking(run, lambda: _ends_of_cut(run, writer))
    left = ends
    for shard in active:
        left = _publish_left(run, info.id, shard, left)
    if left:
        _publish_ends(run, info, writer, left)
    _list_published(run, info.id, writer)
    rows = _looking(run, lambda: _rows_in_files(run, writer, len(info.players)))
    lost = _settle(run, writer, rows)
    spilled = run / f"spill-w{writer}"
    if spilled.is_dir():
        with DiskErrors(spilled, "remove it"):
            remove_tree(spilled)  # scratch space of a process that is gone; its rows are counted as lost
    log_event(run, "closed-dead", writer=writer, cut_episodes=len(ends), lost_rows=lost)
    return True


def next_episode(run: Path, writer: int) -> int:
    """The counter that the writer's next episode gets: above all that a start, an end, a row or the header of a
    rewritten shard tells of. Looks at every shard's index and records, and at no row. Raises CheckFailed."""
    return _looking(run, lambda: 1 + max(_told_of(run, writer), default=-1))


def _told_of(run: Path, writer: int) -> Iterator[int]:
    """Counters of the writer's episodes, the highest of each shard at least."""
    known = read_run_info(run).id
    for shard in list_shards(run):
        if shard.writer not in (None, writer):
            continue
        with _opened(run, shard, known) as reader:
            numbers = [episode for episode, _ in reader.digests]
            numbers += [start.episode for start in reader.episode_starts]
            numbers += [end.episode for end in reader.episode_ends]
            if shard.generation:
                numbers += [last for _, last in superseded_by(reader)]
            _refuse_damaged(run, shard, reader)
        yield from (number - episode_number(writer, 0) for number in numbers if number >> WRITER_BITS == writer)


@contextmanager
def _opened(run: Path, shard: ShardPath, known: str) -> Iterator[ShardReader]:
    """Raises CheckFailed for a shard that cannot be read as a whole or is not of the run of that id, NotThere for one
    that is gone."""
    try:
        with ShardReader(shard.path) as reader:
            told = stranger(reader.header, shard, known)
            if told:
                raise ShardError(f"{reader.path}: {told}")
            _refuse_damaged(run, shard, reader)
            yield reader
    except NewerFormat:
        raise
    except ShardError as error:
        raise CheckFailed(f"{error}; run expkit recover {quoted(run)} first") from None


def _refuse_damaged(run: Path, shard: ShardPath, reader: ShardReader) -> None:
    """Where records are missing nobody can tell which episodes were begun. A footer half written is no damage."""
    unfinished = ("file/footer", "file/trailer") if shard.active else ()
    errors = [one for one in reader.findings if one.severity == "error" and one.rule not in unfinished]
    found = errors[0] if errors else None
    if found is not None:
        raise CheckFailed(f"{reader.path}: {found.message}; run expkit recover {quoted(run)} first")


def _looking(run: Path, look: Callable[[], _T]) -> _T:
    """The result of `look`, which reads shards. Those that a rewrite replaced stay until it is done."""
    readers = ReaderLock(run)
    readers.renew()
    try:
        for _ in range(_LOOKS - 1):
            with suppress(NotThere):
                return look()
        return look()
    finally:
        readers.release()


def _ledger(run: Path) -> list[WriterLedger] | None:
    try:
        return read_ledger(run)
    except CheckFailed as error:
        raise CheckFailed(f"{error}; run expkit recover {quoted(run)} first") from None


def _remove_empty(run: Path, writer: int) -> None:
    """Remove active files in which no record was begun: their writer was stopped at the header."""
    for shard in list_shards(run):
        if shard.writer == writer and shard.active and _is_empty(shard.path):
            _remove(shard)


def _remove(shard: ShardPath) -> None:
    with DiskErrors(shard.path, "remove it"):
        disk().unlink(shard.path)
        disk().sync_folder(shard.path.parent)


def _is_empty(path: Path) -> bool:
    if path.stat().st_size > _LONGEST_HEADER:
        return False
    return RECORD_MAGIC not in read_to_end(path, path.parents[2], _LONGEST_HEADER)


@dataclass(slots=True)
class _Cut:
    """An episode that was open: rows by player, and how many of them are last rows."""

    rows: Counter[int] = field(default_factory=Counter)
    last: Counter[int] = field(default_factory=Counter)

    def end(self, episode: int) -> EpisodeEnd:
        length = max((rows - self.last[player] for player, rows in self.rows.items()), default=0)
        rows = {str(player): rows for player, rows in sorted(self.rows.items())}
        return EpisodeEnd(episode, time.time_ns(), "interrupted", length, rows=rows, cut=True)


def _ends_of_cut(run: Path, writer: int) -> list[EpisodeEnd]:
    """End records for the episodes that were open when the writer died, with the rows that the files hold."""
    cut = {episode: _Cut() for episode in _open_episodes(run, writer)}
    if not cut:
        return []
    wanted = np.array(sorted(cut), np.uint64)
    for reader, hidden in _counting(run, writer):
        if cut.keys().isdisjoint(episode for episode, _ in reader.digests):
            continue
        for block in reader.blocks:
            runs = reader.runs(block.index)
            for segment in runs[np.isin(runs["episode"], wanted) & ~hidden(runs["episode"])]:
                one, first, rows = cut[int(segment["episode"])], int(segment["first_row"]), int(segment["rows"])
                one.rows[block.player] += rows
                one.last[block.player] += _last_rows(reader, block.index, slice(first, first + rows))
    return [one.end(episode) for episode, one in sorted(cut.items())]


def _last_rows(reader: ShardReader, block: int, rows: slice) -> int:
    with suppress(ShardError):
        if reader.statistics(block)["is_last"].high:
            return int(reader.read_block(block, ["is_last"], rows)["is_last"].sum())
    return 0


def _open_episodes(run: Path, writer: int) -> set[int]:
    """Episodes begun and not ended. A shard begins with those that were open then, so the newest ones tell of all."""
    own = [shard for shard in list_shards(run) if shard.writer == writer]
    newest = [*[shard for shard in own if not shard.active][-1:], *[shard for shard in own if shard.active]]
    begun: set[int] = set()
    ended: set[int] = set()
    known = read_run_info(run).id
    for shard in newest:
        with _opened(run, shard, known) as reader:
            begun.update(start.episode for start in reader.episode_starts)
            # What a seal added before it was killed, it will drop and add anew.
            ended.update(end.episode for end in reader.episode_ends if reader.closed or not end.cut)
            _refuse_damaged(run, shard, reader)
    return begun - ended


def _counting(run: Path, writer: int) -> Iterator[tuple[ShardReader, Callable[[np.ndarray], np.ndarray]]]:
    """The shards that may hold rows of the writer, each with a function that says of episodes (u64) whether their
    rows in it do not count."""
    known = read_run_info(run).id
    shards, superseding = shards_of(known, list_shards(run))
    for shard in shards:
        if shard.writer in (None, writer):
            with _opened(run, shard, known) as reader:
                yield reader, partial(superseding.hidden, shard.generation)


def _rows_in_files(run: Path, writer: int, players: int) -> np.ndarray:
    """int64 (players,): the writer's rows that are there, and those that maintenance took out and has told of."""
    totals = np.zeros(players, np.int64)
    for reader, hidden in _counting(run, writer):
        for owner, player, pruned, quarantined in removed_rows(reader.header):
            if owner == writer:
                totals[player] += pruned + quarantined
        if not reader.digests:
            continue
        table = np.array([(*key, rows) for key, (rows, _) in reader.digests.items()], np.uint64)
        episode, player, rows = table.T
        mine = (episode >> np.uint64(WRITER_BITS) == writer) & ~hidden(episode)
        np.add.at(totals, player[mine].astype(np.int64), rows[mine].astype(np.int64))
    return totals


def _publish_left(run: Path, known: str, shard: ShardPath, ends: Sequence[EpisodeEnd]) -> list[EpisodeEnd]:
    """Close an active shard and give it its published name, or remove it when nothing is in it. Returns the ends that
    found no place in it, because it was closed before."""
    with _opened(run, shard, known) as reader:
        closed = reader.closed
    if not closed:
        try:
            sealed = seal_shard(shard.path, ends=ends)
        except ShardError as error:
            raise CheckFailed(f"{error}: expkit recover {quoted(run)}") from None
        if sealed.empty:
            _remove(shard)
            return list(ends)
    published = shard.path.with_suffix(SHARD_SUFFIX)
    with DiskErrors(run, "publish a shard"):
        publish(shard.path, published)
        disk().sync_folder(published.parent)
    return list(ends) if closed else []


def _publish_ends(run: Path, info: RunInfo, writer: int, ends: Sequence[EpisodeEnd]) -> None:
    """A shard of its own for ends that no other can take."""
    number = next_shard_number(run, writer)
    path = shard_file(run, writer, number, active=True)
    with ShardWriter(path, info.schema, shard_header(info, number, writer=writer)) as shard:
        shard.append_episodes((), ends)
    with DiskErrors(run, "publish a shard"):
        publish(path, path.with_suffix(SHARD_SUFFIX))
        disk().sync_folder(path.parent)


def _list_published(run: Path, known: str, writer: int) -> None:
    """Enter in the manifest what was published in the moment before a kill."""
    listed = read_manifest(run)
    for shard in list_shards(run):
        if shard.writer == writer and not shard.active and shard.name not in listed:
            with suppress(NotThere), _opened(run, shard, known) as reader:
                update_manifest(run, {shard.name: reader})


def _settle(run: Path, writer: int, rows: np.ndarray) -> int:
    """Close the writer's section of the ledger, balanced; returns how many rows that adds to the lost ones."""
    ledger = Ledger(run, writer, len(rows))
    before = int(ledger.lost.sum())
    ledger.settle(rows)
    ledger.close()
    return int(ledger.lost.sum()) - before
