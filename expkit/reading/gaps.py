"""Whether rows inside an episode are missing: dropped, rejected, lost or taken out, as records and ledger tell."""

from __future__ import annotations

from functools import cached_property

from expkit.errors import CheckFailed, NotThere
from expkit.reading.known_run import KnownRun
from expkit.reading.summary import balance
from expkit.runs.origins import players_with_gaps


class Gaps:
    """What is known of the missing rows of one run."""

    def __init__(self, run: KnownRun):
        self._run = run

    def lacks_rows(self, episode: int, player: int, rows: int) -> bool:
        """Whether a player's episode, of which there are `rows` and whose steps do not all follow each other, may be
        missing any. An end record tells how many there were, unless it was written for a recorder that died; then the
        ledger tells whether any of the player's are missing."""
        known = self._run.find_episode(episode)
        if known.end is not None and known.end.rows and not known.end.cut:
            return known.end.rows.get(str(player), 0) != rows
        return self._players is None or player in self._players

    @cached_property
    def _players(self) -> set[int] | None:
        """Players of whose episodes rows may be missing; None when nobody knows."""
        accounts = balance(self._run)
        if accounts is None:
            return None
        try:
            return {one.player for one in accounts if one.has_gaps} | players_with_gaps(self._run.info.metadata)
        except (NotThere, CheckFailed):
            return None
