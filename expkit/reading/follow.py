"""The rows of runs that are being recorded, as they come."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack

import numpy as np

from expkit.batches.decode import Batch, Piece, Rows
from expkit.batches.scan import rows_wanted
from expkit.errors import NotThere
from expkit.predicates import Predicate
from expkit.reading.known_run import KnownRun
from expkit.runs.superseding import VisibleBlock


class _Given:
    """Which rows were given: of a writer's shards whole blocks, in order; of what maintenance made of them meanwhile,
    those up to the last step that was given of each player's episode, for steps rise."""

    def __init__(self) -> None:
        self._blocks: dict[str, int] = {}
        self._steps: dict[tuple[int, int], int] = {}

    def has(self, block: VisibleBlock) -> bool:
        return block.info.index < self._blocks.get(block.name, 0)

    def take(self, block: VisibleBlock) -> np.ndarray | None:
        """bool (rows of the block,): the new ones, None for all; from now on they count as given. Raises ShardError."""
        player, rewritten = block.info.player, block.name.startswith("g")
        new = None
        for episode, first, rows, first_step, last_step, _ in block.reader.runs(block.info.index).tolist():
            given = self._steps.get((episode, player), -1)
            if rewritten and first_step <= given:
                new = np.ones(block.info.rows, bool) if new is None else new
                part = slice(first, first + rows)
                new[part] = False
                if last_step > given:
                    steps = block.reader.read_block(block.info.index, ["step"], part)["step"]
                    new[part] = steps > given
            self._steps[episode, player] = max(given, last_step)
        self._blocks[block.name] = block.info.index + 1
        return new


def follow(
    runs: Sequence[KnownRun],
    columns: Sequence[str] | None,
    rows: Rows,
    where: str | Predicate | None,
    poll: float,
    stop: Callable[[], bool] | None,
) -> Iterator[tuple[int, Batch]]:
    """The place among `runs` and a batch of one of them, see `Run.follow`: those of all runs in turns, until no
    recorder of any is at work."""
    given = [_Given() for _ in runs]
    decoders = [run.decoder(columns) for run in runs]
    with ExitStack() as opened:
        views = [run.reopened() for run in runs]
        for view in views:
            opened.callback(view.close)
        while True:
            ended = not any(view.live_writers for view in views)  # before the files were listed: nothing comes after
            for place, view in enumerate(views):
                selection = None if where is None else view.selection(where)
                for block in _new_blocks(view, given[place]):
                    new = given[place].take(block)
                    wanted = rows_wanted(block, rows, None, selection)
                    if new is not None:
                        wanted = wanted[new[wanted]]
                    if len(wanted):
                        yield place, decoders[place].make([Piece.of(block, wanted, np.arange(len(wanted)))])
                    if stop is not None and stop():
                        return
            if ended or (stop is not None and stop()):
                return
            time.sleep(poll)
            for view in views:
                view.refresh()


def _new_blocks(view: KnownRun, given: _Given) -> Iterator[VisibleBlock]:
    """Those not given yet. A shard that was pruned since it was listed has nothing that counts any more."""
    for position in range(len(view.shard_paths)):
        try:
            view.reader(position)
        except NotThere:
            continue
        yield from (block for block in view.blocks_of(position) if not given.has(block))
