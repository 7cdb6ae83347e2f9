"""What a process shows on a terminal of its own."""

from __future__ import annotations

import os


def shown_on(leader: int) -> str:
    """All that comes to the leading end of a pty until nobody holds its other end; closes it."""
    shown = b""
    try:
        while part := os.read(leader, 65536):
            shown += part
    except OSError:
        pass  # Linux says so when the last one is gone
    os.close(leader)
    return shown.decode()
