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
from written_runs import BOARD_SCHEMA, TILES, flip_bit, write_boards, write_vectors

from expkit import Field, Schema, open_run
from expkit.episodes import EpisodeEnd, EpisodeStart, PolicyInfo
from expkit.formats.shard.encode import BlockEncoder
from expkit.formats.shard.layout import ENVELOPE
from expkit.formats.shard.read import ShardReader
from expkit.runs.finding import Finding
from expkit.runs.layout import RunInfo
from expkit.runs.summary import balance, distributions, summarize
from expkit.runs.validate import validate_run, validate_shard
from expkit.runs.value_rules import is_legal
from expkit.runs.write import RunWriter, create_run

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
    assert {finding.rule for finding in found} == {rule}
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


def expkit(*arguments, cwd):
    return subprocess.run(
        [sys.executable, "-m", "expkit.commands", *map(str, arguments)], cwd=cwd, capture_output=True, text=True,
        timeout=120, check=False,
    )  # fmt: skip


KILLED = """
import os, sys, time
sys.path.insert(0, {tests!r})
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
    script = KILLED.format(tests=os.path.dirname(__file__))
    recorder = subprocess.Popen([sys.executable, "-c", script], cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    assert recorder.stdout.readline() == "ready\n"
    assert json.loads(expkit("list", ".", "--json", cwd=tmp_path).stdout)["runs"][0]["state"] == "recording"
    recorder.send_signal(signal.SIGKILL)
    recorder.wait(30)
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
