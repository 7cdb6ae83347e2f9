"""What a recovery of a run finds and is going to do, before it changes anything.

Every shard is examined; what counts after the repair is compared with the ledger, the manifest and the end records
of episodes, so that what is lost can be told by player and episode.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from expkit.errors import CheckFailed, NotThere
from expkit.recovery.description import describe
from expkit.recovery.salvage import Chain, Key, LostRows, LostValues, ShardSurvey, examine
from expkit.row.episodes import WRITER_BITS, Ended, EpisodeEnd, EpisodeStart
from expkit.runs.counters import DROP_CAUSES, PlayerLedger, WriterLedger, read_behind_header, read_ledger
from expkit.runs.layout import LOCKS_DIR, MANIFEST_FILE, RunInfo, ShardPath, published_file
from expkit.runs.locks import live_writers
from expkit.runs.manifest import is_damaged, manifest_and_shards
from expkit.runs.superseding import Superseding, removed_rows

RECOVERED = {"recovered": True}
REPAIR_SUFFIX = ".repair"
Account = tuple[int, int]  # writer, player


@dataclass(slots=True)
class Settlement:
    """The ledger of one player of one dead writer: as it is, None where it is gone or damaged, and as it will be."""

    before: PlayerLedger | None
    rows: int
    dropped: int
    lost: int

    @property
    def newly_lost(self) -> int:
        return self.lost - (self.before.lost if self.before is not None else 0)


@dataclass(slots=True)
class RunSurvey:
    """What is there, and what is to be made of it.

    info        what the run is; `info_damage` says why run.yaml has to be written again, "" when it need not
    live        writers that record now; their active shards, `left_alone`, and their ledger are not touched
    writers     all others that are known
    shards      examined, in order;  waiting: retired or unfinished files, to be deleted
    strangers   shards that do not belong where they lie, to be set aside
    missing     shards that are gone, as the manifest tells or the numbers of the others: rows by player, if known
    ledger      sections that are whole, by writer;  ledger_damage: why it has to be made again
    starts, ends  records to be made, by the name of the shard that they go into
    open_episodes  without an end record, of which `ended_by_rows` get one that their rows prove
    """

    path: Path
    info: RunInfo
    info_damage: str
    live: list[int]
    writers: list[int] = field(default_factory=list)
    shards: list[ShardSurvey] = field(default_factory=list)
    strangers: list[ShardSurvey] = field(default_factory=list)
    left_alone: list[ShardPath] = field(default_factory=list)
    waiting: list[ShardPath] = field(default_factory=list)
    superseding: Superseding = field(default_factory=Superseding)
    missing: dict[str, dict[int, int]] = field(default_factory=dict)
    manifest_damage: str = ""
    ledger: dict[int, WriterLedger] = field(default_factory=dict)
    ledger_damage: dict[int | None, str] = field(default_factory=dict)
    starts: dict[str, list[EpisodeStart]] = field(default_factory=dict)
    ends: dict[str, list[EpisodeEnd]] = field(default_factory=dict)
    open_episodes: list[int] = field(default_factory=list)
    ended_by_rows: int = 0
    settled: dict[Account, Settlement] = field(default_factory=dict)
    surveyed_ns: int = field(default_factory=time.time_ns)

    def needs_repair(self, shard: ShardSurvey) -> bool:
        return shard.damaged or shard.name in self.starts or shard.name in self.ends

    @property
    def to_repair(self) -> list[ShardSurvey]:
        return [shard for shard in self.shards if self.needs_repair(shard)]

    @property
    def leftovers(self) -> list[ShardSurvey]:
        """Active shards of dead writers, to be sealed and published."""
        return [shard for shard in self.shards if shard.shard.active]

    def lost_rows(self) -> Iterator[tuple[LostRows, Counter[Key], int]]:
        """Each stretch with the rows of it that counted: by key, and those of unknown episodes."""
        for shard in self.shards:
            for lost in shard.lost_rows:
                by_key = Counter({key: rows for key, rows in lost.by_key.items() if self._counts(shard, key[0])})
                known = sum(lost.by_key.values())
                hides = self.superseding.may_hide(shard.shard.generation, 0, 2**64 - 1)
                rest = 0 if lost.rows is None or hides else max(lost.rows - known, 0)
                yield lost, by_key, rest

    def lost_values(self) -> Iterator[tuple[LostValues, int]]:
        """Each column of a block with the number of its values that counted."""
        for shard in self.shards:
            for lost in shard.lost_values:
                seen = np.array(lost.episodes, np.uint64)
                hidden = self.superseding.hidden(shard.shard.generation, seen)
                if not hidden.all():
                    yield lost, lost.rows

    def quarantined(self, shard: ShardSurvey) -> Counter[Account]:
        """Rows of the shard that are given up now, by whom they are accounted for. Those of unknown players show up as
        lost in the ledger."""
        out: Counter[Account] = Counter()
        for lost, by_key, rest in self.lost_rows():
            if lost.shard != shard.name:
                continue
            for (episode, player), rows in by_key.items():
                out[episode >> WRITER_BITS, player] += rows
            if rest and lost.player is not None and shard.shard.writer is not None:
                out[shard.shard.writer, lost.player] += rest
        return +out

    def kept(self) -> dict[Key, Chain]:
        """Rows that count and are kept, over all shards."""
        out: dict[Key, Chain] = {}
        for shard in self.shards:
            for key, chain in shard.chains.items():
                if self._counts(shard, key[0]):
                    known = out.setdefault(key, Chain(chain.begins))
                    known.extend(chain)
        return out

    def _counts(self, shard: ShardSurvey, episode: int) -> bool:
        generation = shard.shard.generation
        if not self.superseding.may_hide(generation, episode, episode):
            return True
        return not self.superseding.hidden(generation, np.array([episode], np.uint64))[0]


def survey_run(
    path: Path, *, threads: int = 0, progress: Callable[[int], None] | None = None, live: list[int] | None = None
) -> RunSurvey:
    """Examine the run at `path`: every byte of every shard that no live writer is at. Changes nothing.

    Whoever begins to record under way is no dead writer: it is looked again. Raises NotThere where nothing of a run is,
    CheckFailed when no description of the run can be found anywhere, NewerFormat.
    """
    while True:
        writers_now = live_writers(path) if live is None else live
        out = _survey(path, threads, progress, writers_now)
        if live is not None or set(live_writers(path)) <= set(writers_now):
            return out


def _survey(path: Path, threads: int, progress: Callable[[int], None] | None, writers_now: list[int]) -> RunSurvey:
    if not path.is_dir():
        raise NotThere(f"there is no {path}; see expkit list")
    entries, listed = manifest_and_shards(path)
    info, damage = describe(path, listed)
    out = RunSurvey(path, info, damage, writers_now)
    published = [shard for shard in listed if not (shard.generation and shard.active)]
    out.superseding = Superseding.read(published, info.schema, info.id)
    counting = [shard for shard in published if shard.name not in out.superseding.retired]
    out.waiting = [shard for shard in listed if shard not in counting]
    for shard in counting:
        if shard.active and shard.writer in writers_now:
            out.left_alone.append(shard)
            continue
        try:
            found = examine(shard, info.schema, threads, progress, info.id)
        except NotThere:
            continue  # swept or published since
        (out.strangers if found.stranger else out.shards).append(found)
    strange = {shard.name for shard in out.strangers}
    listed = [shard for shard in listed if shard.name not in strange]
    held = {episode >> WRITER_BITS for shard in out.shards for episode, _ in shard.chains}
    out.writers = sorted((known_writers(path, listed) | held) - set(writers_now))
    _read_ledger(out)
    _read_manifest(out, entries, listed)
    _plan_records(out)
    _settle(out)
    return out


def known_writers(path: Path, shards: list[ShardPath]) -> set[int]:
    """Numbers that were used: by a shard, a lock, a section of the ledger."""
    out = {shard.writer for shard in shards if shard.writer is not None}
    with suppress(OSError):
        out |= {int(name[1:]) for name in os.listdir(path / LOCKS_DIR) if name[0] == "w" and name[1:].isdigit()}
    with suppress(CheckFailed):
        out |= {section.writer for section in read_ledger(path) or []}
    return out


def _read_ledger(out: RunSurvey) -> None:
    try:
        sections = read_ledger(out.path)
    except CheckFailed as error:
        sections = read_behind_header(out.path, len(out.info.players)) or []
        out.ledger_damage[None] = str(error).removeprefix(f"{out.path}/")
    if sections is None:
        sections = []
        out.ledger_damage[None] = "the ledger is gone"
    players = len(out.info.players)
    for section in sections:
        if section.damaged or len(section.players) != players:
            out.ledger_damage[section.writer] = f"the section of writer w{section.writer} is damaged"
        else:
            out.ledger[section.writer] = section
    held = {episode >> WRITER_BITS for shard in out.shards for episode, _ in shard.chains}
    for writer in sorted({shard.shard.writer for shard in out.shards if shard.shard.writer is not None} | held):
        gone = out.ledger_damage.get(None) and not out.ledger
        if writer not in out.live and writer not in out.ledger and writer not in out.ledger_damage and not gone:
            out.ledger_damage[writer] = f"there is no section of writer w{writer}"


def _read_manifest(out: RunSurvey, entries: dict[str, dict[str, Any]], listed: list[ShardPath]) -> None:
    if is_damaged(out.path):
        out.manifest_damage = "it does not pass its own checksum"
    elif not (out.path / MANIFEST_FILE).exists() and any(not shard.shard.active for shard in out.shards):
        out.manifest_damage = "it is gone"
    elif not out.live and _is_of_others(out.shards, entries):
        out.manifest_damage, entries = "it lists other files than these", {}
    there = {shard.name: shard for shard in listed if not shard.active}
    strange = {shard.name for shard in out.strangers}
    for name, entry in entries.items():
        # A writer that lives may have published it since.
        gone = name in strange or not published_file(out.path, name).exists()
        if name not in there and name not in out.superseding.retired and gone:
            out.missing[name] = {int(player): rows for player, rows in entry.get("players", {}).items()}
    if out.manifest_damage and not any(shard.generation for shard in listed):
        out.missing |= {name: {} for name in _numbers_left_out(listed)}
    for shard in out.shards:
        if shard.damaged:
            _told_by_manifest(out, shard, entries.get(shard.name))


def _is_of_others(shards: list[ShardSurvey], entries: dict[str, dict[str, Any]]) -> bool:
    """Whether a manifest is another run's: it lists sound shards, which never change, with other sizes."""
    sound = {shard.name: shard.nbytes for shard in shards if not shard.damaged}
    return any(name in sound and told["bytes"] != sound[name] for name, told in entries.items())


def _numbers_left_out(listed: list[ShardPath]) -> Iterator[str]:
    """Names between those of a writer's shards. Where nothing was rewritten or pruned, there were such shards."""
    for writer in sorted({shard.writer for shard in listed if shard.writer is not None}):
        numbers = {shard.number for shard in listed if shard.writer == writer}
        yield from (f"w{writer}/{number:06d}" for number in range(max(numbers)) if number not in numbers)


def _told_by_manifest(out: RunSurvey, shard: ShardSurvey, entry: dict[str, Any] | None) -> None:
    """Rows in stretches of which nothing else tells whose they were."""
    unknown = [lost for lost in shard.lost_rows if lost.rows is None]
    if entry is None or not (unknown or shard.torn or not shard.opens):
        return
    shard.lost_rows = [lost for lost in shard.lost_rows if lost.rows is not None]
    left: Counter[int] = Counter({int(player): rows for player, rows in entry.get("players", {}).items()})
    left -= shard.rows_by_player
    for lost in shard.lost_rows:
        left[lost.player or 0] -= lost.rows or 0
    for _, player, _, quarantined in removed_rows(shard.header):
        left[player] -= quarantined
    for _, player, _, quarantined in removed_rows(entry):
        left[player] += quarantined
    for player, rows in sorted((+left).items()):
        reason = "in damaged bytes; the manifest tells how many there were"
        shard.lost_rows.append(LostRows(shard.name, None, player, rows, {}, reason))
    shard.torn = 0


def _plan_records(out: RunSurvey) -> None:
    """Starts for rows without one, ends for episodes that nobody will end."""
    kept = out.kept()
    begun: set[int] = set()
    ended: set[int] = set()
    home: dict[int, ShardSurvey] = {}
    last_of: dict[int, set[int]] = {}
    for shard in out.shards:
        here = {start.episode for start in shard.starts if out._counts(shard, start.episode)}
        begun |= here
        ended |= {end.episode for end in shard.ends if out._counts(shard, end.episode)}
        held = here | {episode for episode, _ in shard.chains if out._counts(shard, episode)}
        for episode in held:
            known = home.get(episode)
            if known is None or shard.damaged or not known.damaged:
                home[episode] = shard
        if shard.shard.writer is not None:
            last_of[shard.shard.writer] = here
    rows = {episode for episode, _ in kept}
    now = out.surveyed_ns
    players = len(out.info.players)
    for episode in sorted(rows - begun):
        if episode >> WRITER_BITS in out.live:
            continue
        made = EpisodeStart(episode, now, list(range(players)), out.info.source,
                            out.info.config_digest, metadata=RECOVERED)  # fmt: skip
        first = next(shard for shard in out.shards
                     if any(key[0] == episode for key in shard.chains) and out._counts(shard, episode))  # fmt: skip
        out.starts.setdefault((home[episode] if home[episode].damaged else first).name, []).append(made)
    out.open_episodes = sorted(e for e in (begun | rows) - ended if e >> WRITER_BITS not in out.live)
    cut = {shard.shard.writer for shard in out.leftovers}
    cut |= {writer for writer, section in out.ledger.items() if section.state != "closed"}
    by_episode = players_of(kept, out.open_episodes)
    for episode in out.open_episodes:
        writer, place = episode >> WRITER_BITS, home[episode]
        if writer in cut and episode in last_of.get(writer, ()) and not place.shard.generation:
            continue  # it was open when its writer died, and is ended as that writer is closed
        end = made_end(episode, by_episode[episode], now, players)
        out.ended_by_rows += end.ended != "interrupted"
        if place.damaged or place.shard.generation:
            out.ends.setdefault(place.name, []).append(end)


def players_of(kept: dict[Key, Chain], episodes: Iterable[int]) -> dict[int, dict[int, Chain]]:
    """Of some of the episodes, the rows by player."""
    out: dict[int, dict[int, Chain]] = {episode: {} for episode in episodes}
    for (episode, player), chain in kept.items():
        if episode in out:
            out[episode][player] = chain
    return out


def made_end(episode: int, mine: dict[int, Chain], now: int, players: int) -> EpisodeEnd:
    """The end record of an episode that has none: how it ended as far as its rows tell, else interrupted."""
    ended: Ended = "interrupted"
    if any(chain.ended and chain.flags == 2 for chain in mine.values()):
        ended = "truncated"
    elif len(mine) == players and all(chain.ended for chain in mine.values()):
        ended = "terminated" if any(chain.flags > 0 and chain.flags & 1 for chain in mine.values()) else ended
    length = max((chain.rows - chain.last for chain in mine.values()), default=0)
    rows = {str(player): chain.rows for player, chain in sorted(mine.items())}
    return EpisodeEnd(episode, now, ended, length, rows=rows, metadata=RECOVERED, cut=True)


def _settle(out: RunSurvey) -> None:
    """What the ledger of each dead writer will say."""
    rows: Counter[Account] = Counter()
    gaps: Counter[Account] = Counter()
    kept = out.kept()
    for (episode, player), chain in kept.items():
        rows[episode >> WRITER_BITS, player] += chain.rows
        gaps[episode >> WRITER_BITS, player] += not chain.begins
    quarantined: Counter[Account] = Counter()
    dropped: Counter[Account] = Counter()
    lowest = min(out.writers, default=0)
    for shard in out.shards:
        quarantined += out.quarantined(shard)
        for writer, player, pruned, given_up in removed_rows(shard.header):
            rows[writer, player] += pruned + given_up
        for player, causes in shard.drops.items():
            owner = lowest if shard.shard.writer is None else shard.shard.writer
            dropped[owner, player] += sum(count for cause, count in causes.items() if cause in DROP_CAUSES)
        for end in shard.ends:
            if not end.cut and out._counts(shard, end.episode):
                for name, expected in end.rows.items():
                    found = kept.get((end.episode, int(name)))
                    gaps[end.episode >> WRITER_BITS, int(name)] += max(expected - (found.rows if found else 0), 0)
    rows += quarantined
    gone: Counter[Account] = Counter()
    for name, players in out.missing.items():
        for player, count in players.items():
            gone[int(name[1 : name.index("/")]) if name[0] == "w" else lowest, player] += count
    shards = {shard.shard.writer for shard in out.shards}
    for writer in out.writers:
        if writer not in out.ledger and writer not in shards and not any(at[0] == writer for at in +(rows + gone)):
            continue  # it took a number, and was stopped before it had anything to count
        for player in range(len(out.info.players)):
            at, section = (writer, player), out.ledger.get(writer)
            if section is not None:
                before = section.players[player]
                unaccounted = before.produced - rows[at] - before.dropped_rows - before.rejected
                lost = max(unaccounted, before.lost)
                out.settled[at] = Settlement(before, rows[at], before.dropped_rows, lost)
                continue
            unseen = max(gaps[at] - quarantined[at] - dropped[at], gone[at], 0)
            out.settled[at] = Settlement(None, rows[at], dropped[at], unseen)
    out.missing = {name: told for name, told in out.missing.items() if not _only_listed(out, name, told)}


def _only_listed(out: RunSurvey, name: str, told: dict[int, int]) -> bool:
    """Whether the ledger finds all rows without a shard that is listed and gone: the manifest is old."""
    if not name.startswith("w") or not any(told.values()):
        return False
    places = [out.settled.get((int(name[1 : name.index("/")]), player)) for player, rows in told.items() if rows]
    return all(place is not None and place.before is not None and not place.newly_lost for place in places)
