"""Shard files: blocks encoded, written until they are on the disk, scanned, and read row by row."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import zstandard

from expkit.bench.lab import Lab
from expkit.bench.reference import BLOCK_ROWS, BlockFile
from expkit.bench.stage import Goal, Trial, stage
from expkit.bench.workloads import Workload
from expkit.formats.shard.encode import BlockEncoder
from expkit.formats.shard.layout import FRAME_ROWS
from expkit.formats.shard.read import ShardReader
from expkit.formats.shard.write import ShardWriter

RANDOM_ROWS = 512
SMALL_FRAMES = 32  # rows, as `--frame-rows 32` makes them
REFERENCE = "zstd-1 blocks of 256"
HEADER: dict[str, Any] = {"run": "bench", "players": ["player0"]}
BOARDS = ("W", "R", "noise")


@stage(
    "shard/encode",
    "rows to the bytes of a block",
    workloads=BOARDS,
    limit="plain zstd-1",
    clock="thread",
)
def encode(lab: Lab, workload: str) -> Trial:
    work = lab.workload(workload)
    encoder, compressor = BlockEncoder(work.schema), zstandard.ZstdCompressor(level=1)
    ordered = [np.ascontiguousarray(values[work.order]) for values in work.columns.values()]
    size = [0]

    def run() -> None:
        size[0] = encoder.encode(0, work.columns, work.rows).nbytes

    def limit() -> None:
        for values in ordered:
            for begin in range(0, work.rows, BLOCK_ROWS):
                compressor.compress(values[begin : begin + BLOCK_ROWS].data)

    return Trial(
        run=run,
        rows=work.rows,
        nbytes=work.rows * work.row_bytes,
        limit=limit,
        finish=lambda: {"bytes_per_row": size[0] / work.rows},
    )


def write_shard(path: Path, work: Workload, encoders: list[BlockEncoder]) -> int:
    """All rows, as a caller gives them, in one block an encoder, each in a thread of its own; durable when it
    returns. Returns the bytes of the file."""
    with ShardWriter(path, work.schema, HEADER) as writer:
        lock = threading.Lock()
        parts = np.array_split(np.arange(work.rows), len(encoders))

        def part(encoder: BlockEncoder, first: int, last: int) -> None:
            given = {name: values[first:last] for name, values in work.logical.items()}
            packed = {name: work.schema.pack(name, values, last - first) for name, values in given.items()}
            columns = {name: values[first:last] for name, values in work.columns.items()}
            block = encoder.encode(0, {**columns, **packed}, last - first)
            with lock:
                writer.append_block(block)

        threads = [
            threading.Thread(target=part, args=(encoder, int(rows[0]), int(rows[-1]) + 1))
            for encoder, rows in zip(encoders[1:], parts[1:], strict=True)
        ]
        for thread in threads:
            thread.start()
        part(encoders[0], 0, int(parts[0][-1]) + 1)
        for thread in threads:
            thread.join()
    return path.stat().st_size


def _write(lab: Lab, workload: str, threads: int) -> Trial:
    work = lab.workload(workload)
    encoders = [BlockEncoder(work.schema) for _ in range(threads)]
    path, reference = lab.path("shard.exp"), BlockFile(lab.path("reference"))
    sizes = [0, 0]

    def run() -> float:
        path.unlink(missing_ok=True)
        begun = time.perf_counter()
        sizes[0] = write_shard(path, work, encoders)
        return time.perf_counter() - begun

    def limit() -> float:
        reference.path.unlink(missing_ok=True)
        begun = time.perf_counter()
        reference.write(work.ordered)
        sizes[1] = reference.nbytes
        return time.perf_counter() - begun

    def close() -> None:
        path.unlink(missing_ok=True)
        reference.path.unlink(missing_ok=True)

    return Trial(
        run=run,
        rows=work.rows,
        nbytes=work.rows * work.row_bytes,
        limit=limit,
        finish=lambda: {
            "bytes_per_row": sizes[0] / work.rows,
            "limit_bytes_per_row": sizes[1] / work.rows,
            "size_ratio": sizes[0] / sizes[1],
        },
        close=close,
    )


_SMALLER = Goal("size_ratio", most=1.0)


@stage(
    "shard/write",
    "written until it is on the disk, one thread",
    workloads=BOARDS,
    limit=REFERENCE,
    goals={"W": (Goal("ratio", least=1.25), _SMALLER), "R": _SMALLER},
)
def write(lab: Lab, workload: str) -> Trial:
    return _write(lab, workload, 1)


@stage(
    "shard/write-2",
    "written by two threads",
    workloads=("W",),
    limit=REFERENCE,
    goals={"W": Goal("ratio", least=2.2)},
    steady=False,
)
def write_2(lab: Lab, workload: str) -> Trial:
    return _write(lab, workload, 2)


@stage(
    "shard/scan",
    "read block by block, all checksums",
    workloads=BOARDS,
    limit=REFERENCE,
    clock="thread",
)
def scan(lab: Lab, workload: str) -> Trial:
    work = lab.workload(workload)
    reader, path, reference = _both(lab, work)

    def run() -> None:
        for block in reader.blocks:
            stored = reader.read_block(block.index)
            for field in work.schema.fields:
                work.schema.unpack(field.name, stored[field.name])

    def limit() -> None:
        for _ in reference.read():
            pass

    def close() -> None:
        reader.close()
        path.unlink()
        reference.path.unlink()

    return Trial(run, work.rows, work.rows * work.row_bytes, limit, close=close)


def _both(lab: Lab, work: Workload, frame_rows: int = FRAME_ROWS) -> tuple[ShardReader, Path, BlockFile]:
    path, reference = lab.path("shard.exp"), BlockFile(lab.path("reference"))
    write_shard(path, work, [BlockEncoder(work.schema, frame_rows=frame_rows)])
    reference.write(work.ordered)
    return ShardReader(path), path, reference


@stage(
    "shard/random-rows",
    "rows by number, one a call, all checksums",
    workloads=("W",),
    limit=REFERENCE,
    clock="thread",
)
def random_rows(lab: Lab, workload: str) -> Trial:
    return _random_rows(lab, workload, 1)


@stage(
    "shard/random-16",
    "rows by number, 16 a call, all checksums",
    workloads=("W",),
    limit=REFERENCE,
    goals={"W": (Goal("rows_per_second", least=25e3), Goal("bytes_per_row", most=55))},
    clock="thread",
)
def random_rows_16(lab: Lab, workload: str) -> Trial:
    return _random_rows(lab, workload, 16)


def _random_rows(lab: Lab, workload: str, at_once: int) -> Trial:
    """From a file with frames for that purpose: of 256 of them, 16 rows touch 15.5."""
    work, rng = lab.workload(workload), np.random.default_rng(0)
    reader, path, reference = _both(lab, work, SMALL_FRAMES)
    wanted = rng.integers(0, work.rows, RANDOM_ROWS)
    calls = np.split(wanted, RANDOM_ROWS // at_once)

    def run() -> None:
        for rows in calls:
            reader.read_rows(0, rows)

    def limit() -> None:
        reference.rows(wanted)

    def close() -> None:
        reader.close()
        path.unlink()
        reference.path.unlink()

    return Trial(
        run, RANDOM_ROWS, RANDOM_ROWS * work.row_bytes, limit, close=close,
        finish=lambda: {"bytes_per_row": path.stat().st_size / work.rows},
    )  # fmt: skip
