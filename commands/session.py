"""What holds for one run of the command line: the verb and the options that every verb takes."""

from __future__ import annotations

import itertools
import shlex
from dataclasses import dataclass


@dataclass(slots=True)
class Session:
    """Set while the arguments are parsed; verbs read it through `current()`.

    command    as it was given, for a shell
    verbosity  0, 1 for -v, 2 for -vv
    log_format text or json
    """

    verb: str = ""
    command: str = ""
    json: bool = False
    debug: bool = False
    quiet: bool = False
    verbosity: int = 0
    log_format: str = "text"


_session = Session()


def current() -> Session:
    """The session of this process."""
    return _session


def begin(arguments: list[str], verbs: frozenset[str]) -> Session:
    """Start a session from raw arguments, so that an error while they are parsed is already reported as asked."""
    global _session
    plain = arguments[: arguments.index("--")] if "--" in arguments else arguments
    as_json = "--json" in plain or "--format=json" in plain or ("--format", "json") in itertools.pairwise(plain)
    verb = next((argument for argument in plain if argument in verbs), "")
    _session = Session(verb=verb, command=shlex.join(["expkit", *arguments]), json=as_json, debug="--debug" in plain)
    return _session
