"""What an export wrote."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path


@dataclass(slots=True)
class WrittenFile:
    """A file of the export; `path` is where it will be, `sha256` of its bytes, as hex."""

    path: Path
    bytes: int
    sha256: str


@dataclass(slots=True)
class WrittenPart:
    """One output as it was written. `last_rows` of its `rows` are final observations."""

    name: str
    rows: int = 0
    last_rows: int = 0
    episodes: int = 0


@dataclass(slots=True)
class Exported:
    """What an export did."""

    out: Path
    format: str
    parts: list[WrittenPart] = field(default_factory=list)
    files: list[WrittenFile] = field(default_factory=list)
    losses: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def rows(self) -> int:
        return sum(part.rows for part in self.parts)

    @property
    def bytes(self) -> int:
        return sum(file.bytes for file in self.files)
