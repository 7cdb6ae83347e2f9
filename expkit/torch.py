"""Runs as data sets of PyTorch (extra `torch`): shuffled batches for any number of workers and ranks, to be resumed.

dataset = ExperienceDataset("runs/a", batch_size=256, seed=0, columns=["observation", "action"])
loader = ExperienceLoader(dataset, num_workers=2)
for epoch in range(3):
    loader.set_epoch(epoch)
    for batch in loader:                      # {"observation": tensor (256, …), "action": tensor (256,), …}
        ...
    torch.save(loader.state_dict(), "loader.pt")          # between any two batches
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import mkdtemp
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from expkit.batches import epochs
from expkit.batches.decode import Batch, Rows
from expkit.batches.epochs import EpochState, PinnedShard, manifest_of
from expkit.batches.scan import check_batch_size
from expkit.errors import UsageError
from expkit.reading.opening import open_run
from expkit.row.schema import KEY_NAMES
from expkit.runs.locks import ReaderLock
from expkit.system.extras import require
from expkit.system.forks import clean_up
from expkit.system.units import parse_size

if TYPE_CHECKING:
    from expkit.reading.run import Run
    from expkit.reading.runs import Runs

require("torch", "torch", "expkit.torch")

import torch  # noqa: E402
from torch.utils.data import DataLoader, IterableDataset, get_worker_info  # noqa: E402

Tensors = dict[str, torch.Tensor]
Paths = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]
_ALIGN = 64  # bytes, for columns of a batch that travels in one piece


class DatasetState(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where the reading of one rank is, as plain data.

    plan     the epoch of this rank, as if it had one worker
    batches  that each of its workers has given;  turn: the worker whose batch is next
    """

    plan: EpochState
    batches: list[int]
    turn: int = 0


def tensors(batch: Batch) -> Tensors:
    """The arrays as tensors over the same memory."""
    return {name: torch.from_numpy(values) for name, values in batch.items()}


class ExperienceDataset(IterableDataset):
    """Shuffled batches of one run, or of many (a list or a glob, which gives a column `run`), as dicts of tensors over
    the memory they were decoded into: for `DataLoader(dataset, batch_size=None)`, `ExperienceLoader`, or by itself.

    Each row comes to exactly one worker of one rank. Which rows make which batch is a pure function of (seed, epoch,
    what there is to read when the epoch is set, number of ranks, number of workers). Readers are opened where they are
    used, so that workers can be spawned; with the `fork` that Python 3.11 to 3.13 default to, pass
    `multiprocessing_context="spawn"`, as ExperienceLoader does.

    columns, rows, where, memory, next_observation  as for `Run.shuffled`; `memory` is of each worker
    threads           that decode in each worker. Decoding does not hold Python's lock, so that threads without workers
                      are the faster way: rows need not travel between processes. Workers are for work of your own.
    keys              episode, step, player and the like come along, too
    rank, world_size  of this process; of torch.distributed when left out, 0 and 1 where that is not initialised.
                      Setting the epoch is then a collective call, in which rank 0 tells what there is to read.
    split, part       only the episodes of that part, see `Run.split`

    Batches of the ranks differ in number by a few, since no row is given twice: train under
    `torch.distributed.algorithms.join.Join`, or stop at the fewest. Raises NotThere, UsageError, SchemaError; reading
    raises ShardError.
    """

    def __init__(
        self,
        paths: Paths,
        batch_size: int = 256,
        *,
        seed: int = 0,
        columns: Sequence[str] | None = None,
        rows: Rows = "transitions",
        where: str | None = None,
        memory: str | int = "64MiB",
        threads: int = 1,
        next_observation: bool = False,
        keys: bool = False,
        rank: int | None = None,
        world_size: int | None = None,
        split: Mapping[str, float] | None = None,
        part: str | None = None,
    ):
        if (part is None) != (split is None) or (split is not None and part not in split):
            raise UsageError("split and part go together, as split={'train': 0.9, 'val': 0.1}, part='train'")
        self._split, self._part = split, part
        if (rank is None) != (world_size is None):
            raise UsageError("rank and world_size go together; give both, or neither")
        self._paths: str | list[str] = (
            os.fspath(paths) if isinstance(paths, str | os.PathLike) else [os.fspath(path) for path in paths]
        )
        together = _distributed() if rank is None else None
        self._collective = together is not None
        self.rank, self.world_size = together or (rank or 0, world_size or 1)
        self.batch_size, self.seed = batch_size, seed
        self._options: dict[str, Any] = {"columns": columns, "next_observation": next_observation}
        self._rows, self._where, self._memory, self._threads, self._keys = rows, where, memory, threads, keys
        self.set_epoch(0)

    def set_epoch(self, epoch: int, manifest: Sequence[PinnedShard] | None = None) -> None:
        """Begin that epoch, over all rows that there are now, or over what `manifest_of` listed of them in another
        process. Until it is called again, the same batches come in the same order; a compaction meanwhile changes
        nothing, for as long as the data set lives the files that it replaces stay."""
        with self._open() as run:
            held = [ReaderLock(one.path) for one in run.single_runs]
            for lock in held:
                lock.renew()
            self._held = held
            if self._collective:
                told = [manifest_of(run) if self.rank == 0 else None]
                torch.distributed.broadcast_object_list(told)
                manifest = told[0]
            decoder = run.decoder(**self._options)
            if self._where is not None:
                run.selection(self._where)  # refuses at once what is no condition
            check_batch_size(self.batch_size)
            plan = epochs.beginning(
                run, decoder, batch_size=self.batch_size, seed=self.seed, epoch=epoch, rows=self._rows,
                where=self._where, memory=parse_size(self._memory), rank=self.rank, world_size=self.world_size,
                manifest=manifest,
            )  # fmt: skip
        self._state = DatasetState(plan, [])
        self._begun = self._elsewhere = False

    def __getstate__(self) -> dict[str, Any]:
        # A DataLoader pickles it for each worker that it spawns.
        self._elsewhere = not self._begun
        return {**self.__dict__, "_held": []}

    def __iter__(self) -> Iterator[Tensors]:
        if get_worker_info() is None:
            self.begin(1)
        for worker, batch in self.read_part():
            if get_worker_info() is None:
                self.given(worker)
            yield tensors(batch)

    def read_part(self) -> Iterator[tuple[int, Batch]]:
        """What is left of the epoch for the worker this is called in, as (its number in the state, batch)."""
        info = get_worker_info()
        at, workers = (0, 1) if info is None else (info.id, info.num_workers)
        state = self.state_for(workers)
        # The worker whose turn it is goes first: a DataLoader asks them in the order of their numbers.
        worker = (at + state.turn) % workers
        plan = state.plan
        part = msgspec.structs.replace(
            plan,
            rank=plan.rank * workers + worker,
            world_size=plan.world_size * workers,
            batches=state.batches[worker],
        )
        hidden = set() if self._keys else {*KEY_NAMES, "player", "run"} - set(self._options["columns"] or ())
        with self._open() as run:
            for batch in run.epoch(start=part, threads=self._threads, **self._options):
                yield worker, {name: values for name, values in batch.items() if name not in hidden}

    def state_dict(self) -> dict[str, Any]:
        """Where the reading is, for `load_state_dict` of a data set with the same options in this process or another:
        it then gives the batches that have not been given. Raises UsageError where a plain DataLoader's workers read,
        of which nobody here knows how far they are."""
        if self._elsewhere:
            raise UsageError(
                "workers of a DataLoader read this data set; ExperienceLoader knows which batches were had"
            )
        return msgspec.to_builtins(self._state)

    def load_state_dict(self, told: dict[str, Any]) -> None:
        """Raises UsageError for what is no state, or that of another rank."""
        try:
            state = msgspec.convert(told, DatasetState)
        except msgspec.ValidationError as error:
            raise UsageError(f"this is no state of a data set ({error}); give what state_dict() returned") from None
        if (state.plan.rank, state.plan.world_size) != (self.rank, self.world_size):
            raise UsageError(
                f"the state is of rank {state.plan.rank} of {state.plan.world_size}, this is rank {self.rank} of "
                f"{self.world_size}; load the state of the same rank"
            )
        self._state = state
        self._begun = self._elsewhere = False

    def begin(self, workers: int) -> None:
        """A reading by so many workers begins: it takes up a state that was loaded, and else the epoch from its
        beginning."""
        self._state = DatasetState(self._state.plan, [0] * workers) if self._begun else self.state_for(workers)
        self._begun = True

    def given(self, worker: int) -> None:
        """A batch of that worker is being given: whoever asks for the state from now on has had it."""
        batches = list(self._state.batches)
        batches[worker] += 1
        self._state = DatasetState(self._state.plan, batches, (worker + 1) % len(batches))

    def state_for(self, workers: int) -> DatasetState:
        """The state, for so many workers. Raises UsageError when it is of another number."""
        state = self._state
        if not state.batches:
            return DatasetState(state.plan, [0] * workers)
        if len(state.batches) != workers:
            raise UsageError(
                f"the state is of a reading by {len(state.batches)} workers (none counts as 1), this is by {workers}; "
                "go on with as many"
            )
        return state

    def _open(self) -> Run | Runs:
        run = open_run(self._paths)
        if self._split is None or self._part is None:
            return run
        with run:
            parts = run.split(self._split)
        for name, other in parts.items():
            if name != self._part:
                other.close()
        return parts[self._part]


class ExperienceLoader:
    """A DataLoader over an ExperienceDataset, which knows which batches were had: `state_dict` between any two of them,
    with any number of workers. Workers are spawned once, for all epochs, and end with the loader. A batch travels from
    its worker in one piece of shared memory.

    options  of torch.utils.data.DataLoader: prefetch_factor, pin_memory, timeout and the like

    Memory: what the data set uses, for each worker, and `prefetch_factor` batches.
    """

    def __init__(self, dataset: ExperienceDataset, num_workers: int = 0, **options: Any):
        for name in ("batch_size", "shuffle", "sampler", "batch_sampler", "persistent_workers"):
            if options.get(name):
                raise UsageError(f"{name} is not for this loader: the data set makes the batches, epoch by epoch")
        self.dataset, self.num_workers, self._options = dataset, num_workers, options
        self._loader: DataLoader | None = None

    def set_epoch(self, epoch: int, manifest: Sequence[PinnedShard] | None = None) -> None:
        """See `ExperienceDataset.set_epoch`."""
        self.dataset.set_epoch(epoch, manifest)

    def state_dict(self) -> dict[str, Any]:
        """See `ExperienceDataset.state_dict`."""
        return self.dataset.state_dict()

    def load_state_dict(self, told: dict[str, Any]) -> None:
        """See `ExperienceDataset.load_state_dict`. The number of workers has to be the same."""
        self.dataset.load_state_dict(told)

    def __iter__(self) -> Iterator[Tensors]:
        if not self.num_workers:
            yield from DataLoader(self.dataset, batch_size=None, **self._options)
            return
        self.dataset.begin(self.num_workers)
        if self._loader is None:
            folder = mkdtemp(prefix="expkit-loader-")
            self._told = Path(folder, "state.json")
            clean_up(self, shutil.rmtree, folder, ignore_errors=True)
            workers = {"num_workers": self.num_workers, "multiprocessing_context": "spawn", "persistent_workers": True}
            packed = _Packed(self.dataset, self._told)
            self._loader = DataLoader(packed, batch_size=None, **workers, **self._options)
        self._told.write_bytes(msgspec.json.encode(self.dataset.state_dict()))
        for worker, layout, piece in self._loader:
            self.dataset.given(worker)
            yield _unpacked(layout, piece)

    def close(self) -> None:
        """End the workers; another reading spawns them again."""
        self._loader = None


Layout = list[tuple[str, str, tuple[int, ...], int]]  # name, dtype, shape and first byte of every column


class _Packed(IterableDataset):
    """What a worker sends: its number in the state, and a batch as one tensor of bytes. A tensor for each column would
    be a file descriptor and several calls for each. `told`: the file that says, whenever a reading begins, where."""

    def __init__(self, dataset: ExperienceDataset, told: Path):
        self._dataset, self._told = dataset, told

    def __iter__(self) -> Iterator[tuple[int, Layout, torch.Tensor]]:
        self._dataset.load_state_dict(msgspec.json.decode(self._told.read_bytes()))
        for worker, batch in self._dataset.read_part():
            layout: Layout = []
            end = 0
            for name, values in batch.items():
                layout.append((name, values.dtype.str, values.shape, end))
                end += -(-values.nbytes // _ALIGN) * _ALIGN
            # Shared from the start, as torch's own collate does it: there is one copy, not two.
            piece = torch.empty(0, dtype=torch.uint8).set_(torch.UntypedStorage._new_shared(end))
            for name, values in _unpacked(layout, piece).items():
                values.numpy()[...] = batch[name]
            yield worker, layout, piece


def _unpacked(layout: Layout, piece: torch.Tensor) -> Tensors:
    """Tensors over the memory of `piece`, which may be pinned."""
    whole = piece.numpy()
    out = {}
    for name, dtype, shape, at in layout:
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        out[name] = torch.from_numpy(whole[at : at + size].view(dtype).reshape(shape))
    return out


def _distributed() -> tuple[int, int] | None:
    """(rank, world size) of torch.distributed, None where it is not initialised."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return None
