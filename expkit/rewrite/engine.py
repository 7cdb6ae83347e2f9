"""Gather, encode, append: one output shard's rows, block by block, reading beside encoding."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor

from expkit.formats.shard.encode import BlockEncoder, EncodedBlock
from expkit.rewrite.gather import Gatherer, Rows
from expkit.rewrite.layout import BlockPlan
from expkit.runs.counters import FILTERED


class Stopped(Exception):
    """Somebody asked the rewrite to stop: what it was at is dropped."""


class Work:
    """What all output shards of one rewrite share: the reading, the encoder, who wants to know and to stop it.

    on_rows   called with the number of source rows of each block that is done
    stop      asked before each block
    filtered  by player, rows left out that no block has told of yet
    """

    def __init__(
        self,
        gatherer: Gatherer,
        encoder: BlockEncoder,
        *,
        on_rows: Callable[[int], None] | None = None,
        stop: Callable[[], bool] | None = None,
    ):
        self._gatherer = gatherer
        self._encoder = encoder
        self._on_rows = on_rows
        self._stop = stop
        self.filtered: dict[int, int] = {}

    def write(self, plans: Iterable[BlockPlan], append: Callable[[EncodedBlock], object]) -> None:
        """Append the blocks in the order of `plans`. Raises Stopped, ShardError, and what `append` does."""
        with ThreadPoolExecutor(1, "expkit-gather") as reading:
            waiting: tuple[BlockPlan, Future[tuple[Rows, int]]] | None = None
            try:
                for plan in plans:
                    following = plan, reading.submit(self._gatherer.gather, plan)
                    if waiting is not None:
                        self._finish(*waiting, append)
                    waiting = following
                if waiting is not None:
                    self._finish(*waiting, append)
            except BaseException:
                reading.shutdown(wait=True, cancel_futures=True)
                raise

    def _finish(
        self, plan: BlockPlan, future: Future[tuple[Rows, int]], append: Callable[[EncodedBlock], object]
    ) -> None:
        if self._stop is not None and self._stop():
            raise Stopped
        rows, count = future.result()
        left_out = int(plan.rows.sum()) - count
        if left_out:
            self.filtered[plan.player] = self.filtered.get(plan.player, 0) + left_out
        if count:
            dropped = {FILTERED: self.filtered.pop(plan.player, 0)}
            lost = [name for name in plan.lost if name in self._encoder.names and name not in rows]
            append(self._encoder.encode(plan.player, rows, count, dropped, lost))
        if self._on_rows is not None:
            self._on_rows(count + left_out)
