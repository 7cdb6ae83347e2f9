"""Validation: a whole run has no findings, and each kind of damage is found, named and placed."""

import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from patience import PATIENCE
from places import HELPERS
from warm_processes import expkit
from written_runs import BOARD_SCHEMA, TILES, VECTOR_SCHEMA, flip_bit, write_boards, write_vectors

from expkit import Field, Recorder, Schema, open_run
from expkit.formats.shard.check import check_shard
from expkit.formats.shard.encode import BlockEncoder
from expkit.formats.shard.layout import ENVELOPE
from expkit.formats.shard.read import ShardReader
from expkit.reading.summary import balance, distributions, summarize
from expkit.rewrite.generation import Generation
from expkit.row.episodes import EpisodeEnd, EpisodeStart, PolicyInfo
from expkit.rules.values import is_legal
from expkit.runs.layout import RunInfo
from expkit.runs.write import RunWriter, create_run
from expkit.validation.finding import Finding
from expkit.validation.validate import validate_run, validate_shard

ROWS = 6
SCHEMA = Schema(
    [
        Field("observation", "i2", (2,), "observation", low=0, high=100),
        Field("action_mask", "bool", (5,), "observation"),
        Field("action", "u1", belongs="action"),
    ]
)


def columns(**changes):
    """Stored columns of one sound episode of ROWS rows; `changes` by name: {place: value}."""
    arrays = {column.name: np.zeros(column.shape(ROWS), column.dtype) for column in SCHEMA.columns}
    arrays["episode"][:] = 7
    arrays["step"][:] = np.arange(ROWS)
    arrays["time_ns"][:] = np.arange(ROWS)
    arrays["is_first"][0] = True
    arrays["is_last"][-1] = True
    arrays["observation"][:] = 50
    arrays["action"][:-1] = 2
    arrays["action_mask"][:] = 0b00101
    arrays["terminated"][-2] = True
    for name, cells in changes.items():
        for place, value in cells.items():
            arrays[name][place] = value
    return arrays


def write(path, arrays, *, start=True, end=True, end_rows=ROWS, ended="terminated", cuts=(ROWS,)):
    """A closed run of one writer with these rows, in blocks that end at `cuts`."""
    create_run(path, RunInfo(id="x", source="test", schema=SCHEMA, players=["p"], policies=[PolicyInfo("only")]))
    writer = RunWriter(path, SCHEMA, 1)
    encoder = BlockEncoder(SCHEMA)
    begin = 0
    for cut in cuts:
        part = {name: np.ascontiguousarray(values[begin:cut]) for name, values in arrays.items()}
        writer.ledger.produced[0] += cut - begin
        starts = [EpisodeStart(7, 1, [0], "test")] if start and not begin else []
        writer.append(encoder.encode(0, part, cut - begin), starts=starts)
        begin = cut
    if end:
        writer.append_episodes([], [EpisodeEnd(7, 2, ended, ROWS - 1, {"0": 1.0}, {"0": end_rows})])
    writer.close()
    return path


def findings(path, level="full"):
    with open_run(path) as run:
        return list(validate_run(run, level))


def test_a_whole_run_has_no_findings(tmp_path):
    assert findings(write_boards(tmp_path / "boards")) == []
    assert findings(write_vectors(tmp_path / "vectors")) == []
    assert findings(tmp_path / "boards", "quick") == []
    assert findings(write(tmp_path / "sound", columns())) == []
    assert findings(write(tmp_path / "blocks", columns(), cuts=(2, 5, 6))) == []


@pytest.mark.parametrize("cuts", [(ROWS,), (3, ROWS)], ids=["one block", "two blocks"])
@pytest.mark.parametrize(
    ("changes", "options", "rule", "step"),
    [
        ({"step": {3: 2}}, {}, "episode/steps", 2),
        ({"is_first": {3: True}}, {}, "episode/first", 3),
        ({"is_first": {0: False}}, {}, "episode/first", 0),
        ({"is_last": {2: True}}, {}, "episode/last", 3),
        ({"is_last": {5: False}}, {}, "episode/last", 5),
        ({"policy": {4: 9}}, {}, "episode/policy", 4),
        ({}, {"start": False}, "episode/start", None),
        ({}, {"end_rows": 8}, "episode/rows", None),
        ({"terminated": {4: 0}, "truncated": {4: 1}}, {"ended": "interrupted"}, "episode/ended", 5),
        ({"action": {3: 1}}, {}, "value/legal", 3),
        ({"action": {3: 200}}, {}, "value/legal", 3),
        ({"observation": {(4, 1): 101}}, {}, "value/bounds", 4),
        ({"observation": {(5, 0): -1}}, {}, "value/bounds", 5),
        ({"reward": {3: np.nan}}, {}, "value/reward", 3),
        ({"reward": {4: np.inf}}, {}, "value/reward", 4),
    ],
)
def test_each_broken_rule_is_found_and_placed(tmp_path, cuts, changes, options, rule, step):
    found = findings(write(tmp_path / "run", columns(**changes), cuts=cuts, **options))
    mine = [finding for finding in found if finding.rule == rule]
    assert mine, found
    # Behind the last action a row that is not the last one is an action of a player who is out.
    also = {"episode/silent"} if changes == {"is_last": {5: False}} else set()
    assert {finding.rule for finding in found} == {rule} | also
    assert mine[0].severity == "error"
    assert mine[0].step == step
    assert mine[0].episode == 7
    if rule.startswith("value/"):
        assert mine[0].player == 0
        assert mine[0].shard == "w0/000000"
        assert mine[0].block == (0 if len(cuts) == 1 or step < 3 else 1)
        assert mine[0].column in ("action", "observation", "reward")


def test_values_of_the_last_row_that_are_absent_are_not_judged(tmp_path):
    assert findings(write(tmp_path / "run", columns(action={5: 200}, reward={5: np.nan}))) == []


def test_an_episode_without_end_is_said(tmp_path):
    found = findings(write(tmp_path / "run", columns(), end=False))
    assert [(f.rule, f.severity) for f in found] == [("episode/open", "warn")]


@given(st.integers(1, 40), st.integers(1, 3), st.integers(0, 2), st.integers(0, 2**32 - 1))
@settings(max_examples=50, deadline=None)
def test_legality_is_that_of_the_unpacked_mask(items, repeat, ones, seed):
    """Against the mask as a reader gets it."""
    rng = np.random.default_rng(seed)
    schema = Schema([Field("action_mask", "bool", (items,), "observation", expand=(repeat, ones))])
    field = schema["action_mask"]
    packed = rng.integers(0, 256, (9, (items + 7) // 8)).astype(np.uint8)
    packed[:, -1] &= (1 << ((items - 1) % 8 + 1)) - 1
    full = schema.unpack("action_mask", packed)
    actions = rng.integers(0, field.logical_shape[0] + 2, 9)
    expected = [action < full.shape[1] and bool(full[row, action]) for row, action in enumerate(actions.tolist())]
    assert is_legal(field, packed, actions.astype(np.uint32)).tolist() == expected


def test_every_flipped_bit_of_a_shard_is_noticed(tmp_path):
    """Every bit of a small file would take minutes with all rules: every 37th, each offset of a byte among them."""
    shard = write_vectors(tmp_path / "run") / "shards/w0/000000.exp"
    whole = shard.read_bytes()
    for position in range(0, len(whole) * 8, 37):
        flip_bit(shard, position // 8, position % 8)
        found, _ = validate_shard(shard)
        assert any(finding.severity == "error" for finding in found), f"bit {position} of {len(whole) * 8}"
        shard.write_bytes(whole)
    assert validate_shard(shard)[0] == []


def test_a_published_shard_cut_short_is_an_error(tmp_path):
    run = write_vectors(tmp_path / "run")
    shard = run / "shards/w0/000000.exp"
    with ShardReader(shard) as reader:
        blocks_end = reader.blocks[-1].offset + ENVELOPE.size + reader.blocks[-1].nbytes
    for size in (shard.stat().st_size - 1, blocks_end, blocks_end - 1):
        os.truncate(shard, size)
        assert "error" in {finding.severity for finding in validate_shard(shard)[0]}
        for level in ("full", "quick"):
            assert any(f.severity == "error" and f.shard == "w0/000000" for f in findings(run, level)), (size, level)


def test_a_missing_shard_and_a_damaged_ledger_are_found(tmp_path):
    run = write_vectors(tmp_path / "run", episodes=6, shard_rows=10)
    shards = sorted((run / "shards/w0").glob("*.exp"))
    assert shards
    shards[0].unlink()
    found = findings(run)
    assert "run/shard-missing" in {finding.rule for finding in found}
    assert "ledger/durable" in {finding.rule for finding in found}
    assert "run/shard-missing" in {finding.rule for finding in findings(run, "quick")}
    flip_bit(run / "counters", 2)
    assert "ledger/damaged" in {finding.rule for finding in findings(run)}
    (run / "counters").unlink()
    assert "ledger/missing" in {finding.rule for finding in findings(run)}


def test_a_damaged_description_and_manifest_are_found(tmp_path):
    run = write_vectors(tmp_path / "run")
    manifest = run / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"rows"', '"sows"', 1))
    (run / "run.yaml").write_text("run: [")
    found = {finding.rule: finding for finding in findings(run)}
    assert found["run/description"].severity == "error"
    assert found["run/manifest"].severity == "warn"


def test_dropped_rows_explain_the_gaps_they_leave(tmp_path):
    """One block of memory, nobody to drain fast enough: drop-newest loses rows, and validation accepts the rest."""
    path = tmp_path / "run"
    create_run(path, RunInfo(id="x", source="test", schema=SCHEMA, players=["p"], policies=[PolicyInfo("only")]))
    writer = RunWriter(path, SCHEMA, 1)
    arrays = {name: np.ascontiguousarray(values[2:]) for name, values in columns().items()}
    writer.ledger.produced[0] += ROWS
    writer.ledger.drop(0, "drop-oldest", 2)
    block = BlockEncoder(SCHEMA).encode(0, arrays, ROWS - 2, {"drop-oldest": 2})
    writer.append(block, starts=[EpisodeStart(7, 1, [0], "test")])
    writer.append_episodes([], [EpisodeEnd(7, 2, "terminated", ROWS - 1, {"0": 1.0}, {"0": ROWS})])
    writer.close()
    assert findings(path) == []
    with open_run(path) as run:
        (player,) = balance(run)
        assert (player.produced, player.present, player.dropped_rows, player.lost) == (ROWS, ROWS - 2, 2, 0)


def hide(path, first, last, rows=0, retires=()):
    """A tombstone: the episodes are pruned. As for the ledger, `rows` of player 0 and writer 0 are."""
    with open_run(path) as run, Generation(path, run.info, "prune") as generation:
        generation.begin(supersedes=[(first, last)], retires=retires, removed=[(0, 0, rows, 0)])
        generation.publish()


def test_rows_that_do_not_count_are_checked_as_bytes_and_not_judged(tmp_path):
    path = write(tmp_path / "run", columns(action={3: 200}, step={4: 0}), end_rows=99)
    before = {finding.rule for finding in findings(path)}
    assert before == {"value/legal", "episode/steps", "episode/rows", "episode/silent"}
    hide(path, 7, 7, ROWS)
    for level in ("full", "quick"):
        rules = {finding.rule: finding for finding in findings(path, level)}
        assert set(rules) <= {"run/superseded"}, rules
    (found,) = findings(path)
    assert found.severity == "info"
    assert found.message == "6 rows in 1 shard were pruned or rewritten; compact frees what they take"
    shard = path / "shards/w0/000000.exp"
    with ShardReader(shard) as reader:
        flip_bit(shard, reader.blocks[0].body_offset)
    assert ("file/checksum", "error") in {(finding.rule, finding.severity) for finding in findings(path)}


def test_only_rows_that_count_of_a_block_are_judged(tmp_path):
    """Episode 7 and 8 in one block, each with an illegal action; 7 is pruned."""
    both = {name: np.concatenate([values, values]) for name, values in columns(action={3: 200}).items()}
    both["episode"][ROWS:] = 8
    path = write(tmp_path / "run", both, end=False, start=False, cuts=(2 * ROWS,))
    assert {f.episode for f in findings(path) if f.rule == "value/legal"} == {7}
    hide(path, 7, 7, ROWS)
    found = findings(path)
    assert {f.episode for f in found if f.rule == "value/legal"} == {8}
    assert {f.rule for f in found} == {"run/superseded", "value/legal", "episode/start", "episode/open"}


def test_damage_in_a_file_that_may_be_deleted_is_a_warning(tmp_path):
    path = write_vectors(tmp_path / "run", episodes=2)
    with open_run(path) as run:
        rows = len(run)
    hide(path, 0, 1, rows, retires=("w0/000000",))
    assert [(f.rule, f.severity) for f in findings(path)] == [("run/superseded", "info")]
    shard = path / "shards/w0/000000.exp"
    flip_bit(shard, shard.stat().st_size // 2)
    found = [f for f in findings(path) if f.rule.startswith("file/")]
    assert found
    assert {(f.severity, f.shard) for f in found} == {("warn", "w0/000000")}


def test_what_others_left_in_the_folder_is_said(tmp_path):
    path = write_vectors(tmp_path / "run")
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait(PATIENCE)
    for name in (f".run.yaml.{gone.pid}.tmp", f"shards/w0/.000001.exp.{gone.pid}.tmp", f".x.{os.getpid()}.tmp"):
        (path / name).write_bytes(bytes(2048))
    (path / "shards/g1").mkdir()
    (path / "shards/g1/000000.active").write_bytes(b"x")
    (path / "shards/g01").mkdir()
    (path / "shards/g01/000000.exp").write_bytes(b"x")
    (path / "shards/old").mkdir()
    for level in ("full", "quick"):
        found = findings(path, level)
        assert sorted((f.rule, f.severity) for f in found) == [
            ("run/temporary", "info"),
            ("run/unfinished", "info"),
            ("run/unknown-folder", "info"),
            ("run/unknown-folder", "warn"),
        ]
        told = {f.rule: f.message for f in found if f.severity == "info"}
        assert told["run/temporary"].startswith("2 files of 4.0 KiB")
        assert told["run/unfinished"].startswith("1 file of 1 B")
        assert "the 1 shard files in it" in next(f.message for f in found if f.severity == "warn")


def test_findings_come_in_one_order_whatever_the_number_of_threads(tmp_path):
    """Three shards of eight blocks, damaged here and there; the slow twin checks file by file."""
    path = tmp_path / "run"
    create_run(path, RunInfo(id="x", source="test", schema=SCHEMA, players=["p"], policies=[PolicyInfo("only")]))
    writer = RunWriter(path, SCHEMA, 1)
    for episode in range(24):
        rows = columns(**({"action": {1: 200}} if episode % 5 == 3 else {}))
        rows["episode"][:] = episode
        writer.ledger.produced[0] += ROWS
        writer.append(BlockEncoder(SCHEMA).encode(0, rows, ROWS), starts=[EpisodeStart(episode, 1, [0], "test")])
        if episode in (7, 15):
            writer.rotate()
    writer.close()
    shards = sorted(path.glob("shards/w0/*.exp"))
    assert len(shards) == 3
    for number, shard in enumerate(shards[:-1]):
        for part in range(1, 6):
            flip_bit(shard, shard.stat().st_size * part // 7 + number)
    os.truncate(shards[-1], shards[-1].stat().st_size - 1)
    with open_run(path) as run:
        one = list(validate_run(run, threads=1))
        assert len({finding.shard for finding in one}) > 2
        for threads in (2, 3, 8):
            for _ in range(3):
                assert list(validate_run(run, threads=threads)) == one
    twin = [
        (f"w0/{shard.stem}", found.rule, found.block, found.column, found.message)
        for shard in shards
        for found in check_shard(shard)
    ]
    assert [(f.shard, f.rule, f.block, f.column, f.message) for f in one if f.rule.startswith("file/")] == twin
    for shard in shards:
        assert validate_shard(shard, threads=1) == validate_shard(shard, threads=4)


def test_a_shard_of_another_schema_is_said_and_its_rows_are_not_judged(tmp_path):
    path, other = write_vectors(tmp_path / "run"), write_boards(tmp_path / "other")
    foreign = (other / "shards/w0/000000.exp").read_bytes()
    (path / "shards/w0/000001.exp").write_bytes(foreign)
    found = findings(path)
    assert ("file/schema", "w0/000001") in {(finding.rule, finding.shard) for finding in found}
    assert not [finding for finding in found if finding.rule.startswith("value/")]


@pytest.mark.parametrize("early", [True, False], ids=["before", "meanwhile"])
def test_a_run_that_grows_while_it_is_looked_at_has_no_findings(tmp_path, early):
    """Rows that come after the run was opened are of episodes and policies that it does not know yet."""
    recorder = Recorder(tmp_path / "run", VECTOR_SCHEMA, min_free=0, flush_interval="60s", shard_rows=4)
    recorder.set_policy(0, "first")

    def play(episode, steps):
        for step in steps:
            recorder.add(episode=episode, step=step, action=1, reward=1.0, observation=np.zeros(3, "f4"))
        recorder.flush()

    def grow(_=None):
        while growing:
            growing.pop()
            recorder.end(episode=0, player=0, observation=np.zeros(3, "f4"))
            recorder.set_policy(0, "second")
            play(1, range(2))

    play(0, range(4))
    play(0, range(4, 6))
    growing = [True]
    with open_run(tmp_path / "run") as run:
        assert len(run.policies) == 1
        assert [shard.active for shard in run.shard_paths] == [False, True]
        if early:
            grow()
        found = list(validate_run(run, threads=1, progress=grow))
        assert [finding for finding in found if finding.severity != "info"] == []
        assert not growing
        run.refresh()
        assert [finding for finding in validate_run(run) if finding.severity != "info"] == []
        assert len(run.policies) == 2
    recorder.close()


def test_progress_counts_every_row(tmp_path):
    seen = []
    with open_run(write_vectors(tmp_path / "run", episodes=20)) as run:
        assert list(validate_run(run, threads=2, progress=seen.append)) == []
        assert seen[-1] == len(run)
        assert seen == sorted(seen)


KILLED = """
import os, sys, time
sys.path[:0] = {tests!r}
import numpy as np
from pathlib import Path
from expkit import Recorder
from expkit.runs.counters import read_ledger
from written_runs import VECTOR_SCHEMA
recorder = Recorder("run", VECTOR_SCHEMA, min_free=0, flush_interval="60s")
def play(episode):
    for step in range(5):
        ends = step == 4
        recorder.add(episode=episode, step=step, action=1, reward=1.0, terminated=ends, observation=np.zeros(3, "f4"))
    recorder.end(episode=episode, player=0, observation=np.zeros(3, "f4"))
for episode in range(3):
    play(episode)
# The first rows are flushed within a moment, by themselves; what comes after them waits for the interval.
while not sum(player.durable for player in read_ledger(Path("run"))[0].players):
    time.sleep(0.01)
recorder.flush()
for episode in range(3, 5):
    play(episode)
print("ready", flush=True)
time.sleep(60)
"""


def test_a_killed_run_is_exit_3_and_says_what_was_lost(tmp_path):
    script = KILLED.format(tests=HELPERS)
    recorder = subprocess.Popen([sys.executable, "-c", script], cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    assert recorder.stdout.readline() == "ready\n"
    assert json.loads(expkit("list", ".", "--json", cwd=tmp_path).stdout)["runs"][0]["state"] == "recording"
    recorder.send_signal(signal.SIGKILL)
    recorder.wait(PATIENCE)
    recorder.stdout.close()
    for fail_on in ("error", "never"):
        done = expkit("validate", "run", "--fail-on", fail_on, "--json", cwd=tmp_path)
        assert done.returncode == 3, done.stdout
        body = json.loads(done.stdout)
        assert body["exit_code"] == 3
        assert body["produced"] == body["written"] + body["dropped"] + body["rejected"] + body["lost"] == 30
        assert body["written"] >= 18
        assert body["lost"] > 0
        assert {"run/unclosed", "ledger/lost"} <= {finding["rule"] for finding in body["findings"]}
    plain = expkit("validate", "run", cwd=tmp_path)
    assert plain.returncode == 3
    assert "WARN  run/unclosed" in plain.stdout
    assert plain.stdout.rstrip().endswith("[exit 3]")
    assert expkit("validate", "run", "--fail-on", "warn", "-q", cwd=tmp_path).returncode == 4


def test_the_json_of_validate_has_its_documented_keys(tmp_path):
    write_boards(tmp_path / "run")
    shard = tmp_path / "run/shards/w0/000000.exp"
    flip_bit(shard, shard.stat().st_size // 2)
    body = json.loads(expkit("validate", "run", "--json", cwd=tmp_path).stdout)
    assert {"ok", "rows", "produced", "written", "dropped", "rejected", "lost", "findings"} <= set(body)
    assert body["ok"] is False
    keys = {"severity", "rule", "shard", "block", "column", "episode", "player", "step", "message"}
    assert all(keys <= set(finding) for finding in body["findings"])
    github = expkit("validate", "run", "--format", "github", cwd=tmp_path).stdout
    assert github.startswith("::error file=run,title=file/")


def test_where_a_finding_is_reads_as_an_address():
    finding = Finding(
        severity="error", rule="file/checksum", message="2,048 values", shard="w0/000003", block=812, player=1,
        column="reward",
    )  # fmt: skip
    assert finding.where == "w0/000003 block 812 player 1 reward"


def test_summary_and_distributions_count_what_is_there(tmp_path):
    with open_run(write_boards(tmp_path / "run", episodes=4, steps=5)) as run:
        summary = summarize(run)
        assert (summary.rows, summary.steps, summary.episodes, summary.won) == (48, 40, 4, 4)
        assert summary.ended == {"terminated": 4}
        parts = {part.name: part for part in distributions(run).parts}
        assert dict(zip(parts["return"].edges, parts["return"].counts, strict=True)) == {-1.0: 4, 1.0: 4}
        assert dict(zip(parts["reward"].edges, parts["reward"].counts, strict=True)) == {-1.0: 4, 0.0: 32, 1.0: 4}
        assert parts["length"].total == 4
        assert parts["action"].total == 40
        assert parts["staleness"].high == 0
        assert BOARD_SCHEMA["action"].high == 8 * TILES
