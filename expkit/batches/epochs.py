"""Epochs: every row once, shuffled, shared out among ranks, to be taken up again where a crash left it.

An epoch is a pure function of (seed, epoch, manifest): pieces of the blocks that the manifest lists are put in random
order and dealt out to the ranks, and each rank mixes the rows of as many of its pieces as fit its memory. Which rows
make which batch follows from the blocks' heads and narrow columns alone, so that batches that were had before need not
be decoded again. What a recorder writes meanwhile is not in the manifest, and comes with the next epoch.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import msgspec
import numpy as np

from expkit.batches.decode import PIECE_BYTES, PIECE_FRAMES, Batch, BatchDecoder, Piece, Rows
from expkit.batches.scan import check_batch_size, rows_wanted
from expkit.batches.selection import Selection
from expkit.batches.source import BatchSource
from expkit.errors import CheckFailed, UsageError
from expkit.formats.shard.layout import FRAME_ROWS
from expkit.runs.superseding import VisibleBlock
from expkit.system.parallel import in_order


class PinnedShard(NamedTuple):
    """What an epoch reads of a shard: its first `blocks` blocks, with `rows` rows that count. run: the run's id."""

    run: str
    shard: str
    blocks: int
    rows: int


class EpochState(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where an epoch is, as plain data: `msgspec.to_builtins` and JSON carry it.

    batches   that were given of this rank's
    piece     rows of a piece;  wave: rows that are mixed
    manifest  what the epoch reads
    """

    seed: int
    epoch: int
    batch_size: int
    rank: int
    world_size: int
    rows: Rows
    where: str | None
    batches: int
    piece: int
    wave: int
    manifest: list[PinnedShard]


def manifest_of(run: BatchSource) -> list[PinnedShard]:
    """All that there is to read now."""
    out: dict[tuple[str, str], PinnedShard] = {}
    for block in run.blocks():
        place = run.run_ids[block.run], block.name
        rows = block.rows + (out[place].rows if place in out else 0)
        out[place] = PinnedShard(*place, block.info.index + 1, rows)
    return list(out.values())


def is_there(run: BatchSource, manifest: Sequence[PinnedShard]) -> bool:
    """Whether the run has what was pinned, as it was. Generations only take rows away from what was there before them,
    so as many rows of a shard are the same rows."""
    return not next(_changed(_blocks(run), manifest), None)


Place = tuple[str, str]  # id of the run, name of the shard
Found = dict[Place, list[tuple[int, int, int, int]]]


def _blocks(run: BatchSource) -> Found:
    """(shard, block, rows, rows that count) of every block."""
    found: Found = {}
    for block in run.blocks():
        place = run.run_ids[block.run], block.name
        found.setdefault(place, []).append((block.shard, block.info.index, block.info.rows, block.rows))
    return found


def _changed(found: Found, manifest: Sequence[PinnedShard]) -> Iterator[str]:
    """Names of the shards of the manifest that are not as they were."""
    for pinned in manifest:
        blocks = found.get((pinned.run, pinned.shard), [])
        if sum(rows for _, index, _, rows in blocks if index < pinned.blocks) != pinned.rows:
            yield pinned.shard


class Epoch:
    """An iterator over the batches of one epoch; `state_dict` between any two of them says where it is.

    state   to begin with: the plan, and how many of its batches were had
    at_end  called when all are given, or it is closed
    """

    def __init__(
        self,
        run: BatchSource,
        decoder: BatchDecoder,
        state: EpochState,
        selection: Selection | None = None,
        threads: int = 1,
        at_end: Callable[[], None] | None = None,
    ):
        check_batch_size(state.batch_size)
        if not 0 <= state.rank < state.world_size:
            raise UsageError(f"rank {state.rank} of {state.world_size}: ranks go from 0 to world_size - 1")
        self._run, self._decoder, self._selection, self._threads = run, decoder, selection, threads
        self._state, self._given = state, state.batches
        self._batches = self._read(at_end)

    @property
    def state(self) -> EpochState:
        return msgspec.structs.replace(self._state, batches=self._given)

    def state_dict(self) -> dict[str, Any]:
        """For `Readable.epoch(start=…)`: what comes after it are the batches that were not given yet."""
        return msgspec.to_builtins(self.state)

    def __iter__(self) -> Epoch:
        return self

    def __next__(self) -> Batch:
        batch = next(self._batches)
        self._given += 1
        return batch

    def close(self) -> None:
        """Let go of what is decoded ahead."""
        self._batches.close()

    def _read(self, at_end: Callable[[], None] | None) -> Generator[Batch, None, None]:
        try:
            yield from self._all()
        finally:
            if at_end is not None:
                at_end()

    def _all(self) -> Generator[Batch, None, None]:
        size, seed = self._state.batch_size, [self._state.seed, self._state.epoch, self._state.rank]
        skip, before = self._given, 0
        left: list[Piece] = []
        carried: Batch | None = None
        for number, parts in enumerate(self._waves()):
            kept = sum(len(piece.rows) for piece in left) if carried is None else len(carried["player"])
            total = kept + sum(len(rows) for _, rows in parts)
            places = np.random.default_rng([*seed, number]).permutation(total)
            pieces = [piece._replace(places=places[piece.places]) for piece in left]
            at = kept
            for block, rows in parts:
                pieces.append(Piece.of(block, rows, places[at : at + len(rows)]))
                at += len(rows)
            batches, whole = total // size, total // size * size
            if before + batches <= skip:
                left = [rest for piece in pieces for rest in _beyond(piece, whole)]
                before += batches
                continue
            stored = self._decoder.empty(total)
            if carried is not None:
                for name, values in carried.items():
                    stored[name][places[:kept]] = values
            for _ in in_order(partial(self._decoder.fill, stored), pieces, self._threads):
                pass
            for begin in range(max(skip - before, 0) * size, whole, size):
                # Flags are unpacked batch by batch: those of a whole wave would be new memory each time.
                yield self._decoder.finish({name: values[begin : begin + size] for name, values in stored.items()})
            before += batches
            left, carried = [], {name: values[whole:] for name, values in stored.items()}
        if carried is None and left and before == skip:
            carried = self._decoder.empty(sum(len(piece.rows) for piece in left))
            for piece in left:
                self._decoder.fill(carried, piece)
        if carried is not None and len(carried["player"]) and before >= skip:
            yield self._decoder.finish(carried)

    def _waves(self) -> Iterator[list[tuple[VisibleBlock, np.ndarray]]]:
        """Blocks and their rows that count, of pieces of this rank: as many together as surely fit."""
        state = self._state
        pieces = self._pieces()
        mine = np.random.default_rng([state.seed, state.epoch]).permutation(len(pieces))[state.rank :: state.world_size]
        # Readers are asked for here, in the order of use, for of many shards not all can be open.
        todo = (
            (self._run.visible(shard, index), first) for shard, index, first in map(np.ndarray.tolist, pieces[mine])
        )

        def wanted(piece: tuple[VisibleBlock, int]) -> tuple[VisibleBlock, np.ndarray]:
            block, first = piece
            return block, rows_wanted(block, state.rows, slice(first, first + state.piece), self._selection)

        wave: list[tuple[VisibleBlock, np.ndarray]] = []
        rows = 0
        for block, part in in_order(wanted, todo, self._threads if self._selection is not None else 1):
            if wave and rows + len(part) > state.wave:
                yield wave
                wave, rows = [], 0
            if len(part):
                wave.append((block, part))
                rows += len(part)
        if wave:
            yield wave

    def _pieces(self) -> np.ndarray:
        """int64 (n, 3): shard, block and first row of every piece of what the manifest lists. Raises CheckFailed when
        that is there no more as it was."""
        found = _blocks(self._run)
        for name in _changed(found, self._state.manifest):
            raise CheckFailed(
                f"{self._run.label}: {name} is not what it was when the epoch began: pruned since, or compacted while "
                "nobody had the run open; begin another epoch"
            )
        out = [np.empty((0, 3), np.int64)]
        for pinned in self._state.manifest:
            for shard, index, rows, _ in found.get((pinned.run, pinned.shard), []):
                if index < pinned.blocks:
                    first = np.arange(0, rows, self._state.piece)
                    out.append(np.stack([np.full(len(first), shard), np.full(len(first), index), first], 1))
        return np.concatenate(out)


def _beyond(piece: Piece, whole: int) -> Iterator[Piece]:
    """What of a piece goes to places from `whole` on, counted from there."""
    rest = piece.places >= whole
    if rest.any():
        yield piece._replace(rows=piece.rows[rest], places=piece.places[rest] - whole)


def beginning(
    run: BatchSource,
    decoder: BatchDecoder,
    *,
    batch_size: int,
    seed: int,
    epoch: int,
    rows: Rows,
    where: str | None,
    memory: int,
    rank: int = 0,
    world_size: int = 1,
    manifest: Sequence[PinnedShard] | None = None,
) -> EpochState:
    """The state at the beginning of an epoch over what there is now, or over what `manifest` lists."""
    frames = min(max(round(PIECE_BYTES / (FRAME_ROWS * decoder.row_bytes)), 1), PIECE_FRAMES)
    piece = FRAME_ROWS * frames
    wave = max(piece, batch_size, memory // decoder.row_bytes)
    pinned = manifest_of(run) if manifest is None else list(manifest)
    return EpochState(seed, epoch, batch_size, rank, world_size, rows, where, 0, piece, wave, pinned)


def state_from(told: Mapping[str, Any] | EpochState) -> EpochState:
    """What `state_dict` gave. Raises UsageError for anything else."""
    if isinstance(told, EpochState):
        return told
    try:
        return msgspec.convert(told, EpochState)
    except msgspec.ValidationError as error:
        raise UsageError(f"this is no state of an epoch ({error}); give what state_dict() returned") from None
