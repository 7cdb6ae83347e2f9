"""What can be kept of one damaged or unfinished shard.

`examine` reads every byte, decodes every block and goes on past each stretch of damage to the end of the file. It
holds a few blocks in memory, however large the file is.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from expkit.errors import NewerFormat, NotThere, ShardError
from expkit.formats.shard.blocks import BlockInfo, parse_head
from expkit.formats.shard.check import check_records
from expkit.formats.shard.digest import RowHasher
from expkit.formats.shard.layout import (
    KIND_BLOCK,
    KIND_DROPS,
    KIND_EPISODES,
    KIND_FOOTER,
    KIND_META,
    KIND_NAMES,
    Envelope,
    Finding,
    unpack_json,
)
from expkit.formats.shard.read import DropsRecord, EpisodesRecord, ShardReader, block_info
from expkit.formats.shard.records import Footer, RecordFile, open_shard
from expkit.recovery.salvage_block import NEEDED, BlockPlan, Columns, plan_block
from expkit.row.episodes import EpisodeEnd, EpisodeStart
from expkit.row.schema import Schema
from expkit.runs.entries import stranger
from expkit.runs.layout import ShardPath
from expkit.system.files import only_zeros
from expkit.system.parallel import cores, in_order
from expkit.validation.episode_rules import Segments, segments_of

Key = tuple[int, int]  # episode, player
# What a writer that was killed, or a seal that was, leaves at the end of an active file.
_OF_A_KILL = ("file/trailer", "file/footer")


@dataclass(frozen=True, slots=True)
class LostRows:
    """A stretch of rows that is not kept.

    block    place among the blocks of the damaged file, None where its head is gone
    player   None, as `rows`, where nothing tells whose and how many they were
    by_key   rows by (episode, player), as far as that is known
    """

    shard: str
    block: int | None
    player: int | None
    rows: int | None
    by_key: dict[Key, int]
    reason: str


@dataclass(frozen=True, slots=True)
class LostValues:
    """A column of a block whose rows are kept without it."""

    shard: str
    block: int
    player: int
    column: str
    rows: int
    episodes: tuple[int, ...]
    reason: str


@dataclass(frozen=True, slots=True)
class LostRecord:
    """A record of episodes, drops or notes that is not kept; `kind` is `unknown` where its head is gone."""

    shard: str
    kind: str
    offset: int
    reason: str


@dataclass(slots=True)
class Chain:
    """The rows of one (episode, player) that a shard keeps, in order.

    begins  its first row is there;  ended: its last one is, too
    last    how many are last rows;  flags: 1 terminated, 2 truncated, of the latest action
    """

    begins: bool
    rows: int = 0
    last: int = 0
    flags: int = -1
    ended: bool = False

    def extend(self, later: Chain) -> None:
        """Add rows that follow these."""
        self.rows += later.rows
        self.last += later.last
        self.flags = later.flags if later.flags >= 0 else self.flags
        self.ended = later.ended


@dataclass(slots=True)
class ShardSurvey:
    """What `examine` found in one file.

    opens        false where nothing of it can be read, or all that could be is gone
    stranger     why it does not belong where it lies, "" for one that does
    header       what the file says of itself, {} where that is lost with its copy
    closed       it has a sound footer
    findings     what is wrong, as `check_shard` names it;  tail: bytes of a record that was never finished
    plans        of its blocks, in order
    chains       rows that are kept, whether they count or not
    torn         damaged stretches of which nothing tells what they held
    keep_bytes   of the blocks that are kept, for an estimate of the new file
    """

    shard: ShardPath
    opens: bool = True
    stranger: str = ""
    header: dict[str, Any] = field(default_factory=dict)
    closed: bool = False
    nbytes: int = 0
    blocks: list[BlockInfo] = field(default_factory=list)
    plans: list[BlockPlan] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    tail: int = 0
    starts: list[EpisodeStart] = field(default_factory=list)
    ends: list[EpisodeEnd] = field(default_factory=list)
    metas: list[dict[str, Any]] = field(default_factory=list)
    drops: dict[int, Counter[str]] = field(default_factory=dict)
    chains: dict[Key, Chain] = field(default_factory=dict)
    lost_rows: list[LostRows] = field(default_factory=list)
    lost_values: list[LostValues] = field(default_factory=list)
    lost_records: list[LostRecord] = field(default_factory=list)
    torn: int = 0
    keep_bytes: int = 0

    @property
    def name(self) -> str:
        return self.shard.name

    @property
    def damaged(self) -> bool:
        """Whether a new file has to take its place. An active file without footer is unfinished, not damaged."""
        return bool(self.findings) or not (self.closed or self.shard.active)

    @property
    def rows_by_player(self) -> Counter[int]:
        """Rows that are kept."""
        out: Counter[int] = Counter()
        for (_, player), chain in self.chains.items():
            out[player] += chain.rows
        return out


def examine(
    shard: ShardPath,
    schema: Schema,
    threads: int = 0,
    progress: Callable[[int], None] | None = None,
    run: str = "",
) -> ShardSurvey:
    """Look at every byte of a shard file; changes nothing. `schema` serves where the file's own copies are lost. Of
    one that does not belong into the run of that id no more than that is told.

    Raises NewerFormat, and NotThere for one that is gone.
    """
    out = ShardSurvey(shard)
    try:
        out.nbytes = os.stat(shard.path).st_size
        reader = ShardReader(shard.path, schema=schema)
    except FileNotFoundError:
        raise NotThere(f"there is no shard {shard.path}") from None
    except NewerFormat:
        raise  # sound, and nothing that this program could repair
    except ShardError as error:
        if not (shard.active and not _any_byte(shard.path)):
            out.findings.append(Finding("error", "file/open", str(shard.path), None, None, None, str(error)))
        out.opens = False
        return out
    with reader:
        out.stranger = stranger(reader.header, shard, run)
        if out.stranger:
            out.findings.append(Finding("error", "file/stranger", str(shard.path), None, None, None, out.stranger))
            return out
        found = list(check_records(reader))
        out.findings = [f for f in found if f.severity == "error" and not (shard.active and f.rule in _OF_A_KILL)]
        out.header, out.closed = reader.header, reader.closed
        if out.findings or not out.closed:
            _walk(reader, out)
        else:
            out.starts, out.ends, out.metas = reader.episode_starts, reader.episode_ends, reader.metas
            for player, causes in reader.drops.items():
                out.drops[player] = Counter(causes)
        out.blocks = reader.blocks
        if reader.schema.columns:
            _plan_blocks(reader, out, threads or cores(), progress)
    return out


def _any_byte(path: Path) -> bool:
    """Whether anything but zeros was written."""
    with open(open_shard(path), "rb") as file:
        return not only_zeros(file.fileno())


def _walk(reader: ShardReader, out: ShardSurvey) -> None:
    """The records that are there, whatever the footer says, and what is missing by it."""
    blocks: list[BlockInfo] = []
    seen: set[int] = set()
    runs: Counter[Key] = Counter()
    file = RecordFile(reader.path, reader.schema)
    try:
        file.findings.clear()
        for envelope, head in file.walk():
            seen.add(envelope.offset)
            if envelope.kind == KIND_BLOCK:
                try:
                    parsed = parse_head(head, envelope.body_bytes, reader.schema)
                except ShardError as error:
                    out.lost_rows.append(LostRows(out.name, None, None, None, {}, str(error)))
                    continue
                blocks.append(block_info(len(blocks), envelope, parsed))
                for player, cause, rows in ((parsed.player, *drop) for drop in parsed.dropped.items()):
                    out.drops.setdefault(player, Counter())[cause] += rows
                for episode, _, rows, *_ in parsed.runs.tolist():
                    runs[episode, parsed.player] += rows
            elif envelope.kind != KIND_FOOTER:
                try:
                    _take(record_of(envelope, head, reader.path), out)
                except ShardError as error:
                    kind = KIND_NAMES.get(envelope.kind, "unknown")
                    out.lost_records.append(LostRecord(out.name, kind, envelope.offset, str(error)))
        gaps = sum(finding.rule == "file/record" for finding in file.findings)  # what stands again is no loss
        out.tail = 0 if out.closed else file.tail_bytes
    finally:
        file.close()
    reader.blocks = blocks
    missing = gaps + (1 if out.tail and not out.shard.active else 0)
    if file.footer is None:
        out.torn += missing
    else:
        _told_by_index(file.footer, seen, runs, out)


def _told_by_index(footer: Footer, seen: set[int], runs: Counter[Key], out: ShardSurvey) -> None:
    """Blocks and records that the index lists and that are not there any more."""
    for offset, kind in footer.records:
        if offset not in seen:
            name = KIND_NAMES.get(kind, "unknown")
            out.lost_records.append(LostRecord(out.name, name, offset, "its bytes are damaged"))
    gone = [BlockInfo(place, *row) for place, row in enumerate(footer.blocks) if row[0] not in seen]
    held = {(episode, player): rows for episode, player, rows, _ in footer.episodes}
    for player in sorted({block.player for block in gone}):
        mine = [block for block in gone if block.player == player]
        left = {key: rows - runs[key] for key, rows in held.items() if key[1] == player and rows > runs[key]}
        for block in mine:
            causes = out.drops.setdefault(player, Counter())
            causes.update(block.dropped)
            # Of several blocks the index gives the episodes of all together.
            told = {key: rows for key, rows in left.items() if block.episode_min <= key[0] <= block.episode_max}
            if len(mine) > 1:
                told = _share(left, block)
            reason = "its head is damaged; the index tells what it held"
            out.lost_rows.append(LostRows(out.name, None, player, block.rows, told, reason))


def _share(left: dict[Key, int], block: BlockInfo) -> dict[Key, int]:
    """So many of the rows `left`, which are taken off, as the block had, of episodes that it may have held."""
    out: dict[Key, int] = {}
    rows = block.rows
    for key in sorted(left):
        if block.episode_min <= key[0] <= block.episode_max and rows:
            out[key] = min(left[key], rows)
            rows -= out[key]
            left[key] -= out[key]
    return {key: count for key, count in out.items() if count}


Record = EpisodesRecord | DropsRecord | dict[str, Any]


def record_of(envelope: Envelope, head: bytes, path: str) -> Record | None:
    """A record of JSON by its kind, None for a kind that is not known. Raises ShardError."""
    what = f"{path}: {KIND_NAMES.get(envelope.kind, 'unknown')} record at {envelope.offset:,}"
    try:
        if envelope.kind == KIND_EPISODES:
            return msgspec.convert(unpack_json(envelope.flags, head, what), EpisodesRecord)
        if envelope.kind == KIND_DROPS:
            return msgspec.convert(unpack_json(envelope.flags, head, what), DropsRecord)
        if envelope.kind == KIND_META:
            tree: dict[str, Any] = unpack_json(envelope.flags, head, what)
            return tree
    except msgspec.ValidationError as error:
        raise ShardError(f"{what} does not read: {error}") from None
    return None


def _take(record: Record | None, out: ShardSurvey) -> None:
    if isinstance(record, EpisodesRecord):
        out.starts += record.starts
        out.ends += record.ends
    elif isinstance(record, DropsRecord):
        out.drops.setdefault(record.player, Counter()).update(record.causes)
    elif record is not None:
        out.metas.append(record)


def _plan_blocks(reader: ShardReader, out: ShardSurvey, threads: int, progress: Callable[[int], None] | None) -> None:
    hasher = RowHasher(reader.schema)

    def look(block: BlockInfo) -> tuple[BlockPlan, Segments | None]:
        plan, columns = plan_block(reader, block, hasher)
        return plan, None if plan.given_up else _segments(reader, block, columns)

    for block, (plan, segments) in zip(reader.blocks, in_order(look, reader.blocks, threads), strict=True):
        out.plans.append(plan)
        out.findings += plan.findings
        if plan.given_up:
            out.lost_rows.append(_given_up(reader, out.name, block, plan.given_up))
        else:
            out.keep_bytes += block.nbytes
            out.lost_values += _lost_values(reader, out.name, block, plan)
        if segments is not None:
            _chain(segments, out.chains)
        if progress is not None:
            progress(block.rows)


def _segments(reader: ShardReader, block: BlockInfo, columns: Columns) -> Segments | None:
    """Rows by episode. Where an earlier recovery lost even `is_last`, from the head alone."""
    if not columns.keys() >= {*NEEDED, "is_first"}:
        runs = reader.runs(block.index)
        zeros = {name: np.zeros(block.rows, bool) for name in ("is_first", "is_last")}
        episodes = np.repeat(runs["episode"], runs["rows"].astype(np.int64))
        keys = {"episode": episodes, "step": np.arange(block.rows, dtype=np.uint32)}
        columns = {**zeros, **keys, **columns}
    return segments_of("", block.index, block.player, columns, 1 << 16)


def _chain(segments: Segments, chains: dict[Key, Chain]) -> None:
    for place, episode in enumerate(segments.episode):
        ends = segments.ends[place]
        later = Chain(segments.begins[place], segments.rows[place], int(ends), segments.flags[place], ends)
        known = chains.get((episode, segments.player))
        if known is None:
            chains[episode, segments.player] = later
        else:
            known.extend(later)


def _given_up(reader: ShardReader, name: str, block: BlockInfo, reason: str) -> LostRows:
    by_key: Counter[Key] = Counter()
    try:
        for episode, _, rows, *_ in reader.runs(block.index).tolist():
            by_key[episode, block.player] += rows
    except ShardError:
        pass
    return LostRows(name, block.index, block.player, block.rows, dict(by_key), reason)


def _lost_values(reader: ShardReader, name: str, block: BlockInfo, plan: BlockPlan) -> Iterator[LostValues]:
    episodes = tuple(reader.runs(block.index)["episode"].tolist()) if plan.lost else ()
    for column in plan.lost:
        reasons = [finding.message for finding in plan.findings if finding.column == column]
        reason = reasons[0] if reasons else "damaged"
        yield LostValues(name, block.index, block.player, column, block.rows, episodes, reason)
