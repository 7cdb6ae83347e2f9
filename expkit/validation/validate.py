"""Is a run what it claims to be? Bytes first, then the structure of its episodes, then the meaning of its values.

    file/…      bytes of a shard: magic, checksums, records (rules of `expkit.formats.shard`)
    run/…       the folder: description, manifest, unclosed writers, what is left over
    ledger/…    produced = written + dropped + rejected + lost, by player
    others      what the rows say: see `expkit.rules`

`quick` looks at headers, footers, manifest and ledger only; `full` reads every byte and every row, once. Rows that a
rewrite or a prune has superseded are checked as bytes and not judged by the other rules.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np

from expkit.errors import CheckFailed, NotThere, ShardError
from expkit.formats.shard.blocks import BlockInfo
from expkit.formats.shard.read import ShardReader
from expkit.reading.run import Run
from expkit.reading.summary import Balance, balance, listed_rows
from expkit.rules.registry import RuleChoice, choose_rules
from expkit.rules.rows import RunFacts
from expkit.runs.entries import stranger
from expkit.runs.layout import read_run_info
from expkit.runs.superseding import visible_block
from expkit.system.parallel import cores
from expkit.validation.episode_rules import EpisodeRules
from expkit.validation.file_checks import FileToCheck, Report, check_files, check_records_only
from expkit.validation.finding import Finding
from expkit.validation.folder_rules import check_folder, check_superseded, retired_files
from expkit.validation.row_rules import MAX_COUNTED, RowRules, finding_of
from expkit.validation.seams import Seams, WholeEpisodes
from expkit.validation.traits import traits_of

Level = Literal["quick", "full"]
QUICK = ("file", "run", "ledger")  # families that `quick` looks at


def validate_shard(
    path: Path, level: Level = "full", threads: int = 0, rules: RuleChoice | None = None
) -> tuple[list[Finding], int]:
    """Findings in one shard file by itself, and its rows (0 when it cannot be opened). `threads`, `rules` as
    `validate_run`; only those about files apply, for what else a shard's rows belong to is not known."""
    file = FileToCheck(path, f"{path.resolve().parent.name}/{path.stem}")
    if level == "quick":
        findings = list(check_records_only(file))
    else:
        findings = [finding for report in check_files([file], threads or cores()) for finding in report.findings]
    findings = list(_weighed(findings, choose_rules() if rules is None else rules))
    try:
        with ShardReader(path) as reader:
            return findings, reader.rows
    except ShardError:
        return findings, 0


@dataclass(slots=True)
class Totals:
    """What a validation counts on its way: rows that count, the ledger against them (empty without one), and how many
    rows, or of rules over episodes how many episodes, each rule has judged. Rules that are not about this run are
    not among them."""

    rows: int = 0
    balance: list[Balance] = field(default_factory=list)
    judged: Counter[str] = field(default_factory=Counter)


def validate_run(
    run: Run,
    level: Level = "full",
    threads: int = 0,
    progress: Callable[[int], None] | None = None,
    totals: Totals | None = None,
    rules: RuleChoice | None = None,
) -> Iterator[Finding]:
    """Every finding, as it is found and always in the same order. Nothing in the run is changed, and nothing in it
    makes this raise.

    threads   that read and decode, 0 for as many as there are cores; each holds one block, its wide columns as
              the changes from row to row that are stored of them
    progress  called now and then with the number of rows looked at so far (`full` only)
    totals    filled in, for a caller who wants them
    rules     which of them apply, and how; all as they are when left out
    """
    choice = choose_rules() if rules is None else rules
    totals = Totals() if totals is None else totals
    yield from _weighed(_findings(run, level, threads, progress, totals, choice), choice)


def _weighed(findings: Iterable[Finding], choice: RuleChoice) -> Iterator[Finding]:
    """Those that are wanted, with the severity that holds for their rules."""
    for finding in findings:
        severity = choice.severity_of(finding.rule, finding.severity)
        if severity is not None:
            yield finding if severity == finding.severity else msgspec.structs.replace(finding, severity=severity)


def _findings(
    run: Run, level: Level, threads: int, progress: Callable[[int], None] | None, totals: Totals, choice: RuleChoice
) -> Iterator[Finding]:
    """With the severities that rules give by themselves."""
    yield from check_folder(run)
    retired = retired_files(run) if run.superseding else []
    # A shard of a newer format says so among the files' findings; what would have to count its rows says nothing.
    with suppress(ShardError):
        yield from check_superseded(run, retired, partly=level == "full")
    spare = [FileToCheck(shard.path, shard.name, spare=True) for shard in retired]
    if level == "quick":
        for file in [*_files(run, None), *spare]:
            yield from check_records_only(file)
        with suppress(ShardError):
            yield from _check_ledger(run, listed_rows(run), totals)
        return
    judged: _Judged | None = None
    with suppress(NotThere, CheckFailed):  # else the bytes alone are checked, and other findings say why
        judged = _Judged(run, choice, totals)
    rows = 0
    for report in check_files([*_files(run, None if judged is None else judged.rows), *spare], threads or cores()):
        yield from report.findings
        if judged is not None:
            yield from judged.take(report)
        rows += report.rows
        if progress is not None and report.rows:
            progress(rows)
    with suppress(ShardError):
        yield from _check_ledger(run, None, totals)
    if judged is not None:
        yield from judged.finish()


class _Judged:
    """What is known of a run beyond its blocks, put together from them in their order."""

    def __init__(self, run: Run, choice: RuleChoice, totals: Totals):
        self._episodes = EpisodeRules(run)
        traits = traits_of(run.info)
        self.rows = RowRules(run.schema, _policies(run), choice, traits, self._episodes.incomplete)
        self._seams = Seams(self.rows, self._episodes.incomplete)
        self._whole = WholeEpisodes(run, self.rows)
        self._facts = RunFacts(run.schema, traits)
        self._judged = totals.judged

    def take(self, report: Report) -> Iterator[Finding]:
        """The next block."""
        if report.unread is not None:
            self._episodes.skip(report.unread)
            self._seams.skip(report.unread)
        verdict = report.verdict
        if verdict is None or verdict.segments is None:
            return
        yield from self._episodes.extend(verdict.segments)
        yield from self._seams.extend(verdict)
        yield from self._whole.extend(verdict)
        self._facts.rows += sum(verdict.segments.rows)
        self._judged.update(verdict.judged)
        for name, (values, rows) in verdict.counts.items():
            counts = self._facts.counts.setdefault(name, {})
            if len(counts) <= MAX_COUNTED:
                for value, count in zip(values.tolist(), rows.tolist(), strict=True):
                    counts[value] = counts.get(value, 0) + count

    def finish(self) -> Iterator[Finding]:
        """Findings about whole episodes and the run as a whole."""
        yield from self._episodes.finish()
        self._judged.update(self._whole.judged)
        facts = self._facts
        facts.episodes = self._episodes.facts()
        facts.constant = {} if self.rows.constants is None else self.rows.constants.found()
        facts.counts = {name: counts for name, counts in facts.counts.items() if len(counts) <= MAX_COUNTED}
        for id, active in self.rows.applied.items():
            if active.rule.over == "run":
                self._judged[id] = facts.rows
                for violation in active.rule(facts, **active.options):
                    yield finding_of(active, violation)


def _policies(run: Run) -> int:
    """Length of the table of policies. A recorder adds to it before it writes their rows, so that of a run that grows
    it is read again, after the blocks that are to be judged."""
    with suppress(NotThere, CheckFailed):
        return len(read_run_info(run.path).policies if run.live_writers else run.policies)
    return len(run.policies)


def _files(run: Run, rules: RowRules | None) -> Iterator[FileToCheck]:
    """The shards in which something counts."""
    for position, shard in enumerate(run.shard_paths):
        path = run.current_path(position)
        growing = shard.active and shard.writer in run.live_writers
        known = None
        if growing and rules is not None:
            reader = run.reader_or_none(position)
            known = 0 if reader is None else len(reader.blocks)
        visible = partial(_visible, run, position, known)
        yield FileToCheck(path, shard.name, rules, visible, growing=growing, stranger=partial(_stranger, run, position))


def _stranger(run: Run, position: int, header: Mapping[str, Any]) -> str:
    with suppress(NotThere, CheckFailed):
        return stranger(header, run.shard_paths[position], run.id)
    return ""


def _visible(
    run: Run, position: int, known: int | None, reader: ShardReader, block: BlockInfo
) -> np.ndarray | bool | None:
    """Which rows of a block count; see `FileToCheck`. Of a shard that is still written, `known` blocks were there when
    the run was opened; the episodes of later ones are not yet known."""
    if known is not None and block.index >= known:
        return None
    shard = run.shard_paths[position]
    found = visible_block(run.superseding, position, shard, reader, block)
    if found is None:
        return None
    return True if found.keep is None else found.keep


def _check_ledger(run: Run, listed: dict[int, int] | None, totals: Totals) -> Iterator[Finding]:
    """The ledger against the rows by player, counted in the files where they are not `listed`."""
    totals.rows = len(run) if listed is None else sum(listed.values())
    totals.balance = balance(run, listed) or []
    try:
        writers = run.counters
    except CheckFailed as error:
        yield Finding(severity="error", rule="ledger/damaged", message=str(error))
        return
    if writers is None:
        yield Finding(severity="warn", rule="ledger/missing", message="no ledger: losses cannot be told")
        return
    for writer in writers:
        if writer.damaged:
            yield Finding(severity="error", rule="ledger/damaged", message=f"section of writer w{writer.writer}")
    for player in totals.balance:
        yield from _check_balance(run, player)


def _check_balance(run: Run, player: Balance) -> Iterator[Finding]:
    if run.live_writers:
        return
    if player.stored < player.durable:
        missing = player.durable - player.stored
        message = f"{missing:,} rows that were durable are not in the files"
        yield Finding(severity="error", rule="ledger/durable", player=player.player, message=message)
    elif player.unexplained > 0 and run.state == "closed":
        message = f"{player.unexplained:,} rows are in no file and accounted for nowhere"
        yield Finding(severity="error", rule="ledger/balance", player=player.player, message=message)
    elif player.unexplained > 0:
        message = f"{player.unexplained:,} rows were produced but never durable"
        yield Finding(severity="warn", rule="ledger/lost", player=player.player, message=message)
    elif player.unexplained < 0:
        message = f"the files hold {-player.unexplained:,} rows more than the ledger knows of"
        yield Finding(severity="error", rule="ledger/balance", player=player.player, message=message)
    elif player.lost:
        message = f"{player.lost:,} rows were lost when a recorder died, and told of when the run was taken up again"
        yield Finding(severity="info", rule="ledger/lost", player=player.player, message=message)
