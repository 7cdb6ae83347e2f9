"""Compiling the kernels of a recording once per machine and version, on two cores.

Compiling holds the GIL, so a second process does its part: `python -m expkit.collect.warm` compiles rings and
encoder while the caller compiles the game. Both save into the same cache, from which every later process loads.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from expkit.kernels import compiling, is_warm
from expkit.row.layout import BlockLayout, RowSink
from expkit.row.schema import Field, Schema


@contextmanager
def warm_kernels(game: str, say: Callable[[str], None]) -> Iterator[bool]:
    """Within, the caller compiles the game's own kernels; yields False when all is compiled already.

    `say` gets a line when this will take a while. A second process that fails is no error: what it has not compiled is
    compiled here.
    """
    marker = f"record-{game}"
    if is_warm(marker):
        yield False
        return
    with compiling(marker) as warm:
        if warm:
            yield False
            return
        say("compiling kernels, once on this machine: 10 to 30 seconds")
        # The package that runs here, whatever lies in the working folder: the cache goes by the path of the source.
        here = str(Path(__file__).resolve().parents[2])
        paths = os.pathsep.join([here, *filter(None, [os.environ.get("PYTHONPATH")])])
        other = subprocess.Popen(
            [sys.executable, "-P", "-m", "expkit.collect.warm"],
            env={**os.environ, "PYTHONPATH": paths},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            yield True
        finally:
            other.wait()
        compile_rings_and_encoder()  # from the cache now, unless the other process has failed


def compile_rings_and_encoder() -> None:
    """Use every kernel between a game and a shard file once."""
    from expkit.buffers.ring import BlockRing
    from expkit.formats.shard.encode import BlockEncoder

    schema = Schema([Field("observation", "i4", (64,), "observation"), Field("mask", "bool", (64,), "observation")])
    ring = BlockRing(BlockLayout(schema, 64), 3)
    producer = ring.producer()
    producer.open(1)
    producer.publish(1)
    producer.refuse(0)
    ring.stats()
    claimed = ring.claim(partial=True)
    if claimed is not None:
        claimed.release()
    producer.hand_over()
    sink = RowSink.scratch(schema, 1, 256)
    sink.memory[:] = 0
    columns = sink.views(0)
    columns["step"][:] = range(256)
    columns["observation"][:, 0] = range(256)
    BlockEncoder(schema).encode(0, columns, 256)


if __name__ == "__main__":
    compile_rings_and_encoder()
