"""What a merged run says of the runs in which its episodes were recorded: `metadata.origins` of its description.

Each episode's start has its `origin`, the run's id and the number there. What those runs lost stays visible here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from expkit.row.episodes import EpisodeStart

ORIGINS = "origins"


class OriginPlayer(msgspec.Struct, frozen=True):
    """Rows of one player in a run that was merged, as its ledger told."""

    name: str
    rows: int
    produced: int = 0
    dropped: int = 0
    rejected: int = 0
    lost: int = 0
    pruned: int = 0
    quarantined: int = 0

    @property
    def has_gaps(self) -> bool:
        """Whether rows inside its episodes are missing; a prune takes whole ones."""
        return bool(self.dropped or self.rejected or self.lost or self.quarantined)


class OriginRun(msgspec.Struct, frozen=True):
    """A run that was merged, or, of one that was merged itself, a run that it was made of.

    episodes, rows  how many of them were there;  game: its settings, as the source's own metadata has them
    """

    id: str
    source: str
    host: str = ""
    created_ns: str = "0"
    config_digest: str = ""
    seed: str | None = None
    game: dict[str, Any] | None = None
    episodes: int = 0
    rows: int = 0
    players: list[OriginPlayer] = []


def origins_of(metadata: Mapping[str, Any]) -> list[OriginRun]:
    """As a run's metadata tell; empty for one that was not merged."""
    told = metadata.get(ORIGINS)
    try:
        return msgspec.convert(told, list[OriginRun]) if isinstance(told, list) else []
    except msgspec.ValidationError:
        return []


def players_with_gaps(metadata: Mapping[str, Any]) -> set[int]:
    """Players of whose episodes rows were missing already where they came from."""
    return {p for origin in origins_of(metadata) for p, player in enumerate(origin.players) if player.has_gaps}


def as_recorded(start: EpisodeStart) -> EpisodeStart:
    """With the number that the episode was played under, from which its randomness came."""
    return start if start.origin is None else msgspec.structs.replace(start, episode=start.origin.episode)
