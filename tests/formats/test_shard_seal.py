"""Closing the file of a killed writer: cut anywhere, killed anywhere, every whole block stays and nothing doubles."""

import os

import numpy as np
import pytest
from shard_rows import BOARD, CARTPOLE, TINY, rows_of, write_shard

from expkit.errors import NoSpace, NotThere, ShardError
from expkit.formats.shard import BlockEncoder, ShardReader, ShardWriter, check_shard, copy_block, seal_shard
from expkit.formats.shard.layout import FILE_HEADER
from expkit.row.episodes import EpisodeEnd, EpisodeStart
from expkit.system.files import Disk, using

FIRST = 1 << 48
ENDS = [EpisodeEnd(FIRST + game, 10, "interrupted", 3) for game in range(4)]
EXTRA = {"ends": ENDS, "metas": [{"note": 1}, {"note": 1}], "drops": [(0, {"overflow-oldest": 5}), (1, {})]}


class Hasty(Disk):
    """Syncs nothing: a kill does not ask for it, and thousands of syncs take a minute."""

    def sync(self, handle, *, data_only=False):
        pass


def contents(path):
    """What is in a file, wherever its records stand."""
    with ShardReader(path) as reader:
        return {
            "blocks": [(b.player, b.dropped, copy_block(reader, b.index)) for b in reader.blocks],
            "starts": list(reader.episode_starts),
            "ends": list(reader.episode_ends),
            "metas": [meta for meta in reader.metas if "sealed" not in meta],
            "drops": reader.drops,
            "digests": reader.digests,
        }


def is_sound_and_closed(path):
    with ShardReader(path) as reader:
        assert reader.closed
    return list(check_shard(path)) == []


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """(bytes, [(end of a record, blocks so far, starts so far, ends so far)]) of a small file its writer closed."""
    path = tmp_path_factory.mktemp("tiny") / "a.exp"
    encoder, rng = BlockEncoder(TINY), np.random.default_rng(5)
    marks = []
    with ShardWriter(path, TINY, {"run": "g"}) as writer:

        def mark():
            marks.append((writer.nbytes, writer.blocks, writer.episodes_started, len(marks) > 3))

        mark()
        writer.append_episodes([EpisodeStart(FIRST + game, 1, [0], "g") for game in range(4)])
        mark()
        for player in range(2):
            writer.append_block(encoder.encode(player, rows_of(TINY, rng, 6), 6, {"overflow-newest": player}))
            mark()
        writer.append_episodes(ends=[EpisodeEnd(FIRST, 9, "terminated", 2)])
        mark()
    return path.read_bytes(), marks


def test_a_cut_at_any_byte_is_sealed_with_every_whole_block_before_it(tiny, tmp_path):
    data, marks = tiny
    path, whole = tmp_path / "cut.active", tmp_path / "whole.exp"
    whole.write_bytes(data)
    everything = contents(whole)
    for cut in range(len(data) + 1):
        path.write_bytes(data[:cut])
        with using(Hasty()):
            sealed = seal_shard(path, **EXTRA)
        if cut < marks[0][0]:
            assert sealed.empty
            assert not sealed.changed
            assert path.read_bytes() == data[:cut]
            continue
        end, blocks, starts, ended = max(mark for mark in marks if mark[0] <= cut)
        assert (sealed.empty, sealed.changed) == (False, True)
        assert (sealed.blocks, sealed.rows, sealed.nbytes) == (blocks, 6 * blocks, path.stat().st_size)
        assert sealed.rows_by_player == dict.fromkeys(range(blocks), 6)
        assert path.read_bytes()[:end] == data[:end]
        if cut < marks[-1][0]:
            assert sealed.cut_bytes == cut - end
        if cut % 8 and cut - end > 2:  # the whole look at all of them takes half a minute
            with ShardReader(path) as reader:
                assert (reader.closed, reader.findings) == (True, [])
                assert sum(rows for rows, _ in reader.digests.values()) == 6 * blocks
                assert len(reader.episode_ends) == 4
            continue
        found = contents(path)
        assert found["blocks"] == everything["blocks"][:blocks]
        assert found["starts"] == everything["starts"][:starts]
        assert found["ends"] == (everything["ends"] + ENDS[1:] if ended else ENDS)
        assert sealed.ends == 4 - ended
        assert found["metas"] == EXTRA["metas"]
        assert found["drops"].get(0) == {"overflow-oldest": 5}
        assert is_sound_and_closed(path)


@pytest.mark.parametrize("cut", ["header", "block", "whole", "closed"])
def test_a_seal_killed_anywhere_is_finished_by_the_next(tiny, tmp_path, cut):
    data, marks = tiny
    at = {"header": marks[0][0] + 5, "block": marks[3][0] - 9, "whole": marks[4][0], "closed": len(data)}[cut]
    path = tmp_path / "a.active"
    path.write_bytes(data[:at])
    first = seal_shard(path, **EXTRA)
    expected, sealed = contents(path), path.read_bytes()
    # Sealing cuts the file, then only appends: what a kill leaves is one of these.
    begun = max(mark[0] for mark in marks if mark[0] <= at)
    for cut_again in range(begun, len(sealed)):
        path.write_bytes(sealed[:cut_again])
        with using(Hasty()):
            assert seal_shard(path, **EXTRA).changed
        assert contents(path) == expected
        assert is_sound_and_closed(path)
    for _ in range(2):
        path.write_bytes(sealed)
        again = seal_shard(path, **EXTRA)
        assert not again.changed
        assert (again.rows, again.nbytes, again.cut_bytes, again.ends) == (
            first.rows, first.nbytes, first.cut_bytes, 0,
        )  # fmt: skip
        assert path.read_bytes() == sealed


def test_what_is_left_after_a_disk_that_fills_up_is_finished(tiny, tmp_path):
    """Each operation of sealing fails once; what is there stays, and the next call finishes."""
    data, marks = tiny

    class Fills(Disk):
        def __init__(self, good):
            self.good = good

        def _spend(self):
            self.good -= 1
            if self.good < 0:
                raise OSError(28, os.strerror(28))

        def open_existing(self, path):
            self._spend()
            return super().open_existing(path)

        def write(self, handle, pieces):
            self._spend()
            return super().write(handle, pieces)

        def sync(self, handle, *, data_only=False):
            self._spend()
            super().sync(handle, data_only=data_only)

    failures = 0
    for good in range(30):
        path = tmp_path / f"{good}.active"
        path.write_bytes(data[: marks[3][0] + 7])
        said = ""
        try:
            with using(Fills(good)):
                seal_shard(path, **EXTRA)
        except NoSpace as error:
            said = str(error)
        failures += bool(said)
        assert path.read_bytes()[: marks[3][0]] == data[: marks[3][0]]
        seal_shard(path, **EXTRA)
        found = contents(path)
        assert (found["ends"], found["metas"], len(found["blocks"])) == (ENDS, EXTRA["metas"], 2)
        assert is_sound_and_closed(path)
    assert 8 <= failures < 30


@pytest.mark.parametrize("zeros", [1, 20, 31, 32, 4096, 3 << 20])
def test_zeros_at_the_end_are_a_torn_end(tiny, tmp_path, zeros):
    """As a file system leaves them that made the file longer and lost power before the bytes were there."""
    data, marks = tiny
    path = tmp_path / "a.active"
    for place, (end, blocks, *_) in enumerate(marks):
        path.write_bytes(data[:end] + bytes(zeros))
        sealed = seal_shard(path)
        assert (sealed.empty, sealed.changed) == (place == 0, place > 0)
        if place:
            assert (sealed.blocks, sealed.cut_bytes) == (blocks, zeros)
            assert is_sound_and_closed(path)
        else:
            assert path.stat().st_size == end + zeros


@pytest.mark.parametrize("size", [0, 1, 7, 8, 19, 20, 21, 100, 4096, 2 << 20])
def test_nothing_but_zeros_or_a_header_that_was_not_written_is_empty(tiny, tmp_path, size):
    path = tmp_path / "a.active"
    path.write_bytes(bytes(size))
    assert seal_shard(path, **EXTRA).empty
    path.write_bytes(tiny[0][: min(size, 200)] + bytes(4096))
    assert seal_shard(path, **EXTRA).empty
    assert path.stat().st_size == min(size, 200) + 4096
    with pytest.raises(NotThere):
        seal_shard(tmp_path / "none.active")


def test_a_header_alone_is_empty_unless_there_is_something_to_add(tiny, tmp_path):
    data, marks = tiny
    path = tmp_path / "a.active"
    path.write_bytes(data[: marks[0][0]])
    sealed = seal_shard(path, drops=[(0, {"overflow-oldest": 0})])
    assert (sealed.empty, sealed.changed, path.read_bytes()) == (True, False, data[: marks[0][0]])
    sealed = seal_shard(path, ends=ENDS)
    assert (sealed.empty, sealed.changed, sealed.ends) == (False, True, 4)
    assert not seal_shard(path, ends=ENDS).empty
    assert contents(path)["ends"] == ENDS
    ShardWriter(tmp_path / "b.exp", TINY, {}).close()
    assert seal_shard(tmp_path / "b.exp").empty


def test_a_file_its_writer_closed_is_opened_again_only_for_an_addition(tmp_path):
    path = write_shard(tmp_path / "a.exp", CARTPOLE)
    data, before = path.read_bytes(), contents(path)
    ends = [EpisodeEnd(FIRST + game, 99, "interrupted", 1) for game in range(4)]
    assert not seal_shard(path, ends=ends).changed
    assert path.read_bytes() == data
    sealed = seal_shard(path, ends=[*ends, EpisodeEnd(FIRST + 9, 99, "interrupted", 1)])
    assert (sealed.changed, sealed.ends, sealed.cut_bytes) == (True, 1, 0)
    after = contents(path)
    assert after["ends"] == [*before["ends"], EpisodeEnd(FIRST + 9, 99, "interrupted", 1)]
    assert {key: after[key] for key in after if key != "ends"} == {key: before[key] for key in before if key != "ends"}
    assert is_sound_and_closed(path)


def test_damage_before_the_end_is_left_to_recover(tmp_path):
    """One flipped bit anywhere: the file is refused and untouched, or it was in what sealing takes off."""
    whole = write_shard(tmp_path / "whole.exp", TINY, blocks=2, rows=6, close=False)
    good, data = contents(whole), whole.read_bytes()
    with ShardReader(whole) as reader:
        last = reader.blocks[-1]
    header = FILE_HEADER.size + FILE_HEADER.unpack_from(data)[3]
    path = tmp_path / "a.active"
    torn = 0
    for offset in range(8, len(data)):
        hurt = data[:offset] + bytes([data[offset] ^ 1 << offset % 8]) + data[offset + 1 :]
        path.write_bytes(hurt)
        said = ""
        try:
            seal_shard(path)
        except ShardError as error:
            said = str(error)
        if said:
            assert str(path) in said
            assert path.read_bytes() == hurt
            assert offset >= header or "header" in said
            continue
        torn += 1
        found = contents(path)
        assert offset > last.offset + last.nbytes, "only the last record can be taken for torn"
        assert found["blocks"] == good["blocks"]
        assert found["starts"] == good["starts"]
        assert is_sound_and_closed(path)
    assert 0 < torn < 700


def test_damage_before_a_sound_trailer_is_no_torn_end(tmp_path):
    """A last block that is gone looks like an end that was torn, were it not for the trailer."""
    path = write_shard(tmp_path / "a.exp", TINY, close=False)
    with ShardReader(path) as reader:
        records = reader.blocks
    closed = write_shard(tmp_path / "b.exp", TINY).read_bytes()
    hurt = bytearray(closed)
    hurt[path.stat().st_size - 3] ^= 1  # in the last record before the footer
    hurt[-100] ^= 1  # in the footer
    path.write_bytes(hurt)
    with pytest.raises(ShardError, match="before its footer"):
        seal_shard(path)
    assert path.read_bytes() == hurt
    footer = bytearray(closed)
    footer[-100] ^= 1
    path.write_bytes(footer)
    assert seal_shard(path).blocks == len(records)
    assert contents(path) == contents(tmp_path / "b.exp")
    assert is_sound_and_closed(path)


def test_a_writer_goes_on_where_another_stopped(tmp_path):
    """Its footer is that of one writer that never stopped."""
    encoder, rng = BlockEncoder(BOARD), np.random.default_rng(0)
    blocks = [encoder.encode(place % 2, rows_of(BOARD, rng, 20), 20, {"late": place}) for place in range(4)]

    def steps(writer, part):
        writer.append_episodes([EpisodeStart(part, 1, [0], "g"), EpisodeStart(9, 1, [0], "g", repeated=True)])
        for block in blocks[2 * part : 2 * part + 2]:
            writer.append_block(block)
        writer.append_drops(1, {"late": 3})
        writer.append_meta({"part": part})

    with ShardWriter(tmp_path / "one.exp", BOARD, {"run": "g"}) as one:
        steps(one, 0)
        steps(one, 1)
    first = ShardWriter(tmp_path / "two.exp", BOARD, {"run": "g"})
    steps(first, 0)
    first.abandon()
    with open(tmp_path / "two.exp", "ab") as file:
        file.write(b"torn")
    with ShardWriter.resume(tmp_path / "two.exp") as two:
        for name in ("nbytes", "rows", "blocks", "episodes_started", "rows_by_player", "dropped"):
            assert getattr(two, name) == getattr(first, name), name
        steps(two, 1)
    assert (two.digests, two.dropped, two.rows) == (one.digests, one.dropped, one.rows)
    assert (tmp_path / "two.exp").read_bytes() == (tmp_path / "one.exp").read_bytes()


def test_a_writer_does_not_go_on_with_a_closed_or_damaged_file(tmp_path):
    path = write_shard(tmp_path / "a.exp", TINY)
    data = path.read_bytes()
    with pytest.raises(ShardError, match="damaged or closed"):
        ShardWriter.resume(path)
    with ShardReader(path) as reader:
        second = reader.blocks[1].offset
    hurt = data[: second - 1] + bytes([data[second - 1] ^ 1]) + data[second:]
    path.write_bytes(hurt)
    ShardWriter.resume(path, second).abandon()  # heads only: the last byte of a column is not looked at
    path.write_bytes(data)
    hurt = data[: second + 9] + bytes([data[second + 9] ^ 1]) + data[second + 10 :]
    path.write_bytes(hurt)
    with pytest.raises(ShardError, match=f"at {second:,}"):
        ShardWriter.resume(path)
    assert path.read_bytes() == hurt


def test_a_full_disk_is_told_as_such(tiny, tmp_path):
    class Full(Disk):
        def write(self, handle, pieces):
            raise OSError(28, os.strerror(28))

    data, marks = tiny
    path = tmp_path / "a.active"
    path.write_bytes(data[: marks[2][0]])
    with using(Full()), pytest.raises(NoSpace, match="intact"):
        seal_shard(path)
    assert path.read_bytes() == data[: marks[2][0]]


def test_nothing_is_trusted_that_was_not_synced(tiny, tmp_path):
    """Records are durable before the footer that speaks of them, and a file that is found closed is made durable:
    its writer may have been killed between the footer and the sync."""
    log = []

    class Logging(Disk):
        def truncate(self, handle, size):
            log.append("truncate")
            super().truncate(handle, size)

        def write(self, handle, pieces):
            log.append("footer" if b"\x89EXPEND\n" in b"".join(pieces) else "record")
            return super().write(handle, pieces)

        def sync(self, handle, *, data_only=False):
            log.append("sync")
            super().sync(handle, data_only=data_only)

    data, marks = tiny
    path = tmp_path / "a.active"
    path.write_bytes(data[: marks[3][0] + 1])
    with using(Logging()):
        seal_shard(path, ends=ENDS)
        assert log == ["truncate", "record", "record", "sync", "footer", "sync"]
        log.clear()
        seal_shard(path, ends=ENDS)
        assert log == ["sync"]
