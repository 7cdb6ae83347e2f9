"""A process that puts strange things in the place of a run's files and lets every verb at them.

Called with a folder that holds the runs `sound`, `other` and `secret` and with the name of a file of a run. Prints one
JSON line for each thing and verb: exit code, what was said on stderr, and whether the run is as it was.
"""

import contextlib
import faulthandler
import io
import json
import os
import resource
import shutil
import socket
import stat
import sys
from pathlib import Path

from expkit.commands import main

SECONDS = 60  # one verb; they take less than one
MEMORY = 1 << 30
GIANT = 1 << 40

VERBS = (
    ("list", "{}"),
    ("inspect", "{}"),
    ("validate", "{}"),
    ("validate", "{}", "--quick"),
    ("replay", "{}", "--step", "1"),
    ("query", "{}", "step >= 0"),
    ("export", "{}", "-o", "out.ndjson"),
    ("recover", "{}", "--dry-run"),
    ("recover", "{}", "-o", "recovered"),
    ("recover", "{}"),
    ("compact", "{}"),
    ("prune", "{}", "--keep-episodes", "1", "--yes"),
    ("merge", "{}", "-o", "merged"),
    ("rewrite", "{}", "-o", "rewritten"),
    ("diff", "{}", "sound"),
    ("config", "check", "{}/run.yaml"),
    ("rotate", "{}"),
)


def put(kind: str, place: Path) -> None:
    """Replace the file at `place`."""
    name = place.relative_to("tried")
    place.unlink(missing_ok=True)
    if kind == "fifo":
        os.mkfifo(place)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(os.fspath(place))
    elif kind == "link out":
        place.symlink_to(Path("secret").resolve() / name)
    elif kind == "link to a device":
        place.symlink_to("/dev/zero")
    elif kind == "folder":
        place.mkdir()
    elif kind == "empty":
        place.touch()
    elif kind == "of another run":
        shutil.copyfile(Path("other") / name, place)
    elif kind == "giant":
        place.touch()
        os.truncate(place, GIANT)


NO_FILES = ("fifo", "socket", "link out", "link to a device", "folder")
KINDS = (*NO_FILES, "empty", "of another run", "giant")


def as_it_is(folder: str) -> dict[str, tuple]:
    """What stands in a folder, files with what is in them."""
    out = {}
    for here, folders, names in os.walk(folder):
        for name in (*folders, *names):
            path = os.path.join(here, name)
            about = os.lstat(path)
            small = stat.S_ISREG(about.st_mode) and about.st_size < GIANT
            out[path] = (about.st_mode, about.st_size, Path(path).read_bytes() if small else None)
    return out


def call(arguments: list[str]) -> tuple[int, str]:
    faulthandler.dump_traceback_later(SECONDS, exit=True)
    said = io.StringIO()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(said):
        code = main(arguments)
    faulthandler.cancel_dump_traceback_later()
    return code, said.getvalue()


def fresh(name: str) -> None:
    for left in ("tried", "recovered", "merged", "rewritten"):
        shutil.rmtree(left, ignore_errors=True)
    Path("out.ndjson").unlink(missing_ok=True)
    shutil.copytree("sound", "tried")
    assert (Path("tried") / name).exists()


def try_all(name: str) -> None:
    for verb in VERBS:
        fresh(name)
        code, said = call([word.format("tried") for word in verb])
        assert code in (0, 5), (verb, code, said)
    # What is compiled and imported now is no concern of the bound.
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY, size + MEMORY))
    for kind in KINDS:
        for verb in VERBS:
            fresh(name)
            put(kind, Path("tried") / name)
            before = as_it_is("tried"), as_it_is("secret")
            code, said = call([word.format("tried") for word in verb])
            unchanged = before[0] == as_it_is("tried")
            assert before[1] == as_it_is("secret"), (kind, verb)
            told = {"kind": kind, "verb": " ".join(verb), "code": code, "said": said, "unchanged": unchanged}
            print(json.dumps(told), flush=True)


if __name__ == "__main__":
    os.chdir(sys.argv[1])
    try_all(sys.argv[2])
