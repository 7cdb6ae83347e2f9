"""How a session of recording is doing, and what came of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from expkit.collect.protocol import CollectorStats
from expkit.errors import ExpkitError

if TYPE_CHECKING:
    from expkit.pipeline.chain import Counts


@dataclass(frozen=True, slots=True)
class Progress:
    """How a session is doing; `done` and `total` are rows, episodes or seconds, as the limit says."""

    seconds: float
    unit: str
    done: float
    total: float | None
    rows: int
    bytes: int
    free: int
    stats: CollectorStats


@dataclass(slots=True)
class Result:
    """What a session recorded. `stopped_by` is the limit that ended it, `request` or `disk`; `first_episode` the whole
    number of the first episode it may have begun; `left_out` what its pipeline left out or repaired, None without."""

    run: Path
    seconds: float
    rows: int
    steps: int
    episodes: dict[str, int]
    stats: CollectorStats
    bytes: int
    shards: int
    stopped_by: str
    illegal_actions: int
    seed: int
    writer: int
    first_episode: int
    error: ExpkitError | None = None
    left_out: Counts | None = None
    terminated_word: str = "won"
    illegal_word: str = " were played as a pass"
