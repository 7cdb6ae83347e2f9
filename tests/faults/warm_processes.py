"""Processes to be killed that start in a hundredth of the time of `python -m expkit.commands`.

A server does everything once, so that all is imported and every kernel loaded, and then forks a process for each
command line: compacting a small run takes 60 ms instead of 3 s. A fork takes one thread along and leaves the locks of
all others locked; so the server forks only while it has one thread (it looks, and refuses otherwise), and what a
command starts after that is its own. The processes are real ones, killed by their id: the server collects them when
it is told to, and until then the id is theirs.
"""

from __future__ import annotations

import atexit
import ctypes
import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from subprocess import CompletedProcess
from types import TracebackType
from typing import Any

PR_SET_PDEATHSIG = 1  # <linux/prctl.h>


class Server:
    """`start("expkit", "compact", run)` or `start("module:function", …)` gives the id of a process."""

    def __init__(self, log: Path):
        self._log = log
        self.environ = dict(os.environ)
        here = Path(__file__).resolve()
        self._process = subprocess.Popen(
            [sys.executable, str(here)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OPENBLAS_NUM_THREADS": "1", "EXPKIT_MIN_FREE": "0"},
        )
        assert self._answer() == "ready"

    def __enter__(self) -> Server:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None):
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait(600)

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the server ended"
        return json.loads(line)

    def _ask(self, **what: Any) -> Any:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(what) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def start(self, *words: object, out: Path | None = None) -> int:
        """Its id. What it prints goes to `out`, on stderr to the server's log."""
        said = [str(word) for word in words]
        return int(self._ask(do="start", words=said, log=str(self._log), out=str(out or self._log)))

    def wait(self, pid: int) -> int:
        """Its exit code, negative the signal that killed it."""
        return int(self._ask(do="wait", pid=pid))

    def run(self, *words: object, codes: tuple[int, ...] = (0,)) -> int:
        """To its end, with one of these exit codes."""
        return self.answer(*words, codes=codes)[0]

    def answer(self, *words: object, codes: tuple[int, ...] = (0,)) -> tuple[int, str]:
        """Exit code and what was printed."""
        out = self._log.with_suffix(".out")
        out.unlink(missing_ok=True)
        code = self.wait(self.start(*words, out=out))
        assert code in codes, f"{words} ended with {code}: {self._log.read_text()}"
        return code, out.read_text()

    def command(self, words: Sequence[str], cwd: Path | None, environ: dict[str, str]) -> CompletedProcess[str]:
        """What `python -m expkit.commands` does in that folder and environment."""
        out, err = (self._log.with_suffix(suffix) for suffix in (".stdout", ".stderr"))
        for file in (out, err):
            file.write_bytes(b"")
        words = ["expkit", *words]
        asked = {"words": words, "log": str(err), "out": str(out), "cwd": str(cwd or Path.cwd()), "environ": environ}
        code = self.wait(int(self._ask(do="start", **asked)))
        return CompletedProcess(words, code, out.read_text(), err.read_text())


@cache
def _shared() -> Server:
    """One for all tests of this process that ask for nothing but what a command says."""
    folder = tempfile.TemporaryDirectory()
    server = Server(Path(folder.name, "log"))
    atexit.register(lambda: (server.__exit__(None, None, None), folder.cleanup()))
    return server


def expkit(*words: object, cwd: Path | None = None, environ: dict[str, str] | None = None) -> CompletedProcess[str]:
    """One command line as a process of its own, to its end. Where the environment says how Python or the terminal
    are to be, it starts Python by itself: 1 to 2 s of the processor, where a forked one takes a twentieth."""
    environ = dict(os.environ) if environ is None else environ
    given, server = [str(word) for word in words], _shared()
    changed = {name for name, _ in environ.items() ^ server.environ.items()}
    if "EXPKIT_CACHE_DIR" not in changed and all(name.startswith(("EXPKIT_", "PYTEST_")) for name in changed):
        return server.command(given, cwd, environ)
    return subprocess.run(
        [sys.executable, "-m", "expkit.commands", *given], cwd=cwd, capture_output=True, text=True, env=environ,
        timeout=900,
    )  # fmt: skip


def start(*words: object) -> int:
    """The id of a process that is to be killed; `kill` does, whether it has ended by then or not."""
    return _shared().start("expkit", *words)


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    assert _shared().wait(pid) in (0, -signal.SIGKILL)


def call(words: list[str]) -> int:
    """What a process does: the command line, or a function of a module beside this file."""
    name, *arguments = words
    if name == "expkit":
        from expkit.commands import main

        return main(arguments)
    module, _, function = name.partition(":")
    getattr(importlib.import_module(module), function)(*arguments)
    return 0


def _become(words: list[str], log: str, out: str, cwd: str = "", environ: dict[str, str] | None = None) -> None:
    """In the new process; does not return. It ends with the server, also when a test fails and leaves it behind."""
    code = 70
    try:
        if environ is not None:
            from expkit.commands import __file__ as commands

            os.chdir(cwd)
            sys.path.insert(0, cwd)
            sys.argv = [str(Path(commands).with_name("__main__.py")), *words[1:]]
            os.environ.clear()
            os.environ.update(environ)
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        for number, name in ((1, out), (2, log)):
            os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644), number)
        code = call(words)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _serve(say: Callable[[Any], None]) -> None:
    for line in sys.stdin:
        asked = json.loads(line)
        if asked["do"] == "wait":
            say(os.waitstatus_to_exitcode(os.waitpid(asked["pid"], 0)[1]))
            continue
        threads = len(os.listdir("/proc/self/task"))
        assert threads == 1 == threading.active_count(), f"{threads} threads: a fork would take one of them"
        pid = os.fork()
        if not pid:
            del asked["do"]
            _become(**asked)
        say(pid)


def _warm_up() -> None:
    """Record, prune, compact and recover once, so that whoever is forked has it all in memory."""
    from expkit.commands.verbs import VERBS
    from expkit.recovery.recover import recover
    from expkit.rewrite.compact import compact
    from expkit.rewrite.prune import Retention, prune

    for verb in VERBS:  # all of one state of the sources, should somebody be at work on them
        importlib.import_module(f"expkit.commands.{verb.module}")
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder, "run")
        assert call(["expkit", "record", "-o", str(run), "--rows", "300", *GAME, "-q"]) == 0
        prune(run, Retention(keep_episodes=1))
        compact(run, proving=True)
        recordings.record_parts(run.with_name("other"), lambda keys: None, parts=3)
        compact(run.with_name("other"), proving=True)
        recover(run.with_name("other"))
        known_rows.record_known(run.with_name("known"), 3)
        merge = ["expkit", "merge", str(run), str(run), "-o", str(run.with_name("merged"))]
        assert call([*merge, "-q", "--dedupe", "--partial"]) == 0  # mutants are for the tests to notice


GAME = ("--size", "8x8", "--num-envs", "2", "--threads", "1", "--max-steps", "20", "--min-free", "0")

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from places import HELPERS

    sys.path[:0] = HELPERS
    import known_rows
    import mutants
    import recordings

    mutants.apply_chosen()
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    _warm_up()

    def say(what: Any) -> None:
        out.write(json.dumps(what) + "\n")
        out.flush()

    say("ready")
    _serve(say)
