"""Small files that ask for much: what unfolds, nests or repeats is refused before it costs memory, time or life."""

import json
import subprocess
import sys
import tracemalloc
import zlib
from contextlib import contextmanager

import pytest
import zstandard
from patience import PATIENCE
from shard_rows import TINY, write_shard
from test_shard_damage import bomb
from written_runs import write_vectors

from expkit import open_run
from expkit.errors import CheckFailed, ConfigError, ShardError, UsageError
from expkit.formats.shard import ShardReader, check_shard
from expkit.formats.shard.layout import (
    FLAG_ZSTD_HEAD,
    KIND_META,
    MAX_JSON_RATIO,
    pack_envelope,
    pack_file_header,
    pack_json,
    unpack_json,
)
from expkit.predicates import parse
from expkit.reading.summary import listed_rows, removed_by_player
from expkit.row.schema import Field, Schema
from expkit.runs.layout import read_run_info
from expkit.runs.manifest import is_damaged, read_manifest
from expkit.settings.config import resolve
from expkit.system.units import parse_duration, parse_size
from expkit.validation.validate import validate_run

HEADER = pack_file_header({"schema": TINY.to_builtins()})


@contextmanager
def at_most(limit):
    """Fails when Python and NumPy hold more than `limit` bytes at once within the block."""
    tracemalloc.start()
    try:
        yield
        peak = tracemalloc.get_traced_memory()[1]
        assert peak <= limit, f"{peak:,} bytes of memory"
    finally:
        tracemalloc.stop()


def meta(packed, number=0):
    return pack_envelope(KIND_META, FLAG_ZSTD_HEAD, packed, number, 0) + packed


def test_records_that_unfold_are_refused(tmp_path):
    """600 records of 16 MB of brackets in 1 MB of file would become 200 GB of lists."""
    text = b'{"a":[' + b"[]," * 5_000_000 + b"[]]}"
    packed = zstandard.compress(text)
    path = tmp_path / "a.exp"
    path.write_bytes(HEADER + b"".join(meta(packed, number) for number in range(600)))
    with at_most(64 << 20):
        assert {finding.rule for finding in check_shard(path)} == {"file/record"}
        with ShardReader(path) as reader:
            assert reader.metas == []


def test_what_is_written_is_never_refused():
    for tree in ({"a": [0] * 1_000_000}, {"a": list(range(1000))}, {"a": "x" * 257}):
        flags, head = pack_json(tree)
        assert unpack_json(flags, head, "record") == tree
    text = json.dumps({"a": "x" * 100_000}).encode()
    with pytest.raises(ShardError, match="claims 100,009 bytes of JSON, above the limit of"):
        unpack_json(FLAG_ZSTD_HEAD, zstandard.compress(text), "record")
    assert MAX_JSON_RATIO > 15, "records of many episodes come to 15"


def test_many_findings_take_no_longer_each_than_few(tmp_path):
    """Each finding was compared with all before it: a file of 1 MB took 50 s. The test would run into its timeout."""
    path = tmp_path / "a.exp"
    path.write_bytes(HEADER + b"".join(pack_envelope(77, 0, b"", number, 0) for number in range(120_000)))
    with ShardReader(path) as reader:
        assert len(reader.findings) == 120_000


@pytest.mark.parametrize("rows", [1 << 10, 1 << 18])
def test_a_constant_column_costs_what_its_rows_need(tmp_path, rows):
    """One stored row may stand for many, up to the 2 GiB of a block; what reading takes is a small multiple."""
    schema = Schema([Field("wide", "u1", (40,))])
    path = tmp_path / "a.exp"
    path.write_bytes(bomb(b"x" * 40, schema, rows, filter_number=4).replace(b"\x04\x01\0\0", b"\x04\0\0\0"))
    with at_most((1 << 20) + 6 * rows * schema.row_bytes):
        list(check_shard(path))


DEEP = "[" * 300_000


def test_a_deep_description_does_not_end_the_process(tmp_path):
    """libyaml overflowed the stack: the process was gone, exit status 139."""
    write_vectors(tmp_path / "run", episodes=1)
    (tmp_path / "run" / "run.yaml").write_text(f"run: {DEEP}")
    command = [sys.executable, "-m", "expkit.commands", "validate", "run"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode in (0, 4), done.stderr
    # The libyaml of PyYAML 6.0.4 and later refuses so many by itself.
    with pytest.raises(CheckFailed, match="more than 200 levels deep|while increasing flow level"):
        read_run_info(tmp_path / "run")
    (tmp_path / "run" / "run.yaml").write_text(f"run: {'[' * 250}")
    with pytest.raises(CheckFailed, match="more than 200 levels deep"):
        read_run_info(tmp_path / "run")


def test_aliases_do_not_multiply(tmp_path):
    """Ten lines of ten aliases each stand for 10^10 values."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 10)]
    run = write_vectors(tmp_path / "run", episodes=1)
    text = (run / "run.yaml").read_text().rpartition("# crc32")[0].replace("players:", "players: [*a9]\n  others:")
    (run / "run.yaml").write_text("\n".join([*lines, text]))
    with at_most(16 << 20), pytest.raises(CheckFailed, match="aliases"):
        read_run_info(run)


def test_a_value_that_stands_twice_is_written_twice(tmp_path):
    shared = ["*", {"deep": 1}]
    run = write_vectors(tmp_path / "run", episodes=1, metadata={"one": shared, "two": shared})
    assert read_run_info(run).metadata == {"one": shared, "two": shared}


@pytest.mark.parametrize("value", [".inf", "0x" + "f" * 5000, "[1]", "2001-99-99"])
def test_odd_numbers_in_a_description_are_refused(tmp_path, value):
    run = write_vectors(tmp_path / "run", episodes=1)
    text = (run / "run.yaml").read_text().rpartition("# crc32")[0]
    (run / "run.yaml").write_text(text.replace("created_ns: ", f"created_ns: {value} #"))
    with pytest.raises(CheckFailed, match="not a run description"):
        read_run_info(run)


def sealed_manifest(body):
    crc = zlib.crc32(json.dumps(body, sort_keys=True).encode())
    return json.dumps({"version": 1, "crc32": crc, "shards": body})


GOOD = {"bytes": 1, "rows": 1, "players": {"0": 1}}


@pytest.mark.parametrize(
    "body",
    [
        {"w0/000000": 5},
        {"w0/000000": []},
        {"w0/000000": {}},
        {"w0/000000": GOOD | {"bytes": "1"}},
        {"w0/000000": GOOD | {"players": {"x": 1}}},
        {"w0/000000": GOOD | {"players": {"0": 1e400}}},
        {"w0/000000": GOOD | {"players": [1]}},
        {"w0/000000": GOOD | {"removed": 3}},
        [["w0/000000", GOOD]],
    ],
)
def test_a_manifest_of_another_form_counts_as_damaged(tmp_path, body):
    path = write_vectors(tmp_path / "run", episodes=1)
    (path / "manifest.json").write_text(sealed_manifest(body))
    assert read_manifest(path) == {}
    assert is_damaged(path)
    with open_run(path) as run:
        assert sum(listed_rows(run).values()) == 7
        assert removed_by_player(run, listed=True) == {}
        assert {finding.rule for finding in validate_run(run)} == {"run/manifest"}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.json", '{"game":' * 100_000),
        ("a.json", '{"game":{"players":' + "9" * 5000 + "}}"),
        ("a.json", " " * (1 << 20) + "{}"),
        ("a.yaml", "game: {players: 0x" + "f" * 5000 + "}"),
        ("a.yaml", "game: {players: " + "9" * 5000 + "}"),
        ("a.yaml", 'game: {players: !!int "0x' + "f" * 5000 + '"}'),
        ("a.yaml", "game: " + DEEP),
        ("a.yaml", "? 0x" + "f" * 5000 + "\n: 1"),
    ],
)
def test_settings_that_are_too_much_are_config_errors(tmp_path, name, text):
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        resolve({}, path, {})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["9" * 5000, "0x" + "f" * 5000, "1e999"])
def test_variables_that_are_too_much_are_config_errors(text):
    for variable in ("EXPKIT_PLAYERS", "EXPKIT_SHARD_SIZE", "EXPKIT_DURATION"):
        with pytest.raises(ConfigError):
            resolve({}, None, {variable: text})


@pytest.mark.parametrize("text", ["9" * 5000, "1e999", "1e300 TiB"])
def test_sizes_beyond_all_bounds_are_usage_errors(text):
    with pytest.raises(UsageError):
        parse_size(text)
    if "T" not in text:
        with pytest.raises(UsageError):
            parse_duration(text)


@pytest.mark.parametrize("text", ["(" * 60_000, "not " * 15_000, "-" * 60_000, "1" * 60_000, "a[" + "1," * 30_000])
def test_conditions_that_are_too_much_are_usage_errors(text):
    with pytest.raises(UsageError) as caught:
        parse(text)
    assert len(str(caught.value)) < 400


def test_lengths_that_no_file_has_are_not_allocated(tmp_path):
    path = write_shard(tmp_path / "a.exp", TINY, close=False)
    data = path.read_bytes()
    for kind in (1, 2, 3, 4, 5, 9):
        fixed = pack_envelope(kind, 0, b"", 9, 1 << 32)
        path.write_bytes(data + fixed)
        with at_most(16 << 20), ShardReader(path) as reader:
            assert len(reader.blocks) == 3
            assert reader.tail_bytes == len(fixed)
