"""One contract for all verbs: exit codes, one-line errors, JSON, no ANSI in a pipe.

The whole table runs through `main` in this process, where Numba is loaded once; a row for each exit code and
everything about signals, pipes and terminals runs as a process of its own.
"""

import json
import os
import pty
import re
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import warm_processes
from gior_files import gior
from patience import PATIENCE, wait_until
from places import SAMPLE
from terminals import shown_on
from written_runs import flip_bit, write_boards, write_vectors

from expkit.commands import main
from expkit.commands.verbs import EXIT_CODES, GROUPS, ROOT_OPTIONS, VERBS

NAMES = [verb.name for verb in VERBS]
ANSI = re.compile(r"\x1b[\[\]()]")


def expkit(*arguments, cwd=None, **environment):
    """Run the command line as a process of its own."""
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(("EXPKIT_", "NO_COLOR"))}
    if "EXPKIT_CACHE_DIR" in os.environ:
        inherited["EXPKIT_CACHE_DIR"] = os.environ["EXPKIT_CACHE_DIR"]
    return warm_processes.expkit(*arguments, cwd=cwd, environ={**inherited, **environment})


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """boards: whole; vectors: whole, one player; damaged: a flipped bit; empty: no run in it."""
    folder = tmp_path_factory.mktemp("runs")
    write_boards(folder / "boards")
    write_vectors(folder / "vectors")
    shutil.copytree(folder / "boards", folder / "damaged")
    shard = folder / "damaged/shards/w0/000000.exp"
    flip_bit(shard, shard.stat().st_size // 2)
    (folder / "empty").mkdir()
    (folder / "notes.txt").write_text("no run")
    return folder


# (arguments, exit code, words on stderr); every row is run plainly and with --json.
TABLE = [
    (["list", "."], 0, ""),
    (["list", "empty"], 0, ""),
    (["list", "nowhere"], 5, "there is no nowhere"),
    (["inspect", "boards"], 0, ""),
    (["inspect", "boards", "vectors"], 0, ""),
    (["inspect", "boards/shards/w0/000000.exp"], 0, ""),
    (["inspect", "boards", "--episode", "1"], 0, ""),
    (["inspect", "boards", "--episode", "1", "--player", "0", "--step", "2"], 0, ""),
    (["inspect"], 2, "PATH is missing; see expkit inspect --help"),
    (["inspect", "board"], 5, "did you mean boards?"),
    (["inspect", "*.zip"], 2, "nothing matches '*.zip'"),
    (["inspect", "empty"], 2, "no run in empty"),
    (["inspect", "notes.txt"], 2, "notes.txt is not a run"),
    (["inspect", "boards", "--episode", "7"], 5, "no episode 7; it has 3 from 0 to 2"),
    (["inspect", "boards", "--episode", "0", "--player", "5", "--step", "0"], 5, "player 5"),
    (["inspect", "boards", "--episode", "0", "--player", "0", "--step", "99"], 5, "it has steps 0 to 5"),
    (["inspect", "boards", "--step", "3"], 2, "--episode E --player P --step S"),
    (["inspect", "boards", "--episode", "many"], 2, "--episode"),
    (["validate", "boards", "vectors"], 0, ""),
    (["validate", "damaged"], 4, ""),
    (["validate", "damaged", "--fail-on", "never"], 0, ""),
    (["validate", "*.zip"], 2, "nothing matches"),
    (["validate", "empty"], 2, "no run and no shard file in empty"),
    (["validate", "boards", "--fail-on", "sometimes"], 2, "use error, warn or never"),
    (["diff", "boards", "boards"], 0, ""),
    (["diff", "boards", "vectors"], 4, ""),
    (["diff", "boards", "damaged"], 4, ""),
    (["diff", "boards", "board"], 5, "did you mean boards?"),
    (["diff", "boards"], 2, "RUN_B is missing; see expkit diff --help"),
    (["diff", "boards", "empty"], 2, "no run in empty"),
    (["diff", "boards", "."], 2, "holds 3 runs; name one"),
    (["diff", "boards/shards/w0/000000.exp", "boards"], 2, "is one shard file of a run"),
    (["diff", "boards", "boards", "--tolerance", "-1"], 2, "a number from 0 up"),
    (["diff", "boards", "boards", "--ignore", "tims_ns"], 2, "did you mean time_ns?"),
    (["recover", "boards"], 0, ""),
    (["recover", "damaged", "--dry-run"], 0, ""),
    (["recover", "board"], 5, "did you mean boards?"),
    (["recover", "empty"], 2, "empty is not a run"),
    (["recover", "boards/shards/w0/000000.exp"], 2, "name the folder that holds run.yaml"),
    (["recover", "damaged", "-o", "vectors"], 2, "vectors exists already; use --force"),
    (["replay", "boards", "--step", "2"], 0, ""),
    (["replay", "vectors", "--episode", "3", "--step", "1"], 0, ""),
    (["replay", "boards", "--step", "77"], 5, "it has steps 0 to 5"),
    (["replay", "boards", "--rate", "fast"], 2, "write it like 2x"),
    (["replay", "boards", "--verify", "--step", "1"], 2, "leave out --player, --step, --where, --rate"),
    (["replay", "boards", "--where", "reward > 0.5 and episode = 1"], 0, ""),
    (["replay", "boards", "--where", "reward > 5"], 5, "no row for which reward > 5 holds"),
    (
        ["replay", "boards", "--where", "episode = 1", "--episode", "2"],
        5,
        "has no row for which episode = 1 holds; try 1",
    ),
    (["replay", "boards", "--where", "episode = 1", "--step", "2"], 2, "leave out --step"),
    (["replay", "."], 2, "name one"),
    (["query", "boards", "reward > 0.5 and player == 0"], 0, ""),
    (["query", "boards", "vectors", "SELECT run, avg(return) FROM episodes GROUP BY run"], 0, ""),
    (["query", "boards", "step > 99"], 0, ""),
    (["query", "boards", "step > 3", "--fail-if-any"], 4, ""),
    (["query", "boards"], 2, "QUERY is missing"),
    (["query", "boards", "rewrd > 3"], 2, "unknown name 'rewrd'; did you mean 'reward'?"),
    (["query", "boards", "SELECT rewrd FROM steps"], 2, "no column rewrd; did you mean reward?"),
    (["query", "damaged", "FROM rows"], 4, "damaged"),
    (["query", "board", "step > 3"], 5, "did you mean boards?"),
    (["rewrite", "boards", "-o", "new", "--reward", "sparse", "--dry-run", "-q"], 0, ""),
    (["rewrite", "boards", "-o", "new", "--reward", "spare"], 2, "did you mean sparse?"),
    (["rewrite", "boards", "-o", "new", "--reward", "weighted", "-q"], 2, "looked at and not stored"),
    (["export", "boards", "-o", "new.npz", "--dry-run"], 0, ""),
    (["export", "boards", "-o", "new.parket"], 2, "names no format"),
    (["export", "boards", "-o", "new", "--format", "parqet"], 2, "did you mean parquet?"),
    (["export", "boards", "-o", "new.csv", "--strict"], 2, "csv cannot carry all of it"),
    (["export", "boards", "-o", "new.npz", "--compression", "zstd"], 2, "it has none, deflate"),
    (["export", "boards", "-o", "vectors", "--format", "npz"], 2, "is a run, which an export never replaces"),
    (["export", "boards", "-o", "notes.txt", "--format", "npz"], 2, "notes.txt exists already; use --force"),
    (["export", "board", "-o", "new.npz"], 5, "did you mean boards?"),
    (["import", "nothing.npz", "-o", "new"], 5, "no such file"),
    (["import", "notes.txt", "-o", "new"], 2, "no format 'txt'"),
    (["import", "notes.txt", "-o", "new", "--format", "npz", "-q"], 4, "it is no .npz file"),
    (["rotate", "boards"], 5, "nobody is recording it"),
    (["rotate", "nowhere"], 5, "there is no nowhere"),
    (["bench", "--list"], 0, ""),
    (["bench", "--stage", "ring/ad-1"], 2, "did you mean ring/add-1?"),
    (["bench", "--baseline", "nope.json"], 5, "no such baseline"),
    (["config", "show", "--origin"], 0, ""),
    (["config", "show", "--config", "nope.yaml"], 5, "no such settings file"),
    (["config", "init", "notes.txt"], 2, "exists already; use --force"),
    (["config", "init", "-"], 0, ""),
    (["config", "schema"], 0, ""),
    (["config", "shw"], 2, "did you mean show?"),
    (["help"], 0, ""),
    (["help", "promises"], 0, ""),
    (["help", "record"], 0, ""),
    (["help", "trainin"], 2, "did you mean training?"),
    (["help", "config", "shw"], 2, "did you mean show?"),
    (["help", "training", "promises"], 2, "name one, see expkit help"),
]


@pytest.fixture
def call(capfd, monkeypatch):
    """Run a command line in this process and in `cwd`; its handlers of signals go when the test ends."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("FORCE_COLOR", "1")

    def run(*arguments, cwd):
        monkeypatch.chdir(cwd)
        capfd.readouterr()
        code = main([str(argument) for argument in arguments])
        out, err = capfd.readouterr()
        return subprocess.CompletedProcess(arguments, code, out, err)

    yield run
    for number, handler in before.items():
        signal.signal(number, handler)


ONE_OF_EACH = [
    (["list", "."], 0),
    (["config", "init", "notes.txt"], 2),
    (["validate", "damaged"], 4),
    (["inspect", "board"], 5),
]


@pytest.mark.parametrize(("arguments", "code"), ONE_OF_EACH)
def test_a_process_says_the_same_as_main(runs, call, arguments, code):
    for extra in ([], ["--json"]):
        process, inside = expkit(*arguments, *extra, cwd=runs, FORCE_COLOR="1"), call(*arguments, *extra, cwd=runs)
        assert process.returncode == inside.returncode == code
        assert process.stderr == inside.stderr
        assert without_times(process.stdout) == without_times(inside.stdout)


def without_times(text):
    """Ages differ from call to call, and with them the width of their column."""
    return re.sub(r"[0-9.:]+( s)?|  +", " ", text)


@pytest.mark.parametrize(
    ("arguments", "code", "words"), TABLE, ids=lambda value: " ".join(value) if isinstance(value, list) else ""
)
def test_exit_code_and_line(runs, call, arguments, code, words):
    done = call(*arguments, cwd=runs)
    assert done.returncode == code, done.stderr
    assert not ANSI.search(done.stdout + done.stderr)
    assert words in done.stderr
    if words:
        assert re.fullmatch(rf"expkit {arguments[0]}: .+\n", done.stderr), done.stderr
        assert done.stdout == ""
    else:
        assert re.fullmatch(r"(next: .*expkit .+\n)*", done.stderr)
        assert "next: " not in done.stdout
        assert done.stdout


JSON_TABLE = [row for row in TABLE if row[0][:2] not in (["inspect", "notes.txt"], ["config", "shw"], ["replay", "."])]


@pytest.mark.parametrize(
    ("arguments", "code", "words"), JSON_TABLE,
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)  # fmt: skip
def test_json_is_one_object_with_a_schema(runs, call, arguments, code, words):
    done = call(*arguments, "--json", cwd=runs)
    assert done.returncode == code
    assert done.stderr == ""
    body = json.loads(done.stdout)
    assert done.stdout.count("\n") == 1
    verb = " ".join(arguments)
    if words:
        assert body["schema"] == "expkit.error/1"
        assert body["exit_code"] == code
        assert words in body["error"]["message"]
        assert body["error"]["verb"] == arguments[0]
    else:
        assert re.fullmatch(r"expkit\.[a-z.]+/1", body["schema"]), verb
        assert body["schema"].split(".")[1].split("/")[0] == arguments[0]
    for key, value in walk(body):
        if isinstance(value, int) and not isinstance(value, bool):
            assert abs(value) < 1 << 53, f"{key} loses digits in a double"


def walk(tree, key=""):
    """Every leaf with its key."""
    if isinstance(tree, dict):
        for name, value in tree.items():
            yield from walk(value, name)
    elif isinstance(tree, list):
        for value in tree:
            yield from walk(value, key)
    else:
        yield key, tree


@pytest.mark.parametrize("name", NAMES)
def test_every_verb_refuses_an_unknown_option(runs, call, name):
    words = ["config", "show"] if name == "config" else [name]
    plain = call(*words, "--jsn", cwd=runs)
    assert plain.returncode == 2
    assert plain.stderr == f"expkit {name}: no option --jsn; did you mean --json? see expkit {' '.join(words)} --help\n"
    as_json = call(*words, "--nonsense", "--json", cwd=runs)
    assert as_json.returncode == 2
    assert json.loads(as_json.stdout)["error"]["type"] == "UsageError"


@pytest.mark.parametrize("name", NAMES)
def test_every_verb_has_help_that_ends_with_examples(runs, call, name):
    done = call(name, "--help", cwd=runs)
    assert done.returncode == 0
    assert done.stderr == ""
    assert next(verb for verb in VERBS if verb.name == name).help in " ".join(done.stdout.split())
    assert max(map(len, done.stdout.splitlines())) <= 100
    if name != "config":
        assert "--json" in done.stdout
        assert done.stdout.rstrip().splitlines()[-1].strip().startswith(f"expkit {name}")


def usage_lines():
    """Of every verb, and of every verb of a verb."""
    from expkit.commands.app import build, load

    root = build()
    for verb in VERBS:
        command = load(verb)
        for name, member in {"": command, **getattr(command, "commands", {})}.items():
            path = f"expkit {verb.name} {name}".strip()
            yield path, " ".join(member.collect_usage_pieces(root.context_class(member, info_name=path)))


def test_usage_lines_name_arguments_and_nothing_around_them():
    told = dict(usage_lines())
    assert {"expkit import", "expkit diff", "expkit config check"} <= told.keys()
    assert told["expkit diff"] == "[OPTIONS] RUN_A RUN_B"
    assert [f"{path} {usage}" for path, usage in told.items() if set("{}") & set(usage)] == []


def test_the_root_lists_every_verb_and_option():
    alone, asked = expkit(), expkit("--help")
    assert alone.stdout == asked.stdout
    assert alone.returncode == asked.returncode == 0
    for verb in VERBS:
        assert re.search(rf"^  {verb.name} +{re.escape(verb.help)}$", alone.stdout, re.M)
        assert verb.group in GROUPS
    from expkit.commands.app import build

    listed = " ".join(option for option, _ in ROOT_OPTIONS)
    for parameter in build().params:
        assert all(option in listed for option in parameter.opts)


def test_the_root_help_imports_nothing_heavy():
    code = "import sys; from expkit.commands import main; main(['--help']); print(sorted(sys.modules), file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    for heavy in ("numpy", "numba", "msgspec", "rich", "yaml", "typer", "pydantic"):
        assert f"'{heavy}'" not in done.stderr


def test_an_unknown_verb_names_the_nearest():
    done = expkit("lst")
    assert done.returncode == 2
    assert re.fullmatch(r"expkit: .*did you mean list\?.*\n", done.stderr)


def test_common_options_stand_before_or_after_the_verb(runs, call):
    for arguments in (["--quiet", "list", "."], ["list", ".", "--quiet"], ["list", "-q", "."]):
        done = call(*arguments, cwd=runs)
        assert done.returncode == 0
        assert done.stderr == ""
    done = call("list", ".", cwd=runs)
    assert done.stderr == "next: expkit inspect vectors\n"
    assert "next:" not in done.stdout


def test_a_traceback_only_with_debug(runs, call):
    plain = call("inspect", "nowhere", cwd=runs)
    debug = call("inspect", "nowhere", "--debug", cwd=runs)
    assert "Traceback" not in plain.stderr
    assert "Traceback" in debug.stderr
    assert debug.returncode == plain.returncode == 5
    assert debug.stderr.rstrip().splitlines()[-1] == plain.stderr.rstrip()


def test_text_from_data_is_never_markup(runs, call):
    listed = call("list", ".", cwd=runs).stdout
    assert "[bold]evil[/bold] \\x1b[31m" in listed
    assert "[red]position[/red]" in call("inspect", "vectors", cwd=runs).stdout


def test_the_version():
    done = expkit("--version")
    assert done.returncode == 0
    assert re.fullmatch(r"expkit \d+\.\d+\.\d+\S*\n", done.stdout)


@pytest.mark.parametrize("arguments", [["validate", "damaged"], ["list", "."]])
def test_a_reader_that_goes_away_is_quiet(runs, arguments):
    """stdout is a pipe whose reader is gone before a byte is written; the exit code is still that of the work."""
    read, write = os.pipe()
    os.close(read)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "expkit.commands", *arguments], cwd=runs, stdout=write, stderr=subprocess.PIPE,
            text=True, timeout=PATIENCE, check=False,
        )  # fmt: skip
    finally:
        os.close(write)
    assert done.stderr == ""
    assert done.returncode == (4 if arguments[0] == "validate" else 0)


def test_a_full_disk_behind_stdout_is_exit_7(runs):
    if not Path("/dev/full").exists():
        pytest.fail("this system has no /dev/full to stand for a full disk")
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "expkit.commands", "list", "."], cwd=runs, stdout=full, stderr=subprocess.PIPE,
            text=True, timeout=PATIENCE, check=False,
        )  # fmt: skip
    assert done.returncode == 7
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(("no_color", "colored"), [("", True), ("1", False)])
def test_colour_on_a_terminal_unless_no_color(runs, no_color, colored):
    shown = on_a_terminal(["validate", "damaged"], runs, NO_COLOR=no_color, TERM="xterm-256color")
    assert bool(ANSI.search(shown)) is colored
    assert "ERROR" in shown


def on_a_terminal(arguments, cwd, **environment):
    """What a process prints on a terminal of its own."""
    leader, follower = pty.openpty()
    environ = {key: value for key, value in os.environ.items() if key not in ("NO_COLOR", "FORCE_COLOR")}
    environ.update({key: value for key, value in environment.items() if value})
    process = subprocess.Popen(
        [sys.executable, "-m", "expkit.commands", *arguments], cwd=cwd, env=environ,
        stdin=follower, stdout=follower, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    os.close(follower)
    shown = shown_on(leader)
    process.wait(PATIENCE)
    return shown


@pytest.mark.parametrize("columns", [80, 200])
def test_a_page_fits_the_terminal(runs, columns):
    shown = on_a_terminal(["inspect", "boards"], runs, COLUMNS=str(columns), LINES="50", NO_COLOR="1", TERM="xterm")
    lines = shown.replace("\r", "").splitlines()
    assert max(map(len, lines)) <= columns
    assert ("meaning" in shown) is (columns == 200)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_signals_have_their_exit_codes(runs, number, code):
    """`replay` at a slow pace is a verb that takes long enough to be stopped."""
    process = subprocess.Popen(
        [sys.executable, "-m", "expkit.commands", "replay", "boards", "--rate", "0.1x"], cwd=runs,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout.readline()
    process.send_signal(number)
    _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == code
    assert errors == f"expkit replay: stopped by {signal.Signals(number).name}\n"


def test_exit_codes_are_documented_once_each():
    codes = [code for code, _ in EXIT_CODES]
    assert codes == sorted(set(codes))
    assert {0, 1, 2, 3, 4, 5, 6, 7, 129, 130, 143} == set(codes)


def examples():
    import importlib

    for verb in VERBS:
        yield from (line for line, _ in importlib.import_module(f"expkit.commands.{verb.module}").EXAMPLES)


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """A folder like a clone's: sample_data is there, and what the examples of config and import read."""
    folder = tmp_path_factory.mktemp("clone")
    shutil.copytree(SAMPLE, folder / "sample_data")
    (folder / "game.gior").write_bytes(gior(moves=[[0, 0, 1, 0, 60]]))
    with h5py.File(folder / "data.hdf5", "w") as file:
        for name in ("observations", "actions", "rewards", "terminals"):
            file[name] = np.arange(9) % 5 == 4 if name == "terminals" else np.arange(9, dtype=np.float32)
    done = expkit("export", "sample_data/run", "-o", "games.parquet", cwd=folder)
    assert done.returncode == 0, done.stderr
    done = expkit("config", "init", "expkit.yaml", cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.parametrize("line", [line for line in examples() if not line.startswith("expkit rotate")])
def test_the_examples_in_help_work(clone, call, line, monkeypatch):
    monkeypatch.setattr("expkit.commands.replay_player.STEPS_PER_SECOND", 400.0)  # a game at its pace takes 8 s
    done = call(*shlex.split(line)[1:], cwd=clone)
    assert done.returncode == 0, done.stderr
    assert done.stdout


def test_rotate_reaches_a_recorder(clone):
    """Its example needs somebody who records."""
    recorder = subprocess.Popen(
        [sys.executable, "-m", "expkit.commands", "record", "--forever", "--min-free", "0", "-o", "runs/live", "-q"],
        cwd=clone, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        wait_until(lambda: recorder.poll() is not None or list(clone.glob("runs/live/shards/w0/*.active")))
        done = expkit("rotate", "runs/live", "--json", cwd=clone)
        assert done.returncode == 0, done.stdout + done.stderr
        body = json.loads(done.stdout)
        assert body["writers"] == ["w0"]
        assert "w0/000000" in body["published"]
        assert json.loads(expkit("list", "runs/live", "--json", cwd=clone).stdout)["runs"][0]["state"] == "recording"
    finally:
        recorder.send_signal(signal.SIGINT)
        recorder.communicate(timeout=PATIENCE)
    assert recorder.returncode == 130
    assert json.loads(expkit("list", "runs/live", "--json", cwd=clone).stdout)["runs"][0]["state"] == "closed"
