"""The one contract of all verbs: whatever goes wrong becomes one line on stderr (or one JSON object on stdout with
--json) and an exit code. A traceback is shown only with --debug."""

from __future__ import annotations

import difflib
import errno
import os
import re
import sys
import traceback
from typing import Any, NamedTuple

import typer

from expkit.commands import session
from expkit.commands.signals import Stopped, stop_at_once
from expkit.commands.streams import discard_stdout, one_line
from expkit.commands.verbs import VERBS
from expkit.errors import ExpkitError, ReadFailed
from expkit.system import trust, unread

# typer carries its own click; the base of its errors is found through one that it exports.
_ClickException: type[Exception] = typer.BadParameter.__mro__[2]
ERROR_SCHEMA = "expkit.error/1"
_FULL_DISK = (errno.ENOSPC, errno.EDQUOT)
_SIGNALS = {129: "SIGHUP", 130: "SIGINT", 143: "SIGTERM"}


class Failure(NamedTuple):
    """An error as reported: its class name, its one line without the verb, and the exit code."""

    kind: str
    message: str
    exit_code: int


def run(arguments: list[str]) -> int:
    """Run the command line on `arguments` and return its exit code. Nothing but a second signal escapes."""
    started = session.begin(arguments, frozenset(verb.name for verb in VERBS))
    trust.ask(arguments, os.environ)
    unread.take()
    _never_fail_to_encode()
    stop_at_once()
    try:
        from expkit.commands.app import build

        code = build().main(args=arguments, prog_name="expkit", standalone_mode=False)
        code = code if isinstance(code, int) else 0
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 0
    except BaseException as error:
        code = _report(error, started)
    trust.ask_no_more()
    failed = unread.take()
    if failed and not code:
        code = _report(ReadFailed(f"{failed[0]}; what was told lacks it"), started)
    return _flush(code)


def describe(error: BaseException) -> Failure:
    """The line and the exit code for an error."""
    kind = type(error).__name__
    if isinstance(error, Stopped):
        left = f"; {error.left}" if error.left else ""
        return Failure(kind, f"stopped by {_SIGNALS[error.exit_code]}{left}", error.exit_code)
    if isinstance(error, KeyboardInterrupt):
        return Failure("Stopped", "stopped by SIGINT", 130)
    if isinstance(error, ExpkitError):
        return Failure(kind, str(error), error.exit_code)
    if isinstance(error, _ClickException):
        return Failure("UsageError", _usage_line(error), 2)
    if isinstance(error, typer.Abort):
        return Failure("Aborted", "no answer was given; nothing was changed", 1)
    if isinstance(error, OSError):
        return _describe_os_error(error)
    if isinstance(error, UnicodeEncodeError) and any("\udc80" <= one <= "\udcff" for one in str(error.object)):
        text = f"{error.object}: bytes that are no UTF-8, which what is written there cannot hold; use another name"
        return Failure("UsageError", text, 2)
    if isinstance(error, MemoryError):
        return Failure(kind, "out of memory; use a smaller batch or fewer columns", 1)
    return Failure(kind, f"unexpected {kind}: {error}; run again with --debug and report the traceback", 1)


def _describe_os_error(error: OSError) -> Failure:
    what = error.strerror or str(error) or type(error).__name__
    where = f" at {os.fsdecode(error.filename)}" if isinstance(error.filename, str | bytes) else ""
    if error.errno in _FULL_DISK:
        return Failure("NoSpace", f"no space left on the disk{where}; free some, or record elsewhere with -o", 7)
    advice = {
        errno.EACCES: "check its permissions",
        errno.EPERM: "check its permissions",
        errno.ENOENT: "check the path",
        errno.EROFS: "choose a folder that can be written",
        errno.EMFILE: "raise the limit of open files (ulimit -n)",
    }.get(error.errno or 0, "run again with --debug for the traceback")
    return Failure("OSError", f"{what}{where}; {advice}", 1)


def _usage_line(error: Any) -> str:
    """click's usage errors in the words of the contract: what is wrong, and the nearest right thing."""
    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else "expkit"
    see = f"see {path} --help"
    option = getattr(error, "option_name", None)
    if type(error).__name__ == "NoSuchOption":
        near = difflib.get_close_matches(str(option), getattr(error, "possibilities", None) or (), n=1, cutoff=0.0)
        hint = f"did you mean {near[0]}? " if near else ""
        return f"no option {option}; {hint}{see}"
    parameter = getattr(error, "param", None)
    if type(error).__name__ == "MissingParameter" and parameter is not None:
        argument = parameter.metavar or parameter.name
        name = " / ".join(parameter.opts) if parameter.param_type_name == "option" else argument
        return f"{name} is missing; {see}"
    text = re.sub(r"\s+", " ", error.format_message()).strip().rstrip(".")
    if parameter is not None:
        text = re.sub(r"^Invalid value for '(?:[^']* / )?([^']*)': ", r"\1: ", text)
    return f"{text}; {see}"


def _report(error: BaseException, started: session.Session) -> int:
    failure = describe(error)
    if started.debug:
        traceback.print_exception(error, file=sys.stderr)
    message = " ".join(one_line(failure.message).split())
    try:
        if session.current().json:
            from expkit.commands.output import write_json

            body = {"type": failure.kind, "verb": started.verb or None, "message": message}
            write_json({"schema": ERROR_SCHEMA, "error": body, "exit_code": failure.exit_code})
        else:
            print(f"{' '.join(['expkit', started.verb]).strip()}: {message}", file=sys.stderr, flush=True)
    except OSError:
        pass  # nobody is left to read it; the exit code still tells
    return failure.exit_code


def _never_fail_to_encode() -> None:
    """A terminal that cannot show `·` or `━` gets `?`, not a traceback."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="replace")


def _flush(code: int) -> int:
    """Flush stdout here, where a reader that has gone is no error. A full disk behind `> file` is one."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        discard_stdout()
    except OSError as error:
        failure = describe(error)
        print(f"expkit: cannot write the output: {failure.message}", file=sys.stderr)
        discard_stdout()
        return failure.exit_code
    return code
