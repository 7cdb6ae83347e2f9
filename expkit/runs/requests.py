"""How a command reaches a running recorder: a request file in the run, answered by removing it.

No signal goes to a stored pid, which may belong to somebody else by now.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from expkit.errors import Busy, NotThere
from expkit.runs.layout import REQUESTS_DIR, is_run
from expkit.runs.locks import live_writers

POLL_SECONDS = 0.02


def request_rotation(run: Path, timeout: float = 10.0) -> list[int]:
    """Ask every live writer of the run to publish its active shard; wait until all have.

    Returns the writers that did. Raises NotThere when nobody records, Busy when one does not answer in time.
    """
    if not is_run(run):
        raise NotThere(f"{run}: no run here; see expkit list")
    writers = live_writers(run)
    if not writers:
        raise NotThere(f"{run}: nobody is recording it, so there is no active shard to close")
    folder = run / REQUESTS_DIR
    folder.mkdir(exist_ok=True)
    files = {writer: folder / f"rotate-w{writer}-{os.getpid()}-{time.time_ns()}" for writer in writers}
    for path in files.values():
        path.touch()
    deadline = time.monotonic() + timeout
    try:
        while any(path.exists() for path in files.values()):
            if time.monotonic() > deadline:
                raise Busy(f"{run}: the recorder did not answer within {timeout:g} s; is it suspended?")
            if not set(live_writers(run)) & set(writers):
                break
            time.sleep(POLL_SECONDS)
    finally:
        for path in files.values():
            path.unlink(missing_ok=True)
    return writers


def pending_rotations(run: Path, writer: int) -> list[Path]:
    """Request files for this writer. The recorder serves them and unlinks each."""
    try:
        names = os.listdir(run / REQUESTS_DIR)
    except OSError:
        return []
    return [run / REQUESTS_DIR / name for name in names if name.startswith(f"rotate-w{writer}-")]
