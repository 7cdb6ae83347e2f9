"""Pruning: the oldest whole episodes go, the ledger still adds up, and readers and recorders do not mind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from damaged_runs import TINY, QuickDisk, small_run, write_episode
from hypothesis import given, settings
from hypothesis import strategies as st
from patience import PATIENCE, wait_until
from test_superseding import all_rows
from warm_processes import expkit
from written_runs import BOARD_SCHEMA, VECTOR_SCHEMA, write_boards, write_vectors

from expkit import Recorder
from expkit.errors import Busy, NotThere
from expkit.reading.opening import open_run
from expkit.reading.summary import balance
from expkit.recovery.recover import plan_recovery
from expkit.rewrite.compact import compact
from expkit.rewrite.generation import Generation
from expkit.rewrite.prune import PrunePlan, Retention, discard, plan_prune, prune
from expkit.runs.guard import shards_bytes
from expkit.runs.layout import ACTIVE_SUFFIX, ShardPath, list_shards
from expkit.runs.manifest import read_manifest
from expkit.runs.resume import next_episode
from expkit.runs.write import LISTED_SHARE, RunWriter
from expkit.system.files import using
from expkit.validation.validate import validate_run


def write(path: Path, lengths: list[int], shard_rows: int) -> Path:
    """Episodes of so many steps, one player; what each of them adds is flushed, so that shards stay small."""
    noise = np.random.default_rng(1)
    with Recorder(path, VECTOR_SCHEMA, min_free=0, shard_rows=shard_rows) as recorder:
        for episode, length in enumerate(lengths):
            for step in range(length):
                observation = noise.random(3, np.float32)
                recorder.add(episode=episode, step=step, action=step % 3, reward=1.0, observation=observation)
            recorder.end(episode=episode, player=0, observation=np.zeros(3, np.float32))
            recorder.flush()
    return path


def check(path: Path, before: dict[tuple[int, int, int], bytes], gone: set[int]) -> None:
    """Exactly the rows of the other episodes are there, nothing is wrong, and every row is accounted for."""
    assert all_rows(path) == {key: row for key, row in before.items() if key[0] not in gone}
    with open_run(path) as run:
        assert not {episode.number for episode in run.episodes()} & gone
        assert [finding for finding in validate_run(run) if finding.severity != "info"] == []
        for player in balance(run) or []:
            assert player.produced == player.present + player.pruned
            assert player.pruned == sum(key[0] in gone and key[1] == player.player for key in before)


def test_the_oldest_episodes_go(tmp_path: Path) -> None:
    path = write(tmp_path / "run", [5] * 6, shard_rows=10)
    before, shards = all_rows(path), len(list_shards(path))
    plan = prune(path, Retention(keep_episodes=2))
    assert (plan.episodes, plan.kept, plan.total_rows) == ([0, 1, 2, 3], 2, 24)
    assert len(plan.shards) >= 1
    assert len(list_shards(path)) == shards - len(plan.shards) + 1
    check(path, before, {0, 1, 2, 3})


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.integers(1, 9), min_size=1, max_size=12),
    st.integers(4, 25),
    st.lists(st.integers(0, 12), min_size=1, max_size=4),
)
def test_pruning_again_and_again_is_what_a_list_of_episodes_says(
    tmp_path_factory: pytest.TempPathFactory, lengths: list[int], shard_rows: int, keeps: list[int]
) -> None:
    path = write(tmp_path_factory.mktemp("prune") / "run", lengths, shard_rows)
    before, left = all_rows(path), list(range(len(lengths)))
    for keep in keeps:
        gone = left[: max(len(left) - keep, 0)]
        plan = prune(path, Retention(keep_episodes=keep))
        assert plan.episodes == gone
        left = left[len(gone) :]
        check(path, before, set(range(len(lengths))) - set(left))
    if not left:
        assert [shard.generation > 0 for shard in list_shards(path)] == [True]


def test_by_size_whole_shards_are_freed_until_it_fits(tmp_path: Path) -> None:
    path = write(tmp_path / "run", [20] * 12, shard_rows=40)
    before, total = all_rows(path), shards_bytes(path)
    plan = prune(path, Retention(max_total=total // 2))
    assert plan.short == 0
    assert 0 < len(plan.episodes) < 12
    assert total - plan.bytes <= total // 2
    check(path, before, set(plan.episodes))
    with open_run(path) as run:
        assert plan_prune(run, Retention(max_total=shards_bytes(path))).episodes == []


def test_what_cannot_be_reached_is_said(tmp_path: Path) -> None:
    path = write_vectors(tmp_path / "run", episodes=3)
    before = all_rows(path)
    plan = prune(path, Retention(min_free=1 << 60))
    assert plan.short > 1 << 59
    assert plan.episodes == [0, 1, 2]
    check(path, before, {0, 1, 2})


def test_by_age_what_ended_before_goes(tmp_path: Path) -> None:
    path = write_vectors(tmp_path / "run", episodes=4)
    with open_run(path) as run:
        ended = [episode.end.time_ns for episode in run.episodes() if episode.end]
    before = all_rows(path)
    now = ended[2] + 60_000_000_000
    assert prune(path, Retention(max_age=60.0), now).episodes == [0, 1]
    check(path, before, {0, 1})


def test_nothing_to_prune_writes_nothing(tmp_path: Path) -> None:
    path = write_vectors(tmp_path / "run", episodes=4)
    prune(path, Retention(keep_episodes=2))
    shards = list_shards(path)
    assert prune(path, Retention(keep_episodes=2, max_total=1 << 30)) == PrunePlan(kept=2)
    assert list_shards(path) == shards


def test_an_episode_that_is_still_recorded_stays(tmp_path: Path) -> None:
    path = tmp_path / "run"
    with Recorder(path, VECTOR_SCHEMA, min_free=0, shard_rows=3) as recorder:
        zeros = np.zeros(3, np.float32)
        for step in range(6):
            recorder.add(episode=0, step=step, action=0, reward=0.0, observation=zeros)
            recorder.add(episode=1, step=step, action=0, reward=0.0, observation=zeros)
            recorder.flush()
        recorder.end(episode=1, player=0, observation=zeros)
        recorder.flush()
        plan = prune(path, Retention(keep_episodes=0))
        assert (plan.episodes, plan.kept) == ([1], 1)
        recorder.add(episode=0, step=6, action=0, reward=0.0, observation=zeros)
        recorder.end(episode=0, player=0, observation=zeros)
    with open_run(path) as run:
        assert [episode.rows for episode in run.episodes()] == [{0: 8}]
        assert [finding for finding in validate_run(run) if finding.severity != "info"] == []


def test_a_shard_held_open_stays_readable(tmp_path: Path) -> None:
    path = write(tmp_path / "run", [6] * 6, shard_rows=7)
    with open_run(path) as early:
        first = early.reader("w0/000000")
        opened = first.read_block(0)
        prune(path, Retention(keep_episodes=0))
        np.testing.assert_array_equal(first.read_block(0)["observation"], opened["observation"])
        with pytest.raises(NotThere, match="refresh"):
            early.reader("w0/000001")
        early.refresh()
        assert early.episodes() == []


def test_notes_on_kept_episodes_survive_the_shard_that_held_them(tmp_path: Path) -> None:
    path = tmp_path / "run"
    with Recorder(path, VECTOR_SCHEMA, min_free=0, shard_rows=5) as recorder:
        zeros = np.zeros(3, np.float32)
        for episode in range(3):
            recorder.annotate(2, seen=episode, **{f"note{episode}": True})
            for step in range(4):
                recorder.add(episode=episode, step=step, action=0, reward=0.0, observation=zeros)
            recorder.end(episode=episode, player=0, observation=zeros)
            recorder.flush()
    assert "w0/000000" in prune(path, Retention(keep_episodes=1)).shards
    with open_run(path) as run:
        assert run.find_episode(2).metadata == {"seen": 2, "note0": True, "note1": True, "note2": True}


def test_other_maintenance_keeps_it_away(tmp_path: Path) -> None:
    path = write_vectors(tmp_path / "run")
    with open_run(path) as run, Generation(path, run.info, "test"), pytest.raises(Busy, match="maintenance"):
        prune(path, Retention(keep_episodes=0))


def test_a_recorder_prunes_instead_of_stopping(tmp_path: Path) -> None:
    path = tmp_path / "run"
    limit = 60_000
    noise = np.random.default_rng(1)
    with Recorder(
        path, VECTOR_SCHEMA, min_free=0, max_total=limit, on_full="prune", shard_size=8_000, flush_interval=0.05
    ) as recorder:
        for episode in range(60):
            steps = np.arange(100)
            observation = noise.random((100, 3), np.float32)
            recorder.add_batch(
                episode=episode, step=steps, action=steps % 3, reward=np.ones(100), observation=observation
            )
            recorder.end(episode=episode, player=0, observation=observation[0])
            recorder.flush()
            time.sleep(0.02)
    assert shards_bytes(path) < 2 * limit
    with open_run(path) as run:
        numbers = [episode.number for episode in run.episodes()]
        assert 0 < numbers[0] < numbers[-1] == 59
        (player,) = balance(run) or []
        assert (player.produced, player.stored, player.lost) == (60 * 101, 60 * 101, 0)
        assert [finding for finding in validate_run(run) if finding.severity != "info"] == []


def test_a_shard_that_is_published_while_bytes_are_counted_counts(tmp_path: Path, monkeypatch) -> None:
    """Its bytes were left out, nothing was pruned for want of need, and the recorder stopped for want of room."""
    with Recorder(tmp_path / "run", VECTOR_SCHEMA, min_free=0) as recorder:
        recorder.add(episode=0, step=0, observation=[1, 2, 3], action=1, reward=0)
        recorder.flush()
    (shard,) = list_shards(tmp_path / "run")
    published, active = shard.path, shard.path.with_suffix(ACTIVE_SUFFIX)
    expected = published.stat().st_size
    published.rename(active)

    def publish_afterwards(run: Path) -> list[ShardPath]:
        found = list_shards(run)
        active.rename(published)
        return found

    monkeypatch.setattr("expkit.runs.guard.list_shards", publish_afterwards)
    assert shards_bytes(tmp_path / "run") == expected > 0


def test_prune_asks_and_says_what_it_did(tmp_path: Path) -> None:
    write_boards(tmp_path / "run", episodes=4)
    nothing = expkit("prune", "run", cwd=tmp_path)
    assert (nothing.returncode, nothing.stdout) == (2, "")
    assert "--keep-episodes" in nothing.stderr
    refused = expkit("prune", "run", "--keep-episodes", "1", cwd=tmp_path)
    assert refused.returncode == 2
    assert "3 of 4 episodes (36 rows)" in refused.stderr
    dry = json.loads(expkit("prune", "run", "--keep-episodes", "1", "--dry-run", "--json", cwd=tmp_path).stdout)
    assert (dry["dry_run"], dry["episodes_pruned"], dry["rows_pruned"]) == (True, 3, 36)
    assert dry["peak_temporary_bytes"] == 0
    done = json.loads(expkit("prune", "run", "--keep-episodes", "1", "--yes", "--json", cwd=tmp_path).stdout)
    assert done == {**dry, "dry_run": False}
    again = expkit("prune", "run", "--keep-episodes", "1", "--yes", cwd=tmp_path)
    assert (again.returncode, again.stdout) == (0, "run: nothing to prune, 1 episodes stay\n")
    assert expkit("validate", "run", cwd=tmp_path).returncode == 0
    assert expkit("prune", "nowhere", "--keep-episodes", "1", cwd=tmp_path).returncode == 5


def test_limits_from_a_settings_file_and_no_limit_from_a_default(tmp_path: Path) -> None:
    write(tmp_path / "run", [4] * 6, shard_rows=10)
    bare = expkit("prune", "run", "--yes", cwd=tmp_path)
    assert (bare.returncode, bare.stderr.count("\n")) == (2, 1)
    (tmp_path / "keep.yaml").write_text("retention: {keep_episodes: 4, min_free: 0}\n")
    kept = json.loads(expkit("prune", "run", "--config", "keep.yaml", "--yes", "--json", cwd=tmp_path).stdout)
    assert (kept["episodes_pruned"], kept["episodes_kept"]) == (2, 4)
    fewer = expkit("prune", "run", "--config", "keep.yaml", "--keep-episodes", "1", "--yes", "--json", cwd=tmp_path)
    assert json.loads(fewer.stdout)["episodes_kept"] == 1


def test_prune_beside_a_live_recorder(tmp_path: Path) -> None:
    options = ["--forever", "--shard-rows", "6000", "--min-free", "0", "--quiet", "-o", "run"]
    recorder = subprocess.Popen([sys.executable, "-m", "expkit.commands", "record", *options], cwd=tmp_path)
    try:
        wait_until(lambda: recorder.poll() is not None or len(list_shards(tmp_path / "run")) >= 4)
        assert recorder.poll() is None
        done = expkit("prune", "run", "--keep-episodes", "20", "--yes", "--json", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        pruned = json.loads(done.stdout)
        assert pruned["episodes_pruned"] > 0
        recorder.send_signal(signal.SIGINT)
        assert recorder.wait(PATIENCE) == 130
    finally:
        if recorder.poll() is None:
            os.kill(recorder.pid, signal.SIGKILL)
            recorder.wait()
    told = json.loads(expkit("validate", "run", "--json", cwd=tmp_path).stdout)
    assert told["ok"]
    assert (told["pruned"], told["lost"]) == (pruned["rows_pruned"], 0)
    assert told["produced"] == told["rows"] + told["pruned"]


def test_boards_have_players_pruned_alike(tmp_path: Path) -> None:
    path = write_boards(tmp_path / "run", episodes=3)
    assert open_run(path).schema == BOARD_SCHEMA
    prune(path, Retention(keep_episodes=1))
    with open_run(path) as run:
        assert [(player.pruned, player.present) for player in balance(run) or []] == [(12, 6), (12, 6)]


def test_a_writer_does_not_list_shards_that_were_pruned_before_it_came_to_that(tmp_path: Path) -> None:
    """A writer of many shards tells the manifest of them some time later."""
    path, rng = small_run(tmp_path / "run", episodes=LISTED_SHARE + 1, rotate=True), np.random.default_rng(5)
    with using(QuickDisk()):
        writer = RunWriter(path, TINY, 2, writer=0)
        for episode in range(100, 103):
            write_episode(writer, episode, rng)
            writer.rotate()
            prune(path, Retention(keep_episodes=0))
        assert [name for name in read_manifest(path) if name[0] == "w"] == []
        assert errors(path) == []
        writer.close()
    assert errors(path) == []
    report = plan_recovery(path)
    assert (report.missing_shards, report.rows_lost, report.anything_done) == ([], 0, False)


@pytest.mark.parametrize("then", [lambda path: prune(path, Retention(keep_episodes=1)), compact])
def test_the_number_of_an_episode_that_was_taken_out_is_not_used_again(
    tmp_path: Path, then: Callable[[Path], object]
) -> None:
    path = write(tmp_path / "run", [5] * 4, shard_rows=10)
    discard(path, [3])
    assert next_episode(path, 0) == 4
    then(path)
    assert next_episode(path, 0) == 4
    then(path)
    discard(path, [2])
    prune(path, Retention(keep_episodes=0))
    assert next_episode(path, 0) == 4
    assert errors(path) == []


def errors(path: Path) -> list[str]:
    with open_run(path) as run:
        return [str(finding) for finding in validate_run(run) if finding.severity != "info"]
