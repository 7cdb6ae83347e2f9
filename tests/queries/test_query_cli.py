"""`expkit query` as a process: formats, limits, exit codes, terminals, signals."""

from __future__ import annotations

import csv
import io
import json
import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from patience import PATIENCE, wait_until
from terminals import shown_on
from written_runs import write_boards, write_vectors

from expkit import open_run
from expkit.commands import main

EVERY_ACTION = "SELECT episode, player, step, action, reward FROM steps ORDER BY ALL"


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("query")
    write_boards(folder / "boards")
    write_vectors(folder / "vectors")
    return folder


@pytest.fixture
def query(capfdbinary, monkeypatch):
    """Run the verb in this process and in `cwd`; its handlers of signals go when the test ends."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}

    def run(*arguments: object, cwd: Path, binary: bool = False) -> subprocess.CompletedProcess:
        monkeypatch.chdir(cwd)
        capfdbinary.readouterr()
        code = main(["query", *map(str, arguments)])
        out, err = capfdbinary.readouterr()
        return subprocess.CompletedProcess(arguments, code, out if binary else out.decode(), err.decode())

    yield run
    for number, handler in before.items():
        signal.signal(number, handler)


def plainly(path: Path) -> list[tuple]:
    """Keys, action and reward of every transition, by reading the run."""
    out = []
    with open_run(path) as run:
        for batch in run.scan(["action", "reward"]):
            names = ("episode", "player", "step", "action", "reward")
            out += zip(*(batch[name].tolist() for name in names), strict=True)
    return sorted(out)


def test_every_format_holds_the_same_rows(query, runs):
    wanted = plainly(runs / "boards")
    done = query("boards", EVERY_ACTION, "--format", "ndjson", cwd=runs)
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert {type(row["episode"]) for row in found} == {str}
    assert [(int(row["episode"]), *list(row.values())[1:]) for row in found] == wanted
    body = json.loads(query("boards", EVERY_ACTION, "--json", cwd=runs).stdout)
    assert body["rows"] == found
    assert (body["schema"], body["count"], body["more"]) == ("expkit.query/1", len(wanted), False)
    assert body["columns"][0] == {"name": "episode", "type": "uint64"}
    assert body["query"] == EVERY_ACTION
    assert body["runs"] == ["boards"]
    lines = list(csv.reader(io.StringIO(query("boards", EVERY_ACTION, "--format", "csv", cwd=runs).stdout)))
    assert lines[0] == ["episode", "player", "step", "action", "reward"]
    assert [(*map(int, line[:4]), float(line[4])) for line in lines[1:]] == wanted
    data = query("boards", EVERY_ACTION, "--format", "parquet", cwd=runs, binary=True).stdout
    table = pq.read_table(io.BytesIO(data), page_checksum_verification=True)
    assert [tuple(row.values()) for row in table.to_pylist()] == wanted
    data = query("boards", EVERY_ACTION, "--format", "arrow", cwd=runs, binary=True).stdout
    assert pa.ipc.open_stream(data).read_all().to_pylist() == table.to_pylist()
    shown = query("boards", EVERY_ACTION, "--limit", 0, cwd=runs).stdout.splitlines()
    assert [tuple(map(float, line.split())) for line in shown[1:]] == wanted


@pytest.mark.parametrize("suffix", ["csv", "ndjson", "jsonl", "parquet", "arrow"])
def test_a_file_holds_what_the_pipe_does(query, runs, tmp_path, suffix):
    out = tmp_path / f"answer.{suffix}"
    condition = "action is not null and player = 0"
    format = "ndjson" if suffix == "jsonl" else suffix
    done = query("boards", condition, "-o", out, cwd=runs)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{out}: 15 rows, ")
    assert out.read_bytes() == query("boards", condition, "--format", format, cwd=runs, binary=True).stdout
    assert list(tmp_path.iterdir()) == [out]
    again = query("boards", condition, "-o", out, cwd=runs)
    assert (again.returncode, again.stdout) == (2, "")
    assert f"{out} exists already; use --force" in again.stderr
    body = json.loads(query("boards", condition, "-o", out, "--force", "--json", cwd=runs).stdout)
    assert (body["count"], body["format"], body["bytes"]) == (15, format, out.stat().st_size)


def test_a_failing_query_leaves_no_file(query, runs, tmp_path):
    out = tmp_path / "answer.csv"
    out.write_text("before")
    done = query("boards", "SELECT (step * 100)::TINYINT FROM steps", "-o", out, "--force", cwd=runs)
    assert done.returncode == 2
    assert "out of range" in done.stderr
    assert out.read_text() == "before"
    assert list(tmp_path.iterdir()) == [out]


def test_a_table_says_what_it_leaves_out(query, runs):
    done = query("boards", "step >= 0", "--limit", 2, cwd=runs)
    assert (done.stdout.count("\n"), done.stderr) == (3, "the first 2 rows; --limit 0 shows all 36\n")
    assert query("boards", "step >= 0", "--limit", 2, "-q", cwd=runs).stderr == ""
    assert query("boards", "FROM rows", "--limit", 2, cwd=runs).stderr == "the first 2 rows; --limit 0 shows all\n"
    assert len(query("boards", "step >= 0", cwd=runs).stdout.splitlines()) == 21
    assert query("boards", "step > 99", cwd=runs).stdout == "no row\n"
    body = json.loads(query("boards", "step >= 0", "--json", "--limit", 3, cwd=runs).stdout)
    assert (body["count"], body["more"], len(body["rows"])) == (3, True, 3)


def test_integers_that_a_double_cannot_hold_are_text(query, runs):
    sql = "SELECT sum(step) AS s, max(time_ns) AS time_ns, 9007199254740993 AS big, 7::HUGEINT AS h, [1::UBIGINT] AS l"
    (row,) = json.loads(query("boards", f"{sql} FROM rows", "--json", cwd=runs).stdout)["rows"]
    assert row["s"] == 90
    assert row["time_ns"].isdecimal()
    assert (row["big"], row["h"], row["l"]) == ("9007199254740993", 7, [1])
    odd = "SELECT 'nan'::DOUBLE AS n, 0.5 AS d, DATE '2024-02-29' AS t, {'a': 1} AS s, '\\xFF'::BLOB AS b, NULL AS z"
    (row,) = json.loads(query("boards", odd, "--json", cwd=runs).stdout)["rows"]
    assert row == {"n": "NaN", "d": 0.5, "t": "2024-02-29", "s": {"a": 1}, "b": "ff", "z": None}
    (line,) = query("boards", odd, "--format", "ndjson", cwd=runs).stdout.splitlines()
    assert json.loads(line) == row


@pytest.mark.parametrize(
    ("question", "option", "code"),
    [
        ("reward > 0.5", "--fail-if-any", 4),
        ("reward > 5", "--fail-if-any", 0),
        ("reward > 0.5", "--fail-if-none", 0),
        ("reward > 5", "--fail-if-none", 4),
        ("SELECT 1 FROM steps WHERE reward > 5", "--fail-if-any", 0),
        ("SELECT 1 FROM steps WHERE reward > 0.5", "--fail-if-any", 4),
    ],
)
def test_a_gate_for_ci(query, runs, question, option, code):
    for more in ([], ["--json"], ["--format", "csv"]):
        assert query("boards", question, option, *more, cwd=runs).returncode == code


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["boards"], 2, "QUERY is missing"),
        (["step > 3"], 2, "QUERY is missing"),
        (["board", "step > 3"], 5, "did you mean boards?"),
        (["boards", "stp > 3"], 2, "QUERY: unknown name 'stp'; did you mean 'step'?"),
        (["boards", "SELECT stp FROM rows"], 2, "SQL: no column stp; did you mean step"),
        (["boards", "step > 3", "--columns", "rewrd"], 2, "no column 'rewrd'"),
        (["boards", "SELECT 1", "--columns", "reward"], 2, "columns are for conditions on rows"),
        (["boards", "step > 3", "--format", "xml"], 2, "no format xml"),
        (["boards", "step > 3", "-o", "x.xml"], 2, "its suffix tells no format"),
        (["boards", "step > 3", "-o", "x.csv", "--format", "table"], 2, "is for stdout"),
        (["boards", "SELECT 1", "--memory", "much"], 2, "much"),
        (["boards", "SELECT 1", "--limit", "-1"], 2, "--limit"),
        (["boards", "SELECT * FROM read_csv('x.csv')"], 2, "SQL reads the tables of the runs only"),
    ],
)
def test_what_is_wrong_is_one_line(query, runs, arguments, code, words):
    done = query(*arguments, cwd=runs)
    assert done.returncode == code
    assert words in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert done.stdout == ""


def on_a_terminal(arguments, cwd: Path, columns: int) -> list[str]:
    leader, follower = pty.openpty()
    environ = {key: value for key, value in os.environ.items() if key not in ("NO_COLOR", "FORCE_COLOR")}
    process = subprocess.Popen(
        [sys.executable, "-m", "expkit.commands", "query", *arguments], cwd=cwd, stdin=follower, stdout=follower,
        stderr=subprocess.STDOUT,
        env={**environ, "COLUMNS": str(columns), "LINES": "50", "NO_COLOR": "1", "TERM": "xterm"},
    )  # fmt: skip
    os.close(follower)
    shown = shown_on(leader)
    process.wait(PATIENCE)
    return shown.replace("\r", "").splitlines()


def test_a_table_fits_the_terminal(runs):
    for question, columns in (("step = 3", 90), ("FROM steps", 80), ("FROM episodes", 60)):
        lines = on_a_terminal(["boards", question], runs, columns)
        assert max(map(len, lines)) <= columns, lines
        assert len(lines) > 3
        assert any(line.startswith("not shown: ") for line in lines) == (columns < 90)
    (line,) = on_a_terminal(["boards", "step = 3", "--format", "parquet"], runs, 80)
    assert "use -o FILE, or a pipe" in line


def test_text_from_data_is_shown_as_it_is(query, runs):
    shown = query("boards", "SELECT DISTINCT policy_name FROM rows ORDER BY ALL", cwd=runs).stdout
    assert "[bold]evil[/bold] \\x1b[31m" in shown


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_it_cleanly(runs, tmp_path, number):
    forever = "SELECT count(*) FROM range(100000000) a, range(100000) b WHERE (a.range * b.range) % 7 = 3"
    process = subprocess.Popen(
        [sys.executable, "-m", "expkit.commands", "query", "boards", forever], cwd=runs, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ, "TMPDIR": str(tmp_path)},
    )  # fmt: skip
    wait_until(lambda: process.poll() is not None or any(tmp_path.glob("expkit-query-*")))
    time.sleep(1)  # so that it has most likely begun to compute; at any other moment it ends the same way
    process.send_signal(number)
    out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 128 + number
    assert out == ""
    assert err == f"expkit query: stopped by {number.name}\n"
    assert not any(tmp_path.iterdir())


def test_a_reader_that_has_seen_enough_is_no_error(runs):
    for format in ("csv", "ndjson"):
        command = [sys.executable, "-m", "expkit.commands", "query", "boards", "SELECT * FROM range(300000)"]
        process = subprocess.Popen(
            [*command, "--format", format], cwd=runs, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        assert process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
        process.stderr.close()
        assert process.wait(PATIENCE) == 0


def test_without_the_library_a_line_says_what_to_install(runs):
    """A condition needs none of them."""
    hidden = "import sys; sys.modules.update(duckdb=None, pyarrow=None); from expkit.commands import main; "
    for question, code in (("reward > 0.5", 0), ("SELECT 1", 2)):
        run = f"sys.exit(main(['query', 'boards', {question!r}]))"
        done = subprocess.run(
            [sys.executable, "-c", hidden + run], cwd=runs, capture_output=True, text=True, timeout=PATIENCE
        )
        assert done.returncode == code
        if code:
            assert "pip install 'expkit[sql]'" in done.stderr
            assert len(done.stderr.splitlines()) == 1
