"""What becomes of an error that a game, a policy or a conversion of the user's raised while a session recorded."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

import msgspec

from expkit.errors import ExpkitError, UserCodeFailed
from expkit.row.episodes import EpisodeEnd
from expkit.runs.layout import log_event
from expkit.runs.unbegun import FAILED
from expkit.runs.write import RunWriter
from expkit.system.plugins import where_raised


def one_line(error: BaseException) -> str:
    said = " ".join(str(error).split())
    return f"{type(error).__name__}: {said[:300]}" if said else type(error).__name__


def with_reason(ends: Sequence[EpisodeEnd], reason: str) -> list[EpisodeEnd]:
    """The ends of episodes, of which those that were interrupted say by what, where there is a reason."""
    return [
        msgspec.structs.replace(end, metadata={**end.metadata, "reason": reason})
        if reason and end.ended == "interrupted"
        else end
        for end in ends
    ]


def told(error: BaseException, source: str, writer: RunWriter) -> BaseException:
    """The error as it is to be raised, after the run was told of it, too: one that came from the user's code names
    where, and what is left of the recording."""
    where = where_raised(error)
    with suppress(OSError):
        log_event(writer.run, FAILED, writer=writer.writer, error=one_line(error), where=where)
    if isinstance(error, ExpkitError) or not where:
        return error
    kept = writer.ledger.since_opened().produced.any()
    rest = f"what was played before is in {writer.run}" if kept else "nothing was recorded"
    out = UserCodeFailed(f"{source}: {one_line(error)} ({where}); {rest}", where)
    out.__cause__ = error
    return out
