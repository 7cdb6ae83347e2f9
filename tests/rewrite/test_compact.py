"""Compacting: fewer, smaller shards with the same rows, whatever happens meanwhile."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import warm_processes
from damaged_runs import QuickDisk
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from patience import PATIENCE, wait_until
from places import HELPERS
from test_prune import write
from test_superseding import all_rows
from warm_processes import expkit
from written_runs import VECTOR_SCHEMA, flip_bit, write_boards

import expkit.rewrite.compact as compacting
import expkit.rewrite.layout as layout
from expkit import Field, Recorder, Schema, open_run
from expkit.errors import Busy, CheckFailed, NoSpace, ShardError
from expkit.formats.shard.encode import BlockEncoder, EncodedBlock
from expkit.formats.shard.write import ShardWriter
from expkit.reading.run import Run
from expkit.reading.summary import balance
from expkit.rewrite.compact import compact
from expkit.rewrite.compact_plan import plan_compact
from expkit.rewrite.layout import Encoding, cut_shards, plan_blocks
from expkit.rewrite.prune import Retention, prune
from expkit.rewrite.segments import Segments
from expkit.row.episodes import EpisodeStart
from expkit.runs.guard import DiskGuard
from expkit.runs.layout import RunInfo, list_shards, new_run_id, shard_file
from expkit.runs.locks import maintenance
from expkit.runs.write import RunWriter, ShardLimits, create_run
from expkit.system.files import Disk, using
from expkit.validation.validate import validate_run


def peak_memory(pid: int) -> int:
    """The most resident memory of a running process so far, in bytes; 0 once it has ended.

    Not `ru_maxrss`, which begins at the memory of the process that started it: 726 MiB for `pass` under pytest's 700.
    """
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM"):
                return int(line.split()[1]) << 10
    return 0


def names(path: Path) -> list[str]:
    return [shard.name for shard in list_shards(path)]


def facts(path: Path) -> tuple[Any, ...]:
    """What a rewrite may not change."""
    with open_run(path) as run:
        records = [(e.number, e.start, e.end, e.rows, e.metadata) for e in run.episodes()]
        return all_rows(path), records, balance(run), run.last_rows


def check(path: Path, before: tuple[Any, ...]) -> None:
    """The run is as it was `before`, and sound."""
    assert facts(path) == before
    with open_run(path) as run:
        found = [finding for finding in validate_run(run) if finding.severity != "info"]
    # The same rows may be there under several numbers.
    assert [finding for finding in found if finding.rule != "episode/duplicate"] == []


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real recording of 20,000 rows in some ten shards."""
    path = tmp_path_factory.mktemp("recorded") / "run"
    done = expkit(
        "record", "--rows", 20_000, "--seed", 3, "--size", "10x10", "--num-envs", 8, "--memory", "8MiB",
        "--shard-rows", 2000, "--min-free", 0, "-o", path, "-q",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return path


@pytest.fixture
def run(recorded: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(recorded, tmp_path / "run"))


def test_a_recording_becomes_one_smaller_shard(run: Path) -> None:
    before, size, shards = facts(run), sum(s.path.stat().st_size for s in list_shards(run)), len(list_shards(run))
    assert shards > 5
    done = compact(run)
    assert (done.shards, done.deleted, done.waiting, done.left) == (1, shards, 0, 0)
    assert names(run) == ["g1/000000"]
    assert done.bytes_before == size
    assert done.bytes_after == list_shards(run)[0].path.stat().st_size < size * 0.95
    check(run, before)
    again = compact(run)
    assert (again.shards, again.deleted, again.bytes_after) == (0, 0, done.bytes_after)
    assert names(run) == ["g1/000000"]
    better = compact(run, encoding=Encoding(level=9), proving=True)
    assert (better.shards, names(run)) == (1, ["g2/000000"])
    check(run, before)


def test_whole_episodes_lie_together_and_in_order(run: Path) -> None:
    compact(run, shard_size=200_000)
    assert len(names(run)) > 1
    where: dict[int, set[str]] = {}
    with open_run(run) as opened:
        for block in opened.blocks():
            for episode in block.reader.runs(block.info.index)["episode"].tolist():
                where.setdefault(episode, set()).add(block.name)
    assert all(len(shards) == 1 for shards in where.values())


def test_several_writers_notes_drops_and_a_killed_one(tmp_path: Path) -> None:
    path = write_boards(tmp_path / "run", episodes=5, shard_rows=12)
    schema = open_run(path).schema
    with Recorder(path, schema, mode="a", players=["left", "right"], min_free=0, shard_rows=7) as recorder:
        for episode in range(4):
            for step in range(3):
                for player in (0, 1):
                    recorder.add(player=player, episode=episode, step=step, action=step, reward=0.0, **blank(schema))
            recorder.end(episode=episode, player=0, **blank(schema))
            recorder.end(episode=episode, player=1, **blank(schema))
        recorder.annotate(2, seen=True)
    code = f"""
import os, sys
sys.path[:0] = {HELPERS!r}
from pathlib import Path
from test_compact import blank
from expkit import Recorder, open_run
schema = open_run({str(path)!r}).schema
recorder = Recorder({str(path)!r}, schema, mode="a", players=["left", "right"], min_free=0)
for step in range(9):
    recorder.add(player=0, episode=0, step=step, action=step, reward=0.0, **blank(schema))
recorder.flush()
os.kill(os.getpid(), 9)
"""
    assert subprocess.run([sys.executable, "-c", code], timeout=PATIENCE).returncode == -9
    before = facts(path)
    assert any(shard.active for shard in list_shards(path))
    assert any(record[4].get("seen") for record in before[1])
    compact(path)
    assert names(path) == ["g1/000000"]
    check_killed(path, before)
    assert compact(path).shards == 0


def blank(schema: Any) -> dict[str, Any]:
    """An observation of zeros, with all actions legal."""
    fields = [field for field in schema.fields if field.belongs == "observation"]
    return {field.name: np.full(field.logical_shape, field.dtype == "bool", field.numpy_dtype) for field in fields}


def check_killed(path: Path, before: tuple[Any, ...]) -> None:
    """As `check`, for a run one of whose writers was killed."""
    assert facts(path) == before
    with open_run(path) as run:
        assert [finding for finding in validate_run(run) if finding.severity == "error"] == []


def test_pruned_rows_and_their_accounts(tmp_path: Path) -> None:
    path = write(tmp_path / "run", [6] * 12, shard_rows=20)
    prune(path, Retention(keep_episodes=7))
    prune(path, Retention(keep_episodes=6))
    before = facts(path)
    assert before[2][0].pruned == 42
    compact(path)
    assert names(path) == ["g3/000000"]
    check(path, before)
    prune(path, Retention(keep_episodes=5))
    before = facts(path)
    compact(path)
    check(path, before)
    prune(path, Retention(keep_episodes=2))  # now less than half of the compact shard counts
    before = facts(path)
    assert compact(path).shards == 1
    check(path, before)
    assert len(names(path)) == 1


def test_readers_are_undisturbed(run: Path) -> None:
    shards, before = len(list_shards(run)), facts(run)
    with open_run(run) as early:
        scan = early.scan(batch_size=500, rows="all")
        seen = len(next(scan)["episode"])
        done = compact(run)
        assert (done.deleted, done.waiting) == (0, shards)
        assert seen + sum(len(batch["episode"]) for batch in scan) == len(before[0])
        check(run, before)
    later = compact(run)
    assert (later.shards, later.deleted, later.waiting) == (0, shards, 0)
    assert names(run) == ["g1/000000"]
    check(run, before)


def test_compacting_again_before_the_old_files_went(run: Path) -> None:
    """A shard that was replaced twice over must not come back when the first replacement is deleted before it."""
    before = facts(run)
    with open_run(run):
        compact(run)
        compact(run, encoding=Encoding(level=7))
        assert len(names(run)) > 2
    with maintenance(run):
        for victim in ("g1/000000",):
            next(s for s in list_shards(run) if s.name == victim).path.unlink()
    check_rows_only(run, before)
    compact(run)
    assert names(run) == ["g2/000000"]
    check(run, before)


def check_rows_only(path: Path, before: tuple[Any, ...]) -> None:
    assert facts(path) == before


def test_a_recorder_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "live"
    recorder = subprocess.Popen(
        [sys.executable, "-m", "expkit.commands", "record", "--forever", "--seed", "5", "--size", "8x8", "--num-envs",
         "4", "--max-steps", "60", "--memory", "8MiB", "--shard-rows", "3000", "--flush-interval", "100ms",
         "--min-free", "0", "-o", str(path), "-q"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        rounds = []
        for _ in range(2):
            wait_until(lambda: len(list_shards(path)) >= 4)
            rounds.append(compact(path))
            with open_run(path) as run:
                assert [f for f in validate_run(run) if f.severity == "error"] == []
        assert all(done.shards and done.deleted for done in rounds)
    finally:
        recorder.send_signal(signal.SIGINT)
        recorder.communicate(timeout=PATIENCE)
    assert recorder.returncode == 130
    with open_run(path) as run:
        assert [f for f in validate_run(run) if f.severity != "info"] == []
        assert all(player.lost == 0 and player.present == player.written for player in balance(run) or [])
        assert all(episode.start is not None for episode in run.episodes())
    prune(path, Retention(keep_episodes=100))  # what follows takes a Python object a row
    before = facts(path)
    compact(path)
    check(path, before)
    assert len(names(path)) == 1


class _Cut(BaseException):
    """The process ends here."""


class _DyingDisk(QuickDisk):
    """Does `most` operations that change something, then none any more."""

    def __init__(self, most: int):
        self.most = most
        self.done = 0

    def __getattribute__(self, name: str) -> Any:
        if name in ("create", "write", "sync", "rename", "unlink", "mkdir", "rmdir", "sync_folder", "append_line"):
            if self.done >= self.most:
                raise _Cut
            self.done += 1
        return super().__getattribute__(name)


def test_it_may_die_before_any_of_its_operations(tmp_path: Path) -> None:
    source = write(tmp_path / "source", [6] * 6, shard_rows=10)
    prune(source, Retention(keep_episodes=5))
    before = facts(source)
    counting = _DyingDisk(1 << 30)
    whole = Path(shutil.copytree(source, tmp_path / "whole"))
    with using(counting):
        compact(whole, shard_size=300)
    assert len(names(whole)) > 1
    assert counting.done > 40
    for most in range(counting.done):
        path = Path(shutil.copytree(source, tmp_path / f"cut{most}"))
        with using(_DyingDisk(most)), pytest.raises(_Cut):
            compact(path, shard_size=300)
        assert facts(path) == before, f"died before operation {most}"
        with using(QuickDisk()):
            compact(path, shard_size=300)
        check(path, before)
        assert not [s for s in list_shards(path, unfinished=True) if s.active]
        shutil.rmtree(path)


@pytest.mark.parametrize("moment", range(10))
def test_a_killed_command_loses_nothing(run: Path, moment: int) -> None:
    """kill -9 at a random moment of a real process, the first while it starts Python."""
    before = facts(run)
    words = ["compact", str(run), "--shard-size", "1MiB", "--level", "19", "-q"]
    if not moment:
        process = subprocess.Popen([sys.executable, "-m", "expkit.commands", *words])
        time.sleep(random.Random(moment).random() * 0.4)
        process.kill()
        process.wait(PATIENCE)
    else:
        pid = warm_processes.start(*words)
        wait_until((run / "shards" / "g1").exists, every=0.002)
        time.sleep(random.Random(moment).random() * 0.4)
        warm_processes.kill(pid)
    check(run, before)
    assert expkit("compact", run).returncode == 0
    check(run, before)
    assert len(names(run)) == 1


def test_a_row_dropped_on_the_way_is_noticed(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without --prove: the digests are compared before anything is published."""
    before, files = facts(run), names(run)
    encode = BlockEncoder.encode
    for lose in (
        lambda self, player, columns, rows, *more: encode(self, player, columns, rows - 1, *more),
        lambda self, player, columns, rows, *more: encode(self, player, _with_a_wrong_row(columns), rows, *more),
    ):
        monkeypatch.setattr(BlockEncoder, "encode", lose)
        with pytest.raises(CheckFailed, match="episode [0-9]+ player [01]: .*nothing was published"):
            compact(run)
        monkeypatch.undo()
        assert names(run) == files
        check(run, before)


def _with_a_wrong_row(columns: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    action = columns["action"].copy()
    action[7] ^= 1
    return {**columns, "action": action}


def test_proof_reads_what_the_disk_holds(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bytes that change after they were written are noticed by their checksums; rows that were hashed right and stored
    wrong only by decoding them again."""
    before, append = facts(run), ShardWriter.append_block

    def store_other_bytes(self: ShardWriter, block: EncodedBlock) -> int:
        return append(self, replace(block, pieces=(block.body[:-1] + bytes([block.body[-1] ^ 1]),)))

    monkeypatch.setattr(ShardWriter, "append_block", store_other_bytes)
    with pytest.raises(ShardError, match="checksum"):
        compact(run)
    monkeypatch.undo()
    check(run, before)
    monkeypatch.setattr(compacting, "check_output", lambda path, expected: None)
    encode = BlockEncoder.encode
    monkeypatch.setattr(
        BlockEncoder, "encode", lambda self, p, columns, rows, *more: encode(self, p, _with_a_wrong_row(columns), rows)
    )
    with pytest.raises(CheckFailed, match="digest"):
        compact(run, proving=True)
    monkeypatch.undo()
    check(run, before)


def test_damage_is_refused_and_nothing_changed(run: Path) -> None:
    shard = list_shards(run)[4].path
    flip_bit(shard, shard.stat().st_size // 2)
    files = names(run)
    done = expkit("compact", run)
    assert done.returncode == 4
    assert f"run expkit recover {run} first" in done.stderr
    assert len(done.stderr.splitlines()) == 2  # the title of the progress, and the error
    assert names(run) == files
    assert list_shards(run, unfinished=True) == list_shards(run)


def test_a_shard_published_while_it_is_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its name is asked for, then a recorder publishes it, then the file of that name is opened."""
    path = write(tmp_path / "run", [6] * 12, shard_rows=20)
    last = list_shards(path)[-1].path
    active = last.with_suffix(".active")
    last.rename(active)
    before, ask = facts(path), Run.current_path

    def publish(run: Run, position: int) -> Path:
        asked = ask(run, position)
        if asked == active and active.exists():
            active.rename(last)
        return asked

    monkeypatch.setattr(Run, "current_path", publish)
    assert compact(path).rows
    assert last.exists() or "g1/000000" in names(path)
    assert not active.exists()
    assert facts(path) == before


def test_room_is_asked_for_first(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = names(run)
    monkeypatch.setattr(compacting, "free_bytes", lambda path: 1 << 20)
    with pytest.raises(NoSpace, match="compacting needs 16.* 1.0 MiB are free"):
        compact(run)
    assert names(run) == files


def test_one_at_a_time(run: Path) -> None:
    with maintenance(run), pytest.raises(Busy):
        compact(run)


def test_it_stops_between_blocks_and_goes_on_later(run: Path) -> None:
    before = facts(run)
    asked = iter([False] * 3)
    done = compact(run, shard_size=100_000, stop=lambda: next(asked, True))
    assert done.stopped
    assert done.shards < 3
    assert not [s for s in list_shards(run, unfinished=True) if s.active]
    check(run, before)
    assert not compact(run).stopped
    check(run, before)


def test_an_interrupt_is_exit_130(recorded: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(recorded, tmp_path / "run"))
    before = facts(run)
    process = subprocess.Popen(
        [sys.executable, "-m", "expkit.commands", "compact", str(run), "--shard-size", "1MiB", "--level", "22", "-q"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    wait_until(lambda: (run / "shards" / "g1").exists() or process.poll() is not None)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode in (0, 130), err
    if process.returncode == 130:
        assert "stopped" in out + err
    check(run, before)


def test_lost_columns_stay_lost_and_apart(tmp_path: Path) -> None:
    """Blocks of which other columns are lost do not share an output block, and an episode keeps its order over them."""
    path = write(tmp_path / "run", [40] * 9, shard_rows=60)
    before = all_rows(path)
    for number, lost in ((1, ("observation",)), (2, ("value", "truncated")), (4, ("observation",))):
        lose_columns(path, number, lost)
    with open_run(path) as run:
        whole = ["action", "reward", "step", "is_last"]
        rows = [run.rows(e.number, 0, whole) for e in run.episodes()]
        missing = lost_rows(run)
        sums = Segments.of([run]).sums()
    compact(path, proving=True)
    assert names(path) == ["g1/000000"]
    with open_run(path) as run:
        after = [run.rows(e.number, 0, whole) for e in run.episodes()]
        assert all(np.array_equal(a[name], b[name]) for a, b in zip(rows, after, strict=True) for name in whole)
        assert lost_rows(run) == missing
        assert Segments.of([run]).sums() == sums
        assert [f.rule for f in validate_run(run) if f.severity == "error"] == []
        assert len(run) == len(before)


def lose_columns(path: Path, number: int, lost: tuple[str, ...]) -> None:
    """Write a shard anew without the values of some columns, as a recovery leaves it."""
    from expkit.formats.shard import ShardReader, copy_block

    file = shard_file(path, 0, number)
    with ShardReader(file) as reader, ShardWriter(file.with_suffix(".new"), reader.schema, reader.header) as writer:
        writer.append_episodes(reader.episode_starts)
        for block in reader.blocks:
            writer.append_block(copy_block(reader, block.index, lost))
        writer.append_episodes((), reader.episode_ends)
    file.with_suffix(".new").rename(file)


def lost_rows(run: Any) -> dict[str, set[tuple[int, int]]]:
    """By column, the (episode, step) of rows whose value is lost."""
    out: dict[str, set[tuple[int, int]]] = {}
    for block in run.blocks():
        for name in block.reader.lost_columns(block.info.index):
            stored = block.read(["episode", "step"])
            out.setdefault(name, set()).update(zip(stored["episode"].tolist(), stored["step"].tolist(), strict=True))
    return out


def test_blocks_that_lost_their_numbers_are_left_alone(tmp_path: Path) -> None:
    path = write(tmp_path / "run", [40] * 9, shard_rows=60)
    lose_columns(path, 2, ("episode",))
    with open_run(path) as run:
        sums = Segments.of([run]).sums()
    compact(path)
    assert "w0/000002" in names(path)
    assert "w0/000000" not in names(path)
    with open_run(path) as run:
        assert Segments.of([run]).sums() == sums


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 2), st.integers(1, 30), st.integers(0, 2)), min_size=1, max_size=40),
    st.integers(1, 40),
)
def test_blocks_hold_every_row_once_and_episodes_in_order(stretches: list[tuple[int, int, int]], most: int) -> None:
    """Against a list of rows: (episode, step) of each, cut anyhow into stretches that lost this or that column."""
    episodes = np.sort(np.array([e for e, _, _ in stretches], np.uint64))
    rows = np.array([n for _, n, _ in stretches], np.int64)
    steps = np.zeros(len(rows), np.int64)
    for at in range(1, len(rows)):
        steps[at] = steps[at - 1] + rows[at - 1] if episodes[at] == episodes[at - 1] else 0
    flat = np.zeros(len(rows), np.int32)
    segments = Segments(
        flat, flat, np.arange(len(rows), dtype=np.int32), flat, episodes, np.zeros(len(rows), np.int64), rows, steps,
        np.zeros(len(rows), np.uint64), np.ones(len(rows)), np.array([k for _, _, k in stretches], np.int32),
        ((), ("a",), ("b",)),
    )  # fmt: skip
    seen: list[tuple[int, int]] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layout, "BLOCK_ROWS", most)
        for plan in plan_blocks(segments, episodes.astype(np.int64), 1, [0]):
            assert int(plan.rows.sum()) <= most * 1.5 + 1
            assert {segments.lost_sets[k] for k in plan.segments.lost.tolist()} == {plan.lost}
            for e, first, skip, n in zip(
                plan.segments.episode.tolist(), plan.segments.first_step.tolist(), plan.skip, plan.rows, strict=True
            ):
                seen += [(e, first + int(skip) + i) for i in range(int(n))]
    assert sorted(seen) == [
        (e, s + i) for e, s, n in zip(episodes.tolist(), steps, rows, strict=True) for i in range(n)
    ]
    for episode in set(episodes.tolist()):
        mine = [step for e, step in seen if e == episode]
        assert mine == sorted(mine)


@given(
    st.lists(st.floats(0, 1e9), min_size=1, max_size=60), st.integers(1, 1 << 30), st.lists(st.integers(1, 59))
)  # fmt: skip
def test_shards_are_cut_into_about_that_size(estimates: list[float], size: int, best: Any) -> None:
    good = np.array(sorted(set(best) & set(range(1, len(estimates)))), np.int64)
    for preferred in (None, good):
        parts = cut_shards(np.array(estimates), size, preferred)
        assert [at for part in parts for at in range(part.start, part.stop)] == list(range(len(estimates)))
        sizes = [sum(estimates[part]) for part in parts]
        most = max(estimates) * 1.001 + 1
        assert all(size / 2 - most <= one <= 1.5 * size + most for one in sizes[:-1])
        assert sizes[-1] <= 1.5 * size + most


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.integers(1, 25), min_size=1, max_size=12), st.integers(4, 40), st.integers(2, 50), st.booleans())
def test_any_run_keeps_its_rows(
    tmp_path_factory: pytest.TempPathFactory, lengths: list[int], shard_rows: int, most: int, proving: bool
) -> None:
    """An episode longer than an output block is split over several."""
    path = tmp_path_factory.mktemp("any") / "run"
    with Recorder(path, VECTOR_SCHEMA, min_free=0, shard_rows=shard_rows) as recorder:
        open_ones = dict(enumerate(lengths))
        step = 0
        while open_ones:  # all at once, so that blocks hold a few rows of each
            for episode in list(open_ones):
                recorder.add(episode=episode, step=step, action=step % 3, reward=1.0, observation=np.ones(3) * step)
                if step == open_ones[episode]:
                    recorder.end(episode=episode, player=0, observation=np.zeros(3, np.float32))
                    del open_ones[episode]
            step += 1
            if step % 5 == 0:
                recorder.flush()
    before = facts(path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layout, "BLOCK_ROWS", most)
        compact(path, proving=proving)
    assert len(names(path)) == 1
    check(path, before)


def test_the_disk_holds_about_one_shard_more(run: Path) -> None:
    """Counted after every write: what is there, beyond what was there and the shard that is being written."""
    with open_run(run) as opened:
        plan = plan_compact(opened, Segments.of([opened]), shard_size=100_000)
    before = sum(shard.path.stat().st_size for shard in list_shards(run))
    most = 0

    class Weighing(Disk):
        def write(self, handle: int, pieces: Any) -> int:
            nonlocal most
            done = super().write(handle, pieces)
            now = sum(os.stat(s.path).st_size for s in list_shards(run, unfinished=True))
            most = max(most, now - before)
            return done

    with using(Weighing()):
        done = compact(run, shard_size=100_000)
    assert done.shards == len(plan.outputs) > 2
    assert 0 < most <= plan.peak_bytes
    assert plan.peak_bytes < before
    assert plan.peak_bytes < 2.5 * max(output.bytes for output in plan.outputs)
    assert done.bytes_after == sum(shard.path.stat().st_size for shard in list_shards(run))


def test_the_command(run: Path) -> None:
    files = {s.name: s.path.read_bytes() for s in list_shards(run)}
    dry = json.loads(expkit("compact", run, "--dry-run", "--json").stdout)
    assert dry["dry_run"] is True
    assert (dry["rows"], dry["shards_written"], dry["shards_replaced"]) == (20_000, 1, len(files))
    assert dry["peak_temporary_bytes"] > 0
    assert {s.name: s.path.read_bytes() for s in list_shards(run)} == files
    said = expkit("compact", run, "--dry-run").stdout
    assert "would rewrite 20,000 rows" in said
    done = expkit("compact", run, "--prove")
    assert done.returncode == 0, done.stderr
    assert f"episodes in 1 shard, proven equal, {len(files)} old shards deleted" in done.stdout
    again = expkit("compact", run)
    assert again.returncode == 0
    assert "nothing to do" in again.stdout
    body = json.loads(expkit("compact", run, "--level", 9, "--json").stdout)
    assert body["schema"] == "expkit.compact/1"
    assert (body["shards_written"], body["shards_deleted"], body["proven"]) == (1, 1, False)
    assert expkit("compact", run, "--shard-size", "1").returncode == 2
    assert expkit("compact", run / "nowhere").returncode == 5


@pytest.mark.slow
def test_memory_and_room_do_not_grow_with_the_run(tmp_path: Path, tell: Callable[[str], None]) -> None:
    """Rows of noise, which compress to nothing less: below 500 MB of memory, and on the disk one output shard more."""
    schema = Schema([Field("observation", "u1", (64, 64), "observation")])
    path, games, length, ticks, noise = tmp_path / "run", 64, 156, 78, np.random.default_rng(1)
    create_run(path, RunInfo(new_run_id(), "noise", schema, ["player0"]))
    limits, guard = ShardLimits(64 << 20, 0, 0.0), DiskGuard(min_free=0)
    writer = RunWriter(path, schema, 1, writer=0, limits=limits, sync="none", guard=guard)
    encoder, begun = BlockEncoder(schema), 0
    offset = noise.integers(0, length, games)
    for tick in range(0, 24 * ticks, ticks):
        at = np.arange(tick, tick + ticks)[:, None] + offset
        rows = {c.name: np.zeros(c.shape(at.size), c.dtype) for c in schema.columns}
        rows["episode"][:] = (at // length * games + np.arange(games)).ravel()
        rows["step"][:] = (at % length).ravel()
        rows["is_first"][:] = rows["step"] == 0
        rows["observation"][:] = noise.integers(0, 256, (at.size, 4096), np.uint8)
        new = [e for e in np.unique(rows["episode"]).tolist() if e >= begun]
        begun = max(new, default=begun - 1) + 1
        writer.ledger.produced[0] += at.size
        writer.append(encoder.encode(0, rows, at.size), starts=[EpisodeStart(e, 0, [0], "noise") for e in new])
        writer.rotate_if_full()
    writer.close()
    with open_run(path) as run:
        plan = plan_compact(run, Segments.of([run]), shard_size=64 << 20)
        before, sums = run.bytes, Segments.of([run]).sums()
    process = subprocess.Popen(
        [sys.executable, "-m", "expkit.commands", "compact", str(path), "--shard-size", "64MiB", "--prove", "-q"],
        stdout=subprocess.DEVNULL,
    )  # fmt: skip
    most, memory, ended, status = 0, 0, 0, 0
    while not ended:
        memory, now = max(memory, peak_memory(process.pid)), 0
        for shard in list_shards(path, unfinished=True):
            with suppress(FileNotFoundError):
                now += shard.path.stat().st_size
        most = max(most, now - before)
        ended, status = os.waitpid(process.pid, os.WNOHANG)
        time.sleep(0.01)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    tell(f"compact: {before >> 20} MiB of noise, {most >> 20} MiB more on disk, {memory >> 20} MiB of memory")
    assert most <= plan.peak_bytes + (1 << 20) < before / 2
    assert 0 < memory < 500_000_000
    with open_run(path) as run:
        assert Segments.of([run]).sums() == sums
