"""A run made of batches that bring all their keys with them, as files of other tools and exports of our own hold them.

The run grows in a hidden folder, is validated there, and gets its name at the end.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from expkit.errors import ShardError
from expkit.formats.protocol import Batch, EpisodeRecord, rows_of
from expkit.formats.shard.encode import BlockEncoder
from expkit.rewrite.layout import BLOCK_BYTES, BLOCK_ROWS, DEFAULT_SHARD_SIZE, Encoding
from expkit.rewrite.merge import check_result
from expkit.rewrite.new_folder import NewFolder
from expkit.row.episodes import WRITER_BITS, EpisodeEnd, EpisodeStart
from expkit.row.schema import Schema
from expkit.runs.counters import FILTERED
from expkit.runs.guard import DiskGuard
from expkit.runs.layout import RunInfo
from expkit.runs.write import RunWriter, ShardLimits, create_run

_U64 = (1 << 64) - 1


class RunBuilder:
    """A context manager; `add` batches, then `finish`. Without that nothing is left behind.

    records   of episodes, by number; others begin when their first row comes
    whole     every episode of `records` is in the run, also those without rows
    filtered  rows that an episode's end record tells of and that do not come were left out on purpose

    Rows of one (episode, player) come in the order of their steps. Raises OutputExists, Busy, NoSpace, WriteFailed.
    """

    def __init__(
        self,
        out: Path,
        info: RunInfo,
        records: Mapping[int, EpisodeRecord],
        *,
        whole: bool = True,
        force: bool = False,
    ):
        self._folder = NewFolder(out, force=force)
        self._info = info
        self._records = records
        self._whole = whole
        self._schema: Schema = info.schema
        self._block_rows = max(1, min(BLOCK_ROWS, BLOCK_BYTES // self._schema.row_bytes))
        self._pending: dict[int, list[dict[str, np.ndarray]]] = {}
        self._waiting: dict[int, int] = {}
        self._last_step: dict[tuple[int, int], int] = {}
        self._rows: dict[int, dict[int, int]] = {}  # by episode without an end yet: rows by player
        self._digests: dict[tuple[int, int], int] = {}
        self._ends: dict[int, EpisodeEnd] = {}
        self._ended: set[int] = set()
        self._writer: RunWriter | None = None
        self.rows = self.last_rows = 0

    def __enter__(self) -> RunBuilder:
        self._folder.__enter__()
        path = self._folder.path
        try:
            create_run(path, self._info)
            self._writer = RunWriter(
                path, self._schema, len(self._info.players), writer=0, limits=ShardLimits(0, 0, 0.0), sync="none",
                guard=DiskGuard(min_free=0),
            )  # fmt: skip
            encoding = Encoding()
            self._encoder = BlockEncoder(self._schema, encoding.level, encoding.frame_rows)
        except BaseException as error:
            self.__exit__(type(error), error, None)
            raise
        return self

    def __exit__(self, *error: object) -> None:
        if self._writer is not None:
            self._writer.abandon()
        self._folder.__exit__(*error)

    @property
    def episodes(self) -> int:
        return len(self._ended) + len(self._rows)

    def add(self, batch: Batch) -> None:
        """Rows of any players. Raises ShardError for a player or an episode that cannot be, and for steps that do not
        rise; SchemaError for values that do not fit."""
        rows, players = rows_of(batch), batch["player"]
        if not rows:
            return
        self.rows += rows
        self.last_rows += int(np.count_nonzero(batch["is_last"]))
        if int(batch["episode"].max()) >> (WRITER_BITS + 15):
            raise ShardError(f"{self._folder.out}: episode {int(batch['episode'].max())} is out of range")
        for player in np.unique(players).tolist():
            if player >= len(self._info.players):
                raise ShardError(f"a row is of player {player}; the run has players 0 to {len(self._info.players) - 1}")
            mine = players == player
            part = batch if mine.all() else {name: values[mine] for name, values in batch.items()}
            count = rows_of(part)
            stored = {c.name: self._schema.pack(c.name, part[c.name], count) for c in self._schema.columns}
            self._check_steps(player, stored["episode"], stored["step"])
            self._pending.setdefault(player, []).append(stored)
            self._waiting[player] = self._waiting.get(player, 0) + count
            while self._waiting[player] >= self._block_rows:
                self._write(player, self._block_rows)

    def differing(self) -> tuple[int, int]:
        """Of how many players' episodes the rows are not those whose digests `records` name, and of how many it names
        one."""
        named = {(n, int(p)): digest for n, record in self._records.items() for p, digest in record.digests.items()}
        return sum(self._digests.get(key) != digest for key, digest in named.items()), len(named)

    def end(self, ends: Iterable[EpisodeEnd]) -> None:
        """How episodes ended that `records` does not name; no row of theirs comes after."""
        self._ends.update((one.episode, one) for one in ends)

    def finish(self) -> int:
        """Write what is left, validate, publish; returns how many findings there are about what the rows say. Raises
        CheckFailed for any other."""
        assert self._writer is not None
        for player in sorted(self._waiting):
            while self._waiting[player]:
                self._write(player, self._block_rows)
        if self._whole:
            missing = [number for number in self._records if number not in self._ended and number not in self._rows]
            self._writer.append_episodes([self._start(number) for number in missing], ())
            self._rows |= {number: {} for number in missing}
        self._write_ends(list(self._rows))
        self._writer.close()
        odd = check_result(self._folder.path)
        self._folder.publish()
        return odd

    def _check_steps(self, player: int, episode: np.ndarray, step: np.ndarray) -> None:
        """Steps rise within each episode of the batch and since the batch before."""
        order = np.argsort(episode, kind="stable")
        number, at = episode[order], step[order].astype(np.int64)
        same = number[1:] == number[:-1]
        bad = np.flatnonzero(same & (at[1:] <= at[:-1]))
        firsts = np.append(0, np.flatnonzero(~same) + 1)
        lasts = np.append(firsts[1:] - 1, len(number) - 1)
        for one, first, last in zip(number[firsts].tolist(), at[firsts].tolist(), at[lasts].tolist(), strict=True):
            before = self._last_step.get((one, player))
            if before is not None and first <= before:
                raise ShardError(_not_rising(one, player, first, before))
            self._last_step[one, player] = last
        if len(bad):
            at_fault = int(bad[0])
            raise ShardError(_not_rising(int(number[at_fault]), player, int(at[at_fault + 1]), int(at[at_fault])))

    def _write(self, player: int, most: int) -> None:
        """A block of the player's first rows that wait."""
        assert self._writer is not None
        taken: list[dict[str, np.ndarray]] = []
        count, waiting = 0, self._pending[player]
        while waiting and count < most:
            part = waiting.pop(0)
            rows = len(part["episode"])
            if count + rows > most:
                cut = most - count
                waiting.insert(0, {name: values[cut:] for name, values in part.items()})
                part, rows = {name: values[:cut] for name, values in part.items()}, cut
            taken.append(part)
            count += rows
        names = taken[0].keys()
        stored = taken[0] if len(taken) == 1 else {n: np.concatenate([part[n] for part in taken]) for n in names}
        self._waiting[player] -= count
        block = self._encoder.encode(player, stored, count)
        starts = [self._start(number) for number in block.episodes if number not in self._rows]
        self._writer.ledger.produced[player] += count
        self._writer.append(block, starts=starts, last_rows=int(stored["is_last"].sum()))
        complete = []
        for number, (rows, digest) in block.episodes.items():
            self._digests[number, player] = (self._digests.get((number, player), 0) + digest) & _U64
            known = self._rows.setdefault(number, {})
            known[player] = known.get(player, 0) + rows
            if self._is_complete(number, known):
                complete.append(number)
        self._write_ends(complete)
        if self._writer.nbytes - self._writer.closed_bytes >= DEFAULT_SHARD_SIZE:
            self._writer.rotate()

    def _is_complete(self, number: int, known: Mapping[int, int]) -> bool:
        record = self._records.get(number)
        if record is not None:
            return bool(record.rows) and record.rows == {str(player): rows for player, rows in known.items()}
        end = self._ends.get(number)
        return end is not None and end.rows == {str(player): rows for player, rows in known.items()}

    def _start(self, number: int) -> EpisodeStart:
        record = self._records.get(number)
        if record is not None and record.start is not None:
            return record.start
        return EpisodeStart(number, self._info.created_ns, list(range(len(self._info.players))), self._info.source)

    def _write_ends(self, numbers: list[int]) -> None:
        assert self._writer is not None
        ends, ledger = [self._end(number) for number in numbers], self._writer.ledger
        self._writer.append_episodes((), ends)
        for end in ends:
            for name, produced in end.rows.items():
                player = int(name)
                absent = produced - self._rows[end.episode].get(player, 0)
                if absent > 0 and player < len(self._info.players):
                    ledger.produced[player] += absent
                    ledger.drop(player, FILTERED, absent)
                    self._writer.append_drops(player, {FILTERED: absent})
            record = self._records.get(end.episode)
            if record is not None and record.notes:
                self._writer.append_meta({"annotate": {"episode": str(end.episode), "metadata": record.notes}})
            self._ended.add(end.episode)
            del self._rows[end.episode]

    def _end(self, number: int) -> EpisodeEnd:
        record = self._records.get(number)
        end = record.end if record is not None else self._ends.get(number)
        if end is not None:
            return end
        rows = {str(player): count for player, count in sorted(self._rows[number].items())}
        length = max(rows.values(), default=0)
        return EpisodeEnd(number, self._info.created_ns, "interrupted", length, rows=rows, cut=True)


def _not_rising(episode: int, player: int, step: int, before: int) -> str:
    return (
        f"episode {episode} player {player}: step {step} comes after step {before}; "
        "rows of an episode have to come in the order of their steps"
    )
