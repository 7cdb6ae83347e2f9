"""Programs that break a promise, and the test that has to notice.

A mutant replaces a piece of one function's source by another. `pytest -p mutants` with EXPKIT_MUTANT=NAME applies it
before any test runs, in the processes that tests start too. tests/faults/test_mutants.py shows of each that its test
fails with it and passes without. A test that meets the mutant only by chance, as those that kill at random moments do,
is not named where there is one that needs none.

| mutant | what is wrong | promise |
| --- | --- | --- |
| durable-in-memory | rows count as durable while they are in the buffers | kill |
| no-sync | flush does not wait for the disk | power |
| no-folder-sync | a published shard's name is not synced | power |
| last-block-cut | a block that ends where the file was cut is not whole | cut |
| index-unchecked | the checksum of the index is not compared | flip |
| column-unchecked | checksums of columns are not compared | flip |
| description-unchecked | the checksum of run.yaml is not compared | flip |
| forgets-drops | rows dropped are not counted | ledger |
| forgets-lost | a recovery does not tell the ledger what was lost | ledger |
| forgets-pruned | the next prune forgets what earlier ones took out | ledger |
| forgets-drops-of-retired | a rewrite does not carry over the drops of the shards it retires | ledger |
| forgets-filtered | rows left out by a condition are not told | ledger |
| forgets-counters | a recovery does not make the ledger again | ledger |
| counts-unfinished | a shard of a rewrite counts before it is published | maintenance |
| counts-twice | what is superseded counts still | maintenance |
| repairs-in-place | a recovery puts a repaired shard in place before all of it is written | maintenance |
| prunes-one-more | prune takes an episode more than it was told to | maintenance |
| loses-a-row | a rewrite writes each block without its last row | rewrite |
| compares-nothing | a rewrite does not compare its output with its sources | rewrite |
| keeps-a-torn-end | what a failed write left in a shard is not cut off | disk |
| syncs-after-failure | a file goes on after its sync failed | disk |
| flush-asks-the-ring | flush takes it that what is not in the rings any more was written | schedule |
| syncs-beside-a-failure | a sync begins while another one fails | disk |
| lists-nothing | a folder that cannot be listed counts as empty | read |
| reuses-names | a shard gets the name of one that was retired, and does not count | model |
| reads-half-blocks | a block counts before all of it is written | readers |
| sweeps-under-readers | rewritten shards go while somebody reads them | readers |
| unfolds-all | a frame may claim any size | hostile |
"""

from __future__ import annotations

import importlib
import inspect
import os
import textwrap
from collections.abc import Callable
from typing import Any, NamedTuple

VARIABLE = "EXPKIT_MUTANT"


class Mutant(NamedTuple):
    """`old` becomes `new` in the source of `where`, a `module:function` or `module:Class.method`. `test` fails then."""

    promise: str
    where: str
    old: str
    new: str
    test: str


MUTANTS = {
    "durable-in-memory": Mutant(
        "kill",
        "expkit.runs.write:RunWriter._raise_durable",
        "self.ledger.durable, mark, out",
        "self.ledger.durable, self.ledger.produced, out",
        "faults/test_kills.py::test_a_killed_recording_gives_back_what_was_durable",
    ),
    "no-sync": Mutant(
        "power",
        "expkit.runs.write:RunWriter._sync",
        "disk().sync(handle, data_only=True)",
        "pass",
        "faults/test_crashes.py::test_a_recording_survives_a_crash_after_any_operation",
    ),
    "no-folder-sync": Mutant(
        "power",
        "expkit.runs.write:RunWriter._begin_shard",
        "disk().sync_folder(path.parent)",
        "pass",
        "faults/test_crashes.py::test_a_recording_survives_a_crash_after_any_operation",
    ),
    "last-block-cut": Mutant(
        "cut",
        "expkit.formats.shard.records:RecordFile.record",
        "offset + parsed[0].nbytes > self.size",
        "offset + parsed[0].nbytes >= self.size",
        "faults/test_damage.py::test_a_cut_at_any_byte_gives_back_every_whole_block_before_it",
    ),
    "index-unchecked": Mutant(
        "flip",
        "expkit.formats.shard.records:RecordFile.record",
        "if crc32(head, crc32(fixed[:-4])) != parsed[1]:",
        "if parsed[0].kind != 5 and crc32(head, crc32(fixed[:-4])) != parsed[1]:",
        "faults/test_damage.py::test_flipped_bits_of_a_shard_are_noticed",
    ),
    "column-unchecked": Mutant(
        "flip",
        "expkit.formats.shard.blocks:verify_frames",
        "if checksum(piece) != crcs[place]:",
        "if False:",
        "faults/test_damage.py::test_flipped_bits_of_a_shard_are_noticed",
    ),
    "description-unchecked": Mutant(
        "flip",
        "expkit.runs.layout:read_run_info",
        "if sealed is not None and",
        "if False and",
        "faults/test_damage.py::test_flipped_bits_beside_the_shards_cost_no_row",
    ),
    "forgets-drops": Mutant(
        "ledger",
        "expkit.runs.counters:Ledger.drop",
        "+= rows",
        "+= 0",
        "faults/test_ledger.py::test_the_ledger_balances_under_overload",
    ),
    "forgets-lost": Mutant(
        "ledger",
        "expkit.runs.counters:Ledger.settle",
        "self.lost += np.maximum(missing, 0)",
        "pass",
        "recovery/test_recover.py::test_rows_that_a_killed_writer_never_wrote_are_acknowledged_in_the_counters",
    ),
    "forgets-pruned": Mutant(
        "ledger",
        "expkit.rewrite.generation:inherit",
        "out.removed = carried(",
        "out.removed = [] and carried(",
        "rewrite/test_compact.py::test_pruned_rows_and_their_accounts",
    ),
    "forgets-drops-of-retired": Mutant(
        "ledger",
        "expkit.rewrite.generation:inherit",
        "known[cause] = known.get(cause, 0) + rows",
        "pass",
        "faults/test_ledger.py::test_the_ledger_is_made_again_from_rewritten_shards",
    ),
    "forgets-filtered": Mutant(
        "ledger",
        "expkit.rewrite.engine:Work._finish",
        "{FILTERED: self.filtered.pop(plan.player, 0)}",
        "{FILTERED: 0 * self.filtered.pop(plan.player, 0)}",
        "faults/test_ledger.py::test_rows_that_a_rewrite_leaves_out_are_told",
    ),
    "forgets-counters": Mutant(
        "ledger",
        "expkit.recovery.ledger:restore_ledger",
        "if not survey.ledger_damage:",
        "if True:",
        "recovery/test_recover.py::test_what_stands_beside_the_shards_is_made_again",
    ),
    "counts-unfinished": Mutant(
        "maintenance",
        "expkit.runs.layout:list_shards",
        "(generation and not unfinished)",
        "(generation and False)",
        "rewrite/test_compact.py::test_it_may_die_before_any_of_its_operations",
    ),
    "counts-twice": Mutant(
        "maintenance",
        "expkit.runs.superseding:Superseding.hidden",
        "out |= layer.covers(episodes)",
        "pass",
        "runs/test_superseding.py::test_rewritten_episodes_count_once",
    ),
    "repairs-in-place": Mutant(
        "maintenance",
        "expkit.recovery.recover:_repair",
        "repaired = place.with_suffix(REPAIR_SUFFIX)",
        "repaired = place",
        "faults/test_kills_of_maintenance.py::test_maintenance_killed_at_any_moment[recover]",
    ),
    "prunes-one-more": Mutant(
        "maintenance",
        "expkit.rewrite.prune:_plan",
        "len(episodes), set(episodes)",
        "len(episodes), set(episodes[1:])",
        "faults/test_kills_of_maintenance.py::test_maintenance_killed_at_any_moment[prune]",
    ),
    "loses-a-row": Mutant(
        "rewrite",
        "expkit.rewrite.engine:Work._finish",
        "plan.player, rows, count, dropped",
        "plan.player, rows, count - 1, dropped",
        "faults/test_rewrites.py::test_no_wrong_rewrite_is_published",
    ),
    "compares-nothing": Mutant(
        "rewrite",
        "expkit.rewrite.prove:compare_sums",
        "if want != have:",
        "if False:",
        "faults/test_rewrites.py::test_no_wrong_rewrite_is_published",
    ),
    "keeps-a-torn-end": Mutant(
        "disk",
        "expkit.formats.shard.write:ShardWriter._write",
        "disk().truncate(self._fd, self.nbytes)",
        "return",
        "faults/test_damage.py::test_an_append_that_failed_leaves_nothing_of_it",
    ),
    "syncs-after-failure": Mutant(
        "disk",
        "expkit.runs.write:RunWriter._sync",
        "shard.distrust()",
        "pass",
        "faults/test_disk_errors.py::test_what_a_failed_sync_did_not_write_is_never_called_durable",
    ),
    "flush-asks-the-ring": Mutant(
        "schedule",
        "expkit.collect.background:BackgroundCollector._drain_partial",
        "with self._flush_lock:",
        "marks = None\n    with self._flush_lock:",
        "faults/test_schedules.py::test_no_order_of_threads_breaks_a_promise",
    ),
    "syncs-beside-a-failure": Mutant(
        "disk",
        "expkit.runs.write:RunWriter.sync",
        "with self._sync_lock:",
        "if True:",
        "faults/test_disk_errors.py::test_a_sync_that_failed_is_known_before_another_one_begins",
    ),
    "lists-nothing": Mutant(
        "read",
        "expkit.system.files:list_folder",
        'raise read_failed(path, "listed", error) from error',
        "return []",
        "faults/test_read_faults.py::test_a_listing_that_fails_takes_no_name_of_a_shard",
    ),
    "reuses-names": Mutant(
        "model",
        "expkit.runs.superseding:next_shard_number",
        "max([*retired, *(",
        "max([*(",
        "runs/test_superseding.py::test_a_retired_name_is_never_used_again",
    ),
    "reads-half-blocks": Mutant(
        "readers",
        "expkit.formats.shard.records:RecordFile.record",
        "offset + parsed[0].nbytes > self.size",
        "offset + ENVELOPE.size + parsed[0].head_bytes > self.size",
        "faults/test_damage.py::test_a_cut_at_any_byte_gives_back_every_whole_block_before_it",
    ),
    "sweeps-under-readers": Mutant(
        "readers",
        "expkit.rewrite.generation:sweep",
        "if lock is not None or shard.name in despite_readers",
        "if True",
        "runs/test_superseding.py::test_retired_shards_are_swept_when_nobody_reads",
    ),
    "unfolds-all": Mutant(
        "hostile",
        "expkit.formats.shard.blocks:ColumnPlan.sizes",
        "if not good:",
        "if False:",
        "formats/test_shard_damage.py::test_a_zip_bomb_is_refused_before_it_is_unpacked",
    ),
}


def apply(name: str) -> Callable[[], None]:
    """Put the mutant in the place of what it mutates, wherever that was imported to; gives what undoes it."""
    mutant = MUTANTS[name]
    module_name, _, path = mutant.where.partition(":")
    module = importlib.import_module(module_name)
    *outer, last = path.split(".")
    holder: Any = module
    for part in outer:
        holder = getattr(holder, part)
    original = inspect.unwrap(getattr(holder, last))
    source = textwrap.dedent(inspect.getsource(original))
    assert source.count(mutant.old) == 1, f"{name}: {mutant.old!r} stands {source.count(mutant.old)} times in {path}"
    made: dict[str, Any] = {}
    exec("from __future__ import annotations\n" + source.replace(mutant.old, mutant.new), module.__dict__, made)
    # The code alone: whoever imported the function has the mutant then, too.
    code, original.__code__ = original.__code__, made[last].__code__
    return lambda: setattr(original, "__code__", code)


def pytest_configure() -> None:
    apply_chosen()


def apply_chosen() -> None:
    """The one that the environment names, if it does."""
    if os.environ.get(VARIABLE):
        apply(os.environ[VARIABLE])
