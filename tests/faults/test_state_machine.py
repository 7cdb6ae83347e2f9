"""Whatever is done to a run, in any order: what is read of it is what an in-memory model says.

Recorders join, record, flush, rotate, stop, are killed and go on; the run is compacted, pruned, copied, damaged and
recovered meanwhile. After every operation the rows are those of the model, none twice, and the ledger adds up.
"""

from __future__ import annotations

import shutil
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from fuzz_targets import Unsynced
from hypothesis import HealthCheck, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test
from promises import report
from written_runs import flip_bit

import expkit.recorder
from expkit import Field, Recorder, Schema, open_run
from expkit.comparison.compare import compare_runs
from expkit.errors import Busy
from expkit.formats.shard import ShardReader
from expkit.formats.shard.encode import BlockEncoder
from expkit.reading.run import Run
from expkit.reading.summary import balance
from expkit.recovery.recover import recover, recover_into
from expkit.rewrite.compact import compact
from expkit.rewrite.merge import Choice, merge, plan_merge
from expkit.rewrite.prune import Retention, prune
from expkit.rewrite.sources import Sources
from expkit.row.episodes import WRITER_BITS, EpisodeEnd, EpisodeStart
from expkit.row.layout import RowSink
from expkit.runs.layout import list_shards
from expkit.runs.write import RunWriter
from expkit.system.files import using
from expkit.validation.validate import validate_run

SCHEMA = Schema([Field("observation", "u4", (3,), "observation"), Field("action", "u2", belongs="action")])
PLAYERS = 2
MOST_ALIVE, MOST_WRITERS = 3, 6
# Of which recorder, a new episode or one that is open, steps, one player after the other.
BURSTS = st.lists(st.tuples(st.integers(0, 9), st.booleans(), st.integers(1, 7), st.booleans()), min_size=1, max_size=4)
operations: Counter[str] = Counter()
Key = tuple[int, int, int]


class Unthreaded:
    """The collector that writes when it is told to, in the place of the one with threads: blocks of 4 rows come to the
    file as they are full, so that a kill leaves a part of what was given and not flushed. Is its own feed."""

    shards = SimpleNamespace(failure=None)

    def __init__(self, writer: RunWriter, schema: Schema, players: int, plan: Any, **options: Any):
        self.players = players
        self.writer = writer
        self.sink = RowSink.scratch(schema, players, 4)
        self._encoder = BlockEncoder(writer.schema)
        self._views = [self.sink.views(player) for player in range(players)]
        self._committed = np.zeros(players, np.int64)
        self._ends: list[EpisodeEnd] = []
        self._closed = False

    def check(self) -> None:
        return

    def feed(self) -> Unthreaded:
        return self

    def reserve(self, player: int, rows: int) -> tuple[dict[str, np.ndarray], int]:
        if self.sink.position[player] + rows > self.sink.capacity[player]:
            self._write(player)
        return self._views[player], int(self.sink.position[player])

    def commit(self, starts: Sequence[EpisodeStart] = (), ends: Sequence[EpisodeEnd] = ()) -> None:
        self.writer.ledger.produced += self.sink.position - self._committed
        self._committed[:] = self.sink.position
        self.writer.append_episodes(starts, ())
        if ends:
            # An end comes after all its rows; episodes end seldom enough to write the blocks out here.
            self._ends.extend(ends)
            self._write_all()

    def _write(self, player: int) -> None:
        rows = int(self._committed[player])
        if rows:
            views = self._views[player]
            last_rows = int(np.count_nonzero(views["is_last"][:rows]))
            self.writer.append(self._encoder.encode(player, views, rows), last_rows=last_rows)
        self.sink.position[player] = self._committed[player] = 0

    def _write_all(self) -> None:
        for player in range(self.players):
            self._write(player)
        ends, self._ends = self._ends, []
        self.writer.append_episodes((), ends)
        self.writer.rotate_if_full()

    def flush(self) -> None:
        """Everything committed is durable when it returns."""
        self._write_all()
        self.writer.sync()

    def close(self) -> None:
        """Write, publish, let go. Closing twice is fine."""
        if self._closed:
            return
        self._write_all()
        self._closed = True
        self.writer.close()


def observation(episode: int, player: int, step: int) -> np.ndarray:
    return np.array([episode & 0xFFFFFFFF, player, step], np.uint32)


class Alive:
    """A recorder at work, and its open episodes: the next step by player, None where the player has ended."""

    def __init__(self, run: Path, **options: Any):
        self.recorder = Recorder(
            run, SCHEMA, players=PLAYERS, min_free=0, memory="16MiB", shard_rows=24, shard_size=0, **options
        )
        self.episodes: dict[int, list[int | None]] = {}

    @property
    def writer(self) -> int:
        return self.recorder.writer

    def kill(self) -> None:
        """As SIGKILL does it: nothing is written any more, the lock goes, the file stays as it is."""
        self.recorder._writer.abandon()


class Machine(RuleBasedStateMachine):
    """`rows`: those that have to be there, with True where they are durable; of recorders at work the others may not
    be in the files yet. `produced`, `pruned`, `gone` count rows by player."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="expkit-model-", dir=shm()))
        self.run = self.folder / "run"
        self.alive: list[Alive] = []
        self.rows: dict[Key, bool] = {}
        self.ended: set[int] = set()
        self.produced: Counter[int] = Counter()
        self.pruned: Counter[int] = Counter()
        self.gone: Counter[int] = Counter()
        self.writers = 1
        self.steps = 0
        self.alive.append(Alive(self.run))

    # -- recording

    def pick(self, number: int) -> Alive:
        return self.alive[number % len(self.alive)]

    @precondition(lambda self: len(self.alive) < MOST_ALIVE and self.writers < MOST_WRITERS)
    @rule()
    def join(self) -> None:
        self.alive.append(Alive(self.run, mode="a"))
        writer = self.alive[-1].writer
        # A copy of a run knows nothing of writers that left nothing.
        assert not any(key[0] >> WRITER_BITS == writer for key in self.rows), "the number of a writer was taken"
        self.writers = max(self.writers, writer + 1)
        self.after("join")

    @precondition(lambda self: len(self.alive) < min(MOST_ALIVE, self.writers))
    @rule(number=st.integers(0, 9))
    def go_on(self, number: int) -> None:
        """As a writer that ended; a writer at work is refused."""
        writer = number % self.writers
        if writer in {one.writer for one in self.alive}:
            with pytest.raises(Busy):
                Alive(self.run, mode="a", writer=writer)
        else:
            self.alive.append(Alive(self.run, mode="a", writer=writer))
        self.after("go on")

    def somebody(self, number: int) -> Alive:
        """A recorder at work; the first writer goes on when there is none."""
        if not self.alive:
            self.alive.append(Alive(self.run, mode="a", writer=number % self.writers))
        return self.pick(number)

    @rule(bursts=BURSTS)
    def add(self, bursts: list[tuple[int, bool, int, bool]]) -> None:
        for burst in bursts:
            self.add_rows(*burst)
            self.after("add")

    @rule(bursts=BURSTS, number=st.integers(0, 9), flush=st.booleans())
    def game(self, bursts: list[tuple[int, bool, int, bool]], number: int, flush: bool) -> None:
        """Add, and end what is open."""
        for burst in bursts:
            self.add_rows(*burst)
            self.after("add")
        self.end_one(number, all_players=True)
        if flush:
            self.flush_one(number)

    def add_rows(self, number: int, new: bool, steps: int, apart: bool) -> None:
        """Rows of an episode, of both players in turn or, `apart`, of one after the other."""
        one = self.somebody(number)
        if new or not one.episodes:
            episode = one.recorder.new_episode(of="model")
            assert not any(key[0] == episode for key in self.rows), "an episode number was used twice"
            one.episodes[episode] = [0] * PLAYERS
        else:
            episode = list(one.episodes)[number % len(one.episodes)]
        turns = [(player, step) for step in range(steps) for player in range(PLAYERS)]
        for player, _ in sorted(turns) if apart else turns:
            step = one.episodes[episode][player]
            if step is None:
                continue
            one.recorder.add(
                player=player, episode=episode, step=step, action=step, reward=step / 4,
                observation=observation(episode, player, step),
            )  # fmt: skip
            self.give((episode, player, step))
            one.episodes[episode][player] = step + 1
        if steps == 1:
            one.recorder.annotate(episode, model=number)

    def give(self, key: Key) -> None:
        assert key not in self.rows
        self.rows[key] = False
        self.produced[key[1]] += 1

    @precondition(lambda self: any(one.episodes for one in self.alive))
    @rule(number=st.integers(0, 9), all_players=st.booleans())
    def end(self, number: int, all_players: bool) -> None:
        self.end_one(number, all_players)

    def end_one(self, number: int, all_players: bool) -> None:
        busy = [one for one in self.alive if one.episodes]
        one = busy[number % len(busy)]
        episode = list(one.episodes)[number % len(one.episodes)]
        steps = one.episodes[episode]
        for player in range(PLAYERS):
            step = steps[player]
            if not step or not (all_players or player == number % PLAYERS):
                continue  # a player without rows has nothing to end
            one.recorder.end(episode=episode, player=player, observation=observation(episode, player, step))
            self.give((episode, player, step))
            steps[player] = None
        if all(step is None for step in steps):
            del one.episodes[episode]
            self.ended.add(episode)
        self.after("end")

    @precondition(lambda self: self.alive)
    @rule(number=st.integers(0, 9))
    def flush(self, number: int) -> None:
        self.flush_one(number)

    def flush_one(self, number: int) -> None:
        one = self.pick(number)
        one.recorder.flush()
        self.durable(one.writer)
        self.after("flush")

    def durable(self, writer: int) -> None:
        self.rows |= {key: True for key in self.rows if key[0] >> WRITER_BITS == writer}

    @precondition(lambda self: self.alive)
    @rule(number=st.integers(0, 9))
    def rotate(self, number: int) -> None:
        self.pick(number).recorder._writer.rotate()
        self.after("rotate")

    @precondition(lambda self: self.alive)
    @rule(number=st.integers(0, 9))
    def stop(self, number: int) -> None:
        one = self.pick(number)
        one.recorder.close()
        self.alive.remove(one)
        self.ended.update(one.episodes)
        self.durable(one.writer)
        self.after("stop")

    @precondition(lambda self: self.alive)
    @rule(number=st.integers(0, 9))
    def kill(self, number: int) -> None:
        one = self.pick(number)
        one.kill()
        self.alive.remove(one)
        self.ended.update(one.episodes)
        found = self.found()
        mine = {key: durable for key, durable in self.rows.items() if key[0] >> WRITER_BITS == one.writer}
        assert {key for key, durable in mine.items() if durable} <= found, "a kill cost durable rows"
        self.take_out(mine.keys() - found, self.gone)
        self.durable(one.writer)
        self.after("kill")

    def take_out(self, keys: Any, into: Counter[int]) -> None:
        for key in keys:
            del self.rows[key]
            into[key[1]] += 1

    # -- maintenance

    @contextmanager
    def recorders_answering(self) -> Iterator[None]:
        """The recorders see requests meanwhile, as their threads would."""
        done = threading.Event()

        def answer() -> None:
            while not done.wait(0.002):
                for one in self.alive:
                    one.recorder._writer.tick()

        thread = threading.Thread(target=answer)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()

    @rule(proving=st.booleans())
    def compact(self, proving: bool) -> None:
        with self.recorders_answering():
            compact(self.run, proving=proving)
        self.after("compact")

    @rule(keep=st.integers(0, 6))
    def prune(self, keep: int) -> None:
        plan = prune(self.run, Retention(keep_episodes=keep))
        living = {one.writer for one in self.alive}
        assert all(episode in self.ended or episode >> WRITER_BITS not in living for episode in plan.episodes)
        taken = {key for key in self.rows if key[0] in set(plan.episodes)}
        assert plan.total_rows == len(taken)
        self.take_out(taken, self.pruned)
        self.after("prune")

    @rule(copied=st.booleans())
    def recover(self, copied: bool) -> None:
        """Of a run that is sound it changes no row; what killed writers left is closed and told."""
        if copied and not self.alive:
            self.copy()
            return
        report = recover(self.run, force=bool(self.alive), threads=1)
        assert not report.findings
        self.after("recover")

    def copy(self) -> None:
        """By recovery, into a folder of its own; the copy is equal and is gone on with."""
        target = self.folder / "copy"
        recover_into(self.run, target, threads=1)
        with open_run(self.run) as a, open_run(target) as b:
            assert compare_runs(a, b).equal
        shutil.rmtree(self.run)
        target.rename(self.run)
        self.after("copy")

    @rule(twice=st.booleans(), dedupe=st.booleans())
    def merge(self, twice: bool, dedupe: bool) -> None:
        """Into a run of its own, with a copy of itself when `twice`: every row of complete episodes, so many times."""
        copy, out = self.folder / "copy", self.folder / "merged"
        paths = [self.run]
        if twice and not self.alive:
            shutil.copytree(self.run, copy)
            paths.append(copy)
        with Sources(paths) as sources:
            merge(sources, plan_merge(sources, Choice(dedupe=dedupe)), out)
        alive = {one.writer for one in self.alive}
        with open_run(self.run) as run:  # an end that is still in memory does not count
            ended = {episode.number for episode in run.episodes() if episode.end is not None}
        complete = {key for key in self.found() if key[0] in ended or key[0] >> WRITER_BITS not in alive}
        expected = Counter({key: 1 if dedupe else len(paths) for key in complete})
        with open_run(out) as run:
            origins = {e.number: e.start.origin.episode for e in run.episodes() if e.start and e.start.origin}
            merged: Counter[Key] = Counter()
            for batch in run.scan(rows="all"):
                keys = zip(batch["episode"].tolist(), batch["player"].tolist(), batch["step"].tolist(), strict=True)
                merged.update((origins[episode], player, step) for episode, player, step in keys)
        assert merged == expected, "a merge lost or doubled rows"
        shutil.rmtree(out)
        shutil.rmtree(copy, ignore_errors=True)
        self.after("merge")

    @rule(number=st.integers(0, 999), bit=st.integers(0, 7))
    def damage(self, number: int, bit: int) -> None:
        """A bit of the head of a block flips: the block is lost, nothing else, after a recovery that tells so."""
        places = []
        for shard in list_shards(self.run):
            if not shard.active:  # the last block of one that is: its loss looks like a kill
                with ShardReader(shard.path) as reader:
                    places += [(shard.path, block.offset, block.head_bytes, block.rows) for block in reader.blocks]
        if not places:
            return
        before = self.found()
        path, offset, length, rows = places[number % len(places)]
        flip_bit(path, offset + 8 + number % (length + 24), bit)
        with open_run(self.run) as run:
            assert any(f.severity == "error" for f in validate_run(run, threads=1)) or self.is_superseded(path)
        report = recover(self.run, force=bool(self.alive), threads=1)
        assert not report.findings
        lost = before - self.found()
        assert len(lost) <= rows, "a damaged block cost more than its rows"
        self.take_out(lost, self.gone)
        self.after("damage")

    def is_superseded(self, path: Path) -> bool:
        with open_run(self.run) as run:
            return path not in [shard.path for shard in run.shard_paths] or bool(run.superseding)

    @rule(number=st.integers(0, 999))
    def cut(self, number: int) -> None:
        """The file that a dead writer left open loses its end, as after a power cut: whole blocks before it stay, and
        what a flush made durable."""
        alive = {one.writer for one in self.alive}
        left = [shard for shard in list_shards(self.run) if shard.active and shard.writer not in alive]
        if not left:
            return
        path = left[number % len(left)].path
        with ShardReader(path) as reader:
            ends = [block.offset + block.nbytes for block in reader.blocks]
            rows = [block.rows for block in reader.blocks]
            begin = reader.blocks[0].offset if reader.blocks else reader.nbytes
            for block in reader.blocks:
                keys = reader.read_block(block.index, ["episode", "step"])
                pairs = zip(keys["episode"].tolist(), keys["step"].tolist(), strict=True)
                if any(self.rows.get((episode, block.player, step)) for episode, step in pairs):
                    begin = block.offset + block.nbytes
        before = self.found()
        size = path.stat().st_size
        place = begin + number % (size - begin + 1)
        with open(path, "r+b") as file:
            file.truncate(place)
        lost = before - self.found()
        whole = sum(count for end, count in zip(ends, rows, strict=True) if end > place)
        assert len(lost) <= whole, "a cut cost more than the blocks behind it"
        self.take_out(lost, self.gone)
        self.after("cut")

    # -- reading

    def found(self) -> set[Key]:
        with open_run(self.run) as run:
            return self.read(run)

    def read(self, run: Run) -> set[Key]:
        """The rows that are read, each of which is as it was given and there once."""
        out: set[Key] = set()
        for batch in run.scan(rows="all"):
            keys = np.stack([batch["episode"].astype(np.int64), batch["player"], batch["step"]], 1)
            expected = np.stack([keys[:, 0] & 0xFFFFFFFF, keys[:, 1], keys[:, 2]], 1)
            assert np.array_equal(batch["observation"], expected), "values are not what was given"
            here = set(map(tuple, keys.tolist()))
            assert len(here) == len(keys), "a row is there twice"
            assert not here & out, "a row is in two blocks"
            out |= here
        assert out <= self.rows.keys(), f"rows that nobody gave, or that are gone: {sorted(out - self.rows.keys())[:3]}"
        return out

    @rule(number=st.integers(0, 999), how=st.integers(0, 2))
    def look(self, number: int, how: int) -> None:
        (self.sample, self.read_episode, self.validate)[how](number)

    def sample(self, number: int) -> None:
        with open_run(self.run) as run:
            if run.steps:
                batch = run.sample(5, rng=np.random.default_rng(number))
                keys = zip(batch["episode"].tolist(), batch["player"].tolist(), batch["step"].tolist(), strict=True)
                assert set(keys) <= self.rows.keys()
        self.after("sample")

    def read_episode(self, number: int) -> None:
        found = sorted(self.found())
        if found:
            episode, player, step = found[number % len(found)]
            with open_run(self.run) as run:
                rows = run.rows(episode, player)
                assert rows["step"].tolist() == [key[2] for key in found if key[:2] == (episode, player)]
                assert run.row(episode, player, step)["observation"].tolist()[2] == step
                assert run.find_episode(episode).rows[player] == len(rows["step"])
        self.after("read episode")

    def validate(self, _: int = 0) -> None:
        with open_run(self.run) as run:
            assert [f for f in validate_run(run, threads=1) if f.severity == "error"] == []
            assert compare_runs(run, run).equal
        operations["validate"] += 1
        self.after("validate")

    def after(self, operation: str) -> None:
        """What holds always: the rows of the model, and a ledger that adds up."""
        operations[operation] += 1
        alive = {one.writer for one in self.alive}
        certain = {key for key, durable in self.rows.items() if durable or key[0] >> WRITER_BITS not in alive}
        with open_run(self.run) as run:
            found = self.read(run)
            missing = certain - found
            assert not missing, f"{len(missing)} rows are gone, the first {min(missing)}"
            present = Counter(key[1] for key in found)
            for player in balance(run) or []:
                where = f"player {player.player}: {player}"
                assert player.dropped_rows == player.rejected == 0, where
                assert player.present == present[player.player], where
                assert player.pruned == self.pruned[player.player], where
                assert player.produced == self.produced[player.player], where
                elsewhere = player.present + player.pruned + player.quarantined + player.lost + player.pending
                assert player.produced == elsewhere, where
                if not alive:
                    assert player.lost + player.quarantined == self.gone[player.player], where
                    assert 0 <= player.acknowledged <= player.lost, where

    def teardown(self) -> None:
        try:
            for one in self.alive:
                one.recorder.close()
                self.durable(one.writer)
            self.alive = []
            self.after("stop all")
            self.validate()
        finally:
            shutil.rmtree(self.folder)


def shm() -> str | None:
    return "/dev/shm" if Path("/dev/shm").is_dir() else None


def play(examples: int, start: int) -> None:
    """The same operations wherever the tests lie: `start` is a seed, for derandomizing would go by the file's path."""
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        seed(start)(type("Machine", (Machine,), {})),
        settings=settings(
            max_examples=examples, stateful_step_count=50, deadline=None, database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )  # fmt: skip


@pytest.fixture
def unthreaded(monkeypatch):
    monkeypatch.setattr(expkit.recorder, "BackgroundCollector", Unthreaded)
    operations.clear()
    with using(Unsynced()):
        yield


def said() -> str:
    report("model", 0, operations=operations.total())
    kinds = ", ".join(f"{count:,} {name}" for name, count in operations.most_common())
    return f"state machine: {operations.total():,} operations, 0 rows lost or doubled ({kinds})"


def test_a_run_is_what_a_model_says_after_any_operations(unthreaded, tell):
    play(8, start=1)
    assert operations.total() >= 250
    tell(said())


@pytest.mark.slow
def test_longer(unthreaded, tell):
    play(200, start=2)
    tell(said())


def test_a_cut_takes_nothing_that_was_flushed(unthreaded):
    """The machine cut durable rows, too, and then had validate find nothing wrong: by chance it seldom did."""
    machine = Machine()
    machine.game(bursts=[(0, True, 7, True)], number=0, flush=True)
    machine.add(bursts=[(0, True, 5, False)])
    machine.kill(0)
    machine.cut(0)
    assert 0 < sum(machine.gone.values()) < len(machine.rows)
    machine.teardown()


def test_an_episode_without_rows_is_compacted_and_proven(tmp_path):
    """Found by the machine: the proof looked at the first row of an output that has none."""
    with Recorder(tmp_path / "run", SCHEMA, players=PLAYERS, min_free=0) as recorder:
        recorder.new_episode()
        recorder.new_episode()
    compact(tmp_path / "run", proving=True)
    with open_run(tmp_path / "run") as run:
        assert len(run.episodes()) == 2
        assert list(validate_run(run)) == []
