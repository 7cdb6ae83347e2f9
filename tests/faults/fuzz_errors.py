"""What every fuzzed input is held to: errors that are documented, each in one line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def in_one_line(*allowed: type[Exception]) -> Iterator[None]:
    """These errors may come, each in one line."""
    try:
        yield
    except allowed as error:
        if "\n" in str(error):
            raise AssertionError(f"more than a line: {error}") from error
