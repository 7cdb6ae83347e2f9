"""What is known of an episode besides its rows: its start, durable before them, and its end."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

Ended = Literal["terminated", "truncated", "interrupted"]

WRITER_BITS = 48

# What is read from a file has to be within these bounds.
_Number = Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]
MOST_ROWS = 1 << 48  # of any count: sums of thousands of them stay within 64 bits
Rows = Annotated[int, Meta(ge=0, le=MOST_ROWS)]
_Time = Annotated[int, Meta(ge=-(1 << 63), le=(1 << 63) - 1)]
_Player = Annotated[str, Meta(pattern=r"\A[0-9]{1,5}\Z")]


class Origin(msgspec.Struct, frozen=True):
    """Where a merged episode was recorded: id of the run, and the episode's number there."""

    run: str
    episode: _Number


class EpisodeStart(msgspec.Struct, frozen=True, omit_defaults=True):
    """Written before the first row of the episode: with the run's configuration enough to play it again.

    episode   the whole number, writer << 48 | counter
    seeds     what randomness came from, by use: {"env": 7, "action_space": …, "policy": …}
    metadata  the game's own, JSON values only
    repeated  a copy at the head of a later shard, where the episode goes on
    origin    of an episode that was merged from another run
    """

    episode: _Number
    time_ns: _Time
    players: list[int]
    game: str
    config_digest: str = ""
    seeds: dict[str, int] = {}
    metadata: dict[str, Any] = {}
    repeated: bool = False
    origin: Origin | None = None


class EpisodeEnd(msgspec.Struct, frozen=True, omit_defaults=True):
    """Written after the last row of the episode.

    ended     `terminated` by the rules, `truncated` by a limit, `interrupted` by the recorder's own stop
    length    number of steps (actions) of the longest player
    outcome   by player id as text, None where the game gives none
    rows      rows by player id as text, as produced
    cut       the recorder ended before the episode did, so last rows are missing; of one that died it is written
              afterwards, with the rows that were found
    """

    episode: _Number
    time_ns: _Time
    ended: Ended
    length: _Number
    outcome: dict[_Player, float | None] = {}
    rows: dict[_Player, Rows] = {}
    metadata: dict[str, Any] = {}
    cut: bool = False


@dataclass(frozen=True, slots=True)
class Episode:
    """One episode: `rows` by player as found in the files, `ended` as its end record says, else interrupted. `run`:
    which of the runs that are read together it is of."""

    number: int
    start: EpisodeStart | None
    end: EpisodeEnd | None
    rows: dict[int, int] = field(default_factory=dict)
    notes: dict[str, Any] = field(default_factory=dict)
    run: int = 0

    @property
    def ended(self) -> Ended:
        return self.end.ended if self.end is not None else "interrupted"

    @property
    def length(self) -> int:
        """Steps of the longest player, as the end record says, else as found."""
        if self.end is not None:
            return self.end.length
        return max(self.rows.values(), default=0)

    @property
    def outcome(self) -> dict[int, float | None]:
        """By player; empty without an end record."""
        return {int(player): value for player, value in self.end.outcome.items()} if self.end else {}

    @property
    def metadata(self) -> dict[str, Any]:
        """The game's own, then what was annotated later."""
        merged = dict(self.start.metadata) if self.start else {}
        if self.end is not None:
            merged |= self.end.metadata
        return merged | self.notes


class PolicyInfo(msgspec.Struct, frozen=True, omit_defaults=True):
    """One row of a run's policy table; the `policy` column is the index into that table."""

    name: str
    checkpoint: str = ""
    digest: str = ""


def episode_number(writer: int, counter: int) -> int:
    """The whole number of the writer's `counter`-th episode."""
    return writer << WRITER_BITS | counter


def how_it_ended(parts: set[Ended]) -> Ended:
    """How an episode ended, by how its players' parts did: by the rules if one of them did, else by a limit."""
    return "terminated" if "terminated" in parts else "truncated" if "truncated" in parts else "interrupted"
