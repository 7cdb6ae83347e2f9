"""Every error expkit raises on purpose.

    ExpkitError                        exit code
    ├── UsageError      (ValueError)        2   a bad option, no input, a glob that matches nothing
    │   └── NotTrusted                      2   code that a run names, which nobody has said to trust
    ├── ConfigError     (ValueError)        2   a config key or value that is not understood
    ├── SchemaError     (ValueError)        2   rows that do not fit the schema, or schemas that differ
    ├── MissingExtra    (ImportError)       2   an optional library is not installed
    ├── NotThere        (LookupError)       5   a named run, shard, episode or row does not exist
    ├── OutputExists    (FileExistsError)   2   an output is in the way
    ├── Busy            (BlockingIOError)   6   locked by another process
    ├── NoSpace         (OSError)           7   the disk, or the disk guard, says stop
    ├── MemoryBudget    (ValueError)        2   `--memory` cannot hold what was asked for
    ├── CheckFailed     (ValueError)        4   the check that was asked for failed
    │   ├── ShardError                      4   bytes of a shard file are not what the format promises
    │   │   └── NewerFormat                 4   a file is sound, and written by a later expkit
    │   └── GameError                       4   a recorded game breaks the rules of its game
    ├── RowsLost        (RuntimeError)      3   finished, but rows were lost
    ├── BufferClosed    (RuntimeError)      1   add or drain after close
    ├── UserCodeFailed  (RuntimeError)      1   an environment, a policy or another callable of the user's raised
    ├── ReadFailed      (OSError)           1   a file or a folder could not be read, so nothing is known of it
    └── WriteFailed     (OSError)           1   a drain thread could not write

A message says what, where, and what to do next, in one line.
"""

from __future__ import annotations

import os
from collections.abc import Iterable


def did_you_mean(name: str, known: Iterable[str], otherwise: str = "", cutoff: float = 0.6) -> str:
    """`did you mean NEAR?` of the one among `known` that is most like `name`, else `otherwise`."""
    import difflib

    near = difflib.get_close_matches(name, list(known), 1, cutoff)
    return f"did you mean {near[0]}?" if near else otherwise


def quoted(path: str | os.PathLike[str]) -> str:
    """A path as a shell takes it, to be part of a command that is told."""
    import shlex

    return shlex.quote(os.fspath(path))


class ExpkitError(Exception):
    """Base of all errors raised on purpose. `exit_code` is what the command line returns for it."""

    exit_code = 1


class UsageError(ExpkitError, ValueError):
    """The call itself is wrong: a bad option, no input, a name that matches nothing."""

    exit_code = 2


class NotTrusted(UsageError):
    """Code that a run names would have to be imported, and nobody has said that it is to be trusted."""


class ConfigError(ExpkitError, ValueError):
    """A configuration key is unknown, or its value is not of the right kind."""

    exit_code = 2


class SchemaError(ExpkitError, ValueError):
    """Rows do not fit the schema, a schema is malformed, or two schemas differ."""

    exit_code = 2


class MissingExtra(ExpkitError, ImportError):
    """An optional library is needed; the message names the extra that installs it."""

    exit_code = 2


class NotThere(ExpkitError, LookupError):
    """A named run, shard, episode or row does not exist."""

    exit_code = 5


class OutputExists(ExpkitError, FileExistsError):
    """An output path exists already and `--force` was not given."""

    exit_code = 2


class Busy(ExpkitError, BlockingIOError):
    """Another process holds the lock."""

    exit_code = 6


class NoSpace(ExpkitError, OSError):
    """The disk is full, or the disk guard (`--min-free`, `--max-total`) stopped the recording."""

    exit_code = 7


class MemoryBudget(ExpkitError, ValueError):
    """The memory budget cannot hold what was asked for; the message says how much is needed."""

    exit_code = 2


class CheckFailed(ExpkitError, ValueError):
    """A check that was asked for found something wrong."""

    exit_code = 4


class ShardError(CheckFailed):
    """Bytes of a shard file are not what the format promises: magic, version, checksum, bounds."""


class NewerFormat(ShardError):
    """A shard file is sound, but of a version of the format, or with a flag, that this expkit does not know."""


class GameError(CheckFailed):
    """A recorded game breaks the rules of its game, or re-simulates differently."""


class RowsLost(ExpkitError, RuntimeError):
    """The work finished, but rows were lost on the way."""

    exit_code = 3


class BufferClosed(ExpkitError, RuntimeError):
    """A buffer or collector was used after it was closed."""


class UserCodeFailed(ExpkitError, RuntimeError):
    """What a user brought raised while it was called: an environment, a policy, a conversion. `__cause__` is what it
    raised, `where` file and line."""

    def __init__(self, message: str, where: str = ""):
        super().__init__(message)
        self.where = where


class ReadFailed(ExpkitError, OSError):
    """A file or a folder could not be opened, read or listed: the disk failed, its permissions forbid it, or too many
    files are open. What is in it is not known, which is something else than damage."""


class WriteFailed(ExpkitError, OSError):
    """Writing in the background failed; the caller learns of it at its next call."""
