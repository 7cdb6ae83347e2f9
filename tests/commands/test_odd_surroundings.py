"""Closed streams, names that are no UTF-8, wrong clocks: each verb does its work, or says in a line why not."""

from __future__ import annotations

import importlib
import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from places import ROOT
from written_runs import VECTOR_SCHEMA, flip_bit, write_vectors

from expkit import Recorder
from expkit.commands import main
from expkit.errors import CheckFailed, MissingExtra, NoSpace
from expkit.runs.guard import DiskGuard
from expkit.system.extras import require

RECORD = ("record", "-o", "new", "--rows", "50", "--seed", "1", "--size", "5x5", "--min-free", "0")


def closed(how: str, *arguments: str | bytes, cwd: Path) -> subprocess.CompletedProcess[bytes]:
    command = ["sh", "-c", f'exec "$@" {how}', "sh", sys.executable, "-m", "expkit.commands", *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, env={**os.environ, "PYTHONPATH": str(ROOT)})


@pytest.mark.parametrize("how", [">&-", "<&-", "<&- >&- 2>&-"])
def test_closed_streams_are_no_error(tmp_path: Path, how: str) -> None:
    write_vectors(tmp_path / "run")
    verbs = (
        ("--help",), ("list",), ("validate", "run", "--json"), ("query", "run", "step = 3", "--format", "csv"), RECORD,
        ("compact", "run"), ("validate", "new"),
    )  # fmt: skip
    for verb in verbs:
        done = closed(how, *verb, cwd=tmp_path)
        assert (done.returncode, b"rror" in done.stderr) == (0, False), (verb, done.stderr)
        assert ">&-" not in how or not done.stdout
    # Without a terminal to ask on, prune says that it needs --yes.
    done = closed(how, "prune", "run", "--keep-episodes", "1", cwd=tmp_path)
    assert done.returncode == 2
    assert b"AttributeError" not in done.stderr


def test_names_that_are_no_utf8(tmp_path: Path) -> None:
    name = b"run\xff"
    done = closed("", *RECORD[:2], name, *RECORD[3:], cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for verb in (("inspect", name), ("validate", name, "--json"), ("export", name, "-o", b"out\xff.npz")):
        done = closed("", *verb, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    before = sorted(os.listdir(os.fsencode(tmp_path)))
    for verb in (("export", name, "-o", b"out\xff.parquet"), ("query", name, "SELECT run FROM steps")):
        done = closed("", *verb, cwd=tmp_path)
        assert (done.returncode, done.stderr.count(b"expkit ")) == (2, 1), done.stderr
        assert b"no UTF-8" in done.stderr
        assert sorted(os.listdir(os.fsencode(tmp_path))) == before


@pytest.mark.parametrize("now", [-1, -(10**18), 1 << 63, (1 << 63) - 1, 1 << 70])
def test_a_clock_that_no_run_can_hold(tmp_path: Path, now: int, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setattr(time, "time_ns", lambda: now)
    with pytest.raises(CheckFailed, match="set the clock"):
        Recorder(tmp_path / "run", VECTOR_SCHEMA, min_free=0)
    monkeypatch.chdir(tmp_path)
    assert main(RECORD) == 4
    assert capsys.readouterr().err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("format", ["table", "json", "ndjson", "csv", "parquet", "arrow"])
def test_values_of_every_type_of_sql(tmp_path: Path, format: str, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    write_vectors(tmp_path / "run")
    monkeypatch.chdir(tmp_path)
    out = ["--format", format] if format in ("table", "json") else ["-o", f"out.{format}"]
    code = main(["query", "run", "SELECT * FROM test_all_types()", *out])
    said = capsys.readouterr()
    if format == "arrow":
        assert code == 0
        return
    told = said.out if format == "json" else said.err
    assert (code, "cast" in told.lower(), len(told.splitlines())) == (2, True, 1)
    assert not list(tmp_path.glob("*out*"))
    code = main(["query", "run", "SELECT CAST(date AS VARCHAR) AS date FROM test_all_types()", "--json"])
    assert (code, json.loads(capsys.readouterr().out)["count"]) == (0, 3)


def test_what_is_told_to_do_next_is_for_a_shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    write_vectors(tmp_path / "my $run; it's")
    monkeypatch.chdir(tmp_path)
    assert main(["inspect", "my $run; it's"]) == 0
    said = capsys.readouterr().err.rstrip("\n")
    commands = said[said.index("next: ") + len("next: ") :].split(" · ")
    assert [shlex.split(command)[2] for command in commands] == ["my $run; it's"] * len(commands)
    shutil.copytree("my $run; it's", "other one")
    shard = tmp_path / "other one/shards/w0/000000.exp"
    for damage, verb in ((1, ["validate", "other one"]), (2, ["diff", "my $run; it's", "other one"])):
        flip_bit(shard, shard.stat().st_size // 2, damage)
        assert main(verb) == 4
        assert shlex.split(capsys.readouterr().err)[-1] == "other one"
    assert main(["config", "check", "my file.yaml"]) == 5
    assert capsys.readouterr().err.endswith("write one with: expkit config init 'my file.yaml'\n")


def test_a_library_that_cannot_be_loaded_is_not_told_to_be_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(name: str) -> None:
        raise ImportError(f"{name}.so: failed to map segment from shared object")

    monkeypatch.setattr(importlib, "import_module", fails)
    with pytest.raises(MissingExtra, match="is installed and cannot be loaded: duckdb.so: failed to map"):
        require("duckdb", "sql", "SQL")


def test_a_guard_that_prunes_does_not_advise_to_prune(tmp_path: Path) -> None:
    run = write_vectors(tmp_path / "run")
    for make_room, told in ((None, "--on-full prune"), (lambda run, excess: False, "--shard-size")):
        with pytest.raises(NoSpace) as found:
            DiskGuard(min_free=0, max_total=1, make_room=make_room).start(run)
        assert told in str(found.value)
        assert ("--on-full" in str(found.value)) == (make_room is None)
