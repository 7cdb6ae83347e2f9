"""What can be kept of one block of a damaged shard.

A block is kept as it is where its columns pass their checksums and its rows their digest. A column that does not is
rebuilt where the block's head, which has a checksum of its own, proves what it was; else its values are lost and
the other columns stay. A block whose rows can no longer be told apart is given up.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from itertools import product

import numpy as np

from expkit.errors import ShardError
from expkit.formats.shard.blocks import BlockHead, BlockInfo, Entry, statistics_of
from expkit.formats.shard.check import check_block
from expkit.formats.shard.copy import copy_block, keys_of_runs
from expkit.formats.shard.digest import RowHasher, sum_by_run, zeros_for
from expkit.formats.shard.encode import BlockEncoder, EncodedBlock
from expkit.formats.shard.layout import Finding
from expkit.formats.shard.read import ShardReader
from expkit.kernels.bits import CONSTANT
from expkit.row.schema import Column

Columns = dict[str, np.ndarray]

# Without these nobody can say which rows a block holds: a block that lost one of them is given up.
NEEDED = ("episode", "step", "is_last")
# Where a flag can be true in a run of rows, besides nowhere. Each choice is proved by the run's own digest.
_PLACES = {
    "is_first": (None, 0),
    "is_last": (None, -1),
    "terminated": (None, -1, -2),
    "truncated": (None, -1, -2),
}


@dataclass(frozen=True, slots=True)
class BlockPlan:
    """What to do with the block at `index` of its reader's blocks.

    lost      columns whose values are lost now
    rebuilt   columns that are exactly as they were, though their bytes are not
    anew      the block is encoded again: for rebuilt columns, and for a head that tells wrong statistics or order
    given_up  why no row of it can be kept; "" when they are
    findings  what was wrong with it
    """

    index: int
    lost: tuple[str, ...] = ()
    rebuilt: tuple[str, ...] = ()
    anew: bool = False
    given_up: str = ""
    findings: tuple[Finding, ...] = ()


def plan_block(reader: ShardReader, block: BlockInfo, hasher: RowHasher) -> tuple[BlockPlan, Columns]:
    """Read and decode the block, and decide. Also its stored columns as they will be kept, all that there are of
    them; none for a block that is given up. Safe to call from several threads."""
    findings, found = check_block(reader, block, hasher)
    errors = tuple(finding for finding in findings if finding.severity == "error")
    if not errors:
        return BlockPlan(block.index), found
    try:
        return _mended(reader, block, hasher, errors, dict(found))
    except ShardError as error:
        return BlockPlan(block.index, given_up=str(error).split(": ", 1)[-1], findings=errors), {}


def _mended(
    reader: ShardReader, block: BlockInfo, hasher: RowHasher, errors: tuple[Finding, ...], found: Columns
) -> tuple[BlockPlan, Columns]:
    rules = {finding.rule for finding in errors}
    if "file/block" in rules:
        raise ShardError(errors[0].message)
    head, earlier = reader.head(block.index), reader.lost_columns(block.index)
    bad = {finding.column for finding in errors if finding.rule in ("file/checksum", "file/column")}
    doubted = {finding.column for finding in errors if finding.rule == "file/statistics"}
    if not bad:
        proof = _Proof(reader, head, hasher, earlier)
        if proof.holds(found) or proof.holds_in_all(found):  # the rows are right, what the head says of them is not
            return BlockPlan(block.index, anew=True, findings=errors), found
        if not doubted:
            raise ShardError("the rows do not have the digest that the block's head gives for them")
    elif "file/order" in rules:
        raise ShardError("the rows are not in the order that the block's head gives, and a column is damaged")
    gone = {name for name in bad | doubted if name is not None}
    for name in gone:
        found.pop(name, None)
    rebuilt = _rebuild(reader, head, hasher, earlier, gone, found)
    lost = tuple(name for name in reader.names if name in gone and name not in rebuilt)
    without = [name for name in NEEDED if name in lost or name in earlier]
    if without:
        raise ShardError(f"{' and '.join(without)} cannot be read, nor told from the block's head")
    found |= {name: rebuilt[name] for name in rebuilt}
    plan = BlockPlan(block.index, lost, tuple(rebuilt), bool(rebuilt), "", errors)
    return plan, {name: found[name] for name in reader.names if name in found}


class _Proof:
    """Compares rows with the digests in the block's head; columns lost `earlier` count as zeros."""

    def __init__(self, reader: ShardReader, head: BlockHead, hasher: RowHasher, earlier: Collection[str]):
        self._hasher = hasher
        self._head = head
        self._zeros = zeros_for(reader.schema, earlier, head.rows)
        self._first, self._rows = head.runs["first_row"], head.runs["rows"]

    def sums(self, columns: Columns) -> np.ndarray:
        """uint64 (runs,)."""
        return sum_by_run(self._hasher.rows(columns | self._zeros, self._head.player), self._first, self._rows)

    def agrees(self, columns: Columns) -> np.ndarray:
        """bool (runs,): each run of the rows is the one that was written."""
        return self.sums(columns) == self._head.runs["digest"]

    def holds(self, columns: Columns) -> bool:
        return bool(self.agrees(columns).all())

    def holds_in_all(self, columns: Columns) -> bool:
        """The rows are those that were written, though not cut into runs as the head says."""
        return bool(self.sums(columns).sum() == self._head.runs["digest"].sum())


def _rebuild(
    reader: ShardReader,
    head: BlockHead,
    hasher: RowHasher,
    earlier: Collection[str],
    gone: Collection[str],
    found: Columns,
) -> Columns:
    """Those of the columns `gone` that are known all the same. Where all can be had, the rows' digests prove them."""
    out: Columns = {}
    for column, entry in zip(reader.schema.columns, head.columns, strict=True):
        if column.name in gone:
            value = _constant(column, entry)
            if value is not None:
                out[column.name] = np.full(head.rows, value, column.dtype)
    keys = keys_of_runs(head.runs)
    out |= {name: keys[name] for name in ("episode", "step") if name in gone and name in keys and name not in out}
    left = [name for name in gone if name not in out]
    if not all(name in _PLACES for name in left):
        return out
    proof = _Proof(reader, head, hasher, earlier)
    flags = _guess_flags(proof, head, left, found | out)
    if flags is not None:
        return out | flags
    # The other columns prove what was rebuilt wrong; what the head says for certain is kept only without that proof.
    return {} if not left else out


def _constant(column: Column, entry: Entry) -> int | float | None:
    """The one value of all rows of a scalar column, if its statistics prove it. A zero that is a float has two forms,
    which compare equal."""
    told = statistics_of(column, entry)
    if column.items or told.low is None or told.has_nan or entry.low != entry.high:
        return None
    if column.dtype.kind == "f" and told.low == 0 and entry.filter != CONSTANT:
        return None
    return told.low


def _guess_flags(proof: _Proof, head: BlockHead, names: Collection[str], found: Columns) -> Columns | None:
    """The flags `names` (none: the rows as they are), placed run by run such that each run has its digest; None where
    one of them cannot have it."""
    first = head.runs["first_row"].astype(np.int64)
    rows = head.runs["rows"].astype(np.int64)
    settled = np.zeros(len(first), bool)
    out = {name: np.zeros(head.rows, bool) for name in names}
    for places in product(*(_PLACES[name] for name in names)):
        tried = {name: np.zeros(head.rows, bool) for name in names}
        for name, place in zip(names, places, strict=True):
            if place is not None:
                at = first + (place if place >= 0 else rows + place)
                tried[name][at[at >= first]] = True
        fits = proof.agrees(found | tried) & ~settled
        if fits.any():
            mine = np.repeat(fits, rows)
            for name in names:
                out[name][mine] = tried[name][mine]
            settled |= fits
        if settled.all():
            return out
    return None


def mend_block(
    reader: ShardReader, plan: BlockPlan, hasher: RowHasher, encoder: BlockEncoder
) -> tuple[EncodedBlock, BlockPlan]:
    """The block as `plan` keeps it, ready to be appended to another file. A column that can be read no more since it
    was planned is lost as well, as the plan that is returned says. Raises ShardError for a block that has to be given
    up."""
    block = reader.blocks[plan.index]
    if not plan.anew:
        try:
            return copy_block(reader, plan.index, plan.lost, hasher), plan
        except ShardError:
            pass  # it could be read a moment ago
    plan, columns = plan_block(reader, block, hasher)
    if plan.given_up:
        raise ShardError(plan.given_up)
    if not plan.anew:
        return copy_block(reader, plan.index, plan.lost, hasher), plan
    lost = [name for name in reader.names if name not in columns]
    return encoder.encode(block.player, columns, block.rows, reader.head(plan.index).dropped, lost), plan
