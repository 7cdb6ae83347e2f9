"""A process in which one read of a run fails, at every place in turn, and every verb has to say so or not to need it.

Called with a folder that holds the run `sound` and with numbers: how many tries, and a seed. Each try lets one verb at
a copy of the run, and one call of those below that concerns it fails with EIO, EMFILE or ENOMEM. Prints one JSON line
for each broken promise: a verb that succeeded with another result, one that failed without a line that says what, or a
run that is not what it was. The last line counts the tries.
"""

import builtins
import contextlib
import errno
import io
import json
import os
import random
import re
import shutil
import sys
from pathlib import Path

from expkit import open_run
from expkit.commands import main
from expkit.validation.validate import validate_run

ERRORS = (errno.EIO, errno.EMFILE, errno.ENOMEM)
CALLS = ("open", "pread", "listdir", "scandir", "stat", "lstat", "fstat")
RUN = "tried"

# A verb, and whether it may change the run.
VERBS = (
    (("list", RUN), False),
    (("inspect", RUN), False),
    (("validate", RUN), False),
    (("validate", RUN, "--quick"), False),
    (("replay", RUN, "--verify"), False),
    (("query", RUN, "step >= 0"), False),
    (("query", RUN, "SELECT count(*), sum(reward), sum(step) FROM rows"), False),
    (("export", RUN, "-o", "out.ndjson"), False),
    (("diff", RUN, "sound"), False),
    (("merge", RUN, "-o", "made"), False),
    (("rewrite", RUN, "-o", "made"), False),
    (("recover", RUN, "-o", "made"), False),
    (("recover", RUN), True),
    (("compact", RUN), True),
    (("prune", RUN, "--keep-episodes", "1", "--yes"), True),
    (("record", "--append", "-o", RUN, "--rows", "60", "--size", "8x8"), True),
)  # fmt: skip
# What differs from call to call: times, ids, rates.
_CHANGING = re.compile(
    r", proved by digests and checksums|\s+|─+|[0-9a-f]{32}|\b\d+([.,:]\d+)*\b( ?(s|ms|MB|KiB|MiB|rows/s))?"
)


class Faults:
    """Counts the calls that concern the run, and lets one of them fail."""

    def __init__(self):
        self.seen, self.at, self.error, self.hit = 0, -1, 0, ""
        self.real = {name: getattr(os, name) for name in CALLS}
        for name in CALLS:
            setattr(os, name, self._failing(name))
        opened = builtins.open

        def failing(file, mode="r", *args, **options):
            if isinstance(file, str | os.PathLike) and not set(mode) & set("wax+"):
                self.step("open", file)
            return opened(file, mode, *args, **options)

        builtins.open = io.open = failing

    def _failing(self, name):
        real = self.real[name]

        def call(*args, **options):
            writes = name == "open" and len(args) > 1 and args[1] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
            if not writes:
                self.step(name, args[0] if args else ".")
            return real(*args, **options)

        return call

    def step(self, name, place):
        if isinstance(place, int):
            with contextlib.suppress(OSError):
                place = os.readlink(f"/proc/self/fd/{place}")
        if isinstance(place, int) or f"/{RUN}/" not in f"/{os.fspath(place)}/":
            return
        self.seen += 1
        if self.seen - 1 == self.at:
            self.hit = f"{name} {place}"
            raise OSError(self.error, os.strerror(self.error), place)

    @contextlib.contextmanager
    def failing(self, at, error):
        self.seen, self.at, self.error, self.hit = 0, at, error, ""
        try:
            yield
        finally:
            self.at = -1


def call(arguments):
    out, said = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(said):
        code = main(list(arguments))
    return code, out.getvalue(), said.getvalue()


def made():
    """What a verb wrote, as far as it is the same each time."""
    if Path("out.ndjson").exists():
        return Path("out.ndjson").read_text()
    return rows_of("made") if Path("made").exists() else None


def rows_of(path):
    with open_run(path) as run:
        kept = {}
        for batch in run.scan(["reward", "action"], rows="all"):
            for key in zip(batch["episode"].tolist(), batch["player"].tolist(), batch["step"].tolist(), strict=True):
                assert key not in kept, f"{key} stands twice"
                kept[key] = None
        return sorted(kept)


def fresh():
    for left in (RUN, "made"):
        shutil.rmtree(left, ignore_errors=True)
    Path("out.ndjson").unlink(missing_ok=True)
    shutil.copytree("sound", RUN)


def broken(verb, changes, clean, error, code, out, said, sound):
    """What promise the verb broke, "" for none."""
    if "Traceback" in said or "unexpected" in said:
        return "an error that nobody foresaw"
    result = made()
    told = os.strerror(error) in out + said
    if code == 0 and not told and (_CHANGING.sub("", out), result) != (_CHANGING.sub("", clean[0]), clean[1]):
        return "another result, and nothing was said"
    if code != 0:
        if not (said + out).strip():
            return "failed without a word"
        if result is not None and result != clean[1]:
            return "failed, and left a part of its output"
    with open_run(RUN) as run:
        errors = [str(one) for one in validate_run(run) if one.severity == "error"]
    if errors:
        return f"the run is damaged: {errors[0]}"
    kept, must = set(rows_of(RUN)), set(sound)
    if verb[0] == "prune":
        return "" if kept <= must else "the run has other rows"
    if not kept >= must:
        return f"{len(must - kept)} rows are gone"
    return "" if changes or kept == must else "the run has other rows"


def try_many(tries, seed):
    faults, rng = Faults(), random.Random(seed)
    sound = rows_of("sound")
    clean, counts, told = {}, {}, 0
    for verb, _ in VERBS:
        fresh()
        call(verb)  # what is imported and compiled then is no concern of the runs
        fresh()
        with faults.failing(-1, 0):
            code, out, said = call(verb)
        assert code == 0, (verb, code, out, said)
        counts[verb] = faults.seen
        clean[verb] = out, made()
    places = [(verb, changes, at) for verb, changes in VERBS for at in range(counts[verb])]
    rng.shuffle(places)
    for number in range(tries):
        verb, changes, at = places[number % len(places)]
        error = ERRORS[(number // len(places) + at) % len(ERRORS)]
        fresh()
        with faults.failing(at, error):
            code, out, said = call(verb)
        if not faults.hit:
            continue
        told += 1
        try:
            wrong = broken(verb, changes, clean[verb], error, code, out, said, sound)
        except Exception as failed:
            wrong = f"the run cannot be read: {failed!r}"
        if wrong:
            about = {"verb": verb, "at": at, "call": faults.hit, "error": errno.errorcode[error], "code": code}
            print(json.dumps({**about, "wrong": wrong, "said": said[-300:], "out": out[-3000:]}), flush=True)
    print(json.dumps({"tries": told, "places": len(places)}))


if __name__ == "__main__":
    os.chdir(sys.argv[1])
    try_many(int(sys.argv[2]), int(sys.argv[3]))
