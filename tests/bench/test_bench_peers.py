"""Other libraries in the bench: which there are, how they are run, and that each does what its figures stand for."""

import ast
import importlib
import sys
from pathlib import Path

import numpy as np
import pytest

from expkit.bench.lab import Lab
from expkit.bench.machine import Machine
from expkit.bench.measure import Effort
from expkit.bench.peers import PEERS, find_peers, registry, run_peers
from expkit.bench.peers.adapter import DiskPeer, MemoryPeer, block_rows
from expkit.bench.peers.beside import pass_of, stages_of
from expkit.bench.results import Report
from expkit.bench.stage import load_stages
from expkit.bench.workloads import Workload
from expkit.errors import MissingExtra, UsageError
from expkit.row.layout import RowSink
from expkit.row.schema import Field, Schema

# What a library warns of on import is no fault of ours.
pytestmark = pytest.mark.filterwarnings("default")

FOLDER = Path(registry.__file__).parent
ROWS = 512
SHORT = Effort(2, 0.0)


def small_rows() -> dict[str, np.ndarray]:
    """Episodes of 37 steps; the first number of an observation is that of its row."""
    rng = np.random.default_rng(3)
    number = np.arange(ROWS)
    observation = rng.random((ROWS, 3, 5), np.float32)
    observation[:, 0, 0] = number
    return {
        "observation": observation,
        "action_mask": rng.random((ROWS, 70)) < 0.3,
        "action": rng.integers(0, 70, ROWS).astype(np.uint32),
        "reward": rng.random(ROWS, np.float32),
        "terminated": number % 37 == 36,
        "truncated": number == ROWS - 1,
        "episode": (number // 37).astype(np.uint64),
        "step": (number % 37).astype(np.uint32),
    }


def small_workload() -> Workload:
    given = small_rows()
    schema = Schema([
        Field("observation", "f4", (3, 5), "observation"),
        Field("action_mask", "bool", (70,), "observation"),
        Field("action", "u4", belongs="action"),
    ])  # fmt: skip
    columns = RowSink.scratch(schema, 1, ROWS).views(0)
    for values in columns.values():
        values[:] = 0
    for field in schema.fields:
        columns[field.name] = schema.pack(field.name, given[field.name], ROWS)
    columns |= {key: given[key] for key in ("episode", "step")}
    return Workload("W", schema, columns, 60 + 70 + 22)


class SmallLab(Lab):
    def workload(self, name: str) -> Workload:
        return self._workloads.setdefault(name, small_workload())


@pytest.fixture
def lab(tmp_path):
    with SmallLab(tmp_path) as lab:
        yield lab


@pytest.fixture
def report() -> Report:
    return Report("", "quick", "", 0.0, Machine(), [])


class NumpyBuffer(MemoryPeer):
    name = "arrays"
    distribution = "numpy"
    note = "not a library"

    def adding(self, first, count):
        return lambda: [self.given["action"][at] for at in range(first, first + count)] and None

    def sample(self, count):
        return self.given["action"][:count]

    def arrays(self, sample):
        return {"action": sample}

    def close(self):
        pass


class NumpyFile(DiskPeer):
    name = "npz"
    distribution = "numpy"
    note = "zip"
    verifies = True

    def write(self):
        with open(self.path, "wb") as file:
            np.savez(file, **self.given)

    def open(self):
        self.data = np.load(self.path)

    def scan(self):
        yield {name: self.data[name] for name in self.given}

    def read_rows(self, wanted):
        action = self.data["action"]
        for number in wanted:
            yield {"action": action[number]}

    def close(self):
        if hasattr(self, "data"):
            self.data.close()


class Failing(NumpyFile):
    name = "failing"

    def write(self):
        raise OSError("no such luck\nand more of it")


class Absent(NumpyFile):
    name = "absent"
    distribution = "expkit-has-no-such-peer"


@pytest.fixture
def own_peers(monkeypatch):
    monkeypatch.setattr(registry, "PEERS", (NumpyBuffer, NumpyFile, Failing, Absent))


def test_registry_names_what_is_installed_and_what_is_not():
    found, missing = find_peers()
    assert {peer.distribution for peer in PEERS} == {peer.distribution for peer in found} | set(missing)
    assert not {peer.distribution for peer in found} & set(missing)
    assert len(missing) == len(set(missing))
    assert len({peer.name for peer in PEERS}) == len(PEERS)
    assert all(peer.name.startswith(peer.distribution) for peer in PEERS)


def test_stages_they_stand_beside_exist():
    stages = {one.name for one in load_stages()}
    for peer in PEERS:
        assert set(stages_of(peer)) <= stages


def test_notes_say_who_has_no_checksum():
    for peer in PEERS:
        if issubclass(peer, DiskPeer):
            assert ("no checksum" in registry.note_of(peer)) is not peer.verifies


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.py")), ids=lambda path: path.stem)
def test_libraries_are_imported_only_where_they_are_used(path):
    for node in ast.parse(path.read_text()).body:
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        for name in names:
            assert name.split(".")[0] in {"expkit", "numpy", *sys.stdlib_module_names}, name


def test_every_peer_is_measured_in_turn_with_expkit(lab, report, own_peers):
    told = []
    results = run_peers(lab, report, SHORT, progress=lambda *what: told.append(what))
    assert report.peers == results
    assert told == [(told[i][0], i, len(told)) for i in range(len(results))]
    assert {one.peer for one in results} == {"arrays", "npz", "failing"}
    for one in results:
        if one.peer == "failing":
            assert one.rows_per_second is None
            assert one.ratio is None
            assert one.note == "OSError: no such luck"
        else:
            assert one.rows_per_second.median > 0
            assert one.ratio.median > 0
            assert one.version == np.__version__
    by_place = {(one.peer, one.stage, one.workload): one for one in results}
    assert by_place["arrays", "ring/add-1", "tiny"].bytes_per_row is None
    assert by_place["arrays", "ring/add-1", "tiny"].note == "not a library"
    assert by_place["npz", "run/scan", "R"].bytes_per_row > 130
    assert by_place["npz", "run/scan", "R"].note == "zip; checksums verified"
    assert list(lab.path("x").parent.iterdir()) == []


def test_some_are_chosen_by_name(lab, report, own_peers):
    def ran(*wanted):
        return {(one.peer, one.stage) for one in run_peers(lab, report, SHORT, wanted)}

    assert ran("arrays", "ring/add-1") == {("arrays", "ring/add-1")}
    assert ran("numpy", "shard") == {(peer, f"shard/{what}") for peer in ("npz", "failing")
                                     for what in ("write", "random-rows")}  # fmt: skip
    assert ran("game/step") == set()


def test_a_name_that_is_none_is_refused(lab, report, own_peers):
    with pytest.raises(UsageError, match="no library is called 'arrys'; did you mean arrays?"):
        run_peers(lab, report, SHORT, ["arrys"])
    with pytest.raises(UsageError, match="no stage is called 'xyzzy'"):
        run_peers(lab, report, SHORT, ["xyzzy"])
    with pytest.raises(MissingExtra, match=r"expkit-has-no-such-peer is not installed; install it with: pip install"):
        run_peers(lab, report, SHORT, ["absent"])


def test_an_error_of_expkit_itself_is_not_put_down_to_a_peer(lab, report, own_peers, monkeypatch):
    def broken(lab, workload):
        raise RuntimeError("ours")

    load_stages()
    stage = registry.STAGES["ring/add-1"]
    monkeypatch.setitem(registry.STAGES, "ring/add-1", type(stage)(**{
        **{name: getattr(stage, name) for name in stage.__slots__}, "make": broken}))  # fmt: skip
    with pytest.raises(RuntimeError, match="ours"):
        run_peers(lab, report, SHORT, ["arrays", "ring/add-1"])


def test_blocks_hold_more_of_small_rows():
    assert block_rows({"planes": np.zeros((4, 16022), np.uint8)}) == 256
    assert block_rows({"pole": np.zeros((4, 39), np.uint8)}) % 256 == 0
    assert block_rows({"pole": np.zeros((4, 39), np.uint8)}) * 39 <= 1 << 18


# From here on: real libraries, those that are installed.

MEMORY = [peer for peer in PEERS if issubclass(peer, MemoryPeer)]
DISK = [peer for peer in PEERS if issubclass(peer, DiskPeer)]


def by_name(peer):
    return peer.name


def import_library(peer) -> None:
    pytest.importorskip(peer.distribution.replace("-", "_"))


def as_sampled(given: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {**given, "done": given["terminated"] | given["truncated"]}


@pytest.mark.parametrize("at_once", [1, 256])
@pytest.mark.parametrize("kind", MEMORY, ids=by_name)
def test_buffer_gives_back_what_was_added(kind, at_once, tmp_path):
    import_library(kind)
    given = small_rows()
    buffer = kind(given, ROWS, at_once, tmp_path / "buffer")
    try:
        buffer.adding(0, 256)()
        buffer.adding(256, 256)()
        sample = buffer.arrays(buffer.sample(300))
    finally:
        buffer.close()
    rows = sample["observation"][:, 0, 0].astype(int)
    assert len(rows) == 300
    assert len(set(rows.tolist())) > 100
    assert {"observation", "action", "reward"} <= set(sample)
    for name, values in sample.items():
        np.testing.assert_array_equal(values, as_sampled(given)[name][rows])
    if "no mask" not in kind.note:
        assert set(sample) == set(given)


@pytest.mark.parametrize("kind", DISK, ids=by_name)
def test_format_gives_back_what_was_written(kind, tmp_path):
    import_library(kind)
    given = small_rows()
    # Names of a group, and a length that fills no block.
    given = {"observation/board" if name == "observation" else name: values[:500] for name, values in given.items()}
    disk = kind(given, tmp_path / "rows")
    try:
        for _ in range(2):
            disk.remove()
            disk.write()
        disk.open()
        batches = list(disk.scan())
        names = batches[0].dtype.names if isinstance(batches[0], np.ndarray) else batches[0]
        expected = set(given) - ({"episode", "step"} if "no keys" in kind.note else set())
        assert set(names) == expected
        for name in names:
            read = np.concatenate([batch[name] for batch in batches])
            assert read.dtype == given[name].dtype
            np.testing.assert_array_equal(read, given[name])
        wanted = [499, 0, 37, 36, 255, 256]
        for number, row in zip(wanted, disk.read_rows(wanted), strict=True):
            for name in names:
                np.testing.assert_array_equal(row[name], given[name][number])
        assert 500 * 10 < disk.nbytes() < 500 * 2000
    finally:
        disk.close()
        disk.remove()
    assert list(tmp_path.iterdir()) == []


def read_all(disk: DiskPeer) -> None:
    disk.open()
    for _ in disk.scan():
        pass


@pytest.mark.parametrize("kind", [peer for peer in DISK if peer.verifies], ids=by_name)
def test_a_format_said_to_verify_notices_a_flipped_bit(kind, tmp_path):
    """In the middle of the largest field, of noise that cannot be compressed: no structure of the format is there."""
    import_library(kind)
    given = small_rows()
    given["observation"] = np.random.default_rng(1).random((ROWS, 50, 50), np.float32)
    disk = kind(given, tmp_path / "rows")
    disk.write()
    data = bytearray(disk.path.read_bytes())
    data[len(data) // 2] ^= 1
    disk.path.write_bytes(data)
    try:
        with pytest.raises(Exception, match=r"(?i)crc|checksum|hash|corrupt|filter"):
            read_all(disk)
    finally:
        disk.close()


@pytest.mark.parametrize("kind", PEERS, ids=by_name)
def test_every_stage_of_a_library_runs(kind, lab):
    import_library(kind)
    for stage, workloads in stages_of(kind).items():
        with pass_of(kind, lab, stage, workloads[0]) as one:
            one.run()
            one.run()
            assert one.rows > 0
            assert (one.bytes_per_row() is None) == stage.startswith("ring")


def test_modules_are_named_after_their_libraries():
    for peer in PEERS:
        assert peer.__module__ == f"expkit.bench.peers.{peer.distribution.replace('-', '_')}"
        assert importlib.import_module(peer.__module__).__doc__
