"""From recorded boards to what a network takes: nine planes, and the mask of legal actions, into pooled memory."""

from __future__ import annotations

import numpy as np

from expkit.bench.lab import Lab
from expkit.bench.stage import Goal, Trial, stage
from expkit.kernels.planes import expand_bits, planes_of_rows
from expkit.serialize.pool import MaskPool, TensorPool

# Tensors of the pool: a batch of sixteen, written by one call, for a call a tensor costs 150 ns of dispatch.
AT_ONCE = 16
ROWS = 512
TILES, ACTIONS = 400, 1600


@stage(
    "serialize/planes",
    "nine planes of a board, pooled",
    workloads=("R",),
    limit="memset of the tensors",
    goals={"R": Goal("rows_per_second", least=1e9 / 250)},
    clock="thread",
)
def planes(lab: Lab, workload: str) -> Trial:
    columns = lab.workload(workload).columns
    boards = [columns[f"observation/{name}"] for name in ("army", "owner", "terrain", "visible")]
    starts = np.array([board.ctypes.data for board in boards])
    widths = np.array([board.strides[0] for board in boards])
    places = [(starts + begin * widths).tolist() for begin in range(0, ROWS, AT_ONCE)]
    pool = TensorPool((AT_ONCE, 9, 20, 20), 1)

    def run() -> None:
        for place in places:
            with pool.acquire() as tensors:
                planes_of_rows(*place, AT_ONCE, TILES, 0, 1000, tensors.ctypes.data)

    def fill() -> None:
        for _ in places:
            with pool.acquire() as tensors:
                tensors.fill(0.0)

    return Trial(run=run, rows=ROWS, nbytes=ROWS * 14400, limit=fill)


@stage(
    "serialize/mask",
    "mask of 1,600 moves from bits, pooled",
    workloads=("R",),
    limit="memset of the masks",
    goals={"R": Goal("rows_per_second", least=1e9 / 100)},
    clock="thread",
)
def mask(lab: Lab, workload: str) -> Trial:
    bits = lab.workload(workload).columns["action_mask"]
    places = [bits[begin:].ctypes.data for begin in range(0, ROWS, AT_ONCE)]
    pool = MaskPool(AT_ONCE * ACTIONS, 1)

    def run() -> None:
        for place in places:
            with pool.acquire() as masks:
                expand_bits(place, AT_ONCE, ACTIONS, 1, 0, masks.ctypes.data)

    def fill() -> None:
        for _ in places:
            with pool.acquire() as masks:
                masks.fill(False)

    return Trial(run=run, rows=ROWS, nbytes=ROWS * ACTIONS, limit=fill)
