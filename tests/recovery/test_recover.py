"""`recover`: a damaged or unfinished run is valid again, nothing sound is lost, and what is lost is told exactly."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress

import msgspec
import numpy as np
import pytest
import warm_processes
from damaged_runs import TINY, QuickDisk, contents, missing, small_run, write_episode
from faults.disk import FaultyDisk
from patience import PATIENCE, wait_until
from places import ROOT
from written_runs import flip_bit

from expkit.errors import Busy, CheckFailed, ExpkitError, NotThere, OutputExists
from expkit.formats.shard import ShardReader, ShardWriter, copy_block
from expkit.formats.shard.layout import ENVELOPE
from expkit.reading.opening import open_run
from expkit.reading.summary import balance
from expkit.recovery import plan
from expkit.recovery.recover import plan_recovery, recover, recover_into
from expkit.rewrite.generation import Generation
from expkit.runs import manifest
from expkit.runs.counters import PAGE, read_ledger
from expkit.runs.layout import list_shards, read_run_info
from expkit.runs.locks import lock_writer, maintenance
from expkit.runs.superseding import ranges_of
from expkit.runs.write import RunWriter, shard_header
from expkit.system.files import using
from expkit.validation.validate import validate_run

EXPKIT = [sys.executable, "-m", "expkit.commands"]
SAMPLE = ROOT / "sample_data/damaged"
FIRST = "shards/w0/000000.exp"


def findings(path, severities=("error", "warn")):
    with open_run(path) as run:
        return [finding for finding in validate_run(run) if finding.severity in severities]


def ledger_holds(path):
    """The invariants of the ledger, per player, and nothing unexplained."""
    with open_run(path) as run:
        for player in balance(run):
            assert player.unexplained == 0
            assert player.produced == player.written + player.dropped_rows + player.rejected + player.lost
            assert player.present == player.written - player.pruned - player.quarantined
        assert run.state == "closed"
        return {player.player: player for player in balance(run)}


def digest_of(path):
    """Of names and bytes of everything in a folder."""
    found = hashlib.sha256()
    for file in sorted(path.rglob("*")):
        found.update(str(file.relative_to(path)).encode())
        if file.is_file():
            found.update(file.read_bytes())
    return found.hexdigest()


def whole_again(path, before, lost_rows=0, lost_values=0, report=None):
    """Recover `path`: what is left is what was, nothing to do a second time."""
    report = report or recover(path)
    assert report.findings == []
    rows, values, wrong = missing(before, contents(path))
    assert (len(rows), len(values), wrong) == (lost_rows, lost_values, [])
    assert report.rows_kept == len(before) - len(rows)
    again = recover(path)
    assert (again.anything_done, again.exit_code) == (False, 0)
    assert {finding.rule for finding in findings(path)} <= {"file/lost-values"}
    ledger_holds(path)
    return report


@pytest.fixture
def run(tmp_path):
    return small_run(tmp_path / "run")


def test_a_sound_run_is_not_touched(run):
    before = digest_of(run / "shards"), (run / "counters").read_bytes(), (run / "manifest.json").read_bytes()
    report = recover(run)
    assert (report.anything_done, report.exit_code, report.rows_kept, report.rows_lost) == (False, 0, 24, 0)
    assert before == (
        digest_of(run / "shards"), (run / "counters").read_bytes(), (run / "manifest.json").read_bytes(),
    )  # fmt: skip
    assert not (run / "quarantine").exists()


@pytest.mark.parametrize("gone", [("run.yaml",), ("manifest.json",), ("counters",), ("locks",),
                                  ("run.yaml", "manifest.json", "counters", "locks", "events.jsonl")])  # fmt: skip
@pytest.mark.parametrize("damage", ["gone", "garbled"])
@pytest.mark.parametrize("closed", [True, False])
def test_what_stands_beside_the_shards_is_made_again(tmp_path, gone, damage, closed):
    run = small_run(tmp_path / "run", close=closed, produced=3)
    before, info = contents(run), read_run_info(run)
    for name in gone:
        if name == "locks":
            shutil.rmtree(run / name)
        elif damage == "gone":
            (run / name).unlink(missing_ok=True)
        else:
            (run / name).write_bytes(b"\x00nonsense: [" * 3)
    report = whole_again(run, before)
    found = read_run_info(run)
    for name in ("id", "source", "schema", "players", "policies", "config", "seed"):
        assert getattr(found, name) == getattr(info, name)
    known = closed or "counters" not in gone
    assert report.rows_lost == (0 if closed or not known else 6)
    assert report.unaccountable is ("counters" in gone)
    assert set(report.rebuilt) >= {name for name in gone if name != "locks" and name != "events.jsonl"} - (
        set() if closed else {"manifest.json"}
    )
    counts = ledger_holds(run)
    assert {p: (c.produced, c.written, c.lost) for p, c in counts.items()} == (
        {0: (12, 12, 0), 1: (12, 12, 0)} if closed or not known else {0: (15, 12, 3), 1: (15, 12, 3)}
    )


def test_rows_that_a_killed_writer_never_wrote_are_acknowledged_in_the_counters(tmp_path):
    run = small_run(tmp_path / "run", close=False, produced=7)
    before = contents(run)
    report = whole_again(run, before)
    assert (report.exit_code, report.rows_lost, report.interrupted, report.sealed) == (3, 14, 1, ["w0/000000"])
    (section,) = read_ledger(run)
    assert section.state == "closed"
    assert [(p.produced, p.written, p.durable, p.lost) for p in section.players] == [(19, 12, 12, 7)] * 2
    with open_run(run) as opened:
        assert [episode.ended for episode in opened.episodes()] == ["terminated", "interrupted"]
        assert opened.find_episode(1).end.rows == {"0": 6, "1": 6}


@pytest.mark.parametrize("rotated", [False, True])
def test_an_episode_cut_by_a_kill_that_lost_no_row_is_interrupted(tmp_path, rotated):
    run = small_run(tmp_path / "run")
    writer = RunWriter(run, TINY, 2, writer=1)
    write_episode(writer, 1 << 48, np.random.default_rng(0), ends=False, first_rows=4)
    if rotated:
        writer.rotate()
    writer.abandon()
    report = whole_again(run, contents(run))
    assert (report.exit_code, report.rows_lost, report.interrupted) == (0, 0, 1)
    with open_run(run) as opened:
        end = opened.find_episode(1 << 48).end
        assert (end.ended, end.length, end.rows) == ("interrupted", 4, {"0": 4, "1": 4})


def test_rows_in_quarantine_are_counted_in_the_repaired_shard(run):
    before = contents(run)
    with ShardReader(run / FIRST) as reader:
        block = reader.blocks[2]
        episode = int(reader.runs(2)["episode"][0])
    flip_bit(run / FIRST, block.offset + ENVELOPE.size + 1)
    hurt = (run / FIRST).read_bytes()
    report = whole_again(run, before, lost_rows=block.rows)
    assert (report.exit_code, report.rows_lost, report.blocks_quarantined) == (3, block.rows, 1)
    assert report.players[block.player].episodes == [(episode, episode)]
    assert ledger_holds(run)[block.player].quarantined == block.rows
    assert (run / "quarantine/w0-000000.exp").read_bytes() == hurt
    told = json.loads((run / "quarantine/w0-000000.exp.json").read_bytes())
    assert told["rows"][0]["episodes"] == [{"episode": str(episode), "player": block.player, "rows": block.rows}]
    assert "file/record" in {finding["rule"] for finding in told["findings"]}
    with ShardReader(run / FIRST) as reader:
        assert reader.header["removed"] == [[0, block.player, 0, block.rows]]
    # Damaged again, the earlier file in quarantine stays, and both accounts add up.
    other = next(b for b in ShardReader(run / FIRST).blocks if b.player != block.player)
    flip_bit(run / FIRST, other.offset + ENVELOPE.size + 1)
    assert recover(run).rows_lost == other.rows
    assert sorted(p.name for p in (run / "quarantine").iterdir()) == [
        "w0-000000.exp", "w0-000000.exp.2", "w0-000000.exp.2.json", "w0-000000.exp.json",
    ]  # fmt: skip
    assert {p: c.quarantined for p, c in ledger_holds(run).items()} == {0: 6, 1: 6}


def test_lost_values_are_told_by_player_column_and_episode(run):
    before = contents(run)
    with ShardReader(run / FIRST) as reader:
        block, head = reader.blocks[1], reader.head(1)
        at = block.body_offset + head.body_at[head.first_frame[reader.names.index("board")]]
    flip_bit(run / FIRST, at)
    report = whole_again(run, before, lost_values=6)
    (lost,) = report.values
    assert (lost.player, lost.column, lost.values, lost.episodes) == (1, "board", 6, [(0, 0)])
    assert (report.rows_lost, report.exit_code) == (0, 3)


@pytest.mark.parametrize("known", [("manifest.json", "counters"), ("counters",), ("manifest.json",), ()])
def test_a_shard_that_is_gone_is_told_by_whatever_still_knows(tmp_path, known):
    run = small_run(tmp_path / "run", episodes=4, rotate=True)
    before = contents(run)
    shards = list_shards(run)
    assert len(shards) == 4
    with ShardReader(shards[1].path) as reader:
        gone = reader.rows_by_player
    shards[1].path.unlink()
    for name in {"manifest.json", "counters"} - set(known):
        (run / name).unlink()
    report = whole_again(run, before, lost_rows=sum(gone.values()))
    if not known:  # only the numbers of the other shards tell that one is gone
        gone = dict.fromkeys(gone, 0)
    assert (report.missing_shards, report.exit_code) == (["w0/000001"], 3)
    assert {player: losses.lost for player, losses in report.players.items()} == gone
    assert {player: counts.lost for player, counts in ledger_holds(run).items()} == gone


def test_end_records_tell_of_rows_that_neither_ledger_nor_manifest_know(tmp_path):
    """The first half of an episode is in a shard that is gone, its end record in the next one."""
    run = small_run(tmp_path / "run", episodes=1)
    with ShardReader(run / FIRST) as reader:
        header = {**reader.header, "shard": 1}
        with ShardWriter(run / "shards/w0/000001.exp", reader.schema, header) as writer:
            writer.append_episodes([msgspec.structs.replace(start, repeated=True) for start in reader.episode_starts])
            writer.append_block(copy_block(reader, 1))
            writer.append_episodes(ends=reader.episode_ends)
    for name in (FIRST, "manifest.json", "counters"):
        (run / name).unlink()
    report = recover(run)
    assert report.findings == []
    assert {player: losses.lost for player, losses in report.players.items()} == {0: 6, 1: 0}
    assert ledger_holds(run)[0].produced == 6


def test_lost_records_of_episodes_are_made_again(run):
    before = contents(run)
    with ShardReader(run / FIRST) as reader:
        records = reader.indexed_records
        end = next(end for end in reader.episode_ends if end.episode == 0)
    for offset, _ in records[:2]:  # the first episode's start, and its end
        flip_bit(run / FIRST, offset + ENVELOPE.size + 2)
    report = whole_again(run, before)
    assert [record.kind for record in report.records] == ["episodes"] * 2
    assert (report.starts_made, report.ended_by_rows, report.interrupted) == (1, 1, 0)
    with open_run(run) as opened:
        episode = opened.find_episode(0)
        assert episode.start.metadata == {"recovered": True}
        assert (episode.start.seeds, episode.start.players) == ({}, [0, 1])
        assert (episode.ended, episode.length, episode.rows) == ("terminated", end.length, {0: 6, 1: 6})


def test_episodes_left_open_by_a_writer_that_closed_are_ended_in_a_shard_of_their_own(run):
    writer = RunWriter(run, TINY, 2, writer=1)
    write_episode(writer, 1 << 48, np.random.default_rng(0), ends=False)
    writer.close()
    before = contents(run)
    report = whole_again(run, before)
    assert (report.ended_by_rows, report.exit_code) == (1, 0)
    with open_run(run) as opened:
        assert opened.find_episode(1 << 48).end.ended == "terminated"
        assert [shard.name for shard in opened.shard_paths] == ["w0/000000", "w1/000000", "w1/000001"]


@pytest.mark.parametrize("both", [False, True])
def test_a_lost_header_comes_from_the_footer_or_the_run(run, both):
    before = contents(run)
    with ShardReader(run / FIRST) as reader:
        header = reader.header
    data = (run / FIRST).read_bytes()
    cut = data[: -40 if both else len(data)]
    (run / FIRST).write_bytes(b"\xff" * 60 + cut[60:])
    whole_again(run, before)
    with ShardReader(run / FIRST) as reader:
        assert reader.closed
        assert reader.findings == []
        same = {"run", "writer", "shard", "players", "policies", "config", "schema"}
        assert {name: reader.header[name] for name in same} == {name: header[name] for name in same}


def test_a_number_that_was_taken_and_not_used_is_nothing_to_do(run):
    lock_writer(run, 1)[1].release()
    before = contents(run)
    assert not recover(run).anything_done
    (run / "counters").unlink()
    assert whole_again(run, before).rebuilt.keys() == {"counters"}
    assert [section.writer for section in read_ledger(run)] == [0]


def test_the_sample(tmp_path):
    run = tmp_path / "run"
    shutil.copytree(SAMPLE, run)
    assert expkit("recover", run).returncode == 3
    assert expkit("validate", run).returncode == 0
    assert expkit("recover", run).returncode == 0


def test_nothing_left_of_a_shard_or_a_run(tmp_path, run):
    before = contents(run)
    (run / FIRST).write_bytes(bytes(3000))
    report = whole_again(run, before, lost_rows=24)
    assert {player: losses.given_up for player, losses in report.players.items()} == {0: 12, 1: 12}
    with pytest.raises(NotThere):
        recover(tmp_path)
    bare = small_run(tmp_path / "bare")
    (bare / FIRST).write_bytes(bytes(3000))
    (bare / "run.yaml").unlink()
    with pytest.raises(CheckFailed, match="nothing can be recovered"):
        recover(bare)


def generation_of(run, **more):
    """The first episode rewritten by hand into a shard of generation 1, which has taken out 2 rows of another."""
    with open_run(run) as opened, Generation(run, opened.info, "test") as generation:
        shard = generation.begin(supersedes=ranges_of([0]), removed=[(0, 1, 2, 0)], **more)
        reader = opened.reader(0)
        shard.append_episodes([opened.find_episode(0).start])
        for block in reader.blocks[:2]:
            shard.append_block(copy_block(reader, block.index))
        shard.append_episodes(ends=[opened.find_episode(0).end])
        generation.publish()
    with open_run(run) as opened:
        return {player.player: player.pruned for player in balance(opened)}


def test_a_rewritten_shard_keeps_what_it_supersedes_and_accounts_for(run):
    small = contents(run)
    with using(QuickDisk()):
        generation_of(run)
    # The 2 rows that its header says were pruned were produced, too.
    with ShardReader(run / "shards/g1/000000.exp") as reader:
        block, header = reader.blocks[0], reader.header
    flip_bit(run / "shards/g1/000000.exp", block.offset + ENVELOPE.size + 1)
    report = recover(run)
    assert report.findings == []
    assert missing(small, contents(run))[0] == [(0, block.player, step) for step in range(6)]
    assert (report.rows_lost, report.repaired) == (6, ["g1/000000"])
    with ShardReader(run / "shards/g1/000000.exp") as reader:
        kept = {name: reader.header[name] for name in ("generation", "supersedes", "retires")}
        assert kept == {name: header[name] for name in kept}
        assert reader.header["removed"] == [[0, 0, 0, 6], [0, 1, 2, 0]]
    assert not recover(run).anything_done


def test_rows_that_no_longer_count_are_not_lost_twice(run):
    before = contents(run)
    with using(QuickDisk()):
        generation_of(run)
    with ShardReader(run / FIRST) as reader:
        block = reader.blocks[0]
    flip_bit(run / FIRST, block.offset + ENVELOPE.size + 1)
    report = recover(run)
    assert (report.findings, report.rows_lost, report.repaired) == ([], 0, ["w0/000000"])
    assert missing(before, contents(run)) == ([], [], [])


def test_retired_files_and_unfinished_ones_are_swept_unless_somebody_reads(run):
    with using(QuickDisk()):
        generation_of(run, retires=["w0/000009"])
    with ShardWriter(run / "shards/w0/000009.exp", TINY, shard_header(read_run_info(run), 9, writer=0)) as retired:
        retired.close()
    shutil.copy(run / FIRST, run / "shards/g1/000001.active")
    with open_run(run):
        assert recover(run).swept == 0
    assert recover(run).swept == 2
    assert not (run / "shards/w0/000009.exp").exists()
    assert not (run / "shards/g1/000001.active").exists()


def test_a_recorder_at_work_is_left_alone(run):
    recorder = RunWriter(run, TINY, 2, writer=1)
    rng = np.random.default_rng(0)
    write_episode(recorder, 1 << 48, rng)
    before = contents(run)
    with ShardReader(run / FIRST) as reader:
        flip_bit(run / FIRST, reader.blocks[0].offset + 9)
    active = (run / "shards/w1/000000.active").read_bytes()
    with pytest.raises(Busy, match=r"is being recorded \(w1\)"):
        recover(run)
    report = recover(run, force=True)
    assert report.recording == [1]
    assert report.findings == []
    assert (report.left_alone, report.repaired, report.rows_lost) == (["w1/000000"], ["w0/000000"], 6)
    assert (run / "shards/w1/000000.active").read_bytes() == active
    with pytest.raises(Busy, match="is being recorded"):
        recover_into(run, run.with_name("copy"))
    write_episode(recorder, 1 + (1 << 48), rng)
    recorder.close()
    rows, values, wrong = missing(before, contents(run))
    assert (len(rows), values, len(wrong)) == (6, [], 12)  # what was recorded since was not there before
    assert findings(run) == []
    ledger_holds(run)
    with maintenance(run), pytest.raises(Busy):
        recover(run)


@pytest.mark.parametrize("look", ["list_shards", "read_manifest"])
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_what_a_recorder_publishes_between_two_looks_is_not_lost(run, monkeypatch, look, after):
    recorder = RunWriter(run, TINY, 2, writer=1)
    rng, number, at_it = np.random.default_rng(0), 1 << 48, False
    real = getattr(manifest, look)

    def rotating(*args, **options):
        nonlocal number, at_it
        found = real(*args, **options) if after else None
        if number < 3 + (1 << 48) and not at_it:  # the recorder reads the manifest, too
            at_it = True
            write_episode(recorder, number, rng)
            number += 1
            recorder.rotate()
            at_it = False
        return found if after else real(*args, **options)

    monkeypatch.setattr(manifest, look, rotating)
    report = plan_recovery(run)
    assert number > 1 << 48
    assert (report.missing_shards, report.rows_lost, report.recording) == ([], 0, [1])
    recorder.close()


def test_a_recorder_that_begins_under_way_is_alive(run, monkeypatch):
    begun = []
    real = plan.known_writers

    def known(*args):
        if not begun:
            begun.append(RunWriter(run, TINY, 2, writer=1))
            write_episode(begun[0], 1 << 48, np.random.default_rng(0))
        return real(*args)

    monkeypatch.setattr(plan, "known_writers", known)
    report = plan_recovery(run)
    assert (report.recording, report.left_alone, report.rows_lost) == ([1], ["w1/000000"], 0)
    begun[0].close()


def test_into_a_new_folder_the_run_is_only_read(tmp_path, run):
    before = contents(run)
    flip_bit(run / FIRST, (run / FIRST).stat().st_size // 2)
    untouched, target = digest_of(run), tmp_path / "out"
    report = recover_into(run, target)
    assert digest_of(run) == untouched
    assert (report.findings, report.output) == ([], target)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "run"]
    rows, values, wrong = missing(before, contents(target))
    assert (len(rows), len(values), wrong) == (report.rows_lost, report.values_lost, [])
    assert findings(target, ("error",)) == []
    assert not recover(target).anything_done
    with pytest.raises(OutputExists):
        recover_into(run, target)
    with pytest.raises(OutputExists):
        recover_into(run, run, force=True)
    recover_into(run, target, force=True)
    assert findings(target, ("error",)) == []


@pytest.mark.parametrize("close", [True, False])
def test_a_dry_run_tells_the_same_and_writes_nothing(tmp_path, close):
    run = small_run(tmp_path / "run", close=close, produced=5)
    shard = list_shards(run)[0].path
    flip_bit(shard, shard.stat().st_size // 2)
    untouched = digest_of(run)
    planned = plan_recovery(run)
    assert digest_of(run) == untouched
    done = recover(run)
    for name in ("rows_kept", "rows_lost", "values_lost", "repaired", "sealed", "interrupted", "players", "values"):
        assert getattr(planned, name) == getattr(done, name), name
    assert 0 < planned.peak_bytes <= planned.write_bytes


def test_damage_before_the_torn_end_of_a_killed_file(tmp_path):
    run = small_run(tmp_path / "run", close=False, produced=2)
    active = run / "shards/w0/000000.active"
    before = contents(run)
    with ShardReader(active) as reader:
        block = reader.blocks[1]
    active.write_bytes(active.read_bytes() + b"\xabEXPREC\n torn")
    flip_bit(active, block.offset + 9)
    # No index tells whose the rows of that block were: the ledger misses them.
    report = whole_again(run, before, lost_rows=6)
    assert (report.rows_lost, report.unknown_stretches) == (10, 1)
    assert {p: (losses.missing, losses.never_durable) for p, losses in report.players.items()} == {0: (0, 2), 1: (6, 2)}
    assert [p.lost for p in read_ledger(run)[0].players] == [2, 8]


def test_a_damaged_section_of_the_ledger_is_counted_again(run):
    before = contents(run)
    flip_bit(run / "counters", PAGE + 64 + 3)
    assert {finding.rule for finding in findings(run)} >= {"ledger/damaged"}
    report = whole_again(run, before)
    assert report.unaccountable
    flip_bit(run / "counters", 9)
    report = whole_again(run, before)
    assert not report.unaccountable  # the sections behind the header are whole
    assert "counters" in report.rebuilt


def test_errors_that_are_left_are_never_ok(run):
    """Rows that break the rules of an episode are no damage that recovery can undo."""
    with ShardReader(run / FIRST) as reader, ShardWriter(run / "new.exp", reader.schema, reader.header) as writer:
        writer.append_episodes(reader.episode_starts)
        for block in reader.blocks:
            writer.append_block(copy_block(reader, block.index))
        writer.append_episodes(ends=[*reader.episode_ends])
        writer.append_block(copy_block(reader, 0))
    (run / "new.exp").rename(run / FIRST)
    report = recover(run)
    assert report.findings
    assert report.exit_code == 4
    target = run.with_name("out")
    assert recover_into(run, target).exit_code == 4
    assert not target.exists()


@pytest.mark.parametrize("fault", ["EIO", "torn-ENOSPC"])
def test_an_operation_that_fails_leaves_a_run_that_recovers(tmp_path, fault):
    """Each of the operations of a recovery goes wrong once: an error that is meant, and the next one finishes."""
    hurt, twin = small_run(tmp_path / "hurt", close=False, produced=2), tmp_path / "twin"
    with ShardReader(hurt / "shards/w0/000000.active") as reader:
        flip_bit(hurt / "shards/w0/000000.active", reader.blocks[1].body_offset)
    (hurt / "run.yaml").write_bytes(b"?")
    shutil.copytree(hurt, twin)
    quick = FaultyDisk(fault, -1, inner=QuickDisk())
    with using(quick):
        recover(twin, threads=1)
    wanted, counts = contents(twin), ledger_holds(twin)
    assert len(quick.seen) > 30
    for at in range(len(quick.seen)):
        run = tmp_path / "run"
        shutil.rmtree(run, ignore_errors=True)
        shutil.copytree(hurt, run)
        with using(FaultyDisk(fault, at, inner=QuickDisk())) as disk, suppress(ExpkitError):
            recover(run, threads=1)
        assert disk.struck, at
        with using(QuickDisk()):
            assert recover(run, threads=1).findings == [], (at, disk.seen[at])
        assert contents(run) == wanted, (at, disk.seen[at])
        assert ledger_holds(run) == counts, (at, disk.seen[at])


def expkit(*arguments, **options):
    return warm_processes.expkit(*arguments, environ={**os.environ, "EXPKIT_MIN_FREE": "0"}, **options)


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """A real recording of many shards, killed in the middle."""
    run = tmp_path_factory.mktemp("killed") / "run"
    command = [*EXPKIT, "record", "--forever", "-o", str(run), "-q", "--shard-rows", "4000", "--flush-interval", "50ms",
               "--size", "8x8", "--max-steps", "60"]  # fmt: skip
    recorder = subprocess.Popen(command, env={**os.environ, "EXPKIT_MIN_FREE": "0"}, stdout=subprocess.DEVNULL)
    try:
        wait_until(lambda: recorder.poll() is not None or len(list(run.glob("shards/w0/*.exp"))) >= 6)
    finally:
        recorder.kill()
        recorder.wait(PATIENCE)
    assert len(list(run.glob("shards/w0/*.exp"))) >= 6
    return run


def test_a_killed_recording(tmp_path, killed):
    run = tmp_path / "run"
    shutil.copytree(killed, run)
    before = contents(run)
    produced = sum(player.produced for player in read_ledger(run)[0].players)
    dropped = sum(player.dropped_rows for player in read_ledger(run)[0].players)
    lost = produced - dropped - len(before)  # none, once in a while: then everything had just been written
    assert expkit("validate", run).returncode == (3 if lost else 0)
    done = expkit("recover", run, "--json")
    body = json.loads(done.stdout)
    assert done.returncode == (3 if lost else 0), done.stderr
    assert body["schema"] == "expkit.recover/1"
    assert body["rows_kept"] == len(before)
    assert body["rows_lost"] == lost
    assert (body["values_lost"], body["blocks_quarantined"], body["output"]) == (0, 0, str(run))
    assert missing(before, contents(run)) == ([], [], [])
    checked = expkit("validate", run, "--json")
    assert checked.returncode == 0, checked.stdout
    again = expkit("recover", run)
    assert again.returncode == 0
    assert "nothing to do" in again.stdout


def damage_some(run, rng):
    """Flip a byte in the middle of three shards and cut a fourth."""
    shards = [shard.path for shard in list_shards(run) if not shard.active]
    for path in rng.choice(shards, 3, replace=False):
        flip_bit(path, int(rng.integers(path.stat().st_size)))
    last = shards[-1]
    last.write_bytes(last.read_bytes()[: last.stat().st_size * 3 // 4])


def kill_recoveries(killed, folder, kills, tell):
    rng = np.random.default_rng(kills)
    twin = folder / "twin"
    shutil.copytree(killed, twin)
    damage_some(twin, rng)
    hurt = folder / "hurt"
    shutil.copytree(twin, hurt)
    started = time.monotonic()
    told = json.loads(expkit("recover", twin, "--json").stdout)
    took = time.monotonic() - started
    wanted = contents(twin)
    assert not told["findings"]
    finished = 0
    for number in range(kills):
        run = folder / "run"
        shutil.rmtree(run, ignore_errors=True)
        shutil.copytree(hurt, run)
        for _ in range(3):
            process = subprocess.Popen([*EXPKIT, "recover", str(run), "-q"], stdout=subprocess.DEVNULL)
            try:
                # Most of the time goes into starting; the kill is to come while it works.
                process.wait(took * rng.uniform(0.3, 1.0))
                finished += 1
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                process.wait(PATIENCE)
        done = expkit("recover", run, "--json")
        body = json.loads(done.stdout)
        assert not body["findings"], number
        assert contents(run) == wanted, number
        counts = {p: (c.produced, c.written, c.lost, c.quarantined) for p, c in ledger_holds(run).items()}
        assert counts == {p: (c.produced, c.written, c.lost, c.quarantined) for p, c in ledger_holds(twin).items()}
        assert expkit("recover", run, "-q").returncode == 0
    tell(f"recover: killed {3 * kills - finished} times, 0 rows lost or doubled beyond the damage")


def test_a_recovery_can_be_killed_and_run_again(tmp_path, killed, tell):
    kill_recoveries(killed, tmp_path, 1, tell)


def test_the_command_says_what_was_lost(tmp_path, run):
    with ShardReader(run / FIRST) as reader:
        block, head = reader.blocks[1], reader.head(1)
        at = block.body_offset + head.body_at[head.first_frame[reader.names.index("board")]]
        flip_bit(run / FIRST, at)
        flip_bit(run / FIRST, reader.blocks[2].offset + 9)
    planned = expkit("recover", run, "--dry-run")
    assert planned.returncode == 0
    assert "rows 18 can be kept, 6 lost in damaged blocks (player 0, episode 1)" in planned.stdout
    assert "of temporary disk at most" in planned.stdout
    copied = expkit("recover", run, "-o", tmp_path / "out")
    assert (copied.returncode, copied.stderr.count("\n")) in ((3, 0), (3, 1)), copied.stderr  # slow ones say so
    done = expkit("recover", run, "-q")
    assert done.returncode == 3
    assert done.stdout == (
        "rows 18 kept, 6 lost in damaged blocks (player 0, episode 1) · 6 board values lost (player 1, episode 0)\n"
        "1 shard repaired · 1 block in quarantine/ · revalidated: ok   [exit 3]\n"
    )
    assert expkit("recover", run, "-o", tmp_path / "out").returncode == 2
    assert expkit("recover", tmp_path / "nowhere").returncode == 5
    assert expkit("recover", run / FIRST).returncode == 2


def test_a_block_that_stands_twice_in_a_file_is_read_once_and_taken_out(tmp_path):
    run = small_run(tmp_path / "run", close=False)
    before = contents(run)
    active = run / "shards/w0/000000.active"
    with ShardReader(active) as reader:
        block = reader.blocks[-1]
    data = active.read_bytes()
    active.write_bytes(data + data[block.offset : block.offset + block.nbytes])
    assert contents(run) == before
    with open_run(run) as opened:
        assert sum(len(batch["step"]) for batch in opened.scan(rows="all")) == len(opened)
        assert "file/sequence" in {finding.rule for finding in validate_run(opened)}
    report = recover(run)
    assert (report.findings, report.rows_lost, report.unknown_stretches) == ([], 0, 0)
    assert contents(run) == before
