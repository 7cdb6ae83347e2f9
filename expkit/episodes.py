"""What is known of an episode besides its rows: its start, durable before them, and its end."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

Ended = Literal["terminated", "truncated", "interrupted"]

WRITER_BITS = 48


class EpisodeStart(msgspec.Struct, frozen=True, omit_defaults=True):
    """Written before the first row of the episode: with the run's configuration enough to play it again.

    episode   the whole number, writer << 48 | counter
    seeds     what randomness came from, by use: {"env": 7, "action_space": …, "policy": …}
    metadata  the game's own, JSON values only
    repeated  a copy at the head of a later shard, where the episode goes on
    """

    episode: int
    time_ns: int
    players: list[int]
    game: str
    config_digest: str = ""
    seeds: dict[str, int] = {}
    metadata: dict[str, Any] = {}
    repeated: bool = False


class EpisodeEnd(msgspec.Struct, frozen=True, omit_defaults=True):
    """Written after the last row of the episode.

    ended     `terminated` by the rules, `truncated` by a limit, `interrupted` by the recorder's own stop
    length    number of steps (actions) of the longest player
    outcome   by player id as text, None where the game gives none
    rows      rows by player id as text, as produced
    cut       the recorder died before the episode ended; written afterwards, with the rows that were found
    """

    episode: int
    time_ns: int
    ended: Ended
    length: int
    outcome: dict[str, float | None] = {}
    rows: dict[str, int] = {}
    metadata: dict[str, Any] = {}
    cut: bool = False


class PolicyInfo(msgspec.Struct, frozen=True, omit_defaults=True):
    """One row of a run's policy table; the `policy` column is the index into that table."""

    name: str
    checkpoint: str = ""
    digest: str = ""


def episode_number(writer: int, counter: int) -> int:
    """The whole number of the writer's `counter`-th episode."""
    return writer << WRITER_BITS | counter
