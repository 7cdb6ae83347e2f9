"""Everything about a shard file that can be checked from the file alone, as a stream of findings.

Rules: file/open, file/version, file/header, file/schema, file/trailer, file/footer, file/record, file/tail,
file/sequence, file/block, file/checksum, file/column, file/index, file/order, file/statistics, file/digest,
file/lost-values, file/unknown-kind.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from os import PathLike

import numpy as np

from expkit.errors import NewerFormat, ShardError
from expkit.formats.shard.blocks import BlockHead, BlockInfo, parse_head
from expkit.formats.shard.digest import RowHasher, sum_by_run, zeros_for
from expkit.formats.shard.encode import statistics_of_values
from expkit.formats.shard.layout import KIND_BLOCK, KIND_FOOTER, Finding, Severity
from expkit.formats.shard.read import ShardReader, block_info
from expkit.formats.shard.records import RecordFile
from expkit.row.schema import Schema

_U64 = 0xFFFFFFFFFFFFFFFF


def check_shard(path: str | PathLike[str], deep: bool = True, schema: Schema | None = None) -> Iterator[Finding]:
    """Walk a file and give every finding; none means that every byte is accounted for and sound.

    Always: headers, records, their numbers, the index, the checksums of all column bytes. With `deep` the rows are
    decoded too, and their order, statistics and digests recomputed. What is in the file raises nothing; NotThere for
    a file that does not exist. `schema` serves when the file's own copies are lost.
    """
    try:
        reader = ShardReader(path, schema=schema)
    except ShardError as error:
        yield cannot_open(path, error)
        return
    with reader:
        yield from check_records(reader)
        hasher = RowHasher(reader.schema) if deep else None
        for block in reader.blocks:
            yield from check_block(reader, block, hasher, wanted=())[0]


def cannot_open(path: str | PathLike[str], error: ShardError) -> Finding:
    rule = "file/version" if isinstance(error, NewerFormat) else "file/open"
    return Finding("error", rule, str(path), None, None, None, str(error))


def check_records(reader: ShardReader) -> Iterator[Finding]:
    """Headers, records, their numbers and the index of an open file: everything but the columns of its blocks."""
    reader.load_records()
    told = list(reader.findings)
    yield from told
    yield from _walk_records(reader, {(finding.rule, finding.message) for finding in told})


def check_block(
    reader: ShardReader,
    block: BlockInfo,
    hasher: RowHasher | None,
    wanted: Collection[str] | None = None,
    extremes: dict[str, np.ndarray] | None = None,
    sums: np.ndarray | None = None,
) -> tuple[list[Finding], dict[str, np.ndarray]]:
    """Findings in one block's head and columns, and the stored columns that could be decoded. Without a hasher only
    checksums are compared and no column is decoded. Safe to call from several threads.

    wanted    columns that the caller needs, None for all. Others are checked all the same, but not given where that can
              be done without building their rows: columns of many bytes a row, which hardly change from row to row.
    extremes  filled in for those columns: the smallest and the largest value, as `ShardReader.sum_columns` gives them
    sums      uint64 (rows,), filled in with what those columns add to the sum of each row
    """
    try:
        head = reader.head(block.index)
    except ShardError as error:
        return [_finding(reader, "file/block", str(error).split(": ", 1)[-1], block)], {}
    if hasher is None:
        return list(_check_columns(reader, block, None)), {}
    findings: list[Finding] = []
    columns = _Columns(reader, block, hasher, wanted)
    try:
        columns.take(reader.names)
    except ShardError:
        columns = _Columns(reader, block, hasher, wanted)
        findings += _check_columns(reader, block, columns)
    findings += _check_rows(reader, block, head, columns)
    if extremes is not None:
        extremes |= columns.extremes
    if sums is not None:
        sums[:] = columns.sums
    return findings, columns.decoded


class _Columns:
    """What is taken of one block's columns: `decoded`, or only added to `sums`, and `extremes` of them kept."""

    def __init__(self, reader: ShardReader, block: BlockInfo, hasher: RowHasher, wanted: Collection[str] | None):
        self.decoded: dict[str, np.ndarray] = {}
        self.extremes: dict[str, np.ndarray] = {}
        self._reader = reader
        self._block = block
        self._hasher = hasher
        self.sums = np.zeros(block.rows, np.uint64)
        self._unwanted: set[str] = set()
        if wanted is not None:  # scalars have statistics to be compared, and cost next to nothing
            self._unwanted = {column.name for column in reader.schema.columns if column.items} - {*wanted}

    def take(self, names: Collection[str]) -> None:
        """Raises ShardError; the columns `names` are then missing."""
        unwanted = [name for name in names if name in self._unwanted]
        summed = self._reader.sum_columns(self._block.index, unwanted, self._hasher.keys, self.sums)
        self.decoded |= self._reader.read_block(self._block.index, [name for name in names if name not in summed])
        self.extremes |= summed

    def hashes(self, lost: Collection[str]) -> np.ndarray | None:
        """uint64 (rows,): of each row, `lost` columns as zeros; None where a column is missing."""
        if len(self.decoded) + len(self.extremes) + len(lost) < len(self._reader.names):
            return None
        columns = self.decoded | zeros_for(self._reader.schema, lost, self._block.rows)
        return self._hasher.rows(columns, self._block.player, self.sums, self.extremes)


def _finding(
    reader: ShardReader,
    rule: str,
    message: str,
    block: BlockInfo | None = None,
    column: str | None = None,
    severity: Severity = "error",
) -> Finding:
    place, player = (None, None) if block is None else (block.index, block.player)
    return Finding(severity, rule, reader.path, place, column, player, message)


def _walk_records(reader: ShardReader, told: set[tuple[str, str]]) -> Iterator[Finding]:
    """Records one after another: their numbers, nothing between them, and the index against them."""
    file = RecordFile(reader.path, reader.schema)
    try:
        blocks: list[BlockInfo] = []
        others: list[tuple[int, int]] = []
        sums: dict[tuple[int, int], tuple[int, int]] = {}
        following = 0
        for envelope, head in file.walk():
            if envelope.sequence != following:
                yield _finding(
                    reader,
                    "file/sequence",
                    f"record {envelope.sequence} at {envelope.offset:,} where record {following} was next",
                )
            following = envelope.sequence + 1
            if envelope.kind == KIND_BLOCK:
                try:
                    parsed = parse_head(head, envelope.body_bytes, reader.schema)
                except ShardError as error:
                    yield _finding(reader, "file/block", f"record at {envelope.offset:,}: {error}")
                    continue
                blocks.append(block_info(len(blocks), envelope, parsed))
                for episode, _, rows, _, _, digest in parsed.runs.tolist():
                    before = sums.get((episode, parsed.player), (0, 0))
                    sums[episode, parsed.player] = (before[0] + rows, (before[1] + digest) & _U64)
            elif envelope.kind != KIND_FOOTER:
                others.append((envelope.offset, envelope.kind))
        yield from (finding for finding in file.findings if (finding.rule, finding.message) not in told)
        reader.unreadable = reader.unreadable or file.unreadable
        if not reader.closed:
            if file.tail_bytes:
                yield _finding(
                    reader,
                    "file/tail",
                    f"the last {file.tail_bytes:,} bytes belong to a record that was not finished",
                    severity="warning",
                )
            return
        if blocks != reader.blocks:
            yield _finding(reader, "file/index", "the index in the footer does not list the blocks of the file")
        if sorted(others) != sorted(reader.indexed_records):
            yield _finding(reader, "file/index", "the index in the footer does not list the records of the file")
        if sums != reader.digests:
            yield _finding(reader, "file/index", "the digests in the footer are not those of the blocks")
        rows = sum(block.rows for block in blocks)
        if file.footer is not None and file.footer.rows != rows:
            yield _finding(reader, "file/index", f"the footer counts {file.footer.rows:,} rows, the blocks {rows:,}")
    finally:
        file.close()


def _check_columns(reader: ShardReader, block: BlockInfo, columns: _Columns | None) -> Iterator[Finding]:
    """Each column by itself, so that one that is lost hides no other; taken into `columns` when given."""
    lost = reader.lost_columns(block.index)
    for name in reader.names:
        if name in lost:
            message = f"{block.rows:,} values were lost to earlier damage; the rows have their other columns"
            yield _finding(reader, "file/lost-values", message, block, name, "warning")
            continue
        try:
            if columns is None:
                reader.verify_column(block.index, name)
            else:
                columns.take([name])
        except ShardError as error:
            message = str(error).split(": ", 1)[-1]
            yield _finding(reader, "file/checksum" if "checksum" in message else "file/column", message, block, name)


def _check_rows(reader: ShardReader, block: BlockInfo, head: BlockHead, columns: _Columns) -> Iterator[Finding]:
    """Order, runs, statistics and digests against the rows."""
    found = columns.decoded
    for column, entry in zip(reader.schema.columns, head.columns, strict=True):
        if column.items or column.name not in found:
            continue
        values = found[column.name]
        nulls = int(len(values) - np.count_nonzero(values)) if column.is_validity else 0
        stored = (entry.flags, entry.low, entry.high, entry.nulls)
        if (*statistics_of_values(values), nulls) != stored:
            yield _finding(
                reader, "file/statistics", "smallest and largest value are not those stored", block, column.name
            )
    if "episode" in found and "step" in found:
        episodes, steps, runs = found["episode"], found["step"], head.runs
        first = runs["first_row"].astype(np.int64)
        last = first + runs["rows"] - 1
        rising = (np.diff(runs["episode"]) > 0).all() if len(runs) > 1 else True
        same = np.array_equal(np.repeat(runs["episode"], runs["rows"]), episodes)
        ordered = (steps[1:] >= steps[:-1])[np.diff(episodes) == 0].all()
        edges = np.array_equal(steps[first], runs["first_step"]) and np.array_equal(steps[last], runs["last_step"])
        if not (rising and same and ordered and edges):
            yield _finding(reader, "file/order", "rows are not in the order the block's runs say", block)
    hashes = columns.hashes(reader.lost_columns(block.index))
    if hashes is None:
        return
    if not np.array_equal(sum_by_run(hashes, head.runs["first_row"], head.runs["rows"]), head.runs["digest"]):
        yield _finding(reader, "file/digest", "the digest of the rows is not the one stored", block)
