"""Gather, transform, encode, append: one output shard's rows, block by block, reading beside encoding."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol

from expkit.formats.shard.encode import BlockEncoder, EncodedBlock
from expkit.rewrite.gather import Gatherer, Rows
from expkit.rewrite.layout import BlockPlan


class Stopped(Exception):
    """Somebody asked the rewrite to stop: what it was at is dropped."""


class Selection(Protocol):
    """Decides which gathered rows of a block are written: see `expkit.rewrite.filter`."""

    def __call__(self, plan: BlockPlan, rows: Rows) -> tuple[Rows, int]:
        """The columns to write, and how many rows are left out."""


class Work:
    """What all output shards of one rewrite share: the reading, the encoder, who wants to know and to stop it.

    on_rows  called with the number of source rows of each block that is done
    stop     asked before each block
    select   leaves rows out; all are written when left out. Those left out count as dropped, `filtered`.
    """

    def __init__(
        self,
        gatherer: Gatherer,
        encoder: BlockEncoder,
        *,
        select: Selection | None = None,
        on_rows: Callable[[int], None] | None = None,
        stop: Callable[[], bool] | None = None,
    ):
        self._gatherer = gatherer
        self._encoder = encoder
        self._select = select
        self._on_rows = on_rows
        self._stop = stop
        self.filtered: dict[int, int] = {}  # by player, rows left out that no block has told of

    def write(self, plans: Iterable[BlockPlan], append: Callable[[EncodedBlock], object]) -> None:
        """Append the blocks in the order of `plans`. Raises Stopped, ShardError, and what `append` does."""
        with ThreadPoolExecutor(1, "expkit-gather") as reading:
            waiting: tuple[BlockPlan, Future[Rows]] | None = None
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

    def _finish(self, plan: BlockPlan, future: Future[Rows], append: Callable[[EncodedBlock], object]) -> None:
        if self._stop is not None and self._stop():
            raise Stopped
        rows, left_out = future.result(), 0
        if self._select is not None:
            rows, left_out = self._select(plan, rows)
        source_rows = int(plan.rows.sum())
        count = source_rows - left_out
        self.filtered[plan.player] = self.filtered.get(plan.player, 0) + left_out
        if count:
            untold = self.filtered.pop(plan.player)
            append(self._encoder.encode(plan.player, rows, count, {"filtered": untold}, plan.lost))
        if self._on_rows is not None:
            self._on_rows(source_rows)
