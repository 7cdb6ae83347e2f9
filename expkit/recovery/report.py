"""What a recovery kept, lost and did, for people and for scripts."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from expkit.recovery.plan import RunSurvey
from expkit.recovery.salvage import LostRecord
from expkit.runs.superseding import Ranges, ranges_of
from expkit.validation.finding import Finding


@dataclass(slots=True)
class PlayerLosses:
    """Rows of one player. `given_up` are in blocks that are quarantined, `never_durable` were produced and reached no
    file, `missing` were in files, and are in shards that are gone or in damaged bytes of which nothing tells what they
    held. `episodes` are those of rows given up, as far as known."""

    kept: int = 0
    given_up: int = 0
    never_durable: int = 0
    missing: int = 0
    episodes: Ranges = field(default_factory=list)

    @property
    def lost(self) -> int:
        return self.given_up + self.never_durable + self.missing


@dataclass(frozen=True, slots=True)
class ValuesLost:
    """Values of one column of one player; a row's array counts as one value."""

    player: int
    column: str
    values: int
    episodes: Ranges


@dataclass(slots=True)
class RecoveryReport:
    """What was found and what came of it.

    rows_kept             rows that count afterwards
    unknown_stretches     damaged bytes of which nothing tells what they held; the ledger may know how many rows
    repaired, sealed      names of shards that were replaced, and of those that killed writers left open
    strangers             why shards do not belong where they lay, by name: set aside, or left out of the copy
    missing_shards        names of shards that are gone
    interrupted           open episodes that got an end record which says so;  ended_by_rows: one that says how they
                          ended, as their rows tell
    rebuilt               what of run.yaml, counters and manifest.json was made again, and why
    unaccountable         the ledger was gone: rows that never reached a file cannot be told any more
    write_bytes, peak_bytes  what is written (about), and how much more disk is taken while it is
    recording             writers that are alive: theirs is left alone, and the report is of the rest at one moment
    findings              errors that are left, none after a success
    """

    path: Path
    output: Path | None = None
    rows_kept: int = 0
    players: dict[int, PlayerLosses] = field(default_factory=dict)
    values: list[ValuesLost] = field(default_factory=list)
    records: list[LostRecord] = field(default_factory=list)
    blocks_quarantined: int = 0
    values_rebuilt: int = 0
    unknown_stretches: int = 0
    repaired: list[str] = field(default_factory=list)
    sealed: list[str] = field(default_factory=list)
    strangers: dict[str, str] = field(default_factory=dict)
    left_alone: list[str] = field(default_factory=list)
    recording: list[int] = field(default_factory=list)
    missing_shards: list[str] = field(default_factory=list)
    interrupted: int = 0
    ended_by_rows: int = 0
    starts_made: int = 0
    rebuilt: dict[str, str] = field(default_factory=dict)
    unaccountable: bool = False
    unsettled: bool = False
    waiting: int = 0
    swept: int = 0
    write_bytes: int = 0
    peak_bytes: int = 0
    findings: list[Finding] = field(default_factory=list)

    @property
    def rows_lost(self) -> int:
        return sum(player.lost for player in self.players.values())

    @property
    def values_lost(self) -> int:
        return sum(lost.values for lost in self.values)

    @property
    def anything_lost(self) -> bool:
        return bool(self.rows_lost or self.values or self.records or self.unknown_stretches or self.missing_shards)

    @property
    def anything_done(self) -> bool:
        """Whether there was anything to do; false for a run that is sound and closed."""
        return bool(
            self.anything_lost
            or self.repaired
            or self.sealed
            or self.strangers
            or self.missing_shards
            or self.interrupted
            or self.ended_by_rows
            or self.rebuilt
            or self.unsettled
            or self.waiting
        )

    @property
    def exit_code(self) -> int:
        return 4 if self.findings else 3 if self.anything_lost else 0


def report_of(survey: RunSurvey, *, copied: bool = False) -> RecoveryReport:
    """What recovering the surveyed run comes to."""
    out = RecoveryReport(survey.path)
    out.players = {player: PlayerLosses() for player in range(len(survey.info.players))}
    for (_, player), chain in survey.kept().items():
        out.rows_kept += chain.rows
        _player(out, player).kept += chain.rows
    _count_given_up(survey, out)
    _count_values(survey, out)
    for (_, player), settled in survey.settled.items():
        before, known = settled.before, _player(out, player)
        durable = settled.newly_lost if before is None else max(before.durable - settled.rows, 0)
        known.missing += min(settled.newly_lost, durable)
        known.never_durable += settled.newly_lost - min(settled.newly_lost, durable)
        out.unaccountable |= before is None
        out.unsettled |= before is not None and (before.written, before.lost) != (settled.rows, settled.lost)
    out.records = [lost for shard in survey.shards for lost in shard.lost_records]
    out.unknown_stretches = sum(
        shard.torn + sum(lost.rows is None for lost in shard.lost_rows) for shard in survey.shards
    )
    out.repaired = [shard.name for shard in survey.to_repair]
    out.sealed = [shard.name for shard in survey.leftovers]
    out.strangers = {shard.name: shard.stranger for shard in survey.strangers}
    out.recording = list(survey.live)
    out.left_alone = [shard.name for shard in survey.left_alone]
    out.missing_shards = sorted(survey.missing)
    out.ended_by_rows = survey.ended_by_rows
    out.interrupted = len(survey.open_episodes) - survey.ended_by_rows
    out.starts_made = sum(map(len, survey.starts.values()))
    out.unsettled |= any(
        section.state != "closed" for section in survey.ledger.values() if section.writer in survey.writers
    )
    out.waiting = len(survey.waiting)
    if survey.info_damage:
        out.rebuilt["run.yaml"] = survey.info_damage
    if survey.ledger_damage:
        out.rebuilt["counters"] = "; ".join(survey.ledger_damage.values())
    if survey.manifest_damage:
        out.rebuilt["manifest.json"] = survey.manifest_damage
    sizes = [shard.keep_bytes + (64 << 10) for shard in survey.to_repair]
    whole = sum(shard.nbytes for shard in survey.shards if not survey.needs_repair(shard))
    out.write_bytes = sum(sizes) + (whole if copied else 0)
    out.peak_bytes = out.write_bytes if copied else max(sizes, default=0)
    return out


def _player(out: RecoveryReport, player: int) -> PlayerLosses:
    return out.players.setdefault(player, PlayerLosses())


def _count_given_up(survey: RunSurvey, out: RecoveryReport) -> None:
    episodes: dict[int, set[int]] = {}
    for lost, by_key, rest in survey.lost_rows():
        if by_key or rest or lost.rows is None:
            out.blocks_quarantined += 1
        for (episode, player), rows in by_key.items():
            _player(out, player).given_up += rows
            episodes.setdefault(player, set()).add(episode)
        if rest and lost.player is not None:
            _player(out, lost.player).given_up += rest
    for player, numbers in episodes.items():
        _player(out, player).episodes = ranges_of(numbers)


def _count_values(survey: RunSurvey, out: RecoveryReport) -> None:
    totals: Counter[tuple[int, str]] = Counter()
    episodes: dict[tuple[int, str], set[int]] = {}
    for lost, values in survey.lost_values():
        totals[lost.player, lost.column] += values
        episodes.setdefault((lost.player, lost.column), set()).update(lost.episodes)
    for (player, column), values in sorted(totals.items()):
        out.values.append(ValuesLost(player, column, values, ranges_of(episodes[player, column])))
    out.values_rebuilt = sum(
        shard.blocks[plan.index].rows * len(plan.rebuilt) for shard in survey.shards for plan in shard.plans
    )
