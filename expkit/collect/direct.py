"""The collector without threads: rows are written by whoever adds them, when a block is full or on `flush`.

For importers and tools, where nothing plays beside the writing. What is on disk after each call is exactly known.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from expkit.collect.protocol import CollectorStats
from expkit.errors import BufferClosed, UsageError
from expkit.formats.shard.encode import BlockEncoder
from expkit.row.episodes import EpisodeEnd, EpisodeStart
from expkit.row.layout import RowSink
from expkit.row.schema import Schema
from expkit.runs.write import RunWriter


class DirectCollector:
    """One block of `block_rows` rows per player, and a `RunWriter`. Is its own `Feed`; for one thread."""

    def __init__(self, writer: RunWriter, schema: Schema, players: int, block_rows: int = 1024, level: int = 1):
        self.schema = schema
        self.players = players
        self.writer = writer
        self.sink = RowSink.scratch(schema, players, block_rows)
        self._encoder = BlockEncoder(writer.schema, level=level)
        self._views = [self.sink.views(player) for player in range(players)]
        self._committed = np.zeros(players, np.int64)
        self._ends: list[EpisodeEnd] = []
        self._high_water = 0
        self._closed = False

    def feed(self) -> DirectCollector:
        return self

    def ready(self, rows: int) -> None:
        for player in range(self.players):
            self._make_room(player, rows)

    def reserve(self, player: int, rows: int) -> tuple[dict[str, np.ndarray], int]:
        self._make_room(player, rows)
        return self._views[player], int(self.sink.position[player])

    def _make_room(self, player: int, rows: int) -> None:
        if self._closed:
            raise BufferClosed("the collector is closed; open a new one to go on")
        if rows > self.sink.capacity[player]:
            raise UsageError(f"{rows} rows do not fit a block of {self.sink.capacity[player]}; add them in parts")
        if self.sink.position[player] + rows > self.sink.capacity[player]:
            self._write(player)

    def commit(self, starts: Sequence[EpisodeStart] = (), ends: Sequence[EpisodeEnd] = ()) -> None:
        self.writer.ledger.produced += self.sink.position - self._committed
        self._committed[:] = self.sink.position
        self._high_water = max(self._high_water, int(self.sink.position.sum()))
        self.writer.append_episodes(starts, ())
        if ends:
            # An end comes after all its rows; episodes end seldom enough to write the blocks out here.
            self._ends.extend(ends)
            self._write_all()

    def _write(self, player: int) -> None:
        rows = int(self._committed[player])
        if rows:
            views = self._views[player]
            last_rows = int(np.count_nonzero(views["is_last"][:rows]))
            self.writer.append(self._encoder.encode(player, views, rows), last_rows=last_rows)
        self.sink.position[player] = self._committed[player] = 0

    def _write_all(self) -> None:
        for player in range(self.players):
            self._write(player)
        ends, self._ends = self._ends, []
        self.writer.append_episodes((), ends)
        self.writer.rotate_if_full()

    def flush(self) -> None:
        """Everything committed is durable when it returns."""
        self._write_all()
        self.writer.sync()

    def stats(self) -> CollectorStats:
        ledger = self.writer.ledger.since_opened()
        return CollectorStats(
            produced=dict(enumerate(ledger.produced.tolist())),
            written=dict(enumerate(ledger.written.tolist())),
            durable=dict(enumerate(ledger.durable.tolist())),
            rejected=dict(enumerate(ledger.rejected.tolist())),
            dropped={player: {} for player in range(self.players)},
            buffered=int(self._committed.sum()),
            capacity=int(self.sink.capacity.sum()),
            high_water=self._high_water,
        )

    def close(self) -> None:
        """Write, publish, let go. Closing twice is fine."""
        if self._closed:
            return
        self._write_all()
        self._closed = True
        self.writer.close()

    def __enter__(self) -> DirectCollector:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
