"""Every byte of every shard file, block by block on several threads, and the rows of each block in the same pass: a
block is read and decoded once, for its checksums, statistics and digests and for the rules about rows. Wide columns
are not even decoded, unless a value in one of them breaks a bound.

Threads, because most of the work lets go of the GIL (zstd, crc32, the kernels): 2M rows of generals on two cores took
1.7 s with one thread, 1.4 with two, and 2.1 with two spawned processes, which import and open all they need first.
The order of findings is that of the files and blocks, whatever the number of threads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from expkit.errors import NotThere, ShardError
from expkit.formats.shard.blocks import BlockInfo
from expkit.formats.shard.check import cannot_open, check_block, check_records
from expkit.formats.shard.digest import RowHasher
from expkit.formats.shard.layout import Finding as FileFinding
from expkit.formats.shard.read import ShardReader
from expkit.row.schema import Schema
from expkit.runs.layout import SHARD_SUFFIX
from expkit.system.parallel import in_order
from expkit.validation.finding import Finding, Severity
from expkit.validation.glance import header_at_a_glance
from expkit.validation.row_rules import Columns, RowRules, Verdict


@dataclass(frozen=True, slots=True)
class FileToCheck:
    """A shard file. `rules` are None where its rows count for nothing.

    visible   which rows of a block count: True for all, None for none, else bool (rows,)
    spare     nothing in the file counts any more, so that what is wrong with it is no error
    stranger  what its header says against its place in the run, "" for nothing
    growing   its writer lives, so that an unfinished record at its end is no wonder
    """

    path: Path
    shard: str
    rules: RowRules | None = None
    visible: Callable[[ShardReader, BlockInfo], np.ndarray | bool | None] = lambda reader, block: True
    spare: bool = False
    growing: bool = False
    stranger: Callable[[Mapping[str, Any]], str] = lambda header: ""

    def open(self) -> ShardReader:
        """Under its published name, where it got that since. Raises NotThere, ShardError."""
        try:
            return ShardReader(self.path)
        except NotThere:
            if self.path.suffix == SHARD_SUFFIX:
                raise
            return ShardReader(self.path.with_suffix(SHARD_SUFFIX))

    def finding(self, found: FileFinding) -> Finding:
        """One of the file's own findings as one of the run's."""
        severity: Severity = "warn" if found.severity == "warning" else found.severity
        if found.rule == "file/tail":
            severity = "error" if self.path.suffix == SHARD_SUFFIX else "info" if self.growing else "warn"
        if self.spare and severity == "error":
            severity = "warn"
        return Finding(
            severity=severity,
            rule=found.rule,
            message=found.message,
            shard=self.shard,
            block=found.block,
            column=found.column,
            player=found.player,
        )

    def wrong(self, rule: str, message: str) -> Finding:
        return Finding(severity="warn" if self.spare else "error", rule=rule, shard=self.shard, message=message)


@dataclass(frozen=True, slots=True)
class Report:
    """What came of one piece of work: the records of a file, or one block.

    rows     rows looked at
    verdict  on the rows that count;  unread: the player whose rows could not be read
    """

    findings: list[Finding]
    rows: int = 0
    verdict: Verdict | None = None
    unread: int | None = None
    done_with: ShardReader | None = None


def check_files(files: Iterable[FileToCheck], threads: int) -> Iterator[Report]:
    """Every byte and every row of the files, in order. Nothing in a file makes this raise."""
    opened: set[ShardReader] = set()
    reports = in_order(lambda work: work(), _pieces(files, opened), threads)
    try:
        for report in reports:
            yield report
            if report.done_with is not None:
                opened.discard(report.done_with)
                report.done_with.close()
    finally:
        reports.close()  # waits for the threads
        for reader in opened:
            reader.close()


def _pieces(files: Iterable[FileToCheck], opened: set[ShardReader]) -> Iterator[Callable[[], Report]]:
    """The work, piece by piece: the records of a file, its blocks, and the word that its reader can be closed."""
    known: tuple[Schema, RowHasher] | None = None
    for file in files:
        yield partial(_records, file)
        try:
            reader = file.open()
        except (ShardError, NotThere, OSError):
            continue  # the piece before says why
        opened.add(reader)
        if known is None or known[0] != reader.schema:
            known = reader.schema, RowHasher(reader.schema)
        for block in reader.blocks:
            yield partial(_block, file, reader, block, known[1])
        yield partial(Report, [], done_with=reader)


def _records(file: FileToCheck) -> Report:
    """Everything but the blocks' columns. Reads by itself, so that it can go on beside them."""
    findings: list[Finding] = []
    try:
        with file.open() as reader:
            findings += map(file.finding, check_records(reader))
            cut = any(finding.rule == "file/tail" for finding in findings)
            if file.path.suffix == SHARD_SUFFIX and not reader.closed and not cut:
                message = "published, but its footer is gone: the file was cut short or damaged at its end"
                findings.append(file.wrong("file/footer", message))
            told = file.stranger(reader.header)
            if told:
                findings.append(file.wrong("file/stranger", f"{told}; recover sets it aside"))
            if file.rules is not None and reader.schema != file.rules.schema:
                findings.append(file.wrong("file/schema", "its schema is not that of the run; its rows are not judged"))
    except ShardError as error:
        findings.append(file.finding(cannot_open(file.path, error)))
    except (NotThere, OSError) as error:
        if not file.spare:  # deleted by a sweep since we looked
            findings.append(file.wrong("file/unreadable", str(error)))
    return Report(findings)


def _block(file: FileToCheck, reader: ShardReader, block: BlockInfo, hasher: RowHasher) -> Report:
    extremes: dict[str, np.ndarray] = {}
    sums = np.zeros(block.rows, np.uint64)
    wanted = () if file.rules is None else file.rules.wanted
    found, decoded = check_block(reader, block, hasher, wanted, extremes, sums)
    findings = list(map(file.finding, found))
    visible = None if file.rules is None else file.visible(reader, block)
    if file.rules is None or visible is None:
        return Report(findings, block.rows)
    if reader.schema != file.rules.schema:
        return Report(findings, block.rows, unread=block.player)
    keep = visible if isinstance(visible, np.ndarray) else None
    for name in file.rules.doubtful(extremes):
        try:
            decoded |= reader.read_block(block.index, [name])
        except ShardError as error:  # it could be read a moment ago
            findings.append(file.wrong("file/unreadable", str(error)))
    verdict = file.rules.judge(file.shard, block, Columns(decoded, extremes, sums), keep, hasher)
    unread = None if verdict.segments is not None else block.player
    return Report(findings + verdict.findings, block.rows, verdict, unread)


def check_records_only(file: FileToCheck) -> Iterator[Finding]:
    """Header, footer, records and the index, and the checksums of columns where one of those is wrong: a file that is
    content at a glance is not looked at any further."""
    header = header_at_a_glance(file.path)
    if header is not None:
        told = file.stranger(header)
        if told:
            yield file.wrong("file/stranger", f"{told}; recover sets it aside")
        return
    yield from _records(file).findings
    try:
        with file.open() as reader:
            for block in reader.blocks:
                yield from map(file.finding, check_block(reader, block, None)[0])
    except (ShardError, NotThere, OSError):
        return  # told already
