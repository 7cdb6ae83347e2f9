"""Recording through a pipeline: the same rows as on reading, every row accounted for, and the command line's part."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from patience import PATIENCE
from pipeline_rows import SCHEMA
from pipeline_runs import WHOLE, by_key, joined, write
from places import HELPERS

from expkit import Field, Recorder, open_run
from expkit.collect.session import Session
from expkit.errors import ConfigError, SchemaError, UsageError
from expkit.formats.shard import ShardReader
from expkit.pipeline import Chain, processor, processor_names
from expkit.reading.summary import balance
from expkit.settings.config import Config, Links, links_of, resolve
from expkit.settings.document import json_schema
from expkit.validation.validate import validate_run

ROW_BY_ROW = [
    {"kind": "sanitize", "nan": "quarantine", "infinite": "reject", "dtype": {"observation/board": "f2"}},
    {"kind": "filter", "where": "action != 3 or is_last"},
    {"kind": "sample_weights", "by": "priority", "column": "guess"},
    "test_pipeline:doubled",
    {"kind": "redact", "columns": ["observation/seen"]},
    {"kind": "redact", "columns": ["mask"], "how": "zero"},
    "validate",
]


def findings(path: Path) -> list[str]:
    with open_run(path) as run:
        return [str(one) for one in validate_run(run) if one.severity == "error"]


def all_rows(path: Path, pipeline=None) -> dict[str, np.ndarray]:
    with open_run(path) as run:
        return by_key(joined(list(run.scan(rows="all", pipeline=pipeline))))


def assert_same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert found.keys() == expected.keys()
    for name, values in found.items():
        if name != "time_ns":
            np.testing.assert_array_equal(values, expected[name], err_msg=name)
            assert values.dtype == expected[name].dtype


def nothing(*rows: int) -> dict[str, np.ndarray]:
    """Fields of a row, or of so many, besides the reward."""
    empty = {"observation/board": (2, 3), "observation/seen": (5,), "mask": (7,), "value": (), "action": ()}
    return {name: np.zeros((*rows, *shape), np.int32) for name, shape in empty.items()}


@pytest.fixture(scope="module")
def both(tmp_path_factory) -> tuple[Path, Path]:
    """The same rows, as they came and through a pipeline."""
    folder = tmp_path_factory.mktemp("recording")
    return write(folder / "raw"), write(folder / "processed", pipeline=ROW_BY_ROW)


def test_what_is_recorded_is_what_reading_would_have_made_of_it(both):
    raw, processed = both
    assert_same(all_rows(processed), all_rows(raw, ROW_BY_ROW))
    found, expected = all_rows(processed, WHOLE), all_rows(raw, [*ROW_BY_ROW, *WHOLE])
    # Of an episode that was cut off nobody counted the rows: where players take turns, a reader that knows of rows left
    # out somewhere takes each of its jumps for a gap.
    with open_run(raw) as run:
        cut = [episode.number for episode in run.episodes() if episode.end.cut]
    assert cut
    certain = ~(np.isin(found["episode"], cut) & (found["player"] == 1))
    assert certain.mean() > 0.7
    assert_same(*({name: values[certain] for name, values in rows.items()} for rows in (found, expected)))


def test_every_row_is_accounted_for(both):
    raw, processed = both
    with open_run(raw) as run:
        produced = dict.fromkeys(run.players, 0)
        for batch in run.scan(rows="all"):
            produced[int(batch["player"][0])] += len(batch["step"])
        chain = Chain(ROW_BY_ROW, run.schema)
        list(run.scan(rows="all", pipeline=chain))
    with open_run(processed) as run:
        accounts = balance(run)
        assert accounts is not None
        for one in accounts:
            assert one.produced == produced[one.player]
            assert one.produced == one.written + one.dropped_rows + one.rejected
            assert (one.lost, one.pending, one.written) == (0, 0, one.present)
        assert sum(one.dropped["filtered"] for one in accounts) == chain.counts.filtered > 0
        left_out = chain.counts.rejected.total() + chain.counts.quarantined.total()
        assert sum(one.rejected for one in accounts) == left_out > 3
        told = sum(block.info.dropped.get("filtered", 0) for block in run.blocks())
        assert 0 < told <= chain.counts.filtered
    assert findings(processed) == []
    events = [json.loads(line) for line in (processed / "events.jsonl").read_text().splitlines()]
    (event,) = [event for event in events if event["event"] == "pipeline"]
    assert {name: event[name] for name in chain.counts.as_dict()} == chain.counts.as_dict()
    assert event["links"][:2] == ["sanitize", "filter"]


def test_quarantined_rows_are_kept_as_they_came(both):
    raw, processed = both
    (file,) = (processed / "quarantine").iterdir()
    reader = ShardReader(file)
    assert reader.schema == SCHEMA
    assert reader.header["rejected_by"][0] == "sanitize"
    kept = []
    for info in reader.blocks:
        stored = reader.read_block(info.index)
        rows = {name: SCHEMA.unpack(name, values) for name, values in stored.items()}
        kept.append({**rows, "player": np.full(info.rows, info.player, np.uint16)})
    found, everything = by_key(joined(kept)), all_rows(raw)
    wrong = np.isnan(everything["observation/board"]).any(axis=(1, 2))
    assert wrong.sum() > 2
    assert_same(found, {name: everything[name][wrong] for name in found})


def test_blocks_of_which_nothing_is_left_leave_a_run_that_is_whole(tmp_path):
    def record(path, links):
        with Recorder(path, SCHEMA, min_free=0, pipeline=links) as recorder:
            for episode in range(3):
                steps = np.arange(10)
                recorder.add_batch(episode=episode, step=steps, reward=np.full(10, np.nan), **nothing(10))
                recorder.flush()
        with open_run(path) as run:
            assert len(run) == 0
            assert [episode.end.rows for episode in run.episodes()] == [{"0": 10}] * 3
            (account,) = balance(run)
            assert (account.produced, account.written, account.lost) == (30, 0, 0)
        assert findings(path) == []
        return account

    assert record(tmp_path / "a", ["validate"]).rejected == 30
    assert record(tmp_path / "b", [{"kind": "filter", "where": "reward > 0"}]).dropped == {"filtered": 30}


def test_rows_that_a_full_buffer_drops_stay_apart_from_those_that_are_left_out(tmp_path):
    links = [{"kind": "filter", "where": "action != 2"}, "validate"]
    schema = SCHEMA.with_fields(noise="f4")
    with Recorder(
        tmp_path / "run",
        schema,
        min_free=0,
        overflow="drop-oldest",
        memory="600KB",
        concurrent_episodes=1,
        pipeline=links,
    ) as recorder:
        for step in range(12_000):
            reward = np.inf if step % 97 == 0 else 1.0
            if step == 5_000:
                recorder.collector.writer.lock.acquire()  # nothing is written, so that the buffer runs over
            elif step == 9_000:
                recorder.collector.writer.lock.release()
            elif step % 250 == 0 and not 5_000 < step < 9_000:
                recorder.flush()  # nor does it before and after that
            recorder.add(episode=step // 50, step=step % 50, reward=reward, **(nothing() | {"action": step % 4}))
        recorder.flush()
        stats = recorder.collector.stats()
    produced, written, rejected = stats.produced[0], stats.written[0], stats.rejected[0]
    assert produced == written + rejected + sum(stats.dropped[0].values()) == 12_000
    assert stats.dropped[0]["filtered"] > 1_000
    assert stats.dropped[0]["drop-oldest"] > 100
    assert rejected > 10
    with open_run(tmp_path / "run") as run:
        (account,) = balance(run)
        assert account.produced == account.present + account.rejected + account.dropped_rows
        assert account.dropped == stats.dropped[0]
    assert findings(tmp_path / "run") == []


def test_a_subscriber_sees_what_is_written(tmp_path):
    links = [{"kind": "filter", "where": "step % 2 == 0"}, {"kind": "redact", "columns": ["mask"]}, bonus]
    with Recorder(tmp_path / "run", SCHEMA, min_free=0, pipeline=links) as recorder:
        stream = recorder.subscribe()
        for step in range(10):
            recorder.add(episode=0, step=step, reward=1.0, **nothing())
    seen = joined(list(stream))
    assert seen["step"].tolist() == [0, 2, 4, 6, 8]
    assert seen["bonus"].tolist() == [2.0] * 5
    assert "mask" not in seen


def test_a_processor_that_raises_stops_the_recording(tmp_path):
    @processor(reads=["reward"], changes=["reward"])
    def broken(rows):
        raise ZeroDivisionError("no such number")

    recorder = Recorder(tmp_path / "run", SCHEMA, min_free=0, pipeline=broken)
    recorder.add(episode=0, step=0, reward=0.0, **nothing())
    with pytest.raises(ZeroDivisionError, match="no such number"):
        recorder.flush()
    with pytest.raises(ZeroDivisionError):
        recorder.close()
    with open_run(tmp_path / "run") as run:
        (account,) = balance(run)
        assert (account.produced, account.acknowledged, account.unexplained) == (1, 1, 0)


def test_whole_episodes_are_refused_while_they_are_played(tmp_path):
    with pytest.raises(UsageError, match=r"pipeline: gae needs whole episodes.*run\.scan\(pipeline") as caught:
        Recorder(tmp_path / "run", SCHEMA, min_free=0, pipeline=["validate", "gae"])
    assert "\n" not in str(caught.value)
    config = resolve({"pipeline": "[discounted_return]", "min_free": 0}, None, {}).config
    with pytest.raises(UsageError, match="discounted_return needs whole episodes"):
        Session(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_joining_a_run_asks_for_the_same_fields(tmp_path):
    links = [{"kind": "redact", "columns": ["mask"]}]
    Recorder(tmp_path / "run", SCHEMA, min_free=0, pipeline=links).close()
    with open_run(tmp_path / "run") as run:
        assert run.config == {"pipeline": {"processors": [{"kind": "redact", "columns": ["mask"], "how": "remove"}]}}
    Recorder(tmp_path / "run", SCHEMA, min_free=0, mode="a", pipeline=links).close()
    with pytest.raises(SchemaError, match="another schema"):
        Recorder(tmp_path / "run", SCHEMA, min_free=0, mode="a")


def test_planes_of_a_live_game_go_through_a_pipeline_alike_on_recording_and_reading(tmp_path):
    links = [{"kind": "sanitize", "dtype": {"observation": "f2"}}, {"kind": "filter", "where": "step % 5 != 2"}]
    flags = {"episodes": 3, "seed": 5, "size": "8x8", "max_steps": 60, "num_envs": 2, "min_free": 0,
             "representation": "planes"}  # fmt: skip
    for name, pipeline in (("raw", None), ("processed", json.dumps(links))):
        config = resolve({**flags, "pipeline": pipeline}, None, {}).config
        result = Session(config, tmp_path / name).run()
        assert (result.left_out is None) == (pipeline is None)
    assert result.left_out.filtered == sum(stats["filtered"] for stats in result.stats.dropped.values()) > 0
    assert_same(all_rows(tmp_path / "processed"), all_rows(tmp_path / "raw", links))
    gae = [*links, {"kind": "discounted_return", "gamma": 0.9}, "frame_stack"]
    assert_same(all_rows(tmp_path / "processed", gae[2:]), all_rows(tmp_path / "raw", gae))


@processor(reads=["reward"], makes=[Field("bonus", "f4")])
def bonus(rows):
    return {"bonus": rows["reward"] + 1}


def expkit(*words: str, cwd: Path, code: int = 0) -> subprocess.CompletedProcess[str]:
    environ = {
        **os.environ,
        "EXPKIT_MIN_FREE": "0",
        "PYTHONPATH": os.pathsep.join([*HELPERS, os.environ.get("PYTHONPATH", "")]),
    }
    command = [sys.executable, "-m", "expkit.commands", *words]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=PATIENCE, env=environ)
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done


def test_the_command_line_records_through_a_pipeline_and_goes_on_with_it(tmp_path):
    small = ["--size", "8x8", "--max-steps", "40", "--num-envs", "2", "--seed", "3"]
    file = tmp_path / "settings.yaml"
    file.write_text(
        "pipeline:\n  processors:\n    - validate\n    - kind: filter\n      where: step % 3 == 0 or is_last\n"
        "    - test_pipeline_recording:bonus\n    - kind: redact\n      columns: [action_mask]\n"
    )
    done = expkit("record", "-o", "run", "--config", str(file), "--episodes", "2", *small, "--json", cwd=tmp_path)
    said = json.loads(done.stdout)
    assert said["lost"] == 0
    assert said["produced"] == said["written"] + said["dropped"] + said["rejected"]
    assert said["pipeline"]["filtered"] == said["dropped"] > 0
    assert said["players"]["0"]["dropped_by_cause"].keys() == {"filtered"}
    with open_run(tmp_path / "run") as run:
        assert "bonus" in run.schema
        assert "action_mask" not in run.schema
        assert run.config["pipeline"]["processors"][0] == "validate"
        rows = joined(list(run.scan(["reward", "bonus"])))
        np.testing.assert_array_equal(rows["bonus"], rows["reward"] + 1)
    append = ["record", "--append", "-o", "run", "--episodes", "1"]
    assert "--trust-code" in expkit(*append, cwd=tmp_path, code=2).stderr
    again = json.loads(expkit(*append, "--json", "--trust-code", cwd=tmp_path).stdout)
    assert again["pipeline"]["filtered"] > 0
    assert findings(tmp_path / "run") == []
    done = expkit("record", "--append", "-o", "run", "--episodes", "1", "--pipeline", "validate", cwd=tmp_path, code=2)
    assert '--pipeline is ["validate"] (flag --pipeline), but run was recorded with' in done.stderr


def test_settings_of_a_pipeline_are_typed():
    links = [{"kind": "sanitize", "nan": "reject"}, "mine:thing"]
    by_text = resolve({"pipeline": "[{kind: sanitize, nan: reject}, 'mine:thing']"}, None, {}).config
    by_value = resolve({"pipeline": links}, None, {"EXPKIT_PIPELINE": "validate"}).config
    assert by_text == by_value
    assert by_text.pipeline.processors == Links(links)
    assert by_text.digest != Config().digest
    assert resolve({}, None, {"EXPKIT_PIPELINE": "validate"}).config.pipeline.processors == Links(["validate"])
    assert resolve({"pipeline": "{kind: gae}"}, None, {}).config.pipeline.processors == Links([{"kind": "gae"}])
    assert links_of(json.loads(json.dumps(by_text.as_dict()))["pipeline"]["processors"], "here") == Links(links)
    for wrong, says in (
        (
            "[{kind: sanitize, nan: drop}]",
            "--pipeline: pipeline.processors, link 1: sanitize: Invalid enum value 'drop'",
        ),
        ("[validate, {kind: gae, gama: 1}]", "link 2: gae has no option 'gama'; did you mean gamma?"),
        ("[3]", "link 1: a link is a kind, or a mapping"),
        ("[validate", "--pipeline: pipeline.processors: not valid YAML"),
    ):
        with pytest.raises(ConfigError) as caught:
            resolve({"pipeline": wrong}, None, {})
        assert says in str(caught.value)
        assert "\n" not in str(caught.value)


def test_the_json_schema_knows_every_processor_and_its_options():
    (leaf,) = json_schema()["properties"]["pipeline"]["properties"].values()
    by_kind = {
        one["properties"]["kind"]["const"]: one
        for one in leaf["items"]["anyOf"]
        if one["type"] == "object" and "const" in one["properties"]["kind"]
    }
    assert list(by_kind) == processor_names()
    assert by_kind["gae"]["properties"]["gamma"]["maximum"] == 1
    assert by_kind["filter"]["required"] == ["kind", "where"]
