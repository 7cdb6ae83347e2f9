"""Runs that came to nothing: begun, failed before the first row, and in nobody's way."""

from __future__ import annotations

import json
from pathlib import Path

from expkit.errors import CheckFailed, NotThere, ShardError
from expkit.formats.shard.read import ShardReader
from expkit.runs.counters import read_ledger
from expkit.runs.layout import EVENTS_FILE, RUN_FILE, list_shards

FAILED = "failed"  # the event that tells why
_LONGEST = 1 << 20  # of an events.jsonl of a run that came to nothing


def came_to_nothing(run: Path) -> bool:
    """Whether what is at `run` was begun by a recorder that failed and left not a single row, written, dropped or lost.
    A run that anything is unclear about holds something."""
    try:
        sections = read_ledger(run)
        if not (run / RUN_FILE).is_file() or sections is None or not _failed(run / EVENTS_FILE):
            return False
        if any(section.damaged or any(player.produced for player in section.players) for section in sections):
            return False
        for shard in list_shards(run, unfinished=True):
            with ShardReader(shard.path) as reader:
                if reader.blocks or reader.tail_bytes or any(one.severity == "error" for one in reader.findings):
                    return False
    except (OSError, CheckFailed, ShardError, NotThere):
        return False
    return True


def _failed(events: Path) -> bool:
    if events.stat().st_size > _LONGEST:
        return False
    for line in events.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            told = json.loads(line)
        except ValueError:
            continue
        if isinstance(told, dict) and told.get("event") == FAILED:
            return True
    return False
