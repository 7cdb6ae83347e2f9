"""Collectors: every row accounted for under each overflow policy, order on disk, errors that reach the caller."""

import threading
import time

import numpy as np
import pytest
from patience import wait_until

from expkit import Field, Schema, open_run
from expkit.buffers.budget import Plan
from expkit.collect.background import BackgroundCollector
from expkit.errors import BufferClosed, NoSpace, WriteFailed
from expkit.formats.shard.blocks import parse_head
from expkit.formats.shard.layout import KIND_BLOCK, KIND_EPISODES, unpack_json
from expkit.formats.shard.records import RecordFile
from expkit.row.episodes import EpisodeEnd, EpisodeStart
from expkit.row.layout import BlockLayout
from expkit.runs.guard import DiskGuard
from expkit.runs.layout import RunInfo, new_run_id
from expkit.runs.write import RunWriter, create_run

SCHEMA = Schema([Field("observation", "i4", (40,), "observation"), Field("action", "u2", belongs="action")])
BLOCK_ROWS, BLOCKS, PLAYERS = 64, 3, 2


def make_writer(path, **options):
    create_run(path, RunInfo(new_run_id(), "test", SCHEMA, [f"p{i}" for i in range(PLAYERS)]))
    return RunWriter(path, SCHEMA, PLAYERS, guard=DiskGuard(min_free=0), **options)


def make_collector(writer, **options):
    nbytes = BlockLayout(SCHEMA, BLOCK_ROWS).nbytes
    plan = Plan(BLOCK_ROWS, BLOCKS, nbytes * BLOCKS * PLAYERS, nbytes * 3, nbytes * (BLOCKS * PLAYERS + 3))
    return BackgroundCollector(writer, SCHEMA, PLAYERS, plan, **options)


def write_row(views, index, episode, step, last=False):
    for name in views:
        views[name][index] = 0
    views["episode"][index], views["step"][index] = episode, step
    views["is_first"][index], views["is_last"][index] = step == 0, last
    views["observation"][index] = np.arange(40) + step + 1000 * episode


def play(feed, episodes, length, between=lambda: None):
    """Two players play `episodes` games of `length` steps, one row a tick each, then a last row."""
    for episode in episodes:
        now = time.time_ns()
        for step in range(length + 1):
            feed.ready(1)
            for player in range(PLAYERS):
                views, index = feed.reserve(player, 1)
                write_row(views, index, episode, step, last=step == length)
                feed.sink.position[player] += 1
            starts = [EpisodeStart(episode, now, [0, 1], "test")] if step == 0 else []
            ends = [EpisodeEnd(episode, now, "terminated", length)] if step == length else []
            feed.commit(starts, ends)
        between()


def check_ledger(path, collector):
    """produced = written + dropped for each player, and the files agree with the ledger."""
    run = open_run(path)
    (ledger,) = run.counters
    assert ledger.state == "closed"
    for player, counts in enumerate(ledger.players):
        in_files = sum(int(r) for p, r in zip(run.index.player, run.index.rows, strict=True) if p == player)
        assert counts.written == counts.durable == in_files
        assert counts.produced == counts.written + counts.dropped_rows
        told = sum(
            sum(drops.values())
            for shard in range(len(run.shard_paths))
            for who, drops in run.reader(shard).drops.items()
            if who == player
        )
        assert told == counts.dropped_rows
    assert {p: sum(c.values()) for p, c in collector.stats().dropped.items()} == {
        p: counts.dropped_rows for p, counts in enumerate(ledger.players)
    }
    return run


@pytest.mark.parametrize("overflow", ["block", "spill", "drop-oldest", "drop-newest"])
def test_every_row_is_accounted_for_under_overload(tmp_path, overflow):
    writer = make_writer(tmp_path / "run")
    collector, all_given = None, False

    def slow(columns, rows, player):
        time.sleep(0.02)
        while overflow.startswith("drop") and not all_given and not any(collector.shards.dropped().values()):
            time.sleep(0.001)
        return dict(columns)

    collector = make_collector(writer, overflow=overflow, convert=slow, flush_interval=0.05)
    play(collector.feed(), range(60), 49)
    all_given = True
    collector.close()
    run = check_ledger(tmp_path / "run", collector)
    dropped = sum(sum(causes.values()) for causes in collector.stats().dropped.values())
    assert sum(collector.stats().produced.values()) == 60 * 50 * PLAYERS
    if overflow in ("block", "spill"):
        assert dropped == 0
        assert [e.number for e in run.episodes()] == list(range(60))
        for number in range(60):
            for player in range(PLAYERS):
                rows = run.rows(number, player)
                assert rows["step"].tolist() == list(range(50))
                assert (rows["observation"][:, 0] == rows["step"] + 1000 * number).all()
    else:
        assert dropped > 0
        assert all(causes.keys() <= {overflow} for causes in collector.stats().dropped.values())
    assert not list((tmp_path / "run").glob("spill*"))


def test_several_producers_and_drain_threads_keep_starts_before_rows_and_ends_after(tmp_path):
    writer = make_writer(tmp_path / "run")
    collector = make_collector(writer, producers=2, drain_threads=2, flush_interval=0.02)
    feeds = [collector.feed() for _ in range(2)]
    threads = [
        threading.Thread(target=play, args=(feed, range(base, base + 100), 20))
        for base, feed in zip((0, 1000), feeds, strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    collector.close()
    run = check_ledger(tmp_path / "run", collector)
    assert len(run) == 200 * 21 * PLAYERS
    started, rows, ended = set(), {}, set()
    for envelope, head in RecordFile(run.shards[0].path).walk():
        if envelope.kind == KIND_EPISODES:
            record = unpack_json(envelope.flags, head, "record")
            started |= {start["episode"] for start in record["starts"]}
            for end in record["ends"]:
                assert rows[end["episode"]] == 21 * PLAYERS, "an end stands before rows of its episode"
                ended.add(end["episode"])
        elif envelope.kind == KIND_BLOCK:
            for segment in parse_head(head, envelope.body_bytes, SCHEMA).runs:
                episode = int(segment["episode"])
                assert episode in started, "rows stand before the start of their episode"
                rows[episode] = rows.get(episode, 0) + int(segment["rows"])
    assert ended == started == set(rows)


def test_an_error_in_a_drain_thread_reaches_the_caller_and_nothing_hangs(tmp_path):
    def broken(columns, rows, player):
        raise ArithmeticError("no")

    writer = make_writer(tmp_path / "run")
    collector = make_collector(writer, convert=broken)
    feed = collector.feed()
    with pytest.raises(ArithmeticError, match="no"):
        play(feed, range(1000), 50)
    with pytest.raises(ArithmeticError):
        collector.flush()
    with pytest.raises(ArithmeticError):
        collector.close()
    collector.close()
    run = open_run(tmp_path / "run")
    assert run.state != "recording"
    assert len(run) == 0


def test_a_failed_write_is_told_and_what_was_written_stays(tmp_path, monkeypatch):
    writer = make_writer(tmp_path / "run")
    collector = make_collector(writer, flush_interval=0.02)
    feed = collector.feed()
    play(feed, range(3), 20)
    collector.flush()
    written = int(writer.ledger.written.sum())

    def fail(*_, **__):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(writer, "append", fail)
    with pytest.raises(WriteFailed, match="Input/output"):
        play(feed, range(3, 1000), 50, between=lambda: time.sleep(0.001))
    with pytest.raises(WriteFailed):
        collector.close()
    run = open_run(tmp_path / "run")
    assert len(run) == written == 3 * 21 * PLAYERS
    assert sum(p.produced for p in run.counters[0].players) > written


def test_the_disk_guard_stops_the_recording_and_keeps_everything_so_far(tmp_path):
    writer = make_writer(tmp_path / "run")
    writer.guard.min_free = 1 << 60
    collector = make_collector(writer, flush_interval=0.02)
    with pytest.raises(NoSpace, match="min-free"):
        play(collector.feed(), range(100_000), 20, between=lambda: time.sleep(0.001))
    with pytest.raises(NoSpace):
        collector.close()
    check_ledger(tmp_path / "run", collector)
    assert len(open_run(tmp_path / "run")) > 0


def test_using_a_closed_collector_is_refused(tmp_path):
    collector = make_collector(make_writer(tmp_path / "run"))
    collector.close()
    collector.close()
    with pytest.raises(BufferClosed):
        collector.feed()
    with pytest.raises(BufferClosed):
        collector.flush()


def test_rows_that_come_with_the_close_are_in_or_refused(tmp_path):
    """A producer that was about to commit when another thread closed: its row used to be counted and be gone."""
    collector = make_collector(make_writer(tmp_path / "run"))
    feed = collector.feed()
    feed.ready(2)
    for step in range(2):
        for player in (0, 1):
            views, at = feed.reserve(player, 1)
            write_row(views, at, 0, step)
            feed.sink.position[player] += 1
        if step == 0:
            feed.commit([EpisodeStart(0, 1, [0, 1], "test")])
    collector.close()
    with pytest.raises(BufferClosed):
        feed.commit()
    assert collector.stats().produced == collector.stats().written == {0: 1, 1: 1}


def test_the_first_rows_are_durable_long_before_the_flush_interval(tmp_path):
    writer = make_writer(tmp_path / "run")
    collector = make_collector(writer, flush_interval=3600.0)
    feed = collector.feed()
    with collector._flush_lock:  # or the flusher may come when a part of the rows is there
        play(feed, [0], 5)
    wait_until(lambda: writer.ledger.durable.tolist() == [6, 6])
    collector.close()


@pytest.mark.parametrize("writing", ["a full block", "what there is"])
def test_a_failed_write_is_known_before_its_lane_is_let_go(tmp_path, monkeypatch, writing):
    """A flush that gets the lane's lock before the failure is known finds nothing left to write, and returns."""
    writer = make_writer(tmp_path / "run")
    collector = make_collector(writer, flush_interval=3600.0)
    collector._stop.set()
    collector._wake.set()
    for thread in collector._threads:  # this thread does what they do, one after the other
        thread.join()
    play(collector.feed(), [0], BLOCK_ROWS)
    let_go, lane = [], collector.shards.lanes[0]

    class Lock:
        lock = lane.lock

        def acquire(self, blocking=True):
            return self.lock.acquire(blocking)

        def release(self):
            self.lock.release()
            if collector._flush_lock.locked():  # no flush may come in between
                let_go.append(collector.shards.failure)
            elif not let_go:
                let_go.append(None)
                with pytest.raises(WriteFailed) as told:
                    collector.flush()
                let_go[0] = told.value

        def __enter__(self):
            self.acquire()

        def __exit__(self, *_):
            self.release()

    def fail(*_, **__):
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(writer, "append", fail)
        lane.lock = Lock()
        encoder = collector._new_encoder()
        write = {"a full block": lambda: collector._drain_one(encoder), "what there is": collector._drain_partial}
        collector._guarded(write[writing])
    assert let_go
    assert isinstance(let_go[0], WriteFailed)
    with pytest.raises(WriteFailed):
        collector.flush()
    with pytest.raises(WriteFailed):
        collector.close()
