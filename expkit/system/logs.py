"""Log lines for people (`text`) and for machines (`json`), on stderr.

A disabled line costs a hot path nothing when the caller asks once: `verbose = log.isEnabledFor(logging.DEBUG)`
before the loop. Kernels never log.
"""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import TextIO

_LEVELS = (logging.WARNING, logging.INFO, logging.DEBUG)
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


def _fields(record: logging.LogRecord) -> dict[str, object]:
    """What the caller passed as `extra`."""
    return {key: value for key, value in vars(record).items() if key not in _STANDARD}


class TextFormatter(logging.Formatter):
    """`12:03:07 warning expkit.runs: message  key=value`, one line, control characters escaped."""

    def format(self, record: logging.LogRecord) -> str:
        when = datetime.fromtimestamp(record.created).strftime("%H:%M:%S")
        fields = "".join(f"  {key}={value}" for key, value in _fields(record).items())
        line = f"{when} {record.levelname.lower()} {record.name}: {record.getMessage()}{fields}"
        line = "".join(c if c.isprintable() else repr(c)[1:-1] for c in line)
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time (ISO 8601, UTC), level, logger, message, what was passed as `extra`, and
    `traceback` when there is one."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="microseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line.update(_fields(record))
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def set_up(verbosity: int = 0, log_format: str = "text", quiet: bool = False, stream: TextIO | None = None) -> None:
    """Send the log of `expkit` and Python's warnings to `stream` (stderr): warnings and above, more with
    `verbosity` 1 (info) and 2 (debug), errors only when `quiet`. May be called again to change it."""
    handler = logging.StreamHandler(stream if stream is not None else sys.stderr)
    handler.setFormatter(JsonFormatter() if log_format == "json" else TextFormatter())
    level = logging.ERROR if quiet else _LEVELS[min(max(verbosity, 0), 2)]
    for name in ("expkit", "py.warnings"):
        logger = logging.getLogger(name)
        logger.handlers = [handler]
        logger.propagate = False
        logger.setLevel(level)
    logging.captureWarnings(True)
