"""What is kept of a damaged shard: every sound block byte for byte, of the others as much as can be proved."""

import errno
import os
import shutil
from contextlib import contextmanager

import numpy as np
import pytest
from damaged_runs import QuickDisk, contents, missing, small_run, what_is_at

from expkit.errors import NewerFormat, ReadFailed
from expkit.formats.shard import BlockEncoder, RowHasher, ShardReader, ShardWriter, check_shard
from expkit.formats.shard.layout import BLOCK, COLUMN, ENVELOPE, RUN, pack_envelope, pack_file_header
from expkit.recovery.recover import recover
from expkit.recovery.salvage import examine
from expkit.recovery.salvage_block import plan_block
from expkit.recovery.salvage_file import salvage
from expkit.row.schema import Field, Schema
from expkit.runs.layout import ShardPath, read_run_info
from expkit.system.files import using

SCHEMA = Schema([Field("observation", "u1", (4,), "observation"), Field("action", "i2", belongs="action")])


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """(run, what is in it, blocks of its one shard)."""
    path = small_run(tmp_path_factory.mktemp("small") / "run")
    return path, contents(path)


@pytest.fixture
def quick():
    with using(QuickDisk()):
        yield


def flip_and_recover(template, work, bits):
    """Recover the run with each of `bits` of its shard flipped: valid again, and no more lost than what it hit."""
    path, before = template
    shard = path / "shards/w0/000000.exp"
    data = shard.read_bytes()
    with ShardReader(shard) as good:
        names = good.names
        for bit in bits:
            shutil.rmtree(work, ignore_errors=True)
            shutil.copytree(path, work)
            hurt = bytearray(data)
            hurt[bit // 8] ^= 1 << bit % 8
            (work / "shards/w0/000000.exp").write_bytes(hurt)
            report = recover(work, threads=1)
            assert not report.findings, (bit, report.findings)
            assert report.repaired == ["w0/000000"], bit
            after = contents(work)
            lost_rows, lost_values, wrong = missing(before, after)
            assert not wrong, f"bit {bit} gave wrong values"
            assert (report.rows_lost, report.values_lost) == (len(lost_rows), len(lost_values)), bit
            place = what_is_at(good, bit // 8)
            if place is None:
                assert not lost_rows
                assert not lost_values
                continue
            block = good.blocks[place[0]]
            mine = {
                (run[0], block.player, step)
                for run in good.runs(block.index).tolist() for step in range(run[3], run[4] + 1)
            }  # fmt: skip
            assert set(lost_rows) in (set(), mine), bit
            assert not lost_rows or place[1] in (None, "episode", "step", "is_last"), bit
            assert {(key, names.index(name)) for key, name in lost_values} <= {
                (key, names.index(place[1] or names[0])) for key in mine
            }, bit
            if bit % 40 < 8:  # a fifth of all bytes: it takes a third of the time
                assert not recover(work, threads=1).anything_done, bit


def test_any_flipped_bit_costs_at_most_what_it_hit(template, tmp_path, quick, tell):
    size = (template[0] / "shards/w0/000000.exp").stat().st_size
    bits = np.random.default_rng(1).choice(size * 8, 300, replace=False).tolist()
    flip_and_recover(template, tmp_path / "run", bits)
    tell(f"recover: {len(bits):,} flipped bits, 0 rows or values lost beyond the block they hit")


@pytest.fixture(scope="module")
def smallest(tmp_path_factory):
    path = small_run(tmp_path_factory.mktemp("smallest") / "run", episodes=1)
    return path, contents(path)


@pytest.mark.slow
@pytest.mark.timeout(6000)
@pytest.mark.parametrize("part", range(16))
def test_every_flipped_bit_costs_at_most_what_it_hit(smallest, tmp_path, quick, part, tell):
    size = (smallest[0] / "shards/w0/000000.exp").stat().st_size
    bits = [bit for bit in range(size * 8) if bit // 8 % 16 == part]
    flip_and_recover(smallest, tmp_path / "run", bits)
    tell(f"recover: every bit of {len(bits) // 8:,} bytes flipped, 0 rows or values lost beyond the block they hit")


def test_a_cut_file_keeps_every_whole_block(template, tmp_path, quick):
    path, before = template
    shard = path / "shards/w0/000000.exp"
    data = shard.read_bytes()
    with ShardReader(shard) as good:
        blocks, per_block = list(good.blocks), {b.index: b.rows for b in good.blocks}
    for cut in np.random.default_rng(2).choice(len(data), 60, replace=False).tolist():
        work = tmp_path / "run"
        shutil.rmtree(work, ignore_errors=True)
        shutil.copytree(path, work)
        (work / "shards/w0/000000.exp").write_bytes(data[:cut])
        report = recover(work, threads=1)
        assert not report.findings, (cut, report.findings)
        rows, values, wrong = missing(before, contents(work))
        assert (len(values), wrong) == (0, [])
        assert len(rows) == sum(per_block[b.index] for b in blocks if b.offset + b.nbytes > cut)
        assert report.rows_lost == len(rows)
        assert not recover(work, threads=1).anything_done


def sorted_rows(rng, rows=40, games=2):
    out = {column.name: np.zeros(column.shape(rows), column.dtype) for column in SCHEMA.columns}
    each = rows // games
    out["episode"][:] = np.repeat(np.arange(games) + 5, each)
    out["step"][:] = np.tile(np.arange(each), games)
    out["time_ns"][:] = rng.integers(0, 1 << 40, rows)
    out["policy"][:] = 3
    out["policy_version"][:] = rng.integers(0, 9, rows)
    out["is_first"][:] = out["step"] == 0
    out["is_last"][:] = (out["step"] == each - 1) & (out["episode"] == 5)
    out["truncated"][:] = (out["step"] == each - 2) & (out["episode"] == 5)
    out["observation"][:] = rng.integers(0, 255, (rows, 4))
    out["action"][:] = rng.integers(0, 99, rows)
    return out


def hurt_columns(path, names, block=0):
    """Damage the first frame of each of the columns."""
    with ShardReader(path) as reader:
        info, head = reader.blocks[block], reader.head(block)
        places = [info.body_offset + head.body_at[head.first_frame[reader.names.index(n)]] for n in names]
    data = bytearray(path.read_bytes())
    for place in places:
        data[place] ^= 0x55
    path.write_bytes(data)


def written(path, *blocks):
    with ShardWriter(path, SCHEMA, {"run": "x"}) as writer:
        for block in blocks:
            writer.append_block(block)
    return path


def as_shard(path):
    return ShardPath(path, 0, 0, 0, path.suffix == ".active")


@pytest.mark.parametrize(
    ("names", "rebuilt", "lost"),
    [
        (["episode"], {"episode"}, set()),
        (["step"], {"step"}, set()),
        (["episode", "step"], {"episode", "step"}, set()),
        (["is_first"], {"is_first"}, set()),
        (["is_last"], {"is_last"}, set()),
        (["is_first", "is_last", "truncated"], {"is_first", "is_last", "truncated"}, set()),
        (["policy"], {"policy"}, set()),
        (["policy_version"], set(), {"policy_version"}),
        (["time_ns", "observation"], set(), {"time_ns", "observation"}),
        (["terminated"], {"terminated"}, set()),
        (["reward"], {"reward"}, set()),
        (["action", "step"], {"step"}, {"action"}),
        (["action", "is_first"], set(), {"action", "is_first"}),
    ],
)
def test_columns_that_the_head_proves_are_rebuilt(tmp_path, names, rebuilt, lost):
    columns = sorted_rows(np.random.default_rng(0))
    path = written(tmp_path / "000000.exp", BlockEncoder(SCHEMA).encode(1, columns, 40, {"drop-oldest": 2}))
    hurt_columns(path, names)
    survey = examine(as_shard(path), SCHEMA, 1)
    (plan,) = survey.plans
    assert (set(plan.rebuilt), set(plan.lost), plan.given_up) == (rebuilt, lost, "")
    target = tmp_path / "new.exp"
    salvage(survey, target, {"run": "x"}, SCHEMA)
    assert {f.rule for f in check_shard(target)} == ({"file/lost-values"} if lost else set())
    with ShardReader(target) as reader, ShardReader(path) as before:
        assert set(reader.lost_columns(0)) == lost
        found = reader.read_block(0, [name for name in reader.names if name not in lost])
        assert all(values.tobytes() == columns[name].tobytes() for name, values in found.items())
        assert reader.drops == {1: {"drop-oldest": 2}}
        if not lost:
            assert reader.digests == before.digests


def test_a_block_whose_rows_cannot_be_told_apart_is_given_up(tmp_path):
    columns = sorted_rows(np.random.default_rng(0))
    gaps = {**columns, "step": columns["step"] * 3}
    for rows, names in ((gaps, ["step"]), (columns, ["is_last", "action"])):
        path = tmp_path / "000000.exp"
        path.unlink(missing_ok=True)
        encoder = BlockEncoder(SCHEMA)
        written(path, encoder.encode(0, columns, 40), encoder.encode(1, rows, 40, {"drop-newest": 3}))
        hurt_columns(path, names, block=1)
        survey = examine(as_shard(path), SCHEMA, 1)
        assert [bool(plan.given_up) for plan in survey.plans] == [False, True]
        (lost,) = survey.lost_rows
        assert (lost.player, lost.rows, lost.by_key) == (1, 40, {(5, 1): 20, (6, 1): 20})
        target = tmp_path / "new.exp"
        target.unlink(missing_ok=True)
        salvage(survey, target, {"run": "x"}, SCHEMA)
        assert list(check_shard(target)) == []
        with ShardReader(target) as reader:
            assert reader.rows_by_player == {0: 40}
            assert reader.drops == {1: {"drop-newest": 3}}  # they were dropped before the block, and that is known


@pytest.mark.parametrize("name", ["is_first", "is_last", "terminated"])
def test_flags_that_no_digest_proves_are_not_guessed(tmp_path, name):
    columns = sorted_rows(np.random.default_rng(0))
    columns[name][7] = True  # where no episode has one
    path = written(tmp_path / "000000.exp", BlockEncoder(SCHEMA).encode(0, columns, 40))
    hurt_columns(path, [name])
    (plan,) = examine(as_shard(path), SCHEMA, 1).plans
    assert (plan.rebuilt, bool(plan.given_up)) == ((), name == "is_last")
    assert plan.lost == (() if name == "is_last" else (name,))


def test_zeros_of_a_float_are_rebuilt_only_where_their_sign_is_known(tmp_path):
    columns = sorted_rows(np.random.default_rng(0))
    columns["reward"][3] = -0.0
    path = written(tmp_path / "000000.exp", BlockEncoder(SCHEMA).encode(0, columns, 40))
    hurt_columns(path, ["reward"])
    (plan,) = examine(as_shard(path), SCHEMA, 1).plans
    assert plan.lost == ("reward",)


def forge(path, change):
    """Pass the head of the first block through `change` and make its checksum right again."""
    data = path.read_bytes()
    with ShardReader(path) as reader:
        block = reader.blocks[0]
    head = bytearray(data[block.offset + ENVELOPE.size : block.body_offset])
    change(head)
    envelope = pack_envelope(1, 0, bytes(head), block.sequence, block.body_bytes)
    path.write_bytes(data[: block.offset] + envelope + bytes(head) + data[block.body_offset :])


def test_sound_checksums_do_not_hide_a_wrong_digest_or_statistic(tmp_path):
    columns = sorted_rows(np.random.default_rng(0))

    def other_digest(head):
        head[BLOCK.size + 24] ^= 1

    def other_low(head):
        runs, place = BLOCK.unpack_from(head)[3], [c.name for c in SCHEMA.columns].index("action")
        head[BLOCK.size + runs * RUN.itemsize + place * COLUMN.itemsize + 16] ^= 1

    for change, given_up in ((other_digest, True), (other_low, False)):
        path = tmp_path / "000000.exp"
        path.unlink(missing_ok=True)
        forge(written(path, BlockEncoder(SCHEMA).encode(0, columns, 40)), change)
        survey = examine(as_shard(path), SCHEMA, 1)
        assert survey.damaged
        assert bool(survey.plans[0].given_up) is given_up
        target = tmp_path / "new.exp"
        target.unlink(missing_ok=True)
        salvage(survey, target, {"run": "x"}, SCHEMA)
        assert list(check_shard(target)) == []
        with ShardReader(target) as reader:
            assert reader.rows == (0 if given_up else 40)


def test_a_later_format_is_refused_not_repaired(tmp_path):
    path = tmp_path / "000000.exp"
    path.write_bytes(pack_file_header({"schema": SCHEMA.to_builtins()}, version=2))
    with pytest.raises(NewerFormat):
        examine(as_shard(path), SCHEMA, 1)


@contextmanager
def unreadable(monkeypatch, path, first, last):
    """A disk that does not give back bytes [first, last) of a file."""
    real = os.pread
    node = os.stat(path).st_ino

    def pread(handle, count, offset):
        if os.fstat(handle).st_ino == node and offset < last and offset + count > first:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return real(handle, count, offset)

    with monkeypatch.context() as patch:
        patch.setattr(os, "pread", pread)
        yield


def test_bytes_that_the_disk_does_not_give_back_cost_their_block(tmp_path, monkeypatch):
    columns = sorted_rows(np.random.default_rng(0))
    encoder = BlockEncoder(SCHEMA)
    path = written(tmp_path / "000000.exp", *(encoder.encode(player, columns, 40) for player in range(40)))
    with ShardReader(path) as reader:
        blocks, size = list(reader.blocks), reader.nbytes
    assert size > 4 * 4096
    for first, last in ((4096, 8192), (0, 4096), (size - 100, size), (blocks[9].offset + 3, blocks[9].offset + 4)):
        target = tmp_path / "new.exp"
        target.unlink(missing_ok=True)
        with unreadable(monkeypatch, path, first, last):
            with pytest.raises(ReadFailed, match="cannot be read: Input/output error.*--force"):
                examine(as_shard(path), SCHEMA, 1)
            survey = examine(as_shard(path), SCHEMA, 1, force=True)
            salvage(survey, target, {"run": "x"}, SCHEMA)
        assert {f.rule for f in check_shard(target)} <= {"file/lost-values"}
        hit = {b.player for b in blocks if b.offset < last and b.offset + b.nbytes > first}
        # Records are looked for page by page there: one that begins in such a page is not found.
        near = {b.player for b in blocks if first // 4096 * 4096 <= b.offset < -(-last // 4096) * 4096}
        with ShardReader(target) as reader:
            kept = {b.player for b in reader.blocks if not reader.lost_columns(b.index)}
            assert {b.player for b in blocks} - hit - near <= kept
            assert not kept & hit


def test_memory_is_bounded_by_a_few_blocks(tmp_path):
    import tracemalloc

    schema = Schema([Field("noise", "u1", (4096,), "observation")])
    rng = np.random.default_rng(0)
    rows = 200
    columns = {column.name: np.zeros(column.shape(rows), column.dtype) for column in schema.columns}
    columns["step"][:] = np.arange(rows)
    path = tmp_path / "000000.exp"
    encoder = BlockEncoder(schema)
    with ShardWriter(path, schema, {}) as writer:
        for episode in range(60):
            columns["episode"][:] = episode
            columns["noise"][:] = rng.integers(0, 255, (rows, 4096))
            writer.append_block(encoder.encode(0, columns, rows))
    hurt_columns(path, ["noise"], block=3)
    block = rows * schema.row_bytes
    tracemalloc.start()
    survey = examine(as_shard(path), schema, 1)
    salvage(survey, tmp_path / "new.exp", {}, schema)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(survey.lost_values) == 1
    assert peak < 16 * block < path.stat().st_size / 3  # a decoded block is read, unpacked, hashed and packed again


def test_a_plan_reads_what_validation_reads(template):
    """The hasher and the checks are those of `check_shard`: a sound shard has only sound plans."""
    path, _ = template
    schema = read_run_info(path).schema
    with ShardReader(path / "shards/w0/000000.exp") as reader:
        hasher = RowHasher(schema)
        for block in reader.blocks:
            plan, columns = plan_block(reader, block, hasher)
            assert (plan.lost, plan.anew, plan.given_up) == ((), False, "")
            assert columns.keys() == set(reader.names)
