"""`expkit export` and `import` as processes: what they print, kills, signals, two of the same."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from exchanged_runs import PLAIN_SCHEMA, write_hard, write_plain
from patience import PATIENCE, wait_until
from places import SAMPLE
from test_compact import expkit
from test_export import write

from expkit import Recorder, open_run
from expkit.comparison.compare import compare_runs
from expkit.exchange.recordings import import_recording


@pytest.fixture(scope="module")
def long_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Enough rows that writing them as JSON takes seconds."""
    return write_plain(tmp_path_factory.mktemp("long") / "run", 1500, 100)


def begin(*words: object, cwd: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "expkit.commands", *map(str, words)],
        cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    def there() -> bool:
        assert process.poll() is None, process.communicate()
        return path.exists() and (path.is_dir() or path.stat().st_size > 0)

    wait_until(there, str(path))


def test_it_says_what_it_wrote(tmp_path: Path) -> None:
    write_hard(tmp_path / "run")
    done = expkit("export", "run", "-o", "a.parquet", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "a.parquet: 586 rows" in done.stdout.replace(",", "")
    body = json.loads(expkit("export", "run", "-o", "b.csv", "--json", cwd=tmp_path).stdout)
    assert body["schema"] == "expkit.export/1"
    assert (body["format"], body["rows"], body["dry_run"]) == ("csv", 586, False)
    assert body["files"][0]["bytes"] == (tmp_path / "b.csv").stat().st_size
    assert len(body["losses"]) == 2
    back = json.loads(expkit("import", "a.parquet", "-o", "back", "--json", cwd=tmp_path).stdout)
    assert (back["schema"], back["format"], back["rows"], back["episodes"]) == ("expkit.import/1", "parquet", 586, 9)
    assert expkit("diff", "run", "back", cwd=tmp_path).returncode == 0


def test_what_cannot_be_carried_is_said_before_writing(tmp_path: Path) -> None:
    write_hard(tmp_path / "run")
    done = expkit("export", "run", "-o", "a.csv", "--dry-run", cwd=tmp_path)
    assert "csv: arrays stand as JSON text" in done.stderr
    assert "would write at most 586 rows of 9 episodes as csv" in done.stdout
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]
    strict = expkit("export", "run", "-o", "a.csv", "--strict", cwd=tmp_path)
    assert strict.returncode == 2
    assert "csv cannot carry all of it: arrays stand as JSON text" in strict.stderr
    told = json.loads(expkit("export", "run", "-o", "a.csv", "--dry-run", "--json", cwd=tmp_path).stdout)
    assert told["peak_temporary_bytes"] == told["bytes"]
    assert told["losses"]
    assert expkit("export", "run", "-o", "a.npz", "--strict", cwd=tmp_path).returncode == 0


def test_several_runs_where_and_split(tmp_path: Path) -> None:
    write_plain(tmp_path / "runs" / "a", 6)
    write_plain(tmp_path / "runs" / "b", 6)
    done = expkit(
        "export", "runs", "-o", "sets.npz", "--where", "step < 10", "--split", "x=.5,y=.5", "--shuffle", "--seed", "3",
        "--threads", "1", cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    parts = [dict(np.load(tmp_path / "sets.npz" / f"{name}.npz")) for name in "xy"]
    numbers = np.concatenate([part["episode"] for part in parts])
    assert sorted(set(numbers.tolist())) == list(range(12))
    assert not set(parts[0]["episode"].tolist()) & set(parts[1]["episode"].tolist())
    assert len(numbers) == 12 * 10


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_nothing_behind(long_run: Path, tmp_path: Path, number: signal.Signals) -> None:
    process = begin("export", long_run, "-o", "a.ndjson", cwd=tmp_path)
    wait_for(tmp_path / ".unfinished.a.ndjson", process)
    process.send_signal(number)
    out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 128 + number
    assert "stopped; nothing was written" in err
    assert out == ""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("words", [["-o", "a.ndjson"], ["-o", "a.npz"], ["-o", "a.npz", "--shuffle"]])
def test_a_kill_leaves_nothing_that_looks_finished(long_run: Path, tmp_path: Path, words: list[str]) -> None:
    (tmp_path / words[1]).write_text("what was there before")
    process = begin("export", long_run, *words, "--force", cwd=tmp_path)

    def begun() -> bool:
        assert process.poll() is None, process.communicate()
        return any(path.name.startswith(".") for path in tmp_path.iterdir())

    wait_until(begun, every=0.005)
    process.kill()
    process.communicate(timeout=PATIENCE)
    assert (tmp_path / words[1]).read_text() == "what was there before"
    small = write_plain(tmp_path / "small", 3)
    write(small, tmp_path / words[1], force=True, shuffle=1 if "--shuffle" in words else None)
    assert sorted(path.name for path in tmp_path.iterdir()) == [words[1], "small"]
    import_recording(tmp_path / words[1], tmp_path / "back")
    with open_run(small) as before, open_run(tmp_path / "back") as after:
        assert compare_runs(before, after).equal


def test_an_import_that_is_stopped_or_killed_leaves_no_run(long_run: Path, tmp_path: Path) -> None:
    write(long_run, tmp_path / "a.ndjson")
    for number, code in ((signal.SIGINT, 130), (signal.SIGKILL, -9)):
        process = begin("import", "a.ndjson", "-o", "run", cwd=tmp_path)
        wait_for(tmp_path / ".run.unfinished", process)
        process.send_signal(number)
        process.communicate(timeout=PATIENCE)
        assert process.returncode == code
        assert not (tmp_path / "run").exists()
    write(write_plain(tmp_path / "small", 3), tmp_path / "b.npz")
    import_recording(tmp_path / "b.npz", tmp_path / "run")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.ndjson", "b.npz", "run", "small"]


def test_inputs_are_never_touched(tmp_path: Path) -> None:
    run = write_hard(tmp_path / "run")
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in run.rglob("*") if path.is_file()}
    for out in ("a.parquet", "a.npz", "a.hdf5"):
        write(run, tmp_path / out)
    after = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in run.rglob("*") if path.is_file()}
    assert {path for path in after if not path.name.startswith("readers")} == {
        path for path in before if not path.name.startswith("readers")
    }
    assert all(before[path] == after[path] for path in before)


def test_a_damaged_run_is_told_to_be_recovered_first(tmp_path: Path) -> None:
    done = expkit("export", SAMPLE / "damaged", "-o", "a.npz", cwd=tmp_path)
    assert done.returncode == 4
    assert "expkit recover" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_missing_library_is_told_in_one_line(tmp_path: Path) -> None:
    run = write_plain(tmp_path / "run", 2)
    code = "import sys; sys.modules['pyarrow'] = None; from expkit.commands import main; sys.exit(main(sys.argv[1:]))"
    done = subprocess.run(
        [sys.executable, "-c", code, "export", str(run), "-o", "a.parquet"],
        cwd=tmp_path, capture_output=True, text=True, check=False, env={**os.environ},
    )  # fmt: skip
    assert done.returncode == 2
    assert "pip install 'expkit[arrow]'" in done.stderr
    assert "Traceback" not in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]


def test_a_run_that_is_being_recorded_gives_its_complete_episodes(tmp_path: Path) -> None:

    with Recorder(tmp_path / "run", PLAIN_SCHEMA, min_free=0) as recorder:
        for episode in range(3):
            for step in range(4):
                seen = np.zeros(4, np.float32)
                recorder.add(
                    episode=episode, step=step, observation=seen, action=step, reward=0.0, terminated=step == 3
                )
            if episode < 2:
                recorder.end(episode=episode, player=0, observation=np.zeros(4, np.float32))
        recorder.flush()
        done = expkit("export", "run", "-o", "a.npz", cwd=tmp_path)
        assert "still being recorded" in done.stderr
        with np.load(tmp_path / "a.npz") as loaded:
            assert sorted(set(loaded["episode"].tolist())) == [0, 1]
    with open_run(tmp_path / "run") as run:
        assert len(run.episodes()) == 3
