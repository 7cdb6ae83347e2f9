"""One thing that validation found."""

from __future__ import annotations

import msgspec

from expkit.rules.rule import Severity


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that is not as it should be, and where. What does not apply is None.

    rule   `file/checksum`, see `expkit.rules.registry`
    shard  `w0/000003`;  block: position in that shard;  column: a stored column
    step   of the first row concerned
    """

    severity: Severity
    rule: str
    message: str
    shard: str | None = None
    block: int | None = None
    column: str | None = None
    episode: int | None = None
    player: int | None = None
    step: int | None = None

    @property
    def family(self) -> str:
        """`file` of `file/checksum`."""
        return self.rule.partition("/")[0]

    @property
    def where(self) -> str:
        """`w0/000003 block 812 player 1 reward`."""
        parts = [
            self.shard or "",
            "" if self.block is None else f"block {self.block}",
            "" if self.episode is None else f"episode {self.episode}",
            "" if self.player is None else f"player {self.player}",
            "" if self.step is None else f"step {self.step}",
            self.column or "",
        ]
        return " ".join(part for part in parts if part)
