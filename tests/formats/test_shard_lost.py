"""Blocks of which columns were lost: the rows stay, reading the lost values raises, everything else is as it was."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from shard_rows import BOARD, CARTPOLE, GOLDEN, TINY, rows_of, same_bits
from written_runs import write_boards

from expkit.errors import SchemaError, ShardError
from expkit.formats.shard import (
    BlockEncoder,
    ShardReader,
    ShardWriter,
    check_shard,
    copy_block,
    keys_of_runs,
)
from expkit.formats.shard.layout import BLOCK, COLUMN, LOST, RUN
from expkit.reading.opening import open_run
from expkit.row.schema import Field, Schema
from expkit.rules import Rows
from expkit.rules.values import within_bounds
from expkit.validation.validate import validate_run

NAMES = [column.name for column in BOARD.columns]


def in_order(columns):
    order = np.lexsort((columns["step"], columns["episode"]))
    return {name: values[order] for name, values in columns.items()}


def written(path, schema, *blocks):
    with ShardWriter(path, schema, {}) as writer:
        for block in blocks:
            writer.append_block(block)
    return path


def rules(path, **options):
    return [(f.severity, f.rule, f.block, f.column) for f in check_shard(path, **options)]


def lost_findings(block, names, schema=BOARD):
    return [("warning", "file/lost-values", block, c.name) for c in schema.columns if c.name in names]


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_rows_stay_and_lost_values_count_as_zeros(tmp_path_factory, data):
    """Both ways to lose columns give one file, that of an encoder to which they were zero."""
    rows = data.draw(st.integers(1, 80))
    rng = np.random.default_rng(data.draw(st.integers(0, 1 << 32)))
    columns = rows_of(BOARD, rng, rows)
    order = rng.permutation(rows)
    columns = {name: values[order] for name, values in columns.items()}
    lost = data.draw(st.sets(st.sampled_from([name for name in NAMES if name not in ("episode", "step")]), min_size=1))
    encoder = BlockEncoder(BOARD, frame_rows=16, narrow_rows=data.draw(st.sampled_from([0, 7])))
    folder = tmp_path_factory.mktemp("lost")
    good = {name: values for name, values in columns.items() if name not in lost}
    block = encoder.encode(2, good, rows, {"overflow": 5}, lost=lost)
    whole = encoder.encode(2, columns, rows, {"overflow": 5})
    zeroed = {n: np.zeros_like(v) if n in lost else v for n, v in columns.items()}
    assert block.episodes == encoder.encode(2, zeroed, rows).episodes
    path = written(folder / "a.exp", BOARD, block)
    with ShardReader(written(folder / "whole.exp", BOARD, whole)) as source:
        copied = copy_block(source, 0, lost)
        again = copy_block(source, 0)
    assert (again.head, again.body, again.index, again.episodes) == (
        whole.head, whole.body, whole.index, whole.episodes,
    )  # fmt: skip
    assert (copied.body, copied.episodes, copied.dropped) == (block.body, block.episodes, {"overflow": 5})
    assert copied.index == whole.index
    expected = in_order(columns)
    for file in (path, written(folder / "copy.exp", BOARD, copied)):
        assert rules(file) == rules(file, deep=False) == lost_findings(0, lost)
        with ShardReader(file) as reader:
            assert set(reader.lost_columns(0)) == lost
            found = reader.read_block(0, list(good))
            assert all(same_bits(found[name], expected[name]) for name in good)
            few = reader.read_rows(0, np.array([rows - 1, 0]), list(good))
            assert all(same_bits(few[name], expected[name][[rows - 1, 0]]) for name in good)
            assert reader.drops == {2: {"overflow": 5}}


@pytest.mark.parametrize("name", NAMES)
def test_reading_a_lost_column_says_where_and_is_no_new_finding(tmp_path, name):
    columns = rows_of(BOARD, np.random.default_rng(0), 30)
    encoder = BlockEncoder(BOARD)
    path = tmp_path / "a.exp"
    written(path, BOARD, encoder.encode(1, columns, 30), encoder.encode(1, columns, 30, lost=(name,)))
    assert rules(path) == lost_findings(1, {name})
    with ShardReader(path) as reader:
        assert reader.lost_columns(0) == ()
        assert reader.lost_columns(1) == (name,)
        said = f"a.exp block 1 player 1 {name}: values were lost: 30 rows have none; read the other columns"
        for read in (
            lambda: reader.read_block(1),
            lambda: reader.read_block(1, [name], slice(3, 5)),
            lambda: reader.read_rows(1, np.array([3]), ["action", name]),
            lambda: reader.verify_column(1, name),
        ):
            with pytest.raises(ShardError) as error:
                read()
            assert str(error.value).endswith(said)
        others = [other for other in NAMES if other != name]
        assert list(reader.read_block(1, others)) == others
        assert list(reader.read_block(0)) == NAMES
        assert reader.findings == []
        stored = reader.statistics(1)
        if name in stored:
            assert (stored[name].lost, stored[name].low, stored[name].nulls) == (True, None, 0)
        assert not any(entry.lost for other, entry in stored.items() if other != name)


@pytest.mark.parametrize(
    ("name", "limits"),
    [
        ("episode", (0, 2**64 - 1)),
        ("step", (0, 2**32 - 1)),
        ("policy_version", (0, 2**32 - 1)),
        ("time_ns", (-(2**63), 2**63 - 1)),
    ],
)
def test_ranges_that_are_not_known_are_those_of_the_type(tmp_path, name, limits):
    columns = rows_of(TINY, np.random.default_rng(0), 30)
    encoder = BlockEncoder(TINY)
    path = written(
        tmp_path / "a.exp", TINY, encoder.encode(0, columns, 30), encoder.encode(0, columns, 30, lost=[name])
    )
    with ShardReader(path) as reader:
        known, block = reader.blocks
        for key in ("episode", "step", "policy_version", "time_ns"):
            pair = getattr(block, f"{key}_min"), getattr(block, f"{key}_max")
            assert pair == (limits if key == name else (getattr(known, f"{key}_min"), getattr(known, f"{key}_max")))
    assert rules(path) == lost_findings(1, {name}, TINY)


def test_everything_may_be_lost(tmp_path):
    columns = rows_of(TINY, np.random.default_rng(0), 5)
    names = [column.name for column in TINY.columns]
    path = written(tmp_path / "a.exp", TINY, BlockEncoder(TINY).encode(0, {}, 5, lost=names))
    assert rules(path) == lost_findings(0, names, TINY)
    with ShardReader(path) as reader:
        assert (reader.rows, reader.read_block(0, [])) == (5, {})
        keys = ["episode", "step"]
    source = written(tmp_path / "b.exp", TINY, BlockEncoder(TINY).encode(0, columns, 5))
    with ShardReader(source) as reader:
        copied = written(tmp_path / "c.exp", TINY, copy_block(reader, 0, names))
        runs = reader.runs(0)
    assert rules(copied) == lost_findings(0, names, TINY)
    with ShardReader(copied) as reader:  # the head still knows whose rows they were
        assert reader.runs(0)[["episode", "rows"]].tolist() == runs[["episode", "rows"]].tolist()
        found = keys_of_runs(reader.runs(0))
    assert all(same_bits(found[key], in_order(columns)[key]) for key in keys)


def test_columns_lost_one_after_another_add_up(tmp_path):
    columns = rows_of(CARTPOLE, np.random.default_rng(0), 40)
    encoder = BlockEncoder(CARTPOLE)
    path = written(tmp_path / "0.exp", CARTPOLE, encoder.encode(0, columns, 40))
    for step, name in enumerate(["action", "reward", "observation"]):
        with ShardReader(path) as reader:
            path = written(tmp_path / f"{step + 1}.exp", CARTPOLE, copy_block(reader, 0, [name]))
    direct = encoder.encode(0, columns, 40, lost=["action", "reward", "observation"])
    with ShardReader(path) as reader:
        assert copy_block(reader, 0) == copy_block(reader, 0, ["action"]) == direct


def test_damage_in_another_column_is_no_copy(tmp_path):
    columns = rows_of(CARTPOLE, np.random.default_rng(0), 40)
    path = written(tmp_path / "a.exp", CARTPOLE, BlockEncoder(CARTPOLE).encode(0, columns, 40))
    with ShardReader(path) as reader:
        head, at = reader.head(0), reader.blocks[0].body_offset
        frame = head.first_frame[reader.names.index("observation")]
        data = bytearray(path.read_bytes())
        data[at + head.body_at[frame] + 3] ^= 16
    path.write_bytes(data)
    with ShardReader(path) as reader:
        with pytest.raises(ShardError, match="observation: checksum"):
            copy_block(reader, 0)
        with pytest.raises(ShardError, match="observation: checksum"):
            copy_block(reader, 0, ["action"])
        saved = written(tmp_path / "b.exp", CARTPOLE, copy_block(reader, 0, ["observation"]))
    assert rules(saved) == lost_findings(0, {"observation"}, CARTPOLE)


def test_names_the_schema_does_not_have_are_refused(tmp_path):
    columns = rows_of(TINY, np.random.default_rng(0), 5)
    with pytest.raises(SchemaError, match="no column 'bored'"):
        BlockEncoder(TINY).encode(0, columns, 5, lost=["bored"])
    with ShardReader(GOLDEN / "tiny.exp") as reader, pytest.raises(SchemaError, match="no column 'bored'"):
        copy_block(reader, 0, ["bored"])
    with pytest.raises(SchemaError):
        BlockEncoder(TINY).encode(0, {}, 1 << 60, lost=[column.name for column in TINY.columns])


def test_an_encoder_goes_on_after_a_block_that_lost_columns():
    columns = rows_of(BOARD, np.random.default_rng(0), 50)
    fresh, used = BlockEncoder(BOARD, frame_rows=16), BlockEncoder(BOARD, frame_rows=16)
    used.encode(0, columns, 50, lost=["observation/board", "value", "episode"])
    assert used.encode(0, columns, 50) == fresh.encode(0, columns, 50)


def test_runs_tell_the_keys_unless_steps_have_gaps():
    columns = rows_of(TINY, np.random.default_rng(0), 50, games=7)
    table = np.frombuffer(BlockEncoder(TINY).encode(0, columns, 50).head, RUN, 7, BLOCK.size)
    keys = keys_of_runs(table)
    assert all(same_bits(keys[name], in_order(columns)[name]) for name in ("episode", "step"))
    columns["step"][-1] += 1
    table = np.frombuffer(BlockEncoder(TINY).encode(0, columns, 50).head, RUN, 7, BLOCK.size)
    assert list(keys_of_runs(table)) == ["episode"]


@pytest.mark.parametrize("byte", [1, 2, 3, 4, 8, 12, 16, 31])
def test_a_lost_column_that_claims_anything_else_is_malformed(tmp_path, byte):
    """Each field of its entry but the filter has one value only."""
    encoder, columns = BlockEncoder(TINY), rows_of(TINY, np.random.default_rng(0), 12)
    block = encoder.encode(0, columns, 12, lost=["action"])
    runs = BLOCK.unpack_from(block.head)[3]
    place = BLOCK.size + runs * RUN.itemsize + TINY.columns.index(TINY.column("action")) * COLUMN.itemsize
    assert block.head[place] == LOST
    head = bytearray(block.head)
    head[place + byte] ^= 1
    bad = type(block)(0, 12, bytes(head), block.pieces, block.episodes, block.index)
    path = written(tmp_path / "a.exp", TINY, bad)
    assert "file/block" in {finding.rule for finding in check_shard(path)}
    with ShardReader(path) as reader, pytest.raises(ShardError, match="malformed"):
        reader.read_block(0, ["board"])


def test_a_run_reads_around_lost_values(tmp_path):
    """Asked for a lost column, a run raises or passes the block over; other columns are all there."""
    run = write_boards(tmp_path / "run", episodes=3, steps=5)
    shard = run / "shards/w0/000000.exp"
    with ShardReader(shard) as reader, ShardWriter(tmp_path / "new.exp", reader.schema, reader.header) as writer:
        writer.append_episodes(reader.episode_starts)
        for block in reader.blocks:
            lost = ["observation/army", "action"] if block.player == 0 else []
            writer.append_block(copy_block(reader, block.index, lost))
        writer.append_episodes(ends=reader.episode_ends)
    (tmp_path / "new.exp").replace(shard)
    with open_run(run) as opened:
        assert len(opened) == 36
        assert sum(len(batch["reward"]) for batch in opened.scan(["reward"])) == 30
        with pytest.raises(ShardError, match="block . player 0 observation/army: values were lost"):
            list(opened.scan(["observation/army"]))
        kept = list(opened.scan(["observation/army"], damaged="skip"))
        assert {player for batch in kept for player in batch["player"].tolist()} == {1}
        assert sum(len(batch["player"]) for batch in kept) == 15
        findings = [finding for finding in validate_run(opened) if finding.rule != "run/manifest"]
        assert {(f.severity, f.rule, f.player, f.column) for f in findings} == {
            ("warn", "file/lost-values", 0, "observation/army"),
            ("warn", "file/lost-values", 0, "action"),
        }


def test_values_are_not_judged_when_it_is_lost_which_were_given():
    schema = Schema([Field("value", "f4", low=1.0, nullable=True)])
    rows = rows_of(schema, np.random.default_rng(0), 4)
    rows["value"][:], rows["valid:value"][:] = [0, 0, 2, 0], [False, True, True, False]
    rows["is_last"][:] = False
    assert [found.rows.tolist() for found in within_bounds(Rows(schema, 0, rows))] == [[False, True, False, False]]
    del rows["valid:value"]
    assert list(within_bounds(Rows(schema, 0, rows))) == []
