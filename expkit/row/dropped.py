"""Why rows were dropped, by name: in the order of the words that kernels and the ledger count them in."""

from __future__ import annotations

from collections.abc import Iterable

# Why rows were dropped, in the order of the kernels' gap words: the two policies, `clear()`, and a spill file that
# could not be written or read back.
CAUSES = ("drop-oldest", "drop-newest", "cleared", "spill-failed")


def causes_of(counts: Iterable[int]) -> dict[str, int]:
    """The causes that happened, from counts in the order of CAUSES."""
    return {cause: count for cause, count in zip(CAUSES, counts, strict=True) if count}
