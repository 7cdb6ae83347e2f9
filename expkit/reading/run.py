"""A run that is read: its rows by address, in batches, as they come."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from expkit.batches.addresses import Addresses
from expkit.batches.decode import Rows, stored_names
from expkit.batches.epochs import PinnedShard, is_there
from expkit.buffers.protocol import Batch, ExperienceBuffer
from expkit.errors import NotThere, SchemaError, UsageError
from expkit.predicates import BoundPredicate, EpisodeTable, Predicate
from expkit.reading.follow import follow
from expkit.reading.gaps import Gaps
from expkit.reading.known_run import KnownRun
from expkit.reading.split import Part, check_split
from expkit.reading.whole import check_whole
from expkit.row.episodes import PolicyInfo
from expkit.row.schema import KEY_NAMES


class Run(KnownRun):
    """A recorded run. Batches are `dict[str, ndarray]` of logical arrays that lead with the rows; a nullable field
    comes with `valid:NAME`, false where nothing was given. Checksums are verified on every read."""

    @property
    def single_runs(self) -> list[Run]:
        return [self]

    def refresh(self) -> None:
        for name in ("_gaps", "addresses"):
            self.__dict__.pop(name, None)
        super().refresh()

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r}, {len(self):,} rows, {self.state})"

    def check_whole(self) -> None:
        check_whole(self)

    def as_pinned(self, manifest: Sequence[PinnedShard]) -> Run:
        if is_there(self, manifest):
            return self
        for generation in reversed(self.generations[:-1]):
            older = Run(self.path, part=self.part, upto=generation)
            if is_there(older, manifest):
                return older
            older.close()
        return self

    def bind(
        self, where: Predicate, others: Sequence[PolicyInfo] = ()
    ) -> list[tuple[BoundPredicate, EpisodeTable | None]]:
        """`others`: policies that the condition may name, too, of which this run has no rows."""
        predicate = where.bind(self.schema, [*self.policies, *others])
        return [(predicate, EpisodeTable(self.episodes()) if predicate.episode_names else None)]

    def lacks_rows(self, run: int, episode: int, player: int, rows: int) -> bool:
        return self._gaps.lacks_rows(episode, player, rows)

    @cached_property
    def _gaps(self) -> Gaps:
        return Gaps(self)

    def rows(self, episode: int, player: int, columns: Sequence[str] | None = None) -> dict[str, np.ndarray]:
        """All rows of (episode, player) in the order of steps, with the keys. Raises NotThere, ShardError."""
        segments = self.index.find(episode, player)
        if not len(segments):
            have = sorted(self.find_episode(episode).rows)
            raise NotThere(f"{self.path}: episode {episode} has no rows of player {player}; it has players {have}")
        names = stored_names(self.schema, columns)
        parts = []
        for s in segments.tolist():
            first, count = int(self.index.first_row[s]), int(self.index.rows[s])
            reader = self.reader(int(self.index.shard[s]))
            stored = reader.read_block(int(self.index.block[s]), names, slice(first, first + count))
            parts.append(stored)
        merged = {name: np.concatenate([part[name] for part in parts]) for name in names}
        return self._logical(merged, player)

    def episode(self, number: int, player: int) -> dict[str, np.ndarray]:
        """One player's episode as trainers want it: T+1 rows of what belongs to the observation (and of the keys),
        T of everything else; without its last row (killed in between) T of both. Raises NotThere, ShardError."""
        rows = self.rows(number, player)
        keep = ~rows["is_last"]
        out = {}
        for name, values in rows.items():
            plain = name.removeprefix("valid:")
            whole = plain in KEY_NAMES or plain == "player" or self.schema[plain].belongs == "observation"
            out[name] = values if whole else values[keep]
        return out

    def row(self, episode: int, player: int, step: int) -> dict[str, np.ndarray]:
        """One row, every column; arrays without a leading axis. Raises NotThere, ShardError."""
        numbers = self._numbers(episode, player, step)
        if numbers[0] >= 0:
            batch = self.decoder().make(list(self.timeline.pieces(numbers)))
            return {name: values[0] for name, values in batch.items()}
        have = self.rows(episode, player, ["step"])["step"]
        raise NotThere(
            f"{self.path}: episode {episode} player {player} has no step {step}; it has steps {have[0]} to {have[-1]}"
        )

    def row_batch(
        self, episode: Any, player: Any, step: Any, columns: Sequence[str] | None = None
    ) -> dict[str, np.ndarray]:
        """Many rows by their addresses, integers (n,) each or one for all, in that order: arrays that lead with n.
        Raises NotThere for the first that is not there, SchemaError, ShardError."""
        given = [np.asarray(part) for part in (episode, player, step)]
        if any(part.dtype.kind not in "iu" for part in given):
            raise SchemaError("the address of a row is three whole numbers: episode, player, step")
        episodes, players, steps = np.broadcast_arrays(*(np.atleast_1d(part) for part in given))
        numbers = self.addresses.numbers(episodes.astype(np.uint64), players.astype(np.int64), steps.astype(np.int64))
        for missing in np.flatnonzero(numbers < 0)[:1].tolist():
            self.row(int(episodes[missing]), int(players[missing]), int(steps[missing]))  # says what is not there
        decoder = self.decoder(columns)
        return decoder.make(list(self.timeline.pieces(numbers)))

    @cached_property
    def addresses(self) -> Addresses:
        """Where rows are by their addresses."""
        return Addresses(self.timeline)

    def _numbers(self, episode: int, player: int, step: int) -> np.ndarray:
        """int64 (1,): the number of one row in the timeline, -1 where it is not there. Raises ShardError."""
        keys = np.array([episode], np.uint64), np.array([player], np.int64), np.array([step], np.int64)
        return self.addresses.numbers(*keys)

    def locate(self, episode: int, player: int, step: int) -> tuple[str, int]:
        """(shard name, block number) of a row. Raises NotThere, ShardError."""
        numbers = self._numbers(episode, player, step)
        if numbers[0] < 0:
            raise NotThere(f"{self.path}: no row at episode {episode} player {player} step {step}")
        place = next(self.timeline.pieces(numbers))
        return self.shard_paths[place.shard].name, place.block

    def split(self, fractions: Mapping[str, float]) -> dict[str, Run]:
        """Parts of the run by episode, `{"train": 0.9, "val": 0.1}`, to be read, and closed, like runs of their own: a
        hash of where each episode was recorded decides, as for `expkit rewrite --split`, so that an episode stays in
        its part while the run grows, is compacted or merged. Raises UsageError for fractions that do not add up to 1,
        and for a part that is to be split again.
        """
        check_split(fractions)
        if self.part is not None:
            raise UsageError(f"{self.label} is a part already; split the whole run, into as many parts as are wanted")
        return {name: Run(self.path, part=Part(name, dict(fractions))) for name in fractions}

    def follow(
        self,
        columns: Sequence[str] | None = None,
        *,
        rows: Rows = "transitions",
        where: str | Predicate | None = None,
        poll: float = 0.2,
        stop: Callable[[], bool] | None = None,
    ) -> Iterator[dict[str, np.ndarray]]:
        """All rows there are, and then those that recorders write, each once, block by block as these are whole in a
        file: a recorder's `flush_interval` after they were added, at the latest. It ends when no recorder is at work
        any more, closed or killed, and all is given; rotation, compaction and pruning meanwhile do not disturb it.

        poll  seconds between two looks at the files;  stop: asked between batches whether to end

        Columns, rows and where as for `scan`. Memory: a block, and some 150 bytes for each player's episode. Raises
        UsageError, SchemaError, ShardError.
        """
        if where is not None:
            self.selection(where)
        return (batch for _, batch in follow([self], columns, rows, where, poll, stop))

    def load_into(self, buffer: ExperienceBuffer) -> int:
        """Add all rows of the buffer's player, last rows included, in the order they were recorded; returns how many.

        A bounded buffer keeps what its overflow policy keeps. Raises SchemaError for a buffer of another schema,
        ShardError, and what the buffer raises.
        """
        if buffer.schema != self.schema:
            raise SchemaError(f"{self.path}: the buffer has another schema; make it with this run's schema")
        return buffer.load(self._stored_blocks(buffer.player))

    def _stored_blocks(self, player: int) -> Iterator[Batch]:
        for block in self.blocks():
            if block.info.player == player:
                yield Batch(player, block.rows, block.read(), block.info.dropped)

    def _logical(self, stored: dict[str, np.ndarray], player: int) -> dict[str, np.ndarray]:
        batch = {name: self.schema.unpack(name, values) for name, values in stored.items()}
        batch["player"] = np.full(len(stored["episode"]), player, np.uint16)
        return batch
