"""The ledger after a recovery: sections that are gone or damaged are counted again, and all say what the files hold."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import numpy as np

from expkit.recovery.plan import RunSurvey
from expkit.recovery.quarantine import quarantine_file
from expkit.runs.counters import Ledger, read_ledger, restore_header
from expkit.runs.layout import COUNTERS_FILE
from expkit.system.files import DiskErrors, disk


def restore_ledger(path: Path, survey: RunSurvey) -> None:
    """Sections that are gone or damaged, counted again from what is known."""
    if not survey.ledger_damage:
        return
    players = len(survey.info.players)
    counters = path / COUNTERS_FILE
    quarantine_file(path, counters)
    if None in survey.ledger_damage and counters.exists():
        if survey.ledger:
            restore_header(path, players)
        else:
            with DiskErrors(counters, "remove it"):
                disk().unlink(counters)
                disk().sync_folder(path)
    good = {section.writer for section in read_ledger(path) or [] if not section.damaged}
    for writer in survey.writers:
        if (writer in good and writer not in survey.ledger_damage) or (writer, 0) not in survey.settled:
            continue
        ledger = Ledger(path, writer, players)
        ledger.forget()
        for shard in survey.shards:
            owner = min(survey.writers) if shard.shard.writer is None else shard.shard.writer
            for player, causes in shard.drops.items() if owner == writer else ():
                for cause, rows in causes.items():
                    with suppress(ValueError):  # a cause that the ledger does not count
                        ledger.drop(player, cause, rows)
        for player in range(players):
            ledger.lost[player] = survey.settled[writer, player].lost
        ledger.settle(np.array([survey.settled[writer, player].rows for player in range(players)], np.int64))
        ledger.close()


def settle_writer(path: Path, survey: RunSurvey, writer: int) -> None:
    """Close the writer's section with what the files hold, if it does not say so already."""
    players = len(survey.info.players)
    section = next((one for one in read_ledger(path) or [] if one.writer == writer), None)
    if section is None:
        return
    rows = np.array([survey.settled[writer, player].rows for player in range(players)], np.int64)
    told = [(p.written, p.produced - p.written - p.dropped_rows - p.rejected - p.lost) for p in section.players]
    if section.state == "closed" and not section.damaged and told == [(count, 0) for count in rows.tolist()]:
        return
    ledger = Ledger(path, writer, players)
    ledger.settle(rows)
    ledger.close()
