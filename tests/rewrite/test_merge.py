"""Merging: runs of one schema become one, episodes numbered anew, with their origin, once each."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import warm_processes
from damaged_runs import QuickDisk
from patience import PATIENCE, wait_until
from test_compact import _Cut, _DyingDisk, expkit, lose_columns, names
from test_prune import write
from test_superseding import all_rows
from written_runs import VECTOR_SCHEMA, flip_bit, write_boards, write_vectors

from expkit import Field, Recorder, Schema, open_run
from expkit.errors import CheckFailed, NoSpace, OutputExists, SchemaError, ShardError, UsageError
from expkit.formats.shard.encode import BlockEncoder
from expkit.reading.run import Run
from expkit.reading.summary import balance
from expkit.rewrite import merge as merging
from expkit.rewrite.compact import compact
from expkit.rewrite.engine import Stopped
from expkit.rewrite.merge import Choice, Merged, merge, plan_merge
from expkit.rewrite.prune import Retention, prune
from expkit.rewrite.sources import Sources
from expkit.row.episodes import EpisodeEnd, EpisodeStart, PolicyInfo
from expkit.runs.layout import RunInfo, find_runs, list_shards, new_run_id
from expkit.runs.write import RunWriter, create_run
from expkit.system.files import using
from expkit.validation.validate import validate_run

Row = dict[str, Any]


def join(paths: list[Path], out: Path, choice: Choice | None = None, **options: Any) -> Merged:
    with Sources(paths) as sources:
        return merge(sources, plan_merge(sources, choice), out, choice, **options)


def content(run: Run, number: int) -> dict[int, list[Row]]:
    """Rows by player as a list of dicts, without the episode's number, the policy by its name: the slow twin."""
    out: dict[int, list[Row]] = {}
    for player in sorted(run.find_episode(number).rows):
        table = run.rows(number, player)
        known = run.policies
        rows = []
        for at in range(len(table["step"])):
            row = {name: values[at].tobytes() for name, values in table.items() if name != "episode"}
            policy = int(table["policy"][at])
            rows.append(row | {"policy": known[policy] if known else policy})
        out[player] = rows
    return out


def check_merged(out: Path, paths: list[Path], *, skip: set[tuple[int, int]] = frozenset()) -> None:  # type: ignore[assignment]
    """Every episode of the inputs, in their order, is there with its rows, records, notes and origin."""
    with open_run(out) as merged:
        assert [f for f in validate_run(merged) if f.severity != "info"] == []
        number = 0
        for at, path in enumerate(paths):
            with open_run(path) as run:
                for episode in run.episodes():
                    if (at, episode.number) in skip:
                        continue
                    found = merged.find_episode(number)
                    assert found.start is not None
                    assert found.start.origin is not None
                    assert (found.start.origin.run, found.start.origin.episode) == (run.id, episode.number)
                    assert (found.rows, found.ended, found.outcome) == (episode.rows, episode.ended, episode.outcome)
                    assert (found.length, found.metadata) == (episode.length, episode.metadata)
                    assert content(merged, number) == content(run, episode.number)
                    number += 1
        assert [episode.number for episode in merged.episodes()] == list(range(number))
        for player in balance(merged) or []:
            assert player.produced == player.written == player.present
            assert (player.lost, player.dropped) == (0, {})


def play(path: Path, names: list[str], episodes: int, seed: int = 1, **options: Any) -> Path:
    """Runs of which each row is of one of two policies, which stand in the table in the order given."""
    noise = np.random.default_rng(seed)
    with Recorder(path, VECTOR_SCHEMA, min_free=0, policies=[PolicyInfo(name) for name in names], **options) as one:
        for episode in range(episodes):
            one.set_policy(0, names[episode % len(names)], version=episode)
            for step in range(4):
                one.add(episode=episode, step=step, action=step, reward=0.5, observation=noise.random(3, np.float32))
            one.end(episode=episode, player=0, observation=noise.random(3, np.float32), outcome=1.0)
            one.flush()
    return path


def test_runs_become_one(tmp_path: Path) -> None:
    paths = [play(tmp_path / "a", ["old", "new"], 5), play(tmp_path / "b", ["new", "best"], 4, seed=2)]
    with Recorder(paths[0], VECTOR_SCHEMA, mode="a", min_free=0) as recorder:
        recorder.add(episode=0, step=0, action=1, reward=0, observation=np.zeros(3))
        recorder.end(episode=0, player=0, observation=np.zeros(3))
        recorder.annotate(1, seen=True)
    before = [all_rows(path) for path in paths]
    done = join(paths, tmp_path / "out")
    assert (done.episodes, done.duplicates) == (10, 0)
    check_merged(tmp_path / "out", paths)
    (tmp_path / "out").rename(tmp_path / ".out.unfinished")
    assert find_runs(tmp_path) == paths  # nobody takes one for a run that is being made
    (tmp_path / ".out.unfinished").rename(tmp_path / "out")
    assert [all_rows(path) for path in paths] == before
    with open_run(tmp_path / "out") as run:
        assert [policy.name for policy in run.policies if policy.name != "player0"] == ["old", "new", "best"]
        told = run.info.metadata["origins"]
        assert [origin["id"] for origin in told] == [open_run(path).id for path in paths]
        assert [origin["episodes"] for origin in told] == [6, 4]
        assert [origin["players"][0]["produced"] for origin in told] == [27, 20]
    assert compact(tmp_path / "out").shards == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "out"]


def test_a_merged_run_merged_again_keeps_the_first_origin(tmp_path: Path) -> None:
    paths = [write_vectors(tmp_path / name, episodes=3) for name in "abc"]
    join(paths[:2], tmp_path / "ab")
    join([tmp_path / "ab", paths[2]], tmp_path / "abc")
    with open_run(tmp_path / "abc") as run:
        starts = [episode.start for episode in run.episodes()]
        found = [(s.origin.run, s.origin.episode) for s in starts if s is not None and s.origin is not None]
        assert found == [(open_run(path).id, number) for path in paths for number in range(3)]
        told = [origin["id"] for origin in run.info.metadata["origins"]]
        assert set(told) == {open_run(path).id for path in [*paths, tmp_path / "ab"]}


@pytest.fixture(scope="module")
def games(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two real recordings whose games are set up unlike."""
    folder = tmp_path_factory.mktemp("games")
    for name, seed, steps, policy in (("a", 5, 90, "hunter"), ("b", 6, 60, "expander,hunter")):
        done = expkit(
            "record", "--episodes", 12, "--seed", seed, "--size", "8x8", "--max-steps", steps, "--num-envs", 4,
            "--policy", policy, "--memory", "8MiB", "--min-free", 0, "-o", folder / name, "-q",
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
    return [folder / "a", folder / "b"]


def test_merged_games_are_drawn_and_play_out_the_same(games: list[Path], tmp_path: Path) -> None:
    """Each is played again by the number, the seed and the settings of the run that it comes from."""
    out = tmp_path / "out"
    done = expkit("merge", *games, "-o", out, "--json")
    assert done.returncode == 0, done.stdout
    assert json.loads(done.stdout)["episodes"] == 24
    check_merged(out, games)
    assert "game" not in open_run(out).info.metadata
    verified = expkit("replay", out, "--verify")
    assert verified.returncode == 0, verified.stdout
    assert "24 episodes" in verified.stdout
    drawn = expkit("replay", out, "--episode", 13, "--step", 20)
    assert drawn.returncode == 0
    assert (
        drawn.stdout.splitlines()[1:]
        == expkit("replay", games[1], "--episode", 1, "--step", 20).stdout.splitlines()[1:]
    )
    assert expkit("validate", out).returncode == 0


def test_the_same_episode_is_taken_once(games: list[Path], tmp_path: Path) -> None:
    """Copies, compacted ones, and one merged before are the same; the first is kept."""
    copy = Path(shutil.copytree(games[0], tmp_path / "copy"))
    compact(copy)
    join([games[0]], tmp_path / "merged")
    paths = [games[0], copy, games[1], tmp_path / "merged"]
    done = join(paths, tmp_path / "out", Choice(dedupe=True))
    assert (done.episodes, done.duplicates) == (24, 24)
    check_merged(tmp_path / "out", paths, skip={(at, number) for at in (1, 3) for number in range(12)})
    assert join(paths, tmp_path / "all").episodes == 48


def test_alike_is_not_the_same(tmp_path: Path) -> None:
    """Same steps and times: told apart by the values alone. Policies are compared by name."""

    def one(path: Path, policies: list[str], used: int, value: float) -> Path:
        table = [PolicyInfo(name) for name in policies]
        create_run(path, RunInfo(new_run_id(), "test", VECTOR_SCHEMA, ["player0"], table))
        rows = {c.name: np.zeros(c.shape(4), c.dtype) for c in VECTOR_SCHEMA.columns}
        rows["step"][:] = rows["time_ns"][:] = np.arange(4)
        rows["observation"][:] = value
        rows["policy"][:] = used
        rows["is_first"][0] = rows["is_last"][3] = True
        writer = RunWriter(path, VECTOR_SCHEMA, 1, writer=0)
        writer.append(BlockEncoder(VECTOR_SCHEMA).encode(0, rows, 4), starts=[EpisodeStart(0, 0, [0], "test")])
        writer.append_episodes((), [EpisodeEnd(0, 9, "terminated", 3, rows={"0": 4})])
        writer.ledger.produced[0] = 4
        writer.close()
        return path

    paths = [
        one(tmp_path / "a", ["x", "y"], 0, 1.0),
        one(tmp_path / "b", ["y", "x"], 1, 1.0),  # the same: x
        one(tmp_path / "c", ["y", "x"], 0, 1.0),  # another policy
        one(tmp_path / "d", ["x", "y"], 0, 2.0),  # another observation
    ]
    done = join(paths, tmp_path / "out", Choice(dedupe=True))
    twins: list[dict[int, list[Row]]] = []
    for at, path in enumerate(paths):
        with open_run(path) as run:
            if any(content(run, 0) == twin for twin in twins):
                assert at == 1
            twins.append(content(run, 0))
    assert (done.episodes, done.duplicates) == (3, 1)
    check_merged(tmp_path / "out", paths, skip={(1, 0)})


def test_what_does_not_fit_is_told(tmp_path: Path) -> None:
    wide = Schema([Field("observation", "f4", (5,), "observation"), *VECTOR_SCHEMA.fields[1:]])
    write_vectors(tmp_path / "a")
    with Recorder(tmp_path / "b", wide, min_free=0):
        pass
    with pytest.raises(SchemaError, match=r"a and .*b do not hold the same: observation: 3( values)? vs 5"):
        Sources([tmp_path / "a", tmp_path / "b"])
    done = expkit("merge", tmp_path / "a", tmp_path / "b", "-o", tmp_path / "out")
    assert (done.returncode, done.stdout, (tmp_path / "out").exists()) == (2, "", False)
    with Recorder(tmp_path / "two", VECTOR_SCHEMA, players=2, min_free=0):
        pass
    with pytest.raises(SchemaError, match="1 players, .*two has 2"):
        Sources([tmp_path / "a", tmp_path / "two"])
    with Recorder(tmp_path / "named", VECTOR_SCHEMA, players=["anna"], min_free=0):
        pass
    with Sources([tmp_path / "a", tmp_path / "named"]) as sources:
        assert any("anna" in note for note in sources.notes)


def test_losses_of_the_inputs_stay_visible_and_are_no_errors(tmp_path: Path) -> None:
    path = tmp_path / "a"
    with Recorder(
        path, VECTOR_SCHEMA, min_free=0, overflow="drop-oldest", memory="1MiB", flush_interval="1h", sync="none",
        players=1,
    ) as recorder:  # fmt: skip
        recorder.add_batch(
            player=0, episode=np.zeros(40_000, np.uint64), step=np.arange(40_000), action=np.zeros(40_000, np.uint8),
            observation=np.zeros((40_000, 3), np.float32), reward=np.zeros(40_000, np.float32),
        )  # fmt: skip
        recorder.end(episode=0, player=0, observation=np.zeros(3))
    pruned = write(tmp_path / "b", [5] * 6, shard_rows=10)
    prune(pruned, Retention(keep_episodes=4))
    done = join([path, pruned], tmp_path / "out")
    with open_run(path) as run:
        dropped = (balance(run) or [])[0].dropped_rows
    check = [origin["players"][0] for origin in open_run(tmp_path / "out").info.metadata["origins"]]
    assert check[0]["dropped"] == dropped
    assert check[1]["pruned"] == 12
    assert done.episodes == 5


def test_a_killed_and_a_live_input(tmp_path: Path) -> None:
    """Of a live one the complete episodes; of a killed one all, the open ones as interrupted."""
    path = tmp_path / "live"
    recorder = subprocess.Popen(
        [sys.executable, "-m", "expkit.commands", "record", "--forever", "--seed", "5", "--size", "8x8", "--num-envs",
         "4", "--max-steps", "60", "--memory", "8MiB", "--flush-interval", "100ms", "--min-free", "0", "-o", str(path),
         "-q"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        wait_until(
            lambda: path.exists() and any(s.active and s.path.stat().st_size > 40_000 for s in list_shards(path))
        )
        wait_until(lambda: any(episode.end is not None for episode in open_run(path).episodes()))
        done = join([path], tmp_path / "early")
        assert any("still being recorded" in note for note in done.notes)
        assert done.episodes
    finally:
        recorder.kill()
        recorder.communicate()
    with open_run(tmp_path / "early") as run:
        assert all(episode.end is not None and episode.ended != "interrupted" for episode in run.episodes())
        assert [f for f in validate_run(run) if f.severity != "info"] == []
    late = join([path], tmp_path / "late")
    with open_run(path) as run:
        assert late.episodes == len(run.episodes()) > done.episodes
        assert late.rows == len(run)
        ended = [episode.ended for episode in run.episodes()]
    with open_run(tmp_path / "late") as run:
        assert [episode.ended for episode in run.episodes()] == ended
        assert "interrupted" in ended
        assert [f for f in validate_run(run) if f.severity != "info"] == []


def test_it_may_die_before_any_of_its_operations(tmp_path: Path) -> None:
    paths = [write_vectors(tmp_path / name, episodes=2) for name in "ab"]
    counting = _DyingDisk(1 << 30)
    with using(counting):
        join(paths, tmp_path / "whole", shard_size=100)
    assert len(names(tmp_path / "whole")) > 1
    out = tmp_path / "out"
    for most in range(counting.done):
        with using(_DyingDisk(most)), pytest.raises(_Cut):
            join(paths, out, shard_size=100)
        if out.exists():  # its name was given, only the last sync was not
            check_merged(out, paths)
            shutil.rmtree(out)
        with using(QuickDisk()):
            join(paths, out, shard_size=100)
        check_merged(out, paths)
        shutil.rmtree(out)
        assert {path.name for path in tmp_path.iterdir()} == {"a", "b", "whole"}


@pytest.mark.parametrize("moment", range(5))
def test_a_killed_command_leaves_nothing_at_its_output(games: list[Path], tmp_path: Path, moment: int) -> None:
    out = tmp_path / "out"
    words = ["merge", *map(str, games), "-o", str(out), "-q"]
    if not moment:
        process = subprocess.Popen([sys.executable, "-m", "expkit.commands", *words])
        time.sleep(random.Random(moment).random() * 0.3)
        process.kill()
        process.wait(PATIENCE)
    else:
        pid = warm_processes.start(*words)
        wait_until(lambda: any(tmp_path.iterdir()), every=0.002)
        time.sleep(random.Random(moment).random() * 0.3)
        warm_processes.kill(pid)
    if out.exists():
        check_merged(out, games)
    assert expkit("merge", *games, "-o", out, "--force").returncode == 0
    check_merged(out, games)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_row_dropped_on_the_way_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, encode = write_vectors(tmp_path / "a"), BlockEncoder.encode
    monkeypatch.setattr(BlockEncoder, "encode", lambda self, p, c, rows, *more: encode(self, p, c, rows - 1, *more))
    with pytest.raises(CheckFailed, match="episode 3 player 0: 7 rows became 6"):
        join([path], tmp_path / "out")
    assert [entry.name for entry in tmp_path.iterdir()] == ["a"]


def test_an_output_that_does_not_validate_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_vectors(tmp_path / "a")
    monkeypatch.setattr(merging._Writing, "_compare", lambda *_: None)
    encode = BlockEncoder.encode
    monkeypatch.setattr(BlockEncoder, "encode", lambda self, p, c, rows, *more: encode(self, p, c, rows - 1, *more))
    with pytest.raises(CheckFailed, match="the result does not validate"):
        join([path], tmp_path / "out")
    assert [entry.name for entry in tmp_path.iterdir()] == ["a"]


def test_damage_is_refused(tmp_path: Path) -> None:
    path = write_vectors(tmp_path / "a", episodes=30)
    shard = list_shards(path)[0].path
    flip_bit(shard, shard.stat().st_size // 2)
    with pytest.raises(ShardError, match=f"run expkit recover {path} first"):
        join([path], tmp_path / "out")
    assert [entry.name for entry in tmp_path.iterdir()] == ["a"]


def test_lost_columns_stay_lost(tmp_path: Path) -> None:
    path = write(tmp_path / "a", [40] * 6, shard_rows=60)
    lose_columns(path, 1, ("observation",))
    with open_run(path) as run:
        lost = sum(b.rows for b in run.blocks() if b.reader.lost_columns(b.info.index))
    assert lost
    join([path], tmp_path / "out")
    with open_run(tmp_path / "out") as run:
        blocks = [block for block in run.blocks() if block.reader.lost_columns(block.info.index)]
        assert sum(block.rows for block in blocks) == lost
        assert {name for b in blocks for name in b.reader.lost_columns(b.info.index)} == {"observation"}


def test_outputs_in_the_way_and_too_little_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_vectors(tmp_path / "a")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").write_text("mine")
    for force in (False, True):
        with pytest.raises(OutputExists):
            join([path], tmp_path / "out", force=force)
    assert (tmp_path / "out" / "notes.txt").exists()
    other = write_boards(tmp_path / "other")
    with pytest.raises(OutputExists, match="--force"):
        join([path], other)
    join([path], other, force=True)
    check_merged(other, [path])
    monkeypatch.setattr(merging, "free_bytes", lambda _: 1000)
    with pytest.raises(NoSpace, match="are free on the disk"):
        join([path], tmp_path / "new")
    assert not (tmp_path / "new").exists()
    done = expkit("merge", path, "-o", path, "--force")
    assert done.returncode == 2
    assert "one of the inputs" in done.stderr


def test_it_stops_and_leaves_nothing(tmp_path: Path) -> None:
    path = write_vectors(tmp_path / "a")
    with pytest.raises(Stopped):
        join([path], tmp_path / "out", stop=lambda: True)
    assert [entry.name for entry in tmp_path.iterdir()] == ["a"]


def test_too_many_policies() -> None:
    many = [PolicyInfo(str(number)) for number in range(40_000)]

    class Holder:
        def __init__(self, policies: list[PolicyInfo]):
            self.policies = policies

    from expkit.rewrite.sources import _join_policies

    other = [PolicyInfo(f"x{number}") for number in range(40_000)]
    with pytest.raises(UsageError, match="65,536"):
        _join_policies([Holder(many), Holder(other)])  # type: ignore[list-item]


def test_a_dry_run_writes_nothing(games: list[Path], tmp_path: Path) -> None:
    copy = shutil.copytree(games[0], tmp_path / "copy")
    done = expkit("merge", *games, copy, "-o", tmp_path / "out", "--dedupe", "--dry-run", "--json")
    body = json.loads(done.stdout)
    assert (body["episodes"], body["duplicates"], body["dry_run"]) == (24, 12, True)
    assert body["peak_temporary_bytes"] > 0
    assert list(tmp_path.iterdir()) == [copy]
    assert "at most" in expkit("merge", *games, "-o", tmp_path / "out", "--dry-run").stdout


def test_what_lost_its_values_is_the_same_only_by_origin(tmp_path: Path) -> None:
    """Two games that differed in what was lost to damage are two games; a copy of one is a copy still."""
    run = write_vectors(tmp_path / "run", episodes=2)
    lose_columns(run, 0, ("observation", "time_ns"))
    assert join([run], tmp_path / "one", Choice(dedupe=True)).episodes == 2
    copy = Path(shutil.copytree(run, tmp_path / "copy"))
    done = join([run, copy, tmp_path / "one"], tmp_path / "out", Choice(dedupe=True))
    assert (done.episodes, done.duplicates) == (2, 4)
