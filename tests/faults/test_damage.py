"""Files that were cut or hold a flipped bit: noticed, named rightly, and nothing else is lost."""

import errno
import random
import shutil

import numpy as np
import pytest
from damaged_runs import small_run, what_is_at
from shard_rows import BOARD, TINY, everything, rows_of, write_shard

from expkit import open_run
from expkit.errors import NoSpace, ShardError
from expkit.formats.shard import BlockEncoder, ShardReader, ShardWriter, check_shard
from expkit.formats.shard.layout import FILE_HEADER
from expkit.reading.summary import balance, listed_rows
from expkit.system.files import Disk, using
from expkit.validation.validate import validate_run


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return write_shard(tmp_path_factory.mktemp("tiny") / "a.exp", TINY, blocks=2, rows=6)


@pytest.mark.parametrize("closed", [True, False])
def test_a_cut_at_any_byte_gives_back_every_whole_block_before_it(tmp_path, tried, closed):
    source = write_shard(tmp_path / "whole.exp", TINY, blocks=2, rows=6, close=closed)
    data, path = source.read_bytes(), tmp_path / "cut.exp"
    with ShardReader(source) as reader:
        blocks, columns = list(reader.blocks), everything(reader)
    header = FILE_HEADER.size + FILE_HEADER.unpack_from(data)[3]
    lost = 0
    for cut in range(len(data)):
        path.write_bytes(data[:cut])
        if cut < header:
            with pytest.raises(ShardError):
                ShardReader(path)
            continue
        with ShardReader(path) as reader:
            whole = [block for block in blocks if block.offset + block.nbytes <= cut]
            lost += sum(block.rows for block in whole if block not in reader.blocks)
            assert not closed or not reader.closed
            if cut % 16 == 0:
                assert reader.blocks == whole
                assert all(columns[key] == value for key, value in everything(reader).items())
            assert {finding.rule for finding in reader.findings} <= {"file/trailer"}
    assert len(data) > 1_000
    tried("cut", lost, cuts=len(data))


class Flipped:
    """A file in which bits are flipped one at a time, and how many of these were silent or cost too much."""

    def __init__(self, source, path, schema):
        self.data, self.path, self.schema = source.read_bytes(), path, schema
        self.good = ShardReader(source)
        self.blocks, self.columns = list(self.good.blocks), everything(self.good)
        self.by_offset = {block.offset: block for block in self.blocks}
        shutil.copyfile(source, path)
        self.broken: list[str] = []

    def flip(self, bit, *, deep=True):
        offset = bit // 8
        with open(self.path, "r+b") as file:
            file.seek(offset)
            file.write(bytes([self.data[offset] ^ 1 << bit % 8]))
            file.flush()
            self._look(bit, deep)
            file.seek(offset)
            file.write(self.data[offset : offset + 1])

    def _look(self, bit, deep):
        findings = list(check_shard(self.path, deep=deep, schema=self.schema))
        if not findings or not all(str(self.path) in str(finding) for finding in findings):
            self.broken.append(f"bit {bit} is silent")
        place = what_is_at(self.good, bit // 8)
        # Of a large file what was not hit is not decoded again: its checksums were compared.
        near = None if deep else place and self.blocks[place[0]]
        with ShardReader(self.path, schema=self.schema) as reader:
            now = everything(reader) if deep else self._block(reader, near)
        before = self.columns if near is None and deep else {
            key: value for key, value in self.columns.items() if near is not None and key[0] == near.offset
        }  # fmt: skip
        lost = {key for key, value in before.items() if now.get(key) != value}
        if any(now.get(key) is not None for key in lost):
            self.broken.append(f"bit {bit} gave wrong values")
        if place is None:
            costs_more = bool(lost)
        elif place[1] is None:
            costs_more = not {at for at, _ in lost} <= {self.blocks[place[0]].offset}
        else:
            block = self.blocks[place[0]]
            costs_more = lost != {(block.offset, place[1])}
            if not any((f.block, f.column, f.player) == (*place, block.player) for f in findings):
                self.broken.append(f"bit {bit}: no finding names block {place[0]} {place[1]}: {findings}")
        if costs_more:
            self.broken.append(f"bit {bit} in {place} cost {sorted(lost)}")

    def _block(self, reader, wanted):
        if wanted is None:
            return {}
        number = next((block.index for block in reader.blocks if block.offset == wanted.offset), None)
        out = {}
        for name in reader.names if number is not None else ():
            try:
                out[wanted.offset, name] = reader.read_block(number, [name])[name].tobytes()
            except ShardError:
                out[wanted.offset, name] = None
        return out

    def tell(self, tried, flips):
        self.good.close()
        print("\n".join(self.broken[:20]))
        tried("flip", len(self.broken), flips=flips)


def test_flipped_bits_of_a_shard_are_noticed(tiny, tmp_path, tried):
    file = Flipped(tiny, tmp_path / "flipped.exp", TINY)
    bits = random.Random(1).sample(range(len(file.data) * 8), 1_000)
    for bit in bits:
        file.flip(bit)
    file.tell(tried, len(bits))


@pytest.mark.slow
@pytest.mark.parametrize("part", range(8))
def test_every_flipped_bit_of_a_shard_is_noticed(tiny, tmp_path, tried, part):
    file = Flipped(tiny, tmp_path / "flipped.exp", TINY)
    bits = range(part, len(file.data) * 8, 8)
    for bit in bits:
        file.flip(bit)
    file.tell(tried, len(bits))


@pytest.mark.slow
@pytest.mark.parametrize("part", range(4))
def test_flipped_bits_of_a_large_file_are_noticed(tmp_path, tried, part):
    """Checksums of the whole file are compared each time, and the block that was hit is decoded again."""
    source = write_shard(tmp_path / "large.exp", BOARD, blocks=24, rows=1_500)
    assert source.stat().st_size > 1 << 20
    file = Flipped(source, tmp_path / "flipped.exp", BOARD)
    rng = random.Random(part)
    for _ in range(2_500):
        file.flip(rng.randrange(len(file.data) * 8), deep=False)
    file.tell(tried, 2_500)


def seen_of(path):
    """What a reader makes of a run: every row, the description, and the ledger against the files."""
    with open_run(path) as run:
        rows = [{name: values.tobytes() for name, values in batch.items()} for batch in run.scan(rows="all")]
        info = run.info
        described = (info.id, info.source, info.schema, info.players, info.config, info.seed, info.metadata)
        return rows, described, [episode.number for episode in run.episodes()], balance(run), listed_rows(run)


@pytest.mark.parametrize("name", ["manifest.json", "counters", "run.yaml"])
def test_flipped_bits_beside_the_shards_cost_no_row(tmp_path, tried, name):
    """manifest.json and run.yaml hold checksums of all they say: a reader goes by the shards instead. So does the
    ledger, but for the times and the process of each section, on which nothing depends."""
    path = small_run(tmp_path / "run")
    before, file = seen_of(path), path / name
    data, rng = file.read_bytes(), random.Random(1)
    silent = wrong = 0
    flips = rng.sample(range(min(len(data), 4500) * 8), 300)
    if name == "counters":  # its header, and the state, times, checksum and counts of its one section
        flips += [*range(160), *range(4096 * 8, 4096 * 8 + 64), *rng.sample(range(4096 * 8, 4096 * 8 + 2560), 200)]
    for bit in flips:
        hurt = bytearray(data)
        hurt[bit // 8] ^= 1 << bit % 8
        file.write_bytes(hurt)
        with open_run(path) as run:
            noticed = list(validate_run(run, "quick"))
        now = seen_of(path)
        same = now[:3] == before[:3] and now[4] == before[4] and (now[3] in (before[3], None) or noticed)
        wrong += not same
        silent += not noticed and now != before
        if not same or (not noticed and now != before):
            print(f"bit {bit} of byte {bit // 8}: noticed {noticed}, {now[3:]} was {before[3:]}")
    tried("flip", silent + wrong, flips=len(flips))


class FullOnce(Disk):
    """Takes half of the `at`-th write, has no room for the rest, and room again after that."""

    def __init__(self, at):
        self.left, self.torn = at, False

    def write(self, handle, pieces):
        self.left -= 1
        if self.left == 0:
            self.torn = True
            data = b"".join(pieces)
            return super().write(handle, [data[: len(data) // 2]])
        if self.left == -1:
            raise OSError(errno.ENOSPC, "full")
        return super().write(handle, pieces)


@pytest.mark.parametrize("at", range(1, 8))
def test_an_append_that_failed_leaves_nothing_of_it(tmp_path, at):
    encoder, rng = BlockEncoder(TINY), np.random.default_rng(1)
    blocks = [encoder.encode(player, rows_of(TINY, rng, 12), 12) for player in (0, 1, 0, 1, 0)]
    with ShardWriter(tmp_path / "a.exp", TINY, {}) as writer:
        disk = FullOnce(at)
        with using(disk):
            for block in blocks:
                try:
                    writer.append_block(block)
                except NoSpace:
                    writer.append_block(block)
        assert disk.torn == (at <= len(blocks))
    assert list(check_shard(tmp_path / "a.exp")) == []
    with ShardReader(tmp_path / "a.exp") as reader:
        assert reader.rows == 60
